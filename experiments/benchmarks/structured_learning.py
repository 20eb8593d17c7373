"""What a response format does to learning: two tasks, each with its schema and without.

    python -m experiments.benchmarks.structured_learning --workdir runs/structured_learning

From the repository's root. For each task, each of three seeds and each number of supervised steps
there is one start, from which reinforcement goes on twice: with the task's schema and without, all
else equal. One JSON object a run and line: by step of the validation the mean reward, the fraction
of samples that are no JSON, and the fraction that were cut; all samples count. A minute or two a
run on two idle CPU cores; stopped, the same command goes on.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import claims
from rft_jax import quickstart
from rft_jax.config import Config, RLStage, SFTStage
from rft_jax.tasks.rare_disease.prompts import MAX_GENES
from rft_jax.training import train

METRICS = {
    "reward": "valid_reward_mean_all",
    "not_json": "valid_errors/sample_parse_error_mean",
    "cut": "valid_truncated_fraction",
}
GENES = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "maxLength": 160},
        "genes": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[A-Z0-9-]{2,12}$"},
            "minItems": 1,
            "maxItems": MAX_GENES,
        },
    },
    "required": ["explanation", "genes"],
    "additionalProperties": False,
}


class Task(NamedTuple):
    """A job to learn.

    Attributes:
        config: Its configuration, of a supervised stage and one of reinforcement that starts from
            it, among others.
        response_format: That of its answers.
        sft_steps: Supervised steps to start from, if nothing else is asked for.
    """

    config: Callable[[], Config]
    response_format: str | dict[str, Any]
    sft_steps: tuple[int, ...]

    @property
    def reinforcement(self) -> RLStage:
        """The stage that is compared."""
        return next(stage for stage in self.config().stages if isinstance(stage, RLStage))

    @property
    def supervised(self) -> SFTStage:
        """The stage that it starts from."""
        stages = {stage.name: stage for stage in self.config().stages}
        stage = stages[self.reinforcement.init]
        assert isinstance(stage, SFTStage)
        return stage


TASKS = {
    "claims": Task(
        claims.get_config,
        str(Path(claims.__file__).parent / "claims/response_format.json"),
        (250, 40),
    ),
    "quickstart": Task(
        quickstart.get_config,
        {"type": "json_schema", "json_schema": {"name": "genes", "strict": True, "schema": GENES}},
        (700, 200),
    ),
}


def start_config(task: Task, seed: int, sft_steps: int) -> Config:
    """The supervised stage alone."""
    stage = dataclasses.replace(task.supervised, steps=sft_steps)
    return _alone(task, seed, stage)


def run_config(
    task: Task, seed: int, start: Path, steps: int, response_format: str | dict[str, Any]
) -> Config:
    """Reinforcement alone, of the supervised stage of another run, with that run's tokenizer."""
    stage = task.reinforcement
    stage = dataclasses.replace(
        stage,
        init=f"{start}/{task.supervised.name}",
        steps=steps,
        eval_interval=20,
        rollout=dataclasses.replace(stage.rollout, response_format=response_format),
    )
    config = _alone(task, seed, stage)
    tokenizer = dataclasses.replace(config.tokenizer, path=str(start / "tokenizer.model"))
    return dataclasses.replace(config, tokenizer=tokenizer)


def _alone(task: Task, seed: int, stage: RLStage | SFTStage) -> Config:
    config = task.config()
    models = tuple(model for model in config.models if model.name == task.supervised.model)
    return dataclasses.replace(config, seed=seed, stages=(stage,), models=models)


def curve(workdir: Path) -> dict[str, list[float]]:
    """What was validated, by step."""
    (metrics,) = workdir.glob("*/metrics.jsonl")
    lines = metrics.read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if METRICS["reward"] in row]
    named = {name: [round(row[key], 3) for row in rows] for name, key in METRICS.items()}
    return {"step": [row["step"] for row in rows], **named}


def main() -> None:
    """Runs what is missing and prints its curves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, default="claims")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sft-steps", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    task = TASKS[options.task]
    for sft_steps in options.sft_steps or task.sft_steps:
        for seed in options.seeds:
            start = options.workdir / f"start_{options.task}_{sft_steps}_{seed}"
            train(start_config(task, seed, sft_steps), start)
            for name, response_format in (("without", ""), ("with", task.response_format)):
                workdir = options.workdir / f"{name}_{options.task}_{sft_steps}_{seed}"
                train(run_config(task, seed, start, options.steps, response_format), workdir)
                row: dict[str, Any] = {"sft_steps": sft_steps, "seed": seed, "schema": name}
                print(json.dumps({"task": options.task} | row | curve(workdir)), flush=True)


if __name__ == "__main__":
    main()
