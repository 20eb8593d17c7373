"""Architectures that GGUF files name: where their weights lie, and what such a file can say.

What a file does not state of a model is fixed by its architecture; a model that differs there would
be another one where the file is read.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rft_jax.config import NOT_OF_SOURCE, Llama3Rope, ModelConfig, YarnRope
from rft_jax.models.families.base import WeightMap
from rft_jax.models.hugging_face.checkpoint import CONFIG_FILE, read_family
from rft_jax.models.hugging_face.describe import canonical
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

# What every file states.
STATED = (
    "num_layers",
    "hidden_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "rope_theta",
    "rope_scaling",
    "norm_eps",
    "tie_embeddings",
    "sliding_window",
)
BLOCK = "blk.{L}"
LLAMA_WEIGHTS = {
    "embed_VD": WeightMap("token_embd.weight", "V D"),
    "final_norm_D": WeightMap("output_norm.weight", "D"),
    "head_VD": WeightMap("output.weight", "V D"),
    "attention_norm_D": WeightMap(f"{BLOCK}.attn_norm.weight", "D"),
    "q_DKMQ": WeightMap(f"{BLOCK}.attn_q.weight", "KMQ D"),
    "k_DKQ": WeightMap(f"{BLOCK}.attn_k.weight", "KQ D"),
    "v_DKQ": WeightMap(f"{BLOCK}.attn_v.weight", "KQ D"),
    "out_KMQD": WeightMap(f"{BLOCK}.attn_output.weight", "D KMQ"),
    "q_bias_KMQ": WeightMap(f"{BLOCK}.attn_q.bias", "KMQ"),
    "k_bias_KQ": WeightMap(f"{BLOCK}.attn_k.bias", "KQ"),
    "v_bias_KQ": WeightMap(f"{BLOCK}.attn_v.bias", "KQ"),
    "q_norm_Q": WeightMap(f"{BLOCK}.attn_q_norm.weight", "Q"),
    "k_norm_Q": WeightMap(f"{BLOCK}.attn_k_norm.weight", "Q"),
    "mlp_norm_D": WeightMap(f"{BLOCK}.ffn_norm.weight", "D"),
    "gate_DF": WeightMap(f"{BLOCK}.ffn_gate.weight", "F D"),
    "up_DF": WeightMap(f"{BLOCK}.ffn_up.weight", "F D"),
    "down_FD": WeightMap(f"{BLOCK}.ffn_down.weight", "D F"),
}
EXPERT_WEIGHTS = LLAMA_WEIGHTS | {
    "router_DE": WeightMap(f"{BLOCK}.ffn_gate_inp.weight", "E D"),
    "gate_EDF": WeightMap(f"{BLOCK}.ffn_gate_exps.weight", "E F D"),
    "up_EDF": WeightMap(f"{BLOCK}.ffn_up_exps.weight", "E F D"),
    "down_EFD": WeightMap(f"{BLOCK}.ffn_down_exps.weight", "E D F"),
}
GEMMA_WEIGHTS = LLAMA_WEIGHTS | {
    "post_attention_norm_D": WeightMap(f"{BLOCK}.post_attention_norm.weight", "D"),
    "post_mlp_norm_D": WeightMap(f"{BLOCK}.post_ffw_norm.weight", "D"),
}
LFM2_WEIGHTS = LLAMA_WEIGHTS | {
    "final_norm_D": WeightMap("token_embd_norm.weight", "D"),
    "conv_in_DXC": WeightMap(f"{BLOCK}.shortconv.in_proj.weight", "XC D"),
    "conv_taps_CXW": WeightMap(f"{BLOCK}.shortconv.conv.weight", "CX W"),
    "conv_out_CD": WeightMap(f"{BLOCK}.shortconv.out_proj.weight", "D C"),
}
GEMMA: JsonObject = {
    "activation": "gelu_tanh",
    "norm_weight_offset": True,
    "sandwich_norms": True,
    "scale_embeddings": True,
}


@dataclass(frozen=True)
class GgufArchitecture:
    """One that llama.cpp and transformers read.

    Attributes:
        name: `general.architecture`.
        weights: By our name, of a model that has them.
        fixed: Settings of all its models that differ from the defaults.
        stated: Settings that its files state, beside `STATED`.
        turned_pairs: Whether rotary positions turn neighbors and not halves of a head, so that the
            rows of queries and keys are in another order.
    """

    name: str
    weights: Mapping[str, WeightMap]
    fixed: JsonObject = field(default_factory=dict)
    stated: tuple[str, ...] = ()
    turned_pairs: bool = False


# By the architecture in transformers.
ARCHITECTURES: dict[str, GgufArchitecture] = {
    "LlamaForCausalLM": GgufArchitecture("llama", LLAMA_WEIGHTS, turned_pairs=True),
    "Qwen2ForCausalLM": GgufArchitecture("qwen2", LLAMA_WEIGHTS, {"attention_bias": True}),
    "Qwen3ForCausalLM": GgufArchitecture("qwen3", LLAMA_WEIGHTS, {"qk_norm": True}),
    "Qwen3MoeForCausalLM": GgufArchitecture(
        "qwen3moe", EXPERT_WEIGHTS, {"qk_norm": True}, ("experts", "experts_per_token")
    ),
    "Gemma2ForCausalLM": GgufArchitecture(
        "gemma2",
        GEMMA_WEIGHTS,
        GEMMA
        | {
            "attention_softcap": 50.0,
            "logit_softcap": 30.0,
            "attention_pattern": ("sliding", "full"),
        },
    ),
    "Gemma3ForCausalLM": GgufArchitecture(
        "gemma3",
        GEMMA_WEIGHTS,
        GEMMA
        | {
            "qk_norm": True,
            "attention_pattern": (*("sliding",) * 5, "full"),
            "sliding_rope_theta": 10_000.0,
        },
    ),
    "Lfm2ForCausalLM": GgufArchitecture(
        "lfm2", LFM2_WEIGHTS, {"qk_norm": True}, ("attention_pattern", "conv_width")
    ),
}


def find_architecture(source: Path, config: ModelConfig) -> GgufArchitecture:
    """The architecture as which a model can be written.

    Args:
        source: Describes the model, as for `hugging_face.export`.
        config: The model.

    Raises:
        InputError: There is none, or a file of it could not say what the model is.
    """
    where, named = source / CONFIG_FILE, read_family(source)[0].architecture
    found = ARCHITECTURES.get(named)
    if found is None:
        raise InputError(
            f"{where}: {named} cannot be written as GGUF, only {', '.join(ARCHITECTURES)}; export "
            "it with --format hf"
        )
    same = {name: getattr(config, name) for name in (*STATED, *found.stated, *NOT_OF_SOURCE)}
    expected = canonical(dataclasses.replace(ModelConfig(), **same | found.fixed))
    names = [setting.name for setting in dataclasses.fields(config)]
    has = canonical(config)
    others = [name for name in names if getattr(has, name) != getattr(expected, name)]
    if not _says(found, config):
        others.append("rope_scaling")
    if others:
        raise InputError(
            f"{where}: a GGUF file of the architecture {found.name} has no place for this model's "
            f"{', '.join(others)}; export it with --format hf"
        )
    return found


def _says(architecture: GgufArchitecture, config: ModelConfig) -> bool:
    """Whether a file can state how positions are stretched."""
    scaling = config.rope_scaling
    if isinstance(scaling, Llama3Rope):
        return architecture.name == "llama"
    if isinstance(scaling, YarnRope):
        usual = 0.1 * math.log(scaling.factor) + 1.0
        return scaling == YarnRope(
            scaling.factor, scaling.original_positions, attention_factor=usual
        )
    return True
