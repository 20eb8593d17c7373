"""From a regular expression's graph to tables that a loop over the characters of a text can read.

A text is a row of symbols: the class of every character, the classes being so coarse that the
pattern cannot tell their characters apart. Anchors look at the characters on both sides. Of these
only the *kind* matters (a newline, a word character, ...), which the automata keep as part of their
states, so that every anchor is resolved while the tables are written.

`match_tables` is a deterministic automaton, the usual subset construction from left to right.

`capture_tables` finds the one match that Python's backtracking finds, without backtracking. An
automaton from right to left tells at every character which nodes of the graph can take it and
still come to a match; a walk from left to right then takes, of the ways on from its node, the first
in Python's order that can. (Frisch and Cardelli, Greedy regular expression matching, 2004.)
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rft_jax.strings.regex_syntax import (
    Accept,
    Anchor,
    Character,
    Graph,
    Mark,
    Node,
    Ranges,
    RegexError,
    Split,
    ranges_of,
)

MOST_STATES = 4096
MOST_ENTRIES = 1 << 20  # of one table
_MOST_ENTRIES_BUILT = 1 << 23  # before equal columns are joined

PAGE = 128  # code points per page of the table of classes
SAME = 0  # the symbol of bytes that start no character: nothing changes
FINAL_NEWLINE = 1  # the symbol of a newline at the end of the text; the others are classes
_CLASSES = 2  # the first of them
_MOST_CLASSES = 256 - _CLASSES

# Kinds of characters that anchors can tell apart, each with an example as it stands before and
# after an anchor. The first is no character: the start of the text before, its end after.
_EXAMPLES = (("", ""), ("\n", "\n."), ("\n", "\n"), ("a", "a"), ("é", "é"), (".", "."))
_OUTSIDE, _NEWLINE, _FINAL_NEWLINE, _ASCII_WORD, _WORD, _OTHER = range(6)


class Alphabet(NamedTuple):
    """Symbols of code points: `pages[page_of[point // PAGE] * PAGE + point % PAGE]`.

    Attributes:
        page_of: uint16[pages of Unicode].
        pages: uint8[different pages * PAGE].
    """

    page_of: np.ndarray
    pages: np.ndarray


class MatchTables(NamedTuple):
    """Whether texts match. The first state is 0.

    Attributes:
        alphabet: The symbols.
        next_state: int16[states, symbols].
        accepts: bool[states], by the state after the last character.
    """

    alphabet: Alphabet
    next_state: np.ndarray
    accepts: np.ndarray


class CaptureTables(NamedTuple):
    """Where a group matches. Both automata start in state 0.

    Attributes:
        alphabet: The symbols.
        state_before: int16[states, symbols], from right to left; state 0 is the end of the text.
        column: int16[states]: of `step`, for the state at the character to take or at the end.
        row: int16[places]: of `step`; many places go on alike.
        step: int32[rows, columns], from left to right: 4 * the next state + the marks
            (`regex_syntax.OPENS`, `CLOSES`) on the way to it. Column 0, which stands for bytes
            that start no character, has no meaning.
        group: int16[places]: of the character that was taken last, the number of its innermost
            named group in `names`, from 1 on; 0 for none.
        names: The names of the groups.
    """

    alphabet: Alphabet
    state_before: np.ndarray
    column: np.ndarray
    row: np.ndarray
    step: np.ndarray
    group: np.ndarray
    names: tuple[str, ...]


def match_tables(graph: Graph) -> MatchTables:
    """Tables of a graph without marks.

    Raises:
        RegexError: More than `MOST_STATES` states or `MOST_ENTRIES` entries.
    """
    contexts = _Contexts(graph)
    ways = _Ways(graph, contexts)
    symbols = _Symbols(graph, contexts)
    rest = 0 if graph.rest is None else 1 << ways.number[graph.rest]

    def row(state: tuple[int, int]) -> Iterator[tuple[int, int]]:
        nodes, before = state
        taken = [_union(nodes, ways.targets[before][after]) for after in range(contexts.count)]
        for takers, kind in symbols.takers:
            found = taken[kind] & takers
            if found & rest:  # there is a match, whatever else is under way
                found = rest
            yield found, kind if found else _OUTSIDE

    states, next_state = _determinize((1 << ways.start, _OUTSIDE), row)
    accepts = [
        bool(_union(nodes, ways.targets[before][_OUTSIDE]) >> ways.end) for nodes, before in states
    ]
    return MatchTables(symbols.alphabet, next_state, np.array(accepts))


def capture_tables(graph: Graph) -> CaptureTables:
    """Tables of a graph with marks.

    Raises:
        RegexError: More than `MOST_STATES` states or `MOST_ENTRIES` entries.
    """
    contexts = _Contexts(graph)
    ways = _Ways(graph, contexts)
    symbols = _Symbols(graph, contexts)

    def row(state: tuple[int, int]) -> Iterator[tuple[int, int]]:
        nodes, after = state
        alive = [_union(nodes, ways.sources[before][after]) for before in range(contexts.count)]
        for takers, kind in symbols.takers:
            found = alive[kind] & takers
            yield found, kind if found else _OUTSIDE

    states, state_before = _determinize((1 << ways.end, _OUTSIDE), row)
    return CaptureTables(symbols.alphabet, state_before, *_walk(ways, states))


def _walk(
    ways: _Ways, states: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """The rest of `CaptureTables`; a place is a node and the kind of what it took."""
    alive = np.array([_to_bools(nodes, ways.end + 1) for nodes, _ in states])
    kinds = np.array([kind for _, kind in states])
    nowhere = ways.end, _OUTSIDE
    numbers = {(ways.start, _OUTSIDE): 0, nowhere: 1}
    queue, rows = list(numbers), []
    for source, before in queue:
        row = np.full(len(states), 4 * numbers[nowhere], np.int32)
        for after in set(kinds.tolist()):
            on = ways.ordered[before][after][source]
            if not on:
                continue
            for target, _ in on:
                if (target, after) not in numbers:
                    numbers[target, after] = len(queue)
                    queue.append((target, after))
            entries = np.array([4 * numbers[target, after] + marks for target, marks in on])
            of_kind = np.flatnonzero(kinds == after)
            possible = alive[np.ix_(of_kind, [target for target, _ in on])]
            row[of_kind] = entries[possible.argmax(axis=1)]
            if source == ways.start:  # without a match; later there always is a way
                row[of_kind[~possible.any(axis=1)]] = 4 * numbers[nowhere]
        rows.append(row)
        if len(queue) * len(states) > _MOST_ENTRIES_BUILT:
            raise _too_large()
    # Most places, and most states, lead to the same steps as some other.
    steps, row = _unique_rows(np.array(rows))
    steps, column = (x.T for x in _unique_rows(steps.T))
    if steps.size > MOST_ENTRIES:
        raise _too_large()
    groups = {node.group: 0 for node in ways.number if node.group}
    number = {name: n for n, name in enumerate(groups, start=1)}
    of_node = [number.get(node.group, 0) for node in ways.number] + [0, 0]
    group = np.array([of_node[node] for node, _ in queue], np.int16)
    column = (column.reshape(-1) + 1).astype(np.int16)
    step = np.pad(steps, ((0, 0), (1, 0)))
    return column, row.astype(np.int16), step, group, tuple(groups)


def _unique_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows in order of appearance, and which of them each row is."""
    number: dict[bytes, int] = {}
    of_row = [number.setdefault(row.tobytes(), len(number)) for row in table]
    first = [of_row.index(n) for n in range(len(number))]
    return np.ascontiguousarray(table[first]), np.array(of_row)


