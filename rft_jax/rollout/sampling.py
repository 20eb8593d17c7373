"""Sampling a token: noise that belongs to the token, truncation, inverse CDF."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

CDF_BLOCK = 128


class Sampling(NamedTuple):
    """How tokens are drawn: static and the same for all completions, or an array with a value for
    each, whose shape is that of the batch.

    Attributes:
        temperature: 0 decodes greedily.
        top_k: As in `sample`; static always.
        top_p: Likewise, but for arrays.
        most_tokens: int32, where a completion is cut.
    """

    temperature: float | Array
    top_k: int
    top_p: float | Array
    most_tokens: int | Array

    @property
    def greedy(self) -> bool | Array:
        """Whether the most probable token is taken."""
        return self.temperature == 0


def completion_keys(seed: Array, step: Array, prompt_id_B: Array, draw_B: Array, group: int):
    """PRNG keys [B, G] of completions.

    A key depends on the seed, the step, the prompt's id and draw number and the sample's index:
    neither on the order of the batch nor on the device or slot that decodes it.

    Args:
        seed: uint32, of the run.
        step: int32, of the stage.
        prompt_id_B: int32, row of the prompt in its data set.
        draw_B: int32, how often the prompt was drawn before.
        group: Samples per prompt, G.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    per_prompt = jax.vmap(_sample_key, in_axes=(None, None, None, 0))
    per_batch = jax.vmap(per_prompt, in_axes=(None, 0, 0, None))
    return per_batch(key, prompt_id_B, draw_B, jnp.arange(group))


def completion_key(seed: Array, step: Array, sample: Array) -> Array:
    """The PRNG key of one sample of a single prompt: that of `completion_keys` for row 0, draw 0.

    Args:
        seed: uint32.
        step: int32.
        sample: int32, the sample's index.
    """
    return _sample_key(jax.random.fold_in(jax.random.key(seed), step), 0, 0, sample)


def _sample_key(key: Array, prompt_id: Array | int, draw: Array | int, sample: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, prompt_id), draw), sample)


