"""Random bases with adapters that PEFT saved, theirs and ours, for what compares the two."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from rft_jax.models import Model, Params, build_model, split
from rft_jax.models.hugging_face import Checkpoint, load_adapters, load_params, open_checkpoint

V = 61  # vocabulary
_TEXT = {"Gemma3", "Gemma4", "Qwen3_5"}  # families whose text has a configuration of its own


def write_adapter(directory: Path, family, settings, targets, noise, adapter_noise, **loading):
    """Writes `base` and `adapter` into a directory.

    Args:
        family: The class's name in transformers.
        settings: Of its configuration.
        targets: PEFT's `target_modules`.
        noise: Standard deviation of what is added to the base's weights.
        adapter_noise: That of the adapter's.
        loading: How the base is read again, as `from_pretrained` has it.

    Returns:
        The base with the adapter, in torch.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    name = f"{family}TextConfig" if family in _TEXT else f"{family}Config"
    config = getattr(transformers, name)(**settings, attn_implementation="eager")
    torch.manual_seed(0)
    base = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in base.parameters():
            weight.add_(noise * torch.randn_like(weight))
    if "quantization_config" in loading:
        base = base.bfloat16()
    base.save_pretrained(directory / "base")
    base = type(base).from_pretrained(directory / "base", attn_implementation="eager", **loading)
    lora = peft.LoraConfig(r=4, lora_alpha=10, target_modules=targets, task_type="CAUSAL_LM")
    peer = peft.get_peft_model(base, lora).eval()
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(adapter_noise * torch.randn_like(weight))
    peer.save_pretrained(directory / "adapter")
    return peer


class Loaded(NamedTuple):
    """An adapter over its base, on one device."""

    checkpoint: Checkpoint
    model: Model
    params: Params


def load(directory: Path, base_dtype: str) -> Loaded:
    """What an adapter's directory holds, over a base in a type of `LoraConfig.base_dtype`."""
    checkpoint = open_checkpoint(directory)
    lora = dataclasses.replace(checkpoint.config.lora, base_dtype=base_dtype)
    config = dataclasses.replace(checkpoint.config, compute_dtype="float32", lora=lora)
    model = build_model(config, checkpoint.vocab_size)
    one = SingleDeviceSharding(jax.devices()[0])
    shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    trainable, frozen = split(jax.tree.map(lambda _: one, shape))
    adapters = load_adapters(checkpoint, trainable)
    base = load_params(checkpoint, frozen, model.frozen_dtype)
    return Loaded(checkpoint, model, model.adapt(adapters, base))


@functools.partial(jax.jit, static_argnums=0)
def row_logits(model, params, tokens_BT):
    """Ours, [B, T, V]."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden_BTD = model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    return model.logits(params, hidden_BTD)


def tokens():
    """Two rows of tokens."""
    return np.random.default_rng(0).integers(0, V, (2, 24), np.int32)


def logits_of(peer):
    """Theirs of these rows."""
    import torch

    with torch.no_grad():
        return peer(torch.tensor(tokens(), dtype=torch.long)).logits.float().numpy()
