"""From the same weights the decoder computes what Llama, Qwen 2 and Qwen 3 of transformers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import ModelConfig
from rft_jax.models import build_model, count_parameters

pytestmark = pytest.mark.oracle

V = 97
LENGTHS = (1, 5, 12)
SETTINGS = {
    "Llama": {"tie_embeddings": False},
    "Qwen2": {"attention_bias": True, "tie_embeddings": True},
    "Qwen3": {"qk_norm": True, "tie_embeddings": True},
}


def config_of(family):
    return ModelConfig(
        layers=2,
        width=32,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=48,
        rope_theta=500.0,
        norm_eps=1e-5,
        compute_dtype="float32",
        **SETTINGS[family],
    )


def random_params(model):
    """Weights of which none is 0 or 1, and scores that spread."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape) for k, x in pairs])


def state_dict(params, config):
    """The weights under transformers' names and in its layout, [outputs, inputs]."""
    D = config.width
    weights = jax.tree.map(np.asarray, params)
    layers = weights["layers"]
    state = {
        "model.embed_tokens.weight": weights["embed_VD"],
        "model.norm.weight": weights["final_norm_D"],
        "lm_head.weight": weights["embed_VD" if config.tie_embeddings else "head_VD"],
    }
    for index in range(config.layers):
        block = {name: array[index] for name, array in layers.items()}
        mapped = {
            "input_layernorm.weight": block["attention_norm_D"],
            "post_attention_layernorm.weight": block["mlp_norm_D"],
            "self_attn.q_proj.weight": block["q_DKMQ"].reshape(D, -1).T,
            "self_attn.k_proj.weight": block["k_DKQ"].reshape(D, -1).T,
            "self_attn.v_proj.weight": block["v_DKQ"].reshape(D, -1).T,
            "self_attn.o_proj.weight": block["out_KMQD"].reshape(-1, D).T,
            "mlp.gate_proj.weight": block["gate_DF"].T,
            "mlp.up_proj.weight": block["up_DF"].T,
            "mlp.down_proj.weight": block["down_FD"].T,
        }
        if config.attention_bias:
            mapped |= {
                "self_attn.q_proj.bias": block["q_bias_KMQ"].reshape(-1),
                "self_attn.k_proj.bias": block["k_bias_KQ"].reshape(-1),
                "self_attn.v_proj.bias": block["v_bias_KQ"].reshape(-1),
            }
        if config.qk_norm:
            mapped |= {
                "self_attn.q_norm.weight": block["q_norm_Q"],
                "self_attn.k_norm.weight": block["k_norm_Q"],
            }
        state |= {f"model.layers.{index}.{name}": array for name, array in mapped.items()}
    return state


def oracle(family, config, params):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, f"{family}Config")(
        vocab_size=V,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        rope_theta=config.rope_theta,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
        attn_implementation="eager",
    )
    model = getattr(transformers, f"{family}ForCausalLM")(settings).eval()
    state = {k: torch.tensor(v) for k, v in state_dict(params, config).items()}
    model.load_state_dict(state, strict=True)
    return torch, model


@pytest.mark.parametrize("family", SETTINGS)
def test_logits_of_ragged_prompts_equal_those_of_transformers(family):
    config = config_of(family)
    model = build_model(config, V)
    params = random_params(model)
    torch, peer = oracle(family, config, params)
    assert count_parameters(params) == sum(weight.numel() for weight in peer.parameters())

    rng = np.random.default_rng(0)
    tokens_BP = rng.integers(0, V, (len(LENGTHS), max(LENGTHS)), np.int32)
    last_BD, _ = jax.jit(model.prefill)(params, tokens_BP, np.array(LENGTHS, np.int32))
    last_BV = model.logits(params, last_BD)
    positions_BP = jnp.broadcast_to(jnp.arange(max(LENGTHS)), tokens_BP.shape)
    hidden_BPD = jax.jit(model.hidden)(params, tokens_BP, positions_BP, jnp.ones_like(tokens_BP))
    logits_BPV = model.logits(params, hidden_BPD)
    for b, length in enumerate(LENGTHS):
        with torch.no_grad():
            expected = peer(torch.tensor(tokens_BP[b : b + 1, :length], dtype=torch.long)).logits[0]
        assert float(expected.std()) > 0.3
        np.testing.assert_allclose(logits_BPV[b, :length], expected, rtol=0, atol=2e-4)
        np.testing.assert_allclose(last_BV[b], expected[-1], rtol=0, atol=2e-4)
