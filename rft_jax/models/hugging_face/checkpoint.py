"""What a checkpoint's directory holds, checked before any weight is read."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from rft_jax.config import ModelConfig
from rft_jax.errors import InputError
from rft_jax.models.families import FAMILIES, Family, Settings
from rft_jax.models.hugging_face.layout import layouts
from rft_jax.models.hugging_face.tensor_files import Tensor, find_tensors
from rft_jax.models.model import build_model

CONFIG_FILE = "config.json"
SHOWN = 3  # names in a complaint


@dataclass(frozen=True)
class Checkpoint:
    """A directory with the weights of a supported architecture, one for each that it needs."""

    directory: Path
    family: Family
    config: ModelConfig
    vocab_size: int  # rows of the embedding, often more than the tokenizer has tokens
    tensors: dict[str, Tensor]

    def check_tokenizer(self, tokens: int) -> None:
        """Refuses a tokenizer with ids that have no embedding.

        Args:
            tokens: Its number of ids.

        Raises:
            InputError: naming both numbers.
        """
        if tokens > self.vocab_size:
            raise InputError(
                f"{self.directory}: the tokenizer has {tokens} tokens, the model only "
                f"{self.vocab_size} (vocab_size in {CONFIG_FILE}); use the model's own tokenizer"
            )


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a Hugging Face checkpoint, supported or not, and not a run's."""
    path = directory / CONFIG_FILE
    return path.is_file() and "architectures" in _read_json(path)


def open_checkpoint(directory: Path, name: str = "policy") -> Checkpoint:
    """Reads the configuration and the headers of the weights' files.

    Args:
        directory: With config.json and safetensors files.
        name: Of the resulting `ModelConfig`.

    Raises:
        InputError: for an unsupported architecture or setting, for a damaged file, and for
            tensors that are missing, unknown or of another shape, by name.
    """
    family, settings = read_family(directory)
    config = dataclasses.replace(family.read_config(settings), name=name)
    vocab_size = settings.integer("vocab_size")
    tensors = find_tensors(directory)
    _check_tensors(directory, family, config, vocab_size, tensors)
    return Checkpoint(directory, family, config, vocab_size, tensors)


def read_config(directory: Path) -> tuple[ModelConfig, int]:
    """The architecture, and the rows of the embedding, without looking at the weights.

    Raises:
        InputError: as `read_family`.
    """
    family, settings = read_family(directory)
    return family.read_config(settings), settings.integer("vocab_size")


def read_family(directory: Path) -> tuple[Family, Settings]:
    """The family of a checkpoint, and its configuration as it is written.

    Raises:
        InputError: if there is no readable config.json, or its architecture is not supported.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path}: the file is missing; give the directory of a checkpoint")
    settings = Settings(_read_json(path), str(path))
    named = settings.values.get("architectures") or ["none"]
    if named[0] not in FAMILIES:
        raise InputError(
            f"{path}: the architecture {named[0]} is not supported; supported are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[named[0]], settings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values


def _check_tensors(
    directory: Path,
    family: Family,
    config: ModelConfig,
    vocab_size: int,
    tensors: dict[str, Tensor],
) -> None:
    expected = {
        name: layout.tensor_shape
        for layout in jax.tree.leaves(layouts(family, build_model(config, vocab_size)))
        for name in layout.names()
    }
    known = expected.keys() | {family.weights["head_VD"].name}  # a copy if embeddings are tied
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"{_some(missing)} missing")
    if unknown := sorted(name for name in tensors.keys() - known if not _ignored(name)):
        problems.append(f"{_some(unknown)} unknown to {family.architecture}")
    wrong = [
        f"{name} of shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if wrong:
        problems.append(_some(wrong))
    if problems:
        raise InputError(
            f"{directory}: the tensors do not fit {CONFIG_FILE}: {'; '.join(problems)}"
        )


def _ignored(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")  # a constant that old versions saved


def _some(things: Sequence[str]) -> str:
    shown = ", ".join(things[:SHOWN])
    return f"{shown} and {len(things) - SHOWN} more" if len(things) > SHOWN else shown
