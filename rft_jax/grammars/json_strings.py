"""The characters of JSON strings, as parts of a graph of bytes; and formats as patterns."""

from __future__ import annotations

from rft_jax.grammars.byte_automaton import BASE, ByteAutomaton, Graph, Stretch, build

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURS = "(?:0[48]|[2468][048]|[13579][26])"  # multiples of four, but 00
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|(?:[0-9][0-9]{_FOURS}|{_FOURS}00)-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"

_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]+)?(?:Z|[+-]{_CLOCK})"
_DAYS = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_HOURS = "(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = "[0-9A-Fa-f]{1,4}"


def _ipv6() -> str:
    """All groups, or at most seven on the two sides of a `::`."""
    some = [f"(?:{_GROUP}(?::{_GROUP}){{0,{most - 1}}})?" if most else "" for most in range(8)]
    left = [f"(?:{_GROUP}(?::{_GROUP}){{{most - 1}}})" if most else "" for most in range(8)]
    parts = [f"{left[before]}::{some[7 - before]}" for before in range(8)]
    return f"(?:(?:{_GROUP}:){{7}}{_GROUP}|{'|'.join(parts)})"


# RFC 3339 without leap seconds, with the days that the months have; RFC 5321 without quotes and
# addresses of numbers; RFC 4122; RFC 4291 without an IPv4 address at the end.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:[0-9]+W|{_DAYS}{_HOURS}?|{_HOURS})",
    "email": rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*",
    "uuid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": _ipv6(),
}

# What follows at each place within a character: first byte, last byte, and the next place.
_ONE, _TWO, _AFTER_E0, _AFTER_ED, _AFTER_F0, _AFTER_F1, _AFTER_F4 = range(1, 8)
_BACKSLASH, _ZERO_1, _ZERO_2, _HIGH, _LOW_OF_0, _LOW_OF_1 = range(8, 14)
_WITHIN = {
    # DEL is left out.
    BASE: [
        (0x20, 0x21, BASE), (0x23, 0x5B, BASE), (0x5D, 0x7E, BASE), (0x5C, 0x5C, _BACKSLASH),
        (0xC2, 0xDF, _ONE), (0xE0, 0xE0, _AFTER_E0), (0xE1, 0xEC, _TWO), (0xED, 0xED, _AFTER_ED),
        (0xEE, 0xEF, _TWO), (0xF0, 0xF0, _AFTER_F0), (0xF1, 0xF3, _AFTER_F1),
        (0xF4, 0xF4, _AFTER_F4),
    ],
    _ONE: [(0x80, 0xBF, BASE)],
    _TWO: [(0x80, 0xBF, _ONE)],
    _AFTER_E0: [(0xA0, 0xBF, _ONE)],  # others have shorter spellings
    _AFTER_ED: [(0x80, 0x9F, _ONE)],  # others are surrogates
    _AFTER_F0: [(0x90, 0xBF, _TWO)],
    _AFTER_F1: [(0x80, 0xBF, _TWO)],
    _AFTER_F4: [(0x80, 0x8F, _TWO)],  # others are beyond Unicode
    _BACKSLASH: [*((byte, byte, BASE) for byte in b'"\\bfnrt'), (0x75, 0x75, _ZERO_1)],
    _ZERO_1: [(0x30, 0x30, _ZERO_2)],
    _ZERO_2: [(0x30, 0x30, _HIGH)],
    _HIGH: [(0x30, 0x30, _LOW_OF_0), (0x31, 0x31, _LOW_OF_1)],
    # Without those that have a letter.
    _LOW_OF_0: [(0x30, 0x37, BASE), (0x62, 0x62, BASE), (0x65, 0x66, BASE)],
    _LOW_OF_1: [(0x30, 0x39, BASE), (0x61, 0x66, BASE)],
}  # fmt: skip


def write_content(
    graph: Graph, stretch: Stretch | None, follow: int, *, written_out: bool = False
) -> int:
    """Writes a string's characters and its closing quote, then `follow`.

    Args:
        stretch: How many characters there may be; None for any number, never if written out.
        written_out: With nodes for each of them; otherwise they are left to be counted.
    """
    if not written_out:
        nodes = {
            place: graph.node(counted=None if stretch is None else (stretch, place))
            for place in _WITHIN
        }
        _connect(graph, nodes, nodes[BASE])
        graph.move(nodes[BASE], 0x22, 0x22, follow)
        return nodes[BASE]
    assert stretch is not None, "only what is counted can be written out"
    low, high = stretch
    last = low if high is None else high
    after = None
    for count in reversed(range(last + 1)):
        nodes = {place: graph.node() for place in _WITHIN}
        if after is None and high is None:
            after = nodes[BASE]
        if after is not None:
            _connect(graph, nodes, after)
        if count >= low:
            graph.move(nodes[BASE], 0x22, 0x22, follow)
        after = nodes[BASE]
    assert after is not None, "there is a last character"
    return after


def _connect(graph: Graph, nodes: dict[int, int], after: int) -> None:
    """The moves within a character, which begins at the nodes' own base and ends at `after`."""
    for place, moves in _WITHIN.items():
        for first, last, target in moves:
            graph.move(nodes[place], first, last, after if target == BASE else nodes[target])


def content_automaton() -> ByteAutomaton:
    """A string's characters, to be counted, and after its closing quote anything."""
    graph = Graph()
    anything = graph.node(graph.accept)
    graph.move(anything, 0x00, 0xFF, anything)
    automaton = build(graph, write_content(graph, Stretch(0, None), anything))
    assert automaton is not None, "there are strings"
    return automaton
