r"""Texts that are one answer and nothing else, read in pure jnp: a number, a word, or some of them.

    found = read_answer(text, most=8)
    host = host_answer(r"(\frac{1}{2}, 3]")

An answer is one element, or several with commas, semicolons, `and` or `or` between them, perhaps in
brackets. An element is a number as `number_grammar` has it, perhaps with a unit behind it; a word,
or a few; or infinity. `x =` may stand in front, math delimiters, `\text{}` and a full stop around
it. Anything else, such as a root, a product or an inequality, makes the text no answer of that
kind, as does a length of more than `MOST_BYTES`.
"""

import functools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.strings.byte_string import ByteString, compress, last_where, next_where, shift_left
from rft_jax.strings.decimals import Decimals
from rft_jax.strings.number_grammar import ANSWER_TOKEN, MONEY, kind_of
from rft_jax.strings.numbers import (
    KIND,
    Parts,
    fraction_of,
    group_tables,
    is_part,
    kinds_of,
    parts_of,
    read_number,
)
from rft_jax.strings.regex import find_groups

MOST_BYTES = 256
WORD_BYTES = 48  # of a word or a unit
_VALUES = ("number", "infinity", "other")  # what has no place in a name


class Elements(NamedTuple):
    """The K elements of the answers that N texts are.

    Attributes:
        exists_N: bool, the text is such an answer, and all of its elements can be read.
        count_N: int32, number of elements, which may be more than K; zero where there is no answer.
        left_N: int32, the bracket around several elements, 0 for none.
        right_N: int32.
        number: Numbers, K for every text, flat.
        is_number_NK: bool.
        percent_NK: bool, the number is written as percent.
        infinity_NK: int32, 1 or -1 for infinities, else 0.
        word: ByteString of [N, K, `WORD_BYTES`], small letters in place of ASCII capitals; empty
            for other elements.
        unit: Likewise, what stands behind a number, as it is written.
        named_N: bool, a name and an equals sign or colon stand in front of an element.
    """

    exists_N: jax.Array
    count_N: jax.Array
    left_N: jax.Array
    right_N: jax.Array
    number: Decimals
    is_number_NK: jax.Array
    percent_NK: jax.Array
    infinity_NK: jax.Array
    word: ByteString
    unit: ByteString
    named_N: jax.Array


class HostElement(NamedTuple):
    """An element on the host; see `Elements`."""

    number: Fraction | None = None
    percent: bool = False
    infinity: int = 0
    word: str = ""
    unit: str = ""


class HostAnswer(NamedTuple):
    """An answer on the host; see `Elements`."""

    elements: tuple[HostElement, ...]
    left: str = ""
    right: str = ""
    named: bool = False


class _Token(NamedTuple):
    kind: str
    text: str
    parts: Parts


class _Structure(NamedTuple):
    """The tokens that are an answer's elements, and the brackets around them."""

    elements: list[_Token]
    left: str
    right: str
    named: bool


@functools.cache
def _answer_token() -> re.Pattern[str]:
    return re.compile(ANSWER_TOKEN)


def host_answer(text: str, most: int = 1, accounting: bool = False) -> HostAnswer | None:
    """The answer that a text is, on the host; arguments as for `read_answer`."""
    if len(text.encode(errors="replace")) > MOST_BYTES:
        return None
    structure = _structure(text)
    if structure is None or len(structure.elements) > most:
        return None
    read = (_element(token, accounting) for token in structure.elements)
    found = [element for element in read if element is not None]
    if len(found) < len(structure.elements):
        return None
    if len(found) > 1:
        return HostAnswer(tuple(found), structure.left, structure.right, structure.named)
    (element,), (token,) = found, structure.elements
    if (structure.left, structure.right) == ("(", ")") and element.number is not None:
        if "currency" in token.parts or accounting:
            element = element._replace(number=-element.number)
    return HostAnswer((element,), named=structure.named)


def host_count(text: str) -> int:
    """Number of elements of the answer that a text is, whether or not they can be read; else 0."""
    structure = _structure(text)
    return len(structure.elements) if structure else 0


