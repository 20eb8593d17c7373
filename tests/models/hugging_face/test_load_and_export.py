"""Weights come into sharded arrays as they lie in the files, and go back unchanged."""

import collections
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from rft_jax.config import MeshConfig
from rft_jax.models import build_model
from rft_jax.models.hugging_face import copy_description, export, load_params, open_checkpoint
from rft_jax.models.hugging_face import layout as layout_module
from rft_jax.models.hugging_face.tensor_files import TensorFiles
from rft_jax.parallel import LEARNER_RULES, make_mesh, shardings
from rft_jax.utils.errors import InputError

from .conftest import CONFIGS, INTERLEAVED, SIZES, tensors_of, write

MESHES = {
    "one device": MeshConfig(data=1),
    "data 2, fsdp 2, tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp 4, tensor 2": MeshConfig(data=1, fsdp=4, tensor=2),
}

QWEN3_5_MOE = CONFIGS["qwen3_5"] | {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 12,
}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}


def load(directory, mesh="one device", dtype=jnp.float32):
    checkpoint = open_checkpoint(directory)
    model = build_model(checkpoint.config, checkpoint.vocab_size)
    config = MESHES[mesh]
    devices = jax.devices()[: config.data * config.fsdp * config.tensor]
    places = shardings(make_mesh(config, devices), LEARNER_RULES, model.axes)
    return model, load_params(checkpoint, places, dtype), places


def halves(tensors):
    """In two files, layers in both."""
    names = sorted(tensors)
    return {n: tensors[n] for n in names[::2]}, {n: tensors[n] for n in names[1::2]}


