"""The best constant answer: what a policy earns that says the same whatever it is asked.

A trained model that earns no more has learned nothing of the task but its commonest answer.
"""

import collections
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rft_jax.graders.grader import Grader, grade_samples
from rft_jax.graders.types import HostSample, Items

MOST_CANDIDATES = 32  # each is graded on every item


class Constant(NamedTuple):
    """An answer, and the mean reward over the items of giving it to each."""

    answer: str
    reward: float


def best_constant(grader: Grader, items: Items, answers: Iterable[str]) -> Constant:
    """The one of the given answers that earns most when it is given to every item.

    Args:
        grader: From `build_grader`.
        items: N items. A sample without a valid grade counts as 0.
        answers: What to try, such as the right answers to the items: of the distinct ones the
            `MOST_CANDIDATES` commonest, of equally common ones the first.

    Returns:
        The first of the best; an empty answer, which earns 0, where there are none to try.

    Raises:
        InputError: An item does not serve the grader.
    """
    counts = collections.Counter(answers)
    rows = range(len(items.rows))
    best = None
    with grader.open_host() as host:
        for answer, _ in counts.most_common(MOST_CANDIDATES):
            grade = grade_samples(grader, [HostSample(answer)] * len(rows), items, rows, host)
            reward = float(np.where(grade.valid, grade.reward, 0).mean())
            if best is None or reward > best.reward:
                best = Constant(answer, reward)
    return best or Constant("", 0.0)
