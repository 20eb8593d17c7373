"""Adapters that PEFT saved compute the same here, and ours there: logits, gradients, merged."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models import split
from rft_jax.models.families import Settings
from rft_jax.models.hugging_face import export, export_adapter, open_checkpoint
from rft_jax.models.hugging_face.adapter import HARMLESS, READ, adapter_layouts, read_lora
from rft_jax.models.hugging_face.layout import tensors_of
from rft_jax.utils.errors import InputError

from .peft_checkpoint import V, load, logits_of, row_logits, tokens, write_adapter

pytestmark = pytest.mark.oracle

SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
# Class in transformers, settings, target_modules.
CASES = {
    "llama, all": ("Llama", {}, "all-linear"),
    "qwen2, tied, two": ("Qwen2", {"tie_word_embeddings": True}, ["q_proj", "down_proj"]),
    "qwen3, pattern": ("Qwen3", {}, r".*\.(k_proj|o_proj|up_proj)"),
    "gemma3": ("Gemma3", {"sliding_window": 7}, ["q_proj", "v_proj", "o_proj", "gate_proj"]),
    "gemma4": (  # of whose layers only the first ones have keys
        "Gemma4",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "global_head_dim": 12,
            "sliding_window": 7,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": V,
            "final_logit_softcapping": 30.0,
        },
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ),
    "qwen3_moe, attention": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
        ["q_proj", "k_proj", "v_proj", "o_proj"],
    ),
    "qwen3_5, all": (
        "Qwen3_5",
        {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 6,
            "linear_value_head_dim": 8,
        },
        "all-linear",
    ),
    "lfm2": (
        "Lfm2",
        {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
        ["conv.in_proj", "conv.out_proj", "self_attn.out_proj", "q_proj"],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A random base, and a random adapter over it that PEFT saved: the peer and the directories."""
    directory = tmp_path_factory.mktemp("case")
    family, settings, targets = CASES[request.param]
    return write_adapter(directory, family, SIZES | settings, targets, 0.1, 0.2), directory


def test_an_adapter_of_peft_gives_equal_logits(case):
    peer, directory = case
    checkpoint, model, params = load(directory / "adapter", "float32")
    assert (checkpoint.config.lora.rank, checkpoint.config.lora.alpha) == (4, 10.0)
    layouts = jax.tree.leaves(adapter_layouts(checkpoint.family, model))
    assert {name for layout in layouts for name in layout.names()} == {
        name.replace(".default", "") for name in peer.state_dict() if "lora_" in name
    }
    expected = logits_of(peer)
    with peer.disable_adapter():
        assert np.abs(logits_of(peer) - expected).max() > 0.1
    found = row_logits(model, params, tokens())
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_an_adapter_of_ours_gives_equal_logits_in_peft(case, tmp_path):
    import peft
    import transformers
    from safetensors.numpy import load_file

    _, directory = case
    checkpoint, model, params = load(directory / "adapter", "float32")
    trainable, frozen = split(params)
    trainable = jax.tree.map(lambda leaf: leaf[:, ::-1] - 0.05, trainable)  # another adapter
    params = model.adapt(trainable, frozen)
    base = str(directory / "base")
    export_adapter(model, params, checkpoint.directory, base, tmp_path / "ours")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    peer = peft.PeftModel.from_pretrained(loaded, tmp_path / "ours").eval()
    found = row_logits(model, params, tokens())
    np.testing.assert_allclose(found, logits_of(peer), rtol=0, atol=2e-4)

    again = load(tmp_path / "ours", "float32")
    assert again[0].config.lora == checkpoint.config.lora
    jax.tree.map(np.testing.assert_array_equal, split(again[2])[0], trainable)
    peer.save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)


def test_a_merged_export_is_what_peft_merges(case, tmp_path):
    import transformers

    peer, directory = case
    checkpoint, model, params = load(directory / "adapter", "float32")
    export(model, params, checkpoint.directory, tmp_path / "merged", dtype=jnp.float32)
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", attn_implementation="eager"
    )
    np.testing.assert_allclose(logits_of(merged), logits_of(peer), rtol=0, atol=2e-4)


def test_gradients_of_the_adapter_are_torchs(case):
    import torch

    peer, directory = case
    checkpoint, model, params = load(directory / "adapter", "float32")
    trainable, frozen = split(params)
    weight = np.random.default_rng(1).normal(size=(2, 24, V)).astype(np.float32)
    peer.zero_grad()
    if checkpoint.config.value_norm:  # Gemma 4's scores are not scaled, and float32 rounds more
        peer.double()
    logprobs = peer(torch.tensor(tokens(), dtype=torch.long)).logits.log_softmax(-1)
    (logprobs * torch.tensor(weight)).sum().backward()
    peer.float()

    def loss(trainable):
        logits = row_logits(model, model.adapt(trainable, frozen), tokens())
        return (jax.nn.log_softmax(logits) * weight).sum()

    gradient = jax.jit(jax.grad(loss))(trainable)
    expected = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in peer.named_parameters()
        if parameter.grad is not None
    }
    leaves = jax.tree.leaves(adapter_layouts(checkpoint.family, model)), jax.tree.leaves(gradient)
    found = {name: tensor for name, tensor in tensors_of(leaves[0], map(np.asarray, leaves[1]))}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        difference = np.linalg.norm(tensor - expected[name])
        assert difference <= 1e-4 * np.linalg.norm(expected[name]), name


def test_every_option_of_peft_is_known(case, tmp_path):
    """What PEFT writes by itself is taken; any option that is not off is harmless or refused."""
    import peft

    _, directory = case
    checkpoint = open_checkpoint(directory / "adapter")
    file = directory / "adapter" / "adapter_config.json"
    values = json.loads(file.read_text())
    assert values.keys() >= {field.name for field in dataclasses.fields(peft.LoraConfig)} - {
        "runtime_config"
    }
    for key in values.keys() - READ - HARMLESS:
        settings = Settings(values | {key: True}, "adapter_config.json")
        with pytest.raises(InputError, match=f"adapter_config.json: {key}=True is not supported"):
            read_lora(settings, checkpoint.family, checkpoint.config)


@pytest.mark.parametrize("start", ["pissa", "olora", "gaussian", "orthogonal"])
def test_initializations_are_refused_where_they_change_the_base(start, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    directory = tmp_path / "base"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(directory)
    base = transformers.LlamaForCausalLM.from_pretrained(directory)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    lora = peft.LoraConfig(
        r=4, target_modules=["q_proj"], init_lora_weights=start, task_type="CAUSAL_LM"
    )
    peer = peft.get_peft_model(base, lora)
    peer.save_pretrained(tmp_path / "adapter")
    name = "model.layers.0.self_attn.q_proj"
    after = peer.state_dict()[f"base_model.model.{name}.base_layer.weight"]
    if torch.equal(after, before[f"{name}.weight"]):
        assert start in ("gaussian", "orthogonal")
        open_checkpoint(tmp_path / "adapter")
    else:
        assert start in ("pissa", "olora")
        with pytest.raises(InputError, match=f"init_lora_weights='{start}' may have changed"):
            open_checkpoint(tmp_path / "adapter")
