"""The policy-gradient objective: the loss of a graded batch, given new log-probabilities.

Both ways of running the policy over a batch, padded rows (`policy`) and packed ones
(`packed_gradient`), evaluate the same `Objective` and return a `PolicyGradient`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rft_jax.config import PolicyLossSettings
from rft_jax.config.algorithms import IMPORTANCE_WEIGHTS, KL_ESTIMATORS, POLICY_LOSSES, shown
from rft_jax.learn.logprobs import CompletionScores
from rft_jax.learn.losses import PolicyLoss, aggregate, likelihood_ratio
from rft_jax.models import Model, Params
from rft_jax.rollout import LogitMask, Prompts, Rollout
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class Learner:
    """What learns: the static parts of the update.

    Attributes:
        model: The policy.
        optimizer: What applies a gradient to it.
        mask: The sampler's logit masks.
        temperature: The sampler's.
        config: The objective.
        data_shards: Into how many parts the mesh splits the batch; each is packed by itself.
        top_k: The sampler's.
        top_p: Likewise.
    """

    model: Model
    optimizer: optax.GradientTransformation
    mask: LogitMask
    temperature: float
    config: PolicyLossSettings
    data_shards: int = 1
    top_k: int = 0
    top_p: float = 1.0

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the policy that the stage started from."""
        return self.config.kl_coefficient > 0


class GradedBatch(NamedTuple):
    """What the loss reads, each with leading axis B."""

    prompts: Prompts
    completions: Rollout
    advantage_BG: Array
    mask_BGT: Array  # bool: the policy's own tokens of valid samples
    denominator_BG: Array  # from `losses.denominator`, of the whole batch
    # The old policy's log-probabilities; None on the first gradient step with those of the learner,
    # where they are the new ones themselves.
    old_BGT: Array | None = None


class TokenStatistics(NamedTuple):
    """What the loss shows of each token, [B, G, T]."""

    logprob_BGT: Array
    entropy_BGT: Array
    clipped_high_BGT: Array
    clipped_low_BGT: Array
    clipped_dual_BGT: Array
    kl_BGT: Array


class PolicyGradient(NamedTuple):
    """The gradient of a batch's loss."""

    loss: Array
    tokens: TokenStatistics
    gradient: Params


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of new log-probabilities, which the gradient flows through.

    Its values over disjoint sets of completions add up to the batch's: denominators are those of
    the whole batch.

    Attributes:
        config: What it is made of.
    """

    config: PolicyLossSettings

    def __call__(
        self, new: CompletionScores, reference_BGT: Array | None, batch: GradedBatch
    ) -> tuple[Array, TokenStatistics]:
        """The loss of the tokens in the batch's mask, a scalar, and what it shows of them.

        Args:
            new: Log-probabilities and entropies of the completions.
            reference_BGT: Log-probabilities under the reference policy; None: there is none.
            batch: The completions, or a part of them.
        """
        config, mask_BGT = self.config, batch.mask_BGT

        def masked(x_BGT: Array) -> Array:
            # So that no function of one's own meets an infinity or NaN where nothing is learned.
            return jnp.where(mask_BGT, x_BGT, 0)

        new_BGT = masked(new.logprob_BGT)
        # On the first gradient step the ratio new / old is 1 and its gradient that of `new`.
        old_BGT = new_BGT if batch.old_BGT is None else masked(batch.old_BGT)
        old_BGT = jax.lax.stop_gradient(old_BGT)
        policy = self._policy_loss(new_BGT, old_BGT, batch.advantage_BG, mask_BGT)
        loss_BGT = policy.loss * self._importance_weight(
            old_BGT, masked(batch.completions.logprobs_BGT), mask_BGT
        )
        if new.centering_BGT is not None:
            loss_BGT = loss_BGT + batch.advantage_BG[..., None] * masked(new.centering_BGT)
        kl_BGT = jnp.zeros_like(new_BGT)
        if reference_BGT is not None:
            kl_BGT = self._kl(new_BGT, masked(reference_BGT), mask_BGT)
            if config.unbiased_kl:
                kl_BGT = kl_BGT * likelihood_ratio(new_BGT, old_BGT, mask_BGT)
            loss_BGT = loss_BGT + config.kl_coefficient * kl_BGT
        value = aggregate(loss_BGT, mask_BGT, batch.denominator_BG)
        no_BGT = jnp.zeros_like(mask_BGT)
        return value, TokenStatistics(
            logprob_BGT=new.logprob_BGT,
            entropy_BGT=new.entropy_BGT,
            clipped_high_BGT=no_BGT if policy.clipped_high is None else policy.clipped_high,
            clipped_low_BGT=no_BGT if policy.clipped_low is None else policy.clipped_low,
            clipped_dual_BGT=no_BGT if policy.clipped_dual is None else policy.clipped_dual,
            kl_BGT=kl_BGT,
        )

    def _policy_loss(
        self, new_BGT: Array, old_BGT: Array, advantage_BG: Array, mask_BGT: Array
    ) -> PolicyLoss:
        loss, config = POLICY_LOSSES.find(self.config.loss), self.config
        found = loss(new_BGT, old_BGT, advantage_BG, mask_BGT, config)
        if not isinstance(found, PolicyLoss):
            raise InputError(
                f"{shown(config.loss)}: returned a {type(found).__name__}; a policy "
                "loss returns PolicyLoss(loss)"
            )
        for part in found:
            if part is not None:
                POLICY_LOSSES.check_shape(config.loss, jnp.shape(part), mask_BGT.shape)
        return found

    def _importance_weight(self, old_BGT: Array, sampler_BGT: Array, mask_BGT: Array) -> Array:
        config = self.config
        weight = IMPORTANCE_WEIGHTS.find(config.importance)
        weight_BGT = weight(old_BGT, sampler_BGT, mask_BGT, config)
        IMPORTANCE_WEIGHTS.check_shape(config.importance, jnp.shape(weight_BGT), mask_BGT.shape)
        return weight_BGT

    def _kl(self, new_BGT: Array, reference_BGT: Array, mask_BGT: Array) -> Array:
        config = self.config
        kl_BGT = KL_ESTIMATORS.find(config.kl_estimator)(new_BGT, reference_BGT, mask_BGT)
        KL_ESTIMATORS.check_shape(config.kl_estimator, jnp.shape(kl_BGT), mask_BGT.shape)
        return kl_BGT
