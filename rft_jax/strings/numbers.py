r"""Numbers in free text: found, read and compared exactly, in pure jnp.

    found = find_number(text, "last")              # the last number of every text
    order_N = compare(found.number, from_fractions([Fraction(3, 4)]))

A number is what `NUMBER` matches: digits, with commas between groups of three or without; a decimal
part; an exponent; or a simple fraction 3/4 or \frac{3}{4} (denominator of up to eight digits, not
zero). In front may stand a sign (-, + or U+2212, but not where something is subtracted: 3 is the
last number of "5-3") and one of $ € £ ¥; behind it % or \%, which divides by 100, so that 50% is
0.5. Digits that belong to a word, as in SCN1A, and the later parts of 1.2.3 are no numbers.

On the device a number is its first `DIGITS` significant digits, an exponent, and whether more
digits follow that are not zero: exact for all that people write, no floating point involved.
Written exponents beyond +-`MAX_EXPONENT` are read as that.
"""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import (
    Array,
    ByteString,
    compress,
    last_where,
    next_where,
    shift_left,
    shift_right,
)

DIGITS = 36
MAX_EXPONENT = 9999
NUMBER = re.compile(
    r"""
    (?: (?<! [A-Za-z0-9_)\]}%] ) (?P<sign> [-+\u2212] ) )?
    [$€£¥]?
    (?:
        (?<! [0-9] ) \\ [dt]? frac [{] (?P<over> [0-9]+ ) [}][{] (?! 0+ [}] )
        (?P<under> [0-9]{1,8} ) (?= [}] )
    |
        # An integer does not start in a word, in a number, after 1. or after 1e-
        (?<! [A-Za-z0-9_] ) (?<! [0-9]\. ) (?<! [0-9][eE][-+] )
        (?:
            (?<! [,/] ) (?P<numerator> [0-9]+ ) / (?! 0+ (?![0-9]) )
            (?P<denominator> [0-9]{1,8} ) (?! [0-9/] )
        |
            (?P<integer> [0-9]{1,3} (?: ,[0-9]{3} )+ (?![0-9]) | [0-9]+ )
            (?P<decimals> \.[0-9]+ )? (?: [eE] (?P<exponent> [-+]?[0-9]+ ) )?
        )
    |
        (?<! [A-Za-z0-9_.] ) (?P<point> \.[0-9]+ ) (?: [eE] (?P<point_exponent> [-+]?[0-9]+ ) )?
    )
    (?P<percent> [ ]?\\?% )?
    """,
    re.VERBOSE,
)
_MAX_DENOMINATOR_DIGITS = 8  # of which ten times fits in an int32
_ZERO_EXPONENT = -(1 << 20)  # smaller than that of any other number
_MINUS = "\u2212".encode()
_FRAC = b"frac{"  # after a backslash, and perhaps d or t
_DECIMALS = 8  # decimal places of a distance
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


class FoundNumber(NamedTuple):
    """A number in each of N texts.

    Attributes:
        number: The number; zero where there is none.
        exists_N: bool.
    """

    number: Decimals
    exists_N: jax.Array


class _Marks(NamedTuple):
    """What the bytes of numbers are; all bool[N, L].

    Attributes:
        digit: An ASCII digit, of a number or not.
        part: Part of a number, without sign, currency and percent.
        point: A number's decimal point.
        exponent: The e of a number.
        slash: A fraction's; for \\frac, the brace that closes the numerator.
        minus: What starts here is preceded by a minus sign, and perhaps a currency.
    """

    digit: jax.Array
    part: jax.Array
    point: jax.Array
    exponent: jax.Array
    slash: jax.Array
    minus: jax.Array


def numbers_in(text: str) -> list[Fraction]:
    """All numbers of a text, on the host."""
    return [_fraction(match) for match in NUMBER.finditer(text)]


def number_text(text: str) -> Fraction | None:
    """The number that a text is, white space around it aside; None if it is something else."""
    match = NUMBER.fullmatch(text.strip())
    return _fraction(match) if match else None


def _fraction(match: re.Match[str]) -> Fraction:
    group = match.groupdict()
    if group["numerator"] or group["over"]:
        value = _exact(group["numerator"] or group["over"])
        value /= int(group["denominator"] or group["under"])
    else:
        mantissa = group["point"] or group["integer"].replace(",", "") + (group["decimals"] or "")
        value = decimal_fraction(mantissa, group["exponent"] or group["point_exponent"] or "0")
    if group["percent"]:
        value /= 100
    return -value if group["sign"] in ("-", "\u2212") else value


