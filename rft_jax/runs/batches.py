"""The step's input: rows of a stage's data as arrays."""

import numpy as np

from rft_jax import data
from rft_jax.config import RolloutConfig
from rft_jax.rollout import Prompts
from rft_jax.runs.datasets import PromptData, index_tree
from rft_jax.step import Batch
from rft_jax.utils.types import host_array


def make_batch(
    items: PromptData, rows: np.ndarray, draws: np.ndarray, max_prompt_tokens: int | None = None
) -> Batch:
    """The step's input for some rows of the data, as NumPy arrays.

    Args:
        max_prompt_tokens: P, of `bucketed`; None: the longest.
    """
    (tokens_BP, length_B), fields = index_tree((tuple(items.prompts), items.item_fields), rows)
    prompts = Prompts(tokens_BP[:, :max_prompt_tokens], length_B)
    return Batch(
        prompts, host_array(rows.astype(np.int32)), host_array(draws.astype(np.int32)), fields
    )


def bucketed(items: PromptData, rows: np.ndarray, config: RolloutConfig) -> int:
    """The static length P for a batch; rows are those of all hosts."""
    longest = int(items.prompts.length_M[rows].max())
    return data.bucket(longest, config.max_prompt_tokens, config.prompt_buckets)