def _structure(text: str) -> "_Structure | None":
    if len(text.encode(errors="replace")) > MOST_BYTES:
        return None
    runs: list[list[_Token]] = [[]]
    named = False
    for token in _tokens(text):
        if token.kind == "separator":
            runs.append([])
        elif token.kind == "equals":
            # The first one may have a list of names in front of it: (x, y) = (1, 2).
            before = [t for run in (runs[-1:] if named else runs) for t in run]
            if any(t.kind in _VALUES for t in before):
                before = runs[-1]
            else:
                runs = runs if named else [[]]
            if any(t.kind in _VALUES for t in before):
                return None
            runs[-1] = []
            named = True
        else:
            runs[-1].append(token)
    left = right = ""
    elements: list[_Token] = []
    for n, run in enumerate(runs):
        for token in run:
            opens, closes = "opens" in token.parts, "closes" in token.parts
            match token.kind:
                case "left" if not elements:
                    left += token.text[-1]
                case "right" if len(elements) == len(runs):
                    right += token.text[-1]
                case "number" | "infinity" | "word" if len(elements) == n:
                    elements.append(token)
                    if (opens and not closes and n) or (
                        closes and not opens and run is not runs[-1]
                    ):
                        return None
                    left += "(" * (opens and not closes)
                    right += ")" * (closes and not opens)
                case _:
                    return None
        if len(elements) != n + 1:
            return None
    if max(len(left), len(right)) > 1 or bool(left) != bool(right) and len(runs) > 1:
        return None
    return _Structure(elements, left, right, named)


def _tokens(text: str) -> Iterator[_Token]:
    for match in _answer_token().finditer(text):
        spans = {
            name: match.span(name) for name, part in match.groupdict().items() if part is not None
        }
        kinds = {kind_of(name) for name in spans}
        for kind in ("number", "infinity"):
            if kind in kinds:
                yield _Token(kind, match[0], parts_of(match, *match.span()))
                break
        else:
            for name in spans:
                yield _Token(kind_of(name), match[name], {})


def _element(token: _Token, accounting: bool) -> HostElement | None:
    if token.kind == "number":
        return _number(token.parts, accounting)
    if token.kind == "infinity":
        return HostElement(infinity=-1 if "minus" in token.parts else 1)
    word = fold_ascii(token.text)
    return HostElement(word=word) if len(word.encode()) <= WORD_BYTES else None


def _number(parts: Parts, accounting: bool) -> HostElement | None:
    value = fraction_of(parts, accounting)
    if value is None:
        return None
    unit = "".join(parts.get("unit", ()))
    if "currency" not in parts:
        unit = "".join(text for kind in MONEY for text in parts.get(kind, ())) + unit
    if len(unit.encode()) > WORD_BYTES:
        return None
    return HostElement(number=value, percent="percent" in parts, unit=unit)


def fold_ascii(text: str) -> str:
    """Small letters in place of ASCII capitals."""
    return "".join(c.lower() if c.isascii() else c for c in text)


class Structure(NamedTuple):
    """How N texts are built as answers.

    Attributes:
        kind_NL: int32, the places in `KINDS` of the bytes; 0 for those of names.
        part_NL: bool, the bytes of numbers.
        start_NL: bool, where elements start.
        element_NL: int32, the number of the element that a byte is of, from 0 on.
        count_N: int32, number of elements; zero where a text is no answer.
        left_N: int32, the bracket in front, 0 for none.
        right_N: int32.
        named_N: bool, a name and an equals sign or colon stand in front of an element.
    """

    kind_NL: jax.Array
    part_NL: jax.Array
    start_NL: jax.Array
    element_NL: jax.Array
    count_N: jax.Array
    left_N: jax.Array
    right_N: jax.Array
    named_N: jax.Array

    def debit_N(self, accounting: bool) -> jax.Array:
        """bool[N]: the brackets around one number are those of bookkeeping, a minus."""
        debit_N = (self.count_N == 1) & (self.left_N == ord("(")) & (self.right_N == ord(")"))
        return debit_N & ((self.kind_NL == KIND["currency"]).any(axis=-1) | accounting)

    @property
    def unit_NL(self) -> jax.Array:
        """bool[N, L]: units behind numbers, among them letters that are no scale without money."""
        currency = self.kind_NL == KIND["currency"]
        money = jnp.zeros(currency.shape, bool)
        for kind in MONEY:
            money |= self.kind_NL == KIND[kind]
        # The number that a letter is of starts behind the last start.
        money &= last_where(currency) < last_where(self.start_NL)
        return (self.kind_NL == KIND["unit"]) | money