def decimal_fraction(mantissa: str, exponent: str) -> Fraction:
    """mantissa * 10 ** exponent, with the exponent's limit."""
    digits = exponent.lstrip("+-").lstrip("0") or "0"
    power = min(int(digits[: len(str(MAX_EXPONENT)) + 1]), MAX_EXPONENT)
    scale = Fraction(10) ** (-power if exponent.startswith("-") else power)
    return _exact(mantissa) * scale


def _exact(digits: str) -> Fraction:
    return Fraction(Decimal(digits))  # `int` stops at 4300 digits


def from_fractions(values: Sequence[Fraction]) -> Decimals:
    """M numbers from the host, as NumPy arrays, exact but for digits beyond `DIGITS`."""
    digits_MD = np.zeros((len(values), DIGITS), np.int32)
    exponent_M = np.full(len(values), _ZERO_EXPONENT, np.int32)
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


def find_number(text: ByteString, which: str) -> FoundNumber:
    """The first or the last number of every text.

    Args:
        text: ByteString of [N, L].
        which: "first" or "last".

    Returns:
        FoundNumber of N. Time and memory N * L.
    """
    byte = jnp.asarray(text.bytes, jnp.int32)
    marks = _mark(byte)
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    starts_NL = marks.part & ~shift_right(marks.part, 1)
    if which == "first":
        start_N = jnp.where(starts_NL, index, width).min(axis=-1, initial=width)
    else:
        start_N = jnp.where(starts_NL, index, -1).max(axis=-1, initial=-1)
    exists_N = starts_NL.any(axis=-1)
    return FoundNumber(_read(byte, marks, jnp.where(exists_N, start_N, 0), exists_N), exists_N)


def _mark(byte: jax.Array) -> _Marks:
    """Finds the numbers by local rules: runs of digits, what stands before them, and what joins
    them."""
    digit = _is_digit(byte)
    first = last_where(~digit) + 1  # of the run that a digit is in
    leading = (byte == ord(".")) & shift_left(digit, 1)
    leading &= ~shift_right(_is_word(byte) | (byte == ord(".")), 1)
    integer = _integers(byte, leading, first)
    slash, frac, prefix = _fractions(byte, integer, first)
    denominator = _of_run(shift_right(slash, 1) | shift_right(frac, 2), first) & digit
    integer &= ~denominator

    comma = (byte == ord(",")) & shift_right(integer, 1) & ~shift_left(digit, 4)
    four_digits = jnp.ones_like(digit)
    for k in (1, 2, 3, 4):
        four_digits &= shift_right(digit, k)
        if k < 4:
            comma &= shift_left(digit, k)
    comma &= ~four_digits

    point = leading | ((byte == ord(".")) & shift_left(digit, 1) & shift_right(integer, 1))
    mantissa = integer | (_of_run(shift_right(point, 1), first) & digit)
    plus_or_minus = _is_any(byte, b"+-")
    followed = shift_left(digit, 1) | (shift_left(plus_or_minus, 1) & shift_left(digit, 2))
    exponent = _is_any(byte, b"eE") & shift_right(mantissa, 1) & followed
    sign = plus_or_minus & shift_right(exponent, 1)
    in_exponent = _of_run(shift_right(exponent | sign, 1), first) & digit
    part = mantissa | comma | point | exponent | sign | in_exponent
    part |= slash | prefix | frac | shift_right(frac, 1) | denominator
    return _Marks(digit, part, point, exponent, slash | frac, _minus(byte))


def _integers(byte: jax.Array, leading: jax.Array, first: jax.Array) -> jax.Array:
    """bool[N, L]: digits of runs that are an integer, or its first or a further group."""
    digit, point = _is_digit(byte), byte == ord(".")
    refused = _is_word(byte) | leading | (point & shift_right(digit, 1))
    exponent_sign = _is_any(byte, b"+-") & shift_right(_is_any(byte, b"eE"), 1)
    refused |= exponent_sign & shift_right(digit, 2)
    starts = digit & ~shift_right(refused, 1)
    return _of_run(starts, first) & digit


