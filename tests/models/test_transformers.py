"""Checkpoints that transformers saved compute the same here: logits, greedy decoding, gradients."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from rft_jax.config import RolloutConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import Model, Params, build_model
from rft_jax.models.hugging_face import Checkpoint, export, load_params, open_checkpoint
from rft_jax.models.hugging_face.layout import layouts, tensors_of
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout

pytestmark = pytest.mark.oracle

V, T = 97, 64
LENGTHS = (1, 5, 12)
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
# Class in transformers, and settings with which every feature of the family matters.
FAMILIES = {
    "llama": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "llama, biases": (
        "Llama",
        {"rope_parameters": LINEAR, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "qwen2": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": False, **SLIDING}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": (
        "Qwen3",
        {"rope_parameters": {**YARN, "truncate": False, "attention_factor": 1.3}, **SLIDING},
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_moe, sliding": (
        "Qwen3Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
            **SLIDING,
        },
    ),
    "gemma2": (
        "Gemma2",
        {
            "sliding_window": 7,
            "query_pre_attn_scalar": 13,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 13,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "full_attention": {**LINEAR, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
}
FAMILIES |= {
    "smollm3": (
        "SmolLM3",
        {"no_rope_layers": [1, 0, 1], "attention_bias": True, "pad_token_id": None},
    ),
    "olmo3": (
        "Olmo3",
        {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    # Positions beyond the 16 of pre-training, where queries grow.
    "ministral3": (
        "Ministral3",
        {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5}, "sliding_window": 20},
    ),
    "granite": (
        "Granite",
        {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "logits_scaling": 1.5,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_5": (
        "Qwen3_5",
        {
            "num_hidden_layers": 5,  # which no shorter pattern repeats
            "head_dim": 16,
            "layer_types": [*["linear_attention"] * 3, "full_attention", "linear_attention"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 6,
            "linear_value_head_dim": 10,
            "linear_conv_kernel_dim": 3,
        },
    ),
}
GEMMA4 = {
    "pad_token_id": None,  # whose embedding would have no gradient
    "sliding_window": 7,
    "global_head_dim": 12,
    "final_logit_softcapping": 3.0,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.5,
            "rope_theta": 5000.0,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
}
SLIDING_AND_FULL = ["sliding_attention", "full_attention"]
FAMILIES |= {
    "gemma4": (
        "Gemma4",
        GEMMA4
        | {
            "num_hidden_layers": 7,
            "layer_types": [*SLIDING_AND_FULL * 2, "sliding_attention", *SLIDING_AND_FULL],
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": V,
        },
    ),
    "gemma4, values are keys": (
        "Gemma4Unified",
        GEMMA4
        | {
            "layer_types": ["sliding_attention", *SLIDING_AND_FULL],
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "attention_bias": True,
        },
    ),
}
LINEAR_ATTENTION = FAMILIES["qwen3_5"][1]
FAMILIES |= {
    "qwen3_5_moe": (
        "Qwen3_5Moe",
        {
            **LINEAR_ATTENTION,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 20,
        },
    ),
    "lfm2": (
        "Lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "conv_L_cache": 4,
            "norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "block_multiple_of": 16,
            "block_ffn_dim_multiplier": 1.2,
            "tie_word_embeddings": False,
            "pad_token_id": None,
        },
    ),
    "gpt_oss": (
        "GptOss",
        {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": 7,
            "rope_parameters": {**YARN, "truncate": False},
            "swiglu_limit": 0.6,
        },
    ),
    "granite_hybrid": (
        "GraniteMoeHybrid",
        {
            "layer_types": ["full_attention"] * 3,
            "num_local_experts": 0,
            "shared_intermediate_size": 40,
            "position_embedding_type": "rope",
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "logits_scaling": 1.5,
            "mamba_n_heads": 4,
        },
    ),
}
# Of the text alone.
CONFIGS = {
    name: f"{name}Text" for name in ("Gemma3", "Qwen3_5", "Qwen3_5Moe", "Gemma4", "Gemma4Unified")
}


class Pair(NamedTuple):
    """The same model, theirs and ours."""

    peer: object
    checkpoint: Checkpoint
    model: Model
    params: Params


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp("checkpoint"))


def make_pair(case, directory) -> Pair:
    """A random checkpoint: no bias or scale is 0 or 1, scores spread, experts differ."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, settings = FAMILIES[case]
    config_class = getattr(transformers, f"{CONFIGS.get(family, family)}Config")
    config = config_class(**SIZES | settings, attn_implementation="eager", eos_token_id=None)
    torch.manual_seed(0)
    peer = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in weights_of(peer).values():
            weight.add_(0.15 * torch.randn_like(weight))
    peer.save_pretrained(directory)
    checkpoint = open_checkpoint(directory)
    config = dataclasses.replace(checkpoint.config, compute_dtype="float32")
    model = build_model(config, checkpoint.vocab_size)
    place = SingleDeviceSharding(jax.devices()[0])
    params = load_params(checkpoint, jax.tree.map(lambda _: place, layouts_of(checkpoint)))
    return Pair(peer, checkpoint, model, params)


def weights_of(peer) -> dict:
    """Its parameters, and Gemma 4's factors, which are buffers there."""
    scales = {name: x for name, x in peer.named_buffers() if name.endswith("layer_scalar")}
    return dict(peer.named_parameters()) | scales


def layouts_of(checkpoint):
    return layouts(checkpoint.family, build_model(checkpoint.config, checkpoint.vocab_size))


