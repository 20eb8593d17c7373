"""The policy update: its loss by hand, and what takes no part in it."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rft_jax.config import DeltaNetConfig, ModelConfig, PolicyLossSettings, RolloutConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.learn.losses import PolicyLoss
from rft_jax.learn.objective import Learner
from rft_jax.learn.optimizer import Frozen, TrainState, init_state
from rft_jax.learn.policy import policy_update
from rft_jax.models import build_model
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout

V, P, B, G, T = 23, 5, 4, 3, 7
TEMPERATURE = 0.9
MASK = LogitMask((0,), 2, 3)
ROLLOUT = RolloutConfig(max_completion_tokens=T, temperature=TEMPERATURE)
OPTIMIZER = optax.sgd(0.3)
PLAIN = PolicyLossSettings(logit_chunk=T)


class Batch(NamedTuple):
    prompts: Prompts
    completions: Rollout
    advantage_BG: jax.Array
    valid_BG: jax.Array


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=24,
        compute_dtype="float32",
    )
    return build_model(config, V)


def weights(model, seed):
    params = model.init(jax.random.key(seed))
    return jax.tree.map(lambda x: x * 12 if float(jnp.ptp(x)) > 0 else x, params)


@pytest.fixture(scope="module")
def state(model):
    """With a reference policy of other weights."""
    state = init_state(weights(model, 0), OPTIMIZER, 0)
    return state._replace(frozen=Frozen(reference=weights(model, 1)))


@pytest.fixture(scope="module")
def sampled(model, state):
    """Completions as they were sampled."""
    rng = np.random.default_rng(0)
    prompts = Prompts(
        jnp.asarray(rng.integers(3, V, (B, P), np.int32)), jnp.array([1, 5, 3, 2], jnp.int32)
    )
    keys = completion_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(B), jnp.zeros(B, jnp.int32), G)
    sample = jax.jit(
        functools.partial(rollout, model, stop_ids=(1,), pad_id=0), static_argnums=(3, 4)
    )
    completions = sample(state.params, prompts, keys, MASK, ROLLOUT)
    forced = (jnp.arange(T) < completions.length_BG[..., None]) & ~completions.policy_mask_BGT
    assert forced.any()
    advantage_BG = jnp.asarray(rng.normal(size=(B, G)), jnp.float32)
    return Batch(prompts, completions, advantage_BG, jnp.ones((B, G), bool))


@pytest.fixture(scope="module")
def batch(sampled):
    """The same with a sampler that strays from the learner, an invalid sample and group."""
    noise = 0.6 * jax.random.normal(jax.random.key(5), (B, G, T))
    logprobs_BGT = sampled.completions.logprobs_BGT + noise
    valid_BG = sampled.valid_BG.at[1].set(False).at[2, 0].set(False)
    return sampled._replace(
        completions=sampled.completions._replace(logprobs_BGT=logprobs_BGT), valid_BG=valid_BG
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def update(model, state, batch, config, shards=1):
    learner = Learner(model, OPTIMIZER, MASK, TEMPERATURE, config, data_shards=shards)
    return policy_update(learner, state, *batch)


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model, params, prompts, tokens_BGT, length_BG):
    return completion_logprobs(
        model,
        params,
        prompts,
        tokens_BGT,
        length_BG,
        MASK,
        temperature=TEMPERATURE,
        logit_chunk=T,
    )[0]


def logprobs_of(model, params, batch):
    completions = batch.completions
    logprobs = _logprobs(
        model, params, batch.prompts, completions.tokens_BGT, completions.length_BG
    )
    return np.asarray(logprobs, np.float64)


def distance(a: TrainState, b: TrainState) -> float:
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a.params, b.params)))


def loss_by_hand(config, new, old, roll, reference, advantage_BG, mask_BGT):
    """Token by token, from the formulas of the papers."""
    sequences = []
    for b, g in np.ndindex(B, G):
        at = np.flatnonzero(mask_BGT[b, g])
        if not len(at):
            continue
        advantage, terms = float(advantage_BG[b, g]), []
        sequence_ratio = np.exp(np.mean(new[b, g, at] - old[b, g, at]))
        for t in at:
            n, o, r, f = (x[b, g, t] for x in (new, old, roll, reference))
            ratio = sequence_ratio if config.loss == "gspo" else np.exp(n - o)
            if config.loss == "cispo":
                low = 1 - config.clip_low if config.two_sided else 0
                term = -min(max(ratio, low), 1 + config.clip_high) * advantage * n
            else:
                clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
                term = -min(ratio * advantage, clipped * advantage)
                if config.dual_clip and advantage < 0:
                    term = min(term, -config.dual_clip * advantage)
            weight = np.exp(o - r)
            if config.importance == "tis":
                term *= min(weight, config.tis_cap)
            elif config.importance == "icepop":
                term *= weight if config.icepop_low <= weight <= config.icepop_high else 0
            d = n - f
            kl = {"k1": d, "k2": d * d / 2, "k3": np.exp(-d) + d - 1}[config.kl_estimator]
            terms.append(term + config.kl_coefficient * kl)
        sequences.append(terms)
    match config.aggregation:
        case "token_mean":
            return np.mean(np.concatenate(sequences))
        case "sequence_mean":
            return np.mean([np.mean(terms) for terms in sequences])
        case "sequence_sum":
            return np.mean([np.sum(terms) for terms in sequences])
        case "constant":
            return np.sum(np.concatenate(sequences)) / (len(sequences) * T)


CONFIGS = {
    "ppo, dual clip, tis, k3": dataclasses.replace(
        PLAIN,
        dual_clip=1.5,
        importance="tis",
        tis_cap=1.2,
        kl_coefficient=0.1,
        aggregation="sequence_mean",
    ),
    "gspo, icepop, k2": dataclasses.replace(
        PLAIN,
        loss="gspo",
        importance="icepop",
        kl_coefficient=0.1,
        kl_estimator="k2",
        aggregation="constant",
    ),
    "cispo, k1": dataclasses.replace(
        PLAIN, loss="cispo", kl_coefficient=0.1, kl_estimator="k1", aggregation="sequence_sum"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_of_both_gradient_steps_is_that_by_hand(model, state, batch, name):
    """The second step's old policy is the first step's, as the learner computed it."""
    config = CONFIGS[name]
    first, metrics = update(model, state, batch, config)
    _, second_metrics = update(model, state, batch, dataclasses.replace(config, epochs_per_batch=2))
    mask_BGT = np.asarray(batch.completions.policy_mask_BGT & batch.valid_BG[..., None])
    old = logprobs_of(model, state.params, batch)
    roll = np.asarray(batch.completions.logprobs_BGT, np.float64)
    reference = logprobs_of(model, state.frozen.reference, batch)
    rest = (old, roll, reference, batch.advantage_BG, mask_BGT)
    np.testing.assert_allclose(metrics["loss"], loss_by_hand(config, old, *rest), rtol=1e-4)
    new = logprobs_of(model, first.params, batch)
    ratio = np.exp((new - old)[mask_BGT])
    assert ratio.min() < 0.8 and ratio.max() > 1.28  # so that the clips act
    np.testing.assert_allclose(second_metrics["loss"], loss_by_hand(config, new, *rest), rtol=1e-4)
    gap = np.abs(old - roll)[mask_BGT].mean()
    np.testing.assert_allclose(second_metrics["sampler_learner_logprob_gap"], gap, rtol=1e-4)


def test_with_the_samplers_probabilities_as_old_ones_clips_act_at_the_first_step(
    model, state, batch
):
    config = dataclasses.replace(PLAIN, old_logprobs="sampler")
    _, metrics = update(model, state, batch, config)
    mask_BGT = np.asarray(batch.completions.policy_mask_BGT & batch.valid_BG[..., None])
    new = logprobs_of(model, state.params, batch)
    sampler = np.asarray(batch.completions.logprobs_BGT, np.float64)
    rest = (sampler, sampler, new, batch.advantage_BG, mask_BGT)
    np.testing.assert_allclose(metrics["loss"], loss_by_hand(config, new, *rest), rtol=1e-4)
    assert metrics["clip_fraction_high"] > 0 and metrics["clip_fraction_low"] > 0
    learner = update(model, state, batch, PLAIN)[1]
    assert learner["clip_fraction_high"] == learner["clip_fraction_low"] == 0


def test_the_first_step_is_the_policy_gradient(model, state, batch):
    """Mean over tokens of advantage x gradient of the log-probability."""
    new, _ = update(model, state, batch, PLAIN)
    mask_BGT = batch.completions.policy_mask_BGT & batch.valid_BG[..., None]

    def objective(params):
        completions = batch.completions
        logprobs = _logprobs(
            model, params, batch.prompts, completions.tokens_BGT, completions.length_BG
        )
        terms = jnp.where(mask_BGT, batch.advantage_BG[..., None] * logprobs, 0)
        return terms.sum() / mask_BGT.sum()

    step = jax.tree.map(lambda g: 0.3 * g, jax.jit(jax.grad(objective))(state.params))
    expected = state._replace(params=jax.tree.map(jnp.add, state.params, step))
    assert distance(new, expected) <= 1e-5 * distance(state, expected)


def weighted(new, old, advantage, mask, config):
    """A loss from outside of the package: -A^3 log p."""
    return PolicyLoss(-(advantage[..., None] ** 3) * new)


def test_a_loss_of_ones_own_reaches_the_weights(model, state, batch):
    """By its formula its gradient is that of PPO's first step for the advantage A^3."""
    own, metrics = update(model, state, batch, dataclasses.replace(PLAIN, loss=weighted))
    cubed = batch._replace(advantage_BG=batch.advantage_BG**3)
    expected, _ = update(model, state, cubed, PLAIN)
    assert distance(own, expected) <= 1e-5 * distance(state, expected)
    assert distance(own, expected) < 1e-3 * distance(own, update(model, state, batch, PLAIN)[0])
    assert metrics["clip_fraction_high"] == metrics["clip_fraction_low"] == 0


