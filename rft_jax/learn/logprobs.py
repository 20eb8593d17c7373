"""Log-probabilities of given completions, with the prompt run once per prompt."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from rft_jax.learn.score_centering import Centering, centering_term
from rft_jax.models import Model, Params
from rft_jax.rollout import logit_masks
from rft_jax.rollout.generate import Prompts
from rft_jax.rollout.logit_masks import LogitMask, MaskState
from rft_jax.utils.types import PyTree

NORMALIZER = "normalizer"
_KEPT = jax.checkpoint_policies.save_only_these_names(NORMALIZER)


class CompletionScores(NamedTuple):
    """What the policy says of each token of completions; meaningless beyond their ends."""

    logprob_BGT: Array  # float32, in nats
    entropy_BGT: Array  # float32, of all tokens, in nats; without a gradient
    centering_BGT: Array | None = None  # float32, from `centering_term`, if that is asked for


def completion_logprobs(
    model: Model,
    params: Params,
    prompts: Prompts,
    tokens_BGT: Array,
    length_BG: Array,
    mask: LogitMask,
    *,
    temperature: float,
    logit_chunk: int,
    centering: Centering | None = None,
) -> CompletionScores:
    """Log-probabilities of completions under the policy, softmax(logits / temperature).

    The G completions of a prompt attend to its keys and values, and the gradient flows back
    through them: it equals that of a forward over every (prompt, completion) row. Logits exist
    only at the positions that predict a completion token, `logit_chunk` positions at a time.

    Args:
        tokens_BGT: int32 completions; beyond `length_BG` any token ids.
        mask: The sampler's logit masks.
        centering: What samples, for score centering.
    """
    hidden_BGTD = predicting_hidden(model, params, prompts, tokens_BGT, length_BG)
    sampler_BGTD = None
    if centering is not None:
        sampler_BGTD = predicting_hidden(model, centering.params, prompts, tokens_BGT, length_BG)
    return token_logprobs(
        model,
        params,
        hidden_BGTD,
        tokens_BGT,
        logit_masks.replay(mask, tokens_BGT),
        mask,
        temperature=temperature,
        logit_chunk=logit_chunk,
        centering=centering,
        sampler_BGTD=sampler_BGTD,
    )


def predicting_hidden(
    model: Model, params: Params, prompts: Prompts, tokens_BGT: Array, length_BG: Array
) -> Array:
    """The hidden states that predict each token of completions, [B, G, T, D].

    Args:
        tokens_BGT: int32; beyond `length_BG` any token ids.
    """
    B, G, T = tokens_BGT.shape
    last_BD, prefix = model.prefill(params, prompts.tokens_BP, prompts.length_B)
    first_BG1D = jnp.broadcast_to(last_BD[:, None, None], (B, G, 1, last_BD.shape[-1]))
    index_T = jnp.arange(T)
    # The last token predicts nothing, but tiles of T tokens are whole more often than of T - 1.
    hidden_BGTD = model.complete(
        params,
        tokens_BGT,
        jnp.broadcast_to(prompts.length_B[:, None, None] + index_T, (B, G, T)),
        (index_T < length_BG[..., None]).astype(jnp.int32),
        prefix,
    )
    return jnp.concatenate([first_BG1D, hidden_BGTD[:, :, :-1]], axis=2)


def token_logprobs(
    model: Model,
    params: Params,
    hidden_BGTD: Array,
    tokens_BGT: Array,
    states_BGT: MaskState,
    mask: LogitMask,
    *,
    temperature: float,
    logit_chunk: int,
    centering: Centering | None = None,
    sampler_BGTD: Array | None = None,
) -> CompletionScores:
    """Log-probabilities of tokens given the hidden states that predict them, and the entropy.

    Args:
        sampler_BGTD: Those of the sampler, for `centering`.
    """
    params = model.gather_head(params)

    def logprobs(inputs: tuple[Array, Array, MaskState, Array | None]) -> CompletionScores:
        hidden_BGCD, tokens_BGC, states_BGC, sampler_BGCD = inputs

        def policy_logits(params: Params, hidden_BGCD: Array) -> Array:
            logits_BGCV = model.logits(params, hidden_BGCD)
            return logit_masks.policy_logits(mask, states_BGC, logits_BGCV, temperature)

        logits_BGCV = policy_logits(params, hidden_BGCD)
        scores, term_BGC = score_tokens(logits_BGCV, tokens_BGC), None
        if centering is not None and sampler_BGCD is not None:
            sampler_BGCV = policy_logits(centering.params, sampler_BGCD)
            term_BGC = centering_term(logits_BGCV, sampler_BGCV, centering)
        return CompletionScores(scores.logprob_x, scores.entropy_x, term_BGC)

    return in_chunks(logprobs, (hidden_BGTD, tokens_BGT, states_BGT, sampler_BGTD), logit_chunk)


class TokenScores(NamedTuple):
    """What logits say of one token; only the log-probability has a gradient."""

    logprob_x: Array  # float32
    entropy_x: Array  # float32, of all tokens, in nats
    likeliest_x: Array  # bool: no token is more probable


@jax.custom_vjp
def score_tokens(logits_xV: Array, token_x: Array) -> TokenScores:
    """Scores a token by the softmax of logits.

    The gradient, one-hot minus softmax, is written in one pass over the logits, where
    differentiating a gather out of log-probabilities would scatter into an array of zeros as large.
    """
    return _score_tokens(logits_xV, token_x)[0]


def _score_tokens(logits_xV, token_x):
    peak_x = checkpoint_name(logits_xV.max(axis=-1), NORMALIZER)
    below_xV = logits_xV - peak_x[..., None]
    weight_xV = jnp.exp(below_xV)
    total_x = weight_xV.sum(axis=-1)
    log_total_x = checkpoint_name(jnp.log(total_x), NORMALIZER)
    below_x = jnp.take_along_axis(logits_xV, token_x[..., None], axis=-1)[..., 0] - peak_x
    entropy_x = log_total_x - (weight_xV * below_xV).sum(axis=-1) / total_x
    scores = TokenScores(below_x - log_total_x, entropy_x, below_x >= 0)
    return scores, (logits_xV, token_x, peak_x, log_total_x)


def _score_tokens_gradient(kept, cotangent):
    logits_xV, token_x, peak_x, log_total_x = kept
    taken_xV = jnp.arange(logits_xV.shape[-1]) == token_x[..., None]
    softmax_xV = jnp.exp(logits_xV - peak_x[..., None] - log_total_x[..., None])
    return cotangent.logprob_x[..., None] * (taken_xV - softmax_xV), None


score_tokens.defvjp(_score_tokens, _score_tokens_gradient)


def in_chunks(function: Callable[[PyTree], PyTree], inputs: PyTree, size: int) -> PyTree:
    """Applies a function to `size` positions of time at a time, so that logits are never all there.

    Args:
        function: Acts on each position by itself; recomputed in the backward pass, but for the
            normalizers of `score_tokens`.
        inputs: Tree of arrays [B, G, T, ...].
        size: Positions of T; with T or more there is one chunk and nothing is recomputed.

    Returns:
        The function's outputs, arrays [B, G, T].
    """
    T = jax.tree.leaves(inputs)[0].shape[2]
    if size >= T:
        return function(inputs)
    chunks = jax.tree.map(lambda leaf: _split_time(leaf, size), inputs)
    recomputed = jax.checkpoint(function, policy=_KEPT)
    outputs = jax.lax.map(recomputed, chunks)
    return jax.tree.map(lambda leaf: _join_time(leaf, T), outputs)


def _split_time(x_BGTx: Array, size: int) -> Array:
    """[B, G, T, ...] to [T / size, B, G, size, ...], padded with zeros."""
    padding = [(0, 0)] * x_BGTx.ndim
    padding[2] = (0, -x_BGTx.shape[2] % size)
    padded = jnp.pad(x_BGTx, padding)
    B, G, T = padded.shape[:3]
    return jnp.moveaxis(padded.reshape(B, G, T // size, size, *padded.shape[3:]), 2, 0)


def _join_time(x_NBGC: Array, T: int) -> Array:
    N, B, G, C = x_NBGC.shape
    return jnp.moveaxis(x_NBGC, 0, 2).reshape(B, G, N * C)[..., :T]
