r"""Units of measurement as people write them: which one a text is, and what it is in base units.

    unit = unit_of(r"\text{ km/h}")        # on the host
    found = find_units(texts)              # on the device, by places in `UNITS`

The table has SI units with their prefixes, common other units, English names, and the compounds
that tasks use: areas, volumes, speeds, densities and more. A factor is integer / divisor * 10 **
power with integer and divisor below 10 ** 8: what is exact in that form (pounds, miles, calories).
Degrees of temperature other than kelvins are units of their own: they convert to nothing.
"""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.strings.answers import WORD_BYTES
from rft_jax.strings.byte_string import ByteString, compress
from rft_jax.strings.number_grammar import kind_of
from rft_jax.strings.regex import CaptureTables, compile_capture, find_groups

_LARGEST = 10**8
_PREFIXES = {
    "n": -9,
    "µ": -6,
    "μ": -6,
    "u": -6,
    "mu": -6,
    "m": -3,
    "c": -2,
    "d": -1,
    "k": 3,
    "M": 6,
    "G": 9,
}
_LONG_PREFIXES = {
    "nano": -9,
    "micro": -6,
    "milli": -3,
    "centi": -2,
    "kilo": 3,
    "mega": 6,
    "giga": 9,
}
# Symbol: names, value in base units, dimension as powers of m kg s A K mol and more.
_SI = {
    "m": ("meter metre", "1", "m"),
    "g": ("gram gramme", "1/1000", "kg"),
    "s": ("second", "1", "s"),
    "A": ("ampere amp", "1", "A"),
    "K": ("kelvin", "1", "K"),
    "mol": ("mole", "1", "mol"),
    "L": ("liter litre", "1/1000", "m3"),
    "l": ("", "1/1000", "m3"),
    "N": ("newton", "1", "kg m s-2"),
    "J": ("joule", "1", "kg m2 s-2"),
    "W": ("watt", "1", "kg m2 s-3"),
    "Pa": ("pascal", "1", "kg m-1 s-2"),
    "V": ("volt", "1", "kg m2 s-3 A-1"),
    "C": ("coulomb", "1", "A s"),
    "F": ("farad", "1", "kg-1 m-2 s4 A2"),
    "Ω": ("ohm", "1", "kg m2 s-3 A-2"),
    "\u2126": ("", "1", "kg m2 s-3 A-2"),  # the sign for ohms
    "Omega": ("", "1", "kg m2 s-3 A-2"),  # \Omega
    "H": ("henry", "1", "kg m2 s-2 A-2"),
    "T": ("tesla", "1", "kg s-2 A-1"),
    "Hz": ("hertz", "1", "s-1"),
    "cal": ("calorie", "4184/1000", "kg m2 s-2"),
    "Wh": ("", "3600", "kg m2 s-2"),
}
_OTHER = {
    "min": ("minute", "60", "s"),
    "h": ("hour", "3600", "s"),
    "hr": ("", "3600", "s"),
    "d": ("day", "86400", "s"),
    "week": ("week", "604800", "s"),
    "year": ("year yr", "31557600", "s"),
    "in": ("inch", "254/10000", "m"),
    "ft": ("foot", "3048/10000", "m"),
    "yd": ("yard", "9144/10000", "m"),
    "mi": ("mile", "1609344/1000", "m"),
    "lb": ("pound lbs", "45359237/100000000", "kg"),
    "oz": ("ounce", "45359237/1600000000", "kg"),
    "t": ("tonne", "1000", "kg"),
    "ha": ("hectare", "10000", "m2"),
    "bar": ("bar", "100000", "kg m-1 s-2"),
    "atm": ("atmosphere", "101325", "kg m-1 s-2"),
    "°": ("degree deg circ", "1", "angle"),
    "°C": ("degreesCelsius celsius circC", "1", "celsius"),
    "°F": ("degreesFahrenheit fahrenheit circF", "1", "fahrenheit"),
    "rad": ("radian", "1", "radian"),
    "$": ("dollar", "1", "dollar"),
    "cent": ("cent", "1/100", "dollar"),
}
_PLURALS = {"inch": "inches", "foot": "feet", "hertz": "hertz", "henry": "henries"}
_COMPOUNDS = (
    *("m/s", "km/h", "mi/h", "ft/s", "cm/s", "m/min", "km/s", "m/s2", "cm/s2", "ft/s2", "km/h2"),
    *("g/cm3", "kg/m3", "g/mL", "kg/L", "g/L", "mg/L", "mg/mL", "mol/L", "mmol/L", "mol/m3"),
    *("J/mol", "kJ/mol", "g/mol", "kg/mol", "J/kg", "kJ/kg", "N/m", "N/m2", "W/m2", "J/K", "V/m"),
    *("L/min", "L/s", "m3/s", "L/h", "rad/s", "kg/s", "g/s", "lb/ft3", "kcal/mol", "cal/g"),
    *("N*m", "kg*m/s", "kg*m/s2", "N*s", "kW*h", "J*s", "kg*m2", "kg*m2/s", "J/(mol*K)"),
)
_TOKEN = (
    r"\\(?:(?:text|math)(?:rm|bf|it)?|mbox|rm|,|;|:|!| )|[ ~{}()^]|(?P<product_0>\\cdot|[·⋅*])"
    r"|(?P<slash_0>/|per\b)|(?P<two_0>²)|(?P<three_0>³)|\\|(?P<keep_0>(?s:.))"
)


