"""Equal JSON, however it is spelled: values as 64 bits that are the same for equal ones.

    hash_LN = value_hash(scan, unescaped, find(scan, unescaped, ("price",)))   # on the device
    hash_ML = np.stack([hash_of(value) for value in values])                   # on the host

Numbers are equal as numbers (0.10 and 1e-1), strings as texts, whatever is escaped, objects
whatever the order of their members. An object that has a key twice equals no other. Hashes of two
lanes of 32 bits stand for the values; different ones meet with a probability of about 2 ** -64.

The hash of a value is a sum over what it holds in the end: strings, numbers, literals and empty
containers, each mixed with the keys and indices that lead to it. So neither order nor depth needs a
loop over the bytes.
"""

import json
import re
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import last_where, next_where, shift_left
from rft_jax.strings.json_numbers import read_numbers
from rft_jax.strings.json_scan import JsonScan, JsonToken
from rft_jax.strings.json_values import QUOTE_MARK, JsonValue, Unescaped
from rft_jax.strings.numbers import MAX_EXPONENT

LANES = 2
_SEEDS = np.array([0x9E3779B9, 0x7F4A7C15], np.uint32)
_WIDTH = 512  # above every byte, so that offset and byte make one number
_KIND = 1 << 28  # told apart: strings, numbers, literals, empty containers; keys, indices
_STRING, _NUMBER, _LITERAL, _OBJECT, _ARRAY, _KEY, _INDEX = (k * _KIND for k in range(1, 8))
_NUMBER_TEXT = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?)(\d+))?")

Array = TypeVar("Array", jax.Array, np.ndarray)


def _mix(x: Array) -> Array:
    """A permutation of the uint32 (the end of MurmurHash3)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def value_hash(scan: JsonScan, unescaped: Unescaped, value: JsonValue) -> jax.Array:
    """The hash of a value in each of N documents.

    Args:
        scan: The documents'.
        unescaped: The same scan's.
        value: From `find`.

    Returns:
        uint32[LANES, N]; 0 where there is no value.
    """
    leaf_LNL, is_leaf_NL = _leaves(scan, unescaped)
    path_LNL = _paths(scan, _string_hash(unescaped), value)
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    inside_NL = (index >= value.start_N[:, None]) & (index < value.end_N[:, None])
    mixed = _mix(path_LNL + _mix(leaf_LNL))
    return jnp.where(inside_NL & is_leaf_NL, mixed, 0).sum(axis=-1, dtype=jnp.uint32)


def _seeds() -> jax.Array:
    return jnp.asarray(_SEEDS)[:, None, None]


def _string_hash(unescaped: Unescaped) -> jax.Array:
    """uint32[LANES, N, L]: where an opening quote stands in the source, the string's hash."""
    symbol = unescaped.marked_NL
    quote = symbol >= QUOTE_MARK
    opening = last_where(quote)
    index = jnp.arange(symbol.shape[-1], dtype=jnp.int32)
    code = ((index - opening) * _WIDTH + (symbol & 0xFF)).astype(jnp.uint32)
    sums = jnp.cumsum(jnp.where(quote, 0, _mix(code + _seeds())), axis=-1, dtype=jnp.uint32)
    closing = shift_left(next_where(quote), 1)
    return _take(_take(sums, closing) - sums, unescaped.position_NL)


def _take(x_LNL: jax.Array, index_NL: jax.Array) -> jax.Array:
    index = jnp.broadcast_to(index_NL, (LANES, *index_NL.shape))
    return jnp.take_along_axis(x_LNL, index, axis=-1, mode="clip")


def _number_hash(scan: JsonScan) -> jax.Array:
    """uint32[LANES, N, L]: at the first byte of a number, its hash."""
    numbers = read_numbers(scan)
    start = jnp.maximum(last_where(scan.token_NL == JsonToken.NUMBER), 0)

    def of_start(x_NL: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_NL, start, axis=-1, mode="clip")

    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    first, point, stop = map(of_start, (numbers.first_NL, numbers.point_NL, numbers.stop_NL))
    digit_index = index - first - ((first < point) & (index > point))
    digit = numbers.byte_NL - ord("0")
    counts = (index >= first) & (index < stop) & (digit > 0) & (digit <= 9)  # zeros add nothing
    code = (digit_index * _WIDTH + digit).astype(jnp.uint32)
    mixed = jnp.where(counts, _mix(code + _seeds()), 0)
    sums = jnp.cumsum(mixed, axis=-1, dtype=jnp.uint32)
    total = _take(sums, numbers.stop_NL - 1) - (sums - mixed)
    power = numbers.exponent_NL.astype(jnp.uint32) + jnp.where(numbers.sign_NL < 0, 1 << 20, 0)
    return jnp.where(numbers.sign_NL == 0, 0, total + _mix(power.astype(jnp.uint32) + _seeds()))


