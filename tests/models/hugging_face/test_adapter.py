"""Adapters are read as PEFT means them, and what is not supported is named."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import save_file

from rft_jax.models import build_model, split
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.hugging_face import is_checkpoint, load_adapters, open_checkpoint
from rft_jax.models.hugging_face.adapter import adapter_settings, base_of, read_lora
from rft_jax.utils.errors import InputError

from .conftest import CONFIGS, SIZES, tensors_of, write

LLAMA = SIZES | CONFIGS["llama"]
FAMILY = FAMILIES["LlamaForCausalLM"]
BASE = FAMILY.read_config(Settings(LLAMA, ""))
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"]}
PREFIX = "base_model.model.model.layers"


def lora_of(**settings):
    return read_lora(Settings(ADAPTER | settings, "adapter_config.json"), FAMILY, BASE)


@pytest.fixture
def adapter(tmp_path):
    """The directory, and its tensors."""
    base = write(tmp_path / "base", LLAMA, tensors_of(LLAMA))
    rng = np.random.default_rng(1)
    D, F, H, R = 16, 24, 4 * 6, 2
    tensors, sizes = {}, {"self_attn.q_proj": (H, D), "mlp.down_proj": (D, F)}
    for layer in range(3):
        for module, (outputs, inputs) in sizes.items():
            for factor, shape in {"A": (R, inputs), "B": (outputs, R)}.items():
                name = f"{PREFIX}.{layer}.{module}.lora_{factor}.weight"
                tensors[name] = rng.normal(size=shape).astype(np.float32)
    directory = tmp_path / "adapter"
    directory.mkdir()
    settings = ADAPTER | {"base_model_name_or_path": str(base)}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory, tensors


def test_factors_are_stacked_and_unmerged(adapter):
    directory, tensors = adapter
    assert is_checkpoint(directory)
    checkpoint = open_checkpoint(directory)
    model = build_model(checkpoint.config, checkpoint.vocab_size)
    shape, _ = split(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    one = SingleDeviceSharding(jax.devices()[0])
    found = load_adapters(checkpoint, jax.tree.map(lambda _: one, shape))["layers"]
    K, M, Q = 2, 2, 6
    for layer in range(3):
        name = f"{PREFIX}.{layer}.self_attn.q_proj.lora_"
        np.testing.assert_array_equal(found["q_DKMQ"]["a"][layer].T, tensors[f"{name}A.weight"])
        b_RKMQ = tensors[f"{name}B.weight"].T.reshape(2, K, M, Q)
        np.testing.assert_array_equal(found["q_DKMQ"]["b"][layer], b_RKMQ)
        a_RF = tensors[f"{PREFIX}.{layer}.mlp.down_proj.lora_A.weight"]
        np.testing.assert_array_equal(found["down_FD"]["a"][layer].T, a_RF)


def test_tensors_that_do_not_fit_are_named(adapter):
    directory, tensors = adapter
    names = sorted(tensors)
    spoilt = {name: tensors[name] for name in names[2:]} | {names[1]: np.zeros((5, 5), np.float32)}
    spoilt["base_model.model.lm_head.lora_A.weight"] = np.zeros(3, np.float32)
    save_file(spoilt, directory / "adapter_model.safetensors")
    with pytest.raises(InputError) as error:
        open_checkpoint(directory)
    assert str(error.value) == (
        f"{directory}: the tensors do not fit adapter_config.json: {names[0]} missing; "
        "base_model.model.lm_head.lora_A.weight unknown to the adapter; "
        f"{names[1]} of shape [5, 5] instead of [16, 2]"
    )


def test_a_base_that_is_not_there_is_named(adapter):
    directory, _ = adapter
    settings = ADAPTER | {"base_model_name_or_path": "/no/such/base"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="base_model_name_or_path: /no/such/base/config.json: the"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    "wanted, targets",
    [
        (["v_proj", "q_proj"], ("q_proj", "v_proj")),
        (["self_attn.q_proj"], ("q_proj",)),
        (["proj"], "proj cannot have an adapter"),
        (["q_proj", "lm_head"], "lm_head cannot have an adapter, only q_proj, k_proj"),
        (r".*self_attn\.(q|o)_proj", ("q_proj", "o_proj")),
        (r".*\.[01]\..*q_proj", "only adapters for all layers are supported"),
        (["model.layers.1.mlp.up_proj"], "only adapters for all layers are supported"),
        ("q_proj", "q_proj cannot have an adapter"),
        (None, "target_modules=None must be a list of names"),
        ([], "must be a list of names"),
        ("all-linear", 7),
    ],
)  # fmt: skip
def test_targets_are_what_peft_takes_them_for(wanted, targets):
    if isinstance(targets, str):
        with pytest.raises(InputError, match=targets):
            lora_of(target_modules=wanted)
    elif isinstance(targets, int):
        assert len(lora_of(target_modules=wanted).targets) == targets
    else:
        assert lora_of(target_modules=wanted).targets == targets


@pytest.mark.parametrize(
    "setting, complaint",
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only LORA"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"use_rslora": True}, "use_rslora=True is not supported"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern=.* is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.* is not supported"),
        ({"layers_to_transform": [1]}, "layers_to_transform=.* is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"r": "two"}, "r must be a whole number"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' may have changed"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights='pissa_niter_16' may have"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora' may have changed"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda' may have changed"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq' may have changed"),
        ({"init_lora_weights": "to come"}, "init_lora_weights='to come' may have changed"),
        ({"init_lora_weights": 1.5}, "init_lora_weights=1.5 may have changed"),
        ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens=\[5, 6\] is not supported"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora=.* is not supported"),
        ({"kasa_config": {"beta": 1}}, "kasa_config=.* is not supported"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config=.* is not supported"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying=True is not supported"),
        ({"an_option_to_come": 3}, "an_option_to_come=3 is not supported"),
        ({"an_option_to_come": ""}, "an_option_to_come='' is not supported"),
    ],
)
def test_variants_are_refused_by_name(setting, complaint):
    with pytest.raises(InputError, match=f"adapter_config.json: {complaint}"):
        lora_of(**setting)
    harmless = {"rank_pattern": {}, "modules_to_save": None, "use_dora": False, "bias": "none"}
    harmless |= {"init_lora_weights": "gaussian", "peft_version": "0.99", "megatron_core": "m.core"}
    harmless |= {"an_option_to_come": None, "lora_dropout": 0.1, "qalora_group_size": 16}
    assert lora_of(**harmless) == lora_of()


@pytest.mark.parametrize("base", ["hf:Qwen/Qwen3-4B", "hf:Qwen/Qwen3-4B@main", "directory"])
def test_the_base_s_name_is_written_as_it_is_read(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    settings = adapter_settings(lora_of(), FAMILIES["LlamaForCausalLM"], base)
    expected = base if base.startswith("hf:") else str(tmp_path / base)
    assert base_of(Settings(settings, "")) == expected
