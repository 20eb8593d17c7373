"""Automata over the bytes of a text: written as a graph with free moves, determinized, minimized.

    graph = Graph()
    entry = graph.literal(b"yes", graph.accept)
    automaton = build(graph, entry)

The graph is written from its end to its start, as `strings.regex_syntax` writes its own: each part
is given the node that follows it. A *counted* stretch is a run of characters of which only the
number is bounded, a JSON string of at most 10,000 characters say. Its nodes exist once, whatever
the bounds, and whoever walks the automaton counts (`Stretch`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MOST_STATES = 4096
_MOST_BUILT = 4 * MOST_STATES  # before equal states are joined
DEAD = 0  # the state from which nothing is accepted
UNBOUNDED = 1 << 30  # characters of a stretch without a bound
BASE = 0  # the place in a counted stretch at which a character can begin


class TooManyStates(Exception):
    """The automaton has more than `MOST_STATES` states."""


class Stretch(NamedTuple):
    """Bounds of a counted stretch, in characters; `high` is None where there is none."""

    low: int
    high: int | None


class Ambiguous(Exception):
    """Characters of a counted stretch may be those of something else, too, so nobody can count.

    Attributes:
        stretches: Those that have to be written out.
    """

    def __init__(self, stretches: set[Stretch]):
        super().__init__(stretches)
        self.stretches = stretches


class Graph:
    """Nodes with moves on bytes, and free ones; the node `accept` is the end of the text."""

    def __init__(self):
        self.moves: list[list[tuple[int, int, int]]] = []  # first byte, last byte, target
        self.free: list[tuple[int, ...]] = []
        self.counted: list[tuple[Stretch, int] | None] = []  # the stretch, and the place in it
        self.accept = self.node()

    def __len__(self) -> int:
        return len(self.moves)

    def node(self, *free: int, counted: tuple[Stretch, int] | None = None) -> int:
        """A new node with free moves to others."""
        self.moves.append([])
        self.free.append(free)
        self.counted.append(counted)
        return len(self.moves) - 1

    def move(self, source: int, first: int, last: int, target: int) -> None:
        """Adds a move on each byte from the first to the last."""
        self.moves[source].append((first, last, target))

    def literal(self, data: bytes, follow: int) -> int:
        """These bytes, then `follow`."""
        for byte in reversed(data):
            node = self.node()
            self.move(node, byte, byte, follow)
            follow = node
        return follow

    def optionally(self, data: bytes, follow: int) -> int:
        """These bytes or nothing, then `follow`."""
        return self.node(follow, self.literal(data, follow)) if data else follow

    def closure(self, node: int) -> frozenset[int]:
        """What free moves lead to: nodes with moves on bytes, and the end."""
        found, stack = set(), [node]
        while stack:
            if (node := stack.pop()) not in found:
                found.add(node)
                stack += self.free[node]
        return frozenset(n for n in found if self.moves[n] or n == self.accept)


class ByteAutomaton(NamedTuple):
    """A minimal deterministic automaton of S states and C classes of bytes; `DEAD` is state 0.

    Attributes:
        start: The first state.
        class_of: uint8[256].
        next_SC: int16.
        accepts_S: bool.
        stretches: Bounds of the counted stretches.
        stretch_S: int16, of the stretch that the state is in; -1 for none.
        place_S: int8, in the stretch; 0 elsewhere. A character of a stretch begins, and counts,
            with a move from its place `BASE` to a state of the stretch.
    """

    start: int
    class_of: np.ndarray
    next_SC: np.ndarray
    accepts_S: np.ndarray
    stretches: tuple[Stretch, ...]
    stretch_S: np.ndarray
    place_S: np.ndarray

    @property
    def states(self) -> int:
        """S, with the dead one."""
        return len(self.next_SC)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """int32[S]: least and most characters of the state's stretch; 0 and `UNBOUNDED` if none."""
        none = Stretch(0, None)
        found = [none if number < 0 else self.stretches[number] for number in self.stretch_S]
        high = [UNBOUNDED if stretch.high is None else stretch.high for stretch in found]
        return (
            np.array([stretch.low for stretch in found], np.int32),
            np.minimum(high, UNBOUNDED).astype(np.int32),
        )

    def accepts(self, text: bytes) -> bool:
        """Whether a text is one of the language."""
        state, count = self.start, 0
        for byte in text:
            target = int(self.next_SC[state, self.class_of[byte]])
            before, after = self.stretch_S[state], self.stretch_S[target]
            if before < 0 <= after:
                count = 0
            elif before >= 0 and after < 0:
                if count < self.stretches[before].low:
                    return False
            elif after >= 0 and self.place_S[state] == BASE:
                count += 1
                high = self.stretches[after].high
                if high is not None and count > high:
                    return False
            state = target
        return bool(self.accepts_S[state])


