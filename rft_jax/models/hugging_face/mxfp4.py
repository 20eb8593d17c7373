"""Weights in four bits as gpt-oss has them, MXFP4, which become numbers again where they are read.

A tensor NAME of experts [E, I, O] lies as NAME_blocks [E, O, I / 32, 16], two inputs a byte, and
NAME_scales [E, O, I / 32], an exponent for 32 inputs
(https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf).
"""

import numpy as np

BLOCKS, SCALES = "_blocks", "_scales"
GROUP = 32  # inputs with one exponent
BIAS = 127  # of exponents
_HALF = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = np.array([*_HALF, *(-value for value in _HALF)], np.float32)


def shape_of(blocks: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape [E, I, O] of what such tensors stand for; None if they are none."""
    if len(blocks) != 4 or blocks[:-1] != scales or 2 * blocks[-1] != GROUP:
        return None
    experts, outputs, groups, _ = blocks
    return experts, groups * GROUP, outputs


def groups_of(inputs: slice) -> slice:
    """The groups in which a range of inputs lies."""
    return slice(inputs.start // GROUP, -(-inputs.stop // GROUP))


def unpack(blocks_EOGX: np.ndarray, scales_EOG: np.ndarray, inputs: slice) -> np.ndarray:
    """Numbers, exact in float32 [E, I, O] and in bfloat16.

    Args:
        blocks_EOGX: uint8, of the groups in which the inputs lie; the first of two in the low bits.
        scales_EOG: uint8.
        inputs: Which ones.
    """
    experts, outputs, _ = scales_EOG.shape
    values = np.empty((*blocks_EOGX.shape, 2), np.float32)
    values[..., 0] = VALUES[blocks_EOGX & 15]
    values[..., 1] = VALUES[blocks_EOGX >> 4]
    exponents = scales_EOG.astype(np.int32)[..., None, None] - BIAS
    values_EOI = np.ldexp(values, exponents).reshape(experts, outputs, -1)
    first = inputs.start % GROUP
    return values_EOI[..., first : first + inputs.stop - inputs.start].swapaxes(1, 2)
