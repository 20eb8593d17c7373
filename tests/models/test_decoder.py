"""The decoder: prefill, completions, decoding and packed rows are one causal forward."""

import collections
import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import DeltaNetConfig, LinearRope, ModelConfig, ProportionalRope
from rft_jax.models import build_model, for_platform, row_attention
from rft_jax.models.model import since_ampere
from rft_jax.parallel import LEARNER_RULES

V, P, B, G, T = 61, 7, 3, 2, 5
LENGTHS = np.array([1, 4, 7], np.int32)
PLAIN = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    compute_dtype="float32",
)
VARIANTS = {
    "plain": {},
    "everything": {
        "tie_embeddings": False,
        "attention_bias": True,
        "qk_norm": True,
        "num_layers": 3,
        "num_heads": 2,
        "rope_theta": 100.0,
        "output_bias": True,
        "rope_scaling": LinearRope(2.0),
    },
    "sliding": {
        "remat": "none",
        "num_layers": 3,
        "attention_pattern": ("sliding", "full"),
        "sliding_window": 3,
        "sliding_rope_theta": 30.0,
        "attention_softcap": 1.0,
    },
    "gemma": {
        "attention_pattern": ("sliding",),
        "sliding_window": 4,
        "attention_scale": 0.5,
        "logit_softcap": 2.0,
        "activation": "gelu_tanh",
        "norm_weight_offset": True,
        "sandwich_norms": True,
        "scale_embeddings": True,
    },
    "experts": {"experts": 4, "experts_per_token": 2},
    # Two kinds with weights of their own; one of them more often than the other.
    "hybrid": {
        "num_layers": 4,
        "attention_pattern": ("delta_net", "full"),
        "delta_net": DeltaNetConfig(2, 4, 6, 8, 3),
        "attention_gate": True,
        "rotary_dim": 4,
        "qk_norm": True,
        "norm_weight_offset": True,
    },
    # Two sizes of heads; layers that read the keys of others; embeddings of each layer's own.
    "gemma 4": {
        "num_layers": 7,
        "attention_pattern": (
            *("sliding", "global") * 2,
            *("shared_sliding", "shared_sliding", "shared_global"),
        ),
        "sliding_window": 3,
        "sliding_rope_theta": 30.0,
        "rope_theta": 100.0,
        "rope_scaling": ProportionalRope(0.5, 2.0),
        "global_head_dim": 12,
        "global_kv_heads": 1,
        "values_are_keys": True,
        "value_norm": True,
        "shared_intermediate_size": 40,
        "attention_scale": 1.0,
        "qk_norm": True,
        "attention_bias": True,
        "sandwich_norms": True,
        "per_layer_size": 6,
        "layer_scale": True,
    },
    # The weights of LFM2's layers without attention, and gpt-oss's attention and experts.
    "short convolutions, sinks": {
        "num_layers": 3,
        "attention_pattern": ("short_conv", "sliding", "full"),
        "conv_width": 3,
        "sliding_window": 3,
        "attention_sinks": True,
        "experts": 4,
        "experts_per_token": 2,
        "expert_bias": True,
        "shared_expert_size": 20,
        "swiglu_limit": 0.5,
    },
    "without positions": {
        "num_layers": 3,
        "attention_pattern": ("full", "nope", "sliding"),
        "sliding_window": 3,
        "pre_norms": False,
        "sandwich_norms": True,
        "qk_norm_all_heads": True,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
        "query_growth": (0.7, 3),
    },
}


def make(**settings):
    """A model, and weights for which each of them matters: biases and scales are not 0 and 1."""
    model = build_model(dataclasses.replace(PLAIN, **settings), V)

    @jax.jit
    def init():
        leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])

    return model, init()


