"""What a model wrote and earned, as a JSON value for people to read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rft_jax.graders.types import ERRORS
from rft_jax.step import Samples
from rft_jax.tokenizers import Tokenizer, thought_text
from rft_jax.utils.numbers import to_numbers
from rft_jax.utils.types import JsonMapping, JsonObject

TOO_LONG = "answer_longer_than_output_bytes"  # for people, where OpenAI has `other_error`


def sample_row(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    text: bytes,
    *,
    thinking_tokens: int,
    stopped: bool,
    reward: float,
    valid: bool,
    scores: Mapping[str, float],
    errors: Mapping[str, bool],
) -> JsonObject:
    """One completion.

    Args:
        tokens: Those of the thought first, `thinking_tokens` of them.
        text: The answer as it was graded.
        errors: By name whether it was made; those of a grader's parts are left out.
    """
    return {
        "thought": thought_text(tokenizer, [int(token) for token in tokens[:thinking_tokens]]),
        "answer": text.decode(errors="replace"),
        "stop_reason": "stop" if stopped else "length",
        "reward": to_numbers(reward),
        "valid": bool(valid),
        "scores": to_numbers(dict(scores)),
        "errors": [name for name in ERRORS if errors.get(name)],
    }


def write_samples(
    directory: Path,
    step: int,
    samples: Samples,
    items: Sequence[JsonMapping],
    tokenizer: Tokenizer,
    fields: Sequence[str] = (),
) -> None:
    """Writes a step's samples as JSON lines, for people to read.

    Args:
        directory: The folder; it is made if needed.
        step: The number of steps done.
        samples: NumPy arrays.
        items: The data set that the samples' prompt ids count in.
        fields: Keys of the items that the grader compares with.
    """
    (rollout, answers, _), grade = samples.completed, samples.grade
    rows = []
    for b, g in np.ndindex(rollout.length_BG.shape):
        row = sample_row(
            tokenizer,
            rollout.tokens_BGT[b, g].tolist(),
            answers.bytes[b, g, : answers.length[b, g]].tobytes(),
            thinking_tokens=int(rollout.thinking_tokens_BG[b, g]),
            stopped=bool(rollout.stopped_BG[b, g]),
            reward=float(grade.reward[b, g]),
            valid=bool(grade.valid[b, g]),
            scores={name: float(score[b, g]) for name, score in grade.scores.items()},
            errors={name: bool(flag[b, g]) for name, flag in grade.errors.items()},
        )
        row |= {"step": step, "advantage": to_numbers(samples.advantage_BG[b, g])}
        item = items[int(samples.prompt_id_B[b])]
        row |= expected(item, fields) | {"prompt": item["messages"]}
        if samples.completed.overflow_BG[b, g]:
            row["errors"] = [TOO_LONG if e == "other_error" else e for e in row["errors"]]
        rows.append(row)
    samples_file(directory, step).write_bytes(json_lines(rows))


def samples_file(directory: Path, step: int) -> Path:
    """The file of a step's samples in a folder, which is made if needed."""
    directory.mkdir(exist_ok=True)
    return directory / f"step_{step:06d}.jsonl"


def expected(item: JsonMapping, fields: Sequence[str]) -> dict[str, str]:
    """What the grader compares an answer with, as a sample's `expected`; empty without."""
    found = {name: item[name] for name in fields if name in item}
    if not found:
        return {}
    if len(found) == 1 and isinstance(value := next(iter(found.values())), str):
        return {"expected": value}
    return {"expected": json.dumps(found, ensure_ascii=False)}


def json_lines(rows: Iterable[JsonMapping]) -> bytes:
    """JSON lines in UTF-8; what is no character becomes a question mark."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "replace")
