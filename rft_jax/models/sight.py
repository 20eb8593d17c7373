"""Which keys a token sees, as a few numbers of each token and key instead of one of each pair.

At 16,384 tokens a mask of pairs has 268 million entries for every row. From these numbers a tile of
it is made where it is needed, and it can be told which tiles have no pair at all.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

PADDING = 0  # the segment of what is neither seen nor sees
FOREVER = np.iinfo(np.int32).max


class Sight(NamedTuple):
    """A token sees the keys of its own segment whose range of positions holds its own."""

    segment_RT: Array  # int32
    position_RT: Array  # int32
    segment_RU: Array  # int32
    first_RU: Array  # int32, the first position that sees the key
    last_RU: Array  # int32, the last one

    def mask(self) -> Array:
        """bool[R, T, U]: whether token t sees key u."""
        segment_RT1, position_RT1 = self.segment_RT[..., None], self.position_RT[..., None]
        same = (segment_RT1 == self.segment_RU[:, None]) & (segment_RT1 != PADDING)
        return (
            same
            & (self.first_RU[:, None] <= position_RT1)
            & (position_RT1 <= self.last_RU[:, None])
        )

    def padded(self, queries: int, keys: int) -> "Sight":
        """The same with so much padding after queries and keys."""
        widths = queries, queries, keys, keys, keys
        return Sight(*(jnp.pad(x, ((0, 0), (0, n))) for x, n in zip(self, widths, strict=True)))


def last_seen(position_xU: Array, window: Array | None) -> Array:
    """The last positions that see keys at such positions in a window; None: all do."""
    if window is None:
        return jnp.full_like(position_xU, FOREVER)
    return position_xU + jnp.minimum(window - 1, FOREVER - position_xU)


class TileRanges(NamedTuple):
    """For every tile of queries the tiles of keys that it may see, from `first` to before `end`;
    and for every tile of keys those of queries that may see it."""

    first_key_RI: Array  # int32
    end_key_RI: Array
    first_query_RJ: Array
    end_query_RJ: Array


def tile_ranges(sight: Sight, queries: int, keys: int, rows: int = 1) -> TileRanges:
    """Ranges outside of which no token sees a key, for tiles of so many queries and keys.

    Inside of them there may be tiles without a pair: what is known of a tile are the least and the
    greatest of its numbers.

    Args:
        rows: So many in turn have their ranges together; R is then the number of these.
    """

    def bounds(x_RX: Array, there_RX: Array, tile: int) -> tuple[Array, Array]:
        shape = x_RX.shape[0], -1, tile
        least = jnp.where(there_RX, x_RX, FOREVER).reshape(shape).min(axis=-1)
        return least, jnp.where(there_RX, x_RX, -1).reshape(shape).max(axis=-1)

    token_RT, key_RU = sight.segment_RT != PADDING, sight.segment_RU != PADDING
    segment_RI = bounds(sight.segment_RT, token_RT, queries)
    position_RI = bounds(sight.position_RT, token_RT, queries)
    segment_RJ = bounds(sight.segment_RU, key_RU, keys)
    first_RJ, _ = bounds(sight.first_RU, key_RU, keys)
    _, last_RJ = bounds(sight.last_RU, key_RU, keys)

    def not_above(least_RJ: Array, greatest_RI: Array) -> Array:
        return least_RJ[:, None] <= greatest_RI[..., None]

    some_RIJ = (
        not_above(segment_RJ[0], segment_RI[1])
        & ~not_above(segment_RJ[1] + 1, segment_RI[0])
        & not_above(first_RJ, position_RI[1])
        & ~not_above(last_RJ, position_RI[0] - 1)
    )
    some_RIJ = some_RIJ.reshape(-1, rows, *some_RIJ.shape[1:]).any(axis=1)
    return TileRanges(*_range(some_RIJ), *_range(some_RIJ.swapaxes(1, 2)))


def _range(some_xN: Array) -> tuple[Array, Array]:
    """The first index that is set, and one more than the last; twice 0 without any."""
    N = some_xN.shape[-1]
    end_x = jnp.where(some_xN, jnp.arange(1, N + 1), 0).max(axis=-1)
    return jnp.argmax(some_xN, axis=-1).astype(jnp.int32), end_x.astype(jnp.int32)
