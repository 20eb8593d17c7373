"""`list_overlap` of tokens: how much the words of two lists of spans have in common.

    {"type": "list_overlap", "input": "{{sample.output_json.spans}}",
     "reference": "{{item.spans}}", "metric": "f1", "entries": "tokens"}

The metric of DROP (Dua et al., NAACL 2019), which TAT-QA uses too, without its rounding. An entry
is the set of its words: in lower case, split at white space and hyphens, without articles, without
punctuation in what is no number, numbers as floats. Every entry of the answer is aligned with one
entry of the reference at most, so that the sum of their F1 is greatest (two that have different
numbers in them have none); the score is that sum by the length of the longer list. It runs on the
host, for the sake of the alignment.
"""

import contextlib
import re
import string
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from rft_jax.config import HostOptions
from rft_jax.graders.placement import OneByOne
from rft_jax.graders.protocols import HostNode, HostSession, ProbeTarget
from rft_jax.graders.rank import is_list_of_strings, listed, reference_list
from rft_jax.graders.template import Template, json_errors
from rft_jax.graders.types import HostScore, HostView, Items

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ListOverlap(HostNode):
    """A validated `list_overlap` with `entries` "tokens"; made by the one on the device."""

    type_name = "list_overlap"
    name: str
    input: Template
    reference: Template
    max_items: int

    @classmethod
    def parse(cls, name: str, fields: Any) -> "ListOverlap":
        """It is read by `graders.list_overlap`."""
        raise NotImplementedError

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(self.input, self.reference, is_list=True)

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        for n in range(len(items.rows)):
            self._spans(items, n)

    def _spans(self, items: Items, n: int) -> list[str]:
        return reference_list(self.reference, items, n)

    def open(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """See `HostGraderType.open`."""
        return contextlib.nullcontext(OneByOne(self))

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        value = view.document.find(self.input.only_variable.path)
        spans = listed(value.data) if value else None
        score, length, well_formed = 0.0, 0, False
        if is_list_of_strings(spans) and len(spans) <= self.max_items:
            score = aligned_f1(spans, self._spans(items, n))
            length, well_formed = len(spans), True
        details = {"list_length": length, "malformed": not well_formed}
        return HostScore(
            score,
            json_errors(view, value),
            {f"{self.name}/{what}": float(detail) for what, detail in details.items()},
        )


def aligned_f1(answer: list[str], reference: list[str]) -> float:
    """The mean F1 of the best alignment of two lists of spans, in [0, 1]; 1 for two empty ones."""
    if not answer or not reference:
        return float(not answer and not reference)
    answers, references = ([_bag(span) for span in spans] for spans in (answer, reference))
    scores = np.array([[_f1(bag, wanted) for bag in answers] for wanted in references])
    chosen = scipy.optimize.linear_sum_assignment(scores, maximize=True)
    return float(scores[chosen].sum() / max(len(answers), len(references)))


def _bag(span: str) -> frozenset[str]:
    """The words of a span."""
    words = (_ARTICLES.sub(" ", _number_or_word(word)) for word in re.split(r"[\s-]", span.lower()))
    return frozenset(" ".join(words).split())


def _number_or_word(word: str) -> str:
    with contextlib.suppress(ValueError):
        return str(float(word))
    return word.translate(_WITHOUT_PUNCTUATION)


def _f1(bag: frozenset[str], wanted: frozenset[str]) -> float:
    numbers = {word for word in wanted if _is_number(word)}
    if numbers and not numbers & bag:
        return 0.0
    if not bag and not wanted:
        return 1.0
    return 2 * len(bag & wanted) / (len(bag) + len(wanted))


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False
