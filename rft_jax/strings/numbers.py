r"""Numbers in free text: found, read and compared exactly, in pure jnp.

    found = find_number(text, "last")              # the last number of every text
    order_N = compare(found.number, from_fractions([Fraction(3, 4)]))

What a number is, `number_grammar` says. Behind percent its value is divided by 100, so that 50% is
0.5, and it is noted that it was one: who compares may take it for 50. Brackets around an amount of
money make it negative, as in ($12.6) or $(12.6); around other numbers only if `accounting` says so.
Written exponents beyond +-`MAX_EXPONENT` are read as that. Fractions with a denominator of zero or
of more than eight digits are no numbers.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.strings.byte_string import ByteString, compress, shift_left, shift_right
from rft_jax.strings.decimals import DIGITS as DIGITS
from rft_jax.strings.decimals import MAX_DIVISOR_DIGITS, ZERO_EXPONENT, divide
from rft_jax.strings.decimals import Decimals as Decimals
from rft_jax.strings.decimals import compare as compare
from rft_jax.strings.decimals import decimal_exponent as decimal_exponent
from rft_jax.strings.decimals import distance as distance
from rft_jax.strings.decimals import from_fractions as from_fractions
from rft_jax.strings.number_grammar import (
    KINDS,
    MONEY,
    NUMBER_KINDS,
    SCALES,
    TEXT_TOKEN,
    VULGAR,
    kind_of,
)
from rft_jax.strings.regex import CaptureTables, compile_capture, find_groups

MAX_EXPONENT = 9999
_MAX_INTEGER_DIGITS = 9  # in front of a fraction
KIND = {kind: n for n, kind in enumerate(KINDS)}
_STARTS = ("number", "word", "infinity", "separator")  # of which two can touch
Parts = Mapping[str, Sequence[str]]


class FoundNumber(NamedTuple):
    """A number in each of N texts.

    Attributes:
        number: The number; zero where there is none.
        exists_N: bool.
        percent_N: bool, it is written as percent.
    """

    number: Decimals
    exists_N: jax.Array
    percent_N: jax.Array


class HostNumber(NamedTuple):
    """A number in a text, on the host.

    Attributes:
        value: Its value, None if it cannot be read.
        percent: It is written as percent.
        start: Its first character.
        end: One past the last.
    """

    value: Fraction | None
    percent: bool
    start: int
    end: int


@functools.cache
def _text_token() -> re.Pattern[str]:
    return re.compile(TEXT_TOKEN)


@functools.cache
def group_tables(token: str) -> CaptureTables:
    """Tables for `find_groups` of texts that consist of tokens; starts are those of `_STARTS`."""
    names = re.compile(token).groupindex
    starts = tuple(name for name in names if kind_of(name) in _STARTS)
    return compile_capture(f"(?:{token})*", "", "fullmatch", starts)


def kinds_of(tables: CaptureTables, number: jax.Array) -> jax.Array:
    """int32: the places in `KINDS` of the numbers of groups."""
    table = np.array([0, *(KIND[kind_of(name)] for name in tables.names)], np.int32)
    return jnp.asarray(table)[number]


def parts_of(match: re.Match[str], start: int, end: int) -> dict[str, list[str]]:
    """What stands in a match's groups between two places, by kind."""
    parts: dict[str, list[str]] = {}
    for name, text in match.groupdict().items():
        if text is not None and start <= match.start(name) and match.end(name) <= end:
            parts.setdefault(kind_of(name), []).append(text)
    return parts


def host_numbers(text: str, accounting: bool = False) -> Iterator[HostNumber]:
    """All numbers of a text, on the host."""
    for match in _text_token().finditer(text):
        for name in match.groupdict():
            if kind_of(name) == "number" and match[name] is not None:
                start, end = match.span(name)
                parts = parts_of(match, start, end)
                yield HostNumber(fraction_of(parts, accounting), "percent" in parts, start, end)


def numbers_in(text: str) -> list[Fraction]:
    """The values of all numbers of a text that can be read, on the host."""
    return [number.value for number in host_numbers(text) if number.value is not None]


