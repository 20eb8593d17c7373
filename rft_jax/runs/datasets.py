"""What a stage reads: its items, checked, and then encoded for the policy and for the grader.

rows = {stage.name: read_rows(stage, files, workdir, grader) for stage in stages}
data = {stage.name: encode_rows(stage, rows[stage.name], config, tokenizer) for stage in stages}
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rft_jax import data
from rft_jax.config import Config, DataConfig, EvalStage, RLStage, SFTStage, Stage
from rft_jax.data import Packed, PromptRows
from rft_jax.graders import Grader
from rft_jax.tokenizers import Tokenizer, message_text
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class PromptData:
    """Items to be answered."""

    source: str
    items: list[dict[str, Any]]
    prompts: PromptRows
    item_fields: Any  # tree of arrays with a row an item, for the grader


@dataclass(frozen=True)
class StageData:
    """What a stage reads: `supervised` for supervised stages, the other two for reinforcement."""

    supervised: Packed | None = None
    train: PromptData | None = None
    valid: PromptData | None = None


class Rows(NamedTuple):
    """A file's items, before there is a tokenizer."""

    source: str
    items: list[dict[str, Any]]
    item_fields: Any = None


def read_rows(
    stage: Stage, files: DataConfig, workdir: Path, grader: Grader | None
) -> dict[str, Rows]:
    """The stage's items by purpose, checked as far as possible without a tokenizer.

    Args:
        files: What the configuration's data has become.
        grader: None where no stage has prompts.

    Raises:
        InputError: naming file, line and field of what cannot be used.
    """
    if isinstance(stage, SFTStage):
        path = _needed(getattr(files, stage.data), stage.data, stage)
        return {"supervised": Rows(path, data.load_supervised_items(path))}
    if isinstance(stage, EvalStage):
        path = _needed(evaluated_file(stage, files, workdir), "valid", stage)
        rows = _read_prompts(path, grader)
        data.check_keys(rows.items, stage.keys, path)
        for answers in baseline_files(stage, path).values():
            data.load_answers(answers, len(rows.items))
        return {"valid": rows}
    rows = {"train": _read_prompts(_needed(files.train, "train", stage), grader)}
    if files.valid:
        rows["valid"] = _read_prompts(files.valid, grader)
        data.check_disjoint(rows["train"].items, rows["valid"].items, (files.train, files.valid))
    return rows


def evaluated_file(stage: EvalStage, files: DataConfig, workdir: Path) -> str:
    """The file that a comparison is made on; a task's files go by their names."""
    made = data_directory(workdir) / f"{stage.data}.jsonl"
    return str(made) if made.is_file() else stage.data or files.valid


def baseline_files(stage: EvalStage, items: str) -> dict[str, str]:
    """By name the files of answers that a comparison on a file of items includes."""
    return {name: str(Path(items).with_suffix(f".{name}.jsonl")) for name in stage.baselines}


def read_prompt_data(path: str, stage: RLStage, grader: Grader, tokenizer: Tokenizer) -> PromptData:
    """Items of a file, encoded for the stage's policy and for the grader.

    Raises:
        InputError: as `read_rows` and `encode_rows`.
    """
    return _encode_prompts(_read_prompts(path, grader), stage, tokenizer)


def _read_prompts(path: str, grader: Grader) -> Rows:
    items = data.load_items(path)
    return Rows(path, items, grader.encode_items(items, path))


def encode_rows(
    stage: Stage, rows: dict[str, Rows], config: Config, tokenizer: Tokenizer
) -> StageData:
    """What `read_rows` has read, as tokens.

    Raises:
        InputError: naming file and line of what does not fit into the stage's tokens.
    """
    if not isinstance(stage, SFTStage):
        settings = stage
        if isinstance(stage, EvalStage):
            settings = [s for s in config.stages if isinstance(s, RLStage)][-1]
        encoded = {name: _encode_prompts(row, settings, tokenizer) for name, row in rows.items()}
        return StageData(**encoded)
    row = rows["supervised"]
    setting = f"stages.{stage.name}.max_row_tokens"
    packed = data.pack_supervised(row.items, tokenizer, stage.max_row_tokens, row.source, setting)
    return StageData(supervised=packed)


def _encode_prompts(rows: Rows, stage: RLStage, tokenizer: Tokenizer) -> PromptData:
    setting = f"stages.{stage.name}.rollout.max_prompt_tokens"
    prompts = data.encode_prompts(
        rows.items, tokenizer, stage.rollout.max_prompt_tokens, rows.source, setting
    )
    return PromptData(rows.source, rows.items, prompts, rows.item_fields)


def _needed(path: str, name: str, stage: Stage) -> str:
    if not path:
        raise InputError(
            f"data.{name}: the stage {stage.name!r} needs a file; give --config.data.{name}=FILE"
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
        for text in (message_text(message), message.get("reasoning_content"))
        if text
    ]


def data_directory(workdir: Path) -> Path:
    """Where a task writes the files that it makes."""
    return workdir / "data"


def index_tree(tree: Any, rows: np.ndarray) -> Any:
    """Rows of every array of a tree."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)
