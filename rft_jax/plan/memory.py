"""Bytes on each device, counted from shapes and shardings: what a step keeps, and why."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.learn.optimizer import BASE, REFERENCE, TrainState
from rft_jax.models import Prefix, base, merge, quantize_weights, quantized_axes
from rft_jax.parallel import ROLLOUT_RULES, batch_parts, shardings
from rft_jax.plan.aot import abstract_state
from rft_jax.rollout.continuous import PROMPTS_PER_LANE, lanes
from rft_jax.runs.checkpoint import abstract
from rft_jax.step import Program


class Kept(NamedTuple):
    """Bytes on one device that are known exactly.

    Attributes:
        weights: float32, and of a model with adapters those under them.
        reference: The policy that the loss compares with.
        optimizer: Its moments.
        gradient: Of the trainable weights, while there is an update.
        rollout_weights: The rollout's copy.
        cache: Keys and values of prompts and completions.
    """

    weights: float
    reference: float
    optimizer: float
    gradient: float
    rollout_weights: float
    cache: float

    @property
    def state(self) -> float:
        """What is there in all of a step."""
        return self.weights + self.reference + self.optimizer


def device_bytes(tree: Any) -> float:
    """Bytes of abstract arrays with shardings, on one device."""
    return float(
        sum(
            jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
            for leaf in jax.tree.leaves(tree)
        )
    )


@functools.cache
def kept_bytes(program: Program) -> Kept:
    """What a step keeps on each device."""
    state = abstract_state(program)
    return Kept(
        weights=device_bytes(state.params) + device_bytes(state.frozen.get(BASE)),
        reference=device_bytes(state.frozen.get(REFERENCE)),
        optimizer=device_bytes(state.opt_state),
        gradient=device_bytes(state.params),
        rollout_weights=_rollout_weights(program, state),
        cache=_cache(program),
    )


def _rollout_weights(program: Program, state: TrainState) -> float:
    model = program.model
    axes, int8 = base(model.axes), program.stage.rollout.int8_weights

    def copy(state: TrainState) -> Any:
        params = merge(model.adapt(state.params, state.frozen.get(BASE)), model.dtype)
        return quantize_weights(params) if int8 else params

    places = shardings(program.mesh, ROLLOUT_RULES, quantized_axes(axes) if int8 else axes)
    return device_bytes(abstract(jax.eval_shape(copy, state), places))


def _cache(program: Program) -> float:
    """Keys and values of prompts, lanes and slots: the batch over data and fsdp, heads as those of
    the weights."""
    model, stage = program.model, program.stage
    c, rollout = model.config, stage.rollout
    parts = batch_parts(program.mesh)
    B, G, P = stage.batch_size, rollout.group_size, rollout.max_prompt_tokens

    def prefix_of(rows: int, tokens: int) -> Prefix:
        kv = jnp.zeros((c.num_layers, rows, c.num_kv_heads, tokens, c.head_dim), model.dtype)
        prefix = Prefix(kv, kv, jnp.ones((rows, 1, 1, tokens), bool), jnp.arange(tokens))
        return prefix.in_int8() if rollout.int8_cache else prefix

    def arrays() -> Any:
        prefixes, samples = [prefix_of(B, P)], G
        if rollout.slots:
            C, samples = lanes(rollout.slots // parts, B // parts, G)
            prefixes.append(prefix_of(C * parts, PROMPTS_PER_LANE * P))
        T = rollout.max_completion_tokens
        cache = model.init_cache(prefixes[-1], samples, T)
        return [prefix[:2] for prefix in prefixes], cache.kv

    leaves = jax.tree.leaves(jax.eval_shape(arrays))
    return sum(leaf.dtype.itemsize * leaf.size for leaf in leaves) / program.mesh.size
