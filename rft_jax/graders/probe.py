"""Probes for reward hacking: what do answers earn that need no skill?

For every item each probe writes an answer that a lazy policy could learn, in the form that the
grader looks at (text, or JSON with the fields that its templates name), and one writes the right
answer. A grader that pays a lazy policy a notable share of what the right answer earns will be
gamed, and one that does not pay the right answer in full is likely to be wrong.
"""

import collections
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft_jax.graders.grader import Grader, grade_samples
from rft_jax.graders.multi import Multi
from rft_jax.graders.placement import OnHost
from rft_jax.graders.template import Template, show
from rft_jax.graders.types import HostSample, Items
from rft_jax.tokenizers import message_text

RIGHT = "right"
# Errors of the grader, not of the answer.
FAILURES = (
    "python_grader_runtime_error",
    "python_grader_server_error",
    "model_grader_server_error",
)
NOTABLE = 0.25  # of what the right answer earns
_LONG_BYTES = 4096
_MOST_REFERENCES = 20  # joined in one answer; longer lists are malformed for most graders


@dataclass(frozen=True)
class Probe:
    """What one kind of answer earns on average.

    Attributes:
        name: of the kind, `right` for the reference itself.
        reward: mean over the items.
        highest: of the rewards.
        lowest: of the rewards.
        failed: share of the items on which the grader itself failed.
    """

    name: str
    reward: float
    highest: float
    lowest: float
    failed: float = 0.0


def probe(grader: Grader, items: Items) -> list[Probe]:
    """Grades the probes on every item.

    The first is `right`, where every node of the grader has a reference in the item and takes it as
    it is: not with a regular expression, for instance.

    Raises:
        InputError: an item does not serve the grader.
    """
    slots = list(_slots(grader.spec))
    probes = []
    with grader.open_host() as host:
        for name, answers in _answers(slots, items):
            samples = [HostSample(answer) for answer in answers]
            grade = grade_samples(grader, samples, items, range(len(samples)), host)
            reward = grade.reward
            failed = np.zeros(len(answers), bool)
            for error in FAILURES:
                failed |= grade.errors[error]
            values = reward.mean(), reward.max(), reward.min(), failed.mean()
            probes.append(Probe(name, *map(float, values)))
    return probes


def warnings(probes: list[Probe], low: float = 0.0, high: float = 1.0) -> list[str]:
    """Sentences on what is suspicious.

    Args:
        probes: from `probe`.
        low: the least reward that is meant to occur.
        high: the greatest.
    """
    right = next((p for p in probes if p.name == RIGHT), None)
    found = []
    if right and right.lowest < high - 1e-6:
        found.append(
            f"the reference answer itself earns only {right.lowest:.3f} on some item and "
            f"{right.reward:.3f} on average; is the grader right?"
        )
    if failed := max(p.failed for p in probes):
        found.append(
            f"the grader itself failed on {failed:.0%} of the items of a probe; correct it first"
        )
    if right is None:
        found.append(
            "what the right answer is cannot be told from this grader: only answers without "
            "content, and the prompt, were tried"
        )
    best = right.reward if right else high
    for p in probes:
        if p is not right and p.reward >= low + NOTABLE * (best - low):
            found.append(
                f"a policy that always answers '{p.name}' earns {p.reward:.3f}, while the right "
                f"answer earns {best:.3f}; the reward can be had without skill"
            )
    for p in probes:
        if p.highest > high or p.lowest < low:
            found.append(
                f"'{p.name}' earns from {p.lowest:.3f} to {p.highest:.3f}, outside of "
                f"{low:g} .. {high:g}; rescale the reward or state its range"
            )
    return found


