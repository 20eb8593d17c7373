"""What a grader teaches: credit for the first rank only, by rank, or for presence anywhere.

    pip install -e '.[notebooks]'
    python experiments/graders_that_teach.py --workdir runs/graders_that_teach

The quickstart's small base model is pre-trained once, then reinforced three times on the same cases
with graders that differ in their credit only. Writes graders_that_teach.json (all validations, on
genes without a training case) and graders_that_teach.svg into the work directory. Stopped, the same
command goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from rft_jax import quickstart
from rft_jax.config import Config
from rft_jax.metrics import read_metrics
from rft_jax.tasks.rare_disease.prompts import CREDIT, MAX_GENES
from rft_jax.train import train

GRADERS = {
    "first rank only": [1.0],
    "partial credit by rank": list(CREDIT),
    "presence anywhere": [1.0] * MAX_GENES,
}
BASE, RFT = "small_base", "small_rft"
PANELS = {
    "valid_reward_mean": "reward, by its own grader",
    "valid_top1": "right gene first",
    "valid_mean_list_length": "genes in the list",
}


def base_config() -> Config:
    """Pre-trains the base model."""
    config = quickstart.get_config()
    stages = tuple(stage for stage in config.stages if stage.name == BASE)
    return dataclasses.replace(config, stages=stages)


def tuned_config(credit: list[float], base: Path) -> Config:
    """Reinforces the base model in that work directory with such credit by rank."""
    config = quickstart.get_config()
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
    base = workdir / "base"
    train(base_config(), base)
    found = {}
    for number, (name, credit) in enumerate(GRADERS.items()):
        run = workdir / f"grader_{number}"
        train(tuned_config(credit, base), run)
        rows = [row for row in read_metrics(run / RFT / "metrics.jsonl") if "valid_top1" in row]
        found[name] = [{key: row[key] for key in ("step", *PANELS)} for row in rows]
        print(json.dumps({"grader": name, **found[name][-1]}), flush=True)
    (workdir / "graders_that_teach.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, workdir / "graders_that_teach.svg")


def plot(found: dict[str, list[dict]], path: Path) -> None:
    """A panel a metric, a line a grader."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 3.4), layout="constrained")
    for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
        for name, rows in found.items():
            axes.plot([r["step"] for r in rows], [r[metric] for r in rows], "o-", ms=3, label=name)
        axes.set(xlabel="step", ylim=(0, None))
        axes.set_title(title, loc="left", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
