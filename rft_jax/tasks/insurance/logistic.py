"""A logistic regression on the words of short texts, a baseline for language models.

rank = fit([("lightning damage", "Lightning"), ...])
rank(["lightning strike"])  # [["Lightning", "Fire", ...]]
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 300
LEARNING_RATE = 0.05
PENALTY = 1e-4  # on the sum of squared weights


def fit(examples: Sequence[tuple[str, str]]) -> Callable[[Sequence[str]], list[list[str]]]:
    """Fits words and pairs of words to labels.

    Args:
        examples: Texts with their labels.

    Returns:
        Of texts, the labels from the likeliest to the least likely one.
    """
    labels = sorted({label for _, label in examples})
    words = sorted({word for text, _ in examples for word in _words(text)})
    column = {word: n for n, word in enumerate(words)}

    def features(texts: Sequence[str]) -> np.ndarray:
        found_NF = np.zeros((len(texts), len(words) + 1), np.float32)
        found_NF[:, -1] = 1  # the intercept
        for row, text in enumerate(texts):
            found_NF[row, [column[word] for word in _words(text) if word in column]] = 1
        return found_NF

    features_NF = features([text for text, _ in examples])
    label_N = np.array([labels.index(label) for _, label in examples])
    optimizer = optax.adam(LEARNING_RATE)

    def loss(weights_FC: jax.Array) -> jax.Array:
        logits_NC = features_NF @ weights_FC
        fit_N = optax.softmax_cross_entropy_with_integer_labels(logits_NC, label_N)
        return fit_N.mean() + PENALTY * (weights_FC**2).sum()

    @jax.jit
    def descend(weights_FC: jax.Array) -> jax.Array:
        def step(
            _: int, carry: tuple[jax.Array, optax.OptState]
        ) -> tuple[jax.Array, optax.OptState]:
            weights_FC, state = carry
            updates, state = optimizer.update(jax.grad(loss)(weights_FC), state)
            return jnp.asarray(optax.apply_updates(weights_FC, updates)), state

        return jax.lax.fori_loop(0, STEPS, step, (weights_FC, optimizer.init(weights_FC)))[0]

    weights_FC = np.asarray(descend(jnp.zeros((len(words) + 1, len(labels)))))

    def rank(texts: Sequence[str]) -> list[list[str]]:
        order_NC = np.argsort(-(features(texts) @ weights_FC), axis=1, kind="stable")
        return [[labels[k] for k in row] for row in order_NC]

    return rank


def _words(text: str) -> set[str]:
    words = re.findall(r"[a-z]+|\d+", text.lower())
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))}
