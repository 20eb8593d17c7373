"""Bytes on each device, counted from shapes and shardings: what a step keeps, and why."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.config import RolloutConfig
from rft_jax.grammars import read_response_format, table_bytes
from rft_jax.learn.optimizer import TrainState
from rft_jax.models import quantize_weights, quantized_axes
from rft_jax.parallel import ROLLOUT_RULES, batch_parts, shardings
from rft_jax.plan.aot import PlannedStep, abstract_state
from rft_jax.rollout.continuous import PROMPTS_PER_LANE, count_lanes, make_pool
from rft_jax.runs.checkpoint import abstract
from rft_jax.utils.types import PyTree

GRAMMAR_CLASSES = 2048  # of tokens
GRAMMAR_ROWS = 512  # of allowed tokens by the room that a counted string has left
MOST_ADDED = 128  # characters of one token, such as spaces


class Kept(NamedTuple):
    """Bytes on one device that are known exactly.

    Attributes:
        weights: The float32 ones, and with adapters the frozen ones under them.
        reference: The policy that the loss compares with.
        optimizer: The optimizer's moments.
        gradient: The trainable weights', while there is an update.
        rollout_weights: The rollout's copy, as far as it is none of the learner's own arrays.
        sampled_weights: What the rollout multiplies by, copied or not.
        cache: What layers keep of prompts and completions: keys and values, states.
        grammar: Tables of the response format; about, as they depend on the tokenizer.
    """

    weights: float
    reference: float
    optimizer: float
    gradient: float
    rollout_weights: float
    sampled_weights: float
    cache: float
    grammar: float

    @property
    def state(self) -> float:
        """What is there in all of a step."""
        return self.weights + self.reference + self.optimizer + self.grammar


def device_bytes(tree: PyTree) -> float:
    """Bytes of abstract arrays with shardings, on one device."""
    return float(
        sum(
            jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
            for leaf in jax.tree.leaves(tree)
        )
    )


@functools.cache
def kept_bytes(program: PlannedStep) -> Kept:
    """What a step keeps on each device."""
    state = abstract_state(program)
    sampled = _sampled_weights(program, state)
    return Kept(
        weights=device_bytes(state.params) + device_bytes(state.frozen.base),
        reference=device_bytes(state.frozen.reference),
        optimizer=device_bytes(state.opt_state),
        gradient=device_bytes(state.params),
        rollout_weights=_copied(program, state, sampled),
        sampled_weights=device_bytes(sampled),
        cache=_cache(program),
        grammar=grammar_bytes(program.stage.rollout, program.model.vocab_size),
    )


def grammar_bytes(rollout: RolloutConfig, vocab_size: int) -> float:
    """Tables of the response format, which every device holds; not less than they take.

    States are those of its automaton. How many classes tokens fall into depends on the tokenizer;
    assumed are more than vocabularies of up to 262,144 tokens have for ordinary schemas.

    Raises:
        InputError: It cannot be read or enforced.
    """
    wanted = read_response_format(rollout.response_format) if rollout.response_format else None
    if wanted is None:
        return 0.0
    automaton = wanted.automaton()
    states = automaton.states + 1
    classes = min(GRAMMAR_CLASSES, vocab_size)
    counted = automaton.stretches
    rows = states + (GRAMMAR_ROWS if counted else 0)
    most_added = MOST_ADDED if counted else None
    return float(table_bytes(states, classes, rows, vocab_size, most_added))


def _sampled_weights(program: PlannedStep, state: TrainState) -> PyTree:
    """What the rollout multiplies by, as abstract arrays."""
    model = program.model
    axes, int8 = model.sampling_axes, program.stage.rollout.int8_weights

    def copy(state: TrainState) -> PyTree:
        params = model.sampling_weights(model.adapt(state.params, state.frozen.base))
        return quantize_weights(params) if int8 else params

    sharding = shardings(program.mesh, ROLLOUT_RULES, quantized_axes(axes) if int8 else axes)
    return abstract(jax.eval_shape(copy, state), sharding)


def _copied(program: PlannedStep, state: TrainState, sampled: PyTree) -> float:
    """Bytes of the rollout's weights that are not the learner's arrays as they lie: all, but of a
    base in four bits."""
    if not program.model.packed:
        return device_bytes(sampled)
    own = program.model.adapt(state.params, state.frozen.base)

    def held(leaf: jax.ShapeDtypeStruct) -> tuple[jnp.dtype, tuple[int, ...]]:
        assert leaf.sharding is not None
        return leaf.dtype, leaf.sharding.shard_shape(leaf.shape)

    pairs = zip(jax.tree.leaves(sampled), jax.tree.leaves(own), strict=True)
    return device_bytes([leaf for leaf, other in pairs if held(leaf) != held(other)])


def _cache(program: PlannedStep) -> float:
    """What layers keep of prompts, lanes and slots: the batch over data and fsdp, heads as those of
    the weights."""
    model, stage = program.model, program.stage
    rollout, parts = stage.rollout, batch_parts(program.mesh)
    B, G, P = stage.batch_size, rollout.group_size, rollout.max_prompt_tokens
    T = rollout.max_completion_tokens

    def arrays() -> PyTree:
        prefix, samples, pool = model.empty_prefix(B, P), G, None
        prefix = prefix.in_int8() if rollout.int8_cache else prefix
        kept = [prefix.states]
        if rollout.slots:
            C, samples = count_lanes(rollout.slots // parts, B // parts, G)
            prefix = prefix.room(C * parts, PROMPTS_PER_LANE)
            kept.append(prefix.states)
            if own := make_pool(rollout.cache_tokens, parts, T):
                pool = own._replace(pages=own.pages * parts)
        return kept, model.init_cache(prefix, samples, T, pool=pool).stacks

    leaves = jax.tree.leaves(jax.eval_shape(arrays))
    return sum(leaf.dtype.itemsize * leaf.size for leaf in leaves) / program.mesh.size
