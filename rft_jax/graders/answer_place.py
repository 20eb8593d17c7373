r"""Where in a text the answer stands: behind a marker such as "Answer:", `####` or `\boxed{`.

    marker = Marker("Answer:")
    span = last_marked(text, (marker,))

The last marker counts, in any letter case. A colon at its end may have blanks or asterisks in front
of it, and `is` or `=` may stand in its place: "Answer:" also marks "**answer** : 5" and "The answer
is 5". What is marked ends

- behind a marker that ends with an opening bracket, such as `\boxed{`, with the bracket that closes
  it; where none does, nothing is marked;
- behind a tag such as `<answer>`, with its closing tag, if there is one;
- with `end`, if that is given and there is one;
- else with the line, blanks and empty lines in front of it aside.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.graders.spec_reader import Fields
from rft_jax.strings import ByteString, from_host, occurrences
from rft_jax.strings.answers import fold_ascii
from rft_jax.strings.byte_string import Array, last_where, next_where, shift_left, shift_right

_CLOSING = {"{": "}", "(": ")", "[": "]"}
_SKIPPED = b" \t\r\n*_"  # between a marker's words, its colon, and what it marks
BOXES = ("\\boxed{", "\\fbox{")


class Span(NamedTuple):
    """A part of each of N texts, in bytes.

    Attributes:
        start_N: int32.
        end_N: int32.
        found_N: bool; without, start and end are 0.
        whole_N: bool, it is what brackets or tags enclose, not a line.
    """

    start_N: Array
    end_N: Array
    found_N: Array
    whole_N: Array


@dataclass(frozen=True)
class Marker:
    """One marker.

    Attributes:
        text: As it is given.
        end: What ends the answer, empty for the rule of the module.
    """

    text: str
    end: str = ""

    @property
    def words(self) -> str:
        """The marker without a colon at its end."""
        return fold_ascii(self.text.removesuffix(":").rstrip() if self.has_colon else self.text)

    @property
    def has_colon(self) -> bool:
        """Whether a colon, `is` or `=` has to follow the words."""
        return self.text.endswith(":") and bool(self.text.removesuffix(":").strip())

    @property
    def closing(self) -> str:
        """The bracket or tag that closes what is marked; empty for none."""
        if self.end:
            return self.end
        if re.fullmatch(r"<[A-Za-z][\w-]*>", self.text):
            return f"</{self.text[1:]}"
        return _CLOSING.get(self.text[-1], "")

    @property
    def is_bracket(self) -> bool:
        """Whether a bracket has to close what is marked."""
        return not self.end and self.text[-1] in _CLOSING


def parse_markers(fields: Fields, default: Sequence[str] = ()) -> tuple[Marker, ...]:
    """Reads the fields `marker`, a text or a list of them, and `end`.

    Raises:
        InputError: Naming the field.
    """
    given = fields.values.get("marker", list(default))
    texts = given if isinstance(given, list) else [given]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise fields.error("marker", 'must not be empty; write a text such as "####"')
        fields.unicode("marker", text)
    end = fields.unicode("end", fields.string("end")) if "end" in fields.values else ""
    if "end" in fields.values and not (end and texts):
        raise fields.error("end", "needs a marker in front of it, and must not be empty")
    return tuple(Marker(text, end) for text in texts)


def last_marked(text: ByteString, markers: Sequence[Marker]) -> Span:
    """What the last marker of each text marks.

    Args:
        text: ByteString of [N, L].
        markers: One at least.
    """
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    found, place_N = _last(text, byte, markers[0])
    for marker in markers[1:]:
        span, its_place_N = _last(text, byte, marker)
        later_N = its_place_N > place_N
        found = jax.tree.map(lambda a, b, n=later_N: jnp.where(n, a, b), span, found)
        place_N = jnp.maximum(place_N, its_place_N)
    return Span(
        jnp.where(found.found_N, found.start_N, 0),
        jnp.where(found.found_N, found.end_N, 0),
        found.found_N,
        found.whole_N & found.found_N,
    )


def _last(text: ByteString, byte: jax.Array, marker: Marker) -> tuple[Span, jax.Array]:
    """What the last occurrence of one marker marks, and where it ends, -1 without one."""
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    length_N = jnp.asarray(text.length)
    folded = byte + 32 * ((byte >= ord("A")) & (byte <= ord("Z")))
    words = marker.words
    here_NL = occurrences(ByteString(folded.astype(jnp.uint8), text.length), _literal(words, byte))
    if words[0].isascii() and words[0].isalpha():
        here_NL &= ~shift_right(_is_letter(byte), 1)
    size = len(words.encode())
    after_NL = jnp.where(here_NL, index + size, width)  # one past the marker
    if marker.has_colon:
        after_NL = _behind_colon(folded, after_NL, here_NL)
    place_NL = jnp.where(here_NL & (after_NL <= length_N[:, None]), after_NL, -1)
    place_N = place_NL.max(axis=-1, initial=-1)
    found_N, start_N = place_N >= 0, jnp.maximum(place_N, 0)
    whole_N = jnp.full(start_N.shape, bool(marker.closing))
    if marker.is_bracket:
        end_N = _closing(byte, start_N, marker.text[-1])
        return Span(start_N, end_N, found_N & (end_N >= 0), whole_N), place_N
    # Blanks in front of the answer do not end it.
    skip = next_where(~_is_any(byte, _SKIPPED) | (index >= length_N[:, None]))
    line_N = jnp.minimum(_at(skip, start_N), length_N)
    newline = next_where(byte == ord("\n"))
    end_N = jnp.minimum(_at(newline, line_N), length_N)
    if marker.closing:
        closing = next_where(occurrences(text, _literal(marker.closing, byte)))
        close_N = _at(closing, start_N)
        closed_N = (close_N < width) & (start_N < width)
        end_N = jnp.where(closed_N, close_N, end_N)
        whole_N &= closed_N
        line_N = jnp.where(closed_N, start_N, line_N)
    return Span(line_N, end_N, found_N, whole_N), place_N


def _literal(text: str, byte: jax.Array) -> ByteString:
    return from_host([text] * byte.shape[0], len(text.encode()))


def _behind_colon(byte: jax.Array, after_NL: jax.Array, here_NL: jax.Array) -> jax.Array:
    """One past a colon, `is` or `=` behind the places; beyond all texts where there is none."""
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    skip = next_where(~_is_any(byte, b" \t*_"))
    is_verb = (byte == ord("i")) & (shift_left(byte, 1) == ord("s"))
    is_verb &= ~shift_left(_is_letter(byte) | _is_digit(byte), 2)
    wide = (byte == 0xEF) & (shift_left(byte, 1) == 0xBC) & (shift_left(byte, 2) == 0x9A)
    size = jnp.where(is_verb, 2, jnp.where(wide, 3, jnp.where(_is_any(byte, b":="), 1, 0)))
    behind = jnp.where(size > 0, index + size, width + 1)  # at the place of the colon itself
    # The answer is: 5
    again = _at(jnp.pad(skip, ((0, 0), (0, 1)), constant_values=width), jnp.minimum(behind, width))
    colon = _at(jnp.pad(byte, ((0, 0), (0, 1))), again) == ord(":")
    behind = jnp.where(is_verb & colon, again + 1, behind)
    place = _at(skip, jnp.minimum(after_NL, width - 1))
    found = _at(jnp.pad(behind, ((0, 0), (0, 1)), constant_values=width + 1), place)
    return jnp.where(here_NL & (after_NL < width), found, width + 1)


def _closing(byte: jax.Array, start_N: jax.Array, bracket: str) -> jax.Array:
    """Where the bracket in front of the place is closed; -1 where it is not."""
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    escaped = shift_right(byte == ord("\\"), 1) & ~shift_right(byte == ord("\\"), 2)
    opens = (byte == ord(bracket)) & ~escaped
    closes = (byte == ord(_CLOSING[bracket])) & ~escaped
    depth = jnp.cumsum(opens.astype(jnp.int32) - closes, axis=-1, dtype=jnp.int32)
    outer_N = _at(depth, jnp.maximum(start_N - 1, 0)) - 1
    ends = closes & (depth == outer_N[:, None]) & (index >= start_N[:, None])
    end_N = jnp.where(ends, index, width).min(axis=-1, initial=width)
    return jnp.where(end_N == width, -1, end_N)


def last_formula(text: ByteString, within: Span) -> Span:
    r"""The inside of the last `$...$`, `\(...\)` or `\[...\]` of each text.

    A dollar sign closes a formula if neither a blank is in front of it nor a digit behind it, and
    the one before it opens the formula if no blank follows: "$5 and $6" has none.

    Args:
        text: ByteString of [N, L].
        within: Where to look; in all of the text where it is not found.
    """
    byte = jnp.asarray(text.bytes).astype(jnp.int32)
    width = byte.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    low_N = jnp.where(within.found_N, within.start_N, 0)[:, None]
    high_N = jnp.where(within.found_N, within.end_N, text.length)[:, None]
    inside = (index >= low_N) & (index < high_N)
    backslash = byte == ord("\\")
    dollar = (byte == ord("$")) & ~shift_right(backslash, 1) & inside
    opens_NL = shift_right(last_where(dollar) + 1, 1) - 1
    blank = _is_any(byte, b" \t\r\n")
    closes = dollar & (opens_NL >= 0) & ~shift_right(blank | dollar, 1)
    closes &= ~shift_left(_is_digit(byte), 1)
    closes &= ~jnp.take_along_axis(blank, opens_NL + 1, axis=-1, mode="clip")
    dollar_N = jnp.where(closes, index, -1).max(axis=-1, initial=-1)

    following = jnp.where(inside, shift_left(jnp.where(inside, byte, 0), 1), 0)
    left = backslash & _is_any(following, b"([")
    right = backslash & _is_any(following, b")]")
    before_NL = last_where(left)
    bracket_N = jnp.where(right & (before_NL >= 0), index, -1).max(axis=-1, initial=-1)

    is_dollar_N = dollar_N > bracket_N
    end_N = jnp.maximum(dollar_N, bracket_N)
    found_N = end_N >= 0
    end_N = jnp.maximum(end_N, 0)
    start_N = jnp.where(is_dollar_N, _at(opens_NL, end_N) + 1, _at(before_NL, end_N) + 2)
    nothing = jnp.zeros_like(found_N)
    return Span(jnp.where(found_N, start_N, 0), end_N, found_N, nothing)


def _at(x_NL: jax.Array, index: jax.Array) -> jax.Array:
    flat = index if index.ndim == 2 else index[:, None]
    found = jnp.take_along_axis(x_NL, flat, axis=-1, mode="clip")
    return found if index.ndim == 2 else found[:, 0]


def _is_any(byte: jax.Array, characters: bytes) -> jax.Array:
    found = jnp.zeros(byte.shape, bool)
    for character in characters:
        found |= byte == character
    return found


def _is_letter(byte: jax.Array) -> jax.Array:
    lower = byte | 0x20
    return (lower >= ord("a")) & (lower <= ord("z"))


def _is_digit(byte: jax.Array) -> jax.Array:
    return (byte >= ord("0")) & (byte <= ord("9"))


class HostMarked(NamedTuple):
    """What is marked in a text on the host; see `Span`."""

    text: str
    whole: bool


def last_marked_on_host(text: str, markers: Sequence[Marker]) -> HostMarked | None:
    """What the last marker of a text marks, with `re`; None if nothing is marked."""
    best: tuple[int, Marker | None] = -1, None
    for marker in markers:
        for match in _pattern(marker).finditer(text):
            if match.end(1) > best[0]:
                best = match.end(1), marker
    start, marker = best
    if marker is None:
        return None
    if marker.is_bracket:
        end = _closing_on_host(text, start, marker.text[-1])
        return HostMarked(text[start:end], True) if end >= 0 else None
    if marker.closing and (end := text.find(marker.closing, start)) >= 0:
        return HostMarked(text[start:end], True)
    line = re.compile(r"[ \t\r\n*_]*([^\n]*)").match(text, start)
    assert line, "the pattern matches anywhere"
    return HostMarked(line[1], False)


def _pattern(marker: Marker) -> re.Pattern[str]:
    words = "".join(
        f"[{c}{c.upper()}]" if c.isascii() and c.isalpha() else re.escape(c) for c in marker.words
    )
    alone = "(?<![A-Za-z])" if re.match("[A-Za-z]", marker.words) else ""
    colon = r"[ \t*_]*(?:[iI][sS](?![A-Za-z0-9])(?:[ \t*_]*:)?|[:：=])" if marker.has_colon else ""
    # A lookahead, as occurrences may overlap.
    return re.compile(f"{alone}(?=({words}{colon}))")


def _closing_on_host(text: str, start: int, bracket: str) -> int:
    depth = 1
    for n in range(start, len(text)):
        if not (text[max(n - 2, 0) : n].endswith("\\") and text[max(n - 2, 0) : n] != "\\\\"):
            depth += (text[n] == bracket) - (text[n] == _CLOSING[bracket])
            if depth == 0:
                return n
    return -1


def last_formula_on_host(text: str) -> str | None:
    """The inside of the last formula of a text; see `last_formula`."""
    spans = []
    opens = -1
    for n, character in enumerate(text):
        if character != "$" or text[n - 1 : n] == "\\":
            continue
        closes = opens >= 0 and text[n - 1] not in " \t\r\n" and opens != n - 1
        closes &= not re.match("[0-9]", text[n + 1 : n + 2])
        if closes and text[opens + 1] not in " \t\r\n":
            spans.append((n, opens + 1))
        opens = n
    before = -1
    for match in re.finditer(r"\\(?=([(\[)\]]))", text):
        if match[1] in "([":
            before = match.start()
        elif before >= 0:
            spans.append((match.start(), before + 2))
    end, start = max(spans, default=(0, -1))
    return text[start:end] if start >= 0 else None
