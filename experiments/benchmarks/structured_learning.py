"""What a response format does to learning: the claims, with their schema and without.

    python -m experiments.benchmarks.structured_learning --workdir runs/structured_learning

From the repository's root. For each of three seeds and each number of supervised steps there is
one start, from which reinforcement goes on twice: with `claims/response_format.json` and without,
all else equal. One JSON object a run and line: by step of the validation the mean reward, the
fraction of samples that are no JSON, and the fraction that were cut; all samples count. A minute
or two a run on two idle CPU cores; stopped, the same command goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments import claims
from rft_jax.config import Config, RLStage, SFTStage
from rft_jax.training import train

FORMAT = Path(claims.__file__).parent / "claims/response_format.json"
METRICS = {
    "reward": "valid_reward_mean_all",
    "not_json": "valid_errors/sample_parse_error_mean",
    "cut": "valid_truncated_fraction",
}


def start_config(seed: int, sft_steps: int) -> Config:
    """The supervised stage alone."""
    config = claims.get_config()
    (sft,) = (stage for stage in config.stages if isinstance(stage, SFTStage))
    return dataclasses.replace(
        config, seed=seed, stages=(dataclasses.replace(sft, steps=sft_steps),)
    )


def run_config(seed: int, start: Path, steps: int, response_format: str) -> Config:
    """Reinforcement alone, of the supervised stage of another run, with that run's tokenizer."""
    config = claims.get_config()
    (rft,) = (stage for stage in config.stages if isinstance(stage, RLStage))
    rft = dataclasses.replace(
        rft,
        init=f"{start}/sft",
        steps=steps,
        eval_interval=20,
        rollout=dataclasses.replace(rft.rollout, response_format=response_format),
    )
    tokenizer = dataclasses.replace(config.tokenizer, path=str(start / "tokenizer.model"))
    return dataclasses.replace(config, seed=seed, stages=(rft,), tokenizer=tokenizer)


def curve(workdir: Path) -> dict[str, list[float]]:
    """What was validated, by step."""
    lines = (workdir / "rft/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if METRICS["reward"] in row]
    named = {name: [round(row[key], 3) for row in rows] for name, key in METRICS.items()}
    return {"step": [row["step"] for row in rows], **named}


def main() -> None:
    """Runs what is missing and prints its curves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sft-steps", type=int, nargs="+", default=[250, 40])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    for sft_steps in options.sft_steps:
        for seed in options.seeds:
            start = options.workdir / f"start_{sft_steps}_{seed}"
            train(start_config(seed, sft_steps), start)
            for name, response_format in (("without", ""), ("with", str(FORMAT))):
                workdir = options.workdir / f"{name}_{sft_steps}_{seed}"
                train(run_config(seed, start, options.steps, response_format), workdir)
                row: dict[str, Any] = {"sft_steps": sft_steps, "seed": seed, "schema": name}
                print(json.dumps(row | curve(workdir)), flush=True)


if __name__ == "__main__":
    main()
