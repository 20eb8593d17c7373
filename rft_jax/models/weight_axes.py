"""Which weights are matrices: by name the axes that each is summed over when it is multiplied.

The other axes are its output channels, but for layers and experts, over which it is stacked.
"""

from collections.abc import Callable

from rft_jax.utils.types import PyTree

INPUTS = {
    "embed_VD": "D",
    "head_VD": "D",
    "q_DKMQ": "D",
    "k_DKQ": "D",
    "v_DKQ": "D",
    "out_KMQD": "KMQ",
    "delta_qkv_DC": "D",
    "delta_gate_DHY": "D",
    "delta_out_HYD": "HY",
    "gate_DF": "D",
    "up_DF": "D",
    "down_FD": "F",
    "gate_EDF": "D",
    "up_EDF": "D",
    "down_EFD": "F",
    "per_layer_VX": "X",
    "per_layer_from_DLI": "D",
    "per_layer_gate_DI": "D",
    "per_layer_out_ID": "I",
    "shared_gate_DF": "D",
    "shared_up_DF": "D",
    "shared_down_FD": "F",
    "conv_in_DXC": "D",
    "conv_out_CD": "C",
}
# Gates of Gated DeltaNet are products too, but so small and so steep that they stay in many bits.
GATES = {"delta_beta_DH": "D", "delta_decay_DH": "D"}
STACKED = "E"  # experts; layers have no letter
VOCABULARY = "V"


def over_matrices(
    tree: PyTree,
    function: Callable[[PyTree, tuple[int, ...], tuple[int, ...]], PyTree],
    other: Callable[[PyTree], PyTree] = lambda leaf: leaf,
    *,
    tables: bool = True,
) -> PyTree:
    """Applies a function to the matrices of a tree, and `other` to what is none.

    Args:
        tree: A model's weights, or what belongs to each of them.
        function: Takes a matrix, the positions of its input axes and those of its output channels.
        other: Takes any other leaf.
        tables: Whether those with a row for each token of the vocabulary are among the matrices.
    """

    def change(name: str, leaf: PyTree, stacked: int) -> PyTree:
        if isinstance(leaf, dict):
            return {key: change(key, value, 1) for key, value in leaf.items()}
        letters = name.rpartition("_")[2]
        if name not in INPUTS or (not tables and VOCABULARY in letters):
            return other(leaf)
        axes = dict(enumerate(letters, start=stacked))
        inputs = tuple(at for at, letter in axes.items() if letter in INPUTS[name])
        outputs = tuple(at for at, letter in axes.items() if letter not in INPUTS[name] + STACKED)
        return function(leaf, inputs, outputs)

    return {key: change(key, value, 0) for key, value in tree.items()}
