"""The policy gradient over packed rows: as many rows as the completions fill, a few at a time.

How many rows there are is known only on the device, so that they are worked off in a loop whose
trip count depends on the lengths, with the gradient taken inside. Each prompt is still run once:
the gradient of its keys and values is summed over the rows and sent back through it at the end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.learn.bin_packing import Packing, pack, token_at
from rft_jax.learn.logprobs import token_logprobs
from rft_jax.models import Model, Params, Prefix
from rft_jax.rollout import LogitMask, Prompts, logit_masks


class PackedRows(NamedTuple):
    """A batch's rows; D shards of the batch, each packed by itself into R rows of W tokens.

    Indices of completions n and of prompts count within a shard.
    """

    packing: Packing  # each with a leading axis D
    n_DRW: Array  # int32, the completion at each place; -1 at padding
    t_DRW: Array  # int32, its token
    prompt_DRW: Array  # int32, -1 at padding
    position_DRW: Array  # int32, of the token before it, which predicts it
    length_DN: Array  # int32
    rows: int  # of a shard that a trip takes
    trips: Array  # int32

    @property
    def slots(self) -> Array:
        """Places of all rows that are run, padding included."""
        D, _, W = self.n_DRW.shape
        return self.trips * (D * self.rows * W)


def pack_batch(
    prompt_length_B: Array, length_BG: Array, width: int, rows: int, shards: int
) -> PackedRows:
    """Packs a batch's completions.

    Args:
        prompt_length_B: int32.
        length_BG: int32, at most `width`; 0 for a completion that takes no part.
        width: W.
        rows: Rows of a shard that are run at once.
        shards: D, a divisor of B.
    """
    group = length_BG.shape[1]
    length_DBG = length_BG.reshape(shards, -1, group)
    capacity = -(-length_DBG[0].size // rows) * rows
    packing = jax.vmap(lambda length_BG: pack(length_BG, width, capacity))(length_DBG)
    n_DRW, t_DRW = jax.vmap(lambda p, length: token_at(p, length, width))(packing, length_DBG)
    prompt_DRW = jnp.where(n_DRW >= 0, n_DRW // group, -1)
    before_DRW = _pick(prompt_length_B.reshape(shards, -1), jnp.maximum(prompt_DRW, 0)) - 1
    return PackedRows(
        packing,
        n_DRW,
        t_DRW,
        prompt_DRW,
        jnp.where(n_DRW >= 0, before_DRW + t_DRW, 0),
        length_DBG.reshape(shards, -1),
        rows,
        -(-packing.rows.max() // rows),
    )


def packed_gradient(
    model: Model,
    adapt: Callable[[Params], Params],
    params: Params,
    reference: Params | None,
    prompts: Prompts,
    packed: PackedRows,
    tokens_BGT: Array,
    mask: LogitMask,
    objective: Callable[[Array, Array, Array | None, Array], tuple[Array, Any]],
    *,
    temperature: float,
    logit_chunk: int,
) -> tuple[Array, Any, Params]:
    """Loss, auxiliary output and gradient of a batch.

    Args:
        adapt: From trainable weights to whole ones.
        params: The trainable weights.
        reference: Those of the reference policy; None: there is none.
        packed: The layout.
        tokens_BGT: int32 completions; T is the rows' W.
        mask: The sampler's logit masks.
        objective: (new_BGT, entropy_BGT, reference_BGT, within_BG) to a scalar, whose sum over
            disjoint sets of completions (True in `within_BG`) is the batch's loss, and a tree of
            arrays [B, G, T]; log-probabilities and entropy are 0 elsewhere.
        temperature: The sampler's.
        logit_chunk: Positions of all completions whose logits would exist at once in rows of their
            own; so many logits exist here, too.

    Returns:
        The loss, the auxiliary tree and the gradient.
    """
    B, G, T = tokens_BGT.shape
    D, _, W = packed.n_DRW.shape
    states_BGT = logit_masks.replay(mask, tokens_BGT)
    safe_DRW = jnp.maximum(packed.n_DRW, 0)

    def laid_out(x_BGT: Array) -> Array:
        return _pick(x_BGT.reshape(D, -1, T), safe_DRW, packed.t_DRW)

    first_DRW = packed.t_DRW == 0
    target_DRW, state_DRW = laid_out(tokens_BGT), jax.tree.map(laid_out, states_BGT)
    # A completion's first token is predicted by the prompt, so that its place stands empty.
    rows = (
        jnp.where(first_DRW, 0, jnp.roll(target_DRW, 1, axis=-1)),
        packed.position_DRW,
        jnp.where(first_DRW, 0, packed.n_DRW + 1),
        jnp.where(first_DRW, -1, packed.prompt_DRW),
        jnp.maximum(packed.prompt_DRW, 0),
        first_DRW,
        target_DRW,
        state_DRW,
        packed.packing.prompts_RZ,
    )

    def run_prompts(params: Params) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        last_BD, prefix = model.prefill(adapt(params), prompts.tokens_BP, prompts.length_B)
        return (last_BD, prefix.k_LBKPQ, prefix.v_LBKPQ), (prefix.mask_BXYP, prefix.place_P)

    def scores(params: Params, prompted: Any, seen: Any, trip: Array) -> tuple[Array, Array]:
        """New log-probabilities and entropies of the trip's completions, [B, G, T]."""
        weights, (last_BD, k_LBKPQ, v_LBKPQ) = adapt(params), prompted
        part = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, trip * packed.rows, packed.rows, 1), rows
        )
        tokens, positions, segments, sees, prompt, first, target, state, prompts_DRZ = part
        prefix = Prefix(
            *(x.reshape(x.shape[0], D, -1, *x.shape[2:]) for x in (k_LBKPQ, v_LBKPQ)),
            seen[0].reshape(D, -1, *seen[0].shape[1:]),
            seen[1],
        )
        axes = Prefix(1, 1, 0, None)
        prefix = jax.vmap(Prefix.of_rows, in_axes=(axes, 0, 0), out_axes=axes)(
            prefix, prompts_DRZ, sees
        )
        prefix = Prefix(
            *(x.reshape(x.shape[0], -1, *x.shape[3:]) for x in prefix[:2]),
            prefix.mask_BXYP.reshape(-1, *prefix.mask_BXYP.shape[2:]),
            prefix.place_P,
        )

        def flat(x_DRW: Array) -> Array:
            return x_DRW.reshape(-1, 1, W)

        hidden_R1WD = model.complete(weights, flat(tokens), flat(positions), flat(segments), prefix)
        last_DRWD = _pick(last_BD.reshape(D, B // D, -1), prompt)
        hidden_R1WD = jnp.where(
            flat(first)[..., None], last_DRWD.reshape(hidden_R1WD.shape), hidden_R1WD
        )
        scored = token_logprobs(
            model,
            weights,
            hidden_R1WD,
            flat(target),
            jax.tree.map(flat, state),
            mask,
            temperature=temperature,
            logit_chunk=max(1, logit_chunk * B * G // (D * packed.rows)),
        )
        row_DN = packed.packing.row_N - trip * packed.rows
        place_DNT = packed.packing.start_N[..., None] + jnp.arange(T)
        inside_DNT = within(trip).reshape(D, -1, 1) & (jnp.arange(T) < packed.length_DN[..., None])

        def back(x_R1W: Array) -> Array:
            x_DRW = x_R1W.reshape(D, -1, W)
            row_DN1 = jnp.clip(row_DN, 0, packed.rows - 1)[..., None]
            x_DNT = _pick(x_DRW, row_DN1, jnp.minimum(place_DNT, W - 1))
            return jnp.where(inside_DNT, x_DNT, 0).reshape(B, G, T)

        return jax.tree.map(back, scored)

    def within(trip: Array) -> Array:
        trip_DN = packed.packing.row_N // packed.rows
        return ((trip_DN == trip) & (packed.length_DN > 0)).reshape(B, G)

    prompted, pull, seen = jax.vjp(run_prompts, params, has_aux=True)
    if reference is not None:
        reference_prompted, _ = run_prompts(reference)

    def loss(params: Params, prompted: Any, trip: Array) -> tuple[Array, Any]:
        reference_BGT = None
        if reference is not None:
            reference_BGT, _ = scores(reference, reference_prompted, seen, trip)
        return objective(*scores(params, prompted, seen, trip), reference_BGT, within(trip))

    value_and_gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def step(trip: Array, total: Any) -> Any:
        (value, aux), gradient = value_and_gradient(params, prompted, trip)
        sums, aux_sum = total
        chosen = within(trip)[..., None]
        aux_sum = jax.tree.map(lambda old, new: jnp.where(chosen, new, old), aux_sum, aux)
        return jax.tree.map(jnp.add, sums, (value, gradient)), aux_sum

    (value, aux), gradient = jax.eval_shape(value_and_gradient, params, prompted, packed.trips)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), ((value, gradient), aux))
    float32 = jax.tree.map(lambda x: x.astype(jnp.float32), zeros[0])
    (value, (gradient, prompted_gradient)), aux = jax.lax.fori_loop(
        0, packed.trips, step, (float32, zeros[1])
    )
    prompted_gradient = jax.tree.map(lambda g, x: g.astype(x.dtype), prompted_gradient, prompted)
    (through_prompts,) = pull(prompted_gradient)
    gradient = jax.tree.map(lambda a, b: a.astype(b.dtype) + b, gradient, through_prompts)
    return value, aux, gradient


def _pick(x_Dx: Array, *index_Dx: Array) -> Array:
    """x[index] in each shard."""
    return jax.vmap(lambda x, index: x[index])(x_Dx, index_Dx)
