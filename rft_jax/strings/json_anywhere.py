"""The JSON of an answer: the whole text, or the last object that stands in it.

    scan, whole_N = scan_last_json(text)

Models fence their JSON, put a sentence or a thought before it, or explain it afterwards. A text
that is one JSON document is that document. Of any other text it is the last object `{...}` in it
that is valid JSON, or without one the last array, looked for from the end: at most `TRIES` closing
brackets are tried, those first that can end an object. What stands inside of a container that is
never closed, or is no JSON, is a part of an answer and is not taken.

A closing bracket has at most one opening one that makes the text in between valid JSON: brackets
and quotes are counted back from it, so that nothing in front of the document can put them out of
step.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rft_jax.strings.byte_string import ByteString, last_where, shift_right, slice_bytes
from rft_jax.strings.json_scan import JsonScan, scan_json

TRIES = 16
# What may stand before a closing bracket (not `{`: `\\boxed{}` is no answer), and what in front of
# a `:` or `,` makes it JSON's own.
BEFORE_END = b'"}[]0123456789el'
ENDS_VALUE = b'"}]'


def scan_last_json(text: ByteString) -> tuple[JsonScan, jax.Array]:
    """Scans the JSON of N answers.

    Args:
        text: ByteString of [N, L].

    Returns:
        scan: of the text, or of the part of it that is JSON; not valid where there is none.
        whole_N: bool, the whole text is JSON, be it too deep.
    """
    text = ByteString(jnp.asarray(text.bytes), jnp.asarray(text.length, jnp.int32))
    ends = _Ends(text)
    shape = jax.eval_shape(scan_json, text)
    scan = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    limit_N = jnp.full(text.length.shape, 2 * text.bytes.shape[-1], jnp.int32)
    pending_N = jnp.ones(text.length.shape, bool)

    def undecided(state: tuple) -> jax.Array:
        _, _, _, pending_N, tried = state
        return pending_N.any() & (tried <= TRIES)

    def step(state: tuple) -> tuple:
        scan, whole_N, limit_N, pending_N, tried = state
        part, found_N, limit_N = ends.next(limit_N)
        is_first = tried == 0
        limit_N = jnp.where(is_first, 2 * text.bytes.shape[-1], limit_N)
        tries_N = pending_N & (is_first | found_N)
        candidate = jax.tree.map(lambda a, b: jnp.where(is_first, a, b), text, part)
        new = scan_json(candidate)
        scan = jax.tree.map(lambda a, b: _where(tries_N, a, b), new, scan)
        decided_N = scan.valid_N | scan.too_deep_N
        whole_N = jnp.where(is_first, decided_N, whole_N)
        return scan, whole_N, limit_N, tries_N & ~decided_N, tried + 1

    no_N = jnp.zeros_like(pending_N)
    scan, whole_N, *_ = lax.while_loop(undecided, step, (scan, no_N, limit_N, pending_N, 0))
    return scan, whole_N


def _where(mask_N: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(mask_N.reshape(-1, *[1] * (a.ndim - 1)), a, b)


class _Ends:
    """Where JSON may end in N texts.

    Ends are numbered so that braces, which come first, have L added.
    """

    def __init__(self, text: ByteString):
        self._text = text
        byte = jnp.asarray(text.bytes).astype(jnp.int32)
        width = byte.shape[-1]
        index = jnp.arange(width, dtype=jnp.int32)
        run_start = shift_right(last_where(byte != ord("\\")) + 1, 1)
        quote = (byte == ord('"')) & (((index - run_start) & 1) == 0)
        self._quotes = jnp.cumsum(quote, axis=-1, dtype=jnp.int32)
        self._opens = (byte == ord("{")) | (byte == ord("["))
        self._closes = (byte == ord("}")) | (byte == ord("]"))
        solid = ~_is_any(byte, b" \t\r\n\0")
        self._solid_before = shift_right(last_where(solid) + 1, 1) - 1
        self._byte = byte
        can_end = _is_any(self._at(self._solid_before), BEFORE_END)
        brace, bracket = (can_end & (byte == ord(end)) for end in "}]")
        number = jnp.arange(2 * width, dtype=jnp.int32)
        self._end = jnp.where(jnp.concatenate([bracket, brace], axis=-1), number, -1)

    def _at(self, index: jax.Array) -> jax.Array:
        """The bytes at indices of the texts; zero before the first."""
        byte = jnp.take_along_axis(self._byte, jnp.maximum(index, 0), axis=-1, mode="clip")
        return jnp.where(index < 0, 0, byte)

    def next(self, limit_N: jax.Array) -> tuple[ByteString, jax.Array, jax.Array]:
        """The last end before a limit.

        Returns:
            part: ByteString of [N, L], what it ends; empty where that is none.
            found_N: bool, there is such an end.
            limit_N: int32, the end's number: the limit of the next search.
        """
        width = self._byte.shape[-1]
        index = jnp.arange(width, dtype=jnp.int32)
        below = jnp.where(self._end < limit_N[:, None], self._end, -1)
        limit_N = below.max(axis=-1, initial=-1)
        found_N = limit_N >= 0
        end_N1 = jnp.where(limit_N >= width, limit_N - width, limit_N)[:, None]
        end_N1 = jnp.maximum(end_N1, 0)

        quotes_N1 = jnp.take_along_axis(self._quotes, end_N1, axis=-1)
        outside = ((quotes_N1 - self._quotes) & 1) == 0
        opens = self._opens & outside
        change = opens.astype(jnp.int32) - (self._closes & outside)
        depth = jnp.cumsum(change, axis=-1, dtype=jnp.int32)
        depth_N1 = jnp.take_along_axis(depth, end_N1, axis=-1)
        starts = opens & (depth - change == depth_N1) & (index < end_N1)
        start_N1 = jnp.where(starts, index, -1).max(axis=-1, initial=-1)[:, None]
        exists_N = found_N & (start_N1[:, 0] >= 0) & ~self._is_inside(start_N1)
        stop_N = jnp.where(exists_N, end_N1[:, 0] + 1, 0)
        part = slice_bytes(self._text, jnp.maximum(start_N1[:, 0], 0), stop_N)
        return part, found_N, limit_N

    def _is_inside(self, start_N1: jax.Array) -> jax.Array:
        """bool[N]: what stands before shows that this is a part of something."""
        before_N1 = self._before(start_N1)
        byte_N1 = self._at(before_N1)
        joint_N1 = _is_any(byte_N1, b":,") & _is_any(self._at(self._before(before_N1)), ENDS_VALUE)
        return (_is_any(byte_N1, b"[{") | joint_N1)[:, 0]

    def _before(self, index_N1: jax.Array) -> jax.Array:
        """The index of the last byte before that is no white space; -1 without one."""
        found = jnp.take_along_axis(self._solid_before, jnp.maximum(index_N1, 0), axis=-1)
        return jnp.where(index_N1 < 0, -1, found)


def _is_any(byte: jax.Array, options: bytes) -> jax.Array:
    found = jnp.zeros(byte.shape, bool)
    for option in options:
        found |= byte == option
    return found
