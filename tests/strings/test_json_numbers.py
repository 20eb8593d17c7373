"""Numbers of JSON documents are compared with constants as Python's fractions compare."""

import itertools
from decimal import Decimal
from fractions import Fraction

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import JsonToken, from_host, scan_json
from rft_jax.strings.json_numbers import compare_with, is_integer, read_numbers
from rft_jax.strings.numbers import MAX_EXPONENT, decimal_fraction

N, L = 64, 128
CONSTANTS = ["0", "-0.0", "1", "-1", "10", "1.5", "0.001", "123456789", "-2.50", "1e300", "1e-300"]
CONSTANTS = [Decimal(text) for text in [*CONSTANTS, "100000000000000000001"]]


@jax.jit
def describe(text):
    """Where numbers start, whether they are whole, and how they compare with the constants."""
    scan = scan_json(text)
    numbers = read_numbers(scan)
    starts_NL = (scan.token_NL == JsonToken.NUMBER) & scan.valid_N[:, None]
    return starts_NL, is_integer(numbers), [compare_with(numbers, c) for c in CONSTANTS]


def exact(source):
    mantissa, _, exponent = source.lower().partition("e")
    return decimal_fraction(mantissa, exponent or "0")


def assert_described(rows):
    """Every row is a list of the sources of numbers."""
    texts = ["[" + " ,".join(row) + "]" for row in rows]
    texts = [text for text in texts if len(text) <= L]
    texts += ["[]"] * (N - len(texts))
    starts_NL, whole_NL, orders = jax.device_get(describe(from_host(texts, L)))
    for n, text in enumerate(texts):
        sources = [source.strip() for source in text[1:-1].split(",") if source]
        places = np.flatnonzero(starts_NL[n])
        assert len(places) == len(sources)
        for place, source in zip(places, sources, strict=True):
            value = exact(source)
            assert whole_NL[n, place] == (value.denominator == 1), source
            for constant, order_NL in zip(CONSTANTS, orders, strict=True):
                limit = Fraction(constant)
                expected = (value > limit) - (value < limit)
                assert order_NL[n, place] == expected, (source, constant)


DIGITS = st.text("0123456789", max_size=12)
SOURCES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.integers(1, 10**9).map(str), st.sampled_from("1259")),
    st.one_of(st.just(""), DIGITS.map(".{}0".format), DIGITS.map(".{}5".format)),
    st.one_of(
        st.just(""),
        st.builds("{}{}".format, st.sampled_from(["e", "E-", "e+0"]), st.integers(0, 320)),
    ),
)
NEAR = st.sampled_from(CONSTANTS).flatmap(
    lambda c: st.sampled_from(
        [str(c), f"{c:f}0" if "." in f"{c:f}" else f"{c:f}.0", f"{c:e}", f"{c + Decimal('1e-6')}"]
    )
)


@settings(max_examples=60)
@given(st.lists(st.lists(st.one_of(SOURCES, NEAR), max_size=6), min_size=8, max_size=N))
def test_numbers_compare_as_fractions_do(rows):
    assert_described(rows)


def test_all_short_numbers_compare_as_fractions_do():
    whole = ["0", "1", "10", "15", "100"]
    parts = itertools.product(
        ["", "-"], whole, ["", ".0", ".5", ".05", ".00"], ["", "e0", "e1", "E-2"]
    )
    sources = ["".join(part) for part in parts]
    rows = [sources[i : i + 4] for i in range(0, len(sources), 4)]
    for first in range(0, len(rows), N):
        assert_described(rows[first : first + N])


def test_awkward_numbers():
    many = "9" * (L - 2)
    assert_described([[many], ["0." + "0" * (L - 5) + "1"], ["1e" + "9" * (L - 4)]])
    assert_described(
        [["1e-00000000000001"], ["1e00000000000300", "1E+0300"], ["-0", "-0.0e5", "0"]]
    )
    assert_described([[f"1e{MAX_EXPONENT + k}", f"-1e-{MAX_EXPONENT + k}"] for k in (-1, 0, 1, 2)])
    assert_described([["100000000000000000001", "100000000000000000000", "100000000000000000002"]])
