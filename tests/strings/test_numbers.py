"""Numbers are found where the regular expression finds them, and compared as fractions are."""

import random
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import from_host
from rft_jax.strings.numbers import (
    DIGITS,
    MAX_EXPONENT,
    compare,
    decimal_exponent,
    distance,
    find_number,
    from_fractions,
    number_text,
    numbers_in,
)

N, L = 64, 96
find = {which: jax.jit(lambda text, w=which: find_number(text, w)) for which in ("first", "last")}
jit_compare, jit_distance = jax.jit(compare), jax.jit(distance)

PIECES = st.sampled_from(
    [*"0123456789", *".,-+eE/%$€£\\ \u2212_x)}]日\x00", "00", "123", "1,234", ",567", "3/4", "e-5"]
    + ["\\frac{", "\\dfrac{3}{4}", "}{", "{"]
)
FUZZ = st.lists(PIECES, max_size=24).map("".join)
WRITTEN = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.integers(-(10**12), 10**12).map("{:,}".format),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.fractions(max_denominator=10**6).map(str),
    st.integers(0, 10**4).map("{}%".format),
    st.integers(0, 10**6).map("-${:,}.50".format),
)
PROSE = st.lists(
    st.one_of(WRITTEN, st.sampled_from(["is", "=", "SCN1A", "\r\n", "e\u0301", "😀", "(", "."])),
    max_size=5,
).map(" ".join)


def same(found, n, value):
    """Whether number n of a device's result is a fraction, to as many digits as there are."""
    expected = from_fractions([value])
    row = jax.tree.map(lambda leaf: np.asarray(leaf)[n], found)
    return all(np.array_equal(a, b[0]) for a, b in zip(row, expected, strict=True))


def assert_found(texts):
    rows = [text for text in texts if len(text.encode()) <= L][:N]
    rows += [""] * (N - len(rows))
    for which, function in find.items():
        found = jax.device_get(function(from_host(rows, L)))
        for n, row in enumerate(rows):
            numbers = numbers_in(row)
            assert found.exists_N[n] == bool(numbers), (which, row)
            value = numbers[0 if which == "first" else -1] if numbers else Fraction(0)
            assert same(found.number, n, value), (which, row, value)


@settings(max_examples=40)
@given(st.lists(FUZZ, min_size=8, max_size=N))
def test_numbers_are_found_where_the_expression_finds_them(texts):
    assert_found(texts)


@settings(max_examples=20)
@given(st.lists(PROSE, min_size=8, max_size=N))
def test_numbers_as_people_write_them_are_read_exactly(texts):
    assert_found(texts)


def random_texts(rng, count):
    """Texts in which rules about neighboring characters meet often."""
    alphabet = [
        *"00112358",
        *".,.,-+eE/%$€ \u2212x_)}日",
        ",567",
        "1,234",
        "3/4",
        "e-5",
        "e+",
        " %",
    ]
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 16))) for _ in range(count)]


def assert_found_in_all(texts):
    for first in range(0, len(texts), N):
        assert_found(texts[first : first + N])


def test_numbers_are_found_in_random_texts():
    assert_found_in_all(random_texts(random.Random(0), 2000))


@pytest.mark.slow
def test_numbers_are_found_in_a_hundred_thousand_random_texts():
    assert_found_in_all(random_texts(random.Random(1), 100_000))


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("1,234,567.89", ["1234567.89"]),
        ("1,23,456 12,34", ["1", "23456", "12", "34"]),
        ("1234,567", ["1234", "567"]),
        (
            "-1 +2 \u22123 5-3 x-3 (a)-3 10%-20%",
            ["-1", "2", "-3", "5", "3", "3", "3", "1/10", "1/5"],
        ),
        ("-$5 $-5 \u2212€5 £5 ¥5", ["-5", "-5", "-5", "5", "5"]),
        (".5 a.5 ..5 1.2.3 7.", ["1/2", "5", "5", "6/5", "7"]),
        ("1e5 1E-2 1e+2 2e 3ex 1e-5e-3", ["100000", "1/100", "100", "2", "3", "1/100000"]),
        ("3/4 -3/4 1/0 1/2/3 1.5/2", ["3/4", "-3/4", "1", "0", "1", "2", "3", "3/2", "2"]),
        ("\\frac{3}{4} -\\dfrac{1}{02} $\\tfrac{1}{3}$", ["3/4", "-1/2", "1/3"]),
        ("-\\frac{1}{x} \\frac{1}{0} 2\\frac{1}{2} \\frac12", ["1", "1", "0", "2", "1", "2"]),
        ("50% 50\\% 50 % 1/2%", ["1/2", "1/2", "1/2", "1/200"]),
        ("SCN1A H2O _5 5kg", ["5"]),
        ("1/123456789 1/12345678", ["1", "123456789", "1/12345678"]),
    ],
)
def test_what_is_a_number(text, numbers):
    assert numbers_in(text) == [Fraction(number) for number in numbers]
    assert_found([text])


