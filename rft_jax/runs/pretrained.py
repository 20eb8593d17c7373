"""Models that come from Hugging Face checkpoints, and what a run keeps of them.

A model with a `source` has its architecture, weights and tokenizer from there. What describes it is
copied into the work directory, so that the run can be evaluated and exported without the source.
"""

import dataclasses
import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax

from rft_jax.config import NOT_OF_SOURCE, Config, ModelConfig
from rft_jax.models import Model, Params, split
from rft_jax.models.hugging_face import (
    ADAPTER_CONFIG,
    Checkpoint,
    copy_description,
    find_base,
    is_adapter,
    load_adapters,
    load_params,
    locate,
    open_checkpoint,
    read_config,
)
from rft_jax.models.lora import check_targets
from rft_jax.parallel import Shardings, is_first, raise_on_all_hosts
from rft_jax.runs.export_record import ExportRecord, read_record
from rft_jax.tokenizers import HuggingFaceTokenizer
from rft_jax.tokenizers.chat import PLAIN
from rft_jax.tokenizers.hugging_face import TEMPLATE_FILE, TOKENIZER_FILE
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically

FOLDER = "models"  # of a work directory
DATE_FILE = "date.txt"
HIGH_RATE = 1e-4  # from which a pre-trained model forgets what it can; for adapters ten times
PROBE = [{"role": "user", "content": "What is it?"}]


def rate_warnings(config: Config) -> list[str]:
    """Sentences on learning rates that are meant for models from scratch."""
    found = []
    for stage in config.training_stages:
        model, optimizer = config.model(stage.model), stage.optimizer
        lora = model.lora is not None
        rate = optimizer.peak_learning_rate(lora)
        if model.source and rate > (10 * HIGH_RATE if lora else HIGH_RATE):
            found.append(
                f"stages.{stage.name}.optimizer.learning_rate: {rate:g} is meant for a model from "
                f"scratch, and {model.source} may forget what it can; 1e-6 is usual, with adapters "
                "1e-5 (experiments/open_models.py fits such models)"
            )
    return found


@dataclass(frozen=True)
class Source:
    """A model's description.

    Attributes:
        directory: With config.json and the tokenizer's files; of an adapter, its base's.
        adapter: The directory of the adapter, if the source is one.
        date: What templates that write a date into the prompt are told, for the whole run.
        config: The architecture as the source has it, the rest as the run has it.
        vocab_size: Rows of the embedding.
        record: What it says of how it was sampled, if it is an export.
        plain: Whether the plain chat template takes the place of its own.
    """

    directory: Path
    adapter: Path | None
    date: datetime.datetime
    config: ModelConfig
    vocab_size: int
    record: ExportRecord = ExportRecord()
    plain: bool = False

    def tokenizer(self, thinking: bool | None) -> HuggingFaceTokenizer:
        """The source's tokenizer.

        Raises:
            InputError: It cannot be read or does not fit the model.
        """
        return HuggingFaceTokenizer(
            self.directory,
            self.vocab_size,
            thinking=thinking,
            plain=self.plain,
            now=lambda: self.date,
        )


def find_sources(config: Config, workdir: Path | None) -> dict[str, Source]:
    """The sources of the models that have one, by the model's name; downloads what is not there.

    Args:
        config: The run's.
        workdir: Where a run that goes on has kept them; None without a run.

    Raises:
        InputError: A checkpoint cannot be had or used, or the models have different tokenizers.
    """
    found = {}
    for model in _with_source(config):
        kept = workdir / FOLDER / model.name if workdir else None
        if kept and (kept / DATE_FILE).exists():
            found[model.name] = _kept(kept, model)
        else:
            opened = open_checkpoint(locate(model.source), model.name)
            if opened.skipped and is_first():
                log(f"{model.source}: {opened.left_out}")
            record = read_record(opened.adapter or opened.directory)
            found[model.name] = Source(
                opened.directory,
                opened.adapter,
                record.moment or datetime.datetime.now(),
                _resolve(model, opened.config),
                opened.vocab_size,
                record,
                config.tokenizer.chat_template == "plain",
            )
    _check_tokenizers(found, config.tokenizer.thinking)
    return found


