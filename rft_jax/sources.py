"""Models that come from Hugging Face checkpoints, and what a run keeps of them.

A model with a `source` has its architecture, weights and tokenizer from there. What describes it is
copied into the work directory, so that the run can be evaluated and exported without the source.
"""

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import Config, ModelConfig
from rft_jax.errors import InputError
from rft_jax.models import Params
from rft_jax.models.hugging_face import (
    copy_description,
    load_params,
    locate,
    open_checkpoint,
    read_config,
)
from rft_jax.parallel import Shardings
from rft_jax.tokenizers import HuggingFaceTokenizer

FOLDER = "models"  # of a work directory
DATE_FILE = "date.txt"
# Settings of a model that are not the source's to give.
FREE = ("name", "source", "compute_dtype", "remat")


@dataclass(frozen=True)
class Source:
    """A model's description.

    Attributes:
        directory: with config.json and the tokenizer's files.
        date: what templates that write a date into the prompt are told, for the whole run.
        config: the architecture as the source has it, the rest as the run has it.
        vocab_size: rows of the embedding.
    """

    directory: Path
    date: datetime.datetime
    config: ModelConfig
    vocab_size: int

    def tokenizer(self, thinking: bool | None) -> HuggingFaceTokenizer:
        """The source's tokenizer.

        Raises:
            InputError: it cannot be read or does not fit the model.
        """
        return HuggingFaceTokenizer(
            self.directory, self.vocab_size, thinking=thinking, now=lambda: self.date
        )


def find_sources(config: Config, workdir: Path | None) -> dict[str, Source]:
    """The sources of the models that have one, by the model's name; downloads what is not there.

    Args:
        config: of the run.
        workdir: where a run that goes on has kept them; None without a run.

    Raises:
        InputError: a checkpoint cannot be had or used, or the models have different tokenizers.
    """
    found = {}
    for model in _with_source(config):
        kept = workdir / FOLDER / model.name if workdir else None
        if kept and (kept / DATE_FILE).exists():
            found[model.name] = _source(kept, _date(kept), model)
        else:
            checkpoint = open_checkpoint(locate(model.source), model.name)
            found[model.name] = _source(checkpoint.directory, datetime.datetime.now(), model)
    _check_tokenizers(found)
    return found


def keep(source: Source, workdir: Path) -> Source:
    """Copies the description into the work directory and refers to it there."""
    kept = workdir / FOLDER / source.config.name
    if not (kept / DATE_FILE).exists():
        copy_description(source.directory, kept)
        (kept / DATE_FILE).write_text(source.date.isoformat())
    return dataclasses.replace(source, directory=kept)


def kept_sources(config: Config, workdir: Path) -> dict[str, Source]:
    """The sources of a work directory's models, as `keep` left them."""
    places = {model: workdir / FOLDER / model.name for model in _with_source(config)}
    return {model.name: _source(kept, _date(kept), model) for model, kept in places.items()}


def load_source(model: ModelConfig, shardings: Shardings) -> Params:
    """The weights of a model with a source.

    Raises:
        InputError: the checkpoint cannot be had or used.
    """
    return load_params(open_checkpoint(locate(model.source), model.name), shardings)


def _with_source(config: Config) -> list[ModelConfig]:
    return [model for model in config.models if model.source]


def _date(kept: Path) -> datetime.datetime:
    return datetime.datetime.fromisoformat((kept / DATE_FILE).read_text())


def _source(directory: Path, date: datetime.datetime, model: ModelConfig) -> Source:
    config, vocab_size = read_config(directory)
    free = {name: getattr(model, name) for name in FREE}
    return Source(directory, date, dataclasses.replace(config, **free), vocab_size)


def _check_tokenizers(sources: dict[str, Source]) -> None:
    files = {name: source.directory / "tokenizer.json" for name, source in sources.items()}
    texts = {name: path.read_bytes() if path.is_file() else b"" for name, path in files.items()}
    first = next(iter(texts), None)
    for name, text in texts.items():
        if text != texts[first]:
            raise InputError(
                f"models.{name}.source: its tokenizer is not that of models.{first}; use one run "
                "for each"
            )
