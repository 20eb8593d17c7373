"""What a stage reads: its items, checked, and then encoded for the policy and for the grader."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rft_jax import data
from rft_jax.config import Config, DataConfig, EvalStage, SamplingStage, StageConfig
from rft_jax.data import Packed, PromptRows
from rft_jax.graders import Grader
from rft_jax.tokenizers import Tokenizer, message_text
from rft_jax.tokenizers.base import Message
from rft_jax.tokenizers.thoughts import split_thought
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject, PyTree


@dataclass(frozen=True)
class PromptData:
    """Items to be answered."""

    source: str
    items: list[JsonObject]
    prompts: PromptRows
    item_fields: PyTree  # tree of arrays with a row an item, for the grader


@dataclass(frozen=True)
class StageData:
    """What a stage reads: packed rows for supervised learning, else prompts."""

    supervised: Packed | None = None
    held_out: Packed | None = None  # rows for the loss of a supervised stage
    train: PromptData | None = None
    valid: PromptData | None = None
    teacher: PromptRows | None = None  # those of `train` as a teacher reads them, if otherwise

    @property
    def packed(self) -> Packed:
        """The rows of a supervised stage."""
        assert self.supervised is not None
        return self.supervised

    @property
    def prompts(self) -> PromptData:
        """The prompts that a stage trains on whose model samples."""
        assert self.train is not None
        return self.train


class Rows(NamedTuple):
    """A file's items, before there is a tokenizer."""

    source: str
    items: list[JsonObject]
    item_fields: PyTree = None


class StageReader(Protocol):
    """How a stage type reads its data; `runs.prepare` asks it before there is a run."""

    @staticmethod
    def read(
        config: Any, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """The stage's items by purpose, checked as far as possible without a tokenizer.

        Args:
            config: The stage's settings.
            files: What the configuration's data has become.
            workdir: The run's.
            grader: The run's; None where no stage has prompts.

        Raises:
            InputError: Naming file, line and field of what cannot be used.
        """
        ...

    @staticmethod
    def encode(
        config: Any, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """What `read` has read, as tokens.

        Raises:
            InputError: Naming file and line of what does not fit into the stage's tokens.
        """
        ...


def evaluated_file(stage: EvalStage, files: DataConfig, workdir: Path) -> str:
    """The file that a comparison is made on; a task's files go by their names."""
    made = data_directory(workdir) / f"{stage.data}.jsonl"
    return str(made) if made.is_file() else stage.data or files.valid


def baseline_files(stage: EvalStage, items: str) -> dict[str, str]:
    """By name the files of answers that a comparison on a file of items includes."""
    return {name: str(Path(items).with_suffix(f".{name}.jsonl")) for name in stage.baselines}


def read_prompt_data(
    path: str, stage: SamplingStage, grader: Grader, tokenizer: Tokenizer
) -> PromptData:
    """Items of a file, encoded for the stage's policy and for the grader.

    Raises:
        InputError: Naming file, line and field of what cannot be used.
    """
    return encode_prompts(read_prompts(path, grader), stage, tokenizer)


def read_prompts(path: str, grader: Grader | None) -> Rows:
    """Items of a file, those that the grader needs encoded for it."""
    if grader is None:
        raise InputError(f"{path}: its answers need a grader; set `grader`")
    items = data.load_items(path)
    return Rows(path, items, grader.encode_items(items, path))


def encode_prompts(rows: Rows, stage: SamplingStage, tokenizer: Tokenizer) -> PromptData:
    """Prompts as tokens, of at most the stage's `max_prompt_tokens`."""
    setting = f"stages.{stage.name}.rollout.max_prompt_tokens"
    prompts = data.encode_prompts(
        rows.items, tokenizer, stage.rollout.max_prompt_tokens, rows.source, setting
    )
    return PromptData(rows.source, rows.items, prompts, rows.item_fields)


def needed_file(path: str, name: str, stage: StageConfig) -> str:
    """The path, which a stage cannot do without.

    Raises:
        InputError: There is none.
    """
    if not path:
        raise InputError(
            f"data.{name}: the stage {stage.name!r} needs a file; set data.{name}, or write an "
            "experiment file without that stage"
        )
    return path


def training_texts(rows: dict[str, dict[str, Rows]], at_most: int) -> list[str]:
    """A sample of the texts that all stages train on, for a tokenizer."""
    items = [
        item
        for stage in rows.values()
        for purpose, row in stage.items()
        for item in row.items
        if purpose != "valid"
    ]
    stride = -(-len(items) // at_most)
    return [
        text
        for item in items[::stride]
        for message in item["messages"]
        for text in _texts(message)
        if text
    ]


def write_files(files: DataConfig, workdir: Path, *, new: bool) -> DataConfig:
    """The files that a run reads, after those that are made have been written below `workdir`.

    Args:
        files: Their sources.
        workdir: The run's.
        new: Whether the run begins; what an attempt that failed has left, perhaps of another
            source, is written again then.

    Raises:
        InputError: Naming what cannot be had.
    """
    directory = data_directory(workdir)
    files = files.materialize(directory)
    made = {}
    for name in ("train", "valid", "supervised", "answers"):
        if data.is_tfds(source := getattr(files, name)):
            path = directory / f"{name}.jsonl"
            if new or not path.exists():  # a run that goes on has them
                answered = name in ("supervised", "answers")
                data.write_items(source, files.tfds, path, answered=answered)
            made[name] = str(path)
    return dataclasses.replace(files, **made)


def _texts(message: Message) -> tuple[str, str | None]:
    """A message's text, and its thought."""
    texts = message_text(message), message.get("reasoning_content")
    return split_thought(*texts) if message["role"] == "assistant" else texts


def data_directory(workdir: Path) -> Path:
    """Where a task writes the files that it makes."""
    return workdir / "data"


def index_tree(tree: PyTree, rows: np.ndarray) -> PyTree:
    """Rows of every array of a tree."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)
