"""Models side by side, as `results.json` has them: `rft eval` and evaluation stages.

{"cases": 200, "samples": 4,
 "models": {"small_rft": {"parameters": ..., "reward_mean": ..., "top1": ...,
                          "intervals": {"top1": [low, high]}}},
 "paired": [{"a": "small_rft", "b": "small_sft", "metric": "top1",
             "difference": a - b, "low": ..., "high": ...}]}
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INTERVALS = "intervals"
NOT_COMPARED = ("model", "data", "items", "samples")


def compare(lines: Iterable[Mapping[str, Any]], names: Sequence[str] = ()) -> dict[str, Any]:
    """The comparison out of the lines of `evaluate.evaluate_models`.

    Args:
        lines: A line a model, then a line a pair and metric.
        names: What to call the models, in their order; by default as the lines do.
    """
    lines = list(lines)
    models = [line for line in lines if "model" in line]
    names = names or [line["model"] for line in models]
    called = {line["model"]: name for line, name in zip(models, names, strict=True)}
    # An error that no model made is no news.
    quiet = {
        name
        for name in models[0]
        if name.startswith("errors/") and not any(line.get(name) for line in models)
    }
    return {
        "cases": models[0]["items"],
        "samples": models[0]["samples"],
        "models": {
            called[line["model"]]: {
                name: value
                for name, value in line.items()
                if name not in NOT_COMPARED and name not in quiet
            }
            for line in models
        },
        "paired": [
            {**line, "a": called[line["a"]], "b": called[line["b"]]}
            for line in lines
            if "model" not in line
        ],
    }


def metrics_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics of a comparison, in the order in which the models have them."""
    return [name for name in dict.fromkeys(n for row in models.values() for n in row)
            if name != INTERVALS]  # fmt: skip
