"""The teacher of a stage of distillation: an earlier stage, another run's model, a checkpoint."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from rft_jax.config import DistillStage
from rft_jax.models import Model, Params, check_partition
from rft_jax.parallel import LEARNER_RULES, shardings
from rft_jax.runs.checkpoint import steps
from rft_jax.runs.reopen import OpenModel, open_model
from rft_jax.runs.run import BASE_STAGE, Run
from rft_jax.runs.warm_start import pinned_model
from rft_jax.tokenizers import same_tokens
from rft_jax.utils.errors import InputError

TEACHER_FILE = "teacher.json"  # the checkpoint of another run that a stage learns from


class Teacher(NamedTuple):
    """A teacher over the student's mesh.

    Attributes:
        model: Its decoder.
        opened: The run that has it, its stage and step.
    """

    model: Model
    opened: OpenModel

    def load(self) -> Params:
        """The weights, cast once to the type in which they are multiplied.

        They lie as a learner's do, so that layers are gathered one at a time.
        """
        run, stage, step = self.opened
        sharding = shardings(run.mesh, LEARNER_RULES, self.model.sampling_axes)
        copy = jax.jit(self.model.sampling_weights, out_shardings=sharding)
        return copy(run.load_params(stage, step))


def open_teacher(run: Run, stage: DistillStage) -> Teacher:
    """The teacher of a stage that begins or goes on.

    Raises:
        InputError: If there is no such model.
    """
    if "/" in stage.teacher:
        return _teacher(run, pinned_model(stage.teacher, run.directory(stage) / TEACHER_FILE))
    return _teacher(run, OpenModel(run, run.stage(stage.teacher), None))


def check_teacher(run: Run, stage: DistillStage) -> None:
    """Looks whether a stage can learn from the teacher that it names.

    Raises:
        InputError: If there is no such model yet, or it has other tokens or does not fit the mesh.
    """
    setting = f"stages.{stage.name}.teacher"
    if "/" not in stage.teacher:  # an earlier stage, of the run's own tokenizer
        return
    opened = open_model(Path(stage.teacher))
    other, source, step = opened
    known = [] if source is BASE_STAGE else steps(other.checkpoints(source))
    if source is not BASE_STAGE and (not known or (step is not None and step not in known)):
        raise InputError(f"{setting}: {stage.teacher} has no such checkpoint yet; train it first")
    alike = same_tokens(other.tokenizer, run.tokenizer)
    if not alike or other.tokenizer.stop_ids != run.tokenizer.stop_ids:
        raise InputError(
            f"{setting}: {stage.teacher} has another tokenizer than the student, so that it cannot "
            "read what that writes; name a teacher of the student's, or train the student with "
            f"tokenizer.path={other.tokenizer_path}"
        )
    check_partition(_teacher(run, opened).model, run.mesh, LEARNER_RULES)


def _teacher(run: Run, opened: OpenModel) -> Teacher:
    other = dataclasses.replace(opened.run, mesh=run.mesh)
    return Teacher(other.model(opened.stage), opened._replace(run=other))