def _fractions(
    byte: jax.Array, integer: jax.Array, first: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds simple fractions.

    Returns:
        slash: bool[N, L], what stands between numerator and denominator.
        frac: bool[N, L], in \\frac{3}{4} the brace after the numerator.
        prefix: bool[N, L], there, what stands before the numerator.
    """
    digit = _is_digit(byte)
    starts = digit & ~shift_right(digit, 1)
    after = _of_run(starts & shift_right(_is_any(byte, b",/"), 1), first)
    slash = (byte == ord("/")) & shift_right(integer & ~after, 1)
    slash &= _denominator_follows(byte, digit, 1, lambda behind: behind != ord("/"))

    backslash = (byte == ord("\\")) & ~shift_right(digit, 1)
    opens = starts & _preceded(byte, _FRAC)
    plain = opens & shift_right(backslash, len(_FRAC) + 1)
    sized = opens & shift_right(_is_any(byte, b"dt") & shift_right(backslash, 1), len(_FRAC) + 1)
    frac = (byte == ord("}")) & shift_left(byte == ord("{"), 1)
    frac &= shift_right(integer & _of_run(plain | sized, first), 1)
    frac &= _denominator_follows(byte, digit, 2, lambda behind: behind == ord("}"))

    end = next_where(~digit)
    holds = (plain | sized) & jnp.take_along_axis(frac, end, axis=-1, mode="clip")
    prefix = shift_left(holds & sized, len(_FRAC) + 2)
    for k in range(1, len(_FRAC) + 2):
        prefix |= shift_left(holds, k)
    return slash, frac, prefix


def _is_digit(byte: jax.Array) -> jax.Array:
    return (byte >= ord("0")) & (byte <= ord("9"))


def _is_word(byte: jax.Array) -> jax.Array:
    lower = byte | 0x20
    letter = (lower >= ord("a")) & (lower <= ord("z"))
    return letter | _is_digit(byte) | (byte == ord("_"))


def _of_run(flag_NL: jax.Array, first_NL: jax.Array) -> jax.Array:
    """The flag at the first byte of every digit's run; only where there are digits."""
    return jnp.take_along_axis(flag_NL, first_NL, axis=-1, mode="clip")


def _denominator_follows(
    byte: jax.Array, digit: jax.Array, distance: int, may_stand_behind: Callable[..., jax.Array]
) -> jax.Array:
    """bool[N, L]: at a distance starts a run of digits that is short and not zero."""
    index = jnp.arange(byte.shape[-1], dtype=jnp.int32)
    end = shift_left(next_where(~digit), distance)
    nonzero = shift_left(next_where(digit & (byte != ord("0"))), distance) < end
    behind = jnp.take_along_axis(byte, end, axis=-1, mode="fill", fill_value=0)
    short = end - index - distance <= _MAX_DENOMINATOR_DIGITS
    return shift_left(digit, distance) & short & nonzero & may_stand_behind(behind)


def _minus(byte: jax.Array) -> jax.Array:
    """bool[N, L]: before the byte stand a minus sign and perhaps a currency."""
    joins = _is_word(byte) | _is_any(byte, b")]}%")
    minus = shift_right((byte == ord("-")) & ~shift_right(joins, 1), 1)
    minus |= _preceded(byte, _MINUS) & ~shift_right(joins, 1 + len(_MINUS))
    found = minus
    for currency in "$€£¥":
        spelled = currency.encode()
        found |= _preceded(byte, spelled) & shift_right(minus, len(spelled))
    return found


def _preceded(byte: jax.Array, literal: bytes) -> jax.Array:
    """bool[N, L]: the literal ends before the byte."""
    found = jnp.ones(byte.shape, bool)
    for k, wanted in enumerate(reversed(literal), start=1):
        found &= shift_right(byte, k) == wanted
    return found


def _is_any(byte: jax.Array, characters: bytes) -> jax.Array:
    found = jnp.zeros(byte.shape, bool)
    for character in characters:
        found |= byte == character
    return found


def _read(byte: jax.Array, marks: _Marks, start_N: jax.Array, exists_N: jax.Array) -> Decimals:
    """The number that starts at a byte."""
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)

    def first(mask_NL: jax.Array, default: jax.Array | int) -> jax.Array:
        found = jnp.where(mask_NL, index, width).min(axis=-1, keepdims=True, initial=width)
        return jnp.minimum(found, default)

    start = start_N[:, None]
    end = first(~marks.part & (index >= start), width)
    inside = (index >= start) & (index < end) & exists_N[:, None]
    stop = first((marks.exponent | marks.slash) & inside, end)  # of the mantissa
    point = first(marks.point & inside, stop)
    value = byte - ord("0")
    mantissa = marks.digit & inside & (index < stop)
    significant = mantissa & (index >= first(mantissa & (value != 0), width))
    digits_NL, count_N = compress(value, significant)
    ordinal = jnp.cumsum(significant, axis=-1, dtype=jnp.int32)
    more_N = (significant & (value != 0) & (ordinal > DIGITS)).any(axis=-1)
    zeros_N = (mantissa & ~significant & (index > point)).sum(axis=-1, dtype=jnp.int32)
    exponent_N = (significant & (index < point)).sum(axis=-1, dtype=jnp.int32) - zeros_N

    tail = jnp.where(marks.digit & inside & (index > stop), value, 0)
    tail_N = _whole(tail, end - 1 - index)
    is_fraction_N = (marks.slash & inside).any(axis=-1)
    negative_tail_N = ((byte == ord("-")) & inside).any(axis=-1)
    power_N = jnp.minimum(tail_N, MAX_EXPONENT) * jnp.where(negative_tail_N, -1, 1)
    exponent_N += jnp.where(is_fraction_N, 0, power_N) - 2 * _percent(byte, end[:, 0])
    digits_ND = jnp.pad(digits_NL, ((0, 0), (0, max(0, DIGITS - width))))[:, :DIGITS]
    negative_N = jnp.take_along_axis(marks.minus, start, axis=-1, mode="clip")[:, 0]
    zero_N = count_N == 0
    number = Decimals(
        digits_ND,
        jnp.where(zero_N, _ZERO_EXPONENT, exponent_N),
        negative_N & ~zero_N,
        more_N,
    )
    return _divide(number, jnp.where(is_fraction_N, tail_N, 1))