def token_uniform(keys_BG: Array, position: Array) -> Array:
    """One uniform number in [0, 1) per completion for its token at `position`, float32 [B, G].

    Args:
        keys_BG: From `completion_keys`.
        position: int32 [B, G], or one for all.
    """

    def draw(key: Array, position: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jax.vmap(jax.vmap(draw))(keys_BG, jnp.broadcast_to(position, keys_BG.shape))


def sample(
    logits_xV: Array,
    uniform_x: Array,
    *,
    greedy: bool | Array,
    top_k: int,
    top_p: float | Array,
) -> tuple[Array, Array]:
    """Draws a token.

    Args:
        logits_xV: float32 logits of the policy.
        uniform_x: Uniform numbers in [0, 1).
        greedy: Take the most probable token instead; or bool [...], where to.
        top_k: Draw among the k most probable only; 0: all.
        top_p: Draw among the fewest tokens whose probability reaches p; 1: all; or float32 [...].

    Returns:
        The token ids (int32) and their log-probabilities under the distribution that they were
        drawn from: truncated and renormalized. Greedy ones have those of the policy.
    """
    peak_x1 = logits_xV.max(axis=-1, keepdims=True)
    weight_xV = jnp.exp(logits_xV - peak_x1)
    if isinstance(greedy, bool) and greedy:
        token_x = jnp.argmax(logits_xV, axis=-1).astype(jnp.int32)
        total_x = weight_xV.sum(axis=-1)
    else:
        weight_xV = truncate(weight_xV, top_k, top_p)
        token_x = inverse_cdf(weight_xV, uniform_x)
        if isinstance(greedy, Array):
            token_x = _where_greedy(greedy, logits_xV, token_x)
        total_x = _cumulative(_blocks(weight_xV))[..., -1]  # as `inverse_cdf`: one pass for both
    log_total_x = jnp.log(total_x) + peak_x1[..., 0]
    logit_x = jnp.take_along_axis(logits_xV, token_x[..., None], axis=-1)[..., 0]
    return token_x, logit_x - log_total_x


def _where_greedy(greedy_x: Array, logits_xV: Array, token_x: Array) -> Array:
    """The most probable token where it is wanted: of equal ones the first, truncated or not.

    As long as it is wanted nowhere, it is not looked for.
    """

    def some(token_x: Array) -> Array:
        return jnp.where(greedy_x, jnp.argmax(logits_xV, axis=-1).astype(token_x.dtype), token_x)

    return jax.lax.cond(greedy_x.any(), some, lambda token_x: token_x, token_x)


def truncate(weight_xV: Array, top_k: int, top_p: float | Array) -> Array:
    """Sets the weights of tokens outside the top k and the top-p nucleus to zero.

    Where `top_p` is an array, nothing is sorted as long as all of it is 1.

    Tokens of equal weight at the border are all kept. Nucleus sampling is
    https://arxiv.org/abs/1904.09751; as in transformers, top-k comes first.
    """
    if 0 < top_k < weight_xV.shape[-1]:
        least_x1 = jax.lax.top_k(weight_xV, top_k)[0][..., -1:]
        weight_xV = jnp.where(weight_xV >= least_x1, weight_xV, 0)
    if isinstance(top_p, Array):
        top_x1 = top_p[..., None]

        def some(weight_xV: Array) -> Array:
            return jnp.where(top_x1 < 1, _nucleus(weight_xV, top_x1), weight_xV)

        return jax.lax.cond((top_p < 1).any(), some, lambda weight_xV: weight_xV, weight_xV)
    return _nucleus(weight_xV, top_p) if top_p < 1 else weight_xV


def _nucleus(weight_xV: Array, top_p: float | Array) -> Array:
    sorted_xV = -jnp.sort(-weight_xV, axis=-1)
    before_xV = jnp.cumsum(sorted_xV, axis=-1) - sorted_xV
    inside_xV = before_xV < top_p * sorted_xV.sum(axis=-1, keepdims=True)
    least_x1 = jnp.where(inside_xV, sorted_xV, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(weight_xV >= least_x1, weight_xV, 0)


def inverse_cdf(weight_xV: Array, uniform_x: Array) -> Array:
    """The token at whose weight the cumulative sum passes `uniform` of the total, int32.

    In two levels, blocks of the vocabulary and the tokens of one block: a single pass over [x, V]
    and one random number per token, where Gumbel noise needs V numbers and two logarithms each.
    A token of weight zero is never drawn.
    """
    weight_xKC = _blocks(weight_xV)
    upto_xK = _cumulative(weight_xKC)
    target_x = uniform_x * upto_xK[..., -1]
    block_x = _first_above(upto_xK, target_x, weight_xKC.sum(axis=-1))
    inside_xC = jnp.take_along_axis(weight_xKC, block_x[..., None, None], axis=-2)[..., 0, :]
    upto_xC = jnp.cumsum(inside_xC, axis=-1)
    block_end_x = jnp.take_along_axis(upto_xK, block_x[..., None], axis=-1)[..., 0]
    target_x = target_x - (block_end_x - upto_xC[..., -1])
    return (block_x * CDF_BLOCK + _first_above(upto_xC, target_x, inside_xC)).astype(jnp.int32)


def _blocks(weight_xV: Array) -> Array:
    """[x, K, C]: the vocabulary in blocks, the last one filled up with zeros."""
    padding = [(0, 0)] * (weight_xV.ndim - 1) + [(0, -weight_xV.shape[-1] % CDF_BLOCK)]
    return jnp.pad(weight_xV, padding).reshape(*weight_xV.shape[:-1], -1, CDF_BLOCK)


def _cumulative(weight_xKC: Array) -> Array:
    """[x, K]: the weight up to the end of each block."""
    return jnp.cumsum(weight_xKC.sum(axis=-1), axis=-1)


def _first_above(upto_xN: Array, target_x: Array, weight_xN: Array) -> Array:
    """The first index of any weight whose cumulative sum exceeds the target, else the last one.

    Sums are rounded, so that the comparison alone could stop at an index without weight.
    """
    some_xN = weight_xN > 0
    above_xN = some_xN & (upto_xN > target_x[..., None])
    last_x = weight_xN.shape[-1] - 1 - jnp.argmax(some_xN[..., ::-1], axis=-1)
    return jnp.where(above_xN.any(axis=-1), jnp.argmax(above_xN, axis=-1), last_x)
