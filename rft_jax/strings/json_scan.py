"""A JSON parser over bytes on the device: every byte of every row at once, no loop over bytes.

    scan = scan_json(text)                     # is it one JSON document? where are its tokens?
    value = find(scan, ("genes", 0))           # where is the value of a path?
    text = render(scan, value)                 # a string unescaped, anything else as source text

A document is accepted where `json.loads(text)` accepts it, except that

- `NaN`, `Infinity` and `-Infinity` are refused: RFC 8259 does not know them;
- integers may have any number of digits (Python stops at 4300);
- containers may be nested `MAX_DEPTH` deep; a document that is deeper and well-formed as far as
  can be told is not valid and is flagged `too_deep` (Python stops at about 1000);
- bytes that are not UTF-8 are refused (Python refuses to decode them);
- an escaped lone surrogate (`"\\ud800"`), which Python keeps, is accepted and becomes U+FFFD.

How it is done without a loop: whether a byte is escaped or in a string are parities; depth is a
cumulative sum; the container that a byte stands in is read from a row of one-bit registers, one
per depth, each written by the brackets that open at it (`masked_writes`, an associative scan over
the bytes); and then every token is judged by the token before it and its container alone.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rft_jax.strings.byte_string import (
    ByteString,
    last_where,
    shift_left,
    shift_right,
)
from rft_jax.strings.unicode import scan_utf8

MAX_DEPTH = 24
# Registers beyond those of the depths: what the number at hand has had so far.
_HAD_POINT = 1 << 29
_HAD_EXPONENT = 1 << 30
_PLACE = 16  # more than there are tokens


class Token(enum.IntEnum):
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


VALUES = (Token.OBJECT, Token.ARRAY, Token.STRING, Token.NUMBER, Token.LITERAL)


class JsonScan(NamedTuple):
    """The tokens of N texts; where the text is not valid, only the flags mean anything.

    Attributes:
        text: ByteString of [N, L].
        valid_N: bool, one JSON document with white space around it, and nothing else.
        too_deep_N: bool, not valid only because of its depth.
        token_NL: int32, `Token` at the first byte of a token, NONE elsewhere.
        depth_NL: int32, number of containers that a token stands in; for the end of a container,
            it included.
        closing_NL: bool, the quote that ends a string.
        escape_NL: bool, the backslash that starts an escape.
        string_NL: bool, part of a string, its quotes included.
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
    string_NL: jax.Array
    solid_NL: jax.Array
    scalar_NL: jax.Array


class _Lexemes(NamedTuple):
    """Classes of bytes, before any grammar; bool[N, L] all."""

    byte: jax.Array  # int32
    escaped: jax.Array
    opening: jax.Array
    closing: jax.Array
    content: jax.Array  # inside of a string, without its quotes
    scalar: jax.Array
    scalar_start: jax.Array
    structural: jax.Array
    space: jax.Array


def scan_json(text: ByteString) -> JsonScan:
    """Validates one JSON document per row and finds its tokens.

    Args:
        text: ByteString of [N, L].

    Returns:
        JsonScan; the rules are the module's.
    """
    lexemes = _lex(text)
    byte = lexemes.byte
    opens = lexemes.structural & _any_of(byte, b"{[")
    closes = lexemes.structural & _any_of(byte, b"}]")
    depth_after = jnp.cumsum(opens.astype(jnp.int32) - closes.astype(jnp.int32), axis=-1)
    depth = depth_after - opens + closes
    registers = _registers(lexemes, opens, depth)

    token, grammar_ok = _grammar(lexemes, depth, registers)
    ok_NL = grammar_ok & _strings_ok(lexemes) & _scalars_ok(lexemes, registers)
    ok_N = ok_NL.all(axis=-1) & scan_utf8(text).well_formed.all(axis=-1)
    ok_N &= (token != Token.NONE).any(axis=-1)
    ok_N &= (depth_after[..., -1] == 0) & (lexemes.opening.sum(-1) == lexemes.closing.sum(-1))
    deep_N = (depth_after > MAX_DEPTH).any(axis=-1)
    string = lexemes.opening | lexemes.content | lexemes.closing
    return JsonScan(
        text=text,
        valid_N=ok_N & ~deep_N,
        too_deep_N=ok_N & deep_N,
        token_NL=token,
        depth_NL=depth,
        closing_NL=lexemes.closing,
        escape_NL=shift_left(lexemes.escaped & lexemes.content, 1),
        string_NL=string,
        solid_NL=string | lexemes.scalar | lexemes.structural,
        scalar_NL=lexemes.scalar,
    )