def structure_of(text: ByteString) -> Structure:
    """How texts of [N, L] are built."""
    tables = group_tables(ANSWER_TOKEN)
    groups = find_groups(tables, text)
    kind_NL = kinds_of(tables, groups.number)
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    wrong_N = (kind_NL == KIND["other"]).any(axis=-1) | (jnp.asarray(text.length) > MOST_BYTES)

    # What stands before an equals sign names the answer: an element, or, before the first one, all.
    equals_NL, separates_NL = (kind_NL == KIND[kind] for kind in ("equals", "separator"))
    values_NL = (groups.starts & is_part(kind_NL)) | (kind_NL == KIND["infinity"])
    values_NL |= kind_NL == KIND["other"]
    first_NL = jnp.cumsum(equals_NL, axis=-1, dtype=jnp.int32) == 0
    list_N = equals_NL.any(axis=-1) & ~(first_NL & values_NL).any(axis=-1)
    list_NL = first_NL & list_N[:, None]
    separates_NL &= ~list_NL
    named_NL = (next_where(equals_NL) < next_where(separates_NL)) | equals_NL | list_NL
    wrong_N |= (named_NL & values_NL).any(axis=-1)
    part_NL = is_part(kind_NL) & ~named_NL
    kind_NL = jnp.where(named_NL, 0, kind_NL)

    # Every element starts once.
    separator_NL = groups.starts & separates_NL
    start_NL = groups.starts & ~named_NL & ~separates_NL
    element_NL = jnp.cumsum(separator_NL, axis=-1, dtype=jnp.int32)
    begun_NL = jnp.cumsum(start_NL, axis=-1, dtype=jnp.int32)
    wrong_N |= (separator_NL & (begun_NL != element_NL)).any(axis=-1)
    count_N = element_NL[:, -1] + 1
    wrong_N |= begun_NL[:, -1] != count_N

    left_N, right_N, misplaced_N = _brackets(byte, kind_NL, part_NL, start_NL, begun_NL)
    wrong_N |= misplaced_N | ((count_N > 1) & ((left_N == 0) != (right_N == 0)))
    return Structure(
        kind_NL=kind_NL,
        part_NL=part_NL,
        start_NL=start_NL,
        element_NL=element_NL,
        count_N=jnp.where(wrong_N, 0, count_N),
        left_N=left_N,
        right_N=right_N,
        named_N=named_NL.any(axis=-1),
    )


