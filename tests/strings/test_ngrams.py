"""Words are found as Python finds them, and their n-grams counted as `collections.Counter` does."""

import re
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rft_jax.strings import (
    ByteString,
    distinct_ngrams,
    from_host,
    lcs_words,
    ngram_matches,
    split_alphanumeric,
    split_words,
)
from rft_jax.strings.unicode import is_space

N, L, R = 8, 96, 70
LONGEST = 5
SPLIT = {"words": split_words, "alphanumeric": split_alphanumeric}


def compare(split, a, b):
    a, b = split(a), split(b)
    return {
        "a": a,
        "b": b,
        "matches": ngram_matches(a, b, 1, LONGEST),
        "trigrams": ngram_matches(a, b, 3, 3)[..., 0],
        "lcs": lcs_words(a, b),
        "distinct": distinct_ngrams(a, 2),
    }


COMPARE = {name: jax.jit(lambda a, b, f=split: compare(f, a, b)) for name, split in SPLIT.items()}


def runs(text):
    """Words as rouge-score's default tokenizer finds them."""
    return re.findall("[a-z0-9]+", text.lower())


HOST = {"words": str.split, "alphanumeric": runs}


def ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def fit(text, width):
    """As a truncated answer is: the end of a character that was cut is replaced."""
    cut = text.encode()[:width].decode("utf-8", "replace")
    return cut if len(cut.encode()) <= width else fit(cut[:-1], width)


def words_of(words):
    """The words of a Words of [N, ...]."""
    return [
        "".join(map(chr, row[:length])).split(" ")[1:-1]
        for row, length in zip(*map(np.asarray, words.text), strict=True)
    ]


def check(kind, pairs):
    """Holds everything against Python, for at most N pairs."""
    a, b = (
        [fit(text, width) for text in texts]
        for texts, width in zip(zip(*pairs, strict=True), (L, R), strict=True)
    )
    padding = [""] * (N - len(pairs))
    found = jax.device_get(
        COMPARE[kind](from_host([*a, *padding], L), from_host([*b, *padding], R))
    )
    a, b = ([HOST[kind](text) for text in texts] for texts in (a, b))
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        assert words_of(found["a"])[n] == x and words_of(found["b"])[n] == y
        assert (found["a"].count[n], found["b"].count[n]) == (len(x), len(y))
        common = [(ngrams(x, k) & ngrams(y, k)).total() for k in range(1, LONGEST + 1)]
        assert found["matches"][n].tolist() == common
        assert found["trigrams"][n] == common[2]
        assert found["lcs"][n] == lcs(x, y)
        assert found["distinct"][n] == len(ngrams(x, 2))


PIECES = [
    *["a", "b", "the", "The", "ab", "a1", "cat", " ", " ", " ", "  ", "\n", "\r\n", "\t", "\x00"],
    *["é", "e\u0301", "😀", "\u202eb", "\u200b", "\ufffd", "\u0130", "\u212a", "K", "ß", "א"],
    *["\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000", "\x1c", ",", ".", "'", "a-b", "日本"],
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
WORDY = st.lists(st.sampled_from(["a", "b", "ab", "ba"]), max_size=24).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT) | st.tuples(WORDY, WORDY), min_size=1, max_size=N)


@pytest.mark.parametrize("kind", SPLIT)
@settings(max_examples=60)
@given(PAIRS)
def test_words_and_ngrams_are_those_of_python(kind, pairs):
    check(kind, pairs)


@pytest.mark.parametrize("kind", SPLIT)
@pytest.mark.parametrize(
    "pairs",
    [
        [("", ""), (" ", "a"), ("a", "\n"), ("a", "a"), ("a", " a "), ("ab", "a b")],
        # Prefixes, suffixes and continuations are other words.
        [("ab", "a"), ("ab", "b"), ("a", "ab"), ("b", "ab"), ("a b", "ab"), ("xa a", "a x")],
        # An n-gram is found as often as it occurs in both.
        [("a a a a", "a a"), ("a a", "a a a a"), ("a b a b a", "b a b"), ("a a b a a", "a a a")],
        # At the ends of the words of 32 bits.
        [("a" * k + " b", "a" * k + " b") for k in (29, 30, 31, 32, 33, 61, 62, 63)],
        [("a " * 48, "a " * 35), ("ab " * 32, "ab " * 23), ("a b " * 24, "b a " * 17)],
        # Characters that become shorter in lower case, and what stands around them.
        [("\u212ag \u212a", "kg k"), ("\u0130a", "i a"), ("a\u0130", "ai"), ("\u212a\u0130", "ki")],
    ],
)
def test_edges(kind, pairs):
    check(kind, pairs)


def test_white_space_is_that_of_python():
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace()]
    points = np.arange(0x110000)
    assert [chr(point) for point in points[np.asarray(is_space(points))]] == spaces


def test_lower_case_makes_no_other_ascii_letters():
    becoming = [
        chr(point) for point in range(128, 0x110000) if re.search("[a-z0-9]", chr(point).lower())
    ]
    assert becoming == ["\u0130", "\u212a"]


def test_bytes_of_no_character_are_equal_words():
    a = from_host([b"a\xff \xc3", b"\xfe"] + [b""] * (N - 2), L)
    b = from_host([b"a\xfe \xe2", b"\xff"] + [b""] * (N - 2), R)
    assert COMPARE["words"](a, b)["matches"][:2, :3].tolist() == [[2, 1, 0], [1, 0, 0]]


def test_leading_axes_may_be_any_number():
    a = from_host(["a b c a b", "a a", "x", ""] * 2, L)
    b = from_host(["b c a", "a a a", "y", "z"] * 2, R)
    flat = COMPARE["words"](a, b)
    shaped = [ByteString(x.bytes.reshape(2, 4, -1), x.length.reshape(2, 4)) for x in (a, b)]
    for name, value in COMPARE["words"](*shaped).items():
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(x, y.reshape(x.shape)), value, flat[name]
        )


def test_memory_is_of_the_lengths_not_of_their_product():
    a, b = (from_host(["x y"] * 4, width) for width in (2048, 1024))
    used = COMPARE["words"].lower(a, b).compile().memory_analysis().temp_size_in_bytes
    assert used < 32 * 4 * (2048 + 1024)


def test_shards_of_a_batch_do_not_communicate():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    texts = jax.device_put((from_host(["a b c"] * 8, 64), from_host(["b c"] * 8, 32)), rows)
    program = COMPARE["words"].lower(*texts).compile()
    found = [word for word in ("all-", "permute", "reduce-scatter") if word in program.as_text()]
    assert found == []
    assert program(*texts)["matches"][:, :2].tolist() == [[2, 1]] * 8


@pytest.mark.oracle
@settings(max_examples=300)
@given(TEXT)
def test_alphanumeric_words_are_those_of_rouge_score(text):
    tokenize = pytest.importorskip("rouge_score.tokenize")
    assert runs(text) == tokenize.tokenize(text, None)
