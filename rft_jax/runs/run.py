"""A run: its work directory, and all that its stages read, loaded and checked before compilation.

run = open_run(config, workdir)          # new, or the same configuration again
run = reopen(workdir)                    # for evaluation and sampling
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rft_jax import data
from rft_jax.config import (
    NOT_OF_SOURCE,
    Config,
    MeshConfig,
    ModelConfig,
    RLStage,
    SFTStage,
    Stage,
    TrainingStage,
)
from rft_jax.config.overrides import differences, read_config, to_json
from rft_jax.config.validate import validate
from rft_jax.graders import Grader, build_grader, load_grader, load_pass_threshold
from rft_jax.grammars import grammar_of, load_response_format, read_response_format
from rft_jax.logging.metrics import log
from rft_jax.models import Model, Params, build_model, check_partition, split
from rft_jax.models.hugging_face import is_checkpoint
from rft_jax.parallel import (
    LEARNER_RULES,
    Shardings,
    batch_sharding,
    check_stage,
    first_host_first,
    is_first,
    make_mesh,
    raise_on_all_hosts,
    shardings,
)
from rft_jax.rollout import FrozenJudge
from rft_jax.runs.checkpoint import abstract, best_step, load_params, steps
from rft_jax.runs.datasets import (
    Rows,
    StageData,
    data_directory,
    encode_rows,
    read_rows,
    training_texts,
)
from rft_jax.runs.fingerprints import INPUTS_FILE, check_input_sums, input_sums
from rft_jax.runs.pretrained import (
    Source,
    find_sources,
    load_base,
    load_source,
    snapshot,
    snapshotted_sources,
)
from rft_jax.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    train_sentencepiece,
)
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically

# The only stage of a checkpoint that is no run's.
BASE_STAGE = SFTStage(name="base", init="")
TOKENIZER_FILE = "tokenizer.model"
# Settings that change no result, or no more than its rounding: of the run, and of its models.
NO_RESULT = ("host", "tensorboard", "wandb_project", "compilation_cache", "mesh")
NO_RESULT_OF_MODEL = ("remat", "attention", "decode_attention", "decode_layers")
GRADER_FILE = "grader.json"
LOCK_FILE = ".lock"
INIT_FILE = "init.json"  # the checkpoint of another run that a stage started from


@dataclass(frozen=True)
class Run:
    """An open work directory."""

    config: Config
    workdir: Path
    mesh: Mesh
    grader: Grader | None
    tokenizer: Tokenizer
    sources: dict[str, Source]  # by model
    data: dict[str, StageData]  # by stage

    def model_config(self, stage: Stage) -> ModelConfig:
        """The architecture of the stage's model."""
        source = self.sources.get(stage.model)
        return source.config if source else self.config.model(stage.model)

    def model(self, stage: Stage) -> Model:
        """The stage's decoder."""
        source = self.sources.get(stage.model)
        vocab_size = source.vocab_size if source else self.tokenizer.vocab_size
        return build_model(self.model_config(stage), vocab_size, batch_sharding(self.mesh))

    def directory(self, stage: Stage) -> Path:
        """The stage's folder."""
        return self.workdir / stage.name

    def seed(self, stage: Stage, purpose: str = "train") -> int:
        """The stage's own seed for a purpose, below 2**32."""
        return zlib.crc32(f"{self.config.seed}/{stage.name}/{purpose}".encode())

    def stage(self, name: str) -> TrainingStage:
        """The training stage of that name.

        Raises:
            InputError: if there is none.
        """
        for stage in self.config.training_stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.config.training_stages)
        raise InputError(f"{self.workdir}: there is no stage {name!r}; there are {known}")

    def checkpoints(self, stage: Stage) -> Path:
        """The folder of the stage's checkpoints."""
        return self.directory(stage) / "checkpoints"

    def load_params(self, stage: Stage, step: int | None = None) -> Params:
        """The weights of a stage's checkpoint, by default its newest.

        Raises:
            InputError: if there is no such checkpoint, or it is damaged.
        """
        if stage is BASE_STAGE:
            return self._load_source(stage)
        directory = self.checkpoints(stage)
        with raise_on_all_hosts():
            if not (known := steps(directory)):
                raise InputError(f"{directory}: no checkpoint yet; let `rft train` write one first")
        model = self.model(stage)
        shape, _ = split(jax.eval_shape(lambda: model.init(jax.random.key(0))))
        places, _ = split(self._places(stage))
        step = known[-1] if step is None else step
        trained = load_params(directory, step, abstract(shape, places))
        base = None if model.config.lora is None else self.load_base(stage)
        return model.adapt(trained, base)

    def load_base(self, stage: Stage) -> Params:
        """The weights under the adapters of the stage's model, from its source.

        Raises:
            InputError: the source cannot be had any more.
        """
        return load_base(self.model(stage), self._places(stage))

    def load_init(self, stage: Stage) -> Params | None:
        """The weights that a stage starts from: an earlier stage's, another run's, or its model's
        source; None for random ones.

        Raises:
            InputError: if there is no such checkpoint, or it is damaged.
        """
        if "/" in stage.init:
            other, source, step = self._other_init(stage)
            return dataclasses.replace(other, mesh=self.mesh).load_params(source, step)
        if stage.init:
            return self.load_params(self.stage(stage.init))
        return self._load_source(stage) if stage.model in self.sources else None

    def _other_init(self, stage: Stage) -> "OpenModel":
        """The other run's model; of a stage that goes on the one with which it began."""
        model, file = open_model(Path(stage.init)), self.directory(stage) / INIT_FILE
        if model.step is not None:
            return model
        with raise_on_all_hosts():
            if is_first() and not file.exists():
                newest = {"step": steps(model.run.checkpoints(model.stage))[-1]}
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(newest))
        return model._replace(step=json.loads(file.read_text())["step"])

    def _load_source(self, stage: Stage) -> Params:
        return load_source(self.model(stage), self._places(stage), self.seed(stage))

    def _places(self, stage: Stage) -> Shardings:
        return shardings(self.mesh, LEARNER_RULES, self.model(stage).axes)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        if self.sources:
            return next(iter(self.sources.values())).directory / "tokenizer.json"
        return Path(self.config.tokenizer.path or self.workdir / TOKENIZER_FILE)


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds a work directory for this process; on several hosts the first one holds it for all.

    A new one in which nothing was written for bad input is removed again.

    Raises:
        InputError: another process has it.
    """
    new, path = not workdir.exists(), workdir / LOCK_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); use another --workdir"
        ) from None
    with lock:
        if is_first():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.stat()  # or it was removed, as below, before this process held it
            except OSError:
                raise InputError(
                    f"{workdir}: another process is working in it; wait for it or use another "
                    "--workdir"
                ) from None
        try:
            yield
        except InputError:
            if new and is_first() and [file.name for file in workdir.iterdir()] == [LOCK_FILE]:
                path.unlink()
                workdir.rmdir()
            raise


def open_run(config: Config, workdir: Path) -> Run:
    """Opens a work directory for training: checks everything, then writes its first files.

    On several hosts the first one does so, and the others read and check what it has written.

    Raises:
        InputError: for whatever in the configuration or the data cannot work, and for a work
            directory of another configuration; what a run has written is not changed then.
    """
    return first_host_first(lambda: _open_run(config, workdir))


def _open_run(config: Config, workdir: Path) -> Run:
    validate(config)
    config = _with_response_formats(config)
    mesh = make_mesh(config.mesh)
    for stage in config.training_stages:
        check_stage(mesh, stage)
    stored = workdir / "config.json"
    if stored.exists():
        check_same(stored, config)
    elif not is_first():
        raise InputError(
            f"{workdir}: is not the folder that the first host writes to; use a --workdir that all "
            "hosts share, such as one on NFS"
        )
    if (grader := _grader(config)) is not None:
        grader = open_judges(grader, mesh)
    for stage in config.training_stages:
        if isinstance(stage, RLStage):
            _check_placement(stage, grader)
    files = config.data.materialize(data_directory(workdir))
    inputs = input_sums(config, files, workdir)
    check_input_sums(workdir, inputs)
    rows = {stage.name: read_rows(stage, files, workdir, grader) for stage in config.stages}
    sources = find_sources(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer_path, temporary = workdir / TOKENIZER_FILE, workdir / "tokenizer.tmp"
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)
        tokenizer = _tokenizer(config, sources, tokenizer_path, temporary, rows, files.symbols)
        if grader is not None:
            grader.check_tokenizer(tokenizer)
        run = Run(config, workdir, mesh, grader, tokenizer, sources, {})
        for stage in config.training_stages:
            if "/" in stage.init:
                _check_init(run, stage)
            if stage.optimizer.name == "muon" and run.model_config(stage).lora is not None:
                raise InputError(
                    f"stages.{stage.name}.optimizer.name: muon is for whole weights, but this "
                    "model trains adapters; set it to adamw"
                )
            check_partition(run.model(stage), mesh, LEARNER_RULES)
            if isinstance(stage, RLStage):
                grammar_of(stage.rollout, tokenizer)
        encoded = {
            stage.name: encode_rows(stage, rows[stage.name], config, tokenizer)
            for stage in config.stages
        }
        if temporary.exists():
            os.replace(temporary, tokenizer_path)
    if not stored.exists():
        if config.tokenizer.path and not sources:
            shutil.copyfile(config.tokenizer.path, tokenizer_path)
        if grader is not None and (
            isinstance(config.grader, dict) or Path(config.grader).is_file()
        ):
            write_atomically(workdir / GRADER_FILE, _grader_text(config.grader))
        write_atomically(workdir / INPUTS_FILE, json.dumps(inputs, indent=2) + "\n")
        write_atomically(stored, json.dumps(to_json(config), indent=2) + "\n")
    sources = {name: snapshot(source, workdir) for name, source in sources.items()}
    return dataclasses.replace(run, sources=sources, data=encoded)


def _with_response_formats(config: Config) -> Config:
    """The configuration with the content of the response formats that are files."""
    stages = []
    for stage in config.stages:
        if isinstance(stage, RLStage) and isinstance(stage.rollout.response_format, str):
            if path := stage.rollout.response_format:
                content = load_response_format(path)
                read_response_format(content)  # an object, as the setting must be
                rollout = dataclasses.replace(stage.rollout, response_format=content)
                stage = dataclasses.replace(stage, rollout=rollout)
        stages.append(stage)
    return dataclasses.replace(config, stages=tuple(stages))


def _check_placement(stage: RLStage, grader: Grader) -> None:
    """Refuses what does not go with where the grader runs."""
    place = f"stages.{stage.name}"
    if stage.max_resample_batches > 1 and grader.needs_host:
        raise InputError(
            f"{place}.max_resample_batches: {stage.max_resample_batches} rounds are sampled and graded in "
            "one program, but this grader needs the host (`rft grade --explain` says why); set it "
            "to 1 or use a grader that runs on the device"
        )
    if stage.async_rollout and not grader.needs_host:
        raise InputError(
            f"{place}.async_rollout: the grader runs on the device, so that there is nothing to wait "
            "for; leave it off"
        )


def reopen(workdir: Path) -> Run:
    """Opens a finished or running work directory for its models; without data and grader.

    Raises:
        InputError: if it is not a work directory.
    """
    stored = workdir / "config.json"
    if not stored.exists():
        raise InputError(f"{workdir}: not a work directory (it has no config.json)")
    config = read_config(stored)
    sources = snapshotted_sources(config, workdir)
    tokenizer = _tokenizer(config, sources, workdir / TOKENIZER_FILE, workdir, {})
    try:
        mesh = make_mesh(config.mesh)
    except InputError:  # the run had other hardware
        mesh = make_mesh(MeshConfig())
    return Run(config, workdir, mesh, None, tokenizer, sources, {})


def reopen_grader(run: Run) -> Grader | None:
    """The grader of a run from `reopen`, as it was when the run began; None if it has none.

    Raises:
        InputError: it cannot be used here.
    """
    if (kept := run.workdir / GRADER_FILE).exists():
        return _grader(dataclasses.replace(run.config, grader=str(kept)))
    return _grader(run.config)


class OpenModel(NamedTuple):
    """A model of a run; `step` is None for the stage's newest checkpoint."""

    run: Run
    stage: Stage
    step: int | None


