"""A run: its work directory, and all that its stages read, loaded and checked before compilation.

run = open_run(config, workdir)          # new, or the same configuration again
run = reopen(workdir)                    # for evaluation and sampling
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rft_jax import data
from rft_jax.checkpoint import abstract, load_params, steps
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
from rft_jax.models import Model, Params, build_model, check_partition
from rft_jax.parallel import LEARNER_RULES, check_batch, make_mesh, shardings
from rft_jax.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    message_text,
    train_sentencepiece,
)

TOKENIZER_FILE = "tokenizer.model"
INPUTS_FILE = "inputs.json"  # the sums of the files that a run reads


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

    def checkpoints(self, stage: Stage) -> Path:
        """The folder of the stage's checkpoints."""
        return self.directory(stage) / "checkpoints"

    def load_params(self, stage: Stage, step: int | None = None) -> Params:
        """The weights of a stage's checkpoint, by default its newest.

        Raises:
            InputError: if there is no such checkpoint, or it is damaged.
        """
        directory = self.checkpoints(stage)
        if not (known := steps(directory)):
            raise InputError(f"{directory}: no checkpoint yet; let `rft train` write one first")
        model = self.model(stage)
        shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        places = shardings(self.mesh, LEARNER_RULES, model.axes)
        return load_params(directory, known[-1] if step is None else step, abstract(shape, places))

    def load_init(self, stage: Stage) -> Params:
        """The weights that a stage starts from, of this run or of another one.

        Raises:
            InputError: if the other run's model or tokenizer differs, or it has no checkpoint.
        """
        if "/" not in stage.init:
            return self.load_params(self.stage(stage.init))
        other, source, step = open_model(Path(stage.init))
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
        return dataclasses.replace(other, mesh=self.mesh).load_params(source, step)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's model file."""
        return Path(self.config.tokenizer.path or self.workdir / TOKENIZER_FILE)


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Holds a work directory for this process; on several hosts the first one holds it for all.

    Raises:
        InputError: another process has it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); use another --workdir"
        ) from None
    with lock:
        if jax.process_index() == 0:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"{workdir}: another process is working in it; wait for it or use another "
                    "--workdir"
                ) from None
        yield


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
    inputs = _input_sums(config, files)
    _check_inputs(workdir / INPUTS_FILE, inputs)
    rows = {stage.name: _read(stage, files, grader) for stage in config.stages}
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer_path, temporary = workdir / TOKENIZER_FILE, workdir / "tokenizer.tmp"
    tokenizer = _tokenizer(config, tokenizer_path, temporary, rows)
    for model in config.models:
        check_partition(build_model(model, tokenizer.vocab_size), mesh, LEARNER_RULES)
    encoded = {stage.name: _encode(stage, rows[stage.name], tokenizer) for stage in config.stages}
    if temporary.exists():
        os.replace(temporary, tokenizer_path)
    if not stored.exists():
        _write_atomically(workdir / INPUTS_FILE, json.dumps(inputs, indent=2) + "\n")
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


class OpenModel(NamedTuple):
    """A model of a run; `step` is None for the stage's newest checkpoint."""

    run: Run
    stage: Stage
    step: int | None


def open_model(path: Path) -> OpenModel:
    """Finds a model.

    Args:
        path: `WORKDIR` for its last stage, `WORKDIR/STAGE`, or one checkpoint of a stage,
            `WORKDIR/STAGE/checkpoints/STEP`.

    Raises:
        InputError: if there is no such run or stage.
    """
    if (path / "config.json").exists():
        run = reopen(path)
        return OpenModel(run, run.config.stages[-1], None)
    step = None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        step, path = int(path.name), path.parent.parent
    run = reopen(path.parent)
    return OpenModel(run, run.stage(path.name), step)


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
    old = to_json(from_json(_read_config(stored)))  # settings it lacks have their defaults
    new = json.loads(json.dumps(to_json(config)))
    if changed := differences(old, new):
        raise InputError(
            f"{stored.parent}: the work directory belongs to another configuration "
            f"({'; '.join(changed)}); use another --workdir or the same settings"
        )


def _input_sums(config: Config, files: DataConfig) -> dict[str, str]:
    """The BLAKE2 sum of every file that the run reads, by its path."""
    paths = [files.train, files.valid, files.supervised, config.tokenizer.path]
    if isinstance(config.grader, str):
        paths.append(config.grader)
    sums = {}
    for path in filter(None, paths):
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                sums[path] = hashlib.file_digest(file, "blake2b").hexdigest()
    return sums


def _check_inputs(stored: Path, inputs: dict[str, str]) -> None:
    if not stored.exists():
        return
    for path, checksum in _read_config(stored).items():
        if inputs.get(path) != checksum:
            raise InputError(
                f"{path}: has changed since the run in {stored.parent} began; put the file back as "
                "it was, or use another --workdir"
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
