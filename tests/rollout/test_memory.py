"""The rollout's memory: the key/value cache is a loop carry that is updated in place."""

import jax
import jax.numpy as jnp

from rft_jax.config import ModelConfig, RolloutConfig
from rft_jax.models import build_model
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout

CONFIG = ModelConfig(
    num_layers=4, hidden_size=32, num_heads=2, num_kv_heads=2, head_dim=32, intermediate_size=32
)


def temporary_bytes(B, G, P, T, slots, cache_tokens=None):
    """Those of a rollout, and the bytes of a token's keys and values."""
    model = build_model(CONFIG, 64)
    settings = RolloutConfig(
        group_size=G,
        max_prompt_tokens=P,
        max_completion_tokens=T,
        slots=slots,
        cache_tokens=cache_tokens,
    )
    mask = LogitMask(forbidden_ids=(0,), end_of_think_id=None, thinking_tokens=0)

    def run(params, tokens_BP):
        prompts = Prompts(tokens_BP, jnp.full((B,), P, jnp.int32))
        ids = jnp.arange(B)
        keys = completion_keys(jnp.uint32(0), jnp.int32(0), ids, jnp.zeros_like(ids), G)
        return rollout(model, params, prompts, keys, mask, settings, stop_ids=(1,), pad_id=0)

    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((B, P), jnp.int32)
    compiled = jax.jit(run).lower(params, tokens).compile()
    token = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    return compiled.memory_analysis().temp_size_in_bytes, token


def test_temporaries_are_little_more_than_one_copy_of_the_cache():
    B, G, P, T = 4, 8, 8, 512
    found, token = temporary_bytes(B, G, P, T, slots=0)
    # A layer's keys and values are read once per token; a second copy of the cache would show.
    assert found < 1.75 * token * B * G * T


def test_with_slots_there_is_one_copy_of_the_cache_and_one_of_the_lanes_prompts():
    B, G, P, T, slots = 32, 8, 256, 512, 32
    found, token = temporary_bytes(B, G, P, T, slots)
    cache, lanes, prompts = slots * T, slots // 4 * 2 * P, B * P
    assert found < token * (1.75 * cache + 1.75 * lanes + 2 * prompts)


def test_with_pages_there_is_one_copy_of_the_pool():
    """A third of what the slots would have, and what a layer's partials of pages take."""
    B, G, P, T, slots = 4, 8, 8, 2048, 16
    room, token = temporary_bytes(B, G, P, T, slots)
    found, _ = temporary_bytes(B, G, P, T, slots, slots * T // 3)
    assert room > token * slots * T
    assert found < 0.5 * token * slots * T
