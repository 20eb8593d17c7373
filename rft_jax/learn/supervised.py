"""Supervised learning on given completions: pre-training and supervised fine-tuning."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rft_jax.learn.accumulate import accumulate_gradient
from rft_jax.learn.logprobs import in_chunks, score_tokens
from rft_jax.learn.optimizer import TrainState, apply_gradient
from rft_jax.models import Model, Params


class SupervisedBatch(NamedTuple):
    """Packed rows; see `data.sft_packing`."""

    tokens_BT: Array  # int32
    positions_BT: Array  # int32
    segments_BT: Array  # int32
    predict_BC: Array  # int32, -1 where there is nothing to learn


def make_supervised_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    gradient_accumulation: int,
    logit_chunk: int,
) -> Callable[[TrainState, SupervisedBatch], tuple[TrainState, dict[str, Array]]]:
    """The step: mean cross-entropy over the learned tokens of the whole batch.

    Logits exist only at the positions that predict them.

    Returns:
        A pure function (state, batch) -> (state, metrics): loss in nats per token, accuracy of the
        most probable token, the gradient's norm before clipping, and how many tokens were learned.
    """

    def step(state: TrainState, batch: SupervisedBatch) -> tuple[TrainState, dict[str, Array]]:
        tokens = jnp.maximum((batch.predict_BC >= 0).sum(), 1)
        base = state.frozen.base

        def loss(params: Params, part: SupervisedBatch) -> tuple[Array, Array]:
            loss_BC, correct_BC = _predict(model, model.adapt(params, base), part, logit_chunk)
            return loss_BC.sum() / tokens, correct_BC

        value, correct_BC, gradient = accumulate_gradient(
            loss, state.params, batch, gradient_accumulation
        )
        metrics = {
            "loss": value,
            "mean_token_accuracy": correct_BC.sum() / tokens,
            "target_tokens": tokens,
        }
        state, norms = apply_gradient(optimizer, state, gradient)
        rows = batch.tokens_BT.shape[0]
        return state._replace(step=state.step + 1, cursor=state.cursor + rows), metrics | norms

    return step


class SupervisedSums(NamedTuple):
    """Sums over the learned tokens of a batch.

    Attributes:
        loss: Cross-entropy in nats.
        correct: Of how many tokens the right one is the most probable.
        tokens: How many there are.
    """

    loss: Array
    correct: Array
    tokens: Array


def supervised_sums(
    model: Model, params: Params, batch: SupervisedBatch, logit_chunk: int
) -> SupervisedSums:
    """What a batch adds to loss and accuracy of a whole file; without a gradient.

    Args:
        params: All weights.
        logit_chunk: Positions of a row whose logits exist at once.
    """
    loss_BC, correct_BC = _predict(model, params, batch, logit_chunk)
    return SupervisedSums(loss_BC.sum(), correct_BC.sum(), (batch.predict_BC >= 0).sum())


def _predict(
    model: Model, params: Params, part: SupervisedBatch, logit_chunk: int
) -> tuple[Array, Array]:
    """Cross-entropy and correctness of the learned tokens, [B, C]; 0 and false of the others."""
    hidden_BTD = model.hidden(params, part.tokens_BT, part.positions_BT, part.segments_BT)
    at_BC = jnp.maximum(part.predict_BC, 0)
    hidden_BCD = jnp.take_along_axis(hidden_BTD, at_BC[..., None], axis=1)
    target_BC = jnp.take_along_axis(part.tokens_BT, at_BC + 1, axis=1)

    gathered = model.gather_head(params)

    def score(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden_B1CD, target_B1C = inputs
        scores = score_tokens(model.logits(gathered, hidden_B1CD), target_B1C)
        return -scores.logprob_x, scores.likeliest_x

    scores = in_chunks(score, (hidden_BCD[:, None], target_BC[:, None]), logit_chunk)
    loss_BC, correct_BC = jax.tree.map(lambda x: x[:, 0], scores)
    learned_BC = part.predict_BC >= 0
    return jnp.where(learned_BC, loss_BC, 0), correct_BC & learned_BC
