"""Distillation on a student's own completions: a divergence from a teacher at each token.

    loss = mean over tokens t of D(p_t, q_t)

p is the student's next-token distribution, q the teacher's. Both are known, so that the divergence
is summed over the whole vocabulary and not estimated from the sampled token: its gradient has no
noise but that of which completions were sampled. Both are what the sampler calls the policy,
softmax(logits / temperature) under its logit masks. Tokens that were forced, such as an end of
thinking, are left out.

The teacher may read another prompt than the student: that is self-distillation (SDFT).

References:
    GKD, https://arxiv.org/abs/2306.13649; SDFT, https://arxiv.org/abs/2601.19897.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rft_jax.config import DistillationStage
from rft_jax.learn.accumulate import accumulate_gradient
from rft_jax.learn.logprobs import in_chunks, predicting_hidden
from rft_jax.learn.losses import aggregate, denominator
from rft_jax.learn.optimizer import TrainState, apply_gradient
from rft_jax.learn.token_metrics import masked_mean, sampler_mismatch
from rft_jax.models import Model, Params
from rft_jax.rollout import LogitMask, Prompts, Rollout, logit_masks
from rft_jax.rollout.logit_masks import FORBIDDEN_LOGIT, MaskState

AGGREGATION = "token_mean"

# From log p, log q, both [..., V], and beta, to [...], in nats.
Divergence = Callable[[Array, Array, float], Array]


def reverse_kl(student_xV: Array, teacher_xV: Array, beta: float) -> Array:
    """KL(p || q) = sum_v p_v (log p_v - log q_v), float32 [...]; p the student, q the teacher.

    It is large where the student writes what the teacher would not, so that a small student gives
    up what it cannot imitate.

    Args:
        student_xV: log p, normalized; a forbidden token's is finite.
        teacher_xV: log q, likewise.
        beta: Not used.

    References:
        MiniLLM, https://arxiv.org/abs/2306.08543; on-policy,
        https://arxiv.org/abs/2306.13649.
    """
    del beta
    return (jnp.exp(student_xV) * (student_xV - teacher_xV)).sum(axis=-1)


def forward_kl(student_xV: Array, teacher_xV: Array, beta: float) -> Array:
    """KL(q || p) = sum_v q_v (log q_v - log p_v), as in supervised distillation; see `reverse_kl`.

    References:
        https://arxiv.org/abs/1503.02531
    """
    return reverse_kl(teacher_xV, student_xV, beta)


def generalized_jsd(student_xV: Array, teacher_xV: Array, beta: float) -> Array:
    """beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p; see `reverse_kl`.

    At most log 2. Divided by beta it becomes KL(q || p) as beta goes to 0, and by 1 - beta KL(p ||
    q) as beta goes to 1.

    Args:
        student_xV: log p.
        teacher_xV: log q.
        beta: The teacher's part of the mixture, in (0, 1).

    References:
        https://arxiv.org/abs/2306.13649
    """
    mixture_xV = jnp.logaddexp(teacher_xV + jnp.log(beta), student_xV + jnp.log1p(-beta))
    of_teacher = reverse_kl(teacher_xV, mixture_xV, beta)
    return beta * of_teacher + (1 - beta) * reverse_kl(student_xV, mixture_xV, beta)


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {"reverse_kl": reverse_kl, "forward_kl": forward_kl, "jsd": generalized_jsd}
)


@dataclass(frozen=True)
class Distiller:
    """What distills: the static parts of the update.

    Attributes:
        model: The student.
        teacher: The teacher, of the same tokens.
        optimizer: What applies a gradient to the student.
        mask: The sampler's logit masks.
        config: The stage's settings.
    """

    model: Model
    teacher: Model
    optimizer: optax.GradientTransformation
    mask: LogitMask
    config: DistillationStage


class DistilledCompletions(NamedTuple):
    """What the loss reads, each with leading axis B."""

    prompts: Prompts
    teacher_prompts: Prompts
    completions: Rollout
    mask_BGT: Array  # bool: the student's own tokens
    denominator_BG: Array  # from `losses.denominator`, of the whole batch


class DistillationScores(NamedTuple):
    """What is said of each token, [B, G, T]; only the divergence has a gradient."""

    divergence_BGT: Array  # float32, in nats
    logprob_BGT: Array  # float32, the student's
    entropy_BGT: Array  # float32, the student's


def distill(
    distiller: Distiller,
    state: TrainState,
    teacher_params: Params,
    prompts: Prompts,
    teacher_prompts: Prompts,
    completions: Rollout,
) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step towards the teacher on a batch of the student's completions.

    Counters of the state stay.

    Args:
        distiller: The static parts.
        state: The student before.
        teacher_params: The teacher's weights, which stay.
        prompts: B prompts as the student has read them.
        teacher_prompts: The same as the teacher reads them.
        completions: G of each.

    Returns:
        The state and scalar metrics: the loss and the student's entropy, in nats a token, how far
        the sampler was from the learner, and norms.
    """
    config, mask_BGT = distiller.config, completions.policy_mask_BGT
    if config.rollout.truncated_completions == "mask":
        mask_BGT &= completions.stopped_BG[..., None]
    denominator_BG, base = denominator(mask_BGT, AGGREGATION), state.frozen.base
    batch = DistilledCompletions(prompts, teacher_prompts, completions, mask_BGT, denominator_BG)

    def loss(params: Params, part: DistilledCompletions) -> tuple[Array, DistillationScores]:
        student = distiller.model.adapt(params, base)
        scores = distillation_scores(distiller, student, teacher_params, part)
        return aggregate(scores.divergence_BGT, part.mask_BGT, part.denominator_BG), scores

    value, scores, gradient = accumulate_gradient(
        loss, state.params, batch, config.gradient_accumulation
    )
    metrics = {"loss": value, "entropy": masked_mean(scores.entropy_BGT, mask_BGT)}
    metrics |= sampler_mismatch(completions.logprobs_BGT, scores.logprob_BGT, mask_BGT)
    state, norms = apply_gradient(distiller.optimizer, state, gradient)
    return state, metrics | norms