def snapshot(source: Source, workdir: Path) -> Source:
    """Copies the description into the work directory and refers to it there."""
    kept = workdir / FOLDER / source.config.name
    if not (kept / DATE_FILE).exists():
        copy_description(source.directory, kept)
        if source.adapter:
            shutil.copyfile(source.adapter / ADAPTER_CONFIG, kept / ADAPTER_CONFIG)
        if source.plain:  # so that an export has it as well
            write_atomically(kept / TEMPLATE_FILE, PLAIN)
        write_atomically(kept / DATE_FILE, source.date.isoformat())
    return dataclasses.replace(source, directory=kept)


def snapshotted_sources(config: Config, workdir: Path) -> dict[str, Source]:
    """The sources of a work directory's models, as `snapshot` left them."""
    folders = {model: workdir / FOLDER / model.name for model in _with_source(config)}
    return {model.name: _kept(kept, model) for model, kept in folders.items()}


def load_source(model: Model, shardings: Shardings, seed: int) -> Params:
    """The weights of a model with a source; of one with adapters that the source lacks, new ones.

    Args:
        shardings: Those of all weights.
        seed: The new adapters'.

    Raises:
        InputError: The checkpoint cannot be had or used.
    """
    checkpoint = _open(model)
    if model.config.lora is None:
        return load_params(checkpoint, shardings)
    trainable, frozen = split(shardings)
    weights = load_params(checkpoint, frozen, model.frozen_dtype)
    if checkpoint.adapter:
        return model.adapt(load_adapters(checkpoint, trainable), weights)
    shapes = jax.eval_shape(lambda: weights)
    init = jax.jit(lambda key: model.init_adapters(shapes, key), out_shardings=trainable)
    return model.adapt(init(jax.random.key(seed)), weights)


def load_base(model: Model, shardings: Shardings) -> Params:
    """The weights under the adapters of a model.

    Args:
        shardings: Those of all weights.

    Raises:
        InputError: As `load_source`.
    """
    assert model.config.lora is not None
    _, frozen = split(shardings)
    return load_params(_open(model), frozen, model.frozen_dtype)


def base_source(model: ModelConfig) -> str:
    """The source of the weights under a model's adapters.

    Raises:
        InputError: As `load_source`.
    """
    directory = locate(model.source)
    return find_base(directory) if is_adapter(directory) else model.source


def _open(model: Model) -> Checkpoint:
    with raise_on_all_hosts():  # every host has files of its own
        return open_checkpoint(locate(model.config.source), model.config.name)


def _with_source(config: Config) -> list[ModelConfig]:
    return [model for model in config.models if model.source]


def _date(kept: Path) -> datetime.datetime:
    return datetime.datetime.fromisoformat((kept / DATE_FILE).read_text())


def _kept(kept: Path, model: ModelConfig) -> Source:
    config, vocab_size = read_config(kept)
    return Source(kept, None, _date(kept), _resolve(model, config), vocab_size)


def _resolve(model: ModelConfig, described: ModelConfig) -> ModelConfig:
    """The architecture and the adapter as the source has them, the rest as the run has it.

    Raises:
        InputError: The weights that get adapters cannot have them.
    """
    free = {name: getattr(model, name) for name in NOT_OF_SOURCE}
    if described.lora is not None:
        kept = {"base_dtype": model.lora.base_dtype} if model.lora else {}
        free["lora"] = dataclasses.replace(described.lora, **kept)
    resolved = dataclasses.replace(described, **free)
    check_targets(resolved)
    return resolved


def _check_tokenizers(sources: dict[str, Source], thinking: bool | None) -> None:
    """A run encodes its data once, for all of its models."""
    if len(sources) < 2:
        return
    first, *others = sources
    expected = _encoding(sources[first], thinking)
    for name in others:
        if _encoding(sources[name], thinking) != expected:
            raise InputError(
                f"models.{name}.source: its tokenizer, chat template or stop tokens are not those "
                f"of models.{first}; use one run for each"
            )


def _encoding(source: Source, thinking: bool | None) -> tuple:
    """What a run takes from a tokenizer."""
    file = source.directory / TOKENIZER_FILE
    tokenizer = source.tokenizer(thinking)
    marks = tokenizer.pad_id, tokenizer.stop_ids, tokenizer.end_of_think_id, tokenizer.forbidden_ids
    return file.read_bytes(), marks, tokenizer.encode_prompt(PROBE)
