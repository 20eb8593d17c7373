"""What samples is what learns: adapters, updated weights and a state from a checkpoint.

By the metrics of the update, in which the learner scores what the sampler drew.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rft_jax.config import LoraConfig, MeshConfig, ModelConfig, PolicyLossSettings, RolloutConfig
from rft_jax.learn.optimizer import init_state, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import build_model
from rft_jax.parallel import make_mesh
from rft_jax.rollout import LogitMask, Prompts, completion_keys
from rft_jax.runs.checkpoint import Checkpoints
from rft_jax.step import Sampler, make_learner, rollout_params, sample

V, P, B, G, T = 23, 5, 4, 3, 7
SAME, OTHER = 1e-6, 1e-3  # KL in nats: rounding, and a change of weights
MODEL = ModelConfig(
    num_layers=1,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=24,
    compute_dtype="float32",
)
SETTINGS = PolicyLossSettings(logit_chunk=T, importance="tis")


class Loop:
    """A policy, and one update of it from what a state's weights sampled."""

    def __init__(self, config=MODEL, rollout=None, settings=SETTINGS):
        model = build_model(config, V)
        rollout = rollout or RolloutConfig(group_size=G, max_completion_tokens=T)
        mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
        self.sampler = Sampler(model, LogitMask((0,), 2, 3), rollout, (1,), 0, mesh)
        self.learner = make_learner(self.sampler, optax.sgd(1.0), settings)

    def start(self, seed=0):
        params = self.learner.model.init(jax.random.key(seed))
        params = jax.tree.map(lambda x: 12 * x if jnp.ndim(x) > 2 else x, params)
        return init_state(params, self.learner.optimizer, seed)

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(self, learning, sampling):
        """The state `learning` after an update on samples of the state `sampling`."""
        rng = np.random.default_rng(0)
        prompts = Prompts(jnp.asarray(rng.integers(3, V, (B, P)), jnp.int32), jnp.full(B, P))
        zeros_B = jnp.zeros(B, jnp.int32)
        keys = completion_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(B), zeros_B, G)
        params = rollout_params(self.sampler, weights(self.learner.model, sampling))
        completions = sample(self.sampler, params, prompts, keys)
        advantage_BG = jnp.asarray(rng.normal(size=(B, G)), jnp.float32)
        valid_BG = jnp.ones((B, G), bool)
        batch = prompts, completions, advantage_BG, valid_BG
        return policy_update(self.learner, learning, *batch, params)


@pytest.fixture(scope="module")
def loop():
    return Loop()


def kl(metrics):
    return float(metrics["kl_sampler_learner_k3"])


def moved(state, scale=0.3):
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    leaves = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return state._replace(params=jax.tree.unflatten(tree, leaves))


def test_a_freshly_updated_weight_is_what_samples(loop):
    before = loop.start()
    after, metrics = loop(before, before)
    assert kl(metrics) < SAME
    assert kl(loop(after, after)[1]) < SAME
    assert kl(loop(after, before)[1]) > OTHER  # had the sampler stayed behind


def test_one_weight_changed_on_one_side_shows(loop):
    state = loop.start()
    changed = jax.tree.map(lambda x: x, state.params)
    head = loop.learner.model.head
    changed[head] = changed[head].at[7, 3].add(4.0)
    metrics = loop(state._replace(params=changed), state)[1]
    assert kl(metrics) > OTHER
    assert metrics["sampler_learner_logprob_gap"] > OTHER
    assert kl(loop(state, state)[1]) < SAME
    # The first estimate is unbiased and has a sign: of many tokens it is near the second.
    assert abs(float(metrics["kl_sampler_learner_k1"]) - kl(metrics)) < 1.0


def test_a_resumed_state_is_what_samples(loop, tmp_path):
    state = moved(loop.start())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, loop.start())
    assert kl(loop(restored, restored)[1]) < SAME
    assert kl(loop(state, restored)[1]) < SAME
    assert kl(loop(state, loop.start())[1]) > OTHER  # had the sampler begun anew


@pytest.mark.slow
def test_an_adapter_is_what_samples():
    loop = Loop(dataclasses.replace(MODEL, lora=LoraConfig(rank=2, base_dtype="float32")))
    base = loop.start()
    adapted = moved(base)
    assert kl(loop(adapted, adapted)[1]) < SAME
    assert kl(loop(adapted, base)[1]) > OTHER  # had the sampler no adapter


@pytest.mark.slow
def test_score_centering_knows_what_samples_in_eight_bits():
    """The term is the sampler's expected log-probability, by weights in eight bits."""
    rollout = RolloutConfig(group_size=G, max_completion_tokens=T, int8_weights=True)
    # Importance weights that are not truncated would leave nothing to center.
    settings = dataclasses.replace(SETTINGS, importance="none")
    plain = Loop(rollout=rollout, settings=settings)
    settings = dataclasses.replace(settings, score_centering=True)
    centered = Loop(rollout=rollout, settings=settings)
    state = moved(centered.start())
    (with_term, metrics), (without, _) = centered(state, state), plain(state, state)
    assert SAME < kl(metrics) < OTHER
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, with_term.params, without.params))
    step = optax.tree.norm(jax.tree.map(jnp.subtract, without.params, state.params))
    assert 1e-4 * step < difference < 0.5 * step  # small, as the sampler is near


@pytest.mark.slow
def test_score_centering_changes_the_update_where_the_sampler_differs():
    """And only there; in eight bits the sampler differs by rounding."""
    centered = Loop(settings=dataclasses.replace(SETTINGS, score_centering=True))
    plain, state, stale = Loop(), centered.start(), moved(centered.start(), 0.1)

    def step(loop, sampling):
        params = loop(state, sampling)[0].params
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(params)])

    whole = jnp.abs(step(plain, state)).max()
    np.testing.assert_allclose(step(centered, state), step(plain, state), atol=1e-4 * whole)
    assert jnp.abs(step(centered, stale) - step(plain, stale)).max() > 1e-3 * whole