@dataclass(frozen=True)
class Unit:
    """A unit.

    Attributes:
        dimension: Powers of base units, in order.
        factor: What one of it is in base units.
    """

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction


def _dimension(text: str, times: int = 1) -> dict[str, int]:
    powers = re.findall(r"([A-Za-z]+)(-?\d)?", text)
    return {base: int(power or 1) * times for base, power in powers}


def _simple() -> dict[str, Unit]:
    found: dict[str, Unit] = {}

    def add(spelling: str, value: Fraction, dimension: str) -> None:
        unit = Unit(tuple(sorted(_dimension(dimension).items())), value)
        found.setdefault(spelling, unit)

    for symbol, (names, value, dimension) in (_SI | _OTHER).items():
        spellings = [(symbol, _PREFIXES)]
        for name in names.split():
            spellings += [(name, _LONG_PREFIXES), (_PLURALS.get(name, name + "s"), _LONG_PREFIXES)]
        for spelling, prefixes in spellings:
            add(spelling, Fraction(value), dimension)
            for prefix, power in prefixes.items() if symbol in _SI else ():
                add(prefix + spelling, Fraction(value) * Fraction(10) ** power, dimension)
    return found


def _product(simple: dict[str, Unit], text: str) -> Unit:
    dimension: dict[str, int] = {}
    factor = Fraction(1)
    over, _, under = text.partition("/")
    for part, sign in ((over, 1), (under.strip("()"), -1)):
        for term in filter(None, part.split("*")):
            match = re.fullmatch(r"(\D+)(\d?)", term)
            assert match, f"{text} is no product of units"
            symbol, power = match.groups()
            times = sign * int(power or 1)
            factor *= simple[symbol].factor ** times
            for base, count in simple[symbol].dimension:
                dimension[base] = dimension.get(base, 0) + count * times
    return Unit(tuple(sorted((b, c) for b, c in dimension.items() if c)), factor)


def parts_of_factor(factor: Fraction) -> tuple[int, int, int] | None:
    """Integer, divisor and power of ten of a factor; None if they are too large."""
    over, under, power = factor.numerator, factor.denominator, 0
    while over % 10 == 0:
        over, power = over // 10, power + 1
    while under % 10 == 0:
        under, power = under // 10, power - 1
    return (over, under, power) if max(over, under) < _LARGEST else None


@functools.cache
def units() -> dict[str, Unit]:
    """All units by their spellings, without blanks and LaTeX."""
    simple = _simple()
    found = dict(simple)
    lengths = [s for s, u in simple.items() if u.dimension == (("m", 1),)]
    for spelling in lengths:
        for power, word in ((2, "square"), (3, "cubic")):
            unit = _product(simple, f"{spelling}{power}")
            for text in (f"{spelling}{power}", word + spelling):
                found.setdefault(text, unit)
    found["cc"] = found["cm3"]
    for text in _COMPOUNDS:
        unit = _product(simple, text)
        over, slash, under = text.partition("/")
        names = [text.replace("(", "").replace(")", "")]
        if slash and "*" not in under:
            negative = re.sub(r"(\D)$", r"\g<1>1", under)
            negative = re.sub(r"(\d)$", r"-\1", negative)
            names += [over + negative, f"{over}*{negative}"]
        for name in names:
            found.setdefault(name, unit)
            found.setdefault(name.replace("*", ""), unit)
    found |= {"mph": found["mi/h"], "kph": found["km/h"], "kmh": found["km/h"]}
    found |= {"milesperhour": found["mi/h"], "miles/hour": found["mi/h"], "M": found["mol/L"]}
    return {
        spelling: unit
        for spelling, unit in found.items()
        if parts_of_factor(unit.factor) and len(spelling.encode()) <= WORD_BYTES
    }


