"""Prompts with places for an answer: tokens of the host and of the device joined on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.types import Tokens

Array = jax.Array | np.ndarray


class Runs(NamedTuple):
    """Of N prompts the tokens before, between and after h >= 1 places, one after the other.

    Attributes:
        ids_NR: int32, padded on the right.
        end_NJ: int32, where each of the J = h + 1 runs ends in them.
    """

    ids_NR: Array
    end_NJ: Array


def make_runs(prompts: Sequence[Sequence[Sequence[int]]]) -> Runs:
    """NumPy arrays of N prompts, each a list of J runs of token ids; R is the longest one's."""
    end_NJ = np.array([np.cumsum([len(run) for run in runs]) for runs in prompts], np.int32)
    ids_NR = np.zeros((len(prompts), max(1, end_NJ[:, -1].max(initial=0))), np.int32)
    inside_NR = np.arange(ids_NR.shape[1]) < end_NJ[:, -1:]
    ids_NR[inside_NR] = [token for runs in prompts for run in runs for token in run]
    return Runs(ids_NR, end_NJ)


def without(tokens: Tokens, ids: Sequence[int]) -> Tokens:
    """The tokens but those with one of these ids, moved up to the left; pure jnp."""
    ids_NT = jnp.asarray(tokens.ids)
    inside_NT = jnp.arange(ids_NT.shape[1]) < jnp.asarray(tokens.length)[:, None]
    kept_NT = inside_NT & ~jnp.isin(ids_NT, np.asarray(ids, np.int32))
    order_NT = jnp.argsort(~kept_NT, axis=1, stable=True)
    moved_NT = jnp.take_along_axis(ids_NT, order_NT, axis=1)
    return Tokens(moved_NT, kept_NT.sum(axis=1, dtype=jnp.int32))


def splice(runs: Runs, answer: Tokens) -> Tokens:
    """Puts N answers of up to T tokens into every place of their prompts.

    Returns:
        Tokens of [N, R + h T], zero beyond the length: nothing is cut. Two gathers, pure jnp.
    """
    ids_NR, end_NJ = jnp.asarray(runs.ids_NR), jnp.asarray(runs.end_NJ)
    ids_NT, length_N1 = jnp.asarray(answer.ids), answer.length[:, None]
    places = end_NJ.shape[1] - 1
    begin_Nh = end_NJ[:, :-1] + jnp.arange(places) * length_N1
    index_P = jnp.arange(ids_NR.shape[1] + places * ids_NT.shape[1], dtype=jnp.int32)
    begun_NPh = begin_Nh[:, None] <= index_P[:, None]
    in_answer_NP = index_P - jnp.where(begun_NPh, begin_Nh[:, None], -len(index_P)).max(axis=-1)
    in_runs_NP = index_P - begun_NPh.sum(axis=-1) * length_N1
    ids_NP = jnp.where(
        in_answer_NP < length_N1,
        jnp.take_along_axis(ids_NT, in_answer_NP, axis=1, mode="clip"),
        jnp.take_along_axis(ids_NR, in_runs_NP, axis=1, mode="clip"),
    )
    total_N1 = end_NJ[:, -1:] + places * length_N1
    return Tokens(jnp.where(index_P < total_N1, ids_NP, 0), total_N1[:, 0])