def prompts() -> Prompts:
    tokens_BP = np.random.default_rng(0).integers(0, V, (len(LENGTHS), max(LENGTHS)), np.int32)
    return Prompts(tokens_BP, np.array(LENGTHS, np.int32))


@functools.partial(jax.jit, static_argnums=0)
def row_logits(model, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    return model.logits(params, hidden_BTD)


def test_logits_equal(pair):
    import torch

    ours = sum(leaf.size for leaf in jax.tree.leaves(pair.params))
    assert ours == sum(weight.numel() for weight in weights_of(pair.peer).values())
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, 40), np.int32)
    with torch.no_grad():
        expected = pair.peer(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
    assert expected.std() > 0.3
    logits = row_logits(pair.model, pair.params, tokens_BT)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def greedy(pair):
    """Our greedy completions of ragged prompts, [B, T]."""
    tokens_BP, length_B = prompts()
    ids = jnp.arange(len(LENGTHS))
    completions = jax.jit(
        lambda params: rollout(
            pair.model,
            params,
            Prompts(tokens_BP, length_B),
            completion_keys(jnp.uint32(0), jnp.int32(0), ids, jnp.zeros_like(ids), 1),
            LogitMask(forbidden_ids=(), end_of_think_id=None, thinking_tokens=0),
            RolloutConfig(group_size=1, max_completion_tokens=T, temperature=0.0),
            stop_ids=(),
            pad_id=0,
        )
    )(pair.params)
    return np.asarray(completions.tokens_BGT[:, 0])


def generate(peer):
    """Theirs, one by one."""
    import torch

    tokens_BP, rows = prompts().tokens_BP, []
    for b, length in enumerate(LENGTHS):
        prompt = torch.tensor(tokens_BP[b : b + 1, :length], dtype=torch.long)
        row = peer.generate(prompt, do_sample=False, max_new_tokens=T, pad_token_id=0)
        rows.append(row[0, length:].numpy())
    return np.stack(rows)


def test_greedy_continuations_of_ragged_prompts_equal(pair, greedy):
    np.testing.assert_array_equal(greedy, generate(pair.peer))


def test_transformers_loads_an_export_as_the_same_model(pair, greedy, tmp_path):
    import transformers

    directory = tmp_path / "export"
    export(pair.model, pair.params, pair.checkpoint.directory, directory, dtype=jnp.float32)
    peer = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert type(peer) is type(pair.peer)
    weights = peer.state_dict()
    for name, weight in pair.peer.state_dict().items():
        np.testing.assert_array_equal(weights[name], weight)
    peer.generation_config.eos_token_id = None
    np.testing.assert_array_equal(generate(peer.eval()), greedy)


GRADIENTS = ["llama", "qwen2", "gemma2", "gemma3", "olmo3", "qwen3_5", "lfm2", "gpt_oss"]


@pytest.mark.parametrize(
    "case", [*GRADIENTS, "granite_hybrid", "gemma4", "gemma4, values are keys"]
)
def test_gradients_of_completions_log_probabilities_equal(case, tmp_path):
    pair = make_pair(case, tmp_path)
    import torch

    peer = pair.peer.double()  # so that rounding is mostly ours
    peer.set_experts_implementation("eager")  # grouped products take no float64
    for weight in weights_of(peer).values():
        weight.requires_grad_(True)

    G, completion = 2, 9
    tokens_BP, length_B = prompts()
    rng = np.random.default_rng(2)
    tokens_BGT = rng.integers(0, V, (len(LENGTHS), G, completion), np.int32)
    weight_BGT = rng.normal(size=tokens_BGT.shape).astype(np.float32)

    def loss(params):
        logprobs_BGT, *_ = completion_logprobs(
            pair.model,
            params,
            Prompts(tokens_BP, length_B),
            tokens_BGT,
            jnp.full(tokens_BGT.shape[:2], completion),
            LogitMask(forbidden_ids=(), end_of_think_id=None, thinking_tokens=0),
            temperature=1.0,
            logit_chunk=4,
        )
        return (logprobs_BGT * weight_BGT).sum()

    total = 0.0
    for b, length in enumerate(LENGTHS):
        for g in range(G):
            row = np.concatenate([tokens_BP[b, :length], tokens_BGT[b, g]])
            row = torch.tensor(row[None], dtype=torch.long)
            logprobs = peer(row).logits[0].log_softmax(-1)[length - 1 : -1]
            taken = logprobs.gather(1, row[0, length:, None])[:, 0]
            total = total + (taken * torch.tensor(weight_BGT[b, g])).sum()
    total.backward()

    value, gradient = jax.jit(jax.value_and_grad(loss))(pair.params)
    np.testing.assert_allclose(value, total.item(), rtol=1e-4)
    expected = {name: weight.grad.numpy() for name, weight in weights_of(peer).items()}
    trees = jax.tree.leaves(layouts_of(pair.checkpoint)), jax.tree.leaves(gradient)
    compared = 0
    for name, tensor in tensors_of(trees[0], map(np.asarray, trees[1])):
        compared += 1
        if name == f"model.layers.{pair.model.config.num_layers - 1}.layer_scalar":
            # The final norm takes a factor on all numbers away: what is left is rounding.
            assert max(abs(tensor), abs(expected[name])) < 1e-4, name
            continue
        difference = np.linalg.norm(tensor - expected[name])
        assert difference <= 1e-4 * np.linalg.norm(expected[name]), name
    assert compared == len(expected)
