"""A JSON parser over bytes on the device: every byte of every row at once, no loop over bytes.

    scan = scan_json(text)                        # one JSON document? where are its tokens?
    unescaped = unescape(scan)                    # the text of its strings
    value = find(scan, unescaped, ("genes", 0))   # where is the value of a path?
    text = render(scan, unescaped, value)         # a string's text, or source text

A document is accepted where `json.loads(text)` accepts it, except that

- `NaN`, `Infinity` and `-Infinity` are refused: RFC 8259 does not know them;
- integers may have any number of digits (Python stops at 4300);
- containers may be nested `MAX_DEPTH` deep; a document that is deeper and well-formed as far as
  can be told is not valid and is flagged `too_deep` (Python stops at about 1000);
- bytes that are not UTF-8 are refused (Python refuses to decode them);
- an escaped lone surrogate (`"\\ud800"`), which Python keeps, is accepted and becomes U+FFFD.

How it is done without a loop: whether a byte is escaped or in a string are parities, with which a
table classifies it; depth is a cumulative sum; the container that a byte stands in is read from a
row of one-bit registers, one per depth, each written by the brackets that open at it
(`masked_writes`, an associative scan over the bytes); and then every token is judged by the token
before it and its container alone.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import Array, ByteString, last_where, shift_left, shift_right
from rft_jax.strings.unicode import scan_utf8

MAX_DEPTH = 24
# Registers beyond those of the depths: what the number at hand has had so far.
_HAD_POINT = 1 << 29
_HAD_EXPONENT = 1 << 30
_POSITION_FACTOR = 16  # more than there are tokens


class JsonToken(enum.IntEnum):
    """What starts at a byte."""

    NONE = 0
    OBJECT = 1  # {
    ARRAY = 2  # [
    OBJECT_END = 3
    ARRAY_END = 4
    COLON = 5
    COMMA = 6
    KEY = 7  # opening quote of an object's key
    STRING = 8  # opening quote of a string that is a value
    NUMBER = 9
    LITERAL = 10  # true, false, null


VALUES = (JsonToken.OBJECT, JsonToken.ARRAY, JsonToken.STRING, JsonToken.NUMBER, JsonToken.LITERAL)


class JsonScan(NamedTuple):
    """The tokens of N texts; where the text is not valid, only the flags mean anything.

    Attributes:
        text: ByteString of [N, L].
        valid_N: bool, one JSON document with white space around it, and nothing else.
        too_deep_N: bool, not valid only because of its depth.
        token_NL: int32, `JsonToken` at the first byte of a token, NONE elsewhere.
        depth_NL: int32, number of containers that a token stands in; for the end of a container,
            it included.
        closing_NL: bool, the quote that ends a string.
        escape_NL: bool, the backslash that starts an escape.
        solid_NL: bool, part of the text and no white space between tokens.
        scalar_NL: bool, part of a number or literal.
    """

    text: ByteString
    valid_N: jax.Array
    too_deep_N: jax.Array
    token_NL: jax.Array
    depth_NL: jax.Array
    closing_NL: jax.Array
    escape_NL: jax.Array
    solid_NL: jax.Array
    scalar_NL: jax.Array


class _Is(enum.IntFlag):
    """What a byte is where it stands, before any grammar."""

    OPENING = enum.auto()  # quotes of a string
    CLOSING = enum.auto()
    CONTENT = enum.auto()  # in a string, without its quotes
    ESCAPED = enum.auto()  # after the backslash of an escape
    LONG = enum.auto()  # the u of an escape
    BAD = enum.auto()  # may not stand in a string
    SPACE = enum.auto()
    SCALAR = enum.auto()  # anything else outside of strings
    OBJECT = enum.auto()
    ARRAY = enum.auto()
    OBJECT_END = enum.auto()
    ARRAY_END = enum.auto()
    COLON = enum.auto()
    COMMA = enum.auto()
    DIGIT = enum.auto()
    HEXADECIMAL = enum.auto()
    MINUS = enum.auto()
    PLUS = enum.auto()
    POINT = enum.auto()
    EXPONENT = enum.auto()
    WORD = enum.auto()  # may start a literal


_STRUCTURE = dict(zip(b"{[}]:,", list(_Is)[8:14], strict=True))
_OUTSIDE, _CONTENT, _ESCAPED, _BEYOND = range(4)


def _class_table() -> np.ndarray:
    """int32[4 * 256]: the class of a byte outside of strings, in one, escaped, beyond the text."""
    table = np.zeros((4, 256), np.int32)
    outside = {byte: _Is.SCALAR for byte in range(256)} | _STRUCTURE
    outside |= {byte: _Is.SPACE for byte in b" \t\n\r"} | {ord('"'): _Is.OPENING}
    for byte, flag in outside.items():
        table[_OUTSIDE, byte] = flag
    for context in (_CONTENT, _ESCAPED):
        table[context] = _Is.CONTENT
        table[context, :0x20] |= _Is.BAD
    table[_CONTENT, ord('"')] = _Is.CLOSING
    table[_ESCAPED] |= _Is.ESCAPED | _Is.BAD
    table[_ESCAPED, list(b'"\\/bfnrtu')] &= ~_Is.BAD
    table[_ESCAPED, ord("u")] |= _Is.LONG
    digits = list(b"0123456789")
    table[:_BEYOND, digits + list(b"abcdefABCDEF")] |= _Is.HEXADECIMAL
    table[_OUTSIDE, digits] |= _Is.DIGIT
    for characters, flag in (
        (b"-", _Is.MINUS),
        (b"+", _Is.PLUS),
        (b".", _Is.POINT),
        (b"eE", _Is.EXPONENT),
        (b"tfn", _Is.WORD),
    ):
        table[_OUTSIDE, list(characters)] |= flag
    return table.reshape(-1)


def scan_json(text: ByteString) -> JsonScan:
    """Validates one JSON document per row and finds its tokens.

    Args:
        text: ByteString of [N, L].

    Returns:
        JsonScan; the rules are the module's.
    """
    byte = text.bytes.astype(jnp.int32)
    classes = _classify(text)
    opens = _has(classes, _Is.OBJECT | _Is.ARRAY)
    closes = _has(classes, _Is.OBJECT_END | _Is.ARRAY_END)
    depth_after = jnp.cumsum(opens.astype(jnp.int32) - closes, axis=-1, dtype=jnp.int32)
    depth = depth_after - opens + closes
    registers = _registers(classes, depth)

    token, grammar_ok = _grammar(classes, depth, registers)
    ok_N = (grammar_ok & _strings_ok(classes)).all(axis=-1)
    ok_N &= _scalars_ok(byte, classes, registers).all(axis=-1)
    ok_N &= scan_utf8(text).well_formed.all(axis=-1)
    ok_N &= (token != JsonToken.NONE).any(axis=-1) & (depth_after[..., -1] == 0)
    opening, closing = _has(classes, _Is.OPENING), _has(classes, _Is.CLOSING)
    ok_N &= opening.sum(axis=-1) == closing.sum(axis=-1)
    deep_N = (depth_after > MAX_DEPTH).any(axis=-1)
    return JsonScan(
        text=text,
        valid_N=ok_N & ~deep_N,
        too_deep_N=ok_N & deep_N,
        token_NL=token,
        depth_NL=depth,
        closing_NL=closing,
        escape_NL=shift_left(_has(classes, _Is.ESCAPED), 1),
        solid_NL=(classes != 0) & ~_has(classes, _Is.SPACE),
        scalar_NL=_has(classes, _Is.SCALAR),
    )


def _has(classes: jax.Array, flags: int) -> jax.Array:
    """bool[N, L]: the byte is one of these."""
    return (classes & int(flags)) != 0


def _classify(text: ByteString) -> jax.Array:
    """int32[N, L]: `_Is` of every byte, from a table by the byte and what it stands in."""
    byte = text.bytes.astype(jnp.int32)
    index = jnp.arange(byte.shape[-1], dtype=jnp.int32)
    # After an odd number of backslashes. Outside of strings that is wrong too, but there the first
    # backslash makes the document invalid, and up to it everything is right.
    run_start = shift_right(last_where(byte != ord("\\")) + 1, 1)
    escaped = ((index - run_start) & 1) == 1
    quote = (byte == ord('"')) & ~escaped
    quotes_before = jnp.cumsum(quote, axis=-1, dtype=jnp.int32) - quote
    inside = jnp.where(escaped, _ESCAPED, _CONTENT)
    context = jnp.where((quotes_before & 1) == 1, inside, _OUTSIDE)
    context = jnp.where(index < text.length[..., None], context, _BEYOND)
    return jnp.asarray(_class_table())[context * 256 + byte]


def _registers(classes: jax.Array, depth: jax.Array) -> jax.Array:
    """uint32[N, L]: the one-bit registers as every byte finds them.

    Bit d < MAX_DEPTH says whether the last container that opened in depth d is an object;
    `_HAD_POINT` and `_HAD_EXPONENT` are cleared where a scalar starts.
    """
    scalar = _has(classes, _Is.SCALAR)
    bit = jnp.uint32(1) << jnp.clip(depth, 0, 31).astype(jnp.uint32)
    opens = _has(classes, _Is.OBJECT | _Is.ARRAY) & (depth < MAX_DEPTH)
    mask = jnp.where(opens, bit, jnp.uint32(0))
    value = jnp.where(_has(classes, _Is.OBJECT), mask, jnp.uint32(0))
    starts = scalar & ~shift_right(scalar, 1)
    mask |= jnp.where(starts, jnp.uint32(_HAD_POINT | _HAD_EXPONENT), jnp.uint32(0))
    for flag, register in ((_Is.POINT, _HAD_POINT), (_Is.EXPONENT, _HAD_EXPONENT)):
        written = jnp.where(_has(classes, flag), jnp.uint32(register), jnp.uint32(0))
        mask, value = mask | written, value | written
    return shift_right(masked_writes(mask, value), 1)


def masked_writes(mask: jax.Array, value: jax.Array) -> jax.Array:
    """The registers after all writes up to each position: uint32[N, L].

    A write sets the bits of `mask` to those of `value`. Writes compose, associatively: the later
    one wins where both write. The scan doubles its reach with every step (Hillis and Steele).
    """
    width = mask.shape[-1]

    def double(k: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mask, value = state
        start = width - jnp.left_shift(jnp.int32(1), k)
        earlier_mask, earlier_value = (
            lax.dynamic_slice_in_dim(
                jnp.concatenate([jnp.zeros_like(x), x], axis=-1), start, width, axis=x.ndim - 1
            )
            for x in state
        )
        return earlier_mask | mask, (earlier_value & ~mask) | value

    steps = max(width - 1, 0).bit_length()
    return lax.fori_loop(0, steps, double, (mask, value))[1]


def _grammar(
    classes: jax.Array, depth: jax.Array, registers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Names the tokens and judges each by the one before it and the container it stands in.

    Returns:
        token_NL: int32.
        ok_NL: bool, true where no token starts or where the token may stand.
    """
    scalar = _has(classes, _Is.SCALAR)
    named = jnp.where(_has(classes, _Is.WORD), JsonToken.LITERAL, JsonToken.NUMBER)
    kind = jnp.where(scalar & ~shift_right(scalar, 1), named, JsonToken.NONE)
    kind = jnp.where(_has(classes, _Is.OPENING), JsonToken.STRING, kind)
    for flag in _STRUCTURE.values():
        kind = jnp.where(_has(classes, flag), JsonToken[str(flag.name)], kind)

    previous = _previous_token(kind)
    unknown = depth > MAX_DEPTH
    is_object = (registers >> jnp.clip(depth - 1, 0, 31).astype(jnp.uint32)) & 1 == 1
    in_object = is_object & (depth > 0) & ~unknown
    in_array = ~is_object & (depth > 0) & ~unknown
    in_nothing = depth <= 0

    after_comma = previous == JsonToken.COMMA
    is_key = in_object & (kind == JsonToken.STRING) & ((previous == JsonToken.OBJECT) | after_comma)
    kind = jnp.where(is_key, JsonToken.KEY, kind)
    # Again, for what was called a string may be a key.
    previous = _previous_token(kind)
    after_value = (previous == JsonToken.OBJECT_END) | (previous == JsonToken.ARRAY_END)
    for token in (JsonToken.STRING, JsonToken.NUMBER, JsonToken.LITERAL):
        after_value |= previous == token

    value_ok = in_nothing & (previous == JsonToken.NONE)
    value_ok |= in_array & ((previous == JsonToken.ARRAY) | after_comma)
    value_ok |= in_object & (previous == JsonToken.COLON)
    ok = jnp.where(kind == JsonToken.COLON, in_object & (previous == JsonToken.KEY), value_ok)
    ok = jnp.where(kind == JsonToken.COMMA, ~in_nothing & after_value, ok)
    ok = jnp.where(
        kind == JsonToken.OBJECT_END, in_object & (after_value | (previous == JsonToken.OBJECT)), ok
    )
    ok = jnp.where(
        kind == JsonToken.ARRAY_END, in_array & (after_value | (previous == JsonToken.ARRAY)), ok
    )
    return kind, ok | unknown | is_key | (kind == JsonToken.NONE)


