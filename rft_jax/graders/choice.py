r"""`choice`: 1 if the option that a text chooses is the reference's, else 0.

    {"type": "choice", "name": "answer", "input": "{{sample.output_text}}",
     "choices": ["A", "B", "C", "D"], "reference": "{{item.answer}}", "ignore_case": false}

A label counts where it stands alone, not as a part of a word (`\b` of Python's `re`); brackets and
other punctuation may surround it. The choice is

1. the last label that is marked: it follows the word "answer" in any case, with nothing but
   punctuation, white space and the words "is", "option" and "choice" in between;
2. without a marked one, the last label.

So "The answer is **(B)**. A good one!" chooses B, "Not A. B" chooses B, "I pass" nothing. For
other markers put a `choice` into a `regex`. With `ignore_case` labels are found as `re.IGNORECASE`
finds them and compared after simple case folding. A reference has to be one of the labels.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import ANSWER, HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import case_fold, equal, fold_text, from_host, slice_bytes
from rft_jax.strings.regex import RegexError, compile_capture, find_group, python_flags
from rft_jax.utils.errors import InputError

_MARKED = r".*\b(?i:answer)(?:\W+(?i:is|option|choice))*\W+"


@dataclass(frozen=True)
class Choice:
    """A validated `choice`."""

    name: str
    input: Template
    reference: Template
    choices: tuple[str, ...]
    ignore_case: bool

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Choice":
        """See `GraderType.parse`."""
        fields.only("input", "choices", "reference", "ignore_case")
        reference = fields.template("reference")
        if reference.sample_variables:
            raise fields.error("reference", "must not use the sample; take it from the item")
        ignore_case = fields.values.get("ignore_case", False)
        if not isinstance(ignore_case, bool):
            raise fields.error("ignore_case", f"must be true or false, not {ignore_case!r}")
        choice = cls(
            name=name,
            input=fields.template("input"),
            reference=reference,
            choices=_labels(fields, ignore_case),
            ignore_case=ignore_case,
        )
        try:
            compile_capture(choice.pattern, choice.flags)
        except RegexError as error:
            raise fields.error("choices", f"as a regular expression: {error}") from None
        return choice

    @property
    def pattern(self) -> str:
        """The rule as a regular expression; its group 1 is the label."""
        # Of labels that begin at the same place the longest.
        labels = "|".join(map(_alone, sorted(self.choices, key=len, reverse=True)))
        return rf"(?:{_MARKED}|.*)({labels})"

    @property
    def flags(self) -> str:
        """Its flags."""
        return "si" if self.ignore_case else "s"

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        references = [self._reference(items, n) for n in range(len(items.rows))]
        widest = max([1, *(len(reference.encode()) for reference in references)])
        return self.input.encode(items), from_host(references, widest)

    def _reference(self, items: Items, n: int) -> str:
        reference = self.reference.item_text(items, n)
        if self._fold(reference) not in map(self._fold, self.choices):
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs one of the choices "
                f"{', '.join(self.choices)}, not {reference!r}; correct the item"
            )
        return reference

    def _fold(self, text: str) -> str:
        return fold_text(text) if self.ignore_case else text

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        own, reference = encoded
        (text,), errors, failed_N = render_on_device(view, (self.input,), (own,))
        start_N, end_N, found_N = find_group(compile_capture(self.pattern, self.flags), text)
        found_N &= ~failed_N
        widest = 4 * max(map(len, self.choices))  # other case may have more bytes
        chosen = slice_bytes(text, start_N, end_N, min(widest, text.bytes.shape[-1]))
        if self.ignore_case:
            chosen, reference = case_fold(chosen), case_fold(reference)
        right_N = equal(chosen, reference) & found_N
        answer_N = jnp.full(found_N.shape, -1.0)
        for number, label in reversed(list(enumerate(map(self._fold, self.choices)))):
            text = from_host([label] * len(found_N), max(1, len(label.encode())))
            same_N = equal(chosen, case_fold(text) if self.ignore_case else text) & found_N
            answer_N = jnp.where(same_N, number, answer_N)
        details = {
            f"{self.name}/no_choice": (~found_N).astype(jnp.float32),
            f"{self.name}{ANSWER}": answer_N,
        }
        return Score(right_N.astype(jnp.float32), errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with `re`."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        match = re.search(self.pattern, *texts, python_flags(self.flags)) if texts else None
        right = match and self._fold(match[1]) == self._fold(self._reference(items, n))
        answer = [*map(self._fold, self.choices)].index(self._fold(match[1])) if match else -1
        details = {f"{self.name}/no_choice": float(not match), f"{self.name}{ANSWER}": answer}
        return HostScore(float(bool(right)), errors, details)


def _alone(label: str) -> str:
    """A pattern for the label where it is not a part of a word."""
    before = r"\b" if re.match(r"\w", label) else ""
    after = r"\b" if re.search(r"\w\Z", label) else ""
    return before + re.escape(label) + after


def _labels(fields: Fields, ignore_case: bool) -> tuple[str, ...]:
    labels = fields.values.get("choices")
    if not isinstance(labels, list | tuple) or len(labels) < 2:
        raise fields.error("choices", 'must be a list of two labels or more, such as ["A", "B"]')
    known = set()
    for k, label in enumerate(labels):
        if not isinstance(label, str) or not label or label != label.strip():
            raise fields.error(
                f"choices[{k}]", f"must be a text without white space around it, not {label!r}"
            )
        fields.unicode(f"choices[{k}]", label)
        folded = fold_text(label) if ignore_case else label
        if folded in known:
            raise fields.error(f"choices[{k}]", f"{label!r} stands there twice; remove one")
        known.add(folded)
    return tuple(labels)
