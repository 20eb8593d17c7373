"""Supervised learning on given completions: pre-training and supervised fine-tuning."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rft_jax.learn.accumulate import accumulate_gradient
from rft_jax.learn.logprobs import in_chunks, score_tokens
from rft_jax.learn.optimizer import BASE, TrainState, apply_gradient
from rft_jax.models import Model, Params


class SupervisedBatch(NamedTuple):
    """Packed rows; see `data.packing`."""

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
        most probable token, the gradient's norm before clipping, tokens learned.
    """

    def predict(params: Params, part: SupervisedBatch) -> tuple[Array, Array]:
        """Cross-entropy and correctness of the learned tokens, [B, C]."""
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
        return jax.tree.map(lambda x: x[:, 0], scores)

    def step(state: TrainState, batch: SupervisedBatch) -> tuple[TrainState, dict[str, Array]]:
        tokens = jnp.maximum((batch.predict_BC >= 0).sum(), 1)
        base = state.frozen.get(BASE)

        def loss(params: Params, part: SupervisedBatch) -> tuple[Array, Array]:
            loss_BC, correct_BC = predict(model.adapt(params, base), part)
            learned_BC = part.predict_BC >= 0
            return jnp.where(learned_BC, loss_BC, 0).sum() / tokens, correct_BC & learned_BC

        value, correct_BC, gradient = accumulate_gradient(
            loss, state.params, batch, gradient_accumulation
        )
        metrics = {
            "loss": value,
            "mean_token_accuracy": correct_BC.sum() / tokens,
            "tokens": tokens,
        }
        state, norms = apply_gradient(optimizer, state, gradient)
        rows = batch.tokens_BT.shape[0]
        return state._replace(step=state.step + 1, cursor=state.cursor + rows), metrics | norms

    return step
