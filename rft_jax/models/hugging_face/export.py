"""Writes a model as a directory that transformers loads."""

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.numpy import save_file

from rft_jax.config import ModelConfig
from rft_jax.errors import InputError
from rft_jax.models.families import Settings
from rft_jax.models.hugging_face.checkpoint import CONFIG_FILE, read_family
from rft_jax.models.hugging_face.layout import Layout, layouts
from rft_jax.models.hugging_face.tensor_files import INDEX_FILE, SINGLE_FILE
from rft_jax.models.model import Model, Params

DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")  # all but the weights
FILE_BYTES = 2 << 30


def export(
    model: Model,
    params: Params,
    source: Path,
    directory: Path,
    *,
    dtype: jnp.dtype = jnp.bfloat16,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Writes weights, configuration, tokenizer and templates.

    Args:
        model: The decoder.
        params: Its weights; one stacked array at a time is brought to the host.
        source: The checkpoint that the model comes from, or a directory that `copy_description`
            made of it.
        directory: Created, must be empty.
        dtype: bfloat16 or float32, of the weights.
        file_bytes: Tensors go to several files of about this size.

    Raises:
        InputError: if `source` describes another architecture than the model's, or `directory`
            is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InputError(f"{directory}: not empty; choose a new directory for the export")
    family, settings = read_family(source)
    _check_same(model, family.read_config(settings), settings)
    copy_description(source, directory)
    name = jnp.dtype(dtype).name
    key = "torch_dtype" if "torch_dtype" in settings.values else "dtype"  # before version 4.56
    _write_json(directory / CONFIG_FILE, {**settings.values, key: name})
    tree = jax.tree.leaves(layouts(family, model))
    counts = _plan(tree, jnp.dtype(dtype).itemsize, file_bytes)
    tensors = _tensors(tree, jax.tree.leaves(params), np.dtype(dtype))
    _write_tensors(tensors, counts, directory)


def copy_description(source: Path, directory: Path) -> None:
    """Copies what describes a checkpoint but for the weights: configuration, tokenizer, templates.

    Args:
        source: The checkpoint.
        directory: Created if needed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in DESCRIPTION:
        for path in source.glob(pattern):
            if path.name != INDEX_FILE:
                shutil.copyfile(path, directory / path.name)


def _check_same(model: Model, config: ModelConfig, settings: Settings) -> None:
    """What describes the model, apart from what only concerns how it is run."""
    free = {
        name: getattr(model.config, name) for name in ("name", "source", "remat", "compute_dtype")
    }
    described = dataclasses.replace(config, **free), settings.integer("vocab_size")
    if described != (model.config, model.vocab_size):
        raise InputError(f"{settings.place}: describes another model than the one to export")


def _plan(tree: list[Layout], itemsize: int, file_bytes: int) -> list[int]:
    """How many tensors go to each file, in the order of `_tensors`."""
    counts, size = [0], 0
    for layout in tree:
        tensor_bytes = math.prod(layout.tensor_shape) * itemsize
        for _ in layout.names():
            if counts[-1] and size + tensor_bytes > file_bytes:
                counts, size = [*counts, 0], 0
            counts[-1] += 1
            size += tensor_bytes
    return counts


def _tensors(
    tree: list[Layout], leaves: list[Array], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    for layout, leaf in zip(tree, leaves, strict=True):
        for name, tensor in layout.tensors(np.asarray(leaf)):
            yield name, tensor.astype(dtype, copy=False)


def _write_tensors(
    tensors: Iterator[tuple[str, np.ndarray]], counts: list[int], directory: Path
) -> None:
    """Files with so many tensors each and, for more than one file, the index of all of them."""
    total, where = 0, {}
    for number, count in enumerate(counts, start=1):
        name = f"model-{number:05}-of-{len(counts):05}.safetensors"
        name = SINGLE_FILE if len(counts) == 1 else name
        content = dict(itertools.islice(tensors, count))
        save_file(content, directory / name, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in content.values())
        where |= dict.fromkeys(content, name)
    if len(counts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        _write_json(directory / INDEX_FILE, index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
