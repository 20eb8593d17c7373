"""Four bits are those of bitsandbytes, and a model over them computes what PEFT does over those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models.hugging_face import export, export_adapter
from rft_jax.models.nf4 import dequantize, quantize

from .peft_checkpoint import V, load, logits_of, row_logits, tokens, write_adapter

pytestmark = pytest.mark.oracle

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
    bitsandbytes = pytest.importorskip("bitsandbytes")
    directory = tmp_path_factory.mktemp("case")
    family, settings, kept = CASES[request.param]
    bits = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", *kept],
    )  # fmt: skip
    peer = write_adapter(
        directory, family, SIZES | settings, "all-linear", 0.05, 0.05,
        quantization_config=bits, dtype=torch.float32, device_map="cpu",
    )  # fmt: skip
    for module in peer.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # a product in bfloat16, whatever is asked
    return peer, directory


def test_logits_over_four_bits_are_those_of_peft(case):
    peer, directory = case
    _, model, params = load(directory / "adapter", "nf4")
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
    checkpoint, model, params = load(directory / "adapter", "nf4")
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
