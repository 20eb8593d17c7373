"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) as a change of the tree of weights.

In the tree that the decoder computes with, a weight with an adapter is an `Adapted` instead of the
plain weight. The trainable weights of such a model are its adapters, and the rest is frozen:
`split` takes the tree apart and `adapt` puts it together. Without adapters all is trainable.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.config import LoraConfig, LoraTarget, ModelConfig
from rft_jax.models.layer_kinds import layers_with
from rft_jax.models.linear import Adapted
from rft_jax.models.nf4 import Nf4, dequantize
from rft_jax.models.weight_axes import GATES, INPUTS
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree

Tree: TypeAlias = PyTree  # nested dict of arrays, or of what belongs to each

TARGETS: dict[LoraTarget, str] = {
    "q_proj": "q_DKMQ",
    "k_proj": "k_DKQ",
    "v_proj": "v_DKQ",
    "o_proj": "out_KMQD",
    "gate_proj": "gate_DF",
    "up_proj": "up_DF",
    "down_proj": "down_FD",
    "in_proj_qkv": "delta_qkv_DC",
    "in_proj_z": "delta_gate_DHY",
    "in_proj_b": "delta_beta_DH",
    "in_proj_a": "delta_decay_DH",
    "out_proj": "delta_out_HYD",
    "conv_in_proj": "conv_in_DXC",
    "conv_out_proj": "conv_out_CD",
}
ADAPTED_INPUTS = INPUTS | GATES
EXPERTS = ("gate_proj", "up_proj", "down_proj")  # with a mixture of experts


def check_targets(model: ModelConfig) -> None:
    """Refuses adapters for weights that cannot have any.

    Args:
        model: The model, as its source describes it.

    Raises:
        InputError: Naming the targets.
    """
    targets = model.lora.targets if model.lora else ()
    experts = [name for name in targets if name in EXPERTS]
    if model.experts and experts:
        raise InputError(
            f"models.{model.name}.lora.targets: a mixture's experts cannot have adapters; leave "
            f"{', '.join(experts)} out"
        )
    if targets and not any(layers_with(model, TARGETS[target]) for target in targets):
        raise InputError(
            f"models.{model.name}.lora.targets: no layer of this model has any of "
            f"{', '.join(targets)}; name projections that it has"
        )


def init_adapters(base: Tree, lora: LoraConfig, key: Array) -> Tree:
    """Adapters that change nothing yet, float32: A as PEFT draws it, B zero.

    Args:
        base: The weights, or their shapes.
    """
    adapters: Tree = {}
    keys = jax.random.split(key, len(lora.targets))
    for target, target_key in zip(lora.targets, keys, strict=True):
        name = TARGETS[target]
        inputs = len(ADAPTED_INPUTS[name])
        for number, stack in enumerate(_stacks_with(base, name)):
            layers, *axes = base[stack][name].shape
            bound = np.prod(axes[:inputs]) ** -0.5
            shape_a = layers, *axes[:inputs], lora.rank
            stack_key = jax.random.fold_in(target_key, number) if number else target_key
            adapters.setdefault(stack, {})[name] = {
                "a": jax.random.uniform(stack_key, shape_a, minval=-bound, maxval=bound),
                "b": jnp.zeros((layers, lora.rank, *axes[inputs:])),
            }
    return adapters


def adapter_axes(base: Tree, lora: LoraConfig) -> Tree:
    """The adapters' logical axis names, from those of the weights."""
    adapters: Tree = {}
    for target in lora.targets:
        name = TARGETS[target]
        inputs = len(ADAPTED_INPUTS[name])
        for stack in _stacks_with(base, name):
            layers, *axes = base[stack][name]
            adapters.setdefault(stack, {})[name] = {
                "a": (layers, *axes[:inputs], "rank"),
                "b": (layers, "rank", *axes[inputs:]),
            }
    return adapters


def _stacks_with(base: Tree, name: str) -> list[str]:
    """The stacks of layers that have a weight."""
    return [stack for stack, tree in base.items() if isinstance(tree, dict) and name in tree]


def adapt(trainable: Tree, frozen: Tree, lora: LoraConfig | None) -> Tree:
    """The tree that the decoder computes with, from its two partitions."""
    if lora is None:
        return trainable
    scale = lora.alpha / lora.rank
    changed = {
        stack: {
            **frozen[stack],
            **{
                name: Adapted(frozen[stack][name], factors["a"], factors["b"], scale)
                for name, factors in adapters.items()
            },
        }
        for stack, adapters in trainable.items()
    }
    return {**frozen, **changed}


def split(params: Tree) -> tuple[Tree, Tree]:
    """The trainable and the frozen partition, the latter empty without adapters."""
    adapters = {
        stack: {
            name: {"a": weight.a, "b": weight.b}
            for name, weight in tree.items()
            if isinstance(weight, Adapted)
        }
        for stack, tree in params.items()
        if isinstance(tree, dict)
    }
    adapters = {stack: adapted for stack, adapted in adapters.items() if adapted}
    return (adapters, base(params)) if adapters else (params, {})


def base(params: Tree) -> Tree:
    """The weights without their adapters."""
    return _map(lambda leaf: leaf.weight if isinstance(leaf, Adapted) else leaf, params)


def merge(params: Tree, dtype: jnp.dtype) -> Tree:
    """Plain weights of the given type with the adapters' changes in them, added in float32."""
    return _map(lambda leaf: merge_weight(leaf, dtype), params)


def merge_weight(weight: Array | Nf4 | Adapted, dtype: jnp.dtype) -> Array:
    """As `merge`, one weight that is stacked over layers."""
    if not isinstance(weight, Adapted):
        return dequantize(weight, dtype)

    def merge_layer(layer: Adapted) -> Array:
        change = jnp.tensordot(layer.a, layer.b, axes=1)
        return (dequantize(layer.weight, jnp.float32) + layer.scale * change).astype(dtype)

    return jax.lax.map(merge_layer, weight)  # float32 of one layer at a time


def cast(params: Tree, dtype: jnp.dtype) -> Tree:
    """The tree with its numbers in the given type, adapters apart and four bits as they are."""

    def change(leaf: Array | Nf4 | Adapted) -> Array | Nf4 | Adapted:
        if isinstance(leaf, Adapted):
            factors = leaf.a.astype(dtype), leaf.b.astype(dtype)
            return Adapted(cast(leaf.weight, dtype), *factors, leaf.scale)
        return leaf if isinstance(leaf, Nf4) else leaf.astype(dtype)

    return _map(change, params)


def is_weight(node: object) -> bool:
    """For trees in which a weight is a leaf, whatever it consists of."""
    return isinstance(node, Adapted | Nf4)


def _map(function: Callable[[PyTree], PyTree], params: Tree) -> Tree:
    return jax.tree.map(function, params, is_leaf=is_weight)
