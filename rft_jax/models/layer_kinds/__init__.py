"""The kinds of layers, and how a model's layers are made of them.

Layers whose weights have the same shapes make a stack. A model with one stack scans over its
layers; one with several scans over the shortest run of layers that repeats.
"""

import collections
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import ModelConfig
from rft_jax.models.layer_kinds.attention import Attention
from rft_jax.models.layer_kinds.base import LayerKind, LayerWeights, Rows
from rft_jax.models.layer_kinds.delta_net import DeltaNet
from rft_jax.utils.types import PyTree

ATTENTION, DELTA_NET = "layers", "delta_net_layers"  # stacks; most models have the first alone
STACK_OF: dict[str, str] = {
    "full": ATTENTION,
    "sliding": ATTENTION,
    "nope": ATTENTION,
    "delta_net": DELTA_NET,
}
ATTENTION_MATRICES = ("q_DKMQ", "k_DKQ", "v_DKQ", "out_KMQD")


class Stack(NamedTuple):
    """Layers with weights of the same shapes."""

    kind: LayerKind
    layers: tuple[int, ...]  # their places in the model


class Order(NamedTuple):
    """In which order the layers of stacks follow each other."""

    period: tuple[str, ...]  # the stack of each layer of a period
    repeats: int

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
    for name, kind in {ATTENTION: Attention, DELTA_NET: DeltaNet}.items():
        places = tuple(at for at, named in enumerate(kinds) if STACK_OF[named] == name)
        if places:
            made[name] = Stack(kind(config, tuple(kinds[at] for at in places)), places)
    return made


def layers_with(config: ModelConfig, name: str) -> tuple[int, ...]:
    """The places of the layers that have a weight of attention's or of the MLP's."""
    if name in ATTENTION_MATRICES:
        found = stacks(config).get(ATTENTION)
        return found.layers if found else ()
    return tuple(range(config.num_layers))


def order(config: ModelConfig) -> Order:
    """The order of the layers."""
    names = tuple(STACK_OF[kind] for kind in kinds_of_layers(config))
    count = len(names)
    period = next(n for n in range(1, count + 1) if names == names[:n] * (count // n))
    return Order(names[:period], count // period)


def scan_layers(
    order: Order,
    run: Mapping[str, Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]],
    carry: PyTree,
    inputs: Mapping[str, PyTree],
) -> tuple[PyTree, dict[str, PyTree]]:
    """`jax.lax.scan` over the layers of all stacks.

    Args:
        order: That of the layers.
        run: By stack, a layer as a function of the carry and its inputs.
        carry: What goes from layer to layer.
        inputs: By stack, stacked over its layers.

    Returns:
        The last carry and, by stack, what its layers gave, stacked.
    """
    if len(order.period) == 1:
        (name,) = order.period
        carry, given = jax.lax.scan(run[name], carry, inputs[name])
        return carry, {name: given}
    count = collections.Counter(order.period)

    def period(carry: PyTree, inputs: Mapping[str, PyTree]) -> tuple[PyTree, dict[str, PyTree]]:
        given: dict[str, list[PyTree]] = {name: [] for name in count}
        for name in order.period:
            at = len(given[name])
            own = jax.tree.map(lambda x, at=at: x[at], inputs[name])
            carry, out = run[name](carry, own)
            given[name].append(out)
        return carry, {
            name: jax.tree.map(lambda *x: jnp.stack(x), *outs) for name, outs in given.items()
        }

    grouped = {
        name: jax.tree.map(lambda x, n=n: x.reshape(order.repeats, n, *x.shape[1:]), inputs[name])
        for name, n in count.items()
    }
    carry, given = jax.lax.scan(period, carry, grouped)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), given)


__all__ = [
    "LayerKind",
    "LayerWeights",
    "Order",
    "Rows",
    "Stack",
    "kinds_of_layers",
    "layers_with",
    "order",
    "scan_layers",
    "stacks",
]
