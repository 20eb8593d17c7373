"""The policy gradient over packed rows: as many rows as the completions fill, a few at a time.

How many rows there are is known only on the device, so that they are worked off in a loop whose
trip count depends on the lengths, with the gradient taken inside. Each prompt is still run once:
the gradient of its keys and values is summed over the rows and sent back through it at the end.

Letters besides those of `step`: A shards of the batch, R rows of a shard, W tokens of a row, Z
prompts that a row may belong to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.learn.bin_packing import Packing, pack, token_at
from rft_jax.learn.logprobs import CompletionScores, token_logprobs
from rft_jax.learn.objective import GradedBatch, Learner, Objective, PolicyGradient, TokenStatistics
from rft_jax.learn.optimizer import TrainState
from rft_jax.models import Params, Prefix
from rft_jax.models.cache import PromptState
from rft_jax.rollout import LogitMask, logit_masks
from rft_jax.rollout.logit_masks import MaskState

Tree = TypeVar("Tree")


class PackedRows(NamedTuple):
    """A batch's rows; A shards of the batch, each packed by itself into R rows of W tokens.

    Indices of completions n and of prompts count within a shard.
    """

    packing: Packing  # each with a leading axis A
    n_ARW: Array  # int32, the completion at each position; -1 at padding
    t_ARW: Array  # int32, its token
    prompt_ARW: Array  # int32, -1 at padding
    position_ARW: Array  # int32, of the token before it, which predicts it
    length_AN: Array  # int32
    rows: int  # of a shard that a trip takes
    trips: Array  # int32

    @property
    def slots(self) -> Array:
        """Places of all rows that are run, padding included."""
        A, _, W = self.n_ARW.shape
        return self.trips * (A * self.rows * W)


def pack_batch(
    prompt_length_B: Array, length_BG: Array, width: int, rows: int, shards: int
) -> PackedRows:
    """Packs a batch's completions.

    Args:
        prompt_length_B: int32.
        length_BG: int32, at most `width`; 0 for a completion that takes no part.
        width: W.
        rows: Rows of a shard that are run at once.
        shards: A, a divisor of B.
    """
    group = length_BG.shape[1]
    length_ABG = length_BG.reshape(shards, -1, group)
    capacity = -(-length_ABG[0].size // rows) * rows
    packing = jax.vmap(lambda length_BG: pack(length_BG, width, capacity))(length_ABG)
    n_ARW, t_ARW = jax.vmap(lambda p, length: token_at(p, length, width))(packing, length_ABG)
    prompt_ARW = jnp.where(n_ARW >= 0, n_ARW // group, -1)
    before_ARW = _pick(prompt_length_B.reshape(shards, -1), jnp.maximum(prompt_ARW, 0)) - 1
    return PackedRows(
        packing,
        n_ARW,
        t_ARW,
        prompt_ARW,
        jnp.where(n_ARW >= 0, before_ARW + t_ARW, 0),
        length_ABG.reshape(shards, -1),
        rows,
        -(-packing.rows.max() // rows),
    )


class RowTokens(NamedTuple):
    """What the model reads and predicts at each position of the rows.

    A completion's first token is predicted by its prompt's last, so that nothing need be read at
    its place, which stands empty: segment 0, and no prompt that it attends to.
    """

    token_ARW: Array  # int32, the token before the position's own
    position_ARW: Array  # int32
    segment_ARW: Array  # int32, one more than the completion
    attends_ARW: Array  # int32, the prompt that the position attends to; -1 for none
    prompt_ARW: Array  # int32, the completion's prompt
    first_ARW: Array  # bool: the position of a completion's first token
    target_ARW: Array  # int32, the token that is predicted
    state_ARW: MaskState  # of the logit masks, before it
    prompts_ARZ: Array  # int32, the prompts of each row


class PromptStates(NamedTuple):
    """What rows read of their prompts, and what the gradient goes back through."""

    last_BD: Array  # hidden state of the last token
    states: Mapping[str, PromptState]  # what layers keep, by stack


class PromptPlaces(NamedTuple):
    """Which of a prompt's tokens are there, and where they stand; see `Prefix`."""

    mask_BXYP: Array
    position_P: Array
    own_BXYZ: Array