def _whole(digit_NL: jax.Array, exponent_NL: jax.Array) -> jax.Array:
    """int32[N]: the sum of digit * 10 ** exponent, with a limit that no denominator reaches."""
    most = 10**_MAX_DENOMINATOR_DIGITS
    fits = exponent_NL < _MAX_DENOMINATOR_DIGITS
    powers = 10 ** jnp.clip(exponent_NL, 0, _MAX_DENOMINATOR_DIGITS)
    low_N = jnp.where(fits, digit_NL * powers, 0).sum(axis=-1, dtype=jnp.int32)
    return jnp.where((~fits & (digit_NL != 0)).any(axis=-1), most, low_N)


def _percent(byte: jax.Array, end_N: jax.Array) -> jax.Array:
    """int32[N], 0 or 1: a percent sign follows, perhaps after a space, perhaps escaped."""
    position = end_N[:, None] + jnp.arange(3)
    first, second, third = jnp.moveaxis(
        jnp.take_along_axis(byte, position, axis=-1, mode="fill", fill_value=0), -1, 0
    )
    percent, escape, space = ord("%"), ord("\\"), ord(" ")
    after_space = (second == percent) | ((second == escape) & (third == percent))
    found = (first == percent) | ((first == escape) & (second == percent))
    return (found | ((first == space) & after_space)).astype(jnp.int32)


def _divide(number: Decimals, divisor_N: jax.Array) -> Decimals:
    """number / divisor by long division; the divisor is at least 1 and below 10 ** 8."""
    extra = _MAX_DENOMINATOR_DIGITS + 1  # so many digits at most lead before one is not zero
    digits_SN = jnp.pad(number.digits_ND, ((0, 0), (0, extra))).T

    def step(rest_N: jax.Array, digit_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest_N = 10 * rest_N + digit_N
        return rest_N % divisor_N, rest_N // divisor_N

    rest_N, quotient_SN = lax.scan(step, jnp.zeros_like(divisor_N), digits_SN)
    quotient_NS = quotient_SN.T
    index = jnp.arange(DIGITS, dtype=jnp.int32)
    leading_N = jnp.cumprod(quotient_NS[:, :extra] == 0, axis=-1, dtype=jnp.int32).sum(axis=-1)
    leading_N = jnp.where(leading_N == extra, 0, leading_N)  # the number is zero
    digits_ND = jnp.take_along_axis(quotient_NS, leading_N[:, None] + index, axis=-1, mode="clip")
    beyond = jnp.arange(DIGITS + extra) >= (leading_N + DIGITS)[:, None]
    more_N = number.more_N | (rest_N != 0) | (beyond & (quotient_NS != 0)).any(axis=-1)
    return Decimals(digits_ND, number.exponent_N - leading_N, number.negative_N, more_N)


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
    steps_N = top_N - exponent_N + _DECIMALS
    sign_a, sign_b = _sign(a), _sign(b)

    def digit(number: Decimals, j: jax.Array) -> jax.Array:
        index_N = j - (top_N - number.exponent_N)
        taken = jnp.take_along_axis(
            jnp.asarray(number.digits_ND), index_N[:, None], axis=-1, mode="clip"
        )[:, 0]
        return jnp.where((index_N >= 0) & (index_N < DIGITS), taken, 0)

    def step(j: jax.Array, sum_N: jax.Array) -> jax.Array:
        added = 10 * sum_N + (sign_a * digit(a, j) - sign_b * digit(b, j))
        return jnp.where(j < steps_N, jnp.clip(added, -_FAR, _FAR), sum_N)

    sum_N = lax.fori_loop(0, DIGITS, step, jnp.zeros(top_N.shape, jnp.float32))
    scale_N = 10.0 ** jnp.clip(steps_N - DIGITS, 0, 20).astype(jnp.float32)
    return jnp.minimum(jnp.abs(sum_N) * scale_N, _FAR) * 10.0**-_DECIMALS
