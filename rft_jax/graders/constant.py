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
    tried = [answer for answer, _ in counts.most_common(MOST_CANDIDATES)]
    if not tried:
        return Constant("", 0.0)
    # All of them at once: the items are encoded once, and one program is compiled.
    samples = [HostSample(answer) for answer in tried for _ in items.rows]
    grade = grade_samples(grader, samples, items, [*range(len(items.rows))] * len(tried))
    reward_N = np.where(grade.valid, grade.reward, 0)
    mean_A = reward_N.reshape(len(tried), len(items.rows)).mean(axis=1)
    best = int(mean_A.argmax())
    return Constant(tried[best], float(mean_A[best]))
