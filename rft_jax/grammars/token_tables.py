"""What an automaton over bytes says of a tokenizer's tokens, as arrays for the device.

    tables = build_tables(automaton, Vocabulary.of(tokenizer))

Tokens that lead from each state to the same state, and count as much, are one *class*; there are a
few hundred or thousand of them among 150,000 tokens. So the walk over a token's bytes is done here,
once for each class, and on the device it is two look-ups. Which tokens may come next are packed
bits, a row for each state, and further rows for how much room a counted stretch has left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array

from rft_jax.grammars.byte_automaton import BASE, DEAD, UNBOUNDED, ByteAutomaton
from rft_jax.grammars.errors import ResponseFormatError
from rft_jax.grammars.json_strings import content_automaton
from rft_jax.grammars.token_walk import TooManyClasses, Walk, drops_space, walk_tokens
from rft_jax.tokenizers import DetokenizeTable, Tokenizer

MOST_BYTES = 128 << 20
WORD = 32  # tokens of a word of bits
_FAR = 1 << 29  # tokens to where there is no way
_STATES_AT_ONCE = 64
FREE = (
    DEAD  # on the device state 0 is that of all that is no answer: a thought, what follows a stop
)


class Vocabulary(NamedTuple):
    """What the tables need of a tokenizer.

    Attributes:
        pieces: The tokens' bytes, kinds and rules.
        written_V: bool, tokens that may be in an answer and add bytes to it.
        stop_ids: Tokens that end a completion.
        separator: What may stand between the end of the thought and the answer.
    """

    pieces: DetokenizeTable
    written_V: np.ndarray
    stop_ids: tuple[int, ...]
    separator: str

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """That of a tokenizer."""
        pieces = tokenizer.piece_table()
        written_V = np.asarray(pieces.length_V) > 0
        marker = tokenizer.end_of_think_id
        written_V[[*tokenizer.forbidden_ids, *tokenizer.stop_ids]] = False
        if marker is not None:
            written_V[marker] = False
        return cls(pieces, written_V, tokenizer.stop_ids, tokenizer.answer_separator)


class CounterTables(NamedTuple):
    """What counted stretches need; G is the most characters that a token adds to one.

    Attributes:
        low_S: int32, of the state's stretch; 0 where there is none.
        high_S: int32; `UNBOUNDED` where there is none.
        added_KS: int16, characters that a token adds to the stretch in which it begins.
        count_KS: int16, characters of a stretch that began within the token; -1 where none did.
        room_SX: int32 [states, G + 1], rows of `bits_RW`: tokens that add at most so many.
        lack_SX: int32 [states, G + 2], rows: tokens that do not leave the stretch before they have
            added so many.
        adding_G: int32, for each number from 0 to G (up to the most that can be had in steps of
            one) a token that adds so many.
        at_base_S: bool, counted states at which a character can begin.
    """

    low_S: Array | np.ndarray
    high_S: Array | np.ndarray
    added_KS: Array | np.ndarray
    count_KS: Array | np.ndarray
    room_SX: Array | np.ndarray
    lack_SX: Array | np.ndarray
    adding_G: Array | np.ndarray
    at_base_S: Array | np.ndarray


class GrammarTables(NamedTuple):
    """A grammar for a vocabulary: S states, of which `FREE` is 0, and K classes of tokens.

    Attributes:
        start: int32 [], the state before the answer's first token.
        bits_RW: uint32, rows of allowed tokens, those of the states first; token v is bit v // W of
            word v % W.
        class_V: int32, the tokens' classes.
        next_KS: int16.
        way_S: int32, the token with which the shortest way to the answer's end begins; a stop token
            where it has come.
        least_S: int32, tokens on that way, without the stop; a counted stretch's lack comes on top.
        most_S: int32, the same after the allowed token that leads farthest away; -1 where there is
            none.
        counters: None where nothing is counted.
    """

    start: Array | np.ndarray
    bits_RW: Array | np.ndarray
    class_V: Array | np.ndarray
    next_KS: Array | np.ndarray
    way_S: Array | np.ndarray
    least_S: Array | np.ndarray
    most_S: Array | np.ndarray
    counters: CounterTables | None

    @property
    def bytes(self) -> int:
        """Memory of all arrays."""
        arrays = [*self[:-1], *(self.counters or ())]
        return sum(array.nbytes for array in arrays)

    @property
    def least_tokens(self) -> int:
        """The fewest tokens of an answer, with its stop token."""
        return int(self.least_S[self.start]) + 1


def table_bytes(
    states: int, classes: int, rows: int, vocab_size: int, most_added: int | None = None
) -> int:
    """Memory of tables in closed form.

    Args:
        states: S, with `FREE`, and where a tokenizer drops a text's first space one more.
        classes: K.
        rows: R, those of the states among them.
        most_added: G; None: nothing is counted.
    """
    row = 4 * -(-vocab_size // WORD)
    total = 4 + rows * row + 4 * vocab_size + 2 * classes * states + 3 * 4 * states
    if most_added is not None:
        total += 2 * 2 * classes * states + (4 + 4 + 1) * states
        total += 4 * states * (most_added + 1 + most_added + 2) + 4 * (most_added + 1)
    return total


def build_tables(automaton: ByteAutomaton, vocabulary: Vocabulary, place: str) -> GrammarTables:
    """The tables of an automaton for a vocabulary.

    Args:
        place: Where the schema or pattern is, for messages.

    Raises:
        ResponseFormatError: They would be too large, or the tokenizer cannot spell any answer.
    """
    try:
        walk = walk_tokens(automaton, vocabulary.pieces, vocabulary.written_V)
    except TooManyClasses:
        raise _too_large(place, vocabulary) from None
    states = walk.next_KS.shape[1]
    room = _Room(automaton, vocabulary, states) if automaton.stretches else None
    extra_rows = len(room.rows_XK) if room else 0
    sizes = states, len(walk.next_KS), states + extra_rows, len(vocabulary.written_V)
    if table_bytes(*sizes, room.most if room else None) > MOST_BYTES:
        raise _too_large(place, vocabulary)
    ways = _Ways(automaton, walk, room, vocabulary.stop_ids[0])
    start = states - 1 if drops_space(vocabulary.pieces) else automaton.start
    if ways.least_S[start] >= _FAR:
        raise ResponseFormatError(
            place, f"{_unspelled(vocabulary)}; use another tokenizer or schema"
        )
    rows = [_state_rows(ways.allowed_KS, ways.ends_S, walk.class_V, vocabulary)]
    counters = None
    if room:
        rows.append(room.pack())
        counters = room.counters(walk, first_row=states)
    return GrammarTables(
        start=np.array(start, np.int32),
        bits_RW=np.concatenate(rows),
        class_V=walk.class_V,
        next_KS=walk.next_KS,
        way_S=ways.way_S,
        least_S=np.minimum(ways.least_S, _FAR).astype(np.int32),
        most_S=ways.most_S,
        counters=counters,
    )


def _too_large(place: str, vocabulary: Vocabulary) -> ResponseFormatError:
    return ResponseFormatError(
        place,
        f"needs tables of more than {MOST_BYTES >> 20} MB for a vocabulary of "
        f"{len(vocabulary.written_V)} tokens; lower its maxItems, minItems or lengths, nest less, "
        "or write simpler patterns",
    )


def _unspelled(vocabulary: Vocabulary) -> str:
    pieces = vocabulary.pieces
    owner_S = np.repeat(np.arange(len(pieces.length_V)), pieces.length_V)
    spelled = np.unique(np.asarray(pieces.bytes_S)[:-1][vocabulary.written_V[owner_S]])
    missing = np.setdiff1d(np.arange(0x20, 0x7F), spelled)
    if len(missing):
        letters = " ".join(map(chr, missing[:8]))
        return f"the tokenizer cannot spell any answer, it has no token for {letters}"
    return "the tokenizer cannot spell any answer with its tokens"


class _Ways:
    """The shortest way to the end from each state, in tokens.

    A counted stretch is left by a token that adds nothing to it, from where a character can begin;
    so the way there is open whatever the count, once what the stretch lacks has been added.
    """

    def __init__(self, automaton: ByteAutomaton, walk: Walk, room: _Room | None, stop_id: int):
        state_S = np.arange(walk.next_KS.shape[1])
        state_S[automaton.states :] = automaton.start
        counted_S = (automaton.stretch_S >= 0)[state_S]
        base_S = counted_S & (automaton.place_S == BASE)[state_S]
        low_S = automaton.bounds()[0][state_S]
        self.ends_S = automaton.accepts_S[state_S]
        class_N, from_N = np.nonzero(walk.next_KS != DEAD)
        to_N, left_N = walk.next_KS[class_N, from_N], walk.left_KS[class_N, from_N]
        added_N = walk.added_KS[class_N, from_N]
        lack_N = np.where(counted_S[to_N] & left_N, low_S[to_N], 0)
        lack_N = np.maximum(lack_N - walk.count_KS[class_N, from_N], 0)
        cost_N = 1 + (room.tokens(lack_N) if room else lack_N)
        usable_N = ~counted_S[from_N] | (added_N == 0) & (base_S[from_N] == left_N)
        _, first_token = np.unique(walk.class_V, return_index=True)
        edges = _Edges(from_N[usable_N], to_N[usable_N], cost_N[usable_N], class_N[usable_N])
        self.least_S, class_S = edges.shortest(self.ends_S)
        # Class 0 leads nowhere, and has perhaps no token.
        token_K = np.zeros(len(walk.next_KS), np.int32)
        token_K[walk.class_V[first_token]] = first_token
        self.way_S = np.where(self.ends_S, stop_id, token_K[class_S]).astype(np.int32)
        after_N = self.least_S[to_N] + cost_N - 1
        self.allowed_KS = np.zeros(walk.next_KS.shape, bool)
        allowed_N = after_N < _FAR
        self.allowed_KS[class_N[allowed_N], from_N[allowed_N]] = True
        most_S = np.full(len(state_S), -1, np.int32)
        np.maximum.at(most_S, from_N[allowed_N], after_N[allowed_N])
        self.most_S = most_S


class _Edges:
    """Moves between states, sorted by source; of those that differ in class only, the first."""

    def __init__(
        self, from_N: np.ndarray, to_N: np.ndarray, cost_N: np.ndarray, class_N: np.ndarray
    ):
        order = np.lexsort((class_N, cost_N, to_N, from_N))
        keys = np.stack([from_N, to_N, cost_N])[:, order]
        new = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0))[: len(order)]
        self._from_E, self._to_E, self._cost_E = keys[:, new]
        self._class_E = class_N[order][new]

    def shortest(self, ends_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances to an end (`_FAR`: there is no way) and classes that begin it, int64[S]."""
        least_S = np.where(ends_S, 0, _FAR)
        class_S = np.zeros(len(ends_S), np.int64)
        if not len(self._from_E):
            return least_S, class_S
        source, begins = np.unique(self._from_E, return_index=True)
        while True:
            through_E = self._cost_E + least_S[self._to_E]
            found = np.minimum(np.minimum.reduceat(through_E, begins), least_S[source])
            if (found == least_S[source]).all():
                break
            least_S[source] = found
        best_E = np.flatnonzero(through_E == least_S[self._from_E])[::-1]
        class_S[self._from_E[best_E]] = self._class_E[best_E]
        return least_S, class_S