def _any_of(byte: jax.Array, characters: bytes) -> jax.Array:
    found = jnp.zeros(byte.shape, bool)
    for character in characters:
        found |= byte == character
    return found


def _lex(text: ByteString) -> _Lexemes:
    """Separates strings, scalars, structure and white space."""
    index = jnp.arange(text.bytes.shape[-1], dtype=jnp.int32)
    inside = index < text.length[..., None]
    byte = jnp.where(inside, text.bytes, 0).astype(jnp.int32)
    # After an odd number of backslashes. Outside of strings that is wrong too, but there the first
    # backslash makes the document invalid, and up to it everything is right.
    before = jnp.pad(last_where(byte != ord("\\")), ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    escaped = ((index - 1 - before) & 1) == 1
    quote = (byte == ord('"')) & ~escaped
    quoted = (jnp.cumsum(quote, axis=-1, dtype=jnp.int32) & 1) == 1
    opening, closing = quote & quoted, quote & ~quoted
    outside = inside & ~quoted & ~closing
    structural = outside & _any_of(byte, b"{}[]:,")
    space = outside & _any_of(byte, b" \t\n\r")
    scalar = outside & ~structural & ~space
    return _Lexemes(
        byte=byte,
        escaped=escaped,
        opening=opening,
        closing=closing,
        content=inside & quoted & ~quote,
        scalar=scalar,
        scalar_start=scalar & ~shift_right(scalar, 1),
        structural=structural,
        space=space,
    )


def _registers(lexemes: _Lexemes, opens: jax.Array, depth: jax.Array) -> jax.Array:
    """uint32[N, L]: the one-bit registers as every byte finds them.

    Bit d < MAX_DEPTH says whether the last container that opened in depth d is an object;
    `_HAD_POINT` and `_HAD_EXPONENT` are cleared where a scalar starts.
    """
    byte = lexemes.byte
    bit = jnp.where(
        depth < MAX_DEPTH, jnp.uint32(1) << jnp.clip(depth, 0, 31).astype(jnp.uint32), 0
    )
    mask = jnp.where(opens, bit, jnp.uint32(0))
    value = jnp.where(byte == ord("{"), mask, 0)
    point = lexemes.scalar & (byte == ord("."))
    exponent = lexemes.scalar & _any_of(byte, b"eE")
    mask |= jnp.where(lexemes.scalar_start, jnp.uint32(_HAD_POINT | _HAD_EXPONENT), 0)
    for condition, register in ((point, _HAD_POINT), (exponent, _HAD_EXPONENT)):
        mask |= jnp.where(condition, jnp.uint32(register), 0)
        value |= jnp.where(condition, jnp.uint32(register), 0)
    return shift_right(_masked_writes(mask, value), 1)


def _masked_writes(mask: jax.Array, value: jax.Array) -> jax.Array:
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
    lexemes: _Lexemes, depth: jax.Array, registers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Names the tokens and judges each by the one before it and the container it stands in.

    Returns:
        token_NL: int32.
        ok_NL: bool, true where no token starts or where the token may stand.
    """
    byte = lexemes.byte
    kind = jnp.where(lexemes.opening, Token.STRING, Token.NONE)
    number = lexemes.scalar_start & ~_any_of(byte, b"tfn")
    kind = jnp.where(lexemes.scalar_start, jnp.where(number, Token.NUMBER, Token.LITERAL), kind)
    for character, token in zip(
        b"{[}]:,",
        (Token.OBJECT, Token.ARRAY, Token.OBJECT_END, Token.ARRAY_END, Token.COLON, Token.COMMA),
        strict=True,
    ):
        kind = jnp.where(lexemes.structural & (byte == character), token, kind)

    previous = _previous_token(kind)
    unknown = depth > MAX_DEPTH
    is_object = (registers >> jnp.clip(depth - 1, 0, 31).astype(jnp.uint32)) & 1 == 1
    in_object = is_object & (depth > 0) & ~unknown
    in_array = ~is_object & (depth > 0) & ~unknown
    in_nothing = depth <= 0

    after_comma = previous == Token.COMMA
    is_key = in_object & (kind == Token.STRING) & ((previous == Token.OBJECT) | after_comma)
    kind = jnp.where(is_key, Token.KEY, kind)
    # Again, for what was called a string may be a key.
    previous = _previous_token(kind)
    after_value = (previous == Token.OBJECT_END) | (previous == Token.ARRAY_END)
    for token in (Token.STRING, Token.NUMBER, Token.LITERAL):
        after_value |= previous == token

    value_ok = in_nothing & (previous == Token.NONE)
    value_ok |= in_array & ((previous == Token.ARRAY) | after_comma)
    value_ok |= in_object & (previous == Token.COLON)
    ok = jnp.where(kind == Token.COLON, in_object & (previous == Token.KEY), value_ok)
    ok = jnp.where(kind == Token.COMMA, ~in_nothing & after_value, ok)
    ok = jnp.where(
        kind == Token.OBJECT_END, in_object & (after_value | (previous == Token.OBJECT)), ok
    )
    ok = jnp.where(
        kind == Token.ARRAY_END, in_array & (after_value | (previous == Token.ARRAY)), ok
    )
    return kind, ok | unknown | is_key | (kind == Token.NONE)


def _previous_token(token: jax.Array) -> jax.Array:
    """int32[N, L]: the last token before each byte, NONE without one."""
    # Token and place in one number: a running maximum costs less than a gather.
    place = jnp.arange(token.shape[-1], dtype=jnp.int32) * _PLACE
    placed = jnp.where(token != Token.NONE, place + token, 0)
    last = lax.cummax(placed, axis=token.ndim - 1)
    return shift_right(last, 1) & (_PLACE - 1)


def _strings_ok(lexemes: _Lexemes) -> jax.Array:
    """bool[N, L]: no control character in a string, and every escape one that JSON knows."""
    byte = lexemes.byte
    hexadecimal = hex_digit(byte) >= 0
    four = shift_left(hexadecimal, 1)
    for k in (2, 3, 4):
        four &= shift_left(hexadecimal, k)
    escape_ok = _any_of(byte, b'"\\/bfnrt') | ((byte == ord("u")) & four)
    return ~lexemes.content | ((byte >= 0x20) & (~lexemes.escaped | escape_ok))


def hex_digit(byte: jax.Array) -> jax.Array:
    """int32: the value of an ASCII hexadecimal digit, -1 for other bytes."""
    letter = byte | 0x20
    value = jnp.where((byte >= ord("0")) & (byte <= ord("9")), byte - ord("0"), -1)
    return jnp.where((letter >= ord("a")) & (letter <= ord("f")), letter - ord("a") + 10, value)


def _scalars_ok(lexemes: _Lexemes, registers: jax.Array) -> jax.Array:
    """bool[N, L]: every byte of a scalar stands where a number or a literal may have it."""
    byte, scalar, start = lexemes.byte, lexemes.scalar, lexemes.scalar_start
    previous = jnp.where(start, 0, shift_right(byte, 1))
    last = scalar & ~shift_left(scalar, 1)
    digit = (byte >= ord("0")) & (byte <= ord("9"))
    after_digit = (previous >= ord("0")) & (previous <= ord("9"))
    exponent, after_exponent = _any_of(byte, b"eE"), _any_of(previous, b"eE")
    had_point, had_exponent = (registers & bit != 0 for bit in (_HAD_POINT, _HAD_EXPONENT))

    minus_start = start & (byte == ord("-"))
    leading_zero = (byte == ord("0")) & (start | shift_right(minus_start, 1))
    ok = digit & ~(shift_right(leading_zero, 1) & ~start)
    ok |= minus_start | (_any_of(byte, b"+-") & after_exponent)
    ok |= (byte == ord(".")) & after_digit & ~had_point & ~had_exponent
    ok |= exponent & after_digit & ~had_exponent
    ok &= ~last | digit

    for literal in (b"true", b"false", b"null"):
        whole = start & shift_left(last, len(literal) - 1)
        for k, character in enumerate(literal):
            whole &= shift_left(byte, k) == character
        for k in range(len(literal)):
            ok |= shift_right(whole, k)
    return ~scalar | ok
