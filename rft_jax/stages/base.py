"""What a stage type provides, and what it may ask of the run loop.

`training.train` calls `Stage.run` for each of a run's stages in order. A stage that takes steps
hands itself to `Loop.drive`; one that only looks at models does its work there and then.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax import Array

from rft_jax.config import TrainingStageConfig
from rft_jax.learn.optimizer import TrainState
from rft_jax.models import Model, Params
from rft_jax.runs.datasets import StageReader
from rft_jax.runs.run import Run
from rft_jax.utils.numbers import to_numbers
from rft_jax.utils.types import JsonObject, PyTree

Row = JsonObject  # of metrics, by name; seconds stand under `timing`
Validate = Callable[[Params, int], Row]


class Compiled(NamedTuple):
    """What a training stage runs.

    Attributes:
        step: Takes the state and a batch, and returns the next state and the step's output. The
            state is donated.
        validate: Takes all weights and the step, and returns the metrics of the validation items,
            without `valid_` before their names; None without validation.
    """

    step: Callable[[TrainState, PyTree], tuple[TrainState, PyTree]]
    validate: Validate | None


class Stage(StageReader, Protocol):
    """A stage of an open run. Its class says what it reads, before there is a run."""

    def __init__(self, run: Run, config: Any): ...

    def run(self, loop: "Loop") -> None:
        """Does what is left to do of the stage; nothing if it is done."""


class TrainingStage(Protocol):
    """A stage that takes steps, as the run loop sees it.

    Attributes:
        config: The stage's settings.
        model: The decoder.
        optimizer: What turns gradients into updates.
        eval_interval: Steps between evaluations; 0 for none.
        early_stopping_patience: Evaluations without a better reward that end it; 0 for no end.
    """

    @property
    def config(self) -> TrainingStageConfig: ...

    @property
    def model(self) -> Model: ...

    @property
    def optimizer(self) -> optax.GradientTransformation: ...

    @property
    def eval_interval(self) -> int: ...

    @property
    def early_stopping_patience(self) -> int: ...

    def state_shardings(self) -> TrainState:
        """Where the state's arrays lie, in the state's shape."""
        ...

    def open(self) -> AbstractContextManager[Compiled]:
        """Acquires what the steps need; entered only if there is a step left to do."""
        ...

    def batch(self, k: int, state: TrainState) -> PyTree:
        """The input of the k-th step, k from 0, as global arrays; `state` is the one before it."""

    def metrics(self, output: PyTree, step: int) -> Row:
        """The row of metrics of a step's output; `step` counts from 1."""
        ...


class Loop(Protocol):
    """The run loop, as a stage sees it."""

    run: Run

    def drive(self, stage: TrainingStage) -> None:
        """Takes the stage's steps to their end, with evaluations, checkpoints and metrics."""

    def stop_if_asked(self) -> None:
        """Ends the run in good order if any host was asked to stop; collective."""


def is_due(step: int, steps: int, interval: int) -> bool:
    """Whether something that is done every `interval` steps, and at the last, is done at a step."""
    return bool(interval) and (step % interval == 0 or step == steps)


def scalars_row(metrics: Mapping[str, Array | np.floating]) -> Row:
    """A step's scalars on the host, under their names in the metrics file.

    Those called `timing/...` join the seconds in the row's `timing`.
    """
    row: Row = {}
    timing: Row = {}
    for name, value in jax.device_get(metrics).items():
        if name.startswith("timing/"):
            timing[name.removeprefix("timing/")] = to_numbers(value)
        else:
            row[f"train_{name}"] = to_numbers(value)
    return row | {"timing": timing}