# Take as long as all others together, and are held against transformers as well.
LARGE = ("gemma 4", "short convolutions, sinks")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in VARIANTS
    ],
)
def variant(request):
    return make(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def plain():
    return make()


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    return rng.integers(0, V, (B, P), np.int32), rng.integers(0, V, (B, G, T), np.int32)


@functools.partial(jax.jit, static_argnums=0)
def row_logits(model, params, tokens_NT, segments_NT=None, positions_NT=None):
    """Logits at every position of rows."""
    if segments_NT is None:
        segments_NT = jnp.ones_like(tokens_NT)
    if positions_NT is None:
        positions_NT = jnp.broadcast_to(jnp.arange(tokens_NT.shape[1]), tokens_NT.shape)
    return model.logits(params, model.hidden(params, tokens_NT, positions_NT, segments_NT))


def concatenated(tokens):
    """Each prompt followed by each of its completions, [B, G, P + T], padded on the right."""
    prompts_BP, completions_BGT = tokens
    rows_BGX = np.zeros((B, G, P + T), np.int32)
    for b, length in enumerate(LENGTHS):
        rows_BGX[b, :, :length] = prompts_BP[b, :length]
        rows_BGX[b, :, length : length + T] = completions_BGT[b]
    return rows_BGX


def expected_logits(model, params, tokens):
    """Logits [B, G, T + 1] before and after each completion token, by the plain forward."""
    logits = np.asarray(row_logits(model, params, concatenated(tokens).reshape(B * G, P + T)))
    logits = logits.reshape(B, G, P + T, V)
    return np.stack([logits[b, :, n - 1 : n + T] for b, n in enumerate(LENGTHS)])


@functools.partial(jax.jit, static_argnums=0)
def completed_logits(model, params, prompts_BP, completions_BGT):
    """The same from the prefix that the group shares, all completion tokens at once."""
    last_BD, prefix = model.prefill(params, prompts_BP, LENGTHS)
    positions_BGT = jnp.broadcast_to(LENGTHS[:, None, None] + np.arange(T), (B, G, T))
    hidden_BGTD = model.complete(
        params, completions_BGT, positions_BGT, jnp.ones((B, G, T), jnp.int32), prefix
    )
    first = jnp.broadcast_to(last_BD[:, None, None], (B, G, 1, last_BD.shape[-1]))
    return model.logits(params, jnp.concatenate([first, hidden_BGTD], axis=2))


@functools.partial(jax.jit, static_argnums=0)
def decoded_logits(model, params, prompts_BP, completions_BGT):
    """The same token by token, with a cache that is longer than the completions."""
    last_BD, prefix = model.prefill(params, prompts_BP, LENGTHS)
    layers, prefix = model.prepare_decoding(params, prefix)

    def step(carry, tokens_BG):
        cache, position = carry
        hidden_BGD, cache = model.decode(
            params, layers, tokens_BG, position + jnp.zeros_like(tokens_BG), prefix, cache
        )
        return (cache, position + 1), model.logits(params, hidden_BGD)

    start = (model.init_cache(prefix, G, T + 3), LENGTHS[:, None])
    (cache, _), logits_TBGV = jax.lax.scan(step, start, jnp.moveaxis(completions_BGT, 2, 0))
    first = jnp.broadcast_to(model.logits(params, last_BD)[:, None, None], (B, G, 1, V))
    return jnp.concatenate([first, jnp.moveaxis(logits_TBGV, 0, 2)], axis=2), cache.length_BG


@pytest.mark.parametrize(
    "platform, choices",
    [
        ("cpu", ("float32", "blockwise", "xla", "unrolled")),
        ("gpu", ("bfloat16", "cudnn", "triton", "unrolled")),
        ("tpu", ("bfloat16", "pallas", "xla", "scanned")),
    ],
)
def test_the_platform_decides_what_the_configuration_leaves_open(platform, choices):
    config = for_platform(ModelConfig(), platform)
    names = ("compute_dtype", "attention", "decode_attention", "decode_layers")
    assert tuple(getattr(config, name) for name in names) == choices
    assert for_platform(PLAIN, platform).compute_dtype == "float32"
    assert for_platform(ModelConfig(experts=2), platform).decode_layers == "unrolled"


@pytest.mark.parametrize("platform", [None, "cpu", "tpu"])
def test_a_run_of_a_gpu_goes_on_where_there_is_none(platform):
    config = for_platform(ModelConfig(attention="cudnn", decode_attention="triton"), platform)
    assert (config.attention, config.decode_attention) == ("xla", "xla")


@pytest.mark.parametrize(
    "capability, has", [("7.5", False), ("8.0", True), ("10.0", True), ("gfx942", False)]
)
def test_which_gpus_have_the_kernels(capability, has):
    assert since_ampere(SimpleNamespace(compute_capability=capability)) == has


@pytest.mark.parametrize("layers", ["scanned", "unrolled"])
def test_prefill_and_cached_decoding_are_the_plain_forward(variant, tokens, layers):
    model, params = variant
    model = build_model(dataclasses.replace(model.config, decode_layers=layers), V)
    logits, cached = decoded_logits(model, params, *tokens)
    np.testing.assert_allclose(logits, expected_logits(model, params, tokens), rtol=1e-5, atol=2e-5)
    assert (cached == T).all()


def test_completions_that_share_a_prefix_are_the_plain_forward(variant, tokens):
    model, params = variant
    np.testing.assert_allclose(
        completed_logits(model, params, *tokens),
        expected_logits(model, params, tokens),
        rtol=1e-5,
        atol=2e-5,
    )


@pytest.mark.parametrize("kept", ["full", "dots"])
def test_remat_changes_no_gradient(tokens, kept):
    rows = concatenated(tokens)[:, 0]

    def gradient(remat):
        model, params = make(remat=remat)
        return jax.grad(lambda params: jnp.square(row_logits(model, params, rows)).mean())(params)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        gradient(kept),
        gradient("none"),
    )


