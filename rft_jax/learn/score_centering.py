"""Score centering: no drift of the policy where what samples is not what learns.

Let q be the sampler's distribution of the next token, p the learner's, w(p, q) the importance
weight and A the advantage of what followed. A token y drawn from q moves the weights along

    A w(p_y, q_y) grad log p_y.

Its expectation over y has a part that knows nothing of the rewards: the mean of A times

    g = sum_v q_v w(p_v, q_v) grad log p_v,

the score that the sampler expects. With q = p, or with untruncated weights p / q, it is zero, as
sum_v p_v grad log p_v = grad 1. Else it is a drift, the same in every step, along which the two
policies part further. Subtracted from the score it is a control variate that is exact: with

    A (w(p_y, q_y) grad log p_y - g)

the expectation over y is the covariance of advantage and score under q, and that of a constant
advantage is zero, whatever q is. Both policies' weights are at hand, so that g is summed over the
whole vocabulary; engines that have only the sampler's top k must model the rest.

As a term of the loss it is A sum_v m_v log p_v with m_v = q_v w(p_v, q_v) constant, whose gradient
in the logits is A (m - p sum_v m_v).

References:
    https://arxiv.org/abs/2609.20807. The paper itself was not at hand: the form is that of NVIDIA's
    NeMo RL, which names the paper's equation 14, with its tail estimate replaced by the sum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models import Params
from rft_jax.rollout.sampling import truncate

# From log p, log q and where q > 0, all [..., V], to weights that are constants.
Weight = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Centering:
    """What samples, for the learner's pass over completions.

    Attributes:
        params: The rollout's copy of the weights.
        top_k: The sampler's.
        top_p: Likewise.
        weight: The importance weight.
    """

    params: Params
    top_k: int
    top_p: float
    weight: Weight


def centering_term(logits_xV: Array, sampler_logits_xV: Array, centering: Centering) -> Array:
    """sum_v m_v log p_v for each token, float32 [x], which A is multiplied by.

    Args:
        logits_xV: The learner's, over the temperature, masked; the gradient flows through them.
        sampler_logits_xV: The same of the sampler.
        centering: Its truncation and the importance weight.
    """
    logp_xV = jax.nn.log_softmax(logits_xV)
    peak_x1 = sampler_logits_xV.max(axis=-1, keepdims=True)
    q_xV = truncate(jnp.exp(sampler_logits_xV - peak_x1), centering.top_k, centering.top_p)
    q_xV = q_xV / q_xV.sum(axis=-1, keepdims=True)
    some_xV = (q_xV > 0) & jnp.isfinite(logp_xV)
    # A logarithm of what is there only, so that no infinity meets a zero.
    logq_xV = jnp.log(jnp.where(some_xV, q_xV, 1))
    logp_xV = jnp.where(some_xV, logp_xV, 0)
    mass_xV = jax.lax.stop_gradient(q_xV * centering.weight(logp_xV, logq_xV, some_xV))
    return jnp.where(some_xV, mass_xV * logp_xV, 0).sum(axis=-1)