def open_model(path: Path) -> OpenModel:
    """Finds a model.

    Args:
        path: `WORKDIR` for its last stage, `WORKDIR/STAGE`, or one checkpoint of a stage,
            `WORKDIR/STAGE/checkpoints/STEP`, where STEP may be `best`, for that of the highest
            validation reward. Or a Hugging Face checkpoint: a directory or `hf:Owner/Name`.

    Raises:
        InputError: if there is no such run, stage or best checkpoint.
    """
    if str(path).startswith("hf:") or is_checkpoint(path):
        return OpenModel(_open_checkpoint(str(path)), BASE_STAGE, None)
    if (path / "config.json").exists():
        run = reopen(path)
        return OpenModel(run, run.config.training_stages[-1], None)
    step = None
    if path.parent.name == "checkpoints":
        step, path = _step(path), path.parent.parent
    if not (path.parent / "config.json").exists():
        raise InputError(f"{path}: not a work directory, nor a stage or a checkpoint of one")
    run = reopen(path.parent)
    return OpenModel(run, run.stage(path.name), step)


def _open_checkpoint(source: str) -> Run:
    """A Hugging Face checkpoint as the run of one model, without a grader."""
    config = Config(models=(ModelConfig(source=source),), stages=(BASE_STAGE,))
    sources = find_sources(config, None)
    tokenizer = sources[BASE_STAGE.model].tokenizer(config.tokenizer.thinking)
    return Run(config, Path(source), make_mesh(MeshConfig()), None, tokenizer, sources, {})


