"""The containers of scanned JSON documents, all of one depth at once: their elements and members.

    tree = JsonTree(scan, unescaped, keys=("a", "b"))
    b_NL = tree.members(tree.root_NL, 0, "b")   # the value of "b", if the document is an object
    c_NL = tree.elements(b_NL, 1)               # its elements, if it is an array

Values are named by their first byte: a selection is bool[N, L]. A step down costs a few passes over
L bytes, however many containers it steps into.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import last_where, next_where, shift_left
from rft_jax.strings.json_numbers import JsonNumbers, read_numbers
from rft_jax.strings.json_scan import JsonScan, JsonToken, masked_writes
from rft_jax.strings.json_values import QUOTE_MARK, Unescaped, is_value

_WORD = 32  # literals per word of bits
_DELIMITER = QUOTE_MARK  # the symbol of a quote that delimits a string; others are bytes


class JsonTree:
    """Documents in which to step down; what several steps need is computed once per trace.

    In all methods `depth` is the number of containers that the selected values stand in.
    """

    def __init__(
        self,
        scan: JsonScan,
        unescaped: Unescaped,
        keys: Sequence[str] = (),
        strings: Sequence[str] = (),
    ):
        """Takes N documents.

        Args:
            scan: their tokens.
            unescaped: of the same scan.
            keys: all keys that `members` and `has` will be asked for.
            strings: further strings that `spells` will be asked for.
        """
        self.scan = scan
        self._unescaped = unescaped
        self._keys = tuple(dict.fromkeys(keys))
        self._literals = tuple(dict.fromkeys((*keys, *strings)))
        self._cache: dict[tuple[str, int], jax.Array] = {}

    @functools.cached_property
    def root_NL(self) -> jax.Array:
        """bool[N, L]: the documents that are valid."""
        index = jnp.arange(self.scan.token_NL.shape[-1], dtype=jnp.int32)
        first_N = jnp.argmax(self.scan.token_NL != JsonToken.NONE, axis=-1)
        return (index == first_N[:, None]) & self.scan.valid_N[:, None]

    @functools.cached_property
    def numbers(self) -> JsonNumbers:
        """The numbers, for `json_numbers`."""
        return read_numbers(self.scan)

    @functools.cached_property
    def string_length_NL(self) -> jax.Array:
        """int32[N, L]: the number of code points of every string that is a value."""
        marked_NL = self._unescaped.marked_NL
        counted_NL = jnp.cumsum((marked_NL & 0xC0) != 0x80, axis=-1, dtype=jnp.int32)
        counted_NL = _at(counted_NL, self._unescaped.place_NL)
        closing_NL = next_where(self.scan.closing_NL)
        return _at(counted_NL, closing_NL) - counted_NL - 1

    def spells(self, text: str) -> jax.Array:
        """bool[N, L]: the keys and string values that are one of the literals."""
        word, bit = divmod(self._literals.index(text), _WORD)
        return _has_bit(self._literal_bits[word], bit)

    def children(self, containers_NL: jax.Array, depth: int) -> jax.Array:
        """bool[N, L]: the tokens that stand in the selected containers themselves."""
        return _at(containers_NL, self._parent(depth)) & (self.scan.depth_NL == depth + 1)

    def elements(self, arrays_NL: jax.Array, depth: int) -> jax.Array:
        """bool[N, L]: the elements of the selected arrays."""
        return self.children(arrays_NL, depth) & is_value(self.scan.token_NL)

    def element_count(self, depth: int) -> jax.Array:
        """int32[N, L]: the number of elements, of every array of a depth."""
        inside_NL = self.scan.depth_NL == depth + 1
        elements_NL = inside_NL & is_value(self.scan.token_NL)
        count_NL = jnp.cumsum(elements_NL, axis=-1, dtype=jnp.int32)
        end_NL = next_where(inside_NL & (self.scan.token_NL == JsonToken.ARRAY_END))
        return _at(count_NL, end_NL) - count_NL

    def keys(self, objects_NL: jax.Array, depth: int) -> jax.Array:
        """bool[N, L]: the keys of the selected objects."""
        return self.children(objects_NL, depth) & (self.scan.token_NL == JsonToken.KEY)

    def has(self, objects_NL: jax.Array, depth: int, key: str) -> jax.Array:
        """bool[N, L]: those of the selected objects that have a key."""
        return objects_NL & self._ahead(depth, key)

    def members(self, objects_NL: jax.Array, depth: int, key: str) -> jax.Array:
        """bool[N, L]: the value of a key in each of the selected objects; the last, if several."""
        children_NL = self.children(objects_NL, depth)
        last_NL = self.spells(key) & ~self._ahead(depth, key)
        return children_NL & is_value(self.scan.token_NL) & _at(last_NL, self._last_key)

    @functools.cached_property
    def _last_key(self) -> jax.Array:
        """int32[N, L]: of the value of a key, the place of the key."""
        return last_where(self.scan.token_NL == JsonToken.KEY)

    def _parent(self, depth: int) -> jax.Array:
        """int32[N, L]: the last container of a depth that has opened up to here."""
        if ("parent", depth) not in self._cache:
            token_NL = self.scan.token_NL
            opens_NL = (token_NL == JsonToken.OBJECT) | (token_NL == JsonToken.ARRAY)
            opens_NL &= self.scan.depth_NL == depth
            self._cache["parent", depth] = last_where(opens_NL)
        return self._cache["parent", depth]

    def _ahead(self, depth: int, key: str) -> jax.Array:
        """bool[N, L]: the key follows, in an object of a depth that is open or that opens here."""
        if ("ahead", depth) not in self._cache:
            words = -(-len(self._keys) // _WORD)
            self._cache["ahead", depth] = self._keys_ahead(depth, words)
        word, bit = divmod(self._keys.index(key), _WORD)
        return _has_bit(self._cache["ahead", depth][word], bit)

    def _keys_ahead(self, depth: int, words: int) -> jax.Array:
        """uint32[words, N, L]: a bit for each of the keys that follow before the object ends."""
        token_NL = self.scan.token_NL
        inside_NL = self.scan.depth_NL == depth + 1
        ends_NL = inside_NL & (
            (token_NL == JsonToken.OBJECT_END) | (token_NL == JsonToken.ARRAY_END)
        )
        keys_NL = inside_NL & (token_NL == JsonToken.KEY)
        written = jnp.where(keys_NL, self._literal_bits[:words], jnp.uint32(0))
        mask = jnp.where(ends_NL, ~jnp.uint32(0), written)
        # From the right to the left: the end of an object forgets, a key is remembered.
        registers = masked_writes(jnp.flip(mask, axis=-1), jnp.flip(written, axis=-1))
        return shift_left(jnp.flip(registers, axis=-1), 1)

    @functools.cached_property
    def _literal_bits(self) -> jax.Array:
        """uint32[words, N, L]: at every string and key, a bit for the literal that it is.

        Shift-And (Baeza-Yates and Gonnet 1992), from all places at once: a table says for every
        offset and symbol which literals have that symbol there.
        """
        table = jnp.asarray(_literal_table(self._literals))
        symbol_NL = jnp.minimum(self._unescaped.marked_NL, _DELIMITER)
        width = symbol_NL.shape[-1]
        padded = jnp.pad(symbol_NL, ((0, 0), (0, len(table))))

        def step(j: jax.Array, bits: jax.Array) -> jax.Array:
            ahead_NL = lax.dynamic_slice_in_dim(padded, j, width, axis=1)
            return bits & table[j][:, ahead_NL]

        shape = (table.shape[1], *symbol_NL.shape)
        bits = lax.fori_loop(0, len(table), step, jnp.full(shape, ~np.uint32(0)))
        bits = _at(bits, self._unescaped.place_NL[None])
        token_NL = self.scan.token_NL
        is_string_NL = (token_NL == JsonToken.STRING) | (token_NL == JsonToken.KEY)
        return jnp.where(is_string_NL, bits, jnp.uint32(0))


def _literal_table(literals: Sequence[str]) -> np.ndarray:
    """uint32[offsets, words, symbols]: the literals that have the symbol there, or have ended."""
    spelled = [(_DELIMITER, *text.encode(), _DELIMITER) for text in literals]
    longest, words = max(map(len, spelled)), -(-len(literals) // _WORD)
    table = np.zeros((longest, words, _DELIMITER + 1), np.uint32)
    for number, symbols in enumerate(spelled):
        word, bit = divmod(number, _WORD)
        for offset in range(longest):
            symbol = symbols[offset] if offset < len(symbols) else slice(None)
            table[offset, word, symbol] |= np.uint32(1 << bit)
    return table


def _has_bit(bits: jax.Array, bit: int) -> jax.Array:
    return (bits >> jnp.uint32(bit)) & 1 == 1


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, index, axis=-1, mode="clip")
