"""What an evaluation says: means over samples and items, pass@k, majority, top@k of ranks."""

from collections.abc import Mapping

import numpy as np

from rft_jax.evaluation.bootstrap import Column, intervals
from rft_jax.evaluation.evaluator import Evaluation
from rft_jax.graders import ANSWER, Grader
from rft_jax.utils.types import JsonObject

TOP = (1, 5)  # top@k for graders that rank


def summarize(evaluation: Evaluation, found: Mapping[str, Column]) -> JsonObject:
    """The means of `columns`, and what else there is to say of an evaluation.

    In `reward_mean_all` the samples that are not valid count as 0.
    """
    valid_MS = evaluation.valid_MS
    errors = {f"errors/{name}_mean": float(f.mean()) for name, f in evaluation.errors.items()}
    errors |= {f"errors/{name}_count": int(f.sum()) for name, f in evaluation.errors.items()}
    return {
        "items": len(valid_MS),
        "samples": valid_MS.shape[1],
        **{name: column.mean for name, column in found.items()},
        "reward_mean_all": float(np.where(valid_MS, evaluation.reward_MS, 0).mean()),
        "valid_fraction": float(valid_MS.mean()),
        "truncated_fraction": float(evaluation.truncated_MS.mean()),
        "completion_tokens_mean": float(evaluation.completion_tokens_MS.mean()),
        "reasoning_tokens_mean": float(evaluation.reasoning_tokens_MS.mean()),
        **errors,
    }


def validation_summary(evaluation: Evaluation, grader: Grader) -> JsonObject:
    """`summarize`, with the interval of the mean reward.

    Where no sample is valid, such as while a judge does not answer, there is no mean reward: it is
    not a reward of 0, and must neither end a training nor make a checkpoint the best.
    """
    found = columns(evaluation, grader)
    summary = summarize(evaluation, found)
    if not evaluation.valid_MS.any():
        del summary["reward_mean"]
        return summary
    low, high = intervals({"reward_mean": found["reward_mean"]})["reward_mean"]
    return summary | {"reward_mean_low": low, "reward_mean_high": high}


def columns(evaluation: Evaluation, grader: Grader) -> dict[str, Column]:
    """What is averaged, by its name in the metrics: over valid samples, or over items."""
    valid_MS = evaluation.valid_MS
    found = {"reward_mean": evaluation.reward_MS}
    found |= {f"scores/{name}": score for name, score in evaluation.scores.items()}
    ranks = [name for name in evaluation.details if name.endswith("/rank")]
    if len(ranks) == 1:  # a ranking task
        node = ranks[0].removesuffix("/rank")
        rank = evaluation.details[ranks[0]]
        found |= {f"top{k}": (rank >= 1) & (rank <= k) for k in TOP}
        found |= {
            "top_max": rank >= 1,
            "mrr": np.where(rank >= 1, 1 / np.maximum(rank, 1), 0),
            "malformed_rate": evaluation.details[f"{node}/malformed"],
            "mean_list_length": evaluation.details[f"{node}/list_length"],
        }
    by_sample = {
        name: Column(np.where(valid_MS, values, 0).sum(axis=1), valid_MS.sum(axis=1))
        for name, values in found.items()
    }
    by_item = {}
    if grader.pass_threshold is not None:
        by_item |= pass_at(evaluation.reward_MS >= grader.pass_threshold, valid_MS)
    answers = [name for name in evaluation.details if name.endswith(ANSWER)]
    if len(answers) == 1:
        by_item |= majority(evaluation.details[answers[0]], evaluation.reward_MS, valid_MS)
    return by_sample | by_item


def pass_at(passed_MS: np.ndarray, valid_MS: np.ndarray) -> dict[str, Column]:
    """`pass_at_k` for k = 1, 2, 4, ... and the number of samples.

    The chance that of k samples at least one passes: 1 - C(n - c, k) / C(n, k) for an item with c
    of n valid samples passed (https://arxiv.org/abs/2107.03374); items with fewer valid samples
    have no weight.
    """
    samples = valid_MS.shape[1]
    n_M, c_M = valid_MS.sum(axis=1), (passed_MS & valid_MS).sum(axis=1)
    found = {}
    for k in sorted({samples, *(2**power for power in range(samples.bit_length()))}):
        # C(n - c, k) / C(n, k) = product over i < k of (n - c - i) / (n - i)
        factors = [np.clip(n_M - c_M - i, 0, None) / np.maximum(n_M - i, 1) for i in range(k)]
        enough_M = n_M >= k
        value_M = np.where(enough_M, 1 - np.prod(factors, axis=0), 0)
        found[f"pass_at_{k}"] = Column(value_M, enough_M.astype(int))
    return found


def majority(
    answer_MS: np.ndarray, reward_MS: np.ndarray, valid_MS: np.ndarray
) -> dict[str, Column]:
    """`majority`: the reward of the answer that most of an item's valid samples give.

    Args:
        answer_MS: A number for each different answer, below 0 for none. Of answers that are
            equally common the first counts; an item without any earns 0.
    """
    votes_MS = np.where(
        valid_MS & (answer_MS >= 0),
        ((answer_MS[:, :, None] == answer_MS[:, None, :]) & valid_MS[:, None, :]).sum(axis=2),
        0,
    )
    first_M = votes_MS.argmax(axis=1)[:, None]
    reward_M = np.take_along_axis(reward_MS, first_M, axis=1)[:, 0]
    return {
        "majority": Column(
            np.where(votes_MS.max(axis=1) > 0, reward_M, 0), valid_MS.any(axis=1).astype(int)
        )
    }
