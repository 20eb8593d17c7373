"""Models side by side, as `results.json` has them: `rft eval` and evaluation stages.

{"cases": 200, "samples": 4,
 "models": {"small_rft": {"parameters": ..., "reward_mean": ..., "top1": ...,
                          "intervals": {"top1": [low, high]}}},
 "paired": [{"a": "small_rft", "b": "small_sft", "metric": "top1",
             "difference": a - b, "low": ..., "high": ...}]}
"""

import os
from collections.abc import Mapping, Sequence

from rft_jax.utils.types import JsonObject

INTERVALS = "intervals"
NOT_COMPARED = ("model", "data", "items", "samples")


def compare(
    models: Sequence[JsonObject],
    differences: Sequence[JsonObject] = (),
    names: Sequence[str] = (),
) -> JsonObject:
    """The comparison of models, as a JSON value.

    Args:
        models: `ModelResult.to_json` of each model.
        differences: `PairedDifference.to_json` of each pair and metric.
        names: What to call the models, in their order; by default their paths without the folders
            that all of them share.
    """
    names = names or _short([line["model"] for line in models])
    called = {line["model"]: name for line, name in zip(models, names, strict=True)}
    # An error that no model made is no news, and its fraction says more than its count.
    quiet = {
        name
        for name in models[0]
        if name.startswith("errors/")
        and (name.endswith("_count") or not any(line.get(name) for line in models))
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
            {**line, "a": called[line["a"]], "b": called[line["b"]]} for line in differences
        ],
    }


def _short(paths: Sequence[str]) -> list[str]:
    parts = [path.split("/") for path in paths]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return ["/".join(part[shared:]) for part in parts]


def metrics_of(models: Mapping[str, JsonObject]) -> list[str]:
    """The metrics of a comparison, in the order in which the models have them."""
    names = dict.fromkeys(name for row in models.values() for name in row)
    return [name for name in names if name != INTERVALS]


def main_metric(evaluation: JsonObject) -> str:
    """The metric by which the models of a comparison are told apart first."""
    found = list(dict.fromkeys(pair["metric"] for pair in evaluation.get("paired", [])))
    return next((name for name in ("top1", "reward_mean") if name in found), (found or [""])[0])