def test_a_number_may_fill_its_row():
    assert_found(["1" * L, "9" * (L - 1), "." + "0" * (L - 2) + "1", "1e" + "9" * (L - 2)])
    assert_found(
        ["0" * (L - 3) + "1/3", "1/" + "1" * (L - 2), "," * L, "1,111" * (L // 5), "-" * L]
    )


@pytest.mark.parametrize(
    "text, mantissa, exponent",
    [
        ("1e9999", 1, MAX_EXPONENT),
        ("1e10000", 1, MAX_EXPONENT),
        ("1e99999999999", 1, MAX_EXPONENT),
        ("-2e-10000", -2, -MAX_EXPONENT),
        ("0e99999", 0, 0),
        ("-0", 0, 0),
    ],
)
def test_exponents_have_a_limit(text, mantissa, exponent):
    assert_found([text])
    assert (numbers_in(text) == [mantissa * Fraction(10) ** exponent]) is True


def test_a_text_that_is_one_number():
    assert number_text(" -1,000.50\n") == Fraction(-2001, 2)
    assert [number_text(text) for text in ("", "1 2", "x1", "1.", "1kg")] == [None] * 5


VALUES = st.one_of(
    st.fractions(-(10**6), 10**6, max_denominator=10**8),
    st.integers(-(10**14), 10**14).map(Fraction),
    st.decimals(-(10**9), 10**9, places=9).map(Fraction),
)


def rows(values):
    return from_fractions([*values, *[Fraction(0)] * (N - len(values))])


@st.composite
def neighbors(draw):
    """A value and one that is equal, close, or another; all digits that differ are kept."""
    value = draw(VALUES)
    step = Fraction(10) ** draw(st.integers(-20, 14)) * draw(st.integers(-11, 11))
    other = draw(st.sampled_from([value, value + step, -value, draw(VALUES), Fraction(0)]))
    scale = Fraction(10) ** draw(st.integers(-99, 99))
    return value * scale, other * scale


@settings(max_examples=40)
@given(st.lists(neighbors(), min_size=1, max_size=N))
def test_numbers_are_ordered_as_fractions_are(pairs):
    a, b = (list(column) for column in zip(*pairs, strict=True))
    order = np.asarray(jit_compare(rows(a), rows(b)))
    expected = [(x > y) - (x < y) for x, y in pairs]
    assert order[: len(pairs)].tolist() == expected


@settings(max_examples=40)
@given(st.lists(st.tuples(neighbors(), st.integers(-6, 10)), min_size=1, max_size=N))
def test_distances_are_those_of_fractions(cases):
    a, b = ([pair[k] for pair, _ in cases] for k in (0, 1))
    exponents = np.zeros(N, np.int32)
    for n, ((x, y), offset) in enumerate(cases):
        exponents[n] = offset + (decimal_exponent(x - y) if x != y else 0)
    found = np.asarray(jit_distance(rows(a), rows(b), exponents))
    for (x, y), exponent, got in zip(zip(a, b, strict=True), exponents, found, strict=False):
        exact = abs(x - y) / Fraction(10) ** int(exponent)
        if exact > 10**4:
            assert got >= 0.99e4
        else:
            assert got == pytest.approx(float(exact), rel=1e-6, abs=1e-7)


@given(VALUES.filter(bool))
def test_the_decimal_exponent_is_that_of_the_first_digit(value):
    exponent = decimal_exponent(value)
    assert Fraction(10) ** (exponent - 1) <= abs(value) < Fraction(10) ** exponent


def test_digits_beyond_those_that_are_kept_are_noted():
    third, more = Fraction(1, 3), Fraction(10**DIGITS + 1, 10**DIGITS)
    found = from_fractions([third, Fraction(10**DIGITS - 1), more, Fraction(1)])
    assert found.more_N.tolist() == [True, False, True, False]
    order = compare(found, from_fractions([third, Fraction(10**DIGITS), Fraction(1), more]))
    assert order.tolist() == [0, -1, 1, -1]
