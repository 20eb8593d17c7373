"""The tensors of a checkpoint's safetensors files, read in pieces.

The library maps a file into memory, where what was read stays resident while the file is open;
files are therefore reopened after `RESIDENT_BYTES`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from rft_jax.models.hugging_face import mxfp4
from rft_jax.utils.errors import InputError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DTYPES = ("F32", "BF16", "F16")
RESIDENT_BYTES = 64 << 20


class Tensor(NamedTuple):
    """Where a tensor is, and what it is."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # in safetensors' names
    scales: "Tensor | None" = None  # of one in four bits (`mxfp4`), with whose blocks it lies


class TensorFiles:
    """Reads slices of tensors; each call reads its bytes and no others."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors
        self._path: Path | None = None
        self._file: safe_open | None = None
        self._resident = 0

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A contiguous array with the tensor's own type, or float32 of one in four bits.

        Args:
            index: A slice of each axis, with both ends.
        """
        tensor = self.tensors[name]
        if tensor.scales is None:
            return self._read(tensor, index)
        experts, inputs, outputs = index
        packed = experts, outputs, mxfp4.groups_of(inputs)
        blocks_EOGX = self._read(tensor, (*packed, slice(None)))
        return mxfp4.unpack(blocks_EOGX, self._read(tensor.scales, packed), inputs)

    def _read(self, tensor: Tensor, index: tuple[slice, ...]) -> np.ndarray:
        path, name, *_ = tensor
        if self._file is None or path != self._path or self._resident > RESIDENT_BYTES:
            self._path, self._file, self._resident = path, _open(path), 0
        values = self._file.get_slice(name)[index]
        self._resident += values.nbytes
        return values


def find_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's files, by name.

    Raises:
        InputError: If a file is missing or damaged, or holds numbers of an unsupported type.
    """
    return read_headers(_files(directory))


def _files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if not index.exists():
        return [directory / SINGLE_FILE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{index}: not an index of safetensors files ({error!r})") from error
    return [directory / name for name in sorted(names)]


def read_headers(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of some files, by name.

    Raises:
        InputError: As `find_tensors`.
    """
    tensors = _with_scales({name: tensor for path in paths for name, tensor in _header(path)})
    for name, (path, _, _, dtype, scales) in tensors.items():
        if dtype not in DTYPES and scales is None:
            raise InputError(
                f"{path}: the tensor {name} has the type {dtype}, only {', '.join(DTYPES)} can be "
                "read; use the checkpoint that is not quantized"
            )
    return tensors


def _header(path: Path) -> Iterable[tuple[str, Tensor]]:
    file = _open(path)
    for name in file.keys():
        piece = file.get_slice(name)
        yield name, Tensor(path, name, tuple(piece.get_shape()), piece.get_dtype())


def _with_scales(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with one in four bits for its blocks and scales."""
    found = dict(tensors)
    for name, blocks in tensors.items():
        whole = name.removesuffix(mxfp4.BLOCKS)
        scales = tensors.get(f"{whole}{mxfp4.SCALES}")
        if whole == name or scales is None or (blocks.dtype, scales.dtype) != ("U8", "U8"):
            continue
        if (shape := mxfp4.shape_of(blocks.shape, scales.shape)) is not None:
            del found[name], found[f"{whole}{mxfp4.SCALES}"]
            found[whole] = blocks._replace(shape=shape, scales=scales)
    return found


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the file is missing; weights are read from there, or from the files that "
            f"{INDEX_FILE} names"
        ) from error
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({error}); download it again"
        ) from error
