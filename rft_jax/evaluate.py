"""Evaluation: sample answers to a file's items, grade them on the device, average.

The samples of an item depend on the seed and the item only, so that two models, or two
checkpoints, are compared on the same noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.models import Params
from rft_jax.parallel import BATCH_AXES, batch_sharding
from rft_jax.rollout import Prompts, completion_keys
from rft_jax.run import PromptData, take
from rft_jax.step import Batch, Program, compile_sampler

TOP = (1, 5)  # top@k for graders that rank


class Evaluation(NamedTuple):
    """Per sample results, NumPy arrays [M, S] for M items and S samples of each."""

    reward_MS: np.ndarray
    valid_MS: np.ndarray
    scores: dict[str, np.ndarray]
    details: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    completion_tokens_MS: np.ndarray
    reasoning_tokens_MS: np.ndarray
    tokens_MST: np.ndarray  # of the completions


def make_evaluator(
    program: Program, items: PromptData, samples: int, seed: int
) -> Callable[[Params], Evaluation]:
    """Compiles on first use; the same function then serves every checkpoint.

    Args:
        program: Of a reinforcement stage; its rollout settings hold here too.
        items: What is to be answered.
        samples: Samples per item, S.
        seed: Of the samples' noise.
    """
    sampler = compile_sampler(program)
    size = len(items.items)
    width = _batch_size(program, samples, size)
    place = batch_sharding(program.mesh)

    def evaluate(params: Params) -> Evaluation:
        parts = []
        for first in range(0, size, width):
            rows = np.minimum(np.arange(first, first + width), size - 1)
            batch = make_batch(items, rows, np.zeros_like(rows))
            keys = completion_keys(
                jnp.uint32(seed),
                jnp.int32(0),
                jnp.asarray(batch.prompt_id_B),
                jnp.asarray(batch.draw_B),
                samples,
            )
            output = sampler(params, *jax.device_put((batch, keys), place))
            real = min(width, size - first)
            parts.append(
                jax.tree.map(
                    lambda leaf, real=real: leaf[:real],
                    jax.device_get(
                        Evaluation(
                            output.grade.reward,
                            output.grade.valid,
                            output.grade.scores,
                            output.grade.details,
                            output.grade.errors,
                            output.rollout.length_BG,
                            output.rollout.thinking_tokens_BG,
                            output.rollout.tokens_BGT,
                        )
                    ),
                )
            )
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return evaluate


def make_batch(items: PromptData, rows: np.ndarray, draws: np.ndarray) -> Batch:
    """The step's input for some rows of the data, as NumPy arrays."""
    prompts, fields = take((tuple(items.prompts), items.item_fields), rows)
    return Batch(Prompts(*prompts), rows.astype(np.int32), draws.astype(np.int32), fields)


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Means over items of means over valid samples; for ranking graders top@k and the like."""
    valid = evaluation.valid_MS
    count = max(int(valid.sum()), 1)

    def mean(values: np.ndarray) -> float:
        return float(np.where(valid, values, 0).sum() / count)

    summary = {
        "items": len(valid),
        "samples": valid.shape[1],
        "reward_mean": mean(evaluation.reward_MS),
        "valid_share": float(valid.mean()),
        "completion_tokens_mean": float(evaluation.completion_tokens_MS.mean()),
        "reasoning_tokens_mean": float(evaluation.reasoning_tokens_MS.mean()),
    }
    summary |= {f"scores/{name}": mean(score) for name, score in evaluation.scores.items()}
    summary |= {f"errors/{name}": float(f.mean()) for name, f in evaluation.errors.items()}
    ranks = [name for name in evaluation.details if name.endswith("/rank")]
    if len(ranks) == 1:  # a ranking task
        node = ranks[0].removesuffix("/rank")
        rank = evaluation.details[ranks[0]]
        summary |= {f"top{k}": mean((rank >= 1) & (rank <= k)) for k in TOP}
        summary |= {
            "top_max": mean(rank >= 1),
            "mrr": mean(np.where(rank >= 1, 1 / np.maximum(rank, 1), 0)),
            "malformed_rate": mean(evaluation.details[f"{node}/malformed"]),
            "mean_list_length": mean(evaluation.details[f"{node}/list_length"]),
        }
    return summary


def _batch_size(program: Program, samples: int, items: int) -> int:
    """Items at once: as many completions as in a training step, a multiple of the mesh's share."""
    stage = program.stage
    parts = int(np.prod([program.mesh.shape[axis] for axis in BATCH_AXES]))
    wanted = max(1, stage.batch_size * stage.rollout.group_size // samples)
    return -(-min(wanted, items) // parts) * parts
