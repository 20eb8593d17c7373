"""The kinds of layers, and how a model's layers are made of them.

Layers whose weights have the same shapes make a stack. A model with one stack scans over its
layers; one with several scans over the shortest run of layers that repeats. Layers that share the
keys of others come after those, in a scan of their own.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import ModelConfig
from rft_jax.models.layer_kinds.attention import Attention
from rft_jax.models.layer_kinds.base import LayerKind, LayerWeights, Rows, Source
from rft_jax.models.layer_kinds.delta_net import DeltaNet
from rft_jax.models.layer_kinds.shared import SharedAttention
from rft_jax.models.layer_kinds.short_conv import ShortConv
from rft_jax.utils.types import PyTree

# Stacks; most models have the first alone.
ATTENTION, DELTA_NET, SHORT_CONV = "layers", "delta_net_layers", "short_conv_layers"
GLOBAL, SHARED, SHARED_GLOBAL = "global_layers", "shared_layers", "shared_global_layers"
STACK_OF: dict[str, str] = {
    "full": ATTENTION,
    "sliding": ATTENTION,
    "nope": ATTENTION,
    "global": GLOBAL,
    "shared_sliding": SHARED,
    "shared_global": SHARED_GLOBAL,
    "delta_net": DELTA_NET,
    "short_conv": SHORT_CONV,
}
KINDS: dict[str, Callable[[ModelConfig, tuple[str, ...]], LayerKind]] = {
    ATTENTION: Attention,
    GLOBAL: Attention,
    SHARED: SharedAttention,
    SHARED_GLOBAL: SharedAttention,
    DELTA_NET: DeltaNet,
    SHORT_CONV: ShortConv,
}
SOURCES = {SHARED: ATTENTION, SHARED_GLOBAL: GLOBAL}  # whose last layer's keys they read
MLP_MATRICES = ("gate_DF", "up_DF", "down_FD")  # of layers of all kinds


class Stack(NamedTuple):
    """Layers with weights of the same shapes."""

    kind: LayerKind
    layers: tuple[int, ...]  # their places in the model
    config: ModelConfig  # as if all layers were of this stack
    source: str | None = None  # the stack whose keys they read


class Order(NamedTuple):
    """In which order layers of stacks follow each other."""

    period: tuple[str, ...]  # the stack of each layer of a period
    repeats: int

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks, each once."""
        return tuple(dict.fromkeys(self.period))

    @property
    def names(self) -> tuple[str, ...]:
        """The stack of each layer."""
        return self.period * self.repeats


def kinds_of_layers(config: ModelConfig) -> tuple[str, ...]:
    """The kind of each layer, by its name in the configuration."""
    return tuple(np.resize(config.attention_pattern, config.num_layers).tolist())


def stacks(config: ModelConfig) -> dict[str, Stack]:
    """The stacks of a model by name, that of attention first."""
    kinds = kinds_of_layers(config)
    made: dict[str, Stack] = {}
    for name, kind in KINDS.items():
        places = tuple(at for at, named in enumerate(kinds) if STACK_OF[named] == name)
        if places:
            own = _own_config(config, name)
            layers = kind(own, tuple(kinds[at] for at in places))
            made[name] = Stack(layers, places, own, SOURCES.get(name))
    return made


def _own_config(config: ModelConfig, stack: str) -> ModelConfig:
    """The configuration with the sizes of a stack's layers as those of all."""
    c, changed = config, {}
    if stack in (GLOBAL, SHARED_GLOBAL):
        changed["head_dim"] = c.global_head_dim or c.head_dim
        changed["num_kv_heads"] = c.global_kv_heads or c.num_kv_heads
    else:
        changed["values_are_keys"] = False
    if stack in SOURCES:
        changed["intermediate_size"] = c.shared_intermediate_size or c.intermediate_size
    return dataclasses.replace(c, **changed)


def layers_with(config: ModelConfig, name: str) -> tuple[int, ...]:
    """The places of the layers that have a weight, their kind's or the MLP's."""
    if name in MLP_MATRICES:
        return tuple(range(config.num_layers))
    having = (stack for stack in stacks(config).values() if name in stack.kind.adaptable)
    return tuple(sorted(place for stack in having for place in stack.layers))


def orders(config: ModelConfig) -> tuple[Order, ...]:
    """The order of the layers: of those before any that shares keys, and of the rest."""
    names = tuple(STACK_OF[kind] for kind in kinds_of_layers(config))
    before = next((at for at, name in enumerate(names) if name in SOURCES), len(names))
    return tuple(_order(part) for part in (names[:before], names[before:]) if part)


def _order(names: tuple[str, ...]) -> Order:
    count = len(names)
    period = next(n for n in range(1, count + 1) if names == names[:n] * (count // n))
    return Order(names[:period], count // period)


def scan_layers(
    order: Order,
    run: Mapping[str, Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]],
    carry: PyTree,
    inputs: Mapping[str, PyTree],
    handed_on: Set[str] = frozenset(),
) -> tuple[PyTree, dict[str, PyTree], dict[str, PyTree]]:
    """`jax.lax.scan` over the layers of all stacks.

    Args:
        order: That of the layers.
        run: By stack, a layer as a function of the carry and its inputs.
        carry: What goes from layer to layer.
        inputs: By stack, stacked over its layers.
        handed_on: Stacks of which that what the last layer gives is needed by itself. It is no
            slice of what all gave, which would then be kept for the backward pass.

    Returns:
        The last carry; by stack, what its layers gave, stacked; what the last gave of some.
    """
    count = collections.Counter(order.period)
    last = {name: _zeros(run[name], carry, inputs[name]) for name in count if name in handed_on}
    if len(order.period) == 1 and not last:
        (name,) = order.period
        carry, given = jax.lax.scan(run[name], carry, inputs[name])
        return carry, {name: given}, last

    def period(carry: PyTree, inputs: Mapping[str, PyTree]) -> tuple[PyTree, dict[str, PyTree]]:
        carry, last = carry
        given: dict[str, list[PyTree]] = {name: [] for name in count}
        for name in order.period:
            at = len(given[name])
            own = jax.tree.map(lambda x, at=at: x[at], inputs[name])
            carry, out = run[name](carry, own)
            given[name].append(out)
        last = {name: given[name][-1] for name in last}
        return (carry, last), {
            name: jax.tree.map(lambda *x: jnp.stack(x), *outs) for name, outs in given.items()
        }

    grouped = {
        name: jax.tree.map(lambda x, n=n: x.reshape(order.repeats, n, *x.shape[1:]), inputs[name])
        for name, n in count.items()
    }
    (carry, last), given = jax.lax.scan(period, (carry, last), grouped)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), given), last


def _zeros(
    run: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, inputs: PyTree
) -> PyTree:
    """In the shapes of what a layer gives."""
    _, given = jax.eval_shape(run, carry, jax.tree.map(lambda x: x[0], inputs))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), given)


__all__ = [
    "LayerKind",
    "LayerWeights",
    "Order",
    "Rows",
    "Source",
    "Stack",
    "kinds_of_layers",
    "layers_with",
    "orders",
    "scan_layers",
    "stacks",
]