@pytest.mark.parametrize(
    "name, aggregation, parts, shards",
    [
        ("ppo, dual clip, tis, k3", "sequence_mean", 6, 2),  # one of each shard, of both one sample
        ("gspo, icepop, k2", "prompt_mean", 12, 1),  # one sample
    ],
)
def test_micro_batches_and_logit_chunks_change_nothing(
    model, state, batch, name, aggregation, parts, shards
):
    config = dataclasses.replace(CONFIGS[name], epochs_per_batch=2, aggregation=aggregation)
    whole, metrics = update(model, state, batch, config)
    split = dataclasses.replace(config, gradient_accumulation=parts, logit_chunk=3)
    parts, part_metrics = update(model, state, batch, split, shards)
    assert distance(whole, parts) <= 1e-5 * distance(state, whole)
    assert metrics.keys() == part_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(part_metrics[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows, shards", [(1, 1), (5, 2)])
def test_packed_rows_change_nothing(model, state, batch, rows, shards):
    """With prompts of several lengths, a reference policy, an invalid sample and group."""
    config = dataclasses.replace(
        CONFIGS["gspo, icepop, k2"], epochs_per_batch=2, aggregation="prompt_mean"
    )
    whole, metrics = update(model, state, batch, config)
    packed, packed_metrics = update(
        model, state, batch, dataclasses.replace(config, pack_rows=rows, logit_chunk=3), shards
    )
    assert distance(whole, packed) <= 1e-5 * distance(state, whole)
    assert metrics.keys() == packed_metrics.keys()
    for name, value in metrics.items():
        if name != "padding_fraction":
            np.testing.assert_allclose(packed_metrics[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_packed_rows_begin_each_completion_with_its_prompts_state(model, batch):
    """Layers that keep a state see rows of several completions and of two prompts."""
    sizes = DeltaNetConfig(1, 2, 6, 8, 3)
    hybrid = dataclasses.replace(
        model.config,
        num_layers=3,
        attention_pattern=("delta_net", "short_conv", "full"),
        delta_net=sizes,
        attention_sinks=True,
    )
    hybrid = build_model(hybrid, V)
    state = init_state(weights(hybrid, 0), OPTIMIZER, 0)
    config = PolicyLossSettings(logit_chunk=3)
    whole, _ = update(hybrid, state, batch, config)
    packed, _ = update(hybrid, state, batch, dataclasses.replace(config, pack_rows=2))
    assert distance(whole, packed) <= 1e-5 * distance(state, whole)


@pytest.mark.slow
def test_packed_rows_share_keys_between_layers(model, batch):
    """The gradient of a layer's keys is that of all layers that read them, and of all rows."""
    sharing = dataclasses.replace(
        model.config,
        num_layers=4,
        attention_pattern=("sliding", "global", "shared_sliding", "shared_global"),
        sliding_window=3,
        global_head_dim=12,
        per_layer_size=4,
    )
    sharing = build_model(sharing, V)
    state = init_state(weights(sharing, 0), OPTIMIZER, 0)
    config = PolicyLossSettings(logit_chunk=3)
    whole, _ = update(sharing, state, batch, config)
    packed, _ = update(sharing, state, batch, dataclasses.replace(config, pack_rows=2))
    assert distance(whole, packed) <= 1e-5 * distance(state, whole)


def test_rows_packed_on_two_devices_are_those_of_one(model, state, batch):
    """Each packs its own prompts, so that no prompt's keys have to be where its rows are not."""
    config = dataclasses.replace(CONFIGS["ppo, dual clip, tis, k3"], pack_rows=2)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    spread = jax.device_put(
        (state, batch),
        (NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))),
    )
    one, _ = update(model, state, batch, config, 2)
    two, _ = update(model, *spread, config, 2)
    assert distance(one, jax.device_get(two)) <= 1e-5 * distance(state, one)
    text = update.lower(model, *spread, config, 2).compile().as_text()
    assert "all-reduce" in text
    c = model.config
    keys = f"f32[{c.num_layers},{B},{c.num_kv_heads},{P},{c.head_dim}]"
    assert keys not in text  # of all prompts, on one device


def test_forced_tokens_padding_and_invalid_samples_take_no_part(model, state, batch):
    """Whatever stands there, NaN included, changes neither weights nor metrics."""
    completions = batch.completions
    decided_BGT = completions.policy_mask_BGT & batch.valid_BG[..., None]
    written_BGT = jnp.arange(T) < completions.length_BG[..., None]
    keep_BGT = written_BGT & batch.valid_BG[..., None]
    other = batch._replace(
        completions=completions._replace(
            logprobs_BGT=jnp.where(decided_BGT, completions.logprobs_BGT, jnp.nan),
            tokens_BGT=jnp.where(keep_BGT, completions.tokens_BGT, 9),
        ),
        advantage_BG=jnp.where(batch.valid_BG, batch.advantage_BG, 7.0),
    )
    config = dataclasses.replace(CONFIGS["ppo, dual clip, tis, k3"], epochs_per_batch=2)
    for a, b in zip(
        jax.tree.leaves(update(model, state, batch, config)),
        jax.tree.leaves(update(model, state, other, config)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("what", ["all invalid", "nothing decided"])
def test_without_a_token_to_learn_from_the_weights_stay(model, state, batch, what):
    if what == "all invalid":
        empty = batch._replace(valid_BG=jnp.zeros((B, G), bool))
    else:
        nothing = jnp.zeros((B, G, T), bool)
        empty = batch._replace(completions=batch.completions._replace(policy_mask_BGT=nothing))
    config = dataclasses.replace(CONFIGS["ppo, dual clip, tis, k3"], epochs_per_batch=2)
    new, metrics = update(model, state, empty, config)
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    assert all(value == 0 for name, value in metrics.items() if name != "padding_fraction")


def test_sampler_and_learner_agree_on_the_log_probabilities(model, state, sampled):
    _, metrics = update(model, state, sampled, PLAIN)
    assert 0 <= metrics["sampler_learner_logprob_gap"] < 1e-4
    assert metrics["entropy"] > 0.1


def test_counters_and_frozen_weights_stay(model, state, batch):
    new, _ = update(model, state, batch, CONFIGS["ppo, dual clip, tis, k3"])
    for a, b in zip(
        jax.tree.leaves((new.frozen, new.step, new.cursor, new.seed)),
        jax.tree.leaves((state.frozen, state.step, state.cursor, state.seed)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert distance(new, state) > 1e-3