@dataclass(frozen=True, eq=False)
class _Rows:
    """A batch in packed rows, with what scores them. A trip takes `packed.rows` rows of a shard."""

    learner: Learner
    objective: Objective
    batch: GradedBatch
    packed: PackedRows
    tokens: RowTokens
    base: Params | None  # under the adapters, if there are some

    def run_prompts(self, params: Params) -> tuple[PromptStates, PromptPlaces]:
        """Each prompt once, however many rows read it."""
        model, prompts = self.learner.model, self.batch.prompts
        last_BD, prefix = model.prefill(
            model.adapt(params, self.base), prompts.tokens_BP, prompts.length_B
        )
        states = PromptStates(last_BD, prefix.states)
        return states, PromptPlaces(*prefix[1:])

    def scores(
        self, params: Params, prompted: PromptStates, prompt_positions: PromptPlaces, trip: Array
    ) -> CompletionScores:
        """New log-probabilities and entropies of the trip's completions, 0 elsewhere."""
        learner, rows = self.learner, self.packed.rows
        A, _, W = self.packed.n_ARW.shape
        weights = learner.model.adapt(params, self.base)
        here = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, trip * rows, rows, 1), self.tokens
        )

        def flat(x_ARW: Array) -> Array:
            return x_ARW.reshape(-1, 1, W)

        hidden_R1WD = learner.model.complete(
            weights,
            flat(here.token_ARW),
            flat(here.position_ARW),
            flat(here.segment_ARW),
            _prefix_of_rows(prompted, prompt_positions, here.prompts_ARZ, here.attends_ARW),
        )
        last_ARWD = _pick(
            prompted.last_BD.reshape(A, -1, prompted.last_BD.shape[-1]), here.prompt_ARW
        )
        hidden_R1WD = jnp.where(
            flat(here.first_ARW)[..., None], last_ARWD.reshape(hidden_R1WD.shape), hidden_R1WD
        )
        N = self.batch.advantage_BG.size
        scored = token_logprobs(
            learner.model,
            weights,
            hidden_R1WD,
            flat(here.target_ARW),
            jax.tree.map(flat, here.state_ARW),
            learner.mask,
            temperature=learner.temperature,
            # As many logits at once as there would be in rows of their own.
            logit_chunk=max(1, learner.config.logit_chunk * N // (A * rows)),
        )
        return jax.tree.map(lambda x: self._by_completion(x, trip), scored)

    def within(self, trip: Array) -> Array:
        """bool[B, G]: the completions that lie in the trip's rows."""
        trip_AN = self.packed.packing.row_N // self.packed.rows
        within_AN = (trip_AN == trip) & (self.packed.length_AN > 0)
        return within_AN.reshape(self.batch.advantage_BG.shape)

    def loss(
        self, new: CompletionScores, reference_BGT: Array | None, trip: Array
    ) -> tuple[Array, TokenStatistics]:
        """The trip's part of the batch's loss."""
        mask_BGT = self.batch.mask_BGT & self.within(trip)[..., None]
        return self.objective(new, reference_BGT, self.batch._replace(mask_BGT=mask_BGT))

    def _by_completion(self, x_R1W: Array, trip: Array) -> Array:
        """From positions of the trip's rows to tokens of completions, [B, G, T]; 0 elsewhere."""
        packed, shape = self.packed, self.batch.mask_BGT.shape
        A, _, W = packed.n_ARW.shape
        row_AN1 = jnp.clip(packed.packing.row_N - trip * packed.rows, 0, packed.rows - 1)[..., None]
        index_T = jnp.arange(shape[-1])
        place_ANT = packed.packing.start_N[..., None] + index_T
        x_ANT = _pick(x_R1W.reshape(A, -1, W), row_AN1, jnp.minimum(place_ANT, W - 1))
        inside_ANT = index_T < packed.length_AN[..., None]
        inside_ANT &= self.within(trip).reshape(A, -1, 1)
        return jnp.where(inside_ANT, x_ANT, 0).reshape(shape)


class _Sums(NamedTuple):
    """What grows from trip to trip, in float32; and what each trip fills in of the tokens."""

    loss: Array
    gradient: Params
    prompted: PromptStates  # the gradient of them
    tokens: TokenStatistics


def packed_gradient(
    packed: PackedRows,
    learner: Learner,
    objective: Objective,
    state: TrainState,
    batch: GradedBatch,
) -> PolicyGradient:
    """The gradient over rows of several completions each, `packed.rows` of a shard at a time."""
    params, reference = state.params, state.frozen.reference
    tokens = lay_out(packed, batch.completions.tokens_BGT, learner.mask)
    rows = _Rows(learner, objective, batch, packed, tokens, state.frozen.base)
    # The prompts are run outside of the loop, which therefore differentiates with respect to what
    # came of them; `pull` takes the sum of those gradients back through the prompts, once.
    prompted, pull, prompt_positions = jax.vjp(rows.run_prompts, params, has_aux=True)
    reference_prompted = None if reference is None else rows.run_prompts(reference)[0]

    def loss(params: Params, prompted: PromptStates, trip: Array) -> tuple[Array, TokenStatistics]:
        reference_BGT = None
        if reference_prompted is not None:
            reference_BGT = rows.scores(
                reference, reference_prompted, prompt_positions, trip
            ).logprob_BGT
        return rows.loss(rows.scores(params, prompted, prompt_positions, trip), reference_BGT, trip)

    value_and_gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def step(trip: Array, sums: _Sums) -> _Sums:
        (value, new), (gradient, through) = value_and_gradient(params, prompted, trip)
        chosen = rows.within(trip)[..., None]
        return _Sums(
            *jax.tree.map(jnp.add, sums[:3], (value, gradient, through)),
            tokens=jax.tree.map(lambda old, new: jnp.where(chosen, new, old), sums.tokens, new),
        )

    # With a number of trips that depends on lengths there is no gradient through the loop, so that
    # it is taken inside, trip by trip.
    sums = jax.lax.fori_loop(0, packed.trips, step, _no_sums(value_and_gradient, params, prompted))
    (through_prompts,) = pull(_cast_like(sums.prompted, prompted))
    gradient = jax.tree.map(lambda a, b: a.astype(b.dtype) + b, sums.gradient, through_prompts)
    return PolicyGradient(sums.loss, sums.tokens, gradient)


def lay_out(packed: PackedRows, tokens_BGT: Array, mask: LogitMask) -> RowTokens:
    """Lays the tokens of completions out in rows.

    Args:
        packed: The layout.
        tokens_BGT: int32 completions; T is the rows' W.
        mask: The sampler's logit masks, whose states are laid out as well.
    """
    A, _, T = packed.n_ARW.shape
    completion_ARW = jnp.maximum(packed.n_ARW, 0)

    def laid_out(x_BGT: Array) -> Array:
        return _pick(x_BGT.reshape(A, -1, T), completion_ARW, packed.t_ARW)

    first_ARW, target_ARW = packed.t_ARW == 0, laid_out(tokens_BGT)
    return RowTokens(
        token_ARW=jnp.where(first_ARW, 0, jnp.roll(target_ARW, 1, axis=-1)),
        position_ARW=packed.position_ARW,
        segment_ARW=jnp.where(first_ARW, 0, packed.n_ARW + 1),
        attends_ARW=jnp.where(first_ARW, -1, packed.prompt_ARW),
        prompt_ARW=jnp.maximum(packed.prompt_ARW, 0),
        first_ARW=first_ARW,
        target_ARW=target_ARW,
        state_ARW=jax.tree.map(laid_out, logit_masks.replay(mask, tokens_BGT)),
        prompts_ARZ=packed.packing.prompts_RZ,
    )


def _prefix_of_rows(
    prompted: PromptStates, prompt_positions: PromptPlaces, prompts_ARZ: Array, attends_ARW: Array
) -> Prefix:
    """What rows have of their prompts: of each row's own, side by side.

    Rows and prompts are picked within a shard, so that no prompt's keys cross the interconnect.
    """
    A = len(prompts_ARZ)

    def split(x_Bx: Array) -> Array:
        return x_Bx.reshape(A, -1, *x_Bx.shape[1:])

    def split_layers(x_LBx: Array) -> Array:
        return x_LBx.reshape(x_LBx.shape[0], A, -1, *x_LBx.shape[2:])

    def join_layers(x_LARx: Array) -> Array:
        return x_LARx.reshape(x_LARx.shape[0], -1, *x_LARx.shape[3:])

    mask, position_P, own = prompt_positions
    split_up = Prefix(
        jax.tree.map(split_layers, prompted.states), split(mask), position_P, split(own)
    )
    axes = Prefix._make((1, 0, None, 0))
    prefix = jax.vmap(Prefix.of_rows, in_axes=(axes, 0, 0), out_axes=axes)(
        split_up, prompts_ARZ, attends_ARW
    )
    return Prefix(
        jax.tree.map(join_layers, prefix.states),
        prefix.mask_BXYP.reshape(-1, *prefix.mask_BXYP.shape[2:]),
        prefix.position_P,
        prefix.own_BXYZ.reshape(-1, *prefix.own_BXYZ.shape[2:]),
    )


def _no_sums(value_and_gradient, params: Params, prompted: PromptStates) -> _Sums:
    (loss, tokens), gradients = jax.eval_shape(value_and_gradient, params, prompted, jnp.int32(0))

    def zeros(x: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros(x.shape, jnp.float32)

    return _Sums(
        *jax.tree.map(zeros, (loss, *gradients)),
        tokens=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tokens),
    )


def _cast_like(tree: Tree, other: Tree) -> Tree:
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, other)


def _pick(x_Ax: Array, *index_Ax: Array) -> Array:
    """x[index] in each shard."""
    return jax.vmap(lambda x, index: x[index])(x_Ax, index_Ax)
