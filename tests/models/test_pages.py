"""Pages: every running row has its own, the longest first, and none is lost."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.models.pages import FAR, Pool, empty_pages, page_tokens

R, T, SIZE = 6, 9, 2
J = -(-T // SIZE)
allot = jax.jit(lambda pages, length_R, running_R: pages.allot(length_R, running_R))


@given(st.sampled_from([J, 2 * J + 1]), st.integers(0, 2**32 - 1))
def test_rows_have_pages_for_all_their_tokens_and_the_longest_go_on(count, seed):
    """Rows grow, end and begin anew in any order; tokens are where they were written."""
    rng, pool = np.random.default_rng(seed), Pool(count, SIZE)
    pages, length_R, running_R = empty_pages(R, T, pool), np.zeros(R, int), np.zeros(R, bool)
    kept = np.zeros((count + 1, SIZE, 2), int)  # as a pool of keys: row and position
    for _ in range(12):
        begins_R = ~running_R & (rng.random(R) < 0.7)
        length_R[begins_R] = 0
        wanted_R = running_R | begins_R
        pages, fits_R = jax.device_get(allot(pages, length_R, wanted_R))
        oldest = sorted(np.flatnonzero(wanted_R), key=lambda row: -length_R[row])
        assert fits_R[oldest[: pool.whole(T)]].all() and not (fits_R & ~wanted_R).any()
        needed = np.cumsum([length_R[row] // SIZE + 1 for row in oldest])
        assert [fits_R[row] for row in oldest] == (needed <= count).tolist()
        page_R, index_R = pages.place(length_R)
        for row in np.flatnonzero(fits_R):
            kept[page_R[row], index_R[row]] = row, length_R[row]
            own = pages.table_RJ[row][: length_R[row] // SIZE + 1]
            written = kept[own].reshape(-1, 2)[: length_R[row] + 1]
            assert (written == [(row, at) for at in range(length_R[row] + 1)]).all()
            assert (pages.owner_X[own] == row).all()
        used = pages.table_RJ[pages.table_RJ < count]
        assert len(set(used.tolist())) == len(used) == (needed[needed <= count].max(initial=0))
        unused = np.setdiff1d(np.arange(count + 1), used)
        assert (pages.first_X[unused] == FAR).all() and (pages.age(length_R)[unused] < 0).all()
        running_R = fits_R & (length_R + 1 < T) & (rng.random(R) < 0.8)
        length_R = length_R + 1


def test_pages_are_short_where_completions_are():
    assert [page_tokens(tokens) for tokens in (1, 9, 256, 4096)] == [1, 2, 64, 64]
