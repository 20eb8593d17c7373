"""Decimal numbers on the device: their first digits, exact, and no floating point.

    order_N = compare(numbers, from_fractions([Fraction(3, 4)]))

A number is its first `DIGITS` significant digits, an exponent, and whether more digits follow that
are not zero: exact for all that people write.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import Array

DIGITS = 36
MAX_DIVISOR_DIGITS = 8  # of which ten times fits in an int32
ZERO_EXPONENT = -(1 << 20)  # smaller than that of any other number
_INTEGER_DIGITS = 10  # of an int32
_PLACES = 8  # decimal places of a distance
_FAR = 1e12  # in units of the last of them


class Decimals(NamedTuple):
    """N numbers: +- 0.d1 d2 d3 ... * 10 ** exponent.

    Attributes:
        digits_ND: int32, D = `DIGITS`; the first is not zero unless the number is.
        exponent_N: int32; of zero, smaller than any other.
        negative_N: bool, false for zero.
        more_N: bool, some further digit is not zero.
    """

    digits_ND: Array
    exponent_N: Array
    negative_N: Array
    more_N: Array


def from_fractions(values: Sequence[Fraction]) -> Decimals:
    """M numbers from the host, as NumPy arrays, exact but for digits beyond `DIGITS`."""
    digits_MD = np.zeros((len(values), DIGITS), np.int32)
    exponent_M = np.full(len(values), ZERO_EXPONENT, np.int32)
    more_M = np.zeros(len(values), bool)
    for m, value in enumerate(values):
        if not value:
            continue
        exponent_M[m] = decimal_exponent(value)
        scaled = abs(value) * Fraction(10) ** (DIGITS - int(exponent_M[m]))
        whole = scaled.numerator // scaled.denominator
        digits_MD[m] = [int(digit) for digit in str(whole)]
        more_M[m] = whole != scaled
    return Decimals(digits_MD, exponent_M, np.array([value < 0 for value in values], bool), more_M)


def decimal_exponent(value: Fraction) -> int:
    """E with 10 ** (E - 1) <= |value| < 10 ** E, for a value that is not zero."""
    value = abs(value)
    exponent = math.floor(math.log10(value.numerator) - math.log10(value.denominator)) + 1
    while value >= Fraction(10) ** exponent:
        exponent += 1
    while value < Fraction(10) ** (exponent - 1):
        exponent -= 1
    return exponent


def divide(
    number: Decimals, divisor_N: jax.Array, integer_N: jax.Array, rest_N: jax.Array
) -> Decimals:
    """integer + (rest + number) / divisor by long division.

    Args:
        number: N numbers; zero with exponent 0 where integer or rest is not zero.
        divisor_N: int32, at least 1 and below 10 ** `MAX_DIVISOR_DIGITS`.
        integer_N: int32, not negative.
        rest_N: int32, from 0 to the divisor.
    """
    extra = MAX_DIVISOR_DIGITS + 1  # so many digits at most lead before one is not zero
    digits_SN = jnp.pad(number.digits_ND, ((0, 0), (0, extra))).T

    def step(rest_N: jax.Array, digit_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest_N = 10 * rest_N + digit_N
        return rest_N % divisor_N, rest_N // divisor_N

    rest_N, quotient_SN = lax.scan(step, rest_N, digits_SN)
    powers = 10 ** np.arange(_INTEGER_DIGITS - 1, -1, -1)
    integer_NI = integer_N[:, None] // powers.astype(np.int32) % 10
    quotient_NS = jnp.concatenate([integer_NI, quotient_SN.T], axis=1)
    most = _INTEGER_DIGITS + 2 * extra  # some lead already in a product
    leading_N = jnp.cumprod(quotient_NS[:, :most] == 0, axis=-1, dtype=jnp.int32).sum(axis=-1)
    is_zero_N = leading_N == most
    index = jnp.arange(DIGITS, dtype=jnp.int32)
    digits_ND = jnp.take_along_axis(
        quotient_NS, leading_N[:, None] + index, axis=-1, mode="fill", fill_value=0
    )
    beyond = jnp.arange(quotient_NS.shape[1]) >= (leading_N + DIGITS)[:, None]
    more_N = number.more_N | (rest_N != 0) | (beyond & (quotient_NS != 0)).any(axis=-1)
    exponent_N = number.exponent_N + _INTEGER_DIGITS - leading_N
    return Decimals(
        jnp.where(is_zero_N[:, None], 0, digits_ND),
        jnp.where(is_zero_N, ZERO_EXPONENT, exponent_N),
        number.negative_N & ~is_zero_N,
        more_N & ~is_zero_N,
    )


def multiply(number: Decimals, factor_N: Array) -> Decimals:
    """number * factor, which is an int32 from 1 to 10 ** `MAX_DIVISOR_DIGITS`."""
    extra = MAX_DIVISOR_DIGITS + 1  # digits that the product has more, at most

    def step(carry_N: jax.Array, digit_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        carry_N = carry_N + digit_N * factor_N
        return carry_N // 10, carry_N % 10

    digits_SN = jnp.pad(jnp.asarray(number.digits_ND), ((0, 0), (extra, 0))).T
    _, product_SN = lax.scan(step, jnp.zeros_like(factor_N), digits_SN, reverse=True)
    one_N = jnp.ones_like(factor_N)
    zero_N = jnp.zeros_like(factor_N)
    # The quotient by one brings the digits to their places.
    wide = number._replace(digits_ND=product_SN.T, exponent_N=number.exponent_N + extra)
    return divide(wide, one_N, zero_N, zero_N)


def compare(a: Decimals, b: Decimals) -> jax.Array:
    """int32[N]: the sign of a - b.

    Exact, but that two numbers whose `DIGITS` digits agree and which both have more are equal.
    """
    sign_a, sign_b = _sign(a), _sign(b)
    order_N = jnp.sign(jnp.asarray(a.exponent_N) - b.exponent_N)
    difference_ND = jnp.sign(jnp.asarray(a.digits_ND) - b.digits_ND)
    first_N = jnp.argmax(difference_ND != 0, axis=-1)
    digits_N = jnp.take_along_axis(difference_ND, first_N[:, None], axis=-1)[:, 0]
    more_N = jnp.asarray(a.more_N).astype(jnp.int32) - b.more_N
    order_N = jnp.where(order_N != 0, order_N, jnp.where(digits_N != 0, digits_N, more_N))
    return jnp.where(sign_a != sign_b, jnp.sign(sign_a - sign_b), sign_a * order_N)


def _sign(number: Decimals) -> jax.Array:
    nonzero = jnp.asarray(number.digits_ND)[:, 0] != 0
    return nonzero * jnp.where(number.negative_N, -1, 1)


def distance(a: Decimals, b: Decimals, exponent_N: Array) -> jax.Array:
    """float32[N]: |a - b| / 10 ** exponent, to a relative 1e-6 or an absolute 1e-7 of that; large
    where it is above 10 ** 4.

    The difference is summed from its first digit on, so that equal leading digits cancel exactly.
    """
    top_N = jnp.maximum(jnp.asarray(a.exponent_N), b.exponent_N)
    steps_N = top_N - exponent_N + _PLACES
    sign_a, sign_b = _sign(a), _sign(b)

    def digit(number: Decimals, j: jax.Array) -> jax.Array:
        place_N = j - (top_N - number.exponent_N)
        taken = jnp.take_along_axis(
            jnp.asarray(number.digits_ND), place_N[:, None], axis=-1, mode="clip"
        )[:, 0]
        return jnp.where((place_N >= 0) & (place_N < DIGITS), taken, 0)

    def step(j: jax.Array, sum_N: jax.Array) -> jax.Array:
        added = 10 * sum_N + (sign_a * digit(a, j) - sign_b * digit(b, j))
        return jnp.where(j < steps_N, jnp.clip(added, -_FAR, _FAR), sum_N)

    sum_N = lax.fori_loop(0, DIGITS, step, jnp.zeros(top_N.shape, jnp.float32))
    scale_N = 10.0 ** jnp.clip(steps_N - DIGITS, 0, 20).astype(jnp.float32)
    return jnp.minimum(jnp.abs(sum_N) * scale_N, _FAR) * 10.0**-_PLACES
