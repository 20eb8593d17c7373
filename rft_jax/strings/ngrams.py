"""Texts as words: n-grams that two of them have in common, and their longest common subsequence.

    a, b = split_words(text), split_words(reference)
    ngram_matches(a, b, 1, 4)  # for n = 1, 2, 3, 4

Words are compared symbol by symbol, never by hash. Time is L * R and memory L + R throughout.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.strings.bit_parallel import BITS, by_width, sweep, zeros_of
from rft_jax.strings.byte_string import (
    Array,
    ByteString,
    CodePoints,
    compress,
    shift_left,
    shift_right,
)
from rft_jax.strings.edit_distance import lcs_of, lcs_step
from rft_jax.strings.unicode import decode, is_space

SEPARATOR = ord(" ")


class Words(NamedTuple):
    """Texts split into words.

    Attributes:
        text: CodePoints of [..., L + 2], the words with one `SEPARATOR` before each and one after
            the last; a lone one if there are none.
        count: int32[...], the number of words.
    """

    text: CodePoints
    count: jax.Array


def split_words(text: ByteString) -> Words:
    """The words between white space, as `str.split` has them."""
    points, length = decode(text)
    outside = jnp.arange(points.shape[-1]) >= length[..., None]
    return _words(points, is_space(points) | outside)


def split_alphanumeric(text: ByteString) -> Words:
    """The runs of ASCII letters and digits, in lower case: the default tokenizer of rouge-score.

    As it takes the lower case first, which of U+0130 is "i" with a dot above, and of U+212A, the
    sign for kelvin, "k", these two become ASCII letters.
    """
    inside = jnp.arange(text.bytes.shape[-1]) < text.length[..., None]
    byte = jnp.where(inside, text.bytes, 0).astype(jnp.int32)
    second, third = shift_left(byte, 1), shift_left(byte, 2)
    dotted = (byte == 0xC4) & (second == 0xB0)
    kelvin = (byte == 0xE2) & (second == 0x84) & (third == 0xAA)
    rest_of_kelvin = shift_right(kelvin, 1) | shift_right(kelvin, 2)

    upper = (byte >= ord("A")) & (byte <= ord("Z"))
    letter = jnp.where(upper, byte | 0x20, byte)
    letter = jnp.where(dotted, ord("i"), jnp.where(kelvin, ord("k"), letter))
    is_letter = (letter >= ord("a")) & (letter <= ord("z"))
    is_digit = (letter >= ord("0")) & (letter <= ord("9"))
    return _words(letter, ~(is_letter | is_digit | rest_of_kelvin), rest_of_kelvin)


def _words(symbol: Array, separates: jax.Array, dropped: jax.Array | None = None) -> Words:
    """The words: one separator is left of every run of them and at each end."""
    ends = [(0, 0)] * (symbol.ndim - 1) + [(1, 1)]
    separates = jnp.pad(separates, ends, constant_values=True)
    keep = ~(separates & shift_right(separates, 1))
    if dropped is not None:
        keep &= ~jnp.pad(dropped, ends)
    text = compress(jnp.where(separates, SEPARATOR, jnp.pad(symbol, ends)), keep)
    return Words(CodePoints(*text), (keep & separates).sum(axis=-1, dtype=jnp.int32) - 1)


def ngram_matches(a: Words, b: Words, shortest: int, longest: int) -> jax.Array:
    """How many n-grams of one text are found in the other, each of which is found once.

    Args:
        a: [..., L].
        b: [..., R].
        shortest: N of the shortest n-grams.
        longest: N of the longest ones.

    Returns:
        int32[..., longest - shortest + 1]: for each n the sum, over all n-grams, of the lower of
        both numbers of occurrences.
    """
    return _count_ngrams(a, b, shortest, longest, each_once=True)


def distinct_ngrams(words: Words, n: int) -> jax.Array:
    """int32[...]: the number of different n-grams of a text."""
    return _count_ngrams(words, words, n, n, each_once=False)[..., 0]


def lcs_words(a: Words, b: Words) -> jax.Array:
    """int32[...]: length in words of the longest common subsequence."""
    text, pattern = by_width(a.text, b.text)
    zeros, ngrams = zeros_of(pattern), zeros_of(pattern, 1)

    def step(
        state: tuple[jax.Array, jax.Array],
        message: tuple[jax.Array, jax.Array],
        matches: jax.Array,
        symbol: jax.Array,
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        (equal, row), (from_left, carry) = state, message
        equal, complete, to_right = _extend(equal, from_left, matches, symbol)
        row, carry = lcs_step(row, carry, complete[:, 0])
        return (equal, row), (to_right, carry)

    _, row = sweep(step, (ngrams, ~zeros), (ngrams, zeros), text, pattern)
    return lcs_of(row)


def _extend(
    equal: jax.Array, from_left: jax.Array, matches: jax.Array, symbol: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Follows, for n = 1 to K, the n-grams of both texts that are equal so far.

    Args:
        equal: uint32[W, K, ...]. A position of the pattern is set if the n - 1 words before its
            last separator, and what follows that, are equal to what the text has up to now.
        from_left: uint32[W, K, ...], in the lowest bit the same of the position before the block.
        matches: uint32[W, ...], the positions with the text's next symbol.
        symbol: int32[W, ...], that symbol.

    Returns:
        `equal` with the symbol; the positions, in the same form, where an n-gram of the pattern
        ends that is equal to the one which ends here in the text; and `from_left` of the next
        block.
    """
    matches, is_end = matches[:, None], (symbol == SEPARATOR)[:, None]
    longer = matches & (equal << 1 | from_left)
    # Behind a separator, the n words before it become the first n of n + 1.
    shifted = jnp.concatenate([matches, longer[:, :-1]], axis=1)
    return (
        jnp.where(is_end, shifted, longer),
        jnp.where(is_end, longer, 0),
        equal >> (BITS - 1),
    )


def _count_ngrams(a: Words, b: Words, shortest: int, longest: int, each_once: bool) -> jax.Array:
    """int32[..., longest - shortest + 1]: how often an n-gram of one text is found in the other.

    Of equal n-grams the first is found that was not found before; unless each is found once, all
    of its equals then count as found.
    """
    text, pattern = by_width(a.text, b.text)
    equal, found = zeros_of(pattern, longest), zeros_of(pattern, longest - shortest + 1)

    def step(
        state: tuple[jax.Array, jax.Array, jax.Array],
        message: tuple[jax.Array, jax.Array],
        matches: jax.Array,
        symbol: jax.Array,
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        (equal, found, count), (from_left, done) = state, message
        equal, complete, to_right = _extend(equal, from_left, matches, symbol)
        complete = complete[:, shortest - 1 :]
        new = jnp.where(done, 0, complete & ~found)
        found |= new & -new if each_once else complete
        is_new = new != 0
        return (equal, found, count + is_new), (to_right, done | is_new)

    state = equal, found, jnp.zeros_like(found, jnp.int32)
    _, _, count = sweep(step, state, (equal, jnp.zeros_like(found, bool)), text, pattern)
    return jnp.moveaxis(count.sum(axis=0, dtype=jnp.int32), 0, -1)