def plain_unit(text: str) -> str:
    """A unit without blanks and LaTeX, as `units` has it, on the host."""
    names = {"product": "*", "slash": "/", "two": "2", "three": "3"}
    pieces = []
    for match in re.finditer(_TOKEN, text):
        if match.lastgroup:
            pieces.append(names.get(kind_of(match.lastgroup), match[0]))
    return "".join(pieces)


class FoundUnits(NamedTuple):
    """The units that texts are.

    Attributes:
        plain: As `plain_unit`.
        known: bool[...], it is in the table.
        unit: int32[...], a number for each unit, however it is spelled.
        dimension: int32[...], a number for each dimension.
        integer: int32[...], of the factor.
        divisor: int32[...].
        power: int32[...].
    """

    plain: ByteString
    known: jax.Array
    unit: jax.Array
    dimension: jax.Array
    integer: jax.Array
    divisor: jax.Array
    power: jax.Array


class _Table(NamedTuple):
    hash_U: np.ndarray
    bytes_UW: np.ndarray
    rows_U5: np.ndarray
    dimensions: dict[tuple[tuple[str, int], ...], int]
    units: dict[Unit, int]


@functools.cache
def _table() -> _Table:
    spellings = list(units())
    bytes_UW = np.zeros((len(spellings), WORD_BYTES), np.uint8)
    for n, spelling in enumerate(spellings):
        bytes_UW[n, : len(spelling.encode())] = np.frombuffer(spelling.encode(), np.uint8)
    hash_U = _hash(np, bytes_UW)
    order = np.argsort(hash_U, kind="stable")
    dimensions: dict[tuple[tuple[str, int], ...], int] = {}
    numbers: dict[Unit, int] = {}
    rows = []
    for unit in units().values():
        number = numbers.setdefault(unit, len(numbers))
        dimension = dimensions.setdefault(unit.dimension, len(dimensions))
        rows.append((number, dimension, *(parts_of_factor(unit.factor) or ())))
    if len(set(hash_U.tolist())) != len(spellings):
        raise AssertionError("two units share a hash; change its multiplier")
    return _Table(
        hash_U[order], bytes_UW[order], np.array(rows, np.int32)[order], dimensions, numbers
    )


def unit_numbers(unit: Unit) -> tuple[int, int]:
    """The numbers of a unit and of its dimension in `FoundUnits`."""
    return _table().units[unit], _table().dimensions[unit.dimension]


def _hash(xp, bytes_XW):
    """int32 of the bytes of each row; arithmetic modulo 2 ** 32."""
    found = xp.zeros(bytes_XW.shape[:-1], xp.uint32)
    for k in range(WORD_BYTES):
        byte = bytes_XW[..., k].astype(xp.uint32)
        found = xp.where(byte > 0, found * xp.uint32(1000003) + byte, found)
    return found.astype(xp.int32)


@functools.cache
def _tables() -> CaptureTables:
    return compile_capture(f"(?:{_TOKEN})*", "", "fullmatch", 0)


def find_units(text: ByteString) -> FoundUnits:
    """The units that texts of [N, `WORD_BYTES`] are."""
    tables = _tables()
    groups = find_groups(tables, text)
    kind = {kind_of(name): n for n, name in enumerate(tables.names, start=1)}
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    before = jnp.pad(groups.number, ((0, 0), (1, 0)))[:, :-1]
    keep = groups.number == kind["keep"]
    for name, character in (("product", "*"), ("slash", "/"), ("two", "2"), ("three", "3")):
        here = (groups.number == kind[name]) & (before != kind[name])
        byte, keep = jnp.where(here, ord(character), byte), keep | here
    plain = ByteString(*compress(byte.astype(jnp.uint8), keep))
    table = _table()
    hash_N = _hash(jnp, plain.bytes)
    place_N = jnp.clip(
        jnp.searchsorted(jnp.asarray(table.hash_U), hash_N), 0, len(table.hash_U) - 1
    )
    known_N = (jnp.asarray(table.bytes_UW)[place_N] == plain.bytes).all(axis=-1)
    known_N &= plain.length > 0
    unknown = jnp.array([-1, -1, 1, 1, 0], jnp.int32)
    row_N5 = jnp.where(known_N[:, None], jnp.asarray(table.rows_U5)[place_N], unknown)
    return FoundUnits(plain, known_N, *jnp.moveaxis(row_N5, -1, 0))
