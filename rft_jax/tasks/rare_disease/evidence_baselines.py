"""What a model that ranks candidates is held against: fusion of rankers, and a logit.

Both order the letters of one prompt. The logit sees no more than the prompt shows, and how common
each finding is; the fusion has the ranker's scores too, and naive Bayes on the training cases.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rft_jax.tasks.rare_disease.candidates import Candidate

RANK_OFFSET = 60  # of reciprocal rank fusion (Cormack et al., SIGIR 2009)
STEPS = 500
LEARNING_RATE = 0.05
PENALTY = 1e-3  # on the sum of squared weights


def fusion(scores: Sequence[Sequence[float]]) -> list[int]:
    """Reciprocal rank fusion.

    Args:
        scores: One of each ranker a candidate; higher is likelier, ties go by their order.

    Returns:
        The candidates' positions, the likeliest first.
    """
    total = np.zeros(len(scores[0]))
    for of_ranker in scores:
        order = np.argsort(-np.asarray(of_ranker), kind="stable")
        total[order] += 1 / (RANK_OFFSET + 1 + np.arange(len(order)))
    return np.argsort(-total, kind="stable").tolist()


def features(candidate: Candidate, findings: int, background: np.ndarray) -> list[float]:
    """What a prompt shows of a candidate, as numbers.

    Args:
        candidate: With the findings that point to it.
        findings: How many the case has.
        background: How common each is over all diseases.

    Returns:
        The share of the findings that point to it, whether none does, and the sum and the maximum
        of their rarity in nats.
    """
    rarity = [-float(np.log(background[term])) for term in candidate.support]
    share = len(rarity) / findings if findings else 0.0
    return [share, float(not rarity), sum(rarity) / 10, max(rarity, default=0.0) / 10]


def fit_logit(
    examples: Sequence[Sequence[Sequence[float]]], right: Sequence[int]
) -> Callable[[Sequence[Sequence[float]]], list[int]]:
    """Fits a conditional logit: a choice among the candidates of a case by their features.

    Args:
        examples: The features of each case's candidates, of all cases equally many.
        right: The position of each case's right candidate.

    Returns:
        Of a case's features the candidates' positions, the likeliest first.
    """
    features_NKF = jnp.asarray(examples, jnp.float32)
    right_N = jnp.asarray(right)
    optimizer = optax.adam(LEARNING_RATE)

    def loss(weights_F: jax.Array) -> jax.Array:
        logits_NK = features_NKF @ weights_F
        fit_N = optax.softmax_cross_entropy_with_integer_labels(logits_NK, right_N)
        return fit_N.mean() + PENALTY * (weights_F**2).sum()

    def step(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        weights_F, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights_F), state)
        return jnp.asarray(optax.apply_updates(weights_F, updates)), state

    start = jnp.zeros(features_NKF.shape[-1])
    weights_F, _ = jax.jit(
        lambda: jax.lax.fori_loop(0, STEPS, step, (start, optimizer.init(start)))
    )()
    found = np.asarray(weights_F)

    def rank(of_case: Sequence[Sequence[float]]) -> list[int]:
        return np.argsort(-(np.asarray(of_case) @ found), kind="stable").tolist()

    return rank
