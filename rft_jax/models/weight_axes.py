"""Which weights are matrices: by name the axes that each is summed over when it is multiplied.

The other axes are its output channels, but for layers and experts, over which it is stacked.
"""

from collections.abc import Callable
from typing import Any

INPUTS = {
    "embed_VD": "D",
    "head_VD": "D",
    "q_DKMQ": "D",
    "k_DKQ": "D",
    "v_DKQ": "D",
    "out_KMQD": "KMQ",
    "gate_DF": "D",
    "up_DF": "D",
    "down_FD": "F",
    "gate_EDF": "D",
    "up_EDF": "D",
    "down_EFD": "F",
}
STACKED = "E"  # experts; layers have no letter


def over_matrices(
    tree: Any,
    function: Callable[[Any, tuple[int, ...], tuple[int, ...]], Any],
    other: Callable[[Any], Any] = lambda leaf: leaf,
) -> Any:
    """Applies a function to the matrices of a tree, and `other` to what is none.

    Args:
        tree: Of a model's weights, or of what belongs to each.
        function: Of a leaf, the places of its input axes and those of its output channels.
    """

    def change(name: str, leaf: Any, stacked: int) -> Any:
        if isinstance(leaf, dict):
            return {key: change(key, value, 1) for key, value in leaf.items()}
        if name not in INPUTS:
            return other(leaf)
        axes = dict(enumerate(name.rpartition("_")[2], start=stacked))
        inputs = tuple(at for at, letter in axes.items() if letter in INPUTS[name])
        outputs = tuple(at for at, letter in axes.items() if letter not in INPUTS[name] + STACKED)
        return function(leaf, inputs, outputs)

    return {key: change(key, value, 0) for key, value in tree.items()}
