"""Numbers as JSON writes them, within bounds, as parts of a graph of bytes.

Bounds hold for the number that is written, exactly; it then has no exponent. Its digits are read
from left to right against those of the bounds, of which only three things matter: how many digits
there were, and how the number so far compares with either bound's first digits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from rft_jax.grammars.byte_automaton import Graph

_LESS, _EQUAL, _GREATER = -1, 0, 1


class Bound(NamedTuple):
    """A least or greatest number."""

    value: Decimal
    exclusive: bool


class Range(NamedTuple):
    """Numbers between two bounds; None is none."""

    low: Bound | None = None
    high: Bound | None = None

    @property
    def empty(self) -> bool:
        """Whether no real number is in it."""
        if self.low is None or self.high is None:
            return False
        if self.low.value == self.high.value:
            return self.low.exclusive or self.high.exclusive
        return self.low.value > self.high.value


def write_number(graph: Graph, wanted: Range, integer: bool, follow: int) -> int:
    """Writes the numbers of a range, then `follow`; whether there are any is the caller's to see.

    Args:
        integer: Without fraction and exponent.
    """
    if wanted == Range():
        return _write_any(graph, integer, follow)
    entries = []
    zero = Bound(Decimal(0), exclusive=False)
    low, high = wanted
    if high is None or high.value >= 0:
        at_least = zero if low is None or low.value < 0 else low
        entries.append(_write_magnitude(graph, Range(at_least, high), integer, follow))
    if low is None or low.value < 0:
        # Zero has no sign: what is below it begins behind it.
        at_most = Bound(Decimal(0), True) if high is None or high.value >= 0 else high
        mirrored = Range(_negated(at_most), None if low is None else _negated(low))
        minus = graph.node()
        magnitude = _write_magnitude(graph, mirrored, integer, follow)
        graph.move(minus, ord("-"), ord("-"), magnitude)
        entries.append(minus)
    return graph.node(*entries)


def _negated(bound: Bound) -> Bound:
    """The bound of the numbers without their sign, of one that is not positive."""
    return Bound(bound.value.copy_abs(), bound.exclusive)  # a minus would round to 28 digits


def _write_any(graph: Graph, integer: bool, follow: int) -> int:
    after = follow
    if not integer:
        exponent = graph.node()
        signed = graph.node(_digits(graph, follow))
        unsigned = signed
        entry = graph.node(unsigned)
        for sign in b"+-":
            graph.move(entry, sign, sign, unsigned)
        for letter in b"eE":
            graph.move(exponent, letter, letter, entry)
        point = graph.node()
        graph.move(point, ord("."), ord("."), _digits(graph, graph.node(exponent, follow)))
        after = graph.node(point, exponent, follow)
    magnitude = graph.node()
    more = graph.node(after)
    graph.move(more, ord("0"), ord("9"), more)
    graph.move(magnitude, ord("1"), ord("9"), more)
    graph.move(magnitude, ord("0"), ord("0"), after)
    entry = graph.node(magnitude)
    graph.move(entry, ord("-"), ord("-"), magnitude)
    return entry


def _digits(graph: Graph, follow: int) -> int:
    """One digit or more."""
    more = graph.node(follow)
    graph.move(more, ord("0"), ord("9"), more)
    first = graph.node()
    graph.move(first, ord("0"), ord("9"), more)
    return first


class _Against:
    """How a decimal that is read digit by digit compares with a bound that is not negative.

    Progress is the number of digits of the whole part that were read, or of the fraction, and how
    they compare with as many digits of the bound.
    """

    def __init__(self, value: Decimal):
        whole, _, fraction = f"{value:f}".partition(".")
        self._whole, self._fraction = whole, fraction.rstrip("0")

    def whole_digit(self, progress: tuple[int, int], digit: int) -> tuple[int, int]:
        """Progress after a digit of the whole part."""
        return self._digit(progress, digit, self._whole)

    def point(self, progress: tuple[int, int]) -> tuple[int, int]:
        """Progress where the fraction begins."""
        return 0, self._compare_whole(progress)

    def fraction_digit(self, progress: tuple[int, int], digit: int) -> tuple[int, int]:
        """Progress after a digit of the fraction."""
        read, compared = progress
        if read == len(self._fraction) and compared == _EQUAL:
            return read, _GREATER if digit else _EQUAL
        return self._digit(progress, digit, self._fraction)

    def result(self, progress: tuple[int, int], in_fraction: bool) -> int:
        """How the number compares if it ends here."""
        read, compared = progress if in_fraction else (0, self._compare_whole(progress))
        if compared == _EQUAL and read < len(self._fraction):
            return _LESS
        return compared

    def _digit(self, progress: tuple[int, int], digit: int, digits: str) -> tuple[int, int]:
        read, compared = progress
        if compared == _EQUAL and read < len(digits):
            known = int(digits[read])
            compared = (digit > known) - (digit < known)
        return min(read + 1, len(digits) + 1), compared

    def _compare_whole(self, progress: tuple[int, int]) -> int:
        read, compared = progress
        if read != len(self._whole):
            return _GREATER if read > len(self._whole) else _LESS
        return compared


def _write_magnitude(graph: Graph, wanted: Range, integer: bool, follow: int) -> int:
    """Numbers without sign, of a range that has no negative ones."""
    low, high = (None if bound is None else _Against(bound.value) for bound in wanted)
    bounds = low, high
    start: tuple = ("start", *((0, _EQUAL) if against else None for against in bounds))
    nodes = {start: graph.node()}
    queue = [start]

    def go(source: tuple, phase: str, byte: int, progress: list) -> None:
        target = (phase, *progress)
        if target not in nodes:
            nodes[target] = graph.node()
            queue.append(target)
        graph.move(nodes[source], byte, byte, nodes[target])

    def step(name: str, state: tuple, *args: int) -> list:
        pairs = zip(bounds, state[1:], strict=True)
        return [against and getattr(against, name)(progress, *args) for against, progress in pairs]

    for state in queue:
        phase = state[0]
        if phase in ("start", "whole"):
            for digit in range(10):
                after = "zero" if phase == "start" and digit == 0 else "whole"
                go(state, after, 0x30 + digit, step("whole_digit", state, digit))
        elif phase in ("point", "fraction"):
            for digit in range(10):
                go(state, "fraction", 0x30 + digit, step("fraction_digit", state, digit))
        if phase in ("zero", "whole") and not integer:
            go(state, "point", ord("."), step("point", state))
        if phase in ("zero", "whole", "fraction"):
            against_low, against_high = step("result", state, phase == "fraction")
            if _within(against_low, wanted.low, _GREATER) and _within(
                against_high, wanted.high, _LESS
            ):
                graph.free[nodes[state]] += (follow,)
    return nodes[start]


def _within(compared: int | None, bound: Bound | None, beyond: int) -> bool:
    if bound is None:
        return True
    return compared == beyond or (compared == _EQUAL and not bound.exclusive)