def open_judges(grader: Grader, mesh: Mesh) -> Grader:
    """The grader with its judges on the device open, for steps on that mesh.

    Raises:
        InputError: if there is no such model, or it cannot judge.
    """

    def open_judge(path: str) -> FrozenJudge:
        run, stage, step = open_model(Path(path))
        run, model = dataclasses.replace(run, mesh=mesh), run.model(stage)
        check_partition(model, mesh, LEARNER_RULES)
        return FrozenJudge(model, run.tokenizer, mesh, lambda: run.load_params(stage, step))

    return grader.open_judges(open_judge)


def _step(folder: Path) -> int:
    step = best_step(folder.parent) if folder.name == "best" else folder.name
    if step is None or not str(step).isdigit():
        raise InputError(
            f"{folder}: no such checkpoint; give checkpoints/STEP, or checkpoints/best for a stage "
            "with validations"
        )
    return int(step)


def _check_init(run: Run, stage: Stage) -> None:
    """Looks whether a stage can start from the other run's model that it names."""
    place = f"stages.{stage.name}.init"
    other, source, step = open_model(Path(stage.init))
    ours, theirs = run.model_config(stage), other.model_config(source)
    if (ours.lora is None) != (theirs.lora is None):
        raise InputError(
            f"{place}: {stage.init} has {'no ' if theirs.lora is None else ''}adapters, which "
            "cannot be changed; `rft export --format hf` it, and use that as the model's `source`"
        )
    same = {name: getattr(ours, name) for name in NOT_OF_SOURCE if name != "lora"}
    if ours.lora is not None:
        del same["source"]  # the weights under the adapters
    if changed := differences(to_json(dataclasses.replace(theirs, **same)), to_json(ours)):
        raise InputError(f"{place}: {stage.init} has another model ({'; '.join(changed)})")
    known = steps(other.checkpoints(source))
    if not known or (step is not None and step not in known):
        raise InputError(f"{place}: {stage.init} has no such checkpoint yet; train it first")
    path = run.tokenizer_path
    if not path.is_file() or path.read_bytes() != other.tokenizer_path.read_bytes():
        raise InputError(
            f"{place}: {stage.init} has a tokenizer of its own; set "
            f"--config.tokenizer.path={other.tokenizer_path}"
        )


