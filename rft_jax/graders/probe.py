"""Probes for reward hacking: what do answers earn that need no skill?

For every item each probe writes an answer that a lazy policy could learn, in the form that the
grader looks at (text, or JSON with the fields that its templates name), and one writes the right
answer. A grader that pays a lazy policy a notable share of what the right answer earns will be
gamed, and one that does not pay the right answer in full is likely to be wrong.

`probe_answers` has what is written. A probe that cannot be made is not made: without a reference,
for instance, there is no commonest one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from rft_jax.graders.grader import Grader, grade_samples
from rft_jax.graders.probe_answers import OWN, RIGHT, answers_of
from rft_jax.graders.types import ERRORS, Grade, HostSample, Items

# Errors of the grader, not of the answer.
FAILURES = (
    "python_grader_runtime_error",
    "python_grader_server_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
    "other_error",
)
NOTABLE = 0.25  # of what the right answer earns


@dataclass(frozen=True)
class Probe:
    """What one kind of answer earns on average.

    Attributes:
        name: The kind; `RIGHT` for the reference itself, `OWN` for what a grader compares with
            though it may not be the right answer.
        reward: Mean over the answers with a valid grade; NaN if there are none.
        highest: The highest of the rewards.
        lowest: The lowest of the rewards.
        failed: Share of the items on which the grader itself failed.
        answers: Number of answers that were graded.
        failures: By each of `FAILURES` that occurred, on how many of them.
    """

    name: str
    reward: float
    highest: float
    lowest: float
    failed: float = 0.0
    answers: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


def probe(grader: Grader, items: Items, right: Sequence[str | None] | None = None) -> list[Probe]:
    """Grades the probes on every item.

    The first is `RIGHT`, if answers are given or if every node of the grader has a reference in the
    item and takes it as it is. Of several ways to write an answer, where nodes read one field and
    have references of their own, the best counts.

    Args:
        grader: From `build_grader`.
        items: With prompts.
        right: A right answer for each item, None where there is none.

    Raises:
        InputError: An item does not serve the grader.
    """
    probes = []
    with grader.open_host() as host:

        def grade(answers: Sequence[str], rows: Sequence[int]) -> Grade:
            samples = [HostSample(answer) for answer in answers]
            return grade_samples(grader, samples, items, rows, host)

        everyone = range(len(items.rows))
        given = {n: answer for n, answer in enumerate(right or ()) if answer is not None}
        if given:
            probes.append(_summarize(RIGHT, [grade([*given.values()], [*given])]))
        for name, ways in answers_of(grader.spec, items):
            if name == RIGHT and given:
                continue
            grades = [grade(answers, everyone) for answers in ways]
            if name not in (RIGHT, OWN):  # a policy has to settle for one way
                grades = [max(grades, key=lambda grade: grade.reward.sum())]
            probes.append(_summarize(name, grades))
    return probes


def _summarize(name: str, ways: Sequence[Grade]) -> Probe:
    """The best grades, item by item, of the same items graded in several ways."""
    best_N = np.argmax([np.where(way.valid, way.reward, -np.inf) for way in ways], axis=0)
    rows = np.arange(len(best_N))

    def of_best(values: Sequence[jax.Array]) -> np.ndarray:
        return np.stack(values)[best_N, rows]

    reward_N = of_best([way.reward for way in ways])
    valid_N = of_best([way.valid for way in ways])
    failed_N = np.zeros(len(rows), bool)
    failures = {}
    for error in FAILURES:
        flag_N = of_best([way.errors[error] for way in ways])
        failed_N |= flag_N
        if flag_N.any():
            failures[error] = int(flag_N.sum())
    graded = reward_N[valid_N] if valid_N.any() else np.array([math.nan])
    values = graded.mean(), graded.max(), graded.min(), failed_N.mean()
    return Probe(name, *map(float, values), answers=len(rows), failures=failures)


def count_failures(probes: Sequence[Probe]) -> dict[str, int]:
    """Over all probes, on how many answers the grader failed, by error."""
    counts = {error: sum(p.failures.get(error, 0) for p in probes) for error in ERRORS}
    return {error: count for error, count in counts.items() if count}


def warnings(probes: Sequence[Probe], low: float = 0.0, high: float = 1.0) -> list[str]:
    """Sentences on what is suspicious.

    Args:
        probes: From `probe`.
        low: The least reward that is meant to occur.
        high: The greatest.
    """
    by_name = {p.name: p for p in probes}
    right, own = by_name.get(RIGHT), by_name.get(OWN)
    found = []
    if right and right.lowest < high - 1e-6:
        found.append(
            f"the reference answer itself earns only {right.lowest:.3f} on some item and "
            f"{right.reward:.3f} on average; is the grader right?"
        )
    found += _failures(probes)
    if right is None:
        tried = "the references, " if "the commonest reference" in by_name else ""
        found.append(
            f"what the right answer is cannot be told from this grader: only {tried}answers "
            "without content and the prompt were tried; name a field of the items or a file with "
            "right answers"
        )
    measure = f"of a range that ends at {high:g}"
    best = high
    if right and math.isfinite(right.reward):
        best, measure = right.reward, f"while the right answer earns {right.reward:.3f}"
    elif own and own.reward >= (low + high) / 2:
        best, measure = own.reward, f"while each item's own reference earns {own.reward:.3f}"
    for p in probes:
        if (
            p.name not in (RIGHT, OWN)
            and p.reward > low
            and p.reward >= low + NOTABLE * (best - low)
        ):
            found.append(
                f"a policy that always answers '{p.name}' earns {p.reward:.3f}, {measure}; the "
                "reward can be had without skill"
            )
    for p in probes:
        if p.highest > high or p.lowest < low:
            found.append(
                f"'{p.name}' earns from {p.lowest:.3f} to {p.highest:.3f}, outside of "
                f"{low:g} .. {high:g}; rescale the reward or state its range"
            )
    return found


def _failures(probes: Sequence[Probe]) -> list[str]:
    """How often the grader itself failed."""
    counts, total = count_failures(probes), sum(p.answers for p in probes)
    found = []
    if python := {e: n for e, n in counts.items() if e.startswith("python")}:
        share = max(
            sum(p.failures.get(error, 0) for error in python) / max(1, p.answers) for p in probes
        )
        found.append(
            f"the grader itself failed on {min(share, 1):.0%} of the items of a probe "
            f"({', '.join(python)}); correct it first"
        )
    if judge := {e: n for e, n in counts.items() if e.startswith("model")}:
        listed = ", ".join(f"{error} {count}" for error, count in judge.items())
        found.append(
            f"the judge failed on {sum(judge.values())} of {total} answers ({listed}); samples "
            "without its verdict are not valid and teach nothing"
        )
    if count := counts.get("other_error"):
        found.append(
            f"the grader gave no finite number (NaN or infinity), or took too long, on {count} of "
            f"{total} answers; such samples are not valid and teach nothing"
        )
    return found