def _brackets(
    byte: jax.Array,
    kind_NL: jax.Array,
    part_NL: jax.Array,
    start_NL: jax.Array,
    begun_NL: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The brackets around each answer, and where there are more, or they are in its middle."""
    last_NL = begun_NL == begun_NL[:, -1:]
    lefts_NL, rights_NL = kind_NL == KIND["left"], kind_NL == KIND["right"]
    left_N, left_count_N = _bracket(byte, lefts_NL, b"([{")
    right_N, right_count_N = _bracket(byte, rights_NL, b")]}")
    wrong_N = ((lefts_NL & (begun_NL > 0)) | (rights_NL & ~last_NL)).any(axis=-1)
    # A bracket that a number alone does not close is one around the list.
    number_NL = start_NL & part_NL
    opens_NL = (kind_NL == KIND["opens"]) & part_NL
    closes_NL = (kind_NL == KIND["closes"]) & part_NL
    ends_NL = shift_left(next_where(~part_NL | number_NL), 1)
    open_NL = opens_NL & (next_where(closes_NL) >= ends_NL)
    open_NL &= shift_left(next_where(opens_NL), 1) >= ends_NL
    close_NL = closes_NL & (last_where(opens_NL) < last_where(number_NL))
    wrong_N |= ((open_NL & (begun_NL > 1)) | (close_NL & ~last_NL)).any(axis=-1)
    left_count_N += open_NL.sum(axis=-1, dtype=jnp.int32)
    right_count_N += close_NL.sum(axis=-1, dtype=jnp.int32)
    left_N = jnp.where(open_NL.any(axis=-1), ord("("), left_N)
    right_N = jnp.where(close_NL.any(axis=-1), ord(")"), right_N)
    return left_N, right_N, wrong_N | (left_count_N > 1) | (right_count_N > 1)


def read_answer(text: ByteString, most: int = 1, accounting: bool = False) -> Elements:
    """The answers that texts are.

    Args:
        text: ByteString of [N, L].
        most: K, the greatest number of elements.
        accounting: Brackets around any number make it negative, not only around amounts of money.
    """
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    structure = structure_of(text)
    kind_NL, count_N = structure.kind_NL, structure.count_N
    of_K = jnp.arange(most, dtype=jnp.int32)
    in_NKL = structure.element_NL[:, None, :] == of_K[:, None]
    used_NK = of_K < count_N[:, None]

    def any_in(mask_NL: jax.Array) -> jax.Array:
        return (mask_NL[:, None, :] & in_NKL).any(axis=-1)

    flat = ByteString(*(jnp.repeat(jnp.asarray(x), most, axis=0) for x in text))
    flat_kind = jnp.repeat(kind_NL, most, axis=0)
    has_number_NK = any_in(structure.start_NL & structure.part_NL)
    inside = in_NKL & structure.part_NL[:, None, :] & has_number_NK[:, :, None]
    found = read_number(flat, flat_kind, inside.reshape(flat_kind.shape), accounting)
    folded = byte + 32 * ((byte >= ord("A")) & (byte <= ord("Z")))
    word = _strings(folded, in_NKL & (kind_NL == KIND["word"])[:, None, :])
    unit = _strings(byte, in_NKL & structure.unit_NL[:, None, :])
    exists_N = (count_N > 0) & (count_N <= most)
    exists_N &= ~(used_NK & has_number_NK & ~found.exists_N.reshape(used_NK.shape)).any(axis=-1)
    exists_N &= ~((word.length > WORD_BYTES) | (unit.length > WORD_BYTES)).any(axis=-1)

    negative_NK = found.number.negative_N.reshape(used_NK.shape)
    negative_NK ^= structure.debit_N(accounting)[:, None]
    nonzero = jnp.asarray(found.number.digits_ND)[:, 0] != 0
    used_NK &= exists_N[:, None]
    infinity_NK = any_in(kind_NL == KIND["infinity"]) & used_NK
    minus_NK = any_in(kind_NL == KIND["minus"])
    several_N = count_N > 1
    return Elements(
        exists_N=exists_N,
        count_N=count_N,
        left_N=jnp.where(several_N, structure.left_N, 0),
        right_N=jnp.where(several_N, structure.right_N, 0),
        number=found.number._replace(negative_N=negative_NK.reshape(-1) & nonzero),
        is_number_NK=has_number_NK & used_NK,
        percent_NK=found.percent_N.reshape(used_NK.shape) & used_NK,
        infinity_NK=jnp.where(infinity_NK, jnp.where(minus_NK, -1, 1), 0),
        word=word,
        unit=unit,
        named_N=structure.named_N & exists_N,
    )


def _bracket(byte: jax.Array, mask_NL: jax.Array, brackets: bytes) -> tuple[jax.Array, jax.Array]:
    """The bracket in each row, and how many there are."""
    here = jnp.zeros(byte.shape, bool)
    for bracket in brackets:
        here |= mask_NL & (byte == bracket)
    return jnp.where(here, byte, 0).max(axis=-1, initial=0), here.sum(axis=-1, dtype=jnp.int32)


def _strings(byte: jax.Array, keep_NKL: jax.Array) -> ByteString:
    """The kept bytes of every element; those that are too long are cut, but not their lengths."""
    N, K, L = keep_NKL.shape
    values = jnp.broadcast_to(byte[:, None, :], keep_NKL.shape).reshape(N * K, L)
    kept, count = compress(values.astype(jnp.uint8), keep_NKL.reshape(N * K, L))
    kept = jnp.pad(kept, ((0, 0), (0, max(0, WORD_BYTES - L))))[:, :WORD_BYTES]
    return ByteString(kept.reshape(N, K, WORD_BYTES), count.reshape(N, K))
