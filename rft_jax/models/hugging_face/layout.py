"""How the decoder's arrays lie in a checkpoint's tensors.

An array of ours stacks the tensors of all layers (and experts), has its axes in another order than
the tensor and does not merge them: `q_DKMQ` [L, D, K, M, Q] is L matrices of K x M x Q rows and D
columns.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from rft_jax.models.families import Family, WeightMap
from rft_jax.models.hugging_face.tensor_files import TensorFiles
from rft_jax.models.layer_kinds import stacks
from rft_jax.models.lora import base
from rft_jax.models.model import Model
from rft_jax.utils.types import PyTree

CHUNK_BYTES = 32 << 20  # of a tensor, in memory at once


@dataclass(frozen=True)
class Layout:
    """One array of ours and the tensors that it stacks."""

    weight: WeightMap
    axes: str  # a letter for each axis of our array
    shape: tuple[int, ...]
    layers: tuple[int, ...] = ()  # along L, their numbers in the checkpoint

    @property
    def stacked(self) -> int:
        """How many leading axes of our array count tensors."""
        return self.weight.name.count("{")

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        sizes = dict(zip(self.axes, self.shape, strict=True))
        return tuple(math.prod(sizes[x] for x in axis) for axis in self.weight.axes.split())

    def name(self, *position: int) -> str:
        """The tensor at a position of the stacked axes."""
        numbers = dict(zip(self.axes, position, strict=False))
        if "L" in numbers:
            numbers["L"] = self.layers[numbers["L"]]
        return self.weight.name.format(**numbers)

    def names(self) -> Iterator[str]:
        """All tensors."""
        return (self.name(*position) for position in np.ndindex(self.shape[: self.stacked]))

    def read(self, files: TensorFiles, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """A part of our array, e.g. one device's shard.

        Besides the part itself a chunk of one tensor is in memory.

        Args:
            index: A slice for each axis of our array.
            dtype: The part's.
        """
        bounds = [s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True)]
        part = np.empty([stop - start for start, stop in bounds], dtype)
        inner = dict(zip(self.axes, bounds, strict=True))
        for position in np.ndindex(part.shape[: self.stacked]):
            name = self.name(*(start + i for (start, _), i in zip(bounds, position, strict=False)))
            self._read_tensor(files, name, inner, part[position].transpose(self._order))
        return part

    def tensors(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of our array, by name."""
        for position in np.ndindex(self.shape[: self.stacked]):
            tensor = array[position].transpose(self._order).reshape(self.tensor_shape)
            yield self.name(*position), np.ascontiguousarray(tensor)

    @property
    def _order(self) -> list[int]:
        """The permutation of our axes, without the stacked ones, to the tensor's order."""
        own = self.axes[self.stacked :]
        return [own.index(letter) for letter in self.weight.axes.replace(" ", "")]

    def _read_tensor(
        self,
        files: TensorFiles,
        name: str,
        bounds: dict[str, tuple[int, int]],
        target: np.ndarray,
    ) -> None:
        """Copies a slice of a tensor into a view of our array with the tensor's axes, unmerged."""
        sizes = dict(zip(self.axes, self.shape, strict=True))
        slices, shape, inside = [], [], []
        for leading, *merged in self.weight.axes.split():
            start, stop = bounds[leading]
            span = math.prod(sizes[letter] for letter in merged)
            slices.append(slice(start * span, stop * span))
            shape += [stop - start, *(sizes[letter] for letter in merged)]
            inside += [slice(None), *(slice(*bounds[letter]) for letter in merged)]
        span = (slices[0].stop - slices[0].start) // shape[0]
        step = max(1, CHUNK_BYTES * shape[0] // (4 * math.prod(shape)))
        for row in range(0, shape[0], step):
            rows = min(step, shape[0] - row)
            first = slices[0].start + row * span
            values = files.read(name, (slice(first, first + rows * span), *slices[1:]))
            target[row : row + rows] = values.reshape(rows, *shape[1:])[tuple(inside)]


def layouts(family: Family, model: Model) -> PyTree:
    """The tree of the model's weights, without adapters, with a `Layout` for each."""
    shapes = base(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    places = stacks(model.config)

    def layout(path: tuple, leaf: jax.ShapeDtypeStruct) -> Layout:
        *stack, name = (key.key for key in path)
        layers = places[stack[0]].layers if stack else ()
        axes = name.rpartition("_")[2]
        return Layout(family.weights[name], ("L" if stack else "") + axes, leaf.shape, layers)

    return jax.tree.map_with_path(layout, shapes)
