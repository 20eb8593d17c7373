"""Pages: a pool of room for keys and values that rows of different lengths share.

A page has room for some consecutive tokens of one row. Rows take pages as they grow, and a row that
has ended gives its pages back; so a pool holds as many tokens as there are, where with room of
its own for each row there would be room for as many as there can be. Who has which page is the same
in all layers that keep their tokens in pools.

Letters besides those of `step`: R rows, J pages of a row, X pages of the pool and one more.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

PAGE_TOKENS = 64  # at most; a quarter of the longest completion, if that is less
FAR = 2**30  # the position of what a page without an owner has


class Pool(NamedTuple):
    """The sizes of a pool."""

    pages: int
    page_tokens: int

    def whole(self, tokens: int) -> int:
        """How many rows of so many tokens it holds."""
        return self.pages // -(-tokens // self.page_tokens)


def page_tokens(tokens: int) -> int:
    """The tokens of a page, for rows of up to so many."""
    return max(1, min(PAGE_TOKENS, tokens // 4))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["table_RJ", "owner_X", "first_X"],
    meta_fields=["page_tokens"],
)
@dataclass(frozen=True)
class Pages:
    """Whose each page of a pool is. One page more is written to by rows that have none.

    Attributes:
        table_RJ: int32, each row's pages in the order of its tokens; the last of the pool, which is
            no row's, where it has none.
        owner_X: int32, the row of each page.
        first_X: int32, the position of the page's first token in its row; `FAR` without a row.
        page_tokens: Tokens of a page.
    """

    table_RJ: Array
    owner_X: Array
    first_X: Array
    page_tokens: int

    def place(self, length_R: Array) -> tuple[Array, Array]:
        """The page, and the index in it, of the token after so many of each row."""
        at_R1 = (length_R // self.page_tokens)[:, None]
        page_R1 = jnp.take_along_axis(self.table_RJ, at_R1, axis=1, mode="clip")
        return page_R1[:, 0], length_R % self.page_tokens

    def age(self, length_R: Array) -> Array:
        """int32[X, page_tokens]: how many tokens before that after so many of its row each is;
        negative for what is not written yet."""
        position_XT = self.first_X[:, None] + jnp.arange(self.page_tokens)
        return length_R[self.owner_X][:, None] - position_XT

    def allot(self, length_R: Array, running_R: Array) -> tuple["Pages", Array]:
        """Gives pages to rows for one token more each, the longest first.

        Those that do not fit lose all that they have: they begin anew later. The longest row is
        never among them, if the pool holds a whole one, so that rows always come to their end; nor
        are as many of the longest as it holds whole ones.

        Args:
            length_R: int32, tokens of each row.
            running_R: bool; the others have ended, and give back what they have.

        Returns:
            The pages, and which of the running rows have them.
        """
        R, J = self.table_RJ.shape
        none, size = len(self.owner_X) - 1, self.page_tokens
        needed_R = jnp.where(running_R, length_R // size + 1, 0)
        order_R = jnp.argsort(jnp.where(running_R, -length_R, FAR))  # stable
        fits_R = jnp.zeros(R, bool).at[order_R].set(jnp.cumsum(needed_R[order_R]) <= none)
        fits_R &= running_R
        held_R = jnp.where(fits_R, -(-length_R // size), 0)
        table_RJ = jnp.where(jnp.arange(J) < held_R[:, None], self.table_RJ, none)
        free_X = jnp.ones(none, bool).at[table_RJ.reshape(-1)].set(False, mode="drop")
        (free_R,) = jnp.nonzero(free_X, size=R, fill_value=none)
        takes_R = fits_R & (needed_R > held_R)
        new_R = free_R[jnp.cumsum(takes_R) - 1]
        at_R = jnp.where(takes_R, held_R, J)
        table_RJ = table_RJ.at[jnp.arange(R), at_R].set(new_R.astype(jnp.int32), mode="drop")
        return _of_table(table_RJ, none, size), fits_R


def empty_pages(rows: int, tokens: int, pool: Pool) -> Pages:
    """A pool for so many rows of up to so many tokens, of which none has a page."""
    size = pool.page_tokens
    table_RJ = jnp.full((rows, -(-tokens // size)), pool.pages, jnp.int32)
    return _of_table(table_RJ, pool.pages, size)


def _of_table(table_RJ: Array, none: int, size: int) -> Pages:
    """The same by page."""
    R, J = table_RJ.shape
    row_RJ, index_RJ = jnp.indices((R, J), jnp.int32)
    owner_X = jnp.zeros(none + 1, jnp.int32).at[table_RJ].set(row_RJ)
    first_X = jnp.full(none + 1, FAR, jnp.int32).at[table_RJ].set(index_RJ * size)
    return Pages(table_RJ, owner_X, first_X.at[none].set(FAR), size)