def build(graph: Graph, entry: int) -> ByteAutomaton | None:
    """The minimal automaton of what leads from a node to the end; None if nothing does.

    Raises:
        Ambiguous: Stretches cannot be counted.
        TooManyStates: It has more than `MOST_STATES` states.
    """
    subsets, class_of, next_SC = _determinize(graph, entry)
    accepts_S = np.array([graph.accept in subset for subset in subsets])
    distance_S = _distances(next_SC, accepts_S)
    if distance_S[1] < 0:
        return None
    next_SC = np.where(distance_S[next_SC] >= 0, next_SC, DEAD)
    counted = [graph.counted[next(iter(s))] if len(s) == 1 else None for s in subsets]
    stretches = tuple(dict.fromkeys(c[0] for c in counted if c is not None))
    stretch_S = np.array([-1 if c is None else stretches.index(c[0]) for c in counted], np.int16)
    place_S = np.array([0 if c is None else c[1] for c in counted], np.int8)
    # Equal states are equally far from the end, which tells most others apart at once.
    kind_S = (
        16 * (len(stretches) + 1) * distance_S.astype(np.int64) + 16 * (stretch_S + 1) + place_S
    )
    kind_S = np.where(distance_S < 0, -1, kind_S)
    block_S = _equivalent(next_SC, kind_S)
    _, first_S = np.unique(block_S, return_index=True)
    if len(first_S) > MOST_STATES:
        raise TooManyStates
    columns, class_of_column = _join_columns(block_S[next_SC[first_S]])
    return ByteAutomaton(
        int(block_S[1]),
        class_of_column[class_of].astype(np.uint8),
        columns.astype(np.int16),
        accepts_S[first_S],
        stretches,
        stretch_S[first_S],
        place_S[first_S],
    )


def _determinize(graph: Graph, entry: int) -> tuple[list[frozenset[int]], np.ndarray, np.ndarray]:
    """The subset construction: subsets with the empty one first, classes of bytes, next states."""
    closure = functools.cache(graph.closure)
    class_of = _byte_classes(graph)
    classes = int(class_of[-1]) + 1
    subsets = [frozenset(), closure(entry)]
    numbers = {subset: number for number, subset in enumerate(subsets)}
    rows = [[DEAD] * classes]
    while len(rows) < len(subsets):
        found: list[set[int]] = [set() for _ in range(classes)]
        _check_counted(graph, subsets[len(rows)])
        for node in subsets[len(rows)]:
            for first, last, target in graph.moves[node]:
                for number in range(class_of[first], class_of[last] + 1):
                    found[number] |= closure(target)
        row = []
        for targets in map(frozenset, found):
            if targets not in numbers:
                numbers[targets] = len(subsets)
                subsets.append(targets)
            row.append(numbers[targets])
        rows.append(row)
        if len(subsets) > _MOST_BUILT:
            raise TooManyStates
    return subsets, class_of, np.array(rows, np.int32)


def _byte_classes(graph: Graph) -> np.ndarray:
    """A number for each byte, equal where no move tells bytes apart, ascending from 0."""
    cuts = {cut for moves in graph.moves for first, last, _ in moves for cut in (first, last + 1)}
    begins = np.zeros(257, np.int32)
    begins[sorted(cuts)] = 1
    begins[0] = 0
    return np.cumsum(begins[:256])


def _check_counted(graph: Graph, subset: Iterable[int]) -> None:
    stretches = [graph.counted[node] for node in subset]
    if len(stretches) > 1 and any(stretches):
        raise Ambiguous({counted[0] for counted in stretches if counted is not None})


def _distances(next_SC: np.ndarray, accepts_S: np.ndarray) -> np.ndarray:
    """int32[S]: bytes on the shortest way to the end; -1 where there is none."""
    source_E, target_E = np.divmod(np.unique(_pairs(next_SC)), len(next_SC))
    order = np.argsort(target_E, kind="stable")
    source_E = source_E[order]
    begins_S = np.searchsorted(target_E[order], np.arange(len(next_SC) + 1))
    distance_S = np.where(accepts_S, 0, -1).astype(np.int32)
    frontier, distance = np.flatnonzero(accepts_S), 0
    while len(frontier):
        distance += 1
        spans = zip(begins_S[frontier], begins_S[frontier + 1], strict=True)
        before = np.concatenate([source_E[first:last] for first, last in spans])
        frontier = np.unique(before[distance_S[before] < 0])
        distance_S[frontier] = distance
    return distance_S


def _pairs(next_SC: np.ndarray) -> np.ndarray:
    """Sources and targets of all moves, as source * S + target."""
    return (np.arange(len(next_SC))[:, None] * len(next_SC) + next_SC).reshape(-1)


def _equivalent(next_SC: np.ndarray, kind_S: np.ndarray) -> np.ndarray:
    """Moore's algorithm: a number for each state, equal where states are; ascends with kinds."""
    _, block_S = np.unique(kind_S, return_inverse=True)
    next_SC, _ = _join_columns(next_SC)
    while True:
        rows = np.column_stack([block_S, block_S[next_SC]]).astype(">i4")
        keys = np.ascontiguousarray(rows).view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
        _, refined_S = np.unique(keys, return_inverse=True)
        if refined_S.max() == block_S.max():
            return block_S
        block_S = refined_S


def _join_columns(next_SC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different columns, and which of them each column is."""
    keys = [column.tobytes() for column in next_SC.T]
    first = {key: n for n, key in reversed(list(enumerate(keys)))}
    kept = sorted(first.values())
    number = {keys[n]: k for k, n in enumerate(kept)}
    return next_SC[:, kept], np.array([number[key] for key in keys])