def _determinize(
    start: tuple[int, int], row: Callable[[tuple[int, int]], Iterator[tuple[int, int]]]
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """All states reached from the first, and their rows, with the column of `SAME` before them."""
    numbers, states, rows = {start: 0}, [start], []
    for state in states:
        found = list(row(state))
        for target in found:
            if target not in numbers:
                numbers[target] = len(states)
                states.append(target)
        rows.append([len(rows), *(numbers[target] for target in found)])
        if len(states) > MOST_STATES or len(states) * len(rows[0]) > MOST_ENTRIES:
            raise _too_large()
    return states, np.array(rows, np.int16)


def _too_large() -> RegexError:
    return RegexError(
        f"needs an automaton of more than {MOST_STATES} states or {MOST_ENTRIES} entries; write "
        "smaller counts such as x{9}, fewer alternatives, or narrower sets than ."
    )


def _union(members: int, masks: list[int]) -> int:
    """The union of the masks of a bit set's members."""
    return functools.reduce(int.__or__, (masks[member] for member in _members(members)), 0)


def _members(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class _Contexts:
    """The kinds of characters that a pattern's anchors can tell apart.

    Attributes:
        count: Number of kinds.
        kind: Each example's kind.
        holds: Whether each anchor does, [kind before][kind after].
    """

    def __init__(self, graph: Graph):
        held = {
            anchor: [
                [bool(anchor.match(before + after, len(before))) for _, after in _EXAMPLES]
                for before, _ in _EXAMPLES
            ]
            for anchor in graph.anchors
        }
        signatures: list[tuple[tuple[bool, ...], ...] | None] = [
            tuple(tuple(h[n]) + tuple(row[n] for row in h) for h in held.values())
            for n in range(len(_EXAMPLES))
        ]
        signatures[_OUTSIDE] = None
        first = list(dict.fromkeys(signatures))
        self.count = len(first)
        self.kind = [first.index(signature) for signature in signatures]
        examples = [signatures.index(signature) for signature in first]
        self.holds = {
            anchor: [[h[before][after] for after in examples] for before in examples]
            for anchor, h in held.items()
        }


class _Ways:
    """How the nodes of one character follow each other, given the kinds of two characters.

    Attributes:
        number: A node's bit in sets of nodes.
        start: Number of the start of the text.
        end: Number of its end.
        ordered: [kind before][kind after][source]: targets in Python's order, each with marks.
        targets: [kind before][kind after][source]: their set.
        sources: [kind before][kind after][target]: the set of those that it can follow.
    """

    def __init__(self, graph: Graph, contexts: _Contexts):
        self.number = {node: n for n, node in enumerate(graph.characters)}
        self.start, self.end = len(self.number), len(self.number) + 1
        kinds = range(contexts.count)
        self.ordered = [
            [self._of_kinds(graph, contexts, before, after) for after in kinds] for before in kinds
        ]
        self.targets = [
            [[sum(1 << target for target, _ in ways) for ways in table] for table in row]
            for row in self.ordered
        ]
        self.sources = [[self._reversed(table) for table in row] for row in self.targets]

    def _of_kinds(
        self, graph: Graph, contexts: _Contexts, before: int, after: int
    ) -> list[list[tuple[int, int]]]:
        if before == _OUTSIDE:
            follows = [None] * self.start + [graph.entry, None]
        else:
            follows = [node.follow for node in graph.characters] + [None, None]
        return [self._ways_on(follow, contexts, before, after) for follow in follows]

    def _ways_on(
        self, node: Node | None, contexts: _Contexts, before: int, after: int
    ) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        seen: set[Node | None] = {None}
        stack = [(node, 0)]
        while stack:
            node, marks = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            match node:
                case Split():
                    stack += [(branch, marks) for branch in reversed(node.branches)]
                case Mark():
                    stack.append((node.follow, marks | node.bit))
                case Anchor():
                    if contexts.holds[node.holds][before][after]:
                        stack.append((node.follow, marks))
                case Character():
                    if after != _OUTSIDE:
                        found.append((self.number[node], marks))
                case Accept():
                    if after == _OUTSIDE:
                        found.append((self.end, marks))
        return found

    def _reversed(self, table: list[int]) -> list[int]:
        sources = [0] * (self.end + 1)
        for source, targets in enumerate(table):
            for target in _members(targets):
                sources[target] |= 1 << source
        return sources


class _Symbols:
    """The symbols of a pattern.

    Attributes:
        alphabet: What maps code points to them.
        takers: For every symbol but `SAME`: the set of nodes that take it, and its kind.
    """

    def __init__(self, graph: Graph, contexts: _Contexts):
        newline: Ranges = ((10, 11),)
        words = _words(re.UNICODE), _words(re.ASCII)
        sets = list(dict.fromkeys([newline, *words, *(node.ranges for node in graph.characters)]))
        points = [point for ranges in sets for span in ranges for point in span]
        # Between two of these points all characters are in the same sets.
        first = np.unique([0, *points, sys.maxunicode + 1])
        inside = np.array([_inside(ranges, first[:-1]) for ranges in sets])
        is_newline, is_word, is_ascii_word = inside[:3]
        examples = [is_newline, is_ascii_word, is_word], [_NEWLINE, _ASCII_WORD, _WORD]
        kind = np.array(contexts.kind)[np.select(*examples, default=_OTHER)]
        taken_by = inside[[sets.index(node.ranges) for node in graph.characters]]
        classes, symbol = np.unique([*taken_by, kind], axis=1, return_inverse=True)
        if classes.shape[1] > _MOST_CLASSES:
            raise RegexError(
                f"tells more than {_MOST_CLASSES} classes of characters apart; write fewer "
                "different characters and sets"
            )
        symbol = symbol.reshape(-1) + _CLASSES
        self.alphabet = _alphabet(np.repeat(symbol, np.diff(first)))

        sets_of_nodes = [_to_bits(members) for members in classes[:-1].T]
        newline_class = symbol[np.flatnonzero(is_newline)[0]] - _CLASSES
        final_newline = sets_of_nodes[newline_class], contexts.kind[_FINAL_NEWLINE]
        self.takers = [final_newline, *zip(sets_of_nodes, map(int, classes[-1]), strict=True)]


def _inside(ranges: Ranges, points: np.ndarray) -> np.ndarray:
    """bool[points]: whether the points, sorted, are in the ranges."""
    bounds = np.array(ranges, np.int32).reshape(-1)
    return np.searchsorted(bounds, points, side="right") % 2 == 1


def _to_bits(members: np.ndarray) -> int:
    return sum(1 << int(n) for n in np.flatnonzero(members))


def _to_bools(bits: int, count: int) -> np.ndarray:
    packed = np.frombuffer(bits.to_bytes(count // 8 + 1, "little"), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def _alphabet(symbols: np.ndarray) -> Alphabet:
    # Not np.unique, which sorts the pages: slow.
    pages = [page.tobytes() for page in symbols.astype(np.uint8).reshape(-1, PAGE)]
    number = {page: n for n, page in enumerate(dict.fromkeys(pages))}
    page_of = np.array([number[page] for page in pages], np.uint16)
    return Alphabet(page_of, np.frombuffer(b"".join(number), np.uint8))


@functools.cache
def _words(flags: int) -> Ranges:
    return ranges_of(re.compile(r"\w+", flags))
