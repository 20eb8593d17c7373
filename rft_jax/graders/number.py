r"""`number`: a number in a text, compared exactly with a reference, within a tolerance.

    {"type": "number", "name": "answer", "input": "{{sample.output_text}}",
     "reference": "{{item.answer}}", "which": "marked", "marker": "####",
     "absolute": 0.01, "relative": 0.001, "partial_relative": 0.1}

`which` is the "last" number of the input (the default), the "first", or the first one after the
last occurrence of `marker`, such as "####" or "\\boxed{". What a number is, `strings.numbers` says:
signs, thousands separators, decimals, exponents, percentages (50% is 0.5), fractions (3/4).
The reference has to be a number and nothing else, or have one after the marker.

With d the distance to the reference r, t = max(absolute, relative * |r|) and
w = max(partial_absolute, partial_relative * |r|), all 0 unless given, the score is

    1                    if d <= t
    (w - d) / (w - t)    if t < d < w
    0                    else, and where the input has no number.

Whether d <= t is decided on digits, not in floating point: 123456789 is not 123456788, and 3.15 is
within 0.01 of 3.14. (Numbers that agree in their first `numbers.DIGITS` digits may count as equal.)
Partial credit is a float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, from_host, occurrences
from rft_jax.strings.numbers import (
    Decimals,
    compare,
    decimal_exponent,
    distance,
    find_number,
    from_fractions,
    number_text,
    numbers_in,
)
from rft_jax.utils.errors import InputError

WHICH = ("last", "first", "marked")
TOLERANCES = ("absolute", "relative", "partial_absolute", "partial_relative")
# Partial credit has to reach further than the tolerance by this share, or there is none.
_LEAST_REACH = Fraction(1, 10**6)


class Encoded(NamedTuple):
    """What is needed of M items.

    Attributes:
        input: the runs of the input template.
        low: the smallest numbers that earn 1.
        high: the greatest.
        reference: the numbers themselves.
        unit_M: int32, distances are measured in 10 ** unit; the credit for a distance d in it is
            offset - slope * d.
        offset_M: float32.
        slope_M: float32.
    """

    input: tuple[ByteString, ...]
    low: Decimals
    high: Decimals
    reference: Decimals
    unit_M: np.ndarray
    offset_M: np.ndarray
    slope_M: np.ndarray


@dataclass(frozen=True)
class Number:
    """A validated `number`; the tolerances are in the order of `TOLERANCES`."""

    name: str
    input: Template
    reference: Template
    which: str
    marker: str
    tolerances: tuple[Fraction, ...]

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Number":
        """See `GraderType.parse`."""
        fields.only("input", "reference", "which", "marker", *TOLERANCES)
        which = fields.choice("which", WHICH) if "which" in fields.values else "last"
        marker = ""
        if which == "marked":
            marker = fields.unicode("marker", fields.string("marker"))
            if not marker:
                raise fields.error("marker", 'must not be empty; write a text such as "####"')
        elif "marker" in fields.values:
            raise fields.error("marker", f'has no use with which "{which}"; use "marked"')
        reference = fields.template("reference")
        if reference.sample_variables:
            raise fields.error("reference", "must not use the sample; take it from the item")
        return cls(
            name=name,
            input=fields.template("input"),
            reference=reference,
            which=which,
            marker=marker,
            tolerances=tuple(_tolerance(fields, key) for key in TOLERANCES),
        )

    def encode(self, items: Items) -> Encoded:
        """See `GraderType.encode`."""
        references = [self._reference(items, n) for n in range(len(items.rows))]
        reaches = [self._reach(reference) for reference in references]
        pairs = list(zip(references, reaches, strict=True))
        lines = [_line(tolerance, reach) for tolerance, reach in reaches]
        return Encoded(
            input=self.input.encode(items),
            low=from_fractions([r - tolerance for r, (tolerance, _) in pairs]),
            high=from_fractions([r + tolerance for r, (tolerance, _) in pairs]),
            reference=from_fractions(references),
            unit_M=np.array([unit for unit, _, _ in lines], np.int32),
            offset_M=np.array([offset for _, offset, _ in lines], np.float32),
            slope_M=np.array([slope for _, _, slope in lines], np.float32),
        )

    def _reference(self, items: Items, n: int) -> Fraction:
        text = self.reference.item_text(items, n)
        if self.marker and self.marker in text:
            value = next(iter(numbers_in(text.rpartition(self.marker)[2])), None)
        else:
            value = number_text(text)
        if value is None:
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs a number, not "
                f"{text!r}; correct the item"
            )
        return value

    def _reach(self, reference: Fraction) -> tuple[Fraction, Fraction]:
        """The distances up to which the score is 1, and from which it is 0."""
        absolute, relative, partial_absolute, partial_relative = self.tolerances
        tolerance = max(absolute, relative * abs(reference))
        reach = max(partial_absolute, partial_relative * abs(reference))
        return tolerance, reach if reach - tolerance > _LEAST_REACH * reach else tolerance

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        (text,), errors, failed_N = render_on_device(view, (self.input,), (encoded.input,))
        if self.marker:
            text = _after_last(text, self.marker)
        found = find_number(text, "last" if self.which == "last" else "first")
        number, exists_N = found.number, found.exists_N & ~failed_N
        within_N = (compare(number, encoded.low) >= 0) & (compare(number, encoded.high) <= 0)
        distance_N = distance(number, encoded.reference, encoded.unit_M)
        credit_N = jnp.clip(encoded.offset_M - encoded.slope_M * distance_N, 0, 1)
        score_N = jnp.where(within_N, 1, credit_N)
        details = {f"{self.name}/missing": (~exists_N).astype(jnp.float32)}
        return Score(jnp.where(exists_N, score_N, 0), errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with Python's fractions."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        numbers = [] if errors else self._numbers(texts)
        details = {f"{self.name}/missing": float(not numbers)}
        if not numbers:
            return HostScore(0.0, errors, details)
        reference = self._reference(items, n)
        tolerance, reach = self._reach(reference)
        gap = abs(numbers[-1 if self.which == "last" else 0] - reference)
        credit = float((reach - gap) / (reach - tolerance)) if tolerance < gap < reach else 0.0
        return HostScore(1.0 if gap <= tolerance else credit, errors, details)

    def _numbers(self, texts: Sequence[str]) -> list[Fraction]:
        (text,) = texts
        if self.marker:
            text = text.rpartition(self.marker)[2] if self.marker in text else ""
        return numbers_in(text)


def _tolerance(fields: Fields, key: str) -> Fraction:
    value = fields.values.get(key, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise fields.error(key, f"must be a number from 0 on, not {value!r}; correct it")
    return Fraction(repr(value))


def _line(tolerance: Fraction, reach: Fraction) -> tuple[int, float, float]:
    """Unit, offset and slope of the partial credit; see `Encoded`."""
    if reach == tolerance:
        return 0, 0.0, 0.0
    unit = decimal_exponent(reach)
    width = reach - tolerance
    return unit, float(reach / width), float(Fraction(10) ** unit / width)


def _after_last(text: ByteString, marker: str) -> ByteString:
    """The text with all up to the last occurrence of the marker blank; all of it without one."""
    literal = from_host([marker], len(marker.encode()))
    width = text.bytes.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    starts_NL = occurrences(text, literal)
    last_N = jnp.where(starts_NL, index, -1).max(axis=-1, initial=-1)
    first_N = jnp.where(last_N < 0, width, last_N + len(marker.encode()))
    return text._replace(bytes=jnp.where(index >= first_N[:, None], text.bytes, 0))