def kept_of_a_layer(rows, remat):
    """Shapes of what the forward pass leaves for the backward pass, of all layers."""
    model = build_model(dataclasses.replace(PLAIN, remat=remat), V)
    params = jax.eval_shape(model.init, jax.random.key(0))
    positions, segments = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape), rows * 0 + 1
    forward = jax.grad(lambda p: model.hidden(p, rows, positions, segments).sum())
    program = jax.make_jaxpr(forward)(params)
    forward = next(e for e in program.jaxpr.eqns if e.primitive.name == "scan")
    return collections.Counter(variable.aval.shape[1:] for variable in forward.outvars)


def test_of_a_layer_dots_keeps_the_products_with_weights(tokens):
    rows = concatenated(tokens)[:, 0]
    (N, X), c = rows.shape, PLAIN
    width, hidden = (N, 1, X, c.hidden_size), (N, 1, X, c.intermediate_size)
    key = (N, 1, X, c.num_kv_heads, c.head_dim)
    query = (*key[:4], c.num_heads // c.num_kv_heads, c.head_dim)
    more = kept_of_a_layer(rows, "dots") - kept_of_a_layer(rows, "full")
    # Not the MLP's result, which no gradient needs.
    assert more == {width: 1, hidden: 2, query: 1, key: 2}


def test_on_a_cpu_attention_in_tiles_is_kept(tokens, monkeypatch):
    rows = concatenated(tokens)[:, 0]
    plain = kept_of_a_layer(rows, "full")
    monkeypatch.setattr(row_attention, "CPU_PAIRS", 0)
    (N, X), c = rows.shape, PLAIN
    normalizer = (N, c.num_kv_heads, c.num_heads // c.num_kv_heads, X)
    more = kept_of_a_layer(rows, "full") - plain
    assert more == {normalizer: 1, (*normalizer, c.head_dim): 1}


def test_what_stands_in_the_padding_reaches_nothing(plain, tokens):
    prompts_BP, completions_BGT = tokens
    outputs = []
    for pad in (0, 17):
        padded_BP = np.where(np.arange(P) < LENGTHS[:, None], prompts_BP, pad)
        outputs.append(decoded_logits(*plain, padded_BP, completions_BGT)[0])
    np.testing.assert_array_equal(*outputs)


def test_a_token_sees_no_later_one(plain, tokens):
    rows_NX = concatenated(tokens)[:, 0]
    changed_NX = rows_NX.copy()
    changed_NX[:, 6] = (changed_NX[:, 6] + 1) % V
    a, b = (np.asarray(row_logits(*plain, rows)) for rows in (rows_NX, changed_NX))
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert (np.abs(a[:, 6:] - b[:, 6:]).max(axis=-1) > 1e-4).all()


def test_a_sliding_token_sees_no_further_than_its_window(tokens):
    sliding = {"num_layers": 1, "attention_pattern": ("sliding",), "sliding_window": 3}
    model, params = make(**sliding)
    rows_NX = concatenated(tokens)[:, 0]
    changed_NX = rows_NX.copy()
    changed_NX[:, 2] = (changed_NX[:, 2] + 1) % V
    a, b = (np.asarray(row_logits(model, params, rows)) for rows in (rows_NX, changed_NX))
    differs_X = (np.abs(a - b).max(axis=-1) > 1e-6).all(axis=0)
    np.testing.assert_array_equal(np.flatnonzero(differs_X), [2, 3, 4])
    np.testing.assert_array_equal(a[:, 5:], b[:, 5:])


def test_packed_items_are_those_items_apart(plain):
    rng = np.random.default_rng(1)
    sizes = (4, 1, 5)
    items = [rng.integers(0, V, size, np.int32) for size in sizes]
    row = np.zeros((3, 1, P + T), np.int32)  # tokens, positions, segments; two places are left
    apart_NX = np.zeros((len(items), P + T), np.int32)
    start = 0
    for segment, item in enumerate(items, start=1):
        apart_NX[segment - 1, : len(item)] = item
        segments = np.full(len(item), segment)
        row[:, 0, start : start + len(item)] = item, np.arange(len(item)), segments
        start += len(item)
    packed = row_logits(*plain, row[0], row[2], row[1])[0]
    apart = row_logits(*plain, apart_NX)
    expected = np.concatenate([apart[i, :size] for i, size in enumerate(sizes)])
    np.testing.assert_allclose(packed[:start], expected, rtol=1e-5, atol=2e-5)


def test_only_distances_between_positions_matter(plain, tokens):
    rows_NX = concatenated(tokens)[:, 0]
    positions_NX = np.broadcast_to(np.arange(P + T, dtype=np.int32), rows_NX.shape)
    near = row_logits(*plain, rows_NX, np.ones_like(rows_NX), positions_NX)
    far = row_logits(*plain, rows_NX, np.ones_like(rows_NX), positions_NX + 300)
    np.testing.assert_allclose(near, far, rtol=0, atol=1e-3)
    stretched = row_logits(*plain, rows_NX, np.ones_like(rows_NX), positions_NX * 2)
    assert np.abs(near - stretched).max() > 1e-2


def test_every_weight_has_an_axis_name_for_each_dimension(variant):
    model, params = variant
    axes, axes_tree = jax.tree.flatten(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    weights, weights_tree = jax.tree.flatten(params)
    assert axes_tree == weights_tree
    sizes = {"vocab": V, "embed": model.config.hidden_size}
    for names, weight in zip(axes, weights, strict=True):
        assert len(names) == weight.ndim
        assert set(names) <= LEARNER_RULES.keys()
        assert all(sizes.get(n, size) == size for n, size in zip(names, weight.shape, strict=True))


def test_every_weight_reaches_the_logits(variant, tokens):
    model, params = variant
    rows = concatenated(tokens)[:, 0]
    gradient = jax.grad(lambda p: jnp.square(row_logits(model, p, rows)).sum())(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


def test_bfloat16_computes_close_to_float32_and_gives_float32_logits(tokens):
    rows = concatenated(tokens)[:, 0]
    (model, params), (half, _) = make(), make(compute_dtype="bfloat16")
    logits = row_logits(half, params, rows)
    assert logits.dtype == jnp.float32
    hidden = half.hidden(params, rows, np.zeros_like(rows), np.ones_like(rows))
    assert hidden.dtype == jnp.bfloat16
    expected = row_logits(model, params, rows)
    assert 0 < float(jnp.linalg.norm(logits - expected) / jnp.linalg.norm(expected)) < 0.05


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_parameters_are_counted():
    model, params = make()
    D, F, H, K, Q = 32, 48, 4, 2, 8
    block = D * Q * (2 * H + 2 * K) + 3 * D * F + 2 * D
    assert size(params) == V * D + 2 * block + D
    assert size(model.init(jax.random.key(2))) == size(params)
