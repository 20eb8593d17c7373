"""Four bits are those of bitsandbytes, and a model over them computes what PEFT does over those."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from rft_jax.models import build_model, split
from rft_jax.models.hugging_face import (
    export,
    export_adapter,
    load_adapters,
    load_params,
    open_checkpoint,
)
from rft_jax.models.nf4 import dequantize, quantize

pytestmark = pytest.mark.oracle

V = 61
SIZES = {
    "vocab_size": V,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
QWEN3_5 = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
# Class in transformers, settings, modules that we keep as they are.
CASES = {
    "llama": ("Llama", {}, []),
    "qwen3, tied": ("Qwen3", {"tie_word_embeddings": True}, []),
    "qwen3_5": ("Qwen3_5", QWEN3_5, ["in_proj_a", "in_proj_b"]),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("std", [1.0, 0.02])
def test_bytes_scales_and_numbers_are_theirs(dtype, std):
    torch = pytest.importorskip("torch")
    bnb = pytest.importorskip("bitsandbytes.functional")
    weight_OI = std * torch.randn(320, 192, generator=torch.Generator().manual_seed(0))
    weight_OI[:64, :64] = 0
    weight_OI = weight_OI.to(getattr(torch, dtype))
    values, state = bnb.quantize_4bit(weight_OI, blocksize=64, quant_type="nf4")
    found = jax.jit(quantize, static_argnums=1)(jnp.asarray(weight_OI.float().numpy()).T, -2)
    np.testing.assert_array_equal(found.values.T.reshape(-1), values.numpy().reshape(-1))
    np.testing.assert_array_equal(found.scale.T.reshape(-1), state.absmax.numpy())
    expected = bnb.dequantize_4bit(values, state).float().numpy()
    numbers = dequantize(found, jnp.dtype(dtype)).astype(jnp.float32)
    np.testing.assert_array_equal(numbers.T, expected)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A random base in four bits, and a random adapter that PEFT saved: peer and directories."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    bitsandbytes = pytest.importorskip("bitsandbytes")
    directory = tmp_path_factory.mktemp("case")
    family, settings, kept = CASES[request.param]
    name = "Qwen3_5TextConfig" if family == "Qwen3_5" else f"{family}Config"
    config = getattr(transformers, name)(**SIZES | settings)
    torch.manual_seed(0)
    base = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in base.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    base.bfloat16().save_pretrained(directory / "base")
    bits = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", *kept],
    )  # fmt: skip
    base = type(base).from_pretrained(
        directory / "base", quantization_config=bits, dtype=torch.float32,
        attn_implementation="eager", device_map="cpu",
    )  # fmt: skip
    lora = peft.LoraConfig(r=4, lora_alpha=10, target_modules="all-linear", task_type="CAUSAL_LM")
    peer = peft.get_peft_model(base, lora).eval()
    for module in peer.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # a product in bfloat16, whatever is asked
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.05 * torch.randn_like(weight))
    peer.save_pretrained(directory / "adapter")
    return peer, directory


def load(directory):
    """The checkpoint with its adapter over four bits, on one device."""
    checkpoint = open_checkpoint(directory)
    lora = dataclasses.replace(checkpoint.config.lora, base_dtype="nf4")
    config = dataclasses.replace(checkpoint.config, compute_dtype="float32", lora=lora)
    model = build_model(config, checkpoint.vocab_size)
    one = SingleDeviceSharding(jax.devices()[0])
    shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    trainable, frozen = split(jax.tree.map(lambda _: one, shape))
    adapters = load_adapters(checkpoint, trainable)
    return (
        checkpoint,
        model,
        model.adapt(adapters, load_params(checkpoint, frozen, model.frozen_dtype)),
    )


@functools.partial(jax.jit, static_argnums=0)
def row_logits(model, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    return model.logits(params, hidden_BTD)


def tokens():
    return np.random.default_rng(0).integers(0, V, (2, 24), np.int32)


def logits_of(peer):
    import torch

    with torch.no_grad():
        return peer(torch.tensor(tokens(), dtype=torch.long)).logits.float().numpy()


def test_logits_over_four_bits_are_those_of_peft(case):
    peer, directory = case
    _, model, params = load(directory / "adapter")
    expected = logits_of(peer)
    with peer.disable_adapter():
        assert np.abs(logits_of(peer) - expected).max() > 0.05
    found = row_logits(model, params, tokens())
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_exports_are_what_was_trained(case, tmp_path):
    """Merged, into numbers; and the adapter, as PEFT has it."""
    import transformers
    from safetensors.numpy import load_file

    peer, directory = case
    checkpoint, model, params = load(directory / "adapter")
    export(model, params, checkpoint.directory, tmp_path / "merged", dtype=jnp.float32)
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", attn_implementation="eager"
    )
    np.testing.assert_allclose(logits_of(merged), logits_of(peer), rtol=0, atol=2e-4)
    base = str(directory / "base")
    export_adapter(model, params, checkpoint.directory, base, tmp_path / "ours")
    name = "adapter_model.safetensors"
    theirs, ours = load_file(directory / "adapter" / name), load_file(tmp_path / "ours" / name)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
