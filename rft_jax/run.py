"""A run: its work directory, and all that its stages read, loaded and checked before compilation.

run = open_run(config, workdir)          # new, or the same configuration again
run = reopen(workdir)                    # for evaluation and sampling
"""

import dataclasses
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rft_jax import data
from rft_jax.checkpoint import Checkpoints, abstract, latest_step
from rft_jax.config import (
    Config,
    DataConfig,
    ReinforceStage,
    Stage,
    SupervisedStage,
    differences,
    from_json,
    to_json,
    validate,
)
from rft_jax.data import Packed, Prompts
from rft_jax.errors import InputError
from rft_jax.graders import Grader, build_grader, load_grader
from rft_jax.metrics import log
from rft_jax.models import Model, Params, build_model
from rft_jax.parallel import LEARNER_RULES, check_batch, make_mesh, shardings
from rft_jax.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    message_text,
    train_sentencepiece,
)

TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True)
class PromptData:
    """Items to be answered."""

    source: str
    items: list[dict[str, Any]]
    prompts: Prompts
    item_fields: Any  # tree of arrays with a row an item, for the grader


@dataclass(frozen=True)
class StageData:
    """What a stage reads: `supervised` for supervised stages, the other two for reinforcement."""

    supervised: Packed | None = None
    train: PromptData | None = None
    valid: PromptData | None = None


@dataclass(frozen=True)
class Run:
    """An open work directory."""

    config: Config
    workdir: Path
    mesh: Mesh
    grader: Grader | None
    tokenizer: Tokenizer
    data: dict[str, StageData]  # by stage

    def model(self, stage: Stage) -> Model:
        """The stage's decoder."""
        return build_model(self.config.model(stage.model), self.tokenizer.vocab_size)

    def directory(self, stage: Stage) -> Path:
        """The stage's folder."""
        return self.workdir / stage.name

    def seed(self, stage: Stage) -> int:
        """The stage's own seed, below 2**32."""
        return zlib.crc32(f"{self.config.seed}/{stage.name}".encode())

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            InputError: if there is none.
        """
        for stage in self.config.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.config.stages)
        raise InputError(f"{self.workdir}: there is no stage {name!r}; there are {known}")

    def load_params(self, stage: Stage) -> Params:
        """The weights at the end of a stage, or of its newest checkpoint.

        Raises:
            InputError: if the stage has no checkpoint yet.
        """
        directory = self.directory(stage) / "checkpoints"
        if latest_step(directory) is None:
            raise InputError(f"{directory}: no checkpoint yet; let `rft train` write one first")
        model = self.model(stage)
        shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        places = shardings(self.mesh, LEARNER_RULES, model.axes)
        with Checkpoints(directory) as checkpoints:
            return checkpoints.restore_params(checkpoints.latest(), abstract(shape, places))

    def load_init(self, stage: Stage) -> Params:
        """The weights that a stage starts from, of this run or of another one.

        Raises:
            InputError: if the other run's model or tokenizer differs, or it has no checkpoint.
        """
        if "/" not in stage.init:
            return self.load_params(self.stage(stage.init))
        other, source = open_model(Path(stage.init))
        ours, theirs = self.config.model(stage.model), other.config.model(source.model)
        if dataclasses.replace(theirs, name=ours.name) != ours:
            changed = "; ".join(differences(to_json(theirs), to_json(ours)))
            raise InputError(
                f"stages.{stage.name}.init: {stage.init} has another model ({changed})"
            )
        if other.tokenizer_path.read_bytes() != self.tokenizer_path.read_bytes():
            raise InputError(
                f"stages.{stage.name}.init: {stage.init} has another tokenizer; "
                f"set --config.tokenizer.path={other.tokenizer_path}"
            )
        return dataclasses.replace(other, mesh=self.mesh).load_params(source)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's model file."""
        return Path(self.config.tokenizer.path or self.workdir / TOKENIZER_FILE)


def data_directory(workdir: Path) -> Path:
    """Where a task writes the files that it makes."""
    return workdir / "data"


def open_run(config: Config, workdir: Path) -> Run:
    """Opens a work directory for training: checks everything, then claims it.

    Raises:
        InputError: for whatever in the configuration or the data cannot work, and for a work
            directory of another configuration; nothing in it is changed then.
    """
    validate(config)
    mesh = make_mesh(config.mesh)
    for stage in config.stages:
        if "/" in stage.init:
            open_model(Path(stage.init))
        check_batch(mesh, stage.batch_size, f"stages.{stage.name}.batch_size")
    stored = workdir / "config.json"
    if stored.exists():
        _check_same(stored, config)
    grader = _grader(config)
    files = config.data.materialise(data_directory(workdir))
    rows = {stage.name: _read(stage, files, grader) for stage in config.stages}
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer_path, temporary = workdir / TOKENIZER_FILE, workdir / "tokenizer.tmp"
    tokenizer = _tokenizer(config, tokenizer_path, temporary, rows)
    encoded = {stage.name: _encode(stage, rows[stage.name], tokenizer) for stage in config.stages}
    if temporary.exists():
        os.replace(temporary, tokenizer_path)
    if not stored.exists():
        _write_atomically(stored, json.dumps(to_json(config), indent=2) + "\n")
    return Run(config, workdir, mesh, grader, tokenizer, encoded)


