"""Verdicts as judges write them: in JSON, fenced, after a thought, in a sentence.

    values, spoken = values_in(content)        # what may be the verdict, and what else was said
    number_said("I give it 7 out of 10.", 0, 10)
    label_said("Verdict: **Good**", ("good", "poor"))

Nothing is guessed: a sentence with two numbers or two labels, none of which is marked, has no
verdict.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from rft_jax.graders.choice import choose_on_host
from rft_jax.graders.host_json import parse_document
from rft_jax.strings import fold_text

_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)
_WRAPPING = "*_`\"'“”‘’.!()[] \t\r\n"
_NUMBER = r"(?<![\w.,])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w]|[.,]\d)"
_OF = re.compile(rf"({_NUMBER})\s*(?:/|out\s+of)\s*({_NUMBER})")
_ONE = re.compile(rf"({_NUMBER})(\s*%)?")
_MARK = re.compile(
    r"\b(?:result|score|rating|verdict|grade|label|reward|answer)\b(?:\W+(?:is|of|would|be))*[^\w.+-]*(?:-\s+)?",
    re.IGNORECASE,
)


def values_in(content: str) -> tuple[list[Any], str]:
    """What may be a verdict, the likeliest first; and the text for `number_said`, `label_said`.

    Of an object only its `result` counts, and nothing that was said around it.
    """
    if _THOUGHT.match(content) and not _THOUGHT_END.search(content):
        return [], ""
    said = _THOUGHT_END.split(content)[-1].strip()
    document = parse_document(said)
    value = document.root.data if document.root else None
    if isinstance(value, dict):
        result = document.find(("result",))
        said = result.data if result and isinstance(result.data, str) else ""
        return [result.data] if result else [], said
    if isinstance(value, str) and value != said:
        return values_in(value)
    fenced = [text.strip() for text in _FENCE.findall(said)]
    said = fenced[-1] if fenced else said
    values = [value] if document.root and document.whole else []
    if fenced:
        inside = parse_document(said)
        values = [inside.root.data] if inside.root and inside.whole else []
    cut_off = said.startswith(("{", "["))
    return [*values, said, said.strip(_WRAPPING)], "" if cut_off else said


def number_said(text: str, low: float, high: float) -> float | None:
    """The number that a judge gives in a sentence: the last that is marked, or the only one.

    "8 out of 10" and "8/10" are 8 on a scale that ends with 10, and 0.8 on one from 0 to 1, as is
    80%. A number outside of the scale is no verdict.
    """
    marks = [*_MARK.finditer(text)]
    for mark in reversed(marks):
        if found := _first(text, mark.end(), low, high):
            return found[0]
    found = set(_all(text, low, high))
    return found.pop() if len(found) == 1 else None


def _first(text: str, start: int, low: float, high: float) -> tuple[float] | None:
    """The number that begins at `start`, but for quotes and the like; none outside of the scale."""
    rest = text[start:]
    for pattern in (_OF, _ONE):
        if match := pattern.match(rest):
            value = _value(match, low, high)
            return None if value is None else (value,)
    return None


def _all(text: str, low: float, high: float) -> list[float | None]:
    found = [_value(match, low, high) for match in _OF.finditer(text)]
    return found + [_value(match, low, high) for match in _ONE.finditer(_OF.sub(" ", text))]


def _value(match: re.Match[str], low: float, high: float) -> float | None:
    value = float(match[1])
    if match.re is _OF:
        whole = float(match[2])
        if (low, high) == (0, 1) and whole > 0:
            value /= whole
        elif whole != high:
            return None
    elif match[2]:
        if (low, high) != (0, 1):
            return None
        value /= 100
    return value if low <= value <= high else None


def label_said(text: str, labels: Sequence[str]) -> str | None:
    """The label that a judge names, in any case: the only one, or the last that is marked."""
    folded = [fold_text(label) for label in labels]
    if len(set(folded)) < len(folded):
        return None
    marked = [
        label
        for mark in _MARK.finditer(text)
        if (label := _label_at(text[mark.end() :].lstrip(_WRAPPING + ":="), folded)) is not None
    ]
    if marked:
        return labels[marked[-1]]
    number = choose_on_host(text, tuple(folded), ignore_case=True)
    others = [k for k, label in enumerate(folded) if k != number and _names(text, label)]
    return None if number < 0 or others else labels[number]


def _label_at(text: str, folded: Sequence[str]) -> int | None:
    """The longest label that a text begins with."""
    text = fold_text(text)
    found = [k for k, label in enumerate(folded) if re.match(rf"{re.escape(label)}(?!\w)", text)]
    return max(found, key=lambda k: len(folded[k]), default=None)


def _names(text: str, label: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", fold_text(text)))


def read_text(value: Any) -> Any:
    """A JSON string that holds JSON, such as "0.7", as what it holds."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
