"""Automata over characters, from regular expressions, and how a graph of bytes spells them.

A character is a code point but no surrogate. Patterns are those of `strings.regex_syntax`, with one
difference that JSON Schema's have, too: `$` is the end of the text only, not a newline before it.
"""

from __future__ import annotations

import functools
import sys
from typing import NamedTuple

import numpy as np

from rft_jax.grammars.byte_automaton import Graph
from rft_jax.strings.regex_automaton import FINAL_NEWLINE, PAGE, match_tables
from rft_jax.strings.regex_syntax import RegexError, parse_regex

_POINTS = sys.maxunicode + 1
_BLOCK = 64  # code points that differ in the last byte only
_SURROGATES = slice(0xD800, 0xE000)
_MOST_STATES = 4096
# What JSON does not allow in a string as it is, by code point; DEL, which it allows, is left out.
_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
_CONTROLS = tuple(point for point in range(0x20) if point not in _ESCAPES)
_DELETE = 0x7F


class Characters(NamedTuple):
    """A deterministic automaton over classes of characters; its first state is 0.

    Attributes:
        class_P: uint16[code points]; what surrogates have means nothing.
        next_SC: int32.
        accepts_S: bool.
    """

    class_P: np.ndarray
    next_SC: np.ndarray
    accepts_S: np.ndarray


