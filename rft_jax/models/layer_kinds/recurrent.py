"""A state: what layers without keys keep of a prompt or a completion, of one size at any length.

It is reset for each completion, to a copy of the prompt's.
"""

import functools
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.cache import for_each, unstack
from rft_jax.utils.types import PyTree

# Arrays by name, of all layers [L, ...]; unrolled, a tuple with one such tree for each layer.
States: TypeAlias = dict[str, Array] | tuple[dict[str, Array], ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["states"], meta_fields=[])
@dataclass(frozen=True)
class PromptStates:
    """The states after prompts [L, B, Z, ...]: Z is 1, or the prompts of a row or a lane."""

    states: States

    def of_rows(self, prompt_RZ: Array) -> "PromptStates":
        """See `PromptState`."""
        return PromptStates(jax.tree.map(lambda x: x[:, jnp.maximum(prompt_RZ, 0), 0], self.states))

    def in_int8(self) -> "PromptStates":
        """The same: what goes from token to token would lose more with each."""
        return self

    def unrolled(self) -> "PromptStates":
        """See `PromptState`."""
        return PromptStates(unstack(self.states))

    def layer(self, index: int) -> "PromptStates":
        """See `PromptState`."""
        assert isinstance(self.states, tuple)
        return PromptStates(self.states[index])

    def room(self, lanes: int, prompts: int) -> "PromptStates":
        """See `PromptState`."""
        axis = _batch_axis(self.states)

        def zeros(x: Array) -> Array:
            return jnp.zeros((*x.shape[:axis], lanes, prompts, *x.shape[axis + 2 :]), x.dtype)

        return PromptStates(jax.tree.map(zeros, self.states))

    def place(
        self, lane: Array, index: Array, queue: "PromptStates", prompt: Array
    ) -> "PromptStates":
        """See `PromptState`."""
        copy = functools.partial(
            _copy, axis=_batch_axis(self.states), source=(prompt, 0), target=(lane, index)
        )
        return PromptStates(jax.tree.map(copy, queue.states, self.states))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["states"], meta_fields=[])
@dataclass(frozen=True)
class StateCache:
    """The states of completions [L, B, G, ...]."""

    states: States

    def with_capacity(self, capacity: int) -> "StateCache":
        """The same."""
        return self

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> "StateCache":
        """See `LayerCache`."""
        assert isinstance(prompts, PromptStates)
        axis, group = _batch_axis(self.states), begins_BG.shape[1]
        prompt_BG = jnp.argmax(own_BGZ, axis=-1)

        def move(index: Array, states: States) -> States:
            b, g = index // group, index % group
            copy = functools.partial(_copy, axis=axis, source=(b, prompt_BG[b, g]), target=(b, g))
            return jax.tree.map(copy, prompts.states, states)

        # In a loop over the rows that begin, as seldom any does: to choose for all of them would
        # copy every state for every token.
        return StateCache(for_each(begins_BG.reshape(-1), move, self.states))

    def layer(self, index: Array | int) -> dict[str, Array]:
        """The states of one layer."""
        if isinstance(self.states, tuple):
            return self.states[int(index)]
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), self.states
        )

    def write(self, index: Array | int, layer: dict[str, Array]) -> "StateCache":
        """With new states of one layer."""
        if isinstance(self.states, tuple):
            at = int(index)
            return StateCache((*self.states[:at], layer, *self.states[at + 1 :]))
        return StateCache(
            jax.tree.map(
                lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, index, 0),
                self.states,
                layer,
            )
        )


def init_states(prompts: PromptStates, own_BGZ: Array, group: int) -> StateCache:
    """The states before completions, `group` for each row.

    Args:
        own_BGZ: Which of the row's prompts each follows; G may be 1.
    """
    axis = _batch_axis(prompts.states)

    def start(x: Array) -> Array:
        shape = *x.shape[: axis + 1], group, *x.shape[axis + 2 :]
        if x.shape[axis + 1] == 1:
            return jnp.broadcast_to(x, shape)
        prompt_BG = jnp.broadcast_to(jnp.argmax(own_BGZ, axis=-1), shape[axis : axis + 2])
        index = prompt_BG.reshape(*(1,) * axis, *prompt_BG.shape, *(1,) * (x.ndim - axis - 2))
        return jnp.take_along_axis(x, index, axis=axis + 1)

    return StateCache(jax.tree.map(start, prompts.states))


def _batch_axis(states: States) -> int:
    return 0 if isinstance(states, tuple) else 1


def _copy(source_x: Array, target_x: Array, *, axis: int, source: tuple, target: tuple) -> Array:
    """The target with one state of the source at two axes from `axis` on."""
    rest = (0,) * (source_x.ndim - axis - 2)
    before = (0,) * axis
    sizes = (*source_x.shape[:axis], 1, 1, *source_x.shape[axis + 2 :])
    one = jax.lax.dynamic_slice(source_x, (*before, *source, *rest), sizes)
    return jax.lax.dynamic_update_slice(target_x, one, (*before, *target, *rest))
