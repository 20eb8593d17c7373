"""The presets' losses and advantages: those of TRL and verl, and by hand what these lack."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import PolicyLossConfig, PolicyLossSettings, RLStage
from rft_jax.config.algorithms import KL_ESTIMATORS, POLICY_LOSSES
from rft_jax.config.presets import PRESETS, policy_loss
from rft_jax.learn.advantages import advantages, teaching_groups
from rft_jax.learn.logprobs import CompletionScores
from rft_jax.learn.losses import aggregate, denominator
from rft_jax.learn.objective import GradedBatch, Objective

GROUPS, GROUP, T = 4, 4, 12

# One compiled program is quicker than the compilation of each of its operations.
jitted = jax.jit(advantages, static_argnums=2)

# Names in the files that are a preset with settings of its user's.
VARIANTS = {
    "cispo_token_mean": ("cispo", {"aggregation": "token_mean"}),
    "dppo_kl": ("dppo", {"loss": "dppo_kl"}),
    "grpo_unbiased_kl": ("grpo", {"kl_coefficient": 0.3, "unbiased_kl": True}),
}
LOSSES = {
    "trl": ("grpo", "dr_grpo", "dapo", "gspo", "cispo_token_mean", "sapo", "grpo_unbiased_kl"),
    "verl": (
        "grpo",
        "dr_grpo",
        "dapo",
        "gspo",
        "cispo_token_mean",
        "rloo",
        "reinforce_pp",
        "dppo",
        "dppo_kl",
        "sapo",
    ),
}
ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "gdpo")


def settings(name: str) -> PolicyLossSettings:
    algorithm, changes = VARIANTS.get(name, (name, {}))
    return policy_loss(RLStage(policy_loss=PolicyLossConfig(algorithm=algorithm, **changes)))


@functools.cache
def recorded(folder, library):
    with np.load(folder / f"presets_{library}.npz") as file:
        return dict(file)


def value_and_gradient(name, arrays):
    """The loss as the update composes it, from given log-probabilities before the step."""
    config = settings(name)
    mask_BGT = jnp.asarray(arrays["mask"] > 0).reshape(GROUPS, GROUP, T)

    def shaped(key):
        return jnp.asarray(arrays[key]).reshape(GROUPS, GROUP, *arrays[key].shape[1:])

    old, ref = shaped("old"), shaped("ref")
    completions = SimpleNamespace(logprobs_BGT=old)
    total_BG = denominator(mask_BGT, config.aggregation)
    batch = GradedBatch(None, completions, shaped("advantage"), mask_BGT, total_BG, old)
    objective = Objective(config)

    def loss(new):
        reference = ref if config.kl_coefficient else None
        return objective(CompletionScores(new, jnp.zeros_like(new)), reference, batch)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(shaped("new"))
    return value, gradient.reshape(-1, T)


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library in LOSSES for name in LOSSES[library]]
)
def test_presets_have_the_losses_of_other_libraries(data_files, library, name):
    reference = recorded(data_files, library)
    value, gradient = value_and_gradient(name, reference)
    np.testing.assert_allclose(value, reference[f"loss/{name}"], rtol=0, atol=5e-7)
    np.testing.assert_allclose(gradient, reference[f"grad/{name}"], rtol=0, atol=6e-8)
    assert np.abs(reference[f"grad/{name}"]).max() > 1e-3


@pytest.mark.parametrize("name", ADVANTAGES)
def test_presets_have_the_advantages_of_verl(data_files, name):
    reference = recorded(data_files, "verl")
    parts = [reference[key].reshape(GROUPS, GROUP) for key in ("part0", "part1")]
    tokens = jnp.asarray(reference["mask"].sum(-1).reshape(GROUPS, GROUP), jnp.int32)
    valid = jnp.ones((GROUPS, GROUP), bool)
    got = jitted(jnp.asarray(sum(parts)), valid, settings(name), parts, tokens)
    expected = reference[f"advantage/{name}"].reshape(GROUPS, GROUP)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-7)


def test_every_recorded_result_is_tested(data_files):
    for library, names in LOSSES.items():
        reference = recorded(data_files, library)
        assert {key[5:] for key in reference if key.startswith("loss/")} == set(names)
        assert library in str(reference["versions"])
    found = {key[10:] for key in recorded(data_files, "verl") if key.startswith("advantage/")}
    assert found == set(ADVANTAGES)


def test_every_preset_is_compared_or_computed_by_hand():
    compared = {VARIANTS.get(name, (name, {}))[0] for names in LOSSES.values() for name in names}
    assert set(PRESETS) - compared == {"maxrl", "gdpo"}  # whose losses are GRPO's


def test_maxrl_divides_by_the_groups_mean():
    """One right of four: 3/4 over 1/4, and -1/4 over 1/4; two right: 1 and -1."""
    reward = jnp.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    got = jitted(reward, jnp.ones((2, 4), bool), settings("maxrl"))
    np.testing.assert_allclose(got, [[3, -1, -1, -1], [1, 1, -1, -1]], rtol=1e-5)
    assert settings("maxrl").loss == "ppo_clip"


def test_gdpo_tells_apart_what_has_the_same_sum():
    """Parts (1, 0) and (0, 1) have one reward; the rarer of them is worth more."""
    first = jnp.array([[1.0, 1.0, 1.0, 0.0]])
    second = jnp.array([[0.0, 0.0, 0.0, 1.0]])
    valid = jnp.ones((1, 4), bool)
    config = settings("gdpo")
    assert not teaching_groups(first + second, valid, settings("grpo"), (first, second)).any()
    got = jitted(first + second, valid, config, (first, second))
    np.testing.assert_allclose(got, 0, atol=1e-3)  # here the two cancel
    third = second.at[0, 0].set(1.0)
    # By hand: of the first part (1/4 | -3/4) / (1/2); of the second (1/2 | -1/2) / sqrt(1/3).
    parts = np.array(
        [[0.5, 0.5, 0.5, -1.5], [3**0.5 / 2, -(3**0.5) / 2, -(3**0.5) / 2, 3**0.5 / 2]]
    )
    summed = parts.sum(axis=0)
    got = jitted(first + third, valid, config, (first, third))
    np.testing.assert_allclose(got[0], summed / summed.std(ddof=1), rtol=1e-5)


def test_whitening_counts_samples_by_their_tokens():
    """A of 3 tokens and B of 1: mean 1/2 of 1, 1, 1, -1, and variance 1 with three below."""
    config = PolicyLossSettings(scale_rewards="none", whiten_advantages=True)
    tokens = jnp.array([[3, 1]])
    got = jitted(jnp.array([[2.0, 0.0]]), jnp.ones((1, 2), bool), config, (), tokens)
    np.testing.assert_allclose(got, [[0.5, -1.5]], rtol=1e-6)


def test_the_mean_over_prompts_weighs_each_prompt_once():
    """Tokens 1, 2 | 3 of the first group and 10 of the second: (2 + 10) / 2."""
    loss = jnp.array([[[1.0, 2.0], [3.0, 99.0]], [[10.0, 99.0], [99.0, 99.0]]])
    mask = jnp.array([[[True, True], [True, False]], [[True, False], [False, False]]])
    total = denominator(mask, "prompt_mean")
    assert float(aggregate(loss, mask, total)) == pytest.approx(6.0)
    empty = mask.at[1].set(False)
    total = denominator(empty, "prompt_mean")
    assert float(aggregate(loss, empty, total)) == pytest.approx(2.0)


def test_cispo_of_scalerl_by_hand():
    """Ratios 8 and 1/8, A = 1 and -1: weights 5 and 1/8, which no lower bound lifts."""
    new = jnp.log(jnp.array([[0.4], [0.05]]))
    old = jnp.log(jnp.array([[0.05], [0.4]]))
    advantage, mask = jnp.array([1.0, -1.0]), jnp.ones((2, 1), bool)
    found = POLICY_LOSSES.find("cispo")(new, old, advantage, mask, settings("cispo"))
    np.testing.assert_allclose(found.loss, [[-5 * np.log(0.4)], [np.log(0.05) / 8]], rtol=1e-5)
    assert found.clipped_high.tolist() == [[True], [False]] and not found.clipped_low.any()


def test_the_unbiased_kl_has_the_gradient_of_the_divergence():
    """In expectation over a token of another old policy, by enumeration."""
    logits = jnp.array([0.3, -1.0, 0.8, 0.1])
    old = jax.nn.log_softmax(jnp.array([0.1, -0.4, 0.5, 0.9]))
    ref = jax.nn.log_softmax(jnp.array([-0.5, 0.2, 0.4, 1.0]))

    def divergence(logits):
        new = jax.nn.log_softmax(logits)
        return (jnp.exp(new) * (new - ref)).sum()

    def mean_of_estimates(logits):
        config = PolicyLossSettings(kl_coefficient=1.0, unbiased_kl=True)
        new = jax.nn.log_softmax(logits)[:, None, None]  # a completion of one token for each word
        batch = GradedBatch(
            None,
            SimpleNamespace(logprobs_BGT=old[:, None, None]),
            jnp.zeros((4, 1)),
            jnp.ones((4, 1, 1), bool),
            jnp.ones((4, 1)),
            old[:, None, None],
        )
        scores = CompletionScores(new, jnp.zeros_like(new))
        objective = Objective(config)
        tokens = objective(scores, ref[:, None, None], batch)[1]
        return (jnp.exp(old) * tokens.kl_BGT[:, 0, 0]).sum()

    value, gradient = jax.value_and_grad(mean_of_estimates)(logits)
    expected, expected_gradient = jax.value_and_grad(divergence)(logits)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_max_at_k_of_right_and_wrong_is_pass_at_k(k):
    """By the closed form of pass@k, 1 - C(wrong, k) / C(n, k), with and without a sample."""
    from math import comb

    config = PolicyLossSettings(advantage="max_at_k", best_of=k, scale_rewards="none")
    reward = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]], np.float32)
    got = jitted(jnp.asarray(reward), jnp.ones(reward.shape, bool), config)
    for row, found in zip(reward, np.asarray(got), strict=True):
        for i, right in enumerate(row):
            wrong = int((np.delete(row, i) == 0).sum())
            with_it = 1.0 if right else 1 - comb(wrong, k - 1) / comb(4, k - 1)
            assert found[i] == pytest.approx(with_it - (1 - comb(wrong, k) / comb(4, k)), abs=1e-6)


def test_max_at_k_is_the_gradient_of_the_expected_best_of_k():
    """Over all draws of a categorical policy: the estimate's mean times k / n is the gradient."""
    k, n = 2, 3
    value = jnp.array([0.0, 0.4, 1.0])
    logits = jnp.array([0.5, -0.3, 0.1])
    draws = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * n, indexing="ij"), -1).reshape(-1, n)

    def expected_best(logits):
        p = jax.nn.softmax(logits)
        return (p[:, None] * p * jnp.maximum(value[:, None], value)).sum()

    config = PolicyLossSettings(advantage="max_at_k", best_of=k, scale_rewards="none")
    advantage = jitted(value[draws], jnp.ones(draws.shape, bool), config)

    def surrogate(logits):
        logp = jax.nn.log_softmax(logits)[draws]
        weight = jax.lax.stop_gradient(jnp.exp(logp.sum(-1)))
        return (weight * (advantage * logp).sum(-1)).sum() * k / n

    np.testing.assert_allclose(
        jax.grad(surrogate)(logits), jax.grad(expected_best)(logits), atol=1e-6
    )


@pytest.mark.parametrize("loss", ["dppo_tv", "dppo_kl"])
def test_dppo_lets_rare_tokens_move_and_holds_frequent_ones(loss):
    """A ratio of 100 on a rare token passes; 0.99 to 0.7 does not, where A is negative."""
    config = settings("dppo" if loss == "dppo_tv" else "dppo_kl")
    new = jnp.log(jnp.array([[1e-3, 0.7, 0.9]]))
    old = jnp.log(jnp.array([[1e-5, 0.99, 0.5]]))
    mask = jnp.ones((1, 3), bool)
    up = POLICY_LOSSES.find(loss)(new, old, jnp.array([1.0]), mask, config)
    down = POLICY_LOSSES.find(loss)(new, old, jnp.array([-1.0]), mask, config)
    assert up.clipped_high.tolist() == [[False, False, True]]
    assert down.clipped_low.tolist() == [[False, True, False]]


def test_kl_estimators_of_presets_exist():
    assert {settings(name).kl_estimator for name in PRESETS} <= set(KL_ESTIMATORS.shipped)
