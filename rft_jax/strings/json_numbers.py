"""Numbers of scanned JSON documents, all at once: compared with constants, exactly.

    numbers = read_numbers(scan)
    positive_NL = compare_with(numbers, Decimal(0)) > 0    # where a number starts

Nothing is rounded: digits are compared with digits. Written exponents beyond
+-`numbers.MAX_EXPONENT` are read as that.
"""

from decimal import Decimal
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.strings.byte_string import next_where
from rft_jax.strings.json_scan import JsonScan
from rft_jax.strings.numbers import MAX_EXPONENT

_EXPONENT_DIGITS = len(str(MAX_EXPONENT))


class JsonNumbers(NamedTuple):
    """What is known of every number, at its first byte: +- 0.d1 d2 d3 ... * 10 ** exponent.

    Attributes:
        byte_NL: int32, of the texts.
        next_nonzero_NL: int32, at any byte of a number: where its next digit from there on that is
            not zero is, at or beyond its end without one.
        first_NL: int32, where d1 is, which is not zero.
        point_NL: int32, where the point is; without one, the same as stop_NL.
        stop_NL: int32, one past the last digit before the exponent.
        exponent_NL: int32.
        sign_NL: int32, -1, 0 or 1.
    """

    byte_NL: jax.Array
    next_nonzero_NL: jax.Array
    first_NL: jax.Array
    point_NL: jax.Array
    stop_NL: jax.Array
    exponent_NL: jax.Array
    sign_NL: jax.Array


def read_numbers(scan: JsonScan) -> JsonNumbers:
    """Reads the numbers of N documents; elsewhere than at their first bytes, anything."""
    byte = jnp.asarray(scan.text.bytes).astype(jnp.int32)
    letter = (byte == ord("e")) | (byte == ord("E"))
    digit = (byte >= ord("0")) & (byte <= ord("9"))
    joint = next_where((byte == ord(".")) | letter | ~scan.scalar_NL)
    next_nonzero = next_where((digit & (byte != ord("0"))) | ~scan.scalar_NL)

    has_point = _at(byte, joint) == ord(".")
    stop = jnp.where(has_point, _at(joint, joint + 1), joint)
    point = jnp.where(has_point, joint, stop)
    first = next_nonzero
    zero = first >= stop
    exponent = point - first + (first > point) + _power(byte, joint, next_nonzero, stop)
    sign = jnp.where(byte == ord("-"), -1, 1)
    return JsonNumbers(byte, next_nonzero, first, point, stop, exponent, jnp.where(zero, 0, sign))


def _at(x_NL: jax.Array, index_NL: jax.Array) -> jax.Array:
    """x_NL at other positions of its row; zero beyond the row."""
    return jnp.take_along_axis(x_NL, index_NL, axis=-1, mode="fill", fill_value=0)


def _power(
    byte: jax.Array, joint: jax.Array, next_nonzero: jax.Array, stop: jax.Array
) -> jax.Array:
    """int32[N, L]: the written exponents, 0 without one."""
    letter = _at(byte, stop) | 0x20
    end = _at(joint, stop + 1)
    power = jnp.zeros_like(stop)
    for k in range(_EXPONENT_DIGITS):
        value = _at(byte, end - 1 - k) - ord("0")
        power += jnp.where((end - 1 - k > stop) & (value >= 0), value, 0) * 10**k
    power = jnp.where(_at(next_nonzero, stop + 1) < end - _EXPONENT_DIGITS, MAX_EXPONENT, power)
    power = jnp.where(_at(byte, stop + 1) == ord("-"), -power, power)
    return jnp.where(letter == ord("e"), power, 0)


def _position(numbers: JsonNumbers, j: jax.Array | int) -> jax.Array:
    """int32[N, L]: where digit j + 1 is, were there enough of them."""
    position = numbers.first_NL + j
    crosses = (numbers.first_NL < numbers.point_NL) & (position >= numbers.point_NL)
    return position + crosses


def _ends_before(numbers: JsonNumbers, position_NL: jax.Array) -> jax.Array:
    """bool[N, L]: no digit from the position on but zeros."""
    rest = _at(numbers.next_nonzero_NL, position_NL) >= numbers.stop_NL
    return (position_NL >= numbers.stop_NL) | rest


def is_integer(numbers: JsonNumbers) -> jax.Array:
    """bool[N, L]: the number is whole, as 1.0 and 1.5e1 are."""
    width = numbers.byte_NL.shape[-1]
    exponent = jnp.clip(numbers.exponent_NL, 0, width)
    whole = (numbers.exponent_NL > 0) & _ends_before(numbers, _position(numbers, exponent))
    return whole | (numbers.sign_NL == 0)


def compare_with(numbers: JsonNumbers, constant: Decimal) -> jax.Array:
    """int32[N, L]: the sign of number - constant.

    Args:
        numbers: From `read_numbers`.
        constant: Static; a gather for each of its digits.
    """
    negative, digits, scale = constant.as_tuple()
    if not any(digits):
        return numbers.sign_NL
    leading = next(k for k, digit in enumerate(digits) if digit)
    exponent = len(digits) - leading + int(scale)
    order = jnp.sign(numbers.exponent_NL - exponent)
    significant = "".join(map(str, digits)).strip("0")
    for j, digit in enumerate(significant):
        position = _position(numbers, j)
        value = jnp.where(position < numbers.stop_NL, _at(numbers.byte_NL, position) - ord("0"), 0)
        order = jnp.where(order == 0, jnp.sign(value - int(digit)), order)
    longer = ~_ends_before(numbers, _position(numbers, len(significant)))
    order = jnp.where((order == 0) & longer, 1, order)
    sign = -1 if negative else 1
    return jnp.where(numbers.sign_NL == sign, sign * order, jnp.sign(numbers.sign_NL - sign))
