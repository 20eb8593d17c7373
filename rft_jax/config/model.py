"""Settings of a model: its architecture, its adapters, and how it is run."""

from dataclasses import dataclass
from typing import Literal, get_args

from rft_jax.config.rope import RopeScaling

# What a layer does in the place of attention: attend to all tokens, to those of a window, to all
# without rotary positions (SmolLM 3), to all with heads of another size than sliding layers
# (Gemma 4: global); Gated DeltaNet (Qwen 3.5); a short convolution (LFM2). Shared ones, which come
# last, read the keys and values of the last sliding or global layer before them.
LayerType = Literal[
    "full",
    "sliding",
    "nope",
    "global",
    "shared_sliding",
    "shared_global",
    "delta_net",
    "short_conv",
]
# Of attention and the MLP; of Gated DeltaNet (Qwen 3.5); of short convolutions (LFM2).
LoraTarget = Literal[
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "in_proj_qkv",
    "in_proj_z",
    "in_proj_b",
    "in_proj_a",
    "out_proj",
    "conv_in_proj",
    "conv_out_proj",
]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters (https://arxiv.org/abs/2106.09685): W + alpha / rank * A B, A and B are trained."""

    rank: int = 16  # TRL's
    alpha: float = 32.0  # TRL's
    # Of the weights that the model has. PEFT's names; all of them:
    # https://thinkingmachines.ai/blog/lora
    targets: tuple[LoraTarget, ...] = get_args(LoraTarget)
    # Of the frozen weights; nf4: their matrices in four bits (https://arxiv.org/abs/2305.14314),
    # tables of the vocabulary and the rest in bfloat16.
    base_dtype: Literal["bfloat16", "float32", "nf4"] = "bfloat16"


@dataclass(frozen=True)
class DeltaNetConfig:
    """Sizes of Gated DeltaNet layers (https://arxiv.org/abs/2412.06464)."""

    num_key_heads: int = 2  # of queries and keys; each for several heads of values
    num_value_heads: int = 4
    key_head_dim: int = 32
    value_head_dim: int = 32
    conv_width: int = 4  # tokens that the convolution before it sees, with the current one

    @property
    def channels(self) -> int:
        """Queries, keys and values of a token, in numbers."""
        keys, values = self.num_key_heads * self.key_head_dim, self.num_value_heads
        return 2 * keys + values * self.value_head_dim


@dataclass(frozen=True)
class ModelConfig:
    """One decoder (Llama's block, https://arxiv.org/abs/2302.13971, with the usual options)."""

    name: str = "policy"
    # A Hugging Face checkpoint, a directory or "hf:Owner/Name", which then gives architecture,
    # weights and tokenizer, whatever the settings below say; empty: from scratch.
    source: str = ""
    num_layers: int = 6
    hidden_size: int = 256  # D
    num_heads: int = 4  # H
    num_kv_heads: int = 2  # K; groups of H/K query heads share a key/value head
    head_dim: int = 64
    intermediate_size: int = 768  # of the MLP, or of one expert
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None  # dimensions of a head that turn; None: all
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    attention_bias: bool = False  # biases on query, key and value, as in Qwen 2
    output_bias: bool = False  # a bias on attention's output
    qk_norm: bool = False  # RMSNorm on queries and keys, as in Qwen 3
    qk_norm_all_heads: bool = False  # over all heads at once, as in OLMo 3
    attention_gate: bool = False  # a sigmoid of the layer's input on attention, as in Qwen 3.5
    attention_scale: float | None = None  # on the scores; None: head_dim**-0.5
    attention_softcap: float | None = None  # c tanh(score / c), as in Gemma 2
    attention_sinks: bool = False  # a learned score a head without a value, as in gpt-oss
    logit_softcap: float | None = None  # the same on the final logits
    attention_pattern: tuple[LayerType, ...] = ("full",)  # repeated over layers
    sliding_window: int = 0  # tokens that a sliding layer sees, with the current one
    sliding_rope_theta: float | None = None  # of sliding layers, unscaled; None: as full layers
    delta_net: DeltaNetConfig | None = None  # sizes of the layers of that kind
    # Sizes of global layers, as in Gemma 4; None: those of the others.
    global_head_dim: int | None = None
    global_kv_heads: int | None = None
    values_are_keys: bool = False  # global layers have no projection of values, but that of keys
    shared_intermediate_size: int | None = None  # of the shared layers' MLP; None: as the others'
    value_norm: bool = False  # RMSNorm without weights on values, as in Gemma 4
    # Gemma 4's per-layer embeddings: so many numbers of each token for each layer, from a table and
    # from the token's embedding, are added to what the layer gives. 0: off.
    per_layer_size: int = 0
    layer_scale: bool = False  # a factor on what each layer gives, as in Gemma 4
    conv_width: int = 3  # tokens that a `short_conv` layer sees, with the current one: LFM2's
    activation: Literal["silu", "gelu_tanh"] = "silu"  # of the gated MLP: SwiGLU or GeGLU
    # gpt-oss's SwiGLU: gate sigmoid(1.702 gate) (up + 1), of both bounded by this; None: off.
    swiglu_limit: float | None = None
    norm_weight_offset: bool = False  # RMSNorm multiplies by 1 + its weight, as in Gemma
    sandwich_norms: bool = False  # norms also behind attention and MLP, as in Gemma 2
    pre_norms: bool = True  # norms before attention and MLP; not in OLMo 3
    scale_embeddings: bool = False  # by sqrt(hidden_size), as in Gemma
    # Granite's multipliers: of embeddings, of what a layer adds, and a divisor of logits.
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    # Queries grow by beta log(1 + floor(position / original positions)): (beta, original
    # positions), as in Llama 4 and Ministral 3; None: off.
    query_growth: tuple[float, int] | None = None
    experts: int = 0  # mixture of experts instead of one MLP; 0: off
    experts_per_token: int = 0
    normalize_experts: bool = True  # the chosen experts' weights sum to 1
    # The hidden layer of an expert for all tokens, gated by a sigmoid, as in Qwen 3.5; 0: none.
    shared_expert_size: int = 0
    expert_bias: bool = False  # biases in router and experts, as in gpt-oss
    # What the backward pass recomputes of a layer: all; all but the products with weights, whose
    # results are kept; nothing. On a CPU attention in tiles is never recomputed.
    remat: Literal["full", "dots", "none"] = "full"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bf16 on TPU and GPU
    # Of many queries, as in the update. pallas: kernels for TPUs, where the lengths of prompts and
    # completions are multiples of 128. cudnn: NVIDIA's for its GPUs since Ampere, in bfloat16, for
    # even lengths and head dimensions up to 128, without softcap and sinks. xla where these do not
    # hold; in tiles, where all scores of a head are more than 2,048 x 2,048. blockwise: in tiles of
    # the size for a CPU. auto: that of the platform.
    attention: Literal["auto", "xla", "blockwise", "pallas", "cudnn"] = "auto"
    # Of one query a row, in the loop over tokens. triton: a kernel for NVIDIA's GPUs since Ampere,
    # in bfloat16, for head dimensions that are powers of two from 16 to 256, and not for a cache in
    # eight bits. auto: that where there is such a GPU.
    decode_attention: Literal["auto", "xla", "triton"] = "auto"
    # The layers in the loop over tokens; unrolled takes up to a second copy of the rollout's
    # weights, and longer to compile; auto: on CPUs and GPUs, and with experts.
    decode_layers: Literal["auto", "scanned", "unrolled"] = "auto"
    # Train adapters only, over the weights of the source, which stay as they are; None: train all.
    # A source that is an adapter itself (PEFT's format) is trained on, whatever is set here.
    lora: LoraConfig | None = None


# What a source does not say of a model: how it is run and trained.
NOT_OF_SOURCE = (
    "name",
    "source",
    "remat",
    "compute_dtype",
    "attention",
    "decode_attention",
    "decode_layers",
    "lora",
)