def number_text(text: str, accounting: bool = False) -> HostNumber | None:
    """The number that a text is, white space around it aside; None if it is something else."""
    text = text.strip()
    number = next(host_numbers(text, accounting), None)
    whole = number and number.value is not None and (number.start, number.end) == (0, len(text))
    return number if whole else None


def fraction_of(parts: Parts, accounting: bool = False) -> Fraction | None:
    """The value of a number from its parts; None if it cannot be read."""

    def digits(kind: str) -> str:
        return "".join(
            str(unicodedata.digit(c)) for text in parts.get(kind, ()) for c in text if c.isdigit()
        )

    def decimal(kind: str, places: str) -> Fraction:
        return Fraction(Decimal(f"{digits(kind) or '0'}.{digits(places) or '0'}"))

    whole, over, under = digits("whole"), digits("over"), digits("under") + digits("underplaces")
    is_fraction = "over" in parts or "vulgar" in parts
    value = decimal("whole", "places")
    if "ten" in parts and not {"whole", "places"} & parts.keys():
        value = Fraction(1)
    if is_fraction:
        is_mixed = "whole" in parts
        over_under = decimal("over", "overplaces"), Fraction(int(under or "0"))
        if "vulgar" in parts:
            over_under = tuple(map(Fraction, VULGAR[parts["vulgar"][0]]))
        if not over_under[1] or len(under.lstrip("0")) > MAX_DIVISOR_DIGITS:
            return None
        sizes = len(whole.lstrip("0")), len(over.lstrip("0"))
        if is_mixed and (sizes[0] > _MAX_INTEGER_DIGITS or sizes[1] > MAX_DIVISOR_DIGITS):
            return None
        if is_mixed and ("overplaces" in parts or "underplaces" in parts):
            return None
        value += over_under[0] / over_under[1] * 10 ** len(digits("underplaces"))
    is_money = "currency" in parts
    power = _limited(digits("power")) * (-1 if "powerminus" in parts else 1)
    power += sum(exponent for kind, exponent in SCALES.items() if kind in parts)
    power += sum(exponent for kind, exponent in MONEY.items() if kind in parts and is_money)
    value *= Fraction(10) ** (power - 2 * ("percent" in parts))
    minus = len(parts.get("minus", ()))
    minus += {"opens", "closes"} <= parts.keys() and (is_money or accounting)
    return -value if minus % 2 else value


