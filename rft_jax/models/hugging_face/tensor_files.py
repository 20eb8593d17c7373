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


class TensorFiles:
    """Reads slices of tensors; each call reads its bytes and no others."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors
        self._path: Path | None = None
        self._file: safe_open | None = None
        self._resident = 0

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A contiguous array with the tensor's own type."""
        path, name, *_ = self.tensors[name]
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
    return {name: tensor for path in _files(directory) for name, tensor in read_header(path)}


def _files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if not index.exists():
        return [directory / SINGLE_FILE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{index}: not an index of safetensors files ({error!r})") from error
    return [directory / name for name in sorted(names)]


def read_header(path: Path) -> Iterable[tuple[str, Tensor]]:
    """The tensors of one file.

    Raises:
        InputError: As `find_tensors`.
    """
    file = _open(path)
    for name in file.keys():
        piece = file.get_slice(name)
        dtype = piece.get_dtype()
        if dtype not in DTYPES:
            raise InputError(
                f"{path}: the tensor {name} has the type {dtype}, only {', '.join(DTYPES)} can be "
                "read; use the checkpoint that is not quantized"
            )
        yield name, Tensor(path, name, tuple(piece.get_shape()), dtype)


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
