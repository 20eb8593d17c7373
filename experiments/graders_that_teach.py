"""What a grader teaches: credit for the first rank only, by rank, or for presence anywhere.

    pip install -e '.[notebooks]'
    python experiments/graders_that_teach.py --workdir runs/graders_that_teach

The quickstart's small base model is pre-trained once a seed, then reinforced three times on the
same cases with graders that differ in their credit only. Writes graders_that_teach.json (all
validations, on genes without a training case) and graders_that_teach.svg into the work directory.
Stopped, the same command goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from rft_jax import quickstart
from rft_jax.config import Config
from rft_jax.logging.metrics import read_metrics
from rft_jax.tasks.rare_disease.prompts import CREDIT, MAX_GENES
from rft_jax.training import train

GRADERS = {
    "first rank only": [1.0],
    "partial credit by rank": list(CREDIT),
    "presence anywhere": [1.0] * MAX_GENES,
}
SEEDS = (0, 1, 2)
BASE, RFT = "small_base", "small_rft"
PANELS = {
    "valid_reward_mean": "reward, by its own grader",
    "valid_top1": "right gene first",
    "valid_mean_list_length": "genes in the list",
}


def base_config(seed: int) -> Config:
    """Pre-trains the base model."""
    config = quickstart.get_config(seed)
    stages = tuple(stage for stage in config.stages if stage.name == BASE)
    return dataclasses.replace(config, stages=stages)


def tuned_config(seed: int, credit: list[float], base: Path) -> Config:
    """Reinforces the base model in that work directory with such credit by rank."""
    config = quickstart.get_config(seed)
    rft = next(stage for stage in config.stages if stage.name == RFT)
    return dataclasses.replace(
        config,
        grader=config.grader | {"credit": credit},
        tokenizer=dataclasses.replace(config.tokenizer, path=f"{base}/tokenizer.model"),
        stages=(dataclasses.replace(rft, init=f"{base}/{BASE}", eval_interval=10),),
    )


def main() -> None:
    """Runs what is missing, then writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    lines = []
    for seed in SEEDS:
        base = workdir / f"seed_{seed}" / "base"
        train(base_config(seed), base)
        for number, (name, credit) in enumerate(GRADERS.items()):
            run = base.with_name(f"grader_{number}")
            train(tuned_config(seed, credit, base), run)
            rows = [row for row in read_metrics(run / RFT / "metrics.jsonl") if "valid_top1" in row]
            lines += [
                {"seed": seed, "grader": name} | {key: row[key] for key in ("step", *PANELS)}
                for row in rows
            ]
            print(json.dumps(lines[-1]), flush=True)
    (workdir / "graders_that_teach.json").write_text(json.dumps(lines, indent=1) + "\n")
    plot(lines, workdir / "graders_that_teach.svg")


def plot(lines: list[dict], path: Path) -> None:
    """A panel a metric; of each grader the mean over the seeds, and the seeds as points."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 3.4), layout="constrained")
    for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
        for index, name in enumerate(GRADERS):
            found = [line for line in lines if line["grader"] == name]
            steps = sorted({line["step"] for line in found})
            values = [[r[metric] for r in found if r["step"] == step] for step in steps]
            axes.plot(steps, np.mean(values, axis=1), f"C{index}", label=name)
            axes.plot(steps, values, f"C{index}.", markersize=3, alpha=0.5)
        axes.set(xlabel="step", ylim=(0, None))
        axes.set_title(title, loc="left", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
