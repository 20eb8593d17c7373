"""Answers in the places of prompts: what joining lists of tokens gives."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.graders import Tokens
from rft_jax.graders.judge_prompt import make_runs, splice, without

N, T, R = 3, 5, 16
RUN = st.lists(st.integers(1, 9), max_size=R // 4)
ANSWER = st.lists(st.integers(1, 9), max_size=T)
SPLICE, WITHOUT = jax.jit(splice), jax.jit(without, static_argnums=1)


@st.composite
def batches(draw):
    places = draw(st.integers(1, 3))
    rows = st.tuples(st.lists(RUN, min_size=places + 1, max_size=places + 1), ANSWER)
    return draw(st.lists(rows, min_size=N, max_size=N))


def tokens_of(rows):
    """With rubbish behind the end."""
    ids = np.full((len(rows), T), 77, np.int32)
    for row, answer in zip(ids, rows, strict=True):
        row[: len(answer)] = answer
    return Tokens(ids, np.array([len(answer) for answer in rows], np.int32))


def lists_of(tokens):
    return [row[:n].tolist() for row, n in zip(*map(np.asarray, tokens), strict=True)]


@given(batches())
def test_splice_joins_lists(batch):
    prompts, answers = zip(*batch, strict=True)
    runs = make_runs(prompts)
    assert runs.ids_NR.shape[1] == max(1, *(sum(map(len, prompt)) for prompt in prompts))
    # Of one width, so that it compiles once for each number of places.
    runs = runs._replace(ids_NR=np.pad(runs.ids_NR, ((0, 0), (0, R - runs.ids_NR.shape[1]))))
    found = SPLICE(runs, tokens_of(answers))
    expected = []
    for (first, *rest), answer in batch:
        expected.append(first + [token for run in rest for token in (*answer, *run)])
    assert lists_of(found) == expected
    beyond = np.arange(found.ids.shape[1]) >= np.asarray(found.length)[:, None]
    assert not np.asarray(found.ids)[beyond].any()


@given(st.lists(ANSWER, min_size=N, max_size=N), st.sampled_from([(), (3,), (1, 4, 9)]))
def test_without_leaves_tokens_out_and_keeps_the_order(rows, ids):
    found = WITHOUT(tokens_of(rows), ids)
    assert lists_of(found) == [[token for token in row if token not in ids] for row in rows]