@pytest.mark.parametrize("mesh", MESHES)
def test_arrays_stack_and_unmerge_the_tensors_on_every_mesh(mesh, tmp_path):
    tensors = tensors_of(SIZES | CONFIGS["llama"])
    _, params, places = load(write(tmp_path, SIZES | CONFIGS["llama"], *halves(tensors)), mesh)
    H, K, Q, D = 4, 2, 6, 16
    np.testing.assert_array_equal(params["head_VD"], tensors["lm_head.weight"])
    for layer in range(3):
        block = {name: np.asarray(array[layer]) for name, array in params["layers"].items()}
        theirs = {
            name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in tensors.items()
        }
        for head in range(H):
            rows = theirs["self_attn.q_proj.weight"][head * Q : (head + 1) * Q]
            np.testing.assert_array_equal(block["q_DKMQ"][:, head // K, head % K], rows.T)
            columns = theirs["self_attn.o_proj.weight"][:, head * Q : (head + 1) * Q]
            np.testing.assert_array_equal(block["out_KMQD"][head // K, head % K], columns.T)
        keys = theirs["self_attn.k_proj.weight"].reshape(K, Q, D)
        np.testing.assert_array_equal(block["k_DKQ"], keys.transpose(2, 0, 1))
        np.testing.assert_array_equal(block["down_FD"], theirs["mlp.down_proj.weight"].T)
        np.testing.assert_array_equal(
            block["mlp_norm_D"], theirs["post_attention_layernorm.weight"]
        )
    same = jax.tree.map(lambda leaf, place: leaf.sharding == place, params, places)
    assert all(jax.tree.leaves(same))


def test_experts_are_stacked(tmp_path):
    settings = SIZES | CONFIGS["qwen3_moe"]
    tensors = tensors_of(settings)
    _, params, _ = load(write(tmp_path, settings, tensors), "data 2, fsdp 2, tensor 2")
    for layer in range(3):
        for expert in range(4):
            up_FD = tensors[f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"]
            np.testing.assert_array_equal(params["layers"]["up_EDF"][layer, expert], up_FD.T)


def test_experts_in_one_tensor_are_those_in_many(tmp_path):
    settings = SIZES | QWEN3_5_MOE
    tensors = tensors_of(settings)
    packed = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(3):
        experts = f"model.layers.{layer}.mlp.experts"

        def stacked(kind, experts=experts):
            return np.stack([tensors[f"{experts}.{e}.{kind}_proj.weight"] for e in range(4)])

        halves = stacked("gate"), stacked("up")
        packed[f"{experts}.gate_up_proj"] = np.concatenate(halves, axis=1)
        packed[f"{experts}.down_proj"] = stacked("down")
    _, many, _ = load(write(tmp_path / "many", settings, tensors))
    model, one, _ = load(write(tmp_path / "one", settings, packed), "data 2, fsdp 2, tensor 2")
    jax.tree.map(np.testing.assert_array_equal, many, one)
    export(model, one, tmp_path / "one", tmp_path / "out", dtype=jnp.float32)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == tensors.keys()


def test_experts_in_four_bits_become_numbers(tmp_path):
    """Every number that four bits and some exponents have; in two files, on two meshes."""
    D, F, E = 64, 16, 4
    sizes = {"hidden_size": D, "intermediate_size": F, "quantization_config": MXFP4}
    settings = SIZES | CONFIGS["gpt_oss"] | sizes
    tensors = tensors_of(settings)
    rng = np.random.default_rng(0)
    expected, packed = {}, dict(tensors)
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.experts.gate_up_proj"
        blocks_EOGX = rng.integers(0, 256, (E, 2 * F, D // 32, 16), np.uint8)
        scales_EOG = rng.integers(120, 132, (E, 2 * F, D // 32), np.uint8)
        pairs = np.stack([blocks_EOGX & 15, blocks_EOGX >> 4], axis=-1)
        number = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6] + [-0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
        numbers = number[pairs] * 2.0 ** (scales_EOG[..., None, None].astype(float) - 127)
        expected[name] = numbers.reshape(E, 2 * F, D).swapaxes(1, 2)
        del packed[name]
        packed |= {f"{name}_blocks": blocks_EOGX, f"{name}_scales": scales_EOG}
    directory = write(tmp_path / "model", settings, *halves(packed))
    for mesh in ("one device", "fsdp 4, tensor 2"):
        model, params, _ = load(directory, mesh, jnp.bfloat16)
        for layer in range(3):
            gate_up = expected[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
            for half, name in enumerate(("gate_EDF", "up_EDF")):
                found = params["layers"][name][layer].astype(jnp.float32)
                np.testing.assert_array_equal(found, gate_up[..., half::2])
    export(model, params, directory, tmp_path / "out", dtype=jnp.float32)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    exported = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in expected.items():
        np.testing.assert_array_equal(exported[name], tensor)


def test_other_quantizations_are_refused(tmp_path):
    settings = SIZES | CONFIGS["gpt_oss"]
    quantized = {"quantization_config": {"quant_method": "gptq"}}
    directory = write(tmp_path / "gptq", settings | quantized, tensors_of(settings))
    with pytest.raises(InputError, match="quantization_config={'quant_method': 'gptq'} is not"):
        open_checkpoint(directory)
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = tensors_of(settings)
    del tensors[name]
    tensors |= {f"{name}_blocks": np.zeros((4, 16, 1, 8), np.uint8)}
    with pytest.raises(InputError, match=f"the tensor {name}_blocks has the type U8"):
        open_checkpoint(write(tmp_path / "halves", settings, tensors))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_import_and_export_give_identical_tensors(settings, dtype, tmp_path):
    tensors = tensors_of(settings, dtype)
    source = write(tmp_path / "source", settings, *halves(tensors))
    model, params, _ = load(source, "data 2, fsdp 2, tensor 2")
    export(model, params, source, tmp_path / "out", dtype=dtype)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert exported[name].dtype == tensor.dtype
        np.testing.assert_array_equal(exported[name], tensor)
    assert open_checkpoint(tmp_path / "out").config == open_checkpoint(source).config
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_an_export_of_several_files_has_their_index(tmp_path):
    settings = SIZES | CONFIGS["gemma3"]
    tensors = tensors_of(settings)
    source = write(tmp_path / "source", settings, tensors)
    model, params, _ = load(source)
    export(model, params, source, tmp_path / "out", dtype=jnp.float32, file_bytes=5000)
    out = tmp_path / "out"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert len(names) > 3 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for name in names:
        content = load_file(out / name)
        assert sum(t.nbytes for t in content.values()) <= 5000 or len(content) == 1
        assert {tensor for tensor, file in index["weight_map"].items() if file == name} == set(
            content
        )
    again = load(out)[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_description_is_all_but_weights_and_card(tmp_path):
    source = write(tmp_path / "source", SIZES | CONFIGS["llama"], {}, {})
    for name in ("tokenizer.model", "merges.txt", "chat_template.jinja", "generation_config.json"):
        (source / name).write_text(name)
    copy_description(source, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "generation_config.json",
    }
    assert (tmp_path / "copy" / "merges.txt").read_text() == "merges.txt"


def test_half_precision_is_kept_or_widened(tmp_path):
    settings = SIZES | CONFIGS["qwen2"]
    tensors = tensors_of(settings, ml_dtypes.bfloat16)
    directory = write(tmp_path, settings, tensors)
    for dtype in (jnp.bfloat16, jnp.float32):
        _, params, _ = load(directory, dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        expected = tensors["model.embed_tokens.weight"].astype(np.float32)
        np.testing.assert_array_equal(params["embed_VD"].astype(jnp.float32), expected)


@pytest.mark.parametrize("mesh", MESHES)
def test_each_byte_is_read_once_in_chunks(settings, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(layout_module, "CHUNK_BYTES", 256)
    reads = collections.Counter()
    largest = 0
    original = TensorFiles.read

    def read(self, name, index):
        nonlocal largest
        values = original(self, name, index)
        reads[name] += values.size
        largest = max(largest, values.nbytes)
        return values

    monkeypatch.setattr(TensorFiles, "read", read)
    tensors = tensors_of(settings)
    _, params, _ = load(write(tmp_path, settings, tensors), mesh)
    times = {name: 2 if INTERLEAVED in name else 1 for name in tensors}
    assert reads == {name: times[name] * tensor.size for name, tensor in tensors.items()}
    # What is one of a tensor's first axis is never cut: a key/value head's queries, and their
    # gates; an expert; one of a convolution's gates.
    queries, expert, gate = 2 * 6 * 16 * 4, 16 * 2 * 8 * 4, 16 * 16 * 4
    uncut = {"Qwen3_5": 2 * queries, "GptOss": expert, "Lfm2": gate}
    family = settings["architectures"][0].removesuffix("ForCausalLM")
    assert largest <= uncut.get(family, queries)
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, params, load(tmp_path)[1])


def test_export_refuses_a_full_directory_and_another_model(tmp_path):
    source = write(
        tmp_path / "source", SIZES | CONFIGS["llama"], tensors_of(SIZES | CONFIGS["llama"])
    )
    model, params, _ = load(source)
    with pytest.raises(InputError, match="source: not empty; choose a new directory"):
        export(model, params, source, source)
    other = write(tmp_path / "other", SIZES | CONFIGS["qwen3"], {})
    with pytest.raises(InputError, match="other/config.json: describes another model"):
        export(model, params, other, tmp_path / "out")
