"""Where each token leads from each state, by walking the bytes of all tokens at once.

A token is a function from states to states. Tokens are walked side by side, a byte at a time, and
those whose functions so far are equal go on as one: there are few different ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rft_jax.grammars.byte_automaton import BASE, DEAD, ByteAutomaton
from rft_jax.tokenizers import DetokenizeTable
from rft_jax.tokenizers.device_decode import DropSpace, Kind

_MOST_BYTES = 1 << 30  # of functions while they are walked
_AT_ONCE = 1 << 22  # entries
# An entry of a function: the state, whether the stretch that the token began in has been left, how
# many characters it added to that one, and to the one that it is in now.
_STATE, _LEFT, _ADDED, _COUNT = 0, 16, 17, 40
_NUMBER = (1 << 23) - 1


class TooManyClasses(Exception):
    """Tokens do too many different things to walk them."""


class Walk(NamedTuple):
    """Functions of K classes of tokens on S states; class 0 leads nowhere.

    S is one more than that of the automaton where the start's space is dropped: the last state is
    then the start, at which a token loses the space that it begins with.

    Attributes:
        class_V: int32; of equal classes the first token has the smallest number.
        next_KS: int16; `DEAD` where the token is not allowed.
        left_KS: bool, the stretch that it began in, if any, was left.
        added_KS: int16, characters it added to that.
        count_KS: int16, characters of a stretch that it is in, if it began within the token.
    """

    class_V: np.ndarray
    next_KS: np.ndarray
    left_KS: np.ndarray
    added_KS: np.ndarray
    count_KS: np.ndarray


def walk_tokens(automaton: ByteAutomaton, pieces: DetokenizeTable, written_V: np.ndarray) -> Walk:
    """Walks the tokens of `written_V`, bool[V]; others lead nowhere.

    Raises:
        TooManyClasses: It would take too much memory.
    """
    functions = _Functions(automaton, drops_space(pieces))
    length_V, offset_V = np.asarray(pieces.length_V), np.asarray(pieces.offset_V)
    bytes_S = np.asarray(pieces.bytes_S)
    number_V = np.zeros(len(length_V), np.int64)
    token_N = np.flatnonzero(written_V & (length_V > 0))
    number_V[token_N] = _first_bytes(functions, pieces, token_N)
    at = 1
    while True:
        token_N = token_N[(length_V[token_N] > at) & (number_V[token_N] != functions.dead)]
        if not len(token_N):
            break
        byte_N = bytes_S[offset_V[token_N] + at]
        pair_N = number_V[token_N] * 256 + automaton.class_of[byte_N]
        pair_P, index_N = np.unique(pair_N, return_inverse=True)
        number_V[token_N] = functions.step(pair_P // 256, pair_P % 256)[index_N]
        at += 1
    return functions.walk(np.where(written_V & (length_V > 0), number_V, functions.dead))


def drops_space(pieces: DetokenizeTable) -> bool:
    """Whether an answer's first token may lose a space."""
    return int(pieces.drop_space) != DropSpace.NEVER


def _first_bytes(functions: _Functions, pieces: DetokenizeTable, token_N: np.ndarray) -> np.ndarray:
    """Functions of the tokens' first bytes, some of which are spaces that the start drops."""
    byte_N = np.asarray(pieces.bytes_S)[np.asarray(pieces.offset_V)[token_N]]
    rule = int(pieces.drop_space)
    dropped_N = (byte_N == ord(" ")) & (rule != DropSpace.NEVER)
    if rule != DropSpace.TEXT:
        dropped_N &= np.asarray(pieces.kind_V)[token_N] == Kind.SPACED
    alone_N = dropped_N & (np.asarray(pieces.length_V)[token_N] == 1) & (rule == DropSpace.LEADING)
    key_N = byte_N + 256 * dropped_N + 256 * alone_N
    key_P, index_N = np.unique(key_N, return_inverse=True)
    return functions.first(key_P % 256, key_P >= 256, key_P >= 512)[index_N]