def reopen(workdir: Path) -> Run:
    """Opens a finished or running work directory to evaluate its models; reads no training data.

    Raises:
        InputError: if it is not a work directory.
    """
    stored = workdir / "config.json"
    if not stored.exists():
        raise InputError(f"{workdir}: not a work directory (it has no config.json)")
    config = from_json(_read_config(stored))
    tokenizer = SentencePieceTokenizer(config.tokenizer.path or workdir / TOKENIZER_FILE)
    return Run(config, workdir, make_mesh(config.mesh), _grader(config), tokenizer, {})


def open_model(path: Path) -> tuple[Run, Stage]:
    """The run and stage of a model: `WORKDIR/STAGE`, or `WORKDIR` for its last stage.

    Raises:
        InputError: if there is no such run or stage.
    """
    if (path / "config.json").exists():
        run = reopen(path)
        return run, run.config.stages[-1]
    run = reopen(path.parent)
    return run, run.stage(path.name)


def read_prompt_data(run: Run, stage: ReinforceStage, path: str) -> PromptData:
    """Items of a file, encoded for the stage's policy and for the grader.

    Raises:
        InputError: naming file, line and field of what cannot be used.
    """
    return _encode_prompts(_read_prompts(path, run.grader), stage, run.tokenizer)


def _read_config(stored: Path) -> dict[str, Any]:
    try:
        return json.loads(stored.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{stored}: cannot be read as a run's configuration ({error}); use another --workdir"
        ) from None


def _check_same(stored: Path, config: Config) -> None:
    old, new = _read_config(stored), json.loads(json.dumps(to_json(config)))
    if changed := differences(old, new):
        raise InputError(
            f"{stored.parent}: the work directory belongs to another configuration "
            f"({'; '.join(changed)}); use another --workdir or the same settings"
        )


def _grader(config: Config) -> Grader | None:
    if not any(isinstance(stage, ReinforceStage) for stage in config.stages):
        return None
    if not config.grader:
        raise InputError("grader: reinforcement needs a grader; give --config.grader=FILE.json")
    return build_grader(load_grader(config.grader), config.placement)


class _Rows(NamedTuple):
    """A file's items, before there is a tokenizer."""

    source: str
    items: list[dict[str, Any]]
    item_fields: Any = None


def _read(stage: Stage, files: DataConfig, grader: Grader | None) -> dict[str, _Rows]:
    """The stage's items by purpose, checked as far as possible without a tokenizer."""
    if isinstance(stage, SupervisedStage):
        path = _needed(files.supervised, "supervised", stage)
        return {"supervised": _Rows(path, data.load_supervised_items(path))}
    rows = {"train": _read_prompts(_needed(files.train, "train", stage), grader)}
    if files.valid:
        rows["valid"] = _read_prompts(files.valid, grader)
        data.check_disjoint(rows["train"].items, rows["valid"].items, (files.train, files.valid))
    return rows


def _read_prompts(path: str, grader: Grader) -> _Rows:
    items = data.load_items(path)
    return _Rows(path, items, grader.encode_items(items, path))


def _encode(stage: Stage, rows: dict[str, _Rows], tokenizer: Tokenizer) -> StageData:
    if isinstance(stage, ReinforceStage):
        encoded = {name: _encode_prompts(row, stage, tokenizer) for name, row in rows.items()}
        return StageData(**encoded)
    row = rows["supervised"]
    setting = f"stages.{stage.name}.row_tokens"
    packed = data.pack_supervised(row.items, tokenizer, stage.row_tokens, row.source, setting)
    return StageData(supervised=packed)


def _encode_prompts(rows: _Rows, stage: ReinforceStage, tokenizer: Tokenizer) -> PromptData:
    setting = f"stages.{stage.name}.rollout.prompt_tokens"
    prompts = data.encode_prompts(
        rows.items, tokenizer, stage.rollout.prompt_tokens, rows.source, setting
    )
    return PromptData(rows.source, rows.items, prompts, rows.item_fields)


def _needed(path: str, name: str, stage: Stage) -> str:
    if not path:
        raise InputError(
            f"data.{name}: the stage {stage.name!r} needs a file; give --config.data.{name}=FILE"
        )
    return path


def _tokenizer(
    config: Config, path: Path, temporary: Path, rows: dict[str, dict[str, _Rows]]
) -> Tokenizer:
    if config.tokenizer.path:
        return SentencePieceTokenizer(config.tokenizer.path)
    if path.exists():
        return SentencePieceTokenizer(path)
    items = [
        item
        for stage in rows.values()
        for purpose, row in stage.items()
        for item in row.items
        if purpose != "valid"
    ]
    stride = max(1, len(items) // config.tokenizer.training_texts)
    texts = [
        text
        for item in items[::stride]
        for message in item["messages"]
        for text in (message_text(message), message.get("reasoning_content"))
        if text
    ]
    log(f"training a tokenizer on {len(texts):,} texts")
    train_sentencepiece(texts, temporary, config.tokenizer.vocab_size)
    return SentencePieceTokenizer(temporary)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def take(tree: Any, rows: np.ndarray) -> Any:
    """Rows of every array of a tree."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)
