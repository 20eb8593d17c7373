"""Losses, advantages, importance weights and KL estimators from outside of the package."""

import dataclasses
import functools
import importlib
import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import Config, DataConfig, PolicyLossSettings, RLStage, SFTStage
from rft_jax.config.algorithms import ADVANTAGES, POLICY_LOSSES, function_files
from rft_jax.config.overrides import apply_overrides, differences, from_json, to_json
from rft_jax.config.validate import validate
from rft_jax.learn import losses
from rft_jax.learn.advantages import advantages
from rft_jax.learn.logprobs import CompletionScores
from rft_jax.learn.losses import PolicyLoss, denominator, ppo_clip
from rft_jax.learn.objective import GradedBatch, Objective
from rft_jax.rollout import Prompts, Rollout
from rft_jax.runs.fingerprints import input_sums
from rft_jax.utils.errors import InputError

B, G, T, P, V = 2, 3, 4, 3, 11
MODULE = """
def above_half(reward, valid, config):
    return reward - 0.5

def half(old, sampler, mask, config):
    return 0.0 * old + 0.5

def squared(new, reference, mask):
    return (new - reference) ** 2

def too_few(new, old, advantage, mask):
    return new

def swapped(old, new, advantage, mask, config):
    return new

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, and the documented example as another."""
    (tmp_path / "own_algorithms.py").write_text(MODULE)
    example = losses.__doc__.split("In `my_losses.py`:")[1].split("`rft train")[0]
    (tmp_path / "my_losses.py").write_text(textwrap.dedent(example))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(POLICY_LOSSES, "functions", dict(POLICY_LOSSES.functions))
    monkeypatch.setattr(ADVANTAGES, "functions", dict(ADVANTAGES.functions))
    for name in ("own_algorithms", "my_losses"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def batch():
    """Completions with forced tokens, ends of their own and an invalid sample."""
    rng = np.random.default_rng(0)
    prompts = Prompts(jnp.asarray(rng.integers(1, V, (B, P)), jnp.int32), jnp.array([3, 2]))
    length_BG = jnp.asarray(rng.integers(2, T + 1, (B, G)), jnp.int32)
    mask_BGT = (jnp.arange(T) < length_BG[..., None]) & (jnp.arange(T) != 1)
    no_BG = jnp.zeros((B, G), jnp.int32)
    completions = Rollout(
        tokens_BGT=jnp.asarray(rng.integers(1, V, (B, G, T)), jnp.int32),
        policy_mask_BGT=mask_BGT,
        logprobs_BGT=jnp.where(mask_BGT, -jnp.asarray(rng.random((B, G, T)), jnp.float32), 0),
        turn_BGT=jnp.zeros((B, G, T), jnp.int8),
        length_BG=length_BG,
        stopped_BG=no_BG > 0,
        thinking_tokens_BG=no_BG,
        has_answer_BG=no_BG == 0,
        answer_start_BG=no_BG,
        answer_end_BG=length_BG,
    )
    advantage_BG = jnp.asarray(rng.normal(size=(B, G)), jnp.float32)
    valid_BG = jnp.ones((B, G), bool).at[1, 2].set(False)
    return prompts, completions, advantage_BG, valid_BG


def stage_with(**settings):
    loss = dataclasses.replace(PolicyLossSettings(), **settings)
    return Config(stages=(SFTStage(), RLStage(policy_loss=loss)))


def loss_of(config):
    return config.stages[1].policy_loss


def gradient_of(config, batch, reference_BGT=None):
    """The objective's, with respect to new log-probabilities; NaN where nothing is learned."""
    prompts, completions, advantage_BG, valid_BG = batch
    mask_BGT = completions.policy_mask_BGT & valid_BG[..., None]
    total_BG = denominator(mask_BGT, config.aggregation)
    graded = GradedBatch(prompts, completions, advantage_BG, mask_BGT, total_BG)
    objective = Objective(config)

    def loss(new_BGT):
        return objective(CompletionScores(new_BGT, new_BGT), reference_BGT, graded)[0]

    new_BGT = jnp.where(mask_BGT, completions.logprobs_BGT - 0.1, jnp.nan)
    return jax.grad(loss)(new_BGT), mask_BGT, new_BGT


def test_the_documented_loss_has_the_gradient_of_its_formula(module, batch):
    """-A, or half of it where A < 0, over the number of tokens; 0 where nothing is learned."""
    config = PolicyLossSettings(loss="my_losses:asymmetric_reinforce")
    found, mask_BGT, _ = gradient_of(config, batch)
    weight_BG = np.where(batch[2] < 0, 0.5 * batch[2], batch[2])
    expected = np.where(mask_BGT, -weight_BG[..., None], 0) / mask_BGT.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_importance_weight_and_a_kl_estimator_of_ones_own_change_the_gradient(module, batch):
    config = PolicyLossSettings(
        importance="own_algorithms:half", kl_estimator="own_algorithms:squared", kl_coefficient=0.3
    )
    reference_BGT = batch[1].logprobs_BGT
    found, mask_BGT, new_BGT = gradient_of(config, batch, reference_BGT)
    policy = -0.5 * batch[2][..., None] + 0.3 * 2 * (new_BGT - reference_BGT)
    expected = np.where(mask_BGT, policy, 0) / mask_BGT.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_an_advantage_of_ones_own_is_scaled_and_groups_without_a_difference_carry_zero(module):
    config = PolicyLossSettings(advantage="own_algorithms:above_half", scale_rewards="none")
    reward_BG = jnp.array([[0.0, 1.0, 0.25], [0.75, 0.75, 0.75]])
    valid_BG = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_array_equal(
        advantages(reward_BG, valid_BG, config), [[-0.5, 0.5, 0], [0, 0, 0]]
    )
    scaled = advantages(reward_BG, valid_BG, dataclasses.replace(config, scale_rewards="mean"))
    np.testing.assert_allclose(scaled[0], [-1, 1, 0], rtol=1e-5)


def test_a_function_and_its_name_are_the_same_setting(module):
    """So that an experiment that gives the function goes on with the one that names it."""
    own = importlib.import_module("own_algorithms")
    given, named = (stage_with(advantage=a) for a in (own.above_half, "own_algorithms:above_half"))
    validate(given)
    validate(named)
    assert differences(to_json(given), to_json(named)) == []
    stored = json.loads(json.dumps(to_json(given)))
    again = from_json(stored)
    assert ADVANTAGES.find(loss_of(again).advantage) is own.above_half
    assert to_json(again) == stored
    flag = {"stages.rft.policy_loss.advantage": "own_algorithms:above_half"}
    assert to_json(apply_overrides(stage_with(), flag)) == stored


def test_a_registered_name_is_stored_as_where_its_function_is(module):
    function = importlib.import_module("my_losses").asymmetric_reinforce
    config = stage_with(loss="asymmetric_reinforce")
    validate(config)
    (stored,) = (loss_of(from_json(to_json(config))).loss,)
    assert stored == "my_losses:asymmetric_reinforce"
    assert POLICY_LOSSES.find(stored) is POLICY_LOSSES.find("asymmetric_reinforce") is function
    assert loss_of(from_json(to_json(stage_with()))).loss == "ppo_clip"


def test_another_process_finds_the_same_function(module):
    own = importlib.import_module("own_algorithms")
    (module / "config.json").write_text(json.dumps(to_json(stage_with(advantage=own.above_half))))
    code = """if True:
        import sys
        from pathlib import Path
        directory = Path(sys.argv[1])
        sys.path.append(str(directory))
        from rft_jax.config.algorithms import ADVANTAGES
        from rft_jax.config.overrides import read_config
        loss = read_config(directory / "config.json").stages[1].policy_loss
        print(ADVANTAGES.find(loss.advantage)(0.75, True, loss))
    """
    command = [sys.executable, "-c", code, module]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "0.25"


def test_the_module_is_an_input_that_may_not_change(module):
    config = stage_with(advantage="own_algorithms:above_half")
    validate(config)
    assert function_files(loss_of(config)) == {"advantage": str(module / "own_algorithms.py")}
    sums = [input_sums(config, DataConfig(), module / "run")]
    (module / "own_algorithms.py").write_text(MODULE.replace("0.5", "0.25"))
    sums.append(input_sums(config, DataConfig(), module / "run"))
    before, after = (found["stages.rft.policy_loss.advantage"] for found in sums)
    assert before["path"] == after["path"] and before["blake2b"] != after["blake2b"]


def test_functions_that_could_not_be_found_again_are_refused():
    def inside(reward, valid, config):
        return reward

    lost = [inside, lambda reward, valid, config: reward, functools.partial(inside, config=None)]
    for function in lost:
        with pytest.raises(InputError, match="cannot be found again by its name when the run"):
            to_json(stage_with(advantage=function))


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        ("own_algorithms:too_few", r"takes \(new, old, advantage, mask\), but a policy loss takes"),
        ("own_algorithms:swapped", r"takes \(old, new, advantage, mask, config\), but a policy"),
        ("own_algorithms:number", "own_algorithms:number: is no function; name a policy loss"),
        ("own_algorithms:absent", "own_algorithms: has no absent; correct the name"),
        ("own_algorithm:absent", "own_algorithm: cannot be imported"),
        ("absent", "'absent' is no policy loss; use one of ppo_clip, gspo, cispo, sapo"),
    ],
)
def test_what_is_no_such_function_is_refused_with_the_setting(module, loss, sentence):
    with pytest.raises(InputError, match=rf"^stages\.rft\.policy_loss\.loss: .*{sentence}"):
        validate(stage_with(loss=loss))


def wrong_shape(new, old, advantage, mask, config):
    return PolicyLoss(new.sum(axis=-1))


def no_policy_loss(new, old, advantage, mask, config):
    return new


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (wrong_shape, r"wrong_shape: returned an array of shape \(2, 3\); a policy loss returns"),
        (no_policy_loss, r"no_policy_loss: returned a .*; a policy loss returns PolicyLoss\(loss"),
    ],
)
def test_what_a_loss_returns_is_checked(batch, loss, sentence):
    with pytest.raises(InputError, match=sentence):
        gradient_of(PolicyLossSettings(loss=loss), batch)


def test_a_name_belongs_to_one_function(module):
    with pytest.raises(InputError, match="policy loss 'ppo_clip': is registered already, as rft_"):
        POLICY_LOSSES.register("ppo_clip")(wrong_shape)
    assert POLICY_LOSSES.register("ppo_clip")(ppo_clip) is ppo_clip
    with pytest.raises(InputError, match="must be a name of letters, digits and _"):
        POLICY_LOSSES.register("my:loss")(wrong_shape)
