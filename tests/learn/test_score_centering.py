"""Score centering: by enumeration of the vocabulary, the update's mean does not drift."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import Config, PolicyLossConfig, PolicyLossSettings, RLStage, RolloutConfig
from rft_jax.config.algorithms import IMPORTANCE_WEIGHTS
from rft_jax.config.validate import validate
from rft_jax.learn import losses as _losses  # noqa: F401  registers the weights
from rft_jax.learn.score_centering import Centering, centering_term
from rft_jax.utils.errors import InputError

FORBIDDEN = -1e30
LEARNER = jnp.array([0.3, -1.0, 0.8, 0.1, -2.5, FORBIDDEN])
SAMPLER = jnp.array([1.4, -1.2, 0.1, 0.3, -0.5, FORBIDDEN])
CONFIG = PolicyLossSettings(tis_cap=1.3)


def centering(importance="none", top_k=0, top_p=1.0):
    function = IMPORTANCE_WEIGHTS.find(importance)
    weight = functools.partial(lambda *arrays: function(*arrays, CONFIG))
    return Centering({}, top_k, top_p, weight)


def score(logits):
    """[V, V]: the gradient of each token's log-probability."""
    return np.asarray(jax.jacobian(jax.nn.log_softmax)(logits))


def expected_update(importance, sampler, q, advantage):
    """Over tokens of the sampler: A (w grad log p - g), by the gradients of both terms."""
    p = np.asarray(jax.nn.softmax(LEARNER))
    ratio = np.divide(p, q, out=np.zeros_like(p), where=q > 0)
    weight = {
        "none": np.ones_like(p),
        "tis": np.minimum(ratio, 1.3),
        "icepop": np.where((ratio >= 0.5) & (ratio <= 2), ratio, 0),
    }[importance]
    k = int((q > 0).sum()) if (q[:5] == 0).any() else 0
    g = np.asarray(jax.grad(centering_term)(LEARNER, sampler, centering(importance, k)))
    own = weight[:, None] * score(LEARNER)
    return (q[:, None] * advantage[:, None] * (own - g)).sum(axis=0), own, q


@pytest.mark.parametrize("importance", IMPORTANCE_WEIGHTS.shipped)
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_constant_advantage_moves_nothing_in_expectation(importance, top_k):
    q = np.exp(np.asarray(SAMPLER, np.float64))
    if top_k:
        q[np.argsort(q)[:-top_k]] = 0
    q /= q.sum()
    update, own, _ = expected_update(importance, SAMPLER, q, np.ones(6))
    np.testing.assert_allclose(update, 0, atol=1e-6)
    drift = (q[:, None] * own).sum(axis=0)
    assert np.abs(drift).max() > 1e-2  # what is taken away


@pytest.mark.parametrize("importance", IMPORTANCE_WEIGHTS.shipped)
def test_the_update_is_the_covariance_of_advantage_and_score(importance):
    q = np.asarray(jax.nn.softmax(SAMPLER), np.float64)
    advantage = np.array([1.0, -0.5, 2.0, 0.3, -1.0, 0.0])
    update, own, _ = expected_update(importance, SAMPLER, q, advantage)
    mean = (q * advantage).sum()
    covariance = (q[:, None] * (advantage - mean)[:, None] * own).sum(axis=0)
    np.testing.assert_allclose(update, covariance, atol=1e-6)


@pytest.mark.parametrize("importance", ["none", "tis"])
def test_with_the_learner_as_sampler_the_term_has_no_gradient(importance):
    gradient = jax.grad(centering_term)(LEARNER, LEARNER, centering(importance))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_untruncated_weights_leave_nothing_to_center():
    """As m is p then: the score that is expected is that of the learner itself."""
    exact = Centering({}, 0, 1.0, lambda logp, logq, some: jnp.exp(logp - logq))
    gradient = jax.grad(centering_term)(LEARNER, SAMPLER, exact)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_forbidden_tokens_make_no_infinity():
    masked = LEARNER.at[5].set(-jnp.inf), SAMPLER.at[5].set(-jnp.inf)
    value, gradient = jax.value_and_grad(centering_term)(*masked, centering("tis"))
    assert np.isfinite(value) and np.isfinite(gradient).all() and gradient[5] == 0


def test_it_may_stand_without_importance_weights():
    loss = PolicyLossConfig(score_centering=True, importance="none")
    rollout = RolloutConfig(int8_weights=True)
    validate(Config(stages=(RLStage(init="", rollout=rollout, policy_loss=loss),)))


@pytest.mark.parametrize(
    ("settings", "need"),
    [
        ({"epochs_per_batch": 2}, "epochs_per_batch=1"),
        ({"algorithm": "dppo"}, "old_logprobs=learner"),
        ({"pack_rows": 1}, "pack_rows=0"),
        ({"int8_cache": True}, "rollout.int8_cache off"),
    ],
)
def test_it_is_refused_where_it_would_not_be_exact(settings, need):
    rollout = RolloutConfig(int8_cache=settings.pop("int8_cache", False))
    loss = PolicyLossConfig(score_centering=True, **settings)
    config = Config(stages=(RLStage(init="", rollout=rollout, policy_loss=loss),))
    with pytest.raises(InputError, match=f"policy_loss.score_centering: needs {need}"):
        validate(config)
