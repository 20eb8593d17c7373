"""Finished and running runs, and the models in them, found by path.

run = reopen(workdir)
run, stage, step = open_model(Path("runs/claims/rft/checkpoints/best"))
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from rft_jax.config import (
    Config,
    MeshConfig,
    ModelConfig,
    RolloutConfig,
    SamplingStage,
    TokenizerConfig,
    TrainingStageConfig,
)
from rft_jax.config.overrides import read_config
from rft_jax.models.hugging_face import is_checkpoint
from rft_jax.parallel import is_first, make_mesh
from rft_jax.runs.checkpoint import best_step, steps
from rft_jax.runs.pretrained import find_sources, snapshotted_sources
from rft_jax.runs.run import BASE_STAGE, Run
from rft_jax.runs.tokenizer import TOKENIZER_FILE, stored_tokenizer
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError


def reopen(workdir: Path) -> Run:
    """Opens a finished or running work directory for its models; without data and grader.

    Raises:
        InputError: If it is not a work directory.
    """
    stored = workdir / "config.json"
    if not stored.exists():
        raise InputError(f"{workdir}: not a work directory (it has no config.json)")
    config = read_config(stored)
    sources = snapshotted_sources(config, workdir)
    tokenizer = stored_tokenizer(config, sources, workdir)
    if tokenizer is None:
        raise InputError(
            f"{workdir / TOKENIZER_FILE}: the file is missing, without which the run's models "
            "cannot be used; copy the whole work directory, or train it again"
        )
    try:
        mesh = make_mesh(config.mesh)
    except InputError:  # the run had other hardware
        mesh = make_mesh(MeshConfig())
    return Run(config, workdir, mesh, None, tokenizer, sources, {})


class OpenModel(NamedTuple):
    """A model of a run; `step` is None for the stage's newest checkpoint."""

    run: Run
    stage: TrainingStageConfig
    step: int | None

    @property
    def sampling_stages(self) -> tuple[SamplingStage, ...]:
        """The run's stages that sample, the stage's own last if it is one."""
        return Config(stages=(*self.run.config.training_stages, self.stage)).sampling_stages

    @property
    def has_grader(self) -> bool:
        """Whether its run has a grader for what is sampled."""
        return bool(self.sampling_stages and self.run.config.grader)

    @property
    def sampling(self) -> RolloutConfig | None:
        """How it is sampled: as in the run's last stage that samples, or as an export says."""
        if self.sampling_stages:
            return self.sampling_stages[-1].rollout
        source = self.run.sources.get(self.stage.model)
        if source is None or source.record.completion_tokens is None:
            return None
        return RolloutConfig(
            max_completion_tokens=source.record.completion_tokens,
            reasoning_effort=source.record.thinking_tokens or 0,
        )


def open_model(path: Path) -> OpenModel:
    """Finds a model.

    Args:
        path: `WORKDIR` for its last stage, `WORKDIR/STAGE`, or one checkpoint of a stage,
            `WORKDIR/STAGE/checkpoints/STEP`, where STEP may be `best`, for that of the highest
            validation reward. Or a Hugging Face checkpoint: a directory or `hf:Owner/Name`.

    Raises:
        InputError: If there is no such run, stage or best checkpoint.
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
        remedy = "correct the path"
        if len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists():
            remedy = f"for the model of that name on Hugging Face, write hf:{path}"
        raise InputError(
            f"{path}: not a work directory, nor a stage or a checkpoint of one; {remedy}"
        )
    run = reopen(path.parent)
    return OpenModel(run, run.stage(path.name), step)


def open_best(path: Path) -> OpenModel:
    """Finds a model as `open_model`, to use it rather than to train it further.

    Where the path names no checkpoint and validations chose one, that is taken, and said on stderr.

    Raises:
        InputError: As `open_model`.
    """
    model = open_model(path)
    run, stage, step = model
    if step is not None or stage is BASE_STAGE:
        return model
    folder = run.checkpoints(stage)
    best = best_step(folder)
    if best is None:
        return model
    newest = steps(folder)[-1]
    if is_first():
        other = f"; the newest is {folder / str(newest)}" if newest != best else ""
        log(f"{path}: step {best}, the checkpoint of the best validation{other}")
    return model._replace(step=best)


def _open_checkpoint(source: str) -> Run:
    """A Hugging Face checkpoint as the run of one model, without a grader."""
    config = Config(models=(ModelConfig(source=source),), stages=(BASE_STAGE,))
    sources = find_sources(config, None)
    thinking = sources[BASE_STAGE.model].record.thinking
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(thinking=thinking))
    tokenizer = sources[BASE_STAGE.model].tokenizer(thinking)
    return Run(config, Path(source), make_mesh(MeshConfig()), None, tokenizer, sources, {})


def _step(folder: Path) -> int:
    step = best_step(folder.parent) if folder.name == "best" else folder.name
    if step is None or not str(step).isdigit():
        raise InputError(
            f"{folder}: no such checkpoint; give checkpoints/STEP, or checkpoints/best for a stage "
            "with validations"
        )
    return int(step)