class _Functions:
    """The different functions met so far, by number; 0 is the identity."""

    def __init__(self, automaton: ByteAutomaton, own_start: bool):
        self._class_of = automaton.class_of
        self._next_SC = automaton.next_SC.astype(np.int64)
        self._counts = bool(automaton.stretches)
        self._counted_S = automaton.stretch_S >= 0
        self._base_S = self._counted_S & (automaton.place_S == BASE)
        self._low_S, self._high_S = automaton.bounds()
        self._start, self._own_start = automaton.start, own_start
        identity_S = np.arange(automaton.states)
        if own_start:
            identity_S = np.append(identity_S, automaton.start)
        identity_S = identity_S | (~self._counted_S[identity_S]).astype(np.int64) << _LEFT
        identity_S[DEAD] = 0
        self._numbers: dict[bytes, int] = {}
        self._rows: list[np.ndarray] = []
        self._intern(identity_S[None])
        self.dead = int(self._intern(np.zeros_like(identity_S)[None])[0])

    def first(self, byte_P: np.ndarray, dropped_P: np.ndarray, alone_P: np.ndarray) -> np.ndarray:
        """Functions of first bytes.

        Args:
            dropped_P: The start drops it.
            alone_P: And is still the start after it.
        """
        zero_P = np.zeros_like(byte_P, dtype=np.int64)
        entry_PS = self._entries(zero_P, self._class_of[byte_P])
        if self._own_start:
            entry_PS[dropped_P, -1] = self._rows[0][-1]
            entry_PS[alone_P, -1] = (len(self._rows[0]) - 1) | 1 << _LEFT
        return self._intern(entry_PS)

    def step(self, number_P: np.ndarray, class_P: np.ndarray) -> np.ndarray:
        """Functions followed by one more byte."""
        size = max(1, _AT_ONCE // len(self._rows[0]))
        parts = [slice(at, at + size) for at in range(0, len(number_P), size)]
        return np.concatenate(
            [self._intern(self._entries(number_P[part], class_P[part])) for part in parts]
        )

    def walk(self, number_V: np.ndarray) -> Walk:
        """The functions of finished tokens."""
        numbers, first, index_V = np.unique(number_V, return_index=True, return_inverse=True)
        order = np.lexsort((first, numbers != self.dead))
        if numbers[order[0]] != self.dead:
            numbers, order = np.append(numbers, self.dead), np.append(len(numbers), order)
        class_of_number = np.empty(len(numbers), np.int32)
        class_of_number[order] = np.arange(len(numbers))
        entry_KS = np.stack([self._rows[number] for number in numbers[order]])
        return Walk(
            class_of_number[index_V],
            (entry_KS >> _STATE & 0xFFFF).astype(np.int16),
            (entry_KS >> _LEFT & 1).astype(bool),
            (entry_KS >> _ADDED & _NUMBER).astype(np.int16),
            (entry_KS >> _COUNT & _NUMBER).astype(np.int16),
        )

    def _entries(self, number_P: np.ndarray, class_P: np.ndarray) -> np.ndarray:
        entry_PS = np.stack([self._rows[number] for number in number_P])
        state_PS = entry_PS & 0xFFFF
        target_PS = self._next_SC[state_PS, class_P[:, None]]
        left_PS = (entry_PS >> _LEFT & 1).astype(bool)
        if not self._counts:
            return np.where(target_PS != DEAD, target_PS | 1 << _LEFT, 0)
        added_PS, count_PS = entry_PS >> _ADDED & _NUMBER, entry_PS >> _COUNT & _NUMBER
        before_PS, after_PS = self._counted_S[state_PS], self._counted_S[target_PS]
        begins_PS = before_PS & after_PS & self._base_S[state_PS]
        ends_PS = before_PS & ~after_PS
        added_PS = added_PS + (begins_PS & ~left_PS)
        count_PS = count_PS + (begins_PS & left_PS)
        dies_PS = target_PS == DEAD
        dies_PS |= ends_PS & left_PS & (count_PS < self._low_S[state_PS])
        dies_PS |= after_PS & left_PS & (count_PS > self._high_S[target_PS])
        left_PS = left_PS | ends_PS
        count_PS = np.where(after_PS & before_PS, count_PS, 0)
        entry_PS = target_PS | left_PS << _LEFT | added_PS << _ADDED | count_PS << _COUNT
        return np.where(dies_PS, 0, entry_PS)

    def _intern(self, entry_PS: np.ndarray) -> np.ndarray:
        numbers = []
        for row in entry_PS.astype(np.int64):
            key = row.tobytes()
            if key not in self._numbers:
                self._numbers[key] = len(self._rows)
                self._rows.append(row)
            numbers.append(self._numbers[key])
        if len(self._rows) * entry_PS.shape[1] * 8 > _MOST_BYTES:
            raise TooManyClasses
        return np.array(numbers)
