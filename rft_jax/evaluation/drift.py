"""How the form of answers changes while a model is trained: length, openings, JSON, repetition.

Where a grader pays for a trick, the answers grow alike long before people see why.
"""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rft_jax.graders.repetition import DEFAULT_N, fresh_fraction

OPENING = 3  # words


def describe_answers(answers: Sequence[str]) -> dict[str, float]:
    """Figures on the form of at least one answer, as they are called in the metrics.

    Returns:
        The mean of the bytes; the fraction that begins with the commonest three words, that is one
        JSON object or array and nothing else; and the mean fraction of an answer's n-grams of 4
        words that repeat an earlier one.
    """
    openings = Counter(" ".join(answer.split(maxsplit=OPENING)[:OPENING]) for answer in answers)
    (_, commonest), *_ = openings.most_common(1)
    repeated = [1 - fresh_fraction(answer, DEFAULT_N) for answer in answers]
    return {
        "answers/bytes_mean": float(np.mean([len(a.encode(errors="replace")) for a in answers])),
        "answers/same_opening_fraction": commonest / len(answers),
        "answers/json_fraction": float(np.mean([_is_json(answer) for answer in answers])),
        "answers/repeated_fraction": float(np.mean(repeated)),
    }


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
