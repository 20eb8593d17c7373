"""What a checkpoint's directory holds, checked before any weight is read."""

import collections
import dataclasses
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import jax

from rft_jax.config import ModelConfig
from rft_jax.models.families import FAMILIES, WRAPPERS, Family, Settings
from rft_jax.models.hugging_face.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    adapter_layouts,
    base_of,
    is_adapter,
    read_lora,
)
from rft_jax.models.hugging_face.hub import locate
from rft_jax.models.hugging_face.layout import layouts
from rft_jax.models.hugging_face.tensor_files import Tensor, find_tensors, read_headers
from rft_jax.models.layer_kinds import stacks
from rft_jax.models.model import build_model
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject, PyTree

CONFIG_FILE = "config.json"
SHOWN = 3  # names in a complaint
# How the text's tensors begin in a model of text and images, and how alone.
PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
# Parts of such models that see images or hear, and those that guess several tokens ahead.
SENSES = ("visual", "vision_tower", "vision_embedder", "audio_tower")
SENSES += ("multi_modal_projector", "embed_vision", "embed_audio")
SKIPPED = ("mtp", *SENSES, *(f"model.{part}" for part in SENSES))
OF_KEYS = ("k_", "v_")  # how names of attention's weights begin that keys and values are made with


@dataclass(frozen=True)
class Checkpoint:
    """A directory with the weights of a supported architecture, one for each that it needs.

    Attributes:
        directory: Where the weights are; with an adapter, those of its base.
        family: The architecture.
        config: Its sizes, and those of the adapter.
        vocab_size: Rows of the embedding, often more than the tokenizer has tokens.
        tensors: Where each weight is, by the tensor's name.
        skipped: How many tensors were left out of each part that is not the text's.
        adapter: The directory of the adapter, if there is one.
        adapter_tensors: The same of the adapter's.
    """

    directory: Path
    family: Family
    config: ModelConfig
    vocab_size: int
    tensors: dict[str, Tensor]
    skipped: dict[str, int] = field(default_factory=dict)
    adapter: Path | None = None
    adapter_tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def left_out(self) -> str:
        """What of the checkpoint is not used, in words."""
        parts = ", ".join(f"{count} of {part}" for part, count in sorted(self.skipped.items()))
        return f"only the text is read; tensors left out: {parts}"

    def check_tokenizer(self, tokens: int) -> None:
        """Refuses a tokenizer with ids that have no embedding.

        Args:
            tokens: Its number of ids.

        Raises:
            InputError: Naming both numbers.
        """
        if tokens > self.vocab_size:
            raise InputError(
                f"{self.directory}: the tokenizer has {tokens} tokens, the model only "
                f"{self.vocab_size} (vocab_size in {CONFIG_FILE}); use the model's own tokenizer"
            )


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a Hugging Face checkpoint, supported or not, and not a run's.

    An adapter is one as well.
    """
    path = directory / CONFIG_FILE
    return is_adapter(directory) or path.is_file() and "architectures" in _read_json(path)


def open_checkpoint(directory: Path, name: str = "policy") -> Checkpoint:
    """Reads the configuration and the headers of the weights' files.

    Args:
        directory: With config.json and safetensors files; or with an adapter in PEFT's format,
            whose base is found by the name that it has there.
        name: The resulting `ModelConfig`'s.

    Raises:
        InputError: For an unsupported architecture or setting, for a damaged file, and for
            tensors that are missing, unknown or of another shape, by name.
    """
    if is_adapter(directory):
        return _open_adapter(directory, name)
    family, settings = read_family(directory)
    config = dataclasses.replace(family.read_config(settings), name=name)
    vocab_size = settings.integer("vocab_size")
    tensors, skipped = _text_tensors(family, find_tensors(directory))
    family = _as_packed(family, tensors)
    tree = layouts(family, build_model(config, vocab_size))
    where = f"{directory}: the tensors do not fit {CONFIG_FILE}"
    _check_tensors(where, family.architecture, tree, tensors, _unread(family, config))
    return Checkpoint(directory, family, config, vocab_size, tensors, skipped)


def _unread(family: Family, config: ModelConfig) -> set[str]:
    """Tensors that nothing reads: a head, if embeddings are tied, of which it is a copy; what would
    make keys and values in layers that have those of others."""
    shared = [stack.layers for stack in stacks(config).values() if stack.source]
    of_keys = [where for name, where in family.weights.items() if name.startswith(OF_KEYS)]
    places = [layer for layers in shared for layer in layers]
    return {family.weights["head_VD"].name} | {
        where.name.format(L=layer) for where in of_keys for layer in places
    }


def _as_packed(family: Family, tensors: dict[str, Tensor]) -> Family:
    """The family with its weights where these tensors have them."""
    packed = (weight.name.format(L=0) for weight in family.packed.values())
    if not any(name in tensors for name in packed):
        return family
    return dataclasses.replace(family, weights={**family.weights, **family.packed})


def find_base(directory: Path) -> str:
    """The model under an adapter, as `locate` takes it."""
    return base_of(_adapter_settings(directory))


def _open_adapter(directory: Path, name: str) -> Checkpoint:
    settings = _adapter_settings(directory)
    try:
        checkpoint = open_checkpoint(locate(base_of(settings)), name)
    except InputError as error:
        raise InputError(f"{settings.where}: base_model_name_or_path: {error}") from error
    lora = read_lora(settings, checkpoint.family, checkpoint.config)
    config = dataclasses.replace(checkpoint.config, lora=lora)
    tensors = read_headers([directory / ADAPTER_FILE])
    tree = adapter_layouts(checkpoint.family, build_model(config, checkpoint.vocab_size))
    where = f"{directory}: the tensors do not fit {ADAPTER_CONFIG}"
    _check_tensors(where, "the adapter", tree, tensors)
    return dataclasses.replace(
        checkpoint, config=config, adapter=directory, adapter_tensors=tensors
    )


def _adapter_settings(directory: Path) -> Settings:
    path = directory / ADAPTER_CONFIG
    return Settings(_read_json(path), str(path))


def read_config(directory: Path) -> tuple[ModelConfig, int]:
    """The architecture, and the rows of the embedding, without looking at the weights.

    Args:
        directory: With config.json, and adapter_config.json beside it for an adapter.

    Raises:
        InputError: As `read_family`.
    """
    family, settings = read_family(directory)
    config = family.read_config(settings)
    if is_adapter(directory):
        lora = read_lora(_adapter_settings(directory), family, config)
        config = dataclasses.replace(config, lora=lora)
    return config, settings.integer("vocab_size")


def read_family(directory: Path) -> tuple[Family, Settings]:
    """The family of a checkpoint, and its configuration as it is written.

    Raises:
        InputError: If there is no readable config.json, or its architecture is not supported.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path}: the file is missing; give the directory of a checkpoint")
    settings = Settings(_read_json(path), str(path))
    named = (settings.values.get("architectures") or ["none"])[0]
    if named in WRAPPERS:
        return WRAPPERS[named], _text_settings(settings, WRAPPERS[named])
    if named not in FAMILIES:
        raise InputError(
            f"{path}: the architecture {named} is not supported; supported are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[named], settings


def _text_settings(settings: Settings, family: Family) -> Settings:
    """The settings of the text in those of a model of text and images, as if it stood alone."""
    settings.refuse("quantization_config")
    text = settings.section("text_config")
    tied: JsonObject = {}
    if "tie_word_embeddings" in settings.values:
        tied["tie_word_embeddings"] = settings.values["tie_word_embeddings"]
    values: JsonObject = tied | text.values
    values |= {"architectures": [family.architecture], "model_type": family.model_type}
    return Settings(values, text.where)


def _text_tensors(
    family: Family, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The text's tensors under the names that they have alone, and what else there is."""
    if not family.wrapper:
        return tensors, {}
    kept, skipped = {}, collections.Counter[str]()
    for name, tensor in tensors.items():
        if part := next((part for part in SKIPPED if name.startswith(f"{part}.")), None):
            skipped[part] += 1
            continue
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
        kept[PREFIXES.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return kept, dict(skipped)


def _read_json(path: Path) -> JsonObject:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); it is damaged, copy it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values


def _check_tensors(
    complaint: str,
    owner: str,
    tree: PyTree,
    tensors: dict[str, Tensor],
    ignored: Set[str] = frozenset(),
) -> None:
    """Whether a file has the tensors of a tree of layouts."""
    expected = {
        name: layout.tensor_shape for layout in jax.tree.leaves(tree) for name in layout.names()
    }
    known = expected.keys() | ignored
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"{_some(missing)} missing")
    if unknown := sorted(name for name in tensors.keys() - known if not _ignored(name)):
        problems.append(f"{_some(unknown)} unknown to {owner}")
    wrong = [
        f"{name} of shape {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if wrong:
        problems.append(_some(wrong))
    if problems:
        raise InputError(f"{complaint}: {'; '.join(problems)}")


def _ignored(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")  # a constant that old versions saved


def _some(things: Sequence[str]) -> str:
    shown = ", ".join(things[:SHOWN])
    return f"{shown} and {len(things) - SHOWN} more" if len(things) > SHOWN else shown
