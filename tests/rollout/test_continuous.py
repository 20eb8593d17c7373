"""Continuous batching: fewer slots than completions, and the same completions."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.config import DeltaNetConfig, MeshConfig, ModelConfig, RolloutConfig
from rft_jax.models import Model, build_model
from rft_jax.models.pages import Pool
from rft_jax.parallel import ROLLOUT_RULES, batch_sharding, make_mesh, shardings
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout
from rft_jax.rollout.continuous import count_lanes, make_pool, most_tokens

V, P, B, G, T = 12, 6, 8, 8, 9
PAD, STOPS, MARKER, UNKNOWN = 0, (1, 2), 3, 4
THINKING = LogitMask((PAD, UNKNOWN), end_of_think_id=MARKER, thinking_tokens=4)
ANSWER_ONLY = LogitMask((PAD, UNKNOWN, MARKER), end_of_think_id=None, thinking_tokens=0)
SAMPLED = RolloutConfig(max_completion_tokens=T, temperature=1.2)
PROMPTS = Prompts(
    np.random.default_rng(0).integers(5, V, (B, P), np.int32),
    np.array([1, 3, 6, 6, 2, 4, 5, 1], np.int32),
)
PLAIN = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=24,
    compute_dtype="float32",
)
# A window shorter than a completion, so that the ring of the cache turns within it.
WINDOW = dataclasses.replace(
    PLAIN, attention_pattern=("sliding", "full"), sliding_window=4, attention_softcap=20.0
)
# States, which a slot has to take from its prompt anew with each completion; and sinks.
HYBRID = dataclasses.replace(
    PLAIN,
    num_layers=3,
    attention_pattern=("delta_net", "short_conv", "full"),
    delta_net=DeltaNetConfig(1, 2, 6, 8, 3),
    attention_sinks=True,
)
# Layers that keep nothing, after one of each kind of which they read the keys.
SHARING = dataclasses.replace(
    WINDOW,
    num_layers=4,
    attention_pattern=("sliding", "global", "shared_sliding", "shared_global"),
    global_head_dim=12,
    global_kv_heads=1,
    per_layer_size=4,
)
MIXTURE = dataclasses.replace(PLAIN, experts=4, experts_per_token=2)
MESHES = [
    (PLAIN, (2, 2, 2)),
    (PLAIN, (8, 1, 1)),
    (MIXTURE, (2, 2, 2)),
    pytest.param(HYBRID, (2, 2, 2), marks=pytest.mark.slow),
    pytest.param(
        dataclasses.replace(SHARING, global_kv_heads=2), (2, 2, 2), marks=pytest.mark.slow
    ),
    *(
        pytest.param(PLAIN, mesh, marks=pytest.mark.slow)
        for mesh in [(1, 8, 1), (4, 1, 2), (1, 4, 2)]
    ),
]


@functools.cache
def model_and_params(config, rows=None):
    """Weights whose policy is neither flat nor certain."""
    model = build_model(config, V, rows)
    weights = model.init(jax.random.key(3))
    return model, jax.tree.map(lambda x: x * 15 if float(jnp.ptp(x)) > 0 else x, weights)


def keys_of(prompts=B, group=G):
    ids = jnp.arange(prompts) * 3
    return completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids % 2, group)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _rollout(model, params, prompts, keys_BG, mask, config):
    return rollout(model, params, prompts, keys_BG, mask, config, stop_ids=STOPS, pad_id=PAD)


def complete(
    mask=THINKING, config=SAMPLED, slots=0, family=PLAIN, prompts=PROMPTS, group=G, pool=None
):
    model, params = model_and_params(family)
    config = dataclasses.replace(config, slots=slots, cache_tokens=pool)
    keys_BG = keys_of(len(prompts.length_B), group)
    return jax.device_get(_rollout(model, params, prompts, keys_BG, mask, config))


def assert_same(ours, theirs):
    for name, mine, its in zip(ours._fields, ours, theirs, strict=True):
        if name == "logprobs_BGT":
            np.testing.assert_allclose(mine, its, rtol=0, atol=2e-5)
        else:
            np.testing.assert_array_equal(mine, its, err_msg=name)


CASES = {
    "truncated": (ANSWER_ONLY, dataclasses.replace(SAMPLED, top_k=6, top_p=0.8), PLAIN),
    "greedy": (THINKING, dataclasses.replace(SAMPLED, temperature=0.0), PLAIN),
    "window": (THINKING, SAMPLED, WINDOW),
    "states, scanned": (
        THINKING,
        SAMPLED,
        dataclasses.replace(HYBRID, decode_layers="scanned"),
    ),
    "shared keys, scanned": (
        THINKING,
        SAMPLED,
        dataclasses.replace(SHARING, decode_layers="scanned"),
    ),
    "shared keys, eight bits": (
        THINKING,
        dataclasses.replace(SAMPLED, int8_cache=True),
        SHARING,
    ),
    "shared keys": (THINKING, SAMPLED, SHARING),
    "states": (THINKING, SAMPLED, HYBRID),
    "eight bits": (THINKING, dataclasses.replace(SAMPLED, int8_cache=True), WINDOW),
}


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, marks=pytest.mark.slow) for case in list(CASES)[:-2]),
        *("states", "eight bits"),
    ],
)
def test_slots_change_nothing(case):
    mask, config, family = CASES[case]
    assert_same(
        complete(mask, config, slots=8, family=family), complete(mask, config, family=family)
    )


# Pages of two tokens, five of a whole completion: with ten tokens, the least, only one of eight
# completions is sure to go on.
@pytest.mark.parametrize(
    ("case", "pool"),
    [
        ("eight bits", 10),
        *(pytest.param(case, 24, marks=pytest.mark.slow) for case in list(CASES)[:-1]),
        *(pytest.param("states", pool, marks=pytest.mark.slow) for pool in (10, 50)),
    ],
)
def test_a_pool_of_pages_changes_nothing(case, pool):
    """The youngest begin anew where it is full."""
    mask, config, family = CASES[case]
    pooled = complete(mask, config, slots=8, family=family, pool=pool)
    assert_same(pooled, complete(mask, config, family=family))


@pytest.mark.parametrize(
    "slots", [3, *(pytest.param(slots, marks=pytest.mark.slow) for slots in [1, 12, 28, 32])]
)
def test_any_number_of_slots_gives_the_same(slots):
    assert_same(complete(slots=slots), complete())


@pytest.mark.parametrize("group", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_slots_may_outnumber_the_samples_of_a_prompt(group):
    assert_same(complete(slots=4, group=group), complete(group=group))


@pytest.mark.parametrize("slots", [0, 16])
@pytest.mark.parametrize("int8", [False, True])
def test_scanned_and_unrolled_layers_sample_the_same(slots, int8):
    scanned, unrolled = (
        complete(
            config=dataclasses.replace(SAMPLED, int8_cache=int8),
            slots=slots,
            family=dataclasses.replace(WINDOW, decode_layers=layers),
        )
        for layers in ("scanned", "unrolled")
    )
    assert_same(scanned, unrolled)


def test_these_completions_differ_in_length():
    """So that slots are refilled at different times; some stop, some are cut."""
    completions = complete()
    assert len(np.unique(completions.length_BG)) > 4
    assert 0 < completions.stopped_BG.mean() < 1


def simulated(length_BG, lane_count, slots, pool=None):
    """How many tokens the schedule takes, from the lengths alone."""
    prompts, group = length_BG.shape
    queue, time = list(range(prompts)), 0
    newest = [None] * lane_count
    waiting = [[] for _ in range(lane_count)]  # samples of the newest prompt
    running = [[] for _ in range(lane_count)]  # prompt, tokens, and those there are
    while queue or any(waiting) or any(running):
        for lane in range(lane_count):
            if queue and not waiting[lane] and {b for b, *_ in running[lane]} <= {newest[lane]}:
                newest[lane] = queue.pop(0)
                waiting[lane] = [[newest[lane], length, 0] for length in length_BG[newest[lane]]]
            while waiting[lane] and len(running[lane]) < slots:
                running[lane].append(waiting[lane].pop(0))
        pages = 0
        for completion in sorted(itertools.chain(*running), key=lambda found: -found[2]):
            pages += 0 if pool is None else completion[2] // pool.page_tokens + 1
            completion[2] = 0 if pool and pages > pool.pages else completion[2] + 1
        running = [[found for found in lane if found[2] < found[1]] for lane in running]
        time += 1
    return time


@given(
    lengths=st.lists(st.integers(1, 7), min_size=48, max_size=48),
    count=st.integers(1, 24),
    pages=st.none() | st.integers(4, 40),
    data=st.data(),
)
def test_the_loop_is_long_enough_for_any_lengths(lengths, count, pages, data):
    group = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]))
    length_BG = np.reshape(lengths, (-1, group))
    C, M = count_lanes(count, len(length_BG), group)
    pool = None if pages is None else Pool(pages, 2)
    assert simulated(length_BG, C, M, pool) <= most_tokens(count, len(length_BG), group, 7, pool)


class CountingModel(Model):
    """Counts the tokens that it decodes."""

    calls = []

    def decode(self, *args):
        jax.debug.callback(lambda: CountingModel.calls.append(1))
        return super().decode(*args)


def test_a_free_slot_begins_the_next_sample_at_once():
    model, params = model_and_params(PLAIN)
    counting = CountingModel(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    config = dataclasses.replace(SAMPLED, max_completion_tokens=60, slots=8)
    completions = _rollout(counting, params, PROMPTS, keys_of(), ANSWER_ONLY, config)
    jax.effects_barrier()
    length_BG = np.asarray(completions.length_BG)
    assert len(CountingModel.calls) == simulated(length_BG, lane_count=2, slots=4)
    at_a_time = length_BG.reshape(-1, 8).max(axis=1).sum()  # batches of eight
    assert len(CountingModel.calls) < 0.7 * at_a_time


def model_on(shape, family=PLAIN):
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    return build_model(family, V, batch_sharding(mesh)), mesh


def compile_on(shape, config, family=PLAIN):
    """The rollout, compiled for a mesh, and its arguments where they belong."""
    model, mesh = model_on(shape, family)
    rows = batch_sharding(mesh)
    params = model_and_params(family)[1]
    params = jax.device_put(params, shardings(mesh, ROLLOUT_RULES, model.axes))
    inputs = jax.device_put((PROMPTS, keys_of()), rows)

    def run(params, prompts, keys_BG):
        return rollout(
            model, params, prompts, keys_BG, THINKING, config, stop_ids=STOPS, pad_id=PAD
        )

    arguments = params, *inputs
    return jax.jit(run, out_shardings=rows).lower(*arguments).compile(), arguments


@pytest.mark.parametrize(("family", "mesh"), MESHES)
def test_a_mesh_changes_nothing(family, mesh):
    compiled, arguments = compile_on(mesh, dataclasses.replace(SAMPLED, slots=16), family)
    assert_same(jax.device_get(compiled(*arguments)), complete(family=family))


@pytest.mark.slow
def test_each_device_has_a_pool_of_its_own():
    settings = dataclasses.replace(SAMPLED, slots=16, cache_tokens=4 * 12)
    compiled, arguments = compile_on((2, 2, 2), settings)
    assert_same(jax.device_get(compiled(*arguments)), complete())


def test_devices_decode_on_their_own():
    """Each has slots and a queue of its own; they only ask each other whether all are done."""
    compiled, _ = compile_on((4, 2, 1), dataclasses.replace(SAMPLED, slots=16))
    collective = r"= (\S+) (?:all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter)\("
    assert set(re.findall(collective, compiled.as_text())) == {"pred[]"}


@pytest.mark.parametrize("tokens", [1, 7, 256, 1000])
def test_a_pool_of_more_parts_than_it_has_room_for_holds_a_whole_completion(tokens):
    pool = make_pool(2 * tokens, 8, tokens)
    assert pool is not None and pool.whole(tokens) == 1
    assert make_pool(2 * tokens, 1, tokens).whole(tokens) >= 1
