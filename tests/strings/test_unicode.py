"""Code points and case folding agree with Python's own Unicode data."""

import sys
import unicodedata

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import UNICODE_VERSION, case_fold, case_folding_table, decode, from_host
from rft_jax.strings.case_folding_generator import ranges, simple_case_fold
from rft_jax.strings.unicode import fold_points, is_space

N, L = 32, 64
jit_decode, jit_fold = jax.jit(decode), jax.jit(case_fold)
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("IiİıßẞΣσςKkÅåſsⱥȺᾳᾼꭰᎠ𐐀𐐨ǅǆﬅﬆ\u0345\u0300"),
)

# Unicode promises that the folding of an assigned character stays; later versions only add some.
FOLDING = {
    p for first, last, step, _ in case_folding_table.RANGES for p in range(first, last + 1, step)
}


def expected_fold(character):
    """By this Python's data, whatever its version of Unicode."""
    return simple_case_fold(character) if ord(character) in FOLDING else character


def texts():
    text = st.lists(CHARACTERS, max_size=L).map("".join)
    text = text.map(lambda s: s.encode()[:L].decode(errors="ignore"))
    return st.lists(text, min_size=1, max_size=N).map(lambda rows: rows + [""] * (N - len(rows)))


def strings(points):
    """CodePoints as a list of str."""
    rows = zip(np.asarray(points.points), np.asarray(points.length), strict=True)
    return ["".join(map(chr, row[:length])) for row, length in rows]


@settings(max_examples=150)
@given(texts())
def test_decode_gives_the_code_points(rows):
    got = jit_decode(from_host(rows, L))
    assert strings(got) == rows
    assert not np.asarray(got.points)[np.arange(L) >= np.asarray(got.length)[:, None]].any()


def repaired(row):
    """Every byte that belongs to no character as U+FFFD, by Python's decoder."""
    text = ""
    while row:
        try:
            return text + row.decode()
        except UnicodeDecodeError as error:
            text += row[: error.start].decode() + "\ufffd" * (error.end - error.start)
            row = row[error.end :]
    return text


@settings(max_examples=200)
@given(
    st.lists(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [bytes([b]) for b in b"A\x80\xbf\xc0\xc2\xe0\xa0\xed\x9f\xf0\x90\xf4"]
                ),
                CHARACTERS.map(str.encode),
                st.binary(min_size=1, max_size=2),
            ),
            max_size=L,
        ).map(lambda parts: b"".join(parts)[:L]),
        min_size=1,
        max_size=N,
    ).map(lambda rows: rows + [b""] * (N - len(rows)))
)
def test_bytes_of_no_character_become_one_replacement_character_each(rows):
    assert strings(jit_decode(from_host(rows, L))) == [repaired(row) for row in rows]


@settings(max_examples=150)
@given(texts())
def test_case_fold_is_simple_case_folding_of_every_character(rows):
    expected = ["".join(map(expected_fold, row)) for row in rows]
    assert strings(jit_fold(from_host(rows, L))) == expected


def test_case_folding_of_the_characters_that_languages_disagree_on():
    pairs = {
        "İ": "İ",  # only its full and its Turkic folding differ from itself
        "I": "i",
        "ı": "ı",
        "ß": "ß",
        "ẞ": "ß",
        "ΣΑΣ": "σασ",
        "σας": "σασ",
        "\u212a": "k",
        "\u2126": "ω",
        "ſ": "s",
        "ᾼ": "ᾳ",
        "Ꭰꭰ": "ᎠᎠ",
        "Ⱥ": "ⱥ",
        "𐐀": "𐐨",
        "\u0345": "ι",
        "Straße": "straße",
    }
    rows = list(pairs)
    assert strings(jit_fold(from_host(rows, L))) == list(pairs.values())


def test_the_table_is_what_the_generator_writes():
    if unicodedata.unidata_version == UNICODE_VERSION:
        assert tuple(ranges()) == case_folding_table.RANGES
    points = np.array([p for p in range(sys.maxunicode + 1) if not 0xD800 <= p < 0xE000], np.int32)
    folded = np.asarray(jax.jit(fold_points)(points))
    assert "".join(map(chr, folded)) == "".join(expected_fold(chr(point)) for point in points)


def test_folding_twice_changes_nothing():
    points = np.arange(0x110000, dtype=np.int32)
    folded = jax.jit(fold_points)(points)
    np.testing.assert_array_equal(fold_points(folded), folded)


def test_white_space_is_that_of_python():
    points = np.arange(0x110000, dtype=np.int32)
    expected = [chr(point).isspace() for point in points]
    np.testing.assert_array_equal(jax.jit(is_space)(points), expected)
