"""A run's grader: built from its specification, its judges on the device opened."""

import dataclasses
import json
from pathlib import Path

from jax.sharding import Mesh

from rft_jax.config import Config
from rft_jax.graders import Grader, build_grader, load_grader, load_pass_threshold
from rft_jax.models import check_partition
from rft_jax.parallel import LEARNER_RULES
from rft_jax.rollout import FrozenJudge
from rft_jax.runs.reopen import open_model
from rft_jax.runs.run import Run
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

GRADER_FILE = "grader.json"


def reopen_grader(run: Run) -> Grader | None:
    """The grader of a run from `reopen`, as it was when the run began; None if it has none.

    Raises:
        InputError: It cannot be used here.
    """
    if (kept := run.workdir / GRADER_FILE).exists():
        return run_grader(dataclasses.replace(run.config, grader=str(kept)))
    return run_grader(run.config)


def open_judges(grader: Grader, mesh: Mesh) -> Grader:
    """The grader with its judges on the device open, for steps on that mesh.

    Raises:
        InputError: If there is no such model, or it cannot judge.
    """

    def open_judge(path: str) -> FrozenJudge:
        run, stage, step = open_model(Path(path))
        run, model = dataclasses.replace(run, mesh=mesh), run.model(stage)
        check_partition(model, mesh, LEARNER_RULES)
        return FrozenJudge(model, run.tokenizer, mesh, lambda: run.load_params(stage, step))

    return grader.open_judges(open_judge)


def run_grader(config: Config) -> Grader | None:
    """The grader of a configuration; None if no stage needs one and there is none.

    Raises:
        InputError: It is missing or cannot be used.
    """
    if not config.sampling_stages or not (config.grader or config.rl_stages):
        return None
    if not config.grader:
        raise InputError(
            "grader: reinforcement needs a grader; set it to a JSON file or MODULE:NAME"
        )
    spec, threshold = load_grader(config.grader), load_pass_threshold(config.grader)
    return build_grader(spec, config.placement, config.host, threshold)


def grader_text(grader: str | JsonObject) -> str:
    """A grader's specification as JSON, as it is kept in a work directory."""
    if isinstance(grader, str):
        return Path(grader).read_text(encoding="utf-8")
    return json.dumps(grader, indent=2) + "\n"
