"""Whether a model's weights can be split over a mesh."""

import jax

from rft_jax.config.validate import validate_partition
from rft_jax.models.model import Model
from rft_jax.parallel.mesh import AnyMesh
from rft_jax.parallel.rules import Rules


def check_partition(model: Model, mesh: AnyMesh, rules: Rules) -> None:
    """Refuses a mesh whose axes do not divide the weights' that they split.

    Args:
        rules: The learner's; the rollout's split no more.

    Raises:
        InputError: Naming the mesh axis, the model's setting and its size.
    """
    shapes = jax.tree.leaves(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    axes = jax.tree.leaves(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    sizes = {
        (name, size)
        for shape, names in zip(shapes, axes, strict=True)
        for size, name in zip(shape.shape, names, strict=True)
    }
    validate_partition(model.config.name, sorted(sizes, key=str), rules, mesh.shape)
