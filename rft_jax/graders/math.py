r"""`math`: a final answer, as people and models write it, against the reference.

    {"type": "math", "name": "answer", "input": "{{sample.output_text}}",
     "reference": "{{item.answer}}", "unit": "strip", "symbolic": "off"}

The answer is what stands in the last `\boxed{}` or `\fbox{}`; without one what follows the last of
the markers ("Final answer:", "Answer:" and "####" unless `marker` names others; see
`answer_place`); else the last `$...$`, `\(...\)` or `\[...\]`, else the last number. All of it has
to be the answer: numbers as `strings.numbers` reads them, words such as `\text{none}`, letters of
choices, and lists of these (`strings.answers`).

- Numbers are equal if their difference is at most `absolute`, or `relative` times the reference
  (both 0). Where only one of answer and reference is written as percent, 50% is 0.5 and 50.
- The elements of a reference in ( ) or [ ] have to be there in its order, in the same brackets or
  in none; those of one in { } or in no brackets in any order, repeated or not.
- `unit` says what is done with what stands behind a number: "strip" ignores it, "require" wants the
  reference's unit, "convert" a unit of the same kind, by which the number is converted. Where the
  reference has no unit, none is asked for.
- Anything else, such as roots and algebra, is equal if it is written the same, blanks and sizes of
  brackets aside. With `symbolic` "auto" the host decides the other cases with `math-verify` (the
  extra `math`), and only those: where neither is so, nothing is asked. The detail `undecided` says
  which they were. With "off", the default, they earn 0, and a reference of that kind is refused.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import HostOptions
from rft_jax.graders.answer_place import (
    BOXES,
    Marker,
    Span,
    last_formula,
    last_formula_on_host,
    last_marked,
    last_marked_on_host,
    parse_markers,
)
from rft_jax.graders.host.symbolic import open_symbolic
from rft_jax.graders.number import parse_tolerance
from rft_jax.graders.protocols import DeviceNode, HostSession, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, equal, from_host, slice_bytes
from rft_jax.strings.answers import (
    MOST_BYTES,
    WORD_BYTES,
    Elements,
    HostAnswer,
    HostElement,
    host_answer,
    read_answer,
)
from rft_jax.strings.byte_string import Array, shift_right
from rft_jax.strings.decimals import Decimals, compare, divide, from_fractions, multiply
from rft_jax.strings.formulas import plain_formula, plain_formulas
from rft_jax.strings.numbers import host_numbers, is_part, number_at, text_kinds
from rft_jax.strings.units import find_units, plain_unit, unit_numbers, units
from rft_jax.utils.errors import InputError

UNIT = ("strip", "require", "convert")
SYMBOLIC = ("off", "auto")
MARKERS = ("Final answer:", "Answer:", "####")
MOST_ELEMENTS = 8
_BOXES = tuple(Marker(text) for text in BOXES)


class Encoded(NamedTuple):
    """What is needed of M items; K elements each, as in `Elements`.

    Attributes:
        input: The runs of the input template.
        exists_M: bool, the reference can be read.
        count_M: int32.
        ordered_M: bool, its elements have an order.
        left_M: int32, the bracket around them, 0 for none.
        right_M: int32.
        low: [M, K], the smallest numbers that are equal.
        high: [M, K], the greatest.
        is_number_MK: bool.
        percent_MK: bool.
        infinity_MK: int32.
        word: ByteString of [M, K, W].
        unit: ByteString of [M, K, W], as `strings.units` has it.
        measure_MK: int32, the number of the unit, or of its dimension where units are converted;
            -2 for none that is in the table.
        formula: ByteString of [M, `MOST_BYTES`], the reference as it is written.
    """

    input: tuple[ByteString, ...]
    exists_M: np.ndarray
    count_M: np.ndarray
    ordered_M: np.ndarray
    left_M: np.ndarray
    right_M: np.ndarray
    low: Decimals
    high: Decimals
    is_number_MK: np.ndarray
    percent_MK: np.ndarray
    infinity_MK: np.ndarray
    word: ByteString
    unit: ByteString
    measure_MK: np.ndarray
    formula: ByteString


class Reading(NamedTuple):
    """An answer or reference on the host.

    Attributes:
        text: Where it is, empty if nowhere.
        answer: What it is, None if it cannot be read.
    """

    text: str
    answer: HostAnswer | None


@dataclass(frozen=True)
class Math(DeviceNode):
    """A validated `math`."""

    type_name = "math"
    name: str
    input: Template
    reference: Template
    markers: tuple[Marker, ...]
    unit: str
    symbolic: str
    absolute: Fraction
    relative: Fraction

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Math":
        """See `GraderType.parse`."""
        fields.only(
            *("input", "reference", "marker", "end", "unit", "symbolic", "absolute", "relative")
        )
        reference = fields.template("reference")
        if reference.sample_variables:
            raise fields.error("reference", "must not use the sample; take it from the item")
        return cls(
            name=name,
            input=fields.template("input"),
            reference=reference,
            markers=parse_markers(fields, MARKERS),
            unit=fields.choice("unit", UNIT) if "unit" in fields.values else "strip",
            symbolic=fields.choice("symbolic", SYMBOLIC) if "symbolic" in fields.values else "off",
            absolute=parse_tolerance(fields, "absolute"),
            relative=parse_tolerance(fields, "relative"),
        )

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        # Without it only a number is found: words, lists and formulas have to be marked.
        marker = self.markers[0] if self.markers else Marker("\\boxed{")
        return ProbeTarget.of_sides(
            self.input, self.reference, marker=marker.text, closing=marker.closing
        )

    @property
    def asks_host(self) -> str:
        """See `GraderType.asks_host`."""
        return (
            "the host compares what is no number, word or list" if self.symbolic == "auto" else ""
        )

    def open_host(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """The session on the host for those cases; see `HostGraderType.open`."""
        return open_symbolic(self, options)

    def read_reference(self, items: Items, n: int) -> Reading:
        """The reference of item n.

        Raises:
            InputError: It cannot be read; naming the line.
        """
        text = self.reference.item_text(items, n)
        found = last_marked_on_host(text, _BOXES) or last_marked_on_host(text, self.markers)
        text = found.text if found else text
        answer = host_answer(text, MOST_ELEMENTS)
        if not plain_formula(text) or len(plain_formula(text).encode()) > MOST_BYTES:
            wrong = "needs a final answer"
        elif answer is None and self.symbolic == "off":
            wrong = 'needs "symbolic": "auto" in the grader, or a number, word or list of them'
        else:
            return Reading(text, answer)
        raise InputError(
            f"{items.source}, line {n + 1}: {self.reference.where} {wrong}, not {text!r}; correct "
            "the item or the grader"
        )

    def encode(self, items: Items) -> Encoded:
        """See `GraderType.encode`."""
        readings = [self.read_reference(items, n) for n in range(len(items.rows))]
        nothing = HostAnswer(())
        answers = [reading.answer or nothing for reading in readings]
        rows = [
            [*answer.elements, *[HostElement()] * (MOST_ELEMENTS - len(answer.elements))]
            for answer in answers
        ]
        flat = [element for row in rows for element in row]
        base = [self._in_base(element) for element in flat]
        gaps = [max(self.absolute, self.relative * abs(x)) for x in base]

        def of_rows(values: Sequence, dtype: type) -> np.ndarray:
            return np.array(values, dtype).reshape(len(rows), MOST_ELEMENTS)

        def strings(texts: Sequence[str]) -> ByteString:
            text = from_host(texts, WORD_BYTES)
            shape = len(rows), MOST_ELEMENTS
            return ByteString(text.bytes.reshape(*shape, -1), text.length.reshape(shape))

        def decimals(values: Sequence[Fraction]) -> Decimals:
            return Decimals(
                *(x.reshape(len(rows), MOST_ELEMENTS, *x.shape[1:]) for x in from_fractions(values))
            )

        plain = [plain_unit(element.unit) for element in flat]
        known = [units().get(unit) for unit in plain]
        formulas = [plain_formula(reading.text) for reading in readings]
        return Encoded(
            input=self.input.encode(items),
            exists_M=np.array([reading.answer is not None for reading in readings], bool),
            count_M=np.array([len(answer.elements) for answer in answers], np.int32),
            ordered_M=np.array([answer.left in ("(", "[") for answer in answers], bool),
            left_M=np.array([ord(answer.left or "\0") for answer in answers], np.int32),
            right_M=np.array([ord(answer.right or "\0") for answer in answers], np.int32),
            low=decimals([x - gap for x, gap in zip(base, gaps, strict=True)]),
            high=decimals([x + gap for x, gap in zip(base, gaps, strict=True)]),
            is_number_MK=of_rows([element.number is not None for element in flat], bool),
            percent_MK=of_rows([element.percent for element in flat], bool),
            infinity_MK=of_rows([element.infinity for element in flat], np.int32),
            word=strings([element.word for element in flat]),
            unit=strings(plain),
            measure_MK=of_rows(
                [unit_numbers(unit)[self.unit == "convert"] if unit else -2 for unit in known],
                np.int32,
            ),
            formula=from_host(formulas, MOST_BYTES),
        )

    def _in_base(self, element: HostElement) -> Fraction:
        """The value of a reference's element, in base units where units are converted."""
        value = element.number or Fraction(0)
        unit = units().get(plain_unit(element.unit))
        return value * unit.factor if unit and self.unit == "convert" else value

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        of_host = ("python_grader_server_error", "python_grader_runtime_error")
        return (*super().errors, *(of_host if self.asks_host else ()))

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        (text,), errors, failed_N = render_on_device(view, (self.input,), (encoded.input,))
        span = self._place(text)
        fits_N = span.end_N - span.start_N <= MOST_BYTES
        part = slice_bytes(text, span.start_N, span.end_N, min(MOST_BYTES, text.bytes.shape[-1]))
        answer = read_answer(part, MOST_ELEMENTS)
        exists_N = answer.exists_N & fits_N
        formula = plain_formulas(part)
        missing_N = failed_N | ~span.found_N | (formula.length == 0)
        same_N = equal(formula, encoded.formula) & fits_N
        both_N = exists_N & jnp.asarray(encoded.exists_M)
        right_N = jnp.where(both_N, self._equal(answer, encoded), same_N) & ~missing_N
        undecided_N = ~(both_N | same_N | missing_N)
        score_N = right_N.astype(jnp.float32)
        if self.asks_host and self.name in view.on_host:
            asked = view.on_host[self.name]
            score_N = jnp.where(undecided_N, asked.score, score_N)
            for error, flag_N in asked.errors.items():
                errors[error] = errors.get(error, view.no) | (flag_N & undecided_N)
        details = {
            f"{self.name}/missing": missing_N.astype(jnp.float32),
            f"{self.name}/undecided": undecided_N.astype(jnp.float32),
        }
        return Score(score_N, errors, details, {})

    def _place(self, text: ByteString) -> Span:
        """Where the answers are."""
        box = last_marked(text, _BOXES)
        found = last_marked(text, self.markers) if self.markers else box
        formula = last_formula(text, found)
        number = _last_number(text)
        spans = [number, formula, found, box]
        # Within what is marked only a formula can be meant instead of all of it.
        place = spans[0]
        for span in spans[1:]:
            place = jax.tree.map(lambda a, b, n=span.found_N: jnp.where(n, a, b), span, place)
        narrowed_N = found.found_N & formula.found_N & ~box.found_N
        return jax.tree.map(lambda a, b: jnp.where(narrowed_N, a, b), formula, place)

    def _equal(self, answer: Elements, encoded: Encoded) -> jax.Array:
        """bool[N]: whether answers that can be read are the references."""
        N, K = answer.is_number_NK.shape
        equal_NKK = self._equal_elements(answer, encoded)
        used_NK = jnp.arange(K) < answer.count_N[:, None]
        wanted_NK = jnp.arange(K) < jnp.asarray(encoded.count_M)[:, None]
        in_order_N = (equal_NKK[:, jnp.arange(K), jnp.arange(K)] | ~wanted_NK).all(axis=-1)
        in_order_N &= answer.count_N == encoded.count_M
        all_found_N = (equal_NKK.any(axis=1) | ~wanted_NK).all(axis=-1)
        all_found_N &= (equal_NKK.any(axis=2) | ~used_NK).all(axis=-1)
        bare_N = answer.left_N == 0
        brackets_N = (answer.left_N == encoded.left_M) & (answer.right_N == encoded.right_M)
        set_N = bare_N | (answer.left_N == ord("{"))
        ordered_N = jnp.asarray(encoded.ordered_M)
        return jnp.where(ordered_N, in_order_N & (bare_N | brackets_N), all_found_N & set_N)

    def _equal_elements(self, answer: Elements, encoded: Encoded) -> jax.Array:
        """bool[N, K, K]: whether element i of an answer is element j of its reference."""
        N, K = answer.is_number_NK.shape
        number, unit_NKK = self._with_units(answer, encoded)

        def pairs(x: Array, of_answer: bool) -> jax.Array:
            x = jnp.asarray(x)
            x = x[:, :, None] if of_answer else x[:, None]
            return jnp.broadcast_to(x, (N, K, K, *x.shape[3:])).reshape(N * K * K, *x.shape[3:])

        # Where the reference has no unit, the number counts as it is written.
        free = pairs(jnp.asarray(encoded.unit.length) == 0, False)
        ours, written = (
            Decimals(*(pairs(x.reshape(N, K, *x.shape[1:]), True) for x in y))
            for y in (number, answer.number)
        )
        ours = jax.tree.map(
            lambda a, b: jnp.where(free.reshape(-1, *[1] * (a.ndim - 1)), a, b), written, ours
        )
        low, high = (Decimals(*(pairs(x, False) for x in y)) for y in (encoded.low, encoded.high))
        is_percent, was_percent = pairs(answer.percent_NK, True), pairs(encoded.percent_MK, False)
        value_F = jnp.zeros(N * K * K, bool)
        for power, used_F in (
            (0, jnp.ones_like(is_percent)),
            (2, is_percent & ~was_percent),
            (-2, ~is_percent & was_percent),
        ):
            nonzero = ours.digits_ND[:, 0] != 0
            moved = ours._replace(exponent_N=ours.exponent_N + jnp.where(nonzero, power, 0))
            value_F |= used_F & (compare(moved, low) >= 0) & (compare(moved, high) <= 0)
        value = value_F.reshape(N, K, K) & unit_NKK
        value &= answer.is_number_NK[:, :, None] & jnp.asarray(encoded.is_number_MK)[:, None, :]
        infinity = answer.infinity_NK[:, :, None] == jnp.asarray(encoded.infinity_MK)[:, None, :]
        infinity &= answer.infinity_NK[:, :, None] != 0
        ours_word = ByteString(answer.word.bytes[:, :, None], answer.word.length[:, :, None])
        word = equal(ours_word, ByteString(*(jnp.asarray(x)[:, None] for x in encoded.word)))
        return value | infinity | (word & (answer.word.length > 0)[:, :, None])

    def _with_units(self, answer: Elements, encoded: Encoded) -> tuple[Decimals, jax.Array]:
        """The numbers, in base units where units are converted; and bool[N, K, K], where the units
        allow that they are compared."""
        N, K = answer.is_number_NK.shape
        if self.unit == "strip":
            return answer.number, jnp.ones((N, K, K), bool)
        found = find_units(ByteString(*(x.reshape(N * K, *x.shape[2:]) for x in answer.unit)))
        plain = ByteString(*(x.reshape(N, K, 1, *x.shape[1:]) for x in found.plain))
        wanted = ByteString(*(jnp.asarray(x)[:, None] for x in encoded.unit))
        allowed = equal(plain, wanted) | (wanted.length == 0)
        measure = found.dimension if self.unit == "convert" else found.unit
        allowed |= measure.reshape(N, K, 1) == jnp.asarray(encoded.measure_MK)[:, None, :]
        if self.unit == "require":
            return answer.number, allowed
        scaled = multiply(answer.number, found.integer)
        zero_N = jnp.zeros_like(found.integer)
        scaled = divide(scaled, found.divisor, zero_N, zero_N)
        nonzero = scaled.digits_ND[:, 0] != 0
        power = jnp.where(nonzero, found.power, 0)
        return scaled._replace(exponent_N=scaled.exponent_N + power), allowed

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; what the device cannot decide earns 0."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        answer = Reading("", None) if errors else self._place_on_host(*texts)
        reference = self.read_reference(items, n)
        missing = not plain_formula(answer.text)
        fits = len(answer.text.encode()) <= MOST_BYTES
        same = fits and plain_formula(answer.text) == plain_formula(reference.text)
        ours, theirs = answer.answer, reference.answer
        both = bool(ours and theirs)
        right = self._equal_on_host(ours, theirs) if ours and theirs else same
        details = {
            f"{self.name}/missing": float(missing),
            f"{self.name}/undecided": float(not (both or same or missing)),
        }
        return HostScore(float(right and not missing), errors, details)

    def answer_text(self, view: HostView, items: Items, n: int) -> str:
        """The answer of a sample as it is written, for the host to decide."""
        texts, _ = render_on_host(view, (self.input,), items, n)
        return self._place_on_host(*texts).text if texts else ""

    def reference_text(self, items: Items, n: int) -> str:
        """The reference of item n as it is written, likewise."""
        return self.read_reference(items, n).text

    def _place_on_host(self, text: str) -> Reading:
        box = last_marked_on_host(text, _BOXES)
        if box:
            return _reading(box.text)
        marked = last_marked_on_host(text, self.markers) if self.markers else None
        if marked:
            return _reading(last_formula_on_host(marked.text) or marked.text)
        formula = last_formula_on_host(text)
        if formula is not None:
            return _reading(formula)
        tail = text.encode()[-MOST_BYTES:].decode(errors="ignore")
        numbers = list(host_numbers(tail))
        return _reading(tail[numbers[-1].start : numbers[-1].end] if numbers else "")

    def _equal_on_host(self, answer: HostAnswer, reference: HostAnswer) -> bool:
        ours, theirs = answer.elements, reference.elements
        bare = not answer.left
        if reference.left in ("(", "["):
            same_brackets = (answer.left, answer.right) == (reference.left, reference.right)
            in_order = len(ours) == len(theirs) and all(map(self._same, ours, theirs))
            return in_order and (bare or same_brackets)
        found = all(any(self._same(a, r) for a in ours) for r in theirs)
        found &= all(any(self._same(a, r) for r in theirs) for a in ours)
        return found and (bare or answer.left == "{")

    def _same(self, answer: HostElement, reference: HostElement) -> bool:
        if answer.number is None or reference.number is None:
            return (answer.number, answer.infinity, answer.word) == (
                reference.number,
                reference.infinity,
                reference.word,
            )
        value, wanted = answer.number, reference.number
        if self.unit != "strip":
            plain, wanted_plain = plain_unit(answer.unit), plain_unit(reference.unit)
            unit, wanted_unit = units().get(plain), units().get(wanted_plain)
            alike = False
            if unit and wanted_unit and unit.dimension == wanted_unit.dimension:
                alike = self.unit != "require" or unit.factor == wanted_unit.factor
                if self.unit == "convert":
                    value, wanted = value * unit.factor, wanted * wanted_unit.factor
            if not (alike or plain == wanted_plain or not wanted_plain):
                return False
        gap = max(self.absolute, self.relative * abs(wanted))
        values = [value]
        if answer.percent != reference.percent:
            values.append(value * (100 if answer.percent else Fraction(1, 100)))
        return any(abs(x - wanted) <= gap for x in values)


def _reading(text: str) -> Reading:
    return Reading(text, host_answer(text, MOST_ELEMENTS))


def _last_number(text: ByteString) -> Span:
    """The last number within the last `MOST_BYTES` bytes of each text."""
    width = min(MOST_BYTES, text.bytes.shape[-1])
    start_N = jnp.maximum(jnp.asarray(text.length) - width, 0)
    tail = slice_bytes(text, start_N, jnp.asarray(text.length), width)
    part = is_part(text_kinds(tail))
    inside = number_at(part, part & ~shift_right(part, 1), "last")
    index = jnp.arange(width, dtype=jnp.int32)
    first_N = jnp.where(inside, index, width).min(axis=-1, initial=width)
    found_N = inside.any(axis=-1)
    end_N = first_N + inside.sum(axis=-1, dtype=jnp.int32)
    return Span(
        jnp.where(found_N, start_N + first_N, 0),
        jnp.where(found_N, start_N + end_N, 0),
        found_N,
        found_N,
    )
