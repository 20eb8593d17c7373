"""Byte strings as arrays: a batch of UTF-8 texts, and what can be done with them on the device.

Enter with `from_host`; every other function is pure jnp, works on leading axes of any number, and
uses memory proportional to its inputs. `L` and `R` are widths in bytes, static.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.utils.errors import InputError

Array = jax.Array | np.ndarray


class ByteString(NamedTuple):
    """UTF-8 texts.

    Attributes:
        bytes: uint8[..., L], zero at and beyond the length.
        length: int32[...].
    """

    bytes: Array
    length: Array


class CodePoints(NamedTuple):
    """Texts as Unicode code points.

    Attributes:
        points: int32[..., L], zero at and beyond the length.
        length: int32[...].
    """

    points: Array
    length: Array


def from_host(texts: Sequence[str | bytes], max_bytes: int) -> ByteString:
    """Encodes N texts, as NumPy arrays.

    Args:
        texts: str, or bytes that are taken as they are.
        max_bytes: L.

    Returns:
        ByteString of [N, L].

    Raises:
        InputError: a text is longer than L bytes or holds a lone surrogate.
    """
    rows = [text if isinstance(text, bytes) else _encode(text, n) for n, text in enumerate(texts)]
    bytes_NL = np.zeros((len(rows), max_bytes), np.uint8)
    for n, row in enumerate(rows):
        if len(row) > max_bytes:
            raise InputError(
                f"text {n} has {len(row)} bytes, which do not fit in max_bytes = {max_bytes}; "
                "shorten it or raise max_bytes"
            )
        bytes_NL[n, : len(row)] = np.frombuffer(row, np.uint8)
    return ByteString(bytes_NL, np.array([len(row) for row in rows], np.int32))


def _encode(text: str, n: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {n} holds a lone surrogate at character {error.start}, which is not Unicode "
            "text; remove it"
        ) from None


def to_host(text: ByteString) -> list[bytes]:
    """The N texts of a ByteString of [N, L]."""
    bytes_NL, length_N = np.asarray(text.bytes), np.asarray(text.length)
    return [row[:length].tobytes() for row, length in zip(bytes_NL, length_N, strict=True)]


def shift_left(x: Array, count: int) -> jax.Array:
    """x[..., i + count] at i, zero where there is none."""
    return jnp.pad(x[..., count:], [(0, 0)] * (x.ndim - 1) + [(0, min(count, x.shape[-1]))])


def shift_right(x: Array, count: int) -> jax.Array:
    """x[..., i - count] at i, zero where there is none."""
    width = x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(count, 0)])[..., :width]


def last_where(mask: Array) -> jax.Array:
    """int32[..., L]: the last index up to and including i where the mask holds, -1 without one."""
    index = jnp.where(mask, jnp.arange(mask.shape[-1], dtype=jnp.int32), -1)
    return lax.cummax(index, axis=mask.ndim - 1)


def next_where(mask: Array) -> jax.Array:
    """int32[..., L]: the first index from i on where the mask holds, L without one."""
    width = mask.shape[-1]
    index = jnp.where(mask, jnp.arange(width, dtype=jnp.int32), width)
    return lax.cummin(index, axis=mask.ndim - 1, reverse=True)


def compress(values: Array, keep: Array) -> tuple[jax.Array, jax.Array]:
    """Moves the kept values of every row to its left end, in order.

    Each moves left by the number of dropped ones before it. The distances themselves are moved
    first, one bit of the distance at a time, the lowest first, so that no two meet; then every
    place knows from where to take its value. log2(L) selections and a gather, and neither scatter
    nor sort, which are slow on accelerators.

    Args:
        values: [..., L].
        keep: bool[..., L].

    Returns:
        The values, [..., L], zero beyond the kept ones; and how many were kept, int32[...].
    """
    width = values.shape[-1]
    dtype = jnp.uint16 if width < 1 << 16 else jnp.int32
    distance = jnp.where(keep, jnp.cumsum(~keep, axis=-1, dtype=jnp.int32), 0).astype(dtype)

    def move(k: jax.Array, distance: jax.Array) -> jax.Array:
        step = jnp.left_shift(jnp.int32(1), k)
        bit = step.astype(dtype)
        ahead = _from_right(distance, step)
        stays = jnp.where((distance & bit) != 0, jnp.zeros_like(distance), distance)
        return jnp.where((ahead & bit) != 0, ahead, stays)

    # A loop, not unrolled: fused, the steps would be recomputed once per use, which doubles each.
    steps = max(width - 1, 0).bit_length()
    distance = lax.fori_loop(0, steps, move, distance)
    index = jnp.arange(width, dtype=jnp.int32)
    count = keep.sum(axis=-1, dtype=jnp.int32)
    source = index + distance.astype(jnp.int32)
    taken = jnp.take_along_axis(jnp.asarray(values), source, axis=-1, mode="clip")
    return jnp.where(index < count[..., None], taken, 0), count


def _from_right(x: jax.Array, count: jax.Array) -> jax.Array:
    """`shift_left` by a traced count below L."""
    padded = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
    return lax.dynamic_slice_in_dim(padded, count, x.shape[-1], axis=x.ndim - 1)


def slice_bytes(text: ByteString, start: Array, end: Array, width: int | None = None) -> ByteString:
    """The bytes [start, end) of every text.

    Args:
        text: [..., L].
        start: int32[...], at least 0.
        end: int32[...], at most the length; end <= start is empty.
        width: of the result; L if not given. A longer slice is cut.

    Returns:
        ByteString of [..., width].
    """
    width = text.bytes.shape[-1] if width is None else width
    length = jnp.clip(end - start, 0, width).astype(jnp.int32)
    index = jnp.arange(width, dtype=jnp.int32)
    taken = jnp.take_along_axis(
        jnp.asarray(text.bytes), start[..., None] + index, axis=-1, mode="clip"
    )
    return ByteString(jnp.where(index < length[..., None], taken, 0), length)


def drop_leading(text: ByteString, byte: int) -> ByteString:
    """Without the occurrences of a byte at the start: ByteString of [..., L]."""
    leading = jnp.cumprod(jnp.asarray(text.bytes) == byte, axis=-1).sum(axis=-1, dtype=jnp.int32)
    start = jnp.minimum(leading, text.length)
    return slice_bytes(text, start, text.length)


def concat(*texts: ByteString) -> ByteString:
    """The texts one after the other; the width is the sum of the widths."""
    joined, *rest = texts
    for text in rest:
        joined = _concat(joined, text)
    return joined


def _concat(a: ByteString, b: ByteString) -> ByteString:
    width = a.bytes.shape[-1] + b.bytes.shape[-1]
    length_a, length_b = jnp.asarray(a.length), jnp.asarray(b.length)
    index = jnp.arange(width, dtype=jnp.int32)
    in_b = index - length_a[..., None]
    from_b = jnp.take_along_axis(jnp.asarray(b.bytes), in_b, axis=-1, mode="clip")
    from_a = _widen(jnp.asarray(a.bytes), width)
    length = length_a + length_b
    both = jnp.where(in_b < 0, from_a, from_b)
    return ByteString(jnp.where(index < length[..., None], both, 0), length)


def equal(a: ByteString | CodePoints, b: ByteString | CodePoints) -> jax.Array:
    """bool[...]: whether two texts of the same kind are the same; the widths may differ."""
    (values_a, length_a), (values_b, length_b) = a, b
    width = max(values_a.shape[-1], values_b.shape[-1])
    same = jnp.all(_widen(values_a, width) == _widen(values_b, width), axis=-1)
    return same & (length_a == length_b)


def contains(text: ByteString | CodePoints, part: ByteString | CodePoints) -> jax.Array:
    """Whether `part` occurs in `text`; the empty part always does.

    Valid UTF-8 may be searched by bytes: no character's bytes occur inside of others.

    Args:
        text: [..., L].
        part: [..., R], of the same kind.

    Returns:
        bool[...]. Time L * R, memory L + R.
    """
    return occurrences(text, part).any(axis=-1) | (part[1] == 0)


def occurrences(text: ByteString | CodePoints, part: ByteString | CodePoints) -> jax.Array:
    """Where `part` starts in `text`, at places below L: bool[..., L]; as `contains` otherwise."""
    (values, length), (wanted, wanted_length) = text, part
    width, wanted_width = values.shape[-1], wanted.shape[-1]
    padded = _widen(values, width + wanted_width)

    def step(j: jax.Array, matches: jax.Array) -> jax.Array:
        here = lax.dynamic_slice_in_dim(padded, j, width, axis=padded.ndim - 1)
        same = here == lax.dynamic_slice_in_dim(wanted, j, 1, axis=wanted.ndim - 1)
        return matches & (same | (j >= wanted_length)[..., None])

    wanted = jnp.asarray(wanted)
    index = jnp.arange(width, dtype=jnp.int32)
    fits = index <= jnp.asarray(length - wanted_length)[..., None]
    return lax.fori_loop(0, wanted_width, step, fits)


def _widen(x: Array, width: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