def check_same(stored: Path, config: Config) -> None:
    """Refuses to go on with settings that would give another result.

    Raises:
        InputError: naming them.
    """
    old = to_json(read_config(stored))  # settings it lacks have their defaults
    new = json.loads(json.dumps(to_json(config)))
    for run in (old, new):
        for name in NO_RESULT:
            run.pop(name, None)
        for model, name in itertools.product(run["models"], NO_RESULT_OF_MODEL):
            model.pop(name, None)
    if changed := differences(old, new):
        raise InputError(
            f"{stored.parent}: the work directory belongs to another configuration "
            f"({'; '.join(changed)}); use another --workdir or the same settings"
        )


def _grader(config: Config) -> Grader | None:
    if not any(isinstance(stage, RLStage) for stage in config.stages):
        return None
    if not config.grader:
        raise InputError("grader: reinforcement needs a grader; give --config.grader=FILE.json")
    spec, threshold = load_grader(config.grader), load_pass_threshold(config.grader)
    return build_grader(spec, config.placement, config.host, threshold)


def _grader_text(grader: str | dict[str, Any]) -> str:
    if isinstance(grader, str):
        return Path(grader).read_text(encoding="utf-8")
    return json.dumps(grader, indent=2) + "\n"


def _tokenizer(
    config: Config,
    sources: dict[str, Source],
    path: Path,
    temporary: Path,
    rows: dict[str, dict[str, Rows]],
    symbols: str = "",
) -> Tokenizer:
    """The source's, the one that is named, the run's own, or a new one in a temporary file."""
    if sources:
        return next(iter(sources.values())).tokenizer(config.tokenizer.thinking)
    if path.exists():
        return SentencePieceTokenizer(path)
    if config.tokenizer.path:
        return SentencePieceTokenizer(config.tokenizer.path)
    texts = training_texts(rows, config.tokenizer.training_texts)
    log(f"training a tokenizer on {len(texts):,} texts")
    whole = data.load_lines(symbols) if symbols else ()
    train_sentencepiece(texts, temporary, config.tokenizer.vocab_size, whole)
    return SentencePieceTokenizer(temporary)
