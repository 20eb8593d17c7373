"""Single samples of an evaluation, as JSON values for people to read."""

from collections.abc import Sequence

import numpy as np

from rft_jax.evaluation.evaluator import Evaluation
from rft_jax.logging.samples import expected, sample_row
from rft_jax.tokenizers import Tokenizer
from rft_jax.utils.types import JsonMapping, JsonObject


def case_row(
    tokenizer: Tokenizer,
    found: Evaluation,
    items: Sequence[JsonMapping],
    fields: Sequence[str],
    m: int,
    s: int,
) -> JsonObject:
    """Sample `s` of item `m`, with its prompt and what the grader compares with.

    Args:
        fields: Keys of the items that the grader compares with.
    """
    sample = sample_row(
        tokenizer,
        found.tokens_MST[m, s],
        _bytes(found, m, s),
        thinking_tokens=found.reasoning_tokens_MS[m, s],
        stopped=not found.truncated_MS[m, s],
        reward=found.reward_MS[m, s],
        valid=found.valid_MS[m, s],
        scores={name: score[m, s] for name, score in found.scores.items()},
        errors={name: made[m, s] for name, made in found.errors.items()},
    )
    return sample | expected(items[m], fields) | {"prompt": items[m]["messages"]}


def answer_text(found: Evaluation, m: int, s: int) -> str:
    """An answer; where it was cut within a character it ends with a replacement character."""
    return _bytes(found, m, s).decode(errors="replace")


def answer_texts(found: Evaluation) -> list[str]:
    """The answers of all samples, item by item."""
    return [answer_text(found, m, s) for m, s in np.ndindex(found.reward_MS.shape)]


def _bytes(found: Evaluation, m: int, s: int) -> bytes:
    return found.text.bytes[m, s, : found.text.length[m, s]].tobytes()
