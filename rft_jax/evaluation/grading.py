"""Graders on files: `rft grade` grades answers, `rft validate` checks grader and data together."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

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
from rft_jax.graders.probe import count_failures, probe, warnings
from rft_jax.graders.template import show
from rft_jax.parallel import make_mesh
from rft_jax.runs.grader import open_judges
from rft_jax.tokenizers import message_text
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, JsonObject

_TOKEN_COUNTS = ("prompt_tokens", "completion_tokens")


def explain_grader(grader: str, placement: str) -> Iterator[dict[str, str]]:
    """Where each node of a grader runs, and why.

    Raises:
        InputError: The grader cannot be used.
    """
    return explain(build_grader(load_grader(grader), placement).spec)


def grade_files(
    grader_name: str, items_file: Path, samples_file: Path, placement: str, options: HostOptions
) -> Iterator[JsonObject]:
    """Grades answers.

    Args:
        grader_name: As for `load_grader`.
        items_file: JSON lines, the items.
        samples_file: JSON lines with `output_text` and, unless there are as many samples as items
            in the same order, `item`, the number of the item's line from 1.
        placement: "auto", "device" or "host".
        options: What the nodes on the host may use.

    Yields:
        For each sample an object in the shape of OpenAI's answer to /graders/run, with the line of
        its item as `item` and whether the grade counts as `metadata.valid`. All are graded
        together, so that none has an `execution_time` of its own.

    Raises:
        InputError: Naming file, line and field of what cannot be used.
    """
    grader = _open(build_grader(load_grader(grader_name), placement, options))
    items = Items(data.load_rows(items_file), str(items_file))
    samples, rows = _read_samples(samples_file, len(items.rows), items_file)
    grade = grade_samples(grader, samples, items, rows)

    models = judge_models(grader.spec)

    def number(value: jax.Array) -> float:
        return round(float(value), 7)

    for n in range(len(samples)):
        usage = _token_usage(models, grade.details, n)
        scores = {name: number(score[n]) for name, score in grade.scores.items()}
        yield {
            "item": rows[n] + 1,
            "reward": number(grade.reward[n]),
            "sub_rewards": scores,
            "metadata": {
                "name": grader.spec.name,
                "type": grader.type_name,
                "valid": bool(grade.valid[n]),
                "errors": {name: bool(grade.errors[name][n]) for name in ERRORS},
                "scores": {name: number(detail[n]) for name, detail in grade.details.items()},
                "token_usage": sum(u["total_tokens"] for u in usage.values()) if usage else None,
                "sampled_model_name": next(iter(usage)) if len(usage) == 1 else None,
            },
            "model_grader_token_usage_per_model": usage,
        }


def _token_usage(
    models: Mapping[str, str], details: Mapping[str, jax.Array], n: int
) -> dict[str, dict[str, int]]:
    """What judges at a server spent on sample n, by model.

    Args:
        models: The models of the nodes that are such judges.
        details: A grade's.
    """
    usage: dict[str, dict[str, int]] = {}
    for node, model in models.items():
        spent = usage.setdefault(model, dict.fromkeys((*_TOKEN_COUNTS, "total_tokens"), 0))
        for count in _TOKEN_COUNTS:
            if (detail := details.get(f"{node}/{count}")) is None:
                continue  # below a switch
            tokens = int(detail[n])
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
        text, row = data.output_text(line, f"{path}, line {number}"), line.get("item", number)
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
    grader_name: str,
    data_file: Path,
    low: float,
    high: float,
    options: HostOptions,
    right: str = "",
    supervised: Path | None = None,
) -> tuple[JsonObject, list[str]]:
    """Checks a grader and the items together, and probes for reward hacking.

    Args:
        grader_name: As for `load_grader`.
        data_file: Training items as JSON lines.
        low: The least reward that is meant to occur.
        high: The greatest.
        options: What the nodes on the host may use.
        right: A field of the items that is a right answer as it is, where the grader does not tell.
        supervised: Supervised items, whose answers are right ones to the same prompts.

    Returns:
        The probes' mean rewards, None where no grade was valid, and how often the grader failed;
        and sentences on what is suspicious.

    Raises:
        InputError: Naming file, line and field of what cannot be used.
    """
    if low >= high:
        raise InputError(f"the range of the rewards: {low:g} is not below {high:g}; exchange them")
    grader = _open(build_grader(load_grader(grader_name), options=options))
    items = Items(data.load_items(data_file), str(data_file))
    probes = probe(grader, items, _right_answers(items, right, supervised))

    def finite(value: float) -> float | None:
        return round(value, 7) if math.isfinite(value) else None

    summary = {
        "grader": grader_name,
        "data": str(data_file),
        "items": len(items.rows),
        "probes": {
            p.name: {
                "mean": finite(p.reward),
                "min": finite(p.lowest),
                "max": finite(p.highest),
            }
            for p in probes
        },
        "failures": count_failures(probes),
    }
    return summary, [*data.suspicions(items.rows, str(data_file)), *warnings(probes, low, high)]


def _right_answers(items: Items, right: str, supervised: Path | None) -> list[str | None] | None:
    """A right answer for each item where one is known; None without a field and a file."""
    if right:
        data.check_keys(items.rows, [right], items.source)
        return [show(row[right]) if right in row else None for row in items.rows]
    if supervised is None:
        return None
    answers = {
        _conversation(row["messages"][:-1]): message_text(row["messages"][-1])
        for row in data.load_supervised_items(supervised)
    }
    found = [answers.get(_conversation(row["messages"])) for row in items.rows]
    if not any(answer is not None for answer in found):
        raise InputError(
            f"{supervised}: has no answer to any prompt of {items.source}; give right answers to "
            "the same prompts"
        )
    return found


def _conversation(messages: Sequence[JsonMapping]) -> str:
    """Roles and texts, to compare prompts by."""
    return json.dumps([(message["role"], message_text(message)) for message in messages])
