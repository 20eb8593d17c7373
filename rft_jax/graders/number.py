r"""`number`: a number in a text, compared exactly with a reference, within a tolerance.

    {"type": "number", "name": "answer", "input": "{{sample.output_text}}",
     "reference": "{{item.answer}}", "which": "marked", "marker": "####",
     "absolute": 0.01, "relative": 0.001, "partial_relative": 0.1}

`which` is the "last" number of the input, the "first", or the one that is "marked": the default,
the last number, becomes the marked one where a `marker` is given, a text such as "####", "Answer:"
or "\\boxed{", or a list of them. `answer_place` says what a marker marks and what ends it (`end`).
What brackets or tags enclose has to be one number, with its unit or `x =` in front at most: a list,
a root or a text is none. On a line the number at its beginning counts, else the last; behind the
last equals sign, if there is one; of a list none does. With "first" or "last" a marker only says
where to look.

What a number is, `strings.numbers` says: signs, thousands separators, fractions, powers of ten,
words of scale. `percent` says what 50% is: 0.5 as a "fraction", 50 as a "number", or "either" (the
default), where only one of answer and reference is written as percent. Brackets make an amount of
money negative; with `accounting` any number, so that (12.6) is -12.6. The reference has to be a
number and nothing else, or have one after the marker.

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
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.answer_place import (
    BOXES,
    HostMarked,
    Marker,
    last_marked,
    last_marked_on_host,
    parse_markers,
)
from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, slice_bytes
from rft_jax.strings.answers import MOST_BYTES, WORD_BYTES, host_answer, host_count, structure_of
from rft_jax.strings.byte_string import shift_right
from rft_jax.strings.numbers import (
    Decimals,
    FoundNumber,
    HostNumber,
    compare,
    decimal_exponent,
    distance,
    find_number,
    from_fractions,
    host_numbers,
    is_part,
    number_at,
    number_text,
    read_number,
    text_kinds,
)
from rft_jax.utils.errors import InputError

WHICH = ("last", "first", "marked")
PERCENT = ("either", "fraction", "number")
TOLERANCES = ("absolute", "relative", "partial_absolute", "partial_relative")
# Partial credit has to reach further than the tolerance by this share, or there is none.
_LEAST_REACH = Fraction(1, 10**6)
_BOXES = tuple(Marker(text) for text in BOXES)


class Encoded(NamedTuple):
    """What is needed of M items.

    Attributes:
        input: The runs of the input template.
        low: The smallest numbers that earn 1.
        high: The greatest.
        reference: The numbers themselves.
        unit_M: int32, distances are measured in 10 ** unit; the credit for a distance d in it is
            offset - slope * d.
        offset_M: float32.
        slope_M: float32.
        percent_M: bool, the reference is written as percent.
    """

    input: tuple[ByteString, ...]
    low: Decimals
    high: Decimals
    reference: Decimals
    unit_M: np.ndarray
    offset_M: np.ndarray
    slope_M: np.ndarray
    percent_M: np.ndarray


class Value(NamedTuple):
    """A number that can be read, on the host."""

    value: Fraction
    percent: bool


@dataclass(frozen=True)
class Number(DeviceNode):
    """A validated `number`; the tolerances are in the order of `TOLERANCES`."""

    type_name = "number"
    name: str
    input: Template
    reference: Template
    which: str
    markers: tuple[Marker, ...]
    percent: str
    accounting: bool
    tolerances: tuple[Fraction, ...]

    @property
    def marker(self) -> str:
        """The first marker; empty without one."""
        return self.markers[0].text if self.markers else ""

    @property
    def closing(self) -> str:
        """What has to stand behind an answer marked with it; empty for nothing."""
        return self.markers[0].closing if self.markers else ""

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Number":
        """See `GraderType.parse`."""
        fields.only(
            *("input", "reference", "which", "marker", "end", "percent", "accounting"), *TOLERANCES
        )
        markers = parse_markers(fields)
        default = "marked" if markers else "last"
        which = fields.choice("which", WHICH) if "which" in fields.values else default
        if which == "marked" and not markers:
            raise fields.error("marker", 'is missing; write a text such as "####"')
        reference = fields.template("reference")
        if reference.sample_variables:
            raise fields.error("reference", "must not use the sample; take it from the item")
        accounting = fields.values.get("accounting", False)
        if not isinstance(accounting, bool):
            raise fields.error("accounting", f"must be true or false, not {accounting!r}")
        return cls(
            name=name,
            input=fields.template("input"),
            reference=reference,
            which=which,
            markers=markers,
            percent=fields.choice("percent", PERCENT) if "percent" in fields.values else "either",
            accounting=accounting,
            tolerances=tuple(parse_tolerance(fields, key) for key in TOLERANCES),
        )

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(
            self.input, self.reference, marker=self.marker, closing=self.closing
        )

    def encode(self, items: Items) -> Encoded:
        """See `GraderType.encode`."""
        numbers = [self._reference(items, n) for n in range(len(items.rows))]
        references = [number.value for number in numbers]
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
            percent_M=np.array([number.percent for number in numbers], bool),
        )

    def _reference(self, items: Items, n: int) -> Value:
        text = self.reference.item_text(items, n)
        marked = last_marked_on_host(text, self.markers) if self.markers else None
        number = self._marked(marked) if marked else _value(number_text(text, self.accounting))
        if number is None:
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs a number, not "
                f"{text!r}; correct the item"
            )
        return number._replace(value=number.value * (100 if self._as_number(number) else 1))

    def _as_number(self, number: Value) -> bool:
        return self.percent == "number" and number.percent

    def _reach(self, reference: Fraction) -> tuple[Fraction, Fraction]:
        """The distances up to which the score is 1, and from which it is 0."""
        absolute, relative, partial_absolute, partial_relative = self.tolerances
        tolerance = max(absolute, relative * abs(reference))
        reach = max(partial_absolute, partial_relative * abs(reference))
        return tolerance, reach if reach - tolerance > _LEAST_REACH * reach else tolerance

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        (text,), errors, failed_N = render_on_device(view, (self.input,), (encoded.input,))
        if self.markers:
            found = self._find_marked(text)
        else:
            found = find_number(text, self.which, self.accounting)
        exists_N = found.exists_N & ~failed_N
        scores = [
            jnp.where(used_N, _credit(encoded, _times_ten(found.number, power)), 0)
            for power, used_N in self._readings(found.percent_N, jnp.asarray(encoded.percent_M))
        ]
        score_N = jnp.max(jnp.stack(scores), axis=0)
        details = {f"{self.name}/missing": (~exists_N).astype(jnp.float32)}
        return Score(jnp.where(exists_N, score_N, 0), errors, details, {})

    def _readings(self, answer_N: jax.Array, reference_N: jax.Array) -> list[tuple[int, jax.Array]]:
        """By which powers of ten a number counts, and where, given what is written as percent."""
        always_N = jnp.ones_like(answer_N)
        if self.percent == "fraction":
            return [(0, always_N)]
        if self.percent == "number":
            return [(2, answer_N), (0, ~answer_N)]
        return [(0, always_N), (2, answer_N & ~reference_N), (-2, ~answer_N & reference_N)]

    def _find_marked(self, text: ByteString) -> FoundNumber:
        span = last_marked(text, self.markers)
        part = slice_bytes(text, span.start_N, span.end_N)
        whole_N, fits_N = span.whole_N, part.length <= MOST_BYTES
        part = slice_bytes(text, span.start_N, span.end_N, min(MOST_BYTES, text.bytes.shape[-1]))
        if self.which != "marked":
            return find_number(part, self.which, self.accounting)
        box = last_marked(part, _BOXES)
        boxed_N = box.found_N & ~whole_N
        start_N = jnp.where(boxed_N, box.start_N, 0)
        part = slice_bytes(part, start_N, jnp.where(boxed_N, box.end_N, part.length))
        fits_N |= boxed_N
        structure = structure_of(part)
        count_N = jnp.where(fits_N, structure.count_N, 0)
        on_line_N = ~whole_N & ~boxed_N & (count_N == 0)
        single_N = (count_N == 1) & (structure.start_NL & structure.part_NL).any(axis=-1)
        single_N &= structure.unit_NL.sum(axis=-1) <= WORD_BYTES
        kind_NL, line_NL = _on_line(part)
        found = read_number(
            part,
            jnp.where(on_line_N[:, None], kind_NL, structure.kind_NL),
            jnp.where(on_line_N[:, None], line_NL, structure.part_NL & single_N[:, None])
            & span.found_N[:, None],
            self.accounting,
        )
        number = found.number
        nonzero_N = jnp.asarray(number.digits_ND)[:, 0] != 0
        debit_N = structure.debit_N(self.accounting) & ~on_line_N & nonzero_N
        return found._replace(number=number._replace(negative_N=number.negative_N ^ debit_N))

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with Python's fractions."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        number = None if errors else self._find_on_host(*texts)
        details = {f"{self.name}/missing": float(number is None)}
        if number is None:
            return HostScore(0.0, errors, details)
        reference = self._reference(items, n)
        tolerance, reach = self._reach(reference.value)

        def credit(value: Fraction) -> float:
            gap = abs(value - reference.value)
            if gap <= tolerance:
                return 1.0
            return float((reach - gap) / (reach - tolerance)) if gap < reach else 0.0

        readings = [number.value * (100 if self._as_number(number) else 1)]
        if self.percent == "either" and number.percent != reference.percent:
            readings.append(number.value * (100 if number.percent else Fraction(1, 100)))
        return HostScore(max(map(credit, readings)), errors, details)

    def _find_on_host(self, text: str) -> Value | None:
        if self.markers:
            marked = last_marked_on_host(text, self.markers)
            return self._marked(marked) if marked else None
        return self._nth(text)

    def _nth(self, text: str) -> Value | None:
        numbers = list(host_numbers(text, self.accounting))
        return _value(numbers[0 if self.which == "first" else -1]) if numbers else None

    def _marked(self, marked: HostMarked) -> Value | None:
        """The number of what a marker marks."""
        text, whole = marked
        cut = text.encode()[:MOST_BYTES].decode(errors="ignore")
        if self.which != "marked":
            return self._nth(cut)
        if not whole and (box := last_marked_on_host(cut, _BOXES)):
            text, whole = box
        if answer := host_answer(text, accounting=self.accounting):
            (element,) = answer.elements
            if element.number is None:
                return None
            return Value(element.number, element.percent)
        if whole or host_count(text):
            return None
        return _on_line_on_host(cut, self.accounting)


def _times_ten(number: Decimals, power: int) -> Decimals:
    nonzero_N = jnp.asarray(number.digits_ND)[:, 0] != 0
    return number._replace(exponent_N=number.exponent_N + jnp.where(nonzero_N, power, 0))


def _credit(encoded: Encoded, number: Decimals) -> jax.Array:
    within_N = (compare(number, encoded.low) >= 0) & (compare(number, encoded.high) <= 0)
    distance_N = distance(number, encoded.reference, encoded.unit_M)
    credit_N = jnp.clip(encoded.offset_M - encoded.slope_M * distance_N, 0, 1)
    return jnp.where(within_N, 1, credit_N)


def _on_line(text: ByteString) -> tuple[jax.Array, jax.Array]:
    """The number at the beginning of each text, or behind its last equals sign, or the last.

    Returns:
        int32[N, L], the kinds of the bytes; and bool[N, L], the bytes of the number.
    """
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    kind_NL = text_kinds(text)
    part_NL = is_part(kind_NL)
    start_NL = part_NL & ~shift_right(part_NL, 1)
    last_N = jnp.where(start_NL, index, -1).max(axis=-1, initial=-1)
    equals = (byte == ord("=")) & (index < last_N[:, None])
    cut_N = jnp.where(equals, index + 1, 0).max(axis=-1, initial=0)
    behind = index >= cut_N[:, None]
    first_N = jnp.where(start_NL & behind, index, width).min(axis=-1, initial=width)
    lower = byte | 0x20
    says = ((lower >= ord("a")) & (lower <= ord("z"))) | (byte >= 0x80)
    says |= (byte >= ord("0")) & (byte <= ord("9"))
    spoken_N = (says & behind & (index < first_N[:, None])).any(axis=-1)
    first_only = start_NL & (index == first_N[:, None])
    last_only = start_NL & (index == last_N[:, None])
    chosen = jnp.where(spoken_N[:, None], last_only, first_only)
    # The others still end the chosen one.
    return kind_NL, number_at(part_NL, chosen, "first")


def _on_line_on_host(text: str, accounting: bool) -> Value | None:
    numbers = list(host_numbers(text, accounting))
    if not numbers:
        return None
    cut = text.rfind("=", 0, numbers[-1].start) + 1
    first = next(number for number in numbers if number.start >= cut)
    spoken = any(c.isascii() and c.isalnum() or not c.isascii() for c in text[cut : first.start])
    return _value(numbers[-1] if spoken else first)


def _value(number: HostNumber | None) -> Value | None:
    """The value of a number; None without one and if it cannot be read."""
    return Value(number.value, number.percent) if number and number.value is not None else None


def parse_tolerance(fields: Fields, key: str) -> Fraction:
    """Reads an optional distance, 0 without one."""
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