class _Room:
    """How much tokens add to a stretch, from each place in it, whatever comes after it."""

    def __init__(self, automaton: ByteAutomaton, vocabulary: Vocabulary, states: int):
        content = content_automaton()
        walk = walk_tokens(content, vocabulary.pieces, vocabulary.written_V)
        self._class_V, self._vocabulary = walk.class_V, vocabulary
        places = [
            int(np.flatnonzero((content.place_S == place) & (content.stretch_S >= 0))[0])
            for place in range(automaton.place_S.max() + 1)
        ]
        added_KP = np.where(walk.next_KS > DEAD, walk.added_KS, 0)[:, places]
        left_KP = (walk.next_KS > DEAD)[:, places] & walk.left_KS[:, places]
        self.most = int(added_KP.max())
        self._adding_G = self._find_adding(walk, places[BASE])
        self._rows: dict[bytes, int] = {}
        number = self._number(np.ones(len(added_KP), bool))  # row 0 allows all
        place_S = np.where(automaton.stretch_S >= 0, automaton.place_S, -1)
        self._place_S = np.append(place_S, np.full(states - len(place_S), -1))
        self._low_S, self._high_S = (
            np.append(bound_S, np.full(states - len(place_S), none))
            for bound_S, none in zip(automaton.bounds(), (0, UNBOUNDED), strict=True)
        )
        rooms = [
            [self._number(added_K <= room) for room in range(self.most + 1)]
            for added_K in added_KP.T
        ]
        lacks = [
            [self._number(~(left_K & (added_K < lack))) for lack in range(self.most + 2)]
            for added_K, left_K in zip(added_KP.T, left_KP.T, strict=True)
        ]
        # Place -1 is that of states where nothing is counted.
        self._room_PX = np.array([*rooms, [number] * (self.most + 1)])
        self._lack_PX = np.array([*lacks, [number] * (self.most + 2)])

    @property
    def rows_XK(self) -> np.ndarray:
        """bool: the different rows, by class."""
        return np.array([np.frombuffer(row, bool) for row in self._rows])

    def tokens(self, lack: np.ndarray) -> np.ndarray:
        """How many tokens it takes to add so many characters."""
        most = len(self._adding_G) - 1
        return -(-lack // most) if most else np.where(lack > 0, _FAR, 0)

    def pack(self) -> np.ndarray:
        """The rows as bits."""
        return np.concatenate([pack_bits(row_K[self._class_V][None]) for row_K in self.rows_XK])

    def counters(self, walk: Walk, first_row: int) -> CounterTables:
        """The tables of the automaton's states; `first_row` is the place of the rows."""
        return CounterTables(
            low_S=self._low_S.astype(np.int32),
            high_S=self._high_S.astype(np.int32),
            added_KS=walk.added_KS,
            count_KS=np.where(walk.left_KS, walk.count_KS, -1).astype(np.int16),
            room_SX=(first_row + self._room_PX[self._place_S]).astype(np.int32),
            lack_SX=(first_row + self._lack_PX[self._place_S]).astype(np.int32),
            adding_G=self._adding_G,
            at_base_S=self._place_S == BASE,
        )

    def _number(self, row_K: np.ndarray) -> int:
        return self._rows.setdefault(row_K.tobytes(), len(self._rows))

    def _find_adding(self, walk: Walk, base: int) -> np.ndarray:
        stays_K = (walk.next_KS[:, base] == base) & ~walk.left_KS[:, base]
        found = [0]
        while len(classes := np.flatnonzero(stays_K & (walk.added_KS[:, base] == len(found)))):
            found.append(int(np.flatnonzero(walk.class_V == classes[0])[0]))
        return np.array(found, np.int32)


def _state_rows(
    allowed_KS: np.ndarray, ends_S: np.ndarray, class_V: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
    """Bits of what may come next after each state."""
    stops, parts = list(vocabulary.stop_ids), []
    for at in range(0, len(ends_S), _STATES_AT_ONCE):
        part = slice(at, at + _STATES_AT_ONCE)
        allowed_SV = np.ascontiguousarray(allowed_KS[:, part].T)[:, class_V]
        allowed_SV[:, stops] = ends_S[part, None]
        if at == 0:
            allowed_SV[FREE] = True
            allowed_SV[FREE, stops] = False
        parts.append(pack_bits(allowed_SV))
    return np.concatenate(parts)


def pack_bits(flag_NV: np.ndarray) -> np.ndarray:
    """uint32[N, W]: flag v is bit v // W of word v % W."""
    count, size = flag_NV.shape
    words = -(-size // WORD)
    padded = np.zeros((count, WORD * words), np.uint32)
    padded[:, :size] = flag_NV
    bits = padded.reshape(count, WORD, words) << np.arange(WORD, dtype=np.uint32)[:, None]
    return np.bitwise_or.reduce(bits, axis=1)