def _limited(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return min(int(digits[: len(str(MAX_EXPONENT)) + 1]), MAX_EXPONENT)


def decimal_fraction(mantissa: str, exponent: str) -> Fraction:
    """mantissa * 10 ** exponent, with the exponent's limit."""
    power = _limited(exponent.lstrip("+-"))
    scale = Fraction(10) ** (-power if exponent.startswith("-") else power)
    return Fraction(Decimal(mantissa)) * scale  # `int` stops at 4300 digits


def find_number(text: ByteString, which: str, accounting: bool = False) -> FoundNumber:
    """The first or the last number of every text.

    Args:
        text: ByteString of [N, L].
        which: "first" or "last".
        accounting: Brackets around any number make it negative.

    Returns:
        FoundNumber of N; does not exist where that number cannot be read. Time and memory N * L.
    """
    kind_NL = text_kinds(text)
    part_NL = is_part(kind_NL)
    start_NL = part_NL & ~shift_right(part_NL, 1)
    return read_number(text, kind_NL, number_at(part_NL, start_NL, which), accounting)


def text_kinds(text: ByteString) -> jax.Array:
    """int32[..., L]: the places in `KINDS` of the bytes of running text."""
    tables = group_tables(TEXT_TOKEN)
    return kinds_of(tables, find_groups(tables, text).number)


def is_part(kind_NL: jax.Array) -> jax.Array:
    """Whether bytes of these kinds are parts of numbers."""
    return (kind_NL >= KIND[NUMBER_KINDS[0]]) & (kind_NL <= KIND[NUMBER_KINDS[-1]])


def number_at(part_NL: jax.Array, start_NL: jax.Array, which: str) -> jax.Array:
    """bool[N, L]: the bytes of the first or the last number of every row."""
    width = part_NL.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    if which == "first":
        start_N = jnp.where(start_NL, index, width).min(axis=-1, initial=width)
    else:
        start_N = jnp.where(start_NL, index, -1).max(axis=-1, initial=-1)
    start_N = jnp.where(start_N < 0, width, start_N)
    behind = index > start_N[:, None]
    ends = behind & (~part_NL | start_NL)
    end_N = jnp.where(ends, index, width).min(axis=-1, initial=width)
    return (index >= start_N[:, None]) & (index < end_N[:, None])


def read_number(
    text: ByteString, kind_NL: jax.Array, inside_NL: jax.Array, accounting: bool = False
) -> FoundNumber:
    """Reads the number that some of the bytes of every text are.

    Args:
        text: ByteString of [N, L].
        kind_NL: Places in `KINDS`.
        inside_NL: bool, the number's bytes; none where there is no number.
        accounting: As for `find_number`.
    """
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    is_digit, value = _digits(byte)

    present_NC = (kind_NL[:, None, :] == jnp.arange(len(KINDS))[:, None]) & inside_NL[:, None, :]
    present_NC = present_NC.any(axis=-1)

    def of(*kinds: str) -> jax.Array:
        found = jnp.zeros(kind_NL.shape, bool)
        for kind in kinds:
            found |= kind_NL == KIND[kind]
        return found & inside_NL

    def has(*kinds: str) -> jax.Array:
        return present_NC[:, [KIND[kind] for kind in kinds]].any(axis=-1)

    def integer(*kinds: str) -> tuple[jax.Array, jax.Array]:
        return _integer(value, of(*kinds) & is_digit)

    has_whole_N, is_mixed_N = has("whole", "places"), has("vulgar")
    is_mixed_N |= has("whole") & has("over")
    over_only_N = ~has_whole_N & has("over")
    before = jnp.where(over_only_N[:, None], of("over"), of("whole"))
    after = jnp.where(over_only_N[:, None], of("overplaces"), of("places"))
    number = _significant(value, before & is_digit, after & is_digit)
    number = _where(has("ten") & ~has_whole_N, _one(number), number)
    number = _where(is_mixed_N, _zero(number), number)

    under_N, fits_N = integer("under", "underplaces")
    over_N, over_fits_N = integer("over")
    whole_N, _ = integer("whole")
    whole_fits_N = whole_N < 10**_MAX_INTEGER_DIGITS
    last_N = jnp.where(of("vulgar"), byte, 0).max(axis=-1, initial=0, where=_last_bytes(byte))
    over_N = jnp.where(has("vulgar"), jnp.asarray(_VULGAR_OVER)[last_N], over_N)
    under_N = jnp.where(has("vulgar"), jnp.asarray(_VULGAR_UNDER)[last_N], under_N)
    is_fraction_N = has("over", "vulgar")
    readable_N = ~is_fraction_N | ((under_N > 0) & fits_N)
    readable_N &= ~is_mixed_N | (over_fits_N & whole_fits_N & ~has("overplaces", "underplaces"))
    exists_N = inside_NL.any(axis=-1) & readable_N
    divisor_N = jnp.where(is_fraction_N & readable_N, under_N, 1)
    integer_N = jnp.where(is_mixed_N & readable_N, whole_N + over_N // divisor_N, 0)
    rest_N = jnp.where(is_mixed_N & readable_N, over_N % divisor_N, 0)

    is_money_N = has("currency")
    power_N, _ = integer("power")
    power_N = jnp.minimum(power_N, MAX_EXPONENT) * jnp.where(has("powerminus"), -1, 1)
    for kind, exponent in SCALES.items():
        power_N += jnp.where(has(kind), exponent, 0)
    for kind, exponent in MONEY.items():
        power_N += jnp.where(has(kind) & is_money_N, exponent, 0)
    power_N += (of("underplaces") & is_digit).sum(axis=-1, dtype=jnp.int32)
    percent_N = has("percent")
    minus = of("minus")
    minus_N = (minus & _first_bytes(byte)).sum(axis=-1, dtype=jnp.int32)
    minus_N += has("opens") & has("closes") & (is_money_N | accounting)
    number = divide(number, divisor_N, integer_N, rest_N)
    zero_N = jnp.asarray(number.digits_ND)[:, 0] == 0
    number = number._replace(
        exponent_N=jnp.where(zero_N, ZERO_EXPONENT, number.exponent_N + power_N - 2 * percent_N),
        negative_N=(minus_N % 2 == 1) & ~zero_N,
    )
    return FoundNumber(_where(exists_N, number, _none(number)), exists_N, percent_N & exists_N)


def _first_bytes(byte: jax.Array) -> jax.Array:
    return (byte & 0xC0) != 0x80


def _last_bytes(byte: jax.Array) -> jax.Array:
    return _first_bytes(shift_left(byte, 1))


def _vulgar_tables() -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of vulgar fractions, by the last byte, which tells them apart."""
    tables = np.zeros((2, 256), np.int32)
    for character, fraction in VULGAR.items():
        tables[:, character.encode()[-1]] = fraction
    return tables[0], tables[1]


_VULGAR_OVER, _VULGAR_UNDER = _vulgar_tables()


def _digits(byte: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where digits end, full-width and superscript ones too, and their values; int32[N, L]."""
    before, first = shift_right(byte, 1), shift_right(byte, 2)
    wide = (first == 0xEF) & (before == 0xBC) & (byte >= 0x90) & (byte <= 0x99)
    raised = (before == 0xC2) & ((byte == 0xB2) | (byte == 0xB3) | (byte == 0xB9))
    raised_too = (first == 0xE2) & (before == 0x81)
    raised_too &= (byte == 0xB0) | ((byte >= 0xB4) & (byte <= 0xB9))
    plain = (byte >= ord("0")) & (byte <= ord("9"))
    value = jnp.where(raised & (byte == 0xB9), 1, byte & 0x0F)
    return plain | wide | raised | raised_too, value


def _integer(value: jax.Array, digit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32[N]: the integer of some digits, or 10 ** 9 if it is larger; and whether it has no more
    than `MAX_DIVISOR_DIGITS` digits."""
    most = _MAX_INTEGER_DIGITS
    place = jnp.cumsum(digit[:, ::-1], axis=-1, dtype=jnp.int32)[:, ::-1] - digit
    fits = place < most
    powers = 10 ** jnp.clip(place, 0, most - 1)
    low_N = jnp.where(digit & fits, value * powers, 0).sum(axis=-1, dtype=jnp.int32)
    large_N = (digit & ~fits & (value != 0)).any(axis=-1)
    number_N = jnp.where(large_N, 10**most, low_N)
    return number_N, number_N < 10**MAX_DIVISOR_DIGITS


def _significant(value: jax.Array, before: jax.Array, after: jax.Array) -> Decimals:
    """The number with these digits before and after its point."""
    width = value.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    digit = before | after
    first = jnp.where(digit & (value != 0), index, width).min(-1, keepdims=True, initial=width)
    significant = digit & (index >= first)
    digits_NL, count_N = compress(value, significant)
    place = jnp.cumsum(significant, axis=-1, dtype=jnp.int32)
    more_N = (significant & (value != 0) & (place > DIGITS)).any(axis=-1)
    zeros_N = (after & ~significant).sum(axis=-1, dtype=jnp.int32)
    exponent_N = (significant & before).sum(axis=-1, dtype=jnp.int32) - zeros_N
    digits_ND = jnp.pad(digits_NL, ((0, 0), (0, max(0, DIGITS - width))))[:, :DIGITS]
    return Decimals(digits_ND, exponent_N, jnp.zeros(count_N.shape, bool), more_N)


def _where(condition_N: jax.Array, a: Decimals, b: Decimals) -> Decimals:
    return jax.tree.map(
        lambda x, y: jnp.where(condition_N.reshape(-1, *[1] * (x.ndim - 1)), x, y), a, b
    )


def _zero(like: Decimals) -> Decimals:
    return jax.tree.map(jnp.zeros_like, like)


def _none(like: Decimals) -> Decimals:
    return _zero(like)._replace(exponent_N=jnp.full_like(like.exponent_N, ZERO_EXPONENT))


def _one(like: Decimals) -> Decimals:
    zero = _zero(like)
    return zero._replace(
        digits_ND=jnp.asarray(zero.digits_ND).at[:, 0].set(1),
        exponent_N=jnp.ones_like(zero.exponent_N),
    )
