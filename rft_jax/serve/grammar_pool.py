"""The grammars of a model's slots, in the arrays of one.

Slots are decoded side by side, each with a grammar of its own or with none. So the tables of all
grammars in use are put into one: their states one after the other, behind `FREE` and `ANYTHING`,
which every token leaves as it is; a class of tokens is what are of one class in all of them.
Shapes are powers of two, so that programs are compiled seldom.
"""

from typing import NamedTuple

import jax
import numpy as np

from rft_jax.grammars import FREE, CounterTables, GrammarTables
from rft_jax.grammars.byte_automaton import UNBOUNDED
from rft_jax.grammars.token_tables import MOST_BYTES

ANYTHING = 1  # the state of slots without a grammar
MOST_GRAMMARS = 8
_LEAST_SIZE = 512
_FIRST = 2  # state of the first grammar
_MOST_STATES = 1 << 15  # of int16
_NEVER = -(1 << 28)  # tokens to an end that nothing has to reach


class _Part(NamedTuple):
    """A grammar in the pool."""

    key: str
    tables: GrammarTables
    offset: int  # its state s, but for `FREE`, is offset + s

    def states(self, state: np.ndarray) -> np.ndarray:
        """Its states by the pool's numbers."""
        return np.where(state == FREE, FREE, self.offset + state.astype(np.int64))


class GrammarPool:
    """The grammars in use; states keep their numbers as long as `clear` is not called.

    Attributes:
        tables: All of them; None where there is none. `start` stands for nothing here.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self.tables: GrammarTables | None = None

    def clear(self) -> None:
        """Forgets all grammars, when no slot is in any."""
        self._parts, self.tables = [], None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the arrays."""
        return tuple(leaf.shape for leaf in jax.tree.leaves(self.tables))

    def first_state(self, key: str, tables: GrammarTables) -> int | None:
        """The state in which an answer begins; None if there is no room for the grammar now.

        Args:
            key: Names the grammar.
            tables: The grammar.
        """
        for part in self._parts:
            if part.key == key:
                return part.offset + int(part.tables.start)
        last = self._parts[-1] if self._parts else None
        end = _FIRST if last is None else last.offset + len(last.tables.way_S)
        part = _Part(key, tables, end - 1)
        if len(self._parts) > 1:  # beside the first, which is that of the model, any has room
            states = end + len(tables.way_S)
            size = sum(other.tables.bytes for other in self._parts) + tables.bytes
            if states > _MOST_STATES or size > MOST_BYTES or len(self._parts) >= MOST_GRAMMARS:
                return None
        self._parts.append(part)
        self.tables = _merge(self._parts)
        return part.offset + int(tables.start)


def _merge(parts: list[_Part]) -> GrammarTables:
    """The tables of several grammars for one vocabulary."""
    class_VG = np.stack([np.asarray(part.tables.class_V) for part in parts], axis=1)
    class_KG, class_V = np.unique(class_VG, axis=0, return_inverse=True)
    states = parts[-1].offset + len(parts[-1].tables.way_S)
    rows = states + sum(len(part.tables.bits_RW) - len(part.tables.way_S) for part in parts)
    K, S, R = _rounded(len(class_KG)), _rounded(states), _rounded(rows)
    next_KS = np.zeros((K, S), np.int16)
    next_KS[:, ANYTHING] = ANYTHING
    bits_RW = np.zeros((R, parts[0].tables.bits_RW.shape[1]), np.uint32)
    bits_RW[FREE] = parts[0].tables.bits_RW[FREE]
    bits_RW[ANYTHING] = ~np.uint32(0)
    way_S, least_S = np.zeros((2, S), np.int32)
    most_S = np.full(S, _NEVER, np.int32)
    row = states
    first_rows = []
    for part, class_K in zip(parts, class_KG.T, strict=True):
        own = part.tables
        size = len(own.way_S)
        at = slice(part.offset + 1, part.offset + size)
        next_KS[: len(class_K), at] = part.states(np.asarray(own.next_KS)[class_K, 1:])
        bits_RW[at] = own.bits_RW[1:size]
        first_rows.append(row)
        bits_RW[row : row + len(own.bits_RW) - size] = own.bits_RW[size:]
        row += len(own.bits_RW) - size
        way_S[at], least_S[at], most_S[at] = own.way_S[1:], own.least_S[1:], own.most_S[1:]
    return GrammarTables(
        start=np.array(FREE, np.int32),
        bits_RW=bits_RW,
        class_V=class_V.reshape(-1).astype(np.int32),
        next_KS=next_KS,
        way_S=way_S,
        least_S=least_S,
        most_S=most_S,
        counters=_merge_counters(parts, class_KG, first_rows, next_KS.shape),
    )


def _merge_counters(
    parts: list[_Part], class_KG: np.ndarray, first_rows: list[int], shape: tuple[int, int]
) -> CounterTables:
    """What counted stretches need; there are arrays where nothing is counted, too."""
    counted = [part.tables.counters for part in parts if part.tables.counters is not None]
    K, S = shape
    X = max((counters.room_SX.shape[1] for counters in counted), default=1)
    X = 1 << (X - 1).bit_length()
    low_S, high_S = np.zeros(S, np.int32), np.full(S, UNBOUNDED, np.int32)
    added_KS, count_KS = np.zeros((2, K, S), np.int16)
    # The row of `ANYTHING` allows all.
    room_SX = np.full((S, X), ANYTHING, np.int32)
    lack_SX = np.full((S, X + 1), ANYTHING, np.int32)
    at_base_S = np.zeros(S, bool)
    adding_G = np.zeros(1, np.int32)
    for part, class_K, first_row in zip(parts, class_KG.T, first_rows, strict=True):
        own = part.tables.counters
        if own is None:
            continue
        size = len(part.tables.way_S)
        at = slice(part.offset + 1, part.offset + size)
        low_S[at], high_S[at], at_base_S[at] = own.low_S[1:], own.high_S[1:], own.at_base_S[1:]
        added_KS[: len(class_K), at] = np.asarray(own.added_KS)[class_K, 1:]
        count_KS[: len(class_K), at] = np.asarray(own.count_KS)[class_K, 1:]
        # What a last column says holds for all numbers beyond it.
        room_SX[at] = _widened(own.room_SX[1:], X) - size + first_row
        lack_SX[at] = _widened(own.lack_SX[1:], X + 1) - size + first_row
        adding_G = np.asarray(own.adding_G)
    return CounterTables(low_S, high_S, added_KS, count_KS, room_SX, lack_SX, adding_G, at_base_S)


def _widened(table_SX, width: int) -> np.ndarray:
    table_SX = np.asarray(table_SX)
    return np.pad(table_SX, ((0, 0), (0, width - table_SX.shape[1])), mode="edge")


def _rounded(size: int) -> int:
    """The next power of two, from `_LEAST_SIZE` on."""
    return max(_LEAST_SIZE, 1 << (size - 1).bit_length())
