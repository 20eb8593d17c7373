"""`rft quickstart` with three seeds, and its comparison as one table.

    python experiments/three_seeds.py --workdir runs/three_seeds

Ten minutes a seed on two cores of a CPU. Writes three_seeds.md into the work directory. Stopped,
the same command goes on.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rft_jax import quickstart
from rft_jax.training import train

SEEDS = (0, 1, 2)
TUNED = "small_rft"
RATES = {
    "top1": "top@1",
    "top5": "top@5",
    "top_max": "top@max",
    "malformed_rate": "malformed",
}


def main() -> None:
    """Runs what is missing, then writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    for seed in SEEDS:
        train(quickstart.get_config(seed), workdir / f"seed_{seed}")
    runs = [json.loads((workdir / f"seed_{seed}/results.json").read_text()) for seed in SEEDS]
    text = "\n".join(lines_of(runs)) + "\n"
    (workdir / "three_seeds.md").write_text(text)
    print(text, end="")


def lines_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The tables of the runs' `results.json`."""
    costs = [(run["seed"], run["wall_s"] / 60, run["peak_rss_bytes"] / 1e9) for run in runs]
    lines = [f"Seed {seed}: {minutes:.1f} minutes, {peak:.1f} GB." for seed, minutes, peak in costs]
    for name in runs[0]["evaluations"]:
        found = [run["evaluations"][name] for run in runs]
        lines += ["", f"{name}, {found[0]['cases']} cases a seed, one sample each, in %:", ""]
        lines += _models([evaluation["models"] for evaluation in found])
        lines += ["", f"{TUNED} minus another in points of top@1, with 95 % intervals:", ""]
        lines += _differences([evaluation["paired"] for evaluation in found])
    return lines


def _models(found: Sequence[dict[str, dict[str, Any]]]) -> list[str]:
    lines = _header("model", "parameters", *RATES.values(), "genes listed")
    for model, row in found[0].items():
        rates = [_by_seed(100 * models[model][rate] for models in found) for rate in RATES]
        listed = _by_seed(models[model]["mean_list_length"] for models in found)
        parameters = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(_row(model, parameters, *rates, listed))
    return lines


def _differences(found: Sequence[list[dict[str, Any]]]) -> list[str]:
    lines = _header("minus", *(f"seed {seed}" for seed in SEEDS))
    signed = [
        {
            pair["b"] if pair["a"] == TUNED else pair["a"]: pair | {"sign": pair["a"] == TUNED}
            for pair in pairs
            if pair["metric"] == "top1" and TUNED in (pair["a"], pair["b"])
        }
        for pairs in found
    ]
    for other in signed[0]:
        lines.append(_row(other, *(_interval(pairs[other]) for pairs in signed)))
    return lines


def _interval(pair: dict[str, Any]) -> str:
    ends = [100 * pair[end] for end in ("difference", "low", "high")]
    difference, low, high = ends if pair["sign"] else (-ends[0], -ends[2], -ends[1])
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def _by_seed(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _header(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
