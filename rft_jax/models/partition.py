"""Whether a model's weights can be split over a mesh."""

import jax
from jax.sharding import Mesh

from rft_jax.models.model import Model
from rft_jax.parallel.rules import Rules
from rft_jax.utils.errors import InputError

# What sets the size of a logical axis; the others are never split.
SETTINGS = {
    "vocab": "the vocabulary",
    "embed": "width",
    "num_kv_heads": "num_kv_heads",
    "mlp": "intermediate_size",
}


def check_partition(model: Model, mesh: Mesh, rules: Rules) -> None:
    """Refuses a mesh whose axes do not divide the weights' that they split.

    Args:
        rules: The learner's; the rollout's split no more.

    Raises:
        InputError: naming the mesh axis, the model's setting and its size.
    """
    shapes = jax.tree.leaves(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    axes = jax.tree.leaves(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    for shape, names in zip(shapes, axes, strict=True):
        for size, name in zip(shape.shape, names, strict=True):
            parts = 1 if rules[name] is None else mesh.shape[rules[name]]
            if size % parts:
                raise InputError(
                    f"mesh.{rules[name]}: {parts} devices cannot split {SETTINGS[name]}={size} of "
                    f"the model {model.config.name!r}; choose a divisor of {size}"
                )
