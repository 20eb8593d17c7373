"""How many cases reinforcement needs: the quickstart's small model on 30 to 1,000 of its cases.

    pip install -e '.[notebooks]'
    python experiments/few_examples.py --workdir runs/few_examples

For each of three seeds the base model is pre-trained once. From it, and from the same 30, 100, 300
and 1,000 cases, one model is reinforced against the rank grader and one is tuned on the right
answers; both are evaluated on genes without a case. Writes few_examples.json and few_examples.svg
into the work directory. Stopped, the same command goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from rft_jax import quickstart
from rft_jax.config import Config, EvalStage
from rft_jax.training import train

SIZES = (30, 100, 300, 1000)
SEEDS = (0, 1, 2)
TRAIN_CASES = 8  # of each of 140 genes
BASE, SFT, RFT = "small_base", "small_sft", "small_rft"
COLOURS = {RFT: "tab:blue", SFT: "tab:orange", BASE: "tab:gray"}
LABELS = {RFT: "reinforced", SFT: "tuned on right answers", BASE: "before"}


def base_config(seed: int) -> Config:
    """Pre-trains the base model of a seed."""
    config = quickstart.get_config(seed)
    stages = tuple(stage for stage in config.stages if stage.name == BASE)
    return dataclasses.replace(config, stages=stages)


def tuned_config(seed: int, size: int, base: Path) -> Config:
    """Tunes on `size` cases, starting from the base model in that work directory."""
    config = quickstart.get_config(seed)
    init = f"{base}/{BASE}"
    stages = {stage.name: stage for stage in config.training_stages}
    sft, rft = (dataclasses.replace(stages[name], init=init) for name in (SFT, RFT))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train_cases=TRAIN_CASES, examples=size),
        tokenizer=dataclasses.replace(config.tokenizer, path=f"{base}/tokenizer.model"),
        stages=(sft, rft, EvalStage(name="genes_unseen", models=(init, SFT, RFT), samples=2)),
    )


def main() -> None:
    """Runs what is missing, then writes the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    lines = []
    for seed in SEEDS:
        base = workdir / f"base_{seed}"
        train(base_config(seed), base)
        for size in SIZES:
            run = workdir / f"cases_{size}_{seed}"
            train(tuned_config(seed, size, base), run)
            found = json.loads((run / "results.json").read_text())["evaluations"]["genes_unseen"]
            for path, row in found["models"].items():
                model = path.rpartition("/")[2]
                lines.append({"seed": seed, "cases": size, "model": model, "top1": row["top1"]})
                print(json.dumps(lines[-1]), flush=True)
    (workdir / "few_examples.json").write_text(json.dumps(lines, indent=1) + "\n")
    plot(lines, workdir / "few_examples.svg")


def plot(lines: list[dict], path: Path) -> None:
    """A line a model: the mean over the seeds, and each seed as a point."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for model, color in COLOURS.items():
        top1 = np.array(
            [
                [r["top1"] for r in lines if (r["model"], r["cases"]) == (model, size)]
                for size in SIZES
            ]
        )
        axes.plot(SIZES, 100 * top1.mean(axis=1), color=color, label=LABELS[model])
        axes.plot(SIZES, 100 * top1, "o", color=color, markersize=4, alpha=0.6)
    axes.set(xscale="log", xlabel="training cases", ylabel="right gene first, %", ylim=(0, None))
    axes.set_xticks(SIZES, SIZES)
    axes.set_title("Genes without a training case; a point a seed", loc="left", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