@functools.lru_cache(maxsize=64)
def of_regex(pattern: str, mode: str) -> Characters:
    """The texts that match a pattern.

    Args:
        pattern: As for `re.compile`.
        mode: One of `strings.regex_syntax.MODES`.

    Raises:
        RegexError: It is wrong, not supported or too large.
    """
    alphabet, next_state, accepts = match_tables(parse_regex(pattern, mode=mode))
    points = np.arange(_POINTS)
    page_P = alphabet.page_of[points // PAGE].astype(np.int32)
    symbol_P = alphabet.pages[page_P * PAGE + points % PAGE]
    first = FINAL_NEWLINE + 1  # symbols of characters
    return Characters(
        (symbol_P - first).astype(np.uint16), next_state[:, first:].astype(np.int32), accepts
    )


def of_length(low: int, high: int | None) -> Characters:
    """The texts of so many characters.

    Raises:
        RegexError: There are too many to be states.
    """
    top = low if high is None else high
    if top > _MOST_STATES:
        raise RegexError(f"counts to more than {_MOST_STATES} characters; lower the length")
    last = top if high is None else top + 1  # from where on nothing changes
    counts = np.arange(last + 1)
    return Characters(
        np.zeros(_POINTS, np.uint16),
        np.minimum(counts + 1, last)[:, None].astype(np.int32),
        (counts >= low) & (counts <= (last if high is None else high)),
    )


def both(a: Characters, b: Characters) -> Characters:
    """The texts that both accept.

    Raises:
        RegexError: That takes too many states.
    """
    joint_P = a.class_P.astype(np.int32) * b.next_SC.shape[1] + b.class_P
    joint, class_P = np.unique(joint_P, return_inverse=True)
    a_C, b_C = np.divmod(joint, b.next_SC.shape[1])
    numbers, states, rows = {(0, 0): 0}, [(0, 0)], []
    for s, t in states:
        row = list(zip(a.next_SC[s, a_C].tolist(), b.next_SC[t, b_C].tolist(), strict=True))
        for pair in row:
            if pair not in numbers:
                numbers[pair] = len(states)
                states.append(pair)
        rows.append([numbers[pair] for pair in row])
        if len(states) > _MOST_STATES:
            raise RegexError(
                f"needs more than {_MOST_STATES} states together with the string's other limits; "
                "write a simpler pattern or a smaller length"
            )
    accepts = [bool(a.accepts_S[s] and b.accepts_S[t]) for s, t in states]
    return Characters(class_P.astype(np.uint16), np.array(rows, np.int32), np.array(accepts))


def write(graph: Graph, characters: Characters, follow: int, *, escaped: bool) -> int:
    """Writes the texts of an automaton into a graph, then `follow`.

    Args:
        escaped: As within a JSON string, each character as `json.dumps` has it with
            ensure_ascii=False; otherwise as UTF-8.
    """
    return _Writer(graph, characters, escaped).write(follow)


class _Writer:
    """A node for each state, and in between nodes for the first bytes of longer characters."""

    def __init__(self, graph: Graph, characters: Characters, escaped: bool):
        self._graph, self._characters, self._escaped = graph, characters, escaped
        self._tree = _tree(characters.class_P.tobytes())
        self._nodes: dict[bytes, int] = {}

    def write(self, follow: int) -> int:
        """See `write`."""
        accepts = self._characters.accepts_S
        nodes = [self._graph.node(*([follow] if accept else [])) for accept in accepts]
        for node, row in zip(nodes, self._characters.next_SC, strict=True):
            self._write_state(node, np.array(nodes)[row])
        return nodes[0]

    def _write_state(self, node: int, target_C: np.ndarray) -> None:
        """The moves of a state.

        Args:
            target_C: The nodes of the next states.
        """
        ascii_128 = target_C[self._characters.class_P[:128]]
        if self._escaped:
            self._moves(node, 0, self._escape(node, ascii_128))
        else:
            self._moves(node, 0, ascii_128)
        blocks, of_two, of_three, of_four = self._tree
        block_B = self._nodes_of(target_C[blocks])
        self._moves(node, 0xC2, block_B[of_two])
        leads_16 = self._nodes_of(np.where(of_three >= 0, block_B[of_three], -1))
        self._moves(node, 0xE0, leads_16)
        planes = self._nodes_of(np.where(of_four >= 0, block_B[of_four], -1).reshape(-1, _BLOCK))
        leads_5 = self._nodes_of(planes.reshape(-1, _BLOCK))
        self._moves(node, 0xF0, leads_5)

    def _nodes_of(self, targets_NB: np.ndarray) -> np.ndarray:
        """A node for each row of targets of the bytes 0x80 to 0xBF; equal rows share one."""
        found = []
        for row in targets_NB.astype(np.int32):
            key = row.tobytes()
            if key not in self._nodes:
                alive = (row >= 0).any()
                self._nodes[key] = node = self._graph.node() if alive else -1
                self._moves(node, 0x80, row)
            found.append(self._nodes[key])
        return np.array(found)

    def _moves(self, node: int, first: int, targets: np.ndarray) -> None:
        """Moves on the bytes from `first` on, one a target; -1 is none."""
        ends = (np.flatnonzero(np.diff(targets)) + 1).tolist()
        for begin, end in zip([0, *ends], [*ends, len(targets)], strict=True):
            if targets[begin] >= 0:
                self._graph.move(node, first + begin, first + end - 1, int(targets[begin]))

    def _escape(self, node: int, targets: np.ndarray) -> np.ndarray:
        """Writes what has to be escaped; returns the targets of what is written as it is."""
        backslash, code, digits = (self._graph.node() for _ in range(3))
        for point, letter in _ESCAPES.items():
            self._graph.move(backslash, ord(letter), ord(letter), int(targets[point]))
        for high in (0, 1):
            last = self._graph.node()
            self._graph.move(digits, 0x30 + high, 0x30 + high, last)
            for point in _CONTROLS:
                if point >> 4 == high:
                    digit = ord(f"{point & 15:x}")
                    self._graph.move(last, digit, digit, int(targets[point]))
        self._graph.move(code, 0x30, 0x30, self._graph.literal(b"0", digits))
        self._graph.move(backslash, ord("u"), ord("u"), code)
        self._graph.move(node, 0x5C, 0x5C, backslash)
        plain = targets.copy()
        plain[[*_CONTROLS, *_ESCAPES, _DELETE]] = -1
        return plain


@functools.lru_cache(maxsize=64)
def _tree(class_P: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Code points by their UTF-8.

    Returns:
        The different blocks of 64 classes, and by number those of all leads of two bytes, of three
        (16 leads, 64 blocks each) and of four (5 leads of 64 x 64); -1 where there is none.
    """
    classes = np.frombuffer(class_P, np.uint16).reshape(-1, _BLOCK)
    keys = [block.tobytes() for block in classes]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    block_of = np.array([number[key] for key in keys])
    blocks = np.frombuffer(b"".join(number), np.uint16).reshape(-1, _BLOCK)
    of_three = block_of[: 0x10000 // _BLOCK].copy()
    of_three[: 0x800 // _BLOCK] = -1  # these have shorter spellings
    of_three[_SURROGATES.start // _BLOCK : _SURROGATES.stop // _BLOCK] = -1
    of_four = np.full(5 * _BLOCK * _BLOCK, -1)
    of_four[0x10000 // _BLOCK : len(block_of)] = block_of[0x10000 // _BLOCK :]
    return blocks, block_of[2 : 0x800 // _BLOCK], of_three.reshape(16, _BLOCK), of_four