def _leaves(scan: JsonScan, unescaped: Unescaped) -> tuple[jax.Array, jax.Array]:
    """uint32[LANES, N, L], the hash of what starts at each byte and holds nothing else; and bool[N,
    L], where such a value starts."""
    token = scan.token_NL
    there = next_where(token != JsonToken.NONE)
    following = jnp.take_along_axis(token, shift_left(there, 1), axis=-1, mode="clip")
    last = jnp.arange(token.shape[-1]) == token.shape[-1] - 1
    ends = ((following == JsonToken.OBJECT_END) | (following == JsonToken.ARRAY_END)) & ~last
    literal = jnp.asarray(scan.text.bytes).astype(jnp.uint32) + jnp.zeros_like(_seeds())
    leaf = jnp.zeros((LANES, *token.shape), jnp.uint32)
    is_leaf = jnp.zeros(token.shape, bool)
    for kind, code, found, hashed in (
        (JsonToken.STRING, _STRING, True, _string_hash(unescaped)),
        (JsonToken.NUMBER, _NUMBER, True, _number_hash(scan)),
        (JsonToken.LITERAL, _LITERAL, True, literal),
        (JsonToken.OBJECT, _OBJECT, ends, jnp.zeros_like(leaf)),
        (JsonToken.ARRAY, _ARRAY, ends, jnp.zeros_like(leaf)),
    ):
        here = (token == kind) & found
        leaf = jnp.where(here, hashed + np.uint32(code), leaf)
        is_leaf |= here
    return leaf, is_leaf


def _paths(scan: JsonScan, string_LNL: jax.Array, value: JsonValue) -> jax.Array:
    """uint32[LANES, N, L]: a hash of the keys and indices that lead from the value to a token."""
    token, depth = scan.token_NL, scan.depth_NL
    opens = (token == JsonToken.OBJECT) | (token == JsonToken.ARRAY)
    root = jnp.take_along_axis(depth, value.start_N[:, None], axis=-1, mode="clip")
    path = jnp.broadcast_to(_seeds(), string_LNL.shape)

    def down(level: jax.Array, path: jax.Array) -> jax.Array:
        container = jnp.maximum(last_where(opens & (depth == level)), 0)
        inside = depth == level + 1
        commas = jnp.cumsum(inside & (token == JsonToken.COMMA), axis=-1, dtype=jnp.int32)
        number = commas - jnp.take_along_axis(commas, container, axis=-1)
        key = jnp.maximum(last_where(inside & (token == JsonToken.KEY)), 0)
        is_object = jnp.take_along_axis(token, container, axis=-1) == JsonToken.OBJECT
        named = _take(string_LNL, key) + np.uint32(_KEY)
        step = jnp.where(is_object, named, (number + _INDEX).astype(jnp.uint32))
        return jnp.where((depth > level) & (level >= root), _mix(path + _mix(step)), path)

    return lax.fori_loop(0, depth.max(initial=0), down, path)


def hash_of(value: object) -> np.ndarray:
    """The hash of a value as `json.loads` gives it: uint32[LANES]."""
    return _hash_below(value, _SEEDS)


def _hash_below(value: object, path: np.ndarray) -> np.ndarray:
    if isinstance(value, dict) and value:
        steps = [_hash_text(key) + np.uint32(_KEY) for key in value]
        members = list(value.values())
    elif isinstance(value, list) and value:
        steps = [np.full(LANES, number + _INDEX, np.uint32) for number in range(len(value))]
        members = value
    else:
        return _mix(path + _mix(_hash_leaf(value)))
    below = [_hash_below(v, _mix(path + _mix(s))) for v, s in zip(members, steps, strict=True)]
    return np.stack(below).sum(axis=0, dtype=np.uint32)


def _hash_leaf(value: object) -> np.ndarray:
    if isinstance(value, str):
        return _hash_text(value) + np.uint32(_STRING)
    if isinstance(value, dict | list):
        return np.full(LANES, _OBJECT if isinstance(value, dict) else _ARRAY, np.uint32)
    text = json.dumps(value)
    if not (number := read_number(text)):
        return np.full(LANES, ord(text[0]) + _LITERAL, np.uint32)
    negative, digits, exponent = number
    if not digits:
        return np.full(LANES, _NUMBER, np.uint32)
    codes = [k * _WIDTH + int(digit) for k, digit in enumerate(digits) if digit != "0"]
    power = np.array((exponent + (negative << 20)) & 0xFFFFFFFF, np.uint32)
    return _sum(codes) + _mix(power + _SEEDS) + np.uint32(_NUMBER)


def _hash_text(text: str) -> np.ndarray:
    return _sum([offset * _WIDTH + byte for offset, byte in enumerate(text.encode(), start=1)])


def _sum(codes: list[int]) -> np.ndarray:
    mixed = _mix(np.array(codes, np.uint32).reshape(1, -1) + _SEEDS[:, None])
    return mixed.sum(axis=1, dtype=np.uint32)


def read_number(text: str) -> tuple[bool, str, int] | None:
    """A number of JSON as sign, digits d1 d2 ... and exponent of 0.d1 d2 ..., without zeros at
    either end; None for any other text. Written exponents are read as `numbers` reads them."""
    match = _NUMBER_TEXT.fullmatch(text)
    if not match:
        return None
    sign, whole, fraction, sign_of_power, power = match.groups("")
    digits = (whole + fraction).lstrip("0")
    exponent = len(digits) - len(fraction)
    written = power.lstrip("0")
    size = MAX_EXPONENT if len(written) > len(str(MAX_EXPONENT)) else int(written or 0)
    exponent += -size if sign_of_power == "-" else size
    digits = digits.rstrip("0")
    return (bool(sign), digits, exponent) if digits else (False, "", 0)