def _previous_token(token: jax.Array) -> jax.Array:
    """int32[N, L]: the last token before each byte, NONE without one."""
    # Token and position in one number: a running maximum costs less than a gather.
    position = jnp.arange(token.shape[-1], dtype=jnp.int32) * _POSITION_FACTOR
    joint = jnp.where(token != JsonToken.NONE, position + token, 0)
    last = lax.cummax(joint, axis=token.ndim - 1)
    return shift_right(last, 1) & (_POSITION_FACTOR - 1)


def _strings_ok(classes: jax.Array) -> jax.Array:
    """bool[N, L]: no control character in a string, and every escape one that JSON knows."""
    hexadecimal = _has(classes, _Is.HEXADECIMAL)
    ok = ~_has(classes, _Is.BAD)
    for k in range(1, 5):
        ok &= shift_left(hexadecimal, k) | ~_has(classes, _Is.LONG)
    return ok


def _scalars_ok(byte: Array, classes: jax.Array, registers: jax.Array) -> jax.Array:
    """bool[N, L]: every byte of a scalar stands where a number or a literal may have it."""
    scalar, digit = _has(classes, _Is.SCALAR), _has(classes, _Is.DIGIT)
    start, last = scalar & ~shift_right(scalar, 1), scalar & ~shift_left(scalar, 1)
    previous = jnp.where(start, 0, shift_right(classes, 1))
    after_digit, after_exponent = _has(previous, _Is.DIGIT), _has(previous, _Is.EXPONENT)
    had_point, had_exponent = (registers & bit != 0 for bit in (_HAD_POINT, _HAD_EXPONENT))

    minus_start = start & _has(classes, _Is.MINUS)
    leading_zero = digit & (byte == ord("0")) & (start | shift_right(minus_start, 1))
    ok = digit & ~(shift_right(leading_zero, 1) & ~start)
    ok |= minus_start | (_has(classes, _Is.MINUS | _Is.PLUS) & after_exponent)
    ok |= _has(classes, _Is.POINT) & after_digit & ~had_point & ~had_exponent
    ok |= _has(classes, _Is.EXPONENT) & after_digit & ~had_exponent
    ok &= ~last | digit

    for literal in (b"true", b"false", b"null"):
        whole = start & shift_left(last, len(literal) - 1)
        for k, character in enumerate(literal):
            whole &= shift_left(byte, k) == character
        for k in range(len(literal)):
            ok |= shift_right(whole, k)
    return ~scalar | ok


def hex_digit(byte: jax.Array) -> jax.Array:
    """int32: the value of an ASCII hexadecimal digit; of other bytes, anything."""
    return (byte & 0x0F) + jnp.where(byte >= ord("A"), 9, 0)
