"""Graders on files: `rft grade` grades answers, `rft validate` checks grader and data together."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rft_jax import data
from rft_jax.config import HostOptions, MeshConfig
from rft_jax.graders import (
    ERRORS,
    Grader,
    HostSample,
    Items,
    build_grader,
    explain,
    grade_samples,
    load_grader,
)
from rft_jax.graders.placement import judge_models
from rft_jax.graders.probe import probe, warnings
from rft_jax.parallel import make_mesh
from rft_jax.runs.run import open_judges
from rft_jax.utils.errors import InputError

_TOKEN_COUNTS = ("prompt_tokens", "completion_tokens")


def explain_grader(grader: str, placement: str) -> Iterator[dict[str, str]]:
    """Where each node of a grader runs, and why.

    Raises:
        InputError: the grader cannot be used.
    """
    return explain(build_grader(load_grader(grader), placement).spec)


def grade_files(
    grader_name: str, items_file: Path, samples_file: Path, placement: str, options: HostOptions
) -> Iterator[dict[str, Any]]:
    """Grades answers.

    Args:
        grader_name: as for `load_grader`.
        items_file: JSON lines, the items.
        samples_file: JSON lines with `output_text` and, unless there are as many samples as items
            in the same order, `item`, the number of the item's line from 1.
        placement: "auto", "device" or "host".
        options: of the nodes on the host.

    Yields:
        For each sample an object in the shape of OpenAI's answer to /graders/run; `execution_time`
        is the mean over the samples, in seconds.

    Raises:
        InputError: naming file, line and field of what cannot be used.
    """
    grader = _open(build_grader(load_grader(grader_name), placement, options))
    items = Items(data.load_rows(items_file), str(items_file))
    samples, rows = _read_samples(samples_file, len(items.rows), items_file)
    began = time.perf_counter()
    grade = grade_samples(grader, samples, items, rows)
    seconds = (time.perf_counter() - began) / len(samples)

    models = judge_models(grader.spec)

    def number(value: np.float32) -> float:
        return round(float(value), 7)

    for n in range(len(samples)):
        usage = _token_usage(models, grade.details, n)
        scores = {name: number(score[n]) for name, score in grade.scores.items()}
        yield {
            "reward": number(grade.reward[n]),
            "sub_rewards": scores,
            "metadata": {
                "name": grader.spec.name,
                "type": grader.type_name,
                "errors": {name: bool(grade.errors[name][n]) for name in ERRORS},
                "execution_time": round(seconds, 6),
                "scores": {name: number(detail[n]) for name, detail in grade.details.items()},
                "token_usage": sum(u["total_tokens"] for u in usage.values()) if usage else None,
                "sampled_model_name": next(iter(usage)) if len(usage) == 1 else None,
            },
            "model_grader_token_usage_per_model": usage,
        }


def _token_usage(
    models: Mapping[str, str], details: Mapping[str, np.ndarray], n: int
) -> dict[str, dict[str, int]]:
    """What judges at a server spent on sample n, by model.

    Args:
        models: of the nodes that are such judges.
        details: of a Grade.
    """
    usage: dict[str, dict[str, int]] = {}
    for node, model in models.items():
        spent = usage.setdefault(model, dict.fromkeys((*_TOKEN_COUNTS, "total_tokens"), 0))
        for count in _TOKEN_COUNTS:
            tokens = int(details[f"{node}/{count}"][n])
            spent[count] += tokens
            spent["total_tokens"] += tokens
    return usage


def _open(grader: Grader) -> Grader:
    """With its judges on one device."""
    return open_judges(grader, make_mesh(MeshConfig(), jax.devices()[:1]))


def _read_samples(path: Path, count: int, items_file: Path) -> tuple[list[HostSample], list[int]]:
    """The samples, and the index of each one's item."""
    lines = data.load_rows(path)
    samples, rows = [], []
    for number, line in enumerate(lines, start=1):
        text, row = line.get("output_text"), line.get("item", number)
        if not isinstance(text, str):
            raise InputError(
                f"{path}, line {number}: output_text: must be a string; add the answer"
            )
        if not isinstance(row, int) or not 1 <= row <= count:
            raise InputError(
                f"{path}, line {number}: item: {row!r} is no line of {items_file}, which has "
                f"{count}; give the number of the item's line, from 1"
            )
        if "item" not in line and len(lines) != count:
            raise InputError(
                f"{path}, line {number}: item: is missing, though there are {len(lines)} samples "
                f"of {count} items; give the number of the item's line, from 1"
            )
        samples.append(HostSample(text))
        rows.append(row - 1)
    return samples, rows


def validate_files(
    grader_name: str, data_file: Path, low: float, high: float, options: HostOptions
) -> tuple[dict[str, Any], list[str]]:
    """Checks a grader and the items together, and probes for reward hacking.

    Args:
        grader_name: as for `load_grader`.
        data_file: training items as JSON lines.
        low: the least reward that is meant to occur.
        high: the greatest.
        options: of the nodes on the host.

    Returns:
        The probes' mean rewards; and sentences on what is suspicious.

    Raises:
        InputError: naming file, line and field of what cannot be used.
    """
    grader = _open(build_grader(load_grader(grader_name), options=options))
    items = Items(data.load_items(data_file), str(data_file))
    probes = probe(grader, items)
    summary = {
        "grader": grader_name,
        "data": str(data_file),
        "items": len(items.rows),
        "probes": {p.name: {"mean": p.reward, "min": p.lowest, "max": p.highest} for p in probes},
    }
    return summary, warnings(probes, low, high)