def distillation_scores(
    distiller: Distiller, params: Params, teacher_params: Params, batch: DistilledCompletions
) -> DistillationScores:
    """The divergence at each token of completions, and what the student says of it.

    Each model runs each prompt once. Logits of the two exist only at `logit_chunk` positions of
    every completion at a time, and are computed again for the gradient.
    """
    config, completions = distiller.config, batch.completions
    tokens_BGT, length_BG = completions.tokens_BGT, completions.length_BG
    student = predicting_hidden(distiller.model, params, batch.prompts, tokens_BGT, length_BG)
    teacher = predicting_hidden(
        distiller.teacher, teacher_params, batch.teacher_prompts, tokens_BGT, length_BG
    )
    heads = distiller.model.gather_head(params), distiller.teacher.gather_head(teacher_params)
    divergence = DIVERGENCES[config.divergence]

    def logprobs(model: Model, params: Params, hidden_BGCD: Array, states: MaskState) -> Array:
        logits_BGCV = _cut(model.logits(params, hidden_BGCD), distiller.model.vocab_size)
        logits_BGCV = logit_masks.policy_logits(
            distiller.mask, states, logits_BGCV, config.rollout.temperature
        )
        return jax.nn.log_softmax(logits_BGCV)

    def score(inputs: tuple[Array, Array, Array, MaskState]) -> DistillationScores:
        student_BGCD, teacher_BGCD, tokens_BGC, states = inputs
        student_BGCV = logprobs(distiller.model, heads[0], student_BGCD, states)
        teacher_BGCV = logprobs(distiller.teacher, heads[1], teacher_BGCD, states)
        fixed_BGCV = jax.lax.stop_gradient(student_BGCV)
        taken_BGC1 = jnp.take_along_axis(fixed_BGCV, tokens_BGC[..., None], axis=-1)
        return DistillationScores(
            divergence(student_BGCV, teacher_BGCV, config.jsd_beta),
            taken_BGC1[..., 0],
            -(jnp.exp(fixed_BGCV) * fixed_BGCV).sum(axis=-1),
        )

    states = logit_masks.replay(distiller.mask, tokens_BGT)
    return in_chunks(score, (student, teacher, tokens_BGT, states), config.logit_chunk)


def _cut(logits_xV: Array, vocab_size: int) -> Array:
    """Logits of so many tokens: without the last ones, or with forbidden ones behind them.

    Models of one tokenizer may have embeddings of different sizes, whose ends are no tokens.
    """
    if (missing := vocab_size - logits_xV.shape[-1]) <= 0:
        return logits_xV[..., :vocab_size]
    padding = [(0, 0)] * (logits_xV.ndim - 1) + [(0, missing)]
    return jnp.pad(logits_xV, padding, constant_values=FORBIDDEN_LOGIT)
