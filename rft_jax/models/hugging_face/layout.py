"""How the decoder's arrays lie in a checkpoint's tensors.

An array of ours stacks the tensors of all layers (and experts), has its axes in another order than
the tensor and does not merge them: `q_DKMQ` [L, D, K, M, Q] is L matrices of K x M x Q rows and D
columns.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from rft_jax.models.families import Family, WeightMap
from rft_jax.models.families.base import HALVES
from rft_jax.models.hugging_face.tensor_files import TensorFiles
from rft_jax.models.layer_kinds import stacks
from rft_jax.models.lora import base, is_weight
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
    def matrices(self) -> int:
        """How many leading axes of our array count matrices: layers and experts."""
        return len(self.axes) - len(self.axes.lstrip("LE"))

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        sizes = self._sizes
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

    def tensors(
        self, array: np.ndarray, begun: dict[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor of our array that is complete, by name.

        Args:
            array: Ours.
            begun: Tensors that lack one of two arrays; those that lack this one leave it, and those
                that lack another come to it.
        """
        letters = self.weight.axes.replace(" ", "")
        for position in np.ndindex(self.shape[: self.stacked]):
            name, values = self.name(*position), array[position].transpose(self._order)
            if not self.weight.half:
                yield name, np.ascontiguousarray(values.reshape(self.tensor_shape))
                continue
            other = begun.pop(name, None)
            tensor = np.empty(self.tensor_shape, array.dtype) if other is None else other
            unmerged = tensor.reshape([self._sizes[letter] for letter in letters])
            unmerged[tuple(int(x) if x in HALVES else slice(None) for x in letters)] = values
            if other is None:
                begun[name] = tensor
            else:
                yield name, tensor

    @property
    def _sizes(self) -> dict[str, int]:
        """That of each letter."""
        return dict(zip(self.axes, self.shape, strict=True)) | dict.fromkeys(HALVES, 2)

    @property
    def _order(self) -> list[int]:
        """The permutation of our axes, without the stacked ones, to the tensor's order."""
        own = self.axes[self.stacked :]
        letters = self.weight.axes.replace(" ", "")
        return [own.index(letter) for letter in letters if letter not in HALVES]

    def _read_tensor(
        self,
        files: TensorFiles,
        name: str,
        bounds: dict[str, tuple[int, int]],
        target: np.ndarray,
    ) -> None:
        """Copies a slice of a tensor into a view of our array with the tensor's axes, unmerged."""
        sizes = self._sizes
        slices, shape, inside = [], [], []
        for axis in self.weight.axes.split():
            leading, *merged = axis.lstrip(HALVES)
            start, stop = bounds[leading]
            span = math.prod(sizes[letter] for letter in merged)
            before = 0
            if axis[0] in HALVES:  # the other array's lie before or behind
                before = int(axis[0]) * sizes[leading] * span
            slices.append(slice(before + start * span, before + stop * span))
            shape += [stop - start, *(sizes[letter] for letter in merged)]
            inside += [slice(None), *(_within(bounds, letter) for letter in merged)]
        span = (slices[0].stop - slices[0].start) // shape[0]
        step = max(1, CHUNK_BYTES * shape[0] // (4 * math.prod(shape)))
        for row in range(0, shape[0], step):
            rows = min(step, shape[0] - row)
            first = slices[0].start + row * span
            values = files.read(name, (slice(first, first + rows * span), *slices[1:]))
            target[row : row + rows] = values.reshape(rows, *shape[1:])[tuple(inside)]


def _within(bounds: dict[str, tuple[int, int]], letter: str) -> slice | int:
    return int(letter) if letter in HALVES else slice(*bounds[letter])


def tensors_of(
    tree: Sequence[Layout], arrays: Iterable[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of arrays, by name, each when all that it holds is there.

    Args:
        tree: The arrays' layouts.
        arrays: Ours, in the same order; one at a time is asked for.
    """
    begun: dict[str, np.ndarray] = {}
    for layout, array in zip(tree, arrays, strict=True):
        yield from layout.tensors(array, begun)


def layouts(family: Family, model: Model) -> PyTree:
    """The tree of the model's weights, without adapters, with a `Layout` for each."""
    shapes = base(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    places = stacks(model.config)

    def layout(path: tuple, leaf: jax.ShapeDtypeStruct) -> Layout:
        *stack, name = (key.key for key in path)
        layers = places[stack[0]].layers if stack else ()
        axes = name.rpartition("_")[2]
        return Layout(family.weights[name], ("L" if stack else "") + axes, leaf.shape, layers)

    return jax.tree.map_with_path(layout, shapes, is_leaf=is_weight)
