"""Policy losses: the peers' values and gradients, and what masks, extremes and micro-batches do."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import PolicyLossSettings
from rft_jax.config.algorithms import ADVANTAGES, IMPORTANCE_WEIGHTS, KL_ESTIMATORS, POLICY_LOSSES
from rft_jax.learn.losses import aggregate, denominator, k1, k1_in_reward, k2, k3

AGGREGATIONS = ("token_mean", "sequence_mean", "constant", "sequence_sum")

# Name in policy_losses.npz -> the settings that give it; see tests/data_files/README.md.
PEERS = {
    "ppo_dual3_token-mean": PolicyLossSettings(dual_clip=3.0),
    "ppo_nodual_token-mean": PolicyLossSettings(),
    "ppo_dual3_seq-mean-tok-mean": PolicyLossSettings(dual_clip=3.0, aggregation="sequence_mean"),
    "ppo_dual3_const-norm": PolicyLossSettings(dual_clip=3.0, aggregation="constant"),
    "ppo_dual3_seq-mean-tok-sum": PolicyLossSettings(dual_clip=3.0, aggregation="sequence_sum"),
    "gspo": PolicyLossSettings(loss="gspo", aggregation="sequence_mean"),
    "cispo_two-sided": PolicyLossSettings(loss="cispo"),
    "cispo_one-sided": PolicyLossSettings(loss="cispo", two_sided=False),
    "ppo_dual3_TIS2": PolicyLossSettings(dual_clip=3.0, importance="tis"),
    "ppo_dual3_IcePop.5_2": PolicyLossSettings(dual_clip=3.0, importance="icepop"),
}


@pytest.fixture(scope="module")
def reference(data_files):
    with np.load(data_files / "policy_losses.npz") as file:
        arrays = dict(file)
    arrays["mask"] = arrays["mask"] > 0
    return arrays


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradient(config, new, old, roll, advantage, mask):
    """The loss as the update composes it, without the KL term."""

    def loss(new):
        result = POLICY_LOSSES.find(config.loss)(new, old, advantage, mask, config)
        weight = IMPORTANCE_WEIGHTS.find(config.importance)(old, roll, mask, config)
        total = denominator(mask, config.aggregation)
        return aggregate(result.loss * weight, mask, total)

    return jax.value_and_grad(loss)(new)


def value_and_gradient(config, arrays):
    return _value_and_gradient(
        config, *(arrays[key] for key in ("new", "old", "roll", "adv", "mask"))
    )


def assert_as_reference(reference, name, value, gradient):
    # The peers agree with each other within 5e-7 and 6e-8.
    np.testing.assert_allclose(value, reference[f"loss/{name}"], rtol=0, atol=5e-7)
    np.testing.assert_allclose(gradient, reference[f"grad/{name}"], rtol=0, atol=6e-8)


@pytest.mark.parametrize("name", PEERS)
def test_policy_losses_equal_those_of_other_implementations(reference, name):
    assert_as_reference(reference, name, *value_and_gradient(PEERS[name], reference))


def test_k3_equals_that_of_other_implementations(reference):
    mask, ref = jnp.asarray(reference["mask"]), jnp.asarray(reference["ref"])
    total = denominator(mask, "token_mean")
    value, gradient = jax.value_and_grad(lambda new: aggregate(k3(new, ref, mask), mask, total))(
        jnp.asarray(reference["new"])
    )
    assert_as_reference(reference, "k3_token-mean", value, gradient)


def test_every_row_of_the_reference_is_tested(reference):
    rows = {key.removeprefix("loss/") for key in reference if key.startswith("loss/")}
    assert rows == {*PEERS, "k3_token-mean"}


def test_clip_indicators_count_what_the_reference_counts(reference):
    new, old, advantage, mask = (jnp.asarray(reference[k]) for k in ("new", "old", "adv", "mask"))
    config = PolicyLossSettings(dual_clip=3.0)
    ppo = POLICY_LOSSES.find("ppo_clip")(new, old, advantage, mask, config)
    assert [int(clipped.sum()) for clipped in ppo[1:]] == [25, 22, 6]
    gspo = POLICY_LOSSES.find("gspo")(new, old, advantage, mask, config)
    assert [int(clipped.any(axis=-1).sum()) for clipped in gspo[1:3]] == [3, 3]
    assert gspo.clipped_dual is None


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo"])
def test_exactly_the_clipped_tokens_have_no_gradient(reference, loss):
    new, old, advantage, mask = (jnp.asarray(reference[k]) for k in ("new", "old", "adv", "mask"))
    config = PolicyLossSettings(loss=loss, dual_clip=3.0)
    function = POLICY_LOSSES.find(loss)
    gradient = jax.grad(
        lambda new: jnp.where(mask, function(new, old, advantage, mask, config).loss, 0).sum()
    )(new)
    result = function(new, old, advantage, mask, config)
    silenced = ~mask
    for clipped in filter(lambda clipped: clipped is not None, result[1:]):
        silenced |= clipped
    np.testing.assert_array_equal(gradient == 0, silenced | (advantage == 0)[:, None])


@pytest.mark.parametrize("loss", POLICY_LOSSES.shipped)
def test_on_policy_every_loss_has_the_reinforce_gradient(reference, loss):
    old, advantage, mask = (jnp.asarray(reference[key]) for key in ("old", "adv", "mask"))
    config = PolicyLossSettings(loss=loss, dual_clip=3.0)

    def total(new):
        result = POLICY_LOSSES.find(loss)(new, jax.lax.stop_gradient(new), advantage, mask, config)
        return jnp.where(mask, result.loss, 0).sum()

    expected = np.where(mask, -np.asarray(advantage)[:, None], 0)
    np.testing.assert_allclose(jax.grad(total)(old), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", PEERS)
def test_what_stands_outside_the_mask_has_no_influence(reference, name, garbage):
    spoilt = dict(reference)
    for key in ("new", "old", "roll"):
        spoilt[key] = np.where(reference["mask"], reference[key], np.float32(garbage))
    got, expected = (value_and_gradient(PEERS[name], arrays) for arrays in (spoilt, reference))
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("estimator", KL_ESTIMATORS.shipped)
def test_kl_ignores_what_stands_outside_the_mask(estimator):
    mask = jnp.array([True, False, True])
    new, ref = jnp.array([-1.0, jnp.nan, -2.0]), jnp.array([-1.5, -jnp.inf, -1.0])
    value, gradient = jax.value_and_grad(
        lambda new: KL_ESTIMATORS.find(estimator)(new, ref, mask).sum()
    )(new)
    assert np.isfinite(value) and np.isfinite(gradient).all() and gradient[1] == 0


@pytest.mark.parametrize("gap", [80.0, 1e4, -80.0, -1e4])
@pytest.mark.parametrize("name", PEERS)
def test_extreme_ratios_stay_finite(reference, name, gap):
    arrays = dict(reference, old=reference["new"] - gap, roll=reference["new"] - 2 * gap)
    value, gradient = value_and_gradient(PEERS[name], arrays)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("estimator", KL_ESTIMATORS.shipped)
def test_extreme_kl_stays_finite(estimator):
    new, ref = jnp.array([-1e4, -1.0, -jnp.inf]), jnp.array([-1.0, -1e4, -1.0])
    value, gradient = jax.value_and_grad(
        lambda new: KL_ESTIMATORS.find(estimator)(new, ref, jnp.ones(3, bool)).sum()
    )(new)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("parts", [2, 4, 16])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_shares_of_micro_batches_add_up_to_the_batch(reference, aggregation, parts):
    mask = reference["mask"].copy()
    mask[:3] = False  # one part of the 16 has no token at all
    loss = np.random.default_rng(0).normal(size=mask.shape).astype(np.float32)
    total = denominator(jnp.asarray(mask), aggregation)
    shares = [
        aggregate(jnp.asarray(loss[i::parts]), jnp.asarray(mask[i::parts]), total[i::parts])
        for i in range(parts)
    ]
    whole = aggregate(jnp.asarray(loss), jnp.asarray(mask), total)
    np.testing.assert_allclose(sum(shares), whole, rtol=1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_sequences_without_tokens_are_left_out_of_the_mean(reference, aggregation):
    mask = reference["mask"].copy()
    mask[[2, 5, 11]] = False
    loss = np.random.default_rng(1).normal(size=mask.shape).astype(np.float32)
    kept = mask.any(axis=1)

    def value(loss, mask):
        mask = jnp.asarray(mask)
        return aggregate(jnp.asarray(loss), mask, denominator(mask, aggregation))

    np.testing.assert_allclose(value(loss, mask), value(loss[kept], mask[kept]), rtol=1e-6)
    assert value(loss, np.zeros_like(mask)) == 0


def test_aggregations_are_what_they_say():
    loss = jnp.array([[1.0, 2.0, 6.0], [4.0, 100.0, 100.0]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    got = {kind: float(aggregate(loss, mask, denominator(mask, kind))) for kind in AGGREGATIONS}
    expected = {
        "token_mean": 13 / 4,
        "sequence_mean": (3 + 4) / 2,
        "constant": 13 / 6,
        "sequence_sum": (9 + 4) / 2,
    }
    assert got == pytest.approx(expected)


def test_leading_axes_are_arbitrary(reference):
    config = PolicyLossSettings(loss="gspo", aggregation="sequence_mean")
    shaped = {
        key: reference[key].reshape(4, 4, *reference[key].shape[1:])
        for key in ("new", "old", "roll", "mask", "adv")
    }
    value, gradient = value_and_gradient(config, shaped)
    assert_as_reference(reference, "gspo", value, gradient.reshape(16, 12))


def test_gradients_of_kl_estimators_are_what_their_documentation_says():
    """In expectation over an on-policy token, by enumeration of a categorical distribution."""
    logits = jnp.array([0.3, -1.0, 0.8, 0.1])
    ref = jax.nn.log_softmax(jnp.array([-0.5, 0.2, 0.4, 1.0]))
    mask = jnp.ones(4, bool)
    probability = jax.lax.stop_gradient(jax.nn.softmax(logits))

    def expected_gradient(estimator):
        def mean(logits):
            return (probability * estimator(jax.nn.log_softmax(logits), ref, mask)).sum()

        return jax.grad(mean)(logits)

    def kl(p, q):
        return (jnp.exp(p) * (p - q)).sum()

    reverse = jax.grad(lambda logits: kl(jax.nn.log_softmax(logits), ref))(logits)
    forward = jax.grad(lambda logits: kl(ref, jax.nn.log_softmax(logits)))(logits)
    np.testing.assert_allclose(expected_gradient(k1), 0, atol=1e-6)
    np.testing.assert_allclose(expected_gradient(k2), reverse, atol=1e-6)
    np.testing.assert_allclose(expected_gradient(k3), forward, atol=1e-6)


def test_k1_in_the_reward_has_the_gradient_of_the_divergence_of_sequences():
    """Over all sequences of two words, whose second word's policy depends on the first."""
    first, second = jnp.array([0.4, -0.3, 0.1]), jnp.array([[0.5, 0, -1], [0, 2, 0], [1, 0, 1.0]])
    others = jnp.array([0.0, 0.7, -0.5]), jnp.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0.5]])

    def sequences(first, second):
        """Log-probabilities [3, 3, 2] of the words of each sequence."""
        words = jax.nn.log_softmax(first)[:, None], jax.nn.log_softmax(second)
        return jnp.stack(jnp.broadcast_arrays(*words), axis=-1)

    reference, mask = sequences(*others), jnp.ones((3, 3, 2), bool)

    def divergence(weights):
        new = sequences(*weights)
        return (jnp.exp(new.sum(-1)) * (new - reference).sum(-1)).sum()

    def mean_of_estimates(weights):
        new = sequences(*weights)
        drawn = jax.lax.stop_gradient(jnp.exp(new.sum(-1)))
        return (drawn * k1_in_reward(new, reference, mask).sum(-1)).sum()

    expected, gradient = jax.value_and_grad(divergence)((first, second))
    found, found_gradient = jax.value_and_grad(mean_of_estimates)((first, second))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for ours, theirs in zip(found_gradient, gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert np.abs(theirs).max() > 0.01


@pytest.mark.parametrize("estimator", [k1, k3])
def test_kl_estimators_are_unbiased(estimator):
    new = jax.nn.log_softmax(jnp.array([0.3, -1.0, 0.8, 0.1]))
    ref = jax.nn.log_softmax(jnp.array([-0.5, 0.2, 0.4, 1.0]))
    mean = (jnp.exp(new) * estimator(new, ref, jnp.ones(4, bool))).sum()
    np.testing.assert_allclose(mean, (jnp.exp(new) * (new - ref)).sum(), rtol=1e-5)


def test_importance_weights_are_constants():
    config = PolicyLossSettings()
    mask = jnp.ones(5, bool)
    old = jnp.log(jnp.array([0.4, 0.5, 1.0, 2.0, 2.1]))
    weights = {
        name: IMPORTANCE_WEIGHTS.find(name)(old, jnp.zeros(5), mask, config)
        for name in IMPORTANCE_WEIGHTS.shipped
    }
    np.testing.assert_allclose(weights["none"], 1)
    np.testing.assert_allclose(weights["tis"], [0.4, 0.5, 1.0, 2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(weights["icepop"][jnp.array([0, 2, 4])], [0, 1, 0], rtol=1e-6)
    for weight in map(IMPORTANCE_WEIGHTS.find, IMPORTANCE_WEIGHTS.shipped):
        gradient = jax.grad(lambda old, w=weight: w(old, jnp.zeros(5), mask, config).sum())(old)
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    "algorithms", [ADVANTAGES, IMPORTANCE_WEIGHTS, KL_ESTIMATORS, POLICY_LOSSES]
)
def test_what_ships_is_registered(algorithms):
    shipped = {name: algorithms.find(name) for name in algorithms.shipped}
    ours = {k: f for k, f in algorithms.functions.items() if f.__module__.startswith("rft_jax.")}
    assert shipped == ours


def test_aggregations_have_a_denominator_each():
    mask = jnp.ones((2, 3), bool)
    for aggregation in typing.get_args(typing.get_type_hints(PolicyLossSettings)["aggregation"]):
        assert (denominator(mask, aggregation) > 0).all()
