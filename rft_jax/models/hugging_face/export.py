"""Writes a model as a directory that transformers loads."""

import dataclasses
import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from rft_jax.config import NOT_OF_SOURCE, ModelConfig
from rft_jax.models.families import Settings
from rft_jax.models.hugging_face.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    adapter_layouts,
    adapter_settings,
)
from rft_jax.models.hugging_face.checkpoint import CONFIG_FILE, read_family
from rft_jax.models.hugging_face.describe import canonical
from rft_jax.models.hugging_face.layout import Layout, layouts, tensors_of
from rft_jax.models.hugging_face.tensor_files import INDEX_FILE, SINGLE_FILE
from rft_jax.models.lora import is_weight, merge_weight, split
from rft_jax.models.model import Model, Params
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_json

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
        params: Its weights; one stacked array at a time is brought to the host, with the adapter
            merged into it.
        source: The checkpoint that the model comes from, or a directory that `copy_description`
            made of it; of a model without one, a directory with what `describe` says of it.
        directory: Created, must be empty.
        dtype: The weights' type in the files, bfloat16 or float32.
        file_bytes: Tensors go to several files of about this size.

    Raises:
        InputError: If `source` describes another architecture than the model's, or `directory`
            is not empty.
    """
    check_empty(directory)
    family, settings = read_family(source)
    _check_same(model, family.read_config(settings), settings)
    copy_description(source, directory)
    (directory / ADAPTER_CONFIG).unlink(missing_ok=True)  # of an adapter, which is merged
    name = jnp.dtype(dtype).name
    key = "torch_dtype" if "torch_dtype" in settings.values else "dtype"  # before version 4.56
    plain = settings.without("quantization_config")
    write_json(directory / CONFIG_FILE, {**plain.values, key: name})
    tree = jax.tree.leaves(layouts(family, model))
    counts = _plan(tree, jnp.dtype(dtype).itemsize, file_bytes)
    leaves = jax.tree.leaves(params, is_leaf=is_weight)
    merged = (np.asarray(merge_weight(leaf, dtype)) for leaf in leaves)
    tensors = tensors_of(tree, merged)
    _write_tensors(tensors, counts, directory)


def export_adapter(
    model: Model,
    params: Params,
    source: Path,
    base: str,
    directory: Path,
    *,
    dtype: jnp.dtype = jnp.float32,
) -> None:
    """Writes a model's adapter in PEFT's format, with tokenizer and templates.

    Args:
        model: The decoder, with adapters.
        params: Its weights.
        source: Describes the base, as for `export`.
        base: The model under the adapter, as `locate` takes it.
        directory: Created, must be empty.
        dtype: The adapter's type in the file, float32 or bfloat16.

    Raises:
        InputError: As `export`.
    """
    assert model.config.lora is not None, "the model has no adapter"
    check_empty(directory)
    family, _ = read_family(source)
    copy_description(source, directory)
    (directory / CONFIG_FILE).unlink()  # of the base; the adapter has its own
    write_json(directory / ADAPTER_CONFIG, adapter_settings(model.config.lora, family, base))
    adapters, _ = split(params)
    arrays = (np.asarray(leaf.astype(dtype)) for leaf in jax.tree.leaves(adapters))
    tensors = tensors_of(jax.tree.leaves(adapter_layouts(family, model)), arrays)
    _save_file(dict(tensors), directory / ADAPTER_FILE)


def check_empty(directory: Path) -> None:
    """Refuses a directory with something in it.

    Raises:
        InputError: Naming it.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: not empty; choose a new directory for the export")


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
    free = {name: getattr(model.config, name) for name in NOT_OF_SOURCE}
    described = canonical(dataclasses.replace(config, **free)), settings.integer("vocab_size")
    if described != (canonical(model.config), model.vocab_size):
        raise InputError(f"{settings.where}: describes another model than the one to export")


def _plan(tree: list[Layout], itemsize: int, file_bytes: int) -> list[int]:
    """How many tensors go to each file, in the order of `tensors_of`."""
    counts, size = [0], 0
    begun: set[str] = set()
    for layout in tree:
        tensor_bytes = math.prod(layout.tensor_shape) * itemsize
        for name in layout.names():
            if layout.weight.half and name not in begun:
                begun.add(name)
                continue
            if counts[-1] and size + tensor_bytes > file_bytes:
                counts, size = [*counts, 0], 0
            counts[-1] += 1
            size += tensor_bytes
    return counts


def _write_tensors(
    tensors: Iterator[tuple[str, np.ndarray]], counts: list[int], directory: Path
) -> None:
    """Files with so many tensors each and, for more than one file, the index of all of them."""
    total, where = 0, {}
    for number, count in enumerate(counts, start=1):
        name = f"model-{number:05}-of-{len(counts):05}.safetensors"
        name = SINGLE_FILE if len(counts) == 1 else name
        content = dict(itertools.islice(tensors, count))
        _save_file(content, directory / name)
        total += sum(tensor.nbytes for tensor in content.values())
        where |= dict.fromkeys(content, name)
    if len(counts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(directory / INDEX_FILE, index)


def _save_file(tensors: dict[str, np.ndarray], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)  # the library's file is for nobody but the user