@dataclass(frozen=True)
class _Slot:
    """Where a node looks for its answer, and what it compares with.

    Attributes:
        path: in the answer's JSON; None for the text.
        reference: a template of the item; None without one.
        marker: what stands before the answer.
        closing: what has to stand behind it.
        is_list: the answer is a list of strings.
    """

    path: tuple[str | int, ...] | None
    reference: Template | None
    is_list: bool
    marker: str = ""
    closing: str = ""

    def values(self, items: Items) -> list[Any]:
        """The right value for every item; empty strings without a reference."""
        if self.reference is None:
            return [""] * len(items.rows)
        if self.reference.variable is None:
            return [self.reference.item_text(items, n) for n in range(len(items.rows))]
        return [self.reference.value(items, n) for n in range(len(items.rows))]


def _slots(node: Any) -> Iterator[_Slot]:
    if isinstance(node, Multi):
        for part in node.graders:
            yield from _slots(part)
        return
    if isinstance(node, OnHost):
        node = node.grader
    template = getattr(node, "input", None)
    if not isinstance(template, Template):
        return
    reference = getattr(node, "reference", None)
    usable = isinstance(reference, Template) and not reference.sample_variables
    usable &= not hasattr(node, "pattern")
    is_list = getattr(node, "lists_answers", False)
    for variable in template.sample_variables:
        path = variable.path if variable.namespace == "output_json" else None
        marks = getattr(node, "marker", ""), getattr(node, "closing", "")
        yield _Slot(path, reference if usable else None, is_list, *marks)


def _answers(slots: list[_Slot], items: Items) -> Iterator[tuple[str, list[str]]]:
    """The name of each probe, with an answer for every item."""
    count = len(items.rows)
    values = [slot.values(items) for slot in slots]
    common = [_most_common(column) for column in values]
    if slots and all(slot.reference for slot in slots):
        yield RIGHT, [_write(slots, [column[n] for column in values]) for n in range(count)]
    yield "nothing", [""] * count
    yield "the prompt", [message_text(row["messages"][-1]) for row in items.rows]
    empty = _write(slots, [[] if slot.is_list else "" for slot in slots])
    yield "the format without content", [empty] * count
    usual = _write(slots, [column[0] if column else "" for column in common])
    yield "the commonest reference", [usual] * count
    joined = [
        column[:_MOST_REFERENCES]
        if slot.is_list
        else " ".join(map(show, column[:_MOST_REFERENCES]))
        for slot, column in zip(slots, common, strict=True)
    ]
    yield "the commonest references joined", [_write(slots, joined)] * count
    words = " ".join(show(value) for column in common for value in column[:_MOST_REFERENCES])
    words = f"{words or 'word'} "
    yield "a very long text", [words * (_LONG_BYTES // len(words.encode()) + 1)] * count


def _most_common(values: list[Any]) -> list[Any]:
    """The distinct values, the commonest first; lists count by their members."""
    members = [m for value in values for m in (value if isinstance(value, list) else [value])]
    by_text = {show(member): member for member in members}
    counts = collections.Counter(map(show, members))
    return [by_text[text] for text, _ in counts.most_common() if text]


def _write(slots: list[_Slot], values: list[Any]) -> str:
    """An answer with a value in every slot."""
    marked = [
        f"{slot.marker}{show(value)}{slot.closing}" if slot.marker else value
        for slot, value in zip(slots, values, strict=True)
    ]
    pairs = list(zip(slots, marked, strict=True))
    document: Any = None
    for slot, value in pairs:
        if slot.path is not None:
            is_single = slot.is_list and not isinstance(value, list)
            document = _set(document, slot.path, [value] if is_single else value)
    if document is not None:
        return show(document) if not isinstance(document, str) else json.dumps(document)
    return " ".join(dict.fromkeys(show(value) for _, value in pairs))


def _set(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The document with a value at a path; what is in between is made."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        members = document if isinstance(document, list) else []
        members = members + [None] * (step + 1 - len(members))
        return [_set(m, rest, value) if n == step else m for n, m in enumerate(members)]
    members: Mapping[str, Any] = document if isinstance(document, dict) else {}
    return {**members, step: _set(members.get(step), rest, value)}
