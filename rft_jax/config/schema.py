"""Every setting and its default, as frozen dataclasses.

An experiment file has `get_config() -> Config`; `config_text` changes single settings from the
command line and stores a configuration as JSON, `validation` refuses what cannot work.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from rft_jax.config.optimizer import OptimizerConfig
from rft_jax.config.policy_loss import PolicyLossConfig
from rft_jax.config.rope import RopeScaling

REASONING_EFFORTS = ("low", "medium", "high")
# Of a GPU's memory, what `rft` allocates at its start unless XLA_CLIENT_MEM_FRACTION is set.
GPU_MEMORY_FRACTION = 0.92


@dataclass(frozen=True)
class TfdsConfig:
    """How an example of TensorFlow Datasets becomes an item; its features are the item's keys.

    Each text is a Jinja template over the features, such as "{{ question }}".
    """

    prompt: str = ""  # the user's message; empty: the data set has `messages`
    system: str = ""  # a system message before it; empty: none
    answer: str = ""  # the assistant's message, for `supervised` and `answers`
    reference: str = ""  # a key `reference` for the grader; empty: none
    data_dir: str = ""  # where TFDS keeps data sets; empty: its default


@dataclass(frozen=True)
class DataConfig:
    """Where the items come from: JSON lines, or `tfds:NAME[/CONFIG]:SPLIT`.

    A task subclasses this and overrides `materialize`.
    """

    train: str = ""  # RFT items: messages, and any other keys for the grader
    valid: str = ""  # RFT items, none of them in `train`
    supervised: str = ""  # items that end with an assistant message
    answers: str = ""  # likewise: the right answers to `train`, for supervised fine-tuning
    symbols: str = ""  # a text a line, such as a name, that a tokenizer trained here keeps whole
    tfds: TfdsConfig = TfdsConfig()

    def materialize(self, directory: Path) -> "DataConfig":
        """Returns the files to read, after writing them below `directory` if they are made."""
        del directory
        return self


@dataclass(frozen=True)
class HostOptions:
    """What graders on the host may use of the machine and the network."""

    workers: int | None = None  # sandboxed processes of a `python` grader; None: one a core, <= 16
    python_timeout_s: float = 120.0  # for grading one sample; OpenAI's limit
    # Without, Python can do whatever the user can do who runs it, and its limits hold for each
    # process but not for their number, cores and disk.
    sandbox: bool = True
    # Absolute paths of programs and folders, such as /usr/bin/vvp, that isolated Python graders can
    # read and run.
    tools: tuple[str, ...] = ()
    requests: int = 16  # HTTP requests under way at once, for each grader


@dataclass(frozen=True)
class TokenizerConfig:
    """A SentencePiece model: read from `path`, or trained on the run's own data."""

    path: str = ""
    vocab_size: int = 8192
    thinking: bool | None = None  # of a source whose template leaves the choice
    # plain: "User: ..." and "Assistant: ..." for a source that has no chat template, such as a base
    # model, or instead of its own.
    chat_template: Literal["source", "plain"] = "source"
    training_texts: int = 20_000  # a sample of the data's texts; training takes seconds


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
    # results are kept; nothing.
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


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left (one axis at most)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class RolloutConfig:
    """How completions are sampled. The policy is softmax(logits / temperature)."""

    group_size: int = 8  # G: TRL's default
    max_prompt_tokens: int = 256  # P, the static length of prompts
    # Static lengths to compile for: P, P / 2, P / 4 and so on, so many. A batch takes the shortest
    # that holds its prompts.
    prompt_buckets: int = 1
    max_completion_tokens: int = 256  # T, thought and answer together
    output_bytes: int = 1024  # L, the static length of the answer's text
    temperature: float = 1.0  # DeepSeek-R1, DAPO: the policy itself; 0 is greedy decoding
    # Truncated sampling is another policy than the one that learns, which
    # `policy_loss.importance` corrects.
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    reasoning_effort: str | int = "medium"  # a name below, or a number of thinking tokens
    effort_low: int = 32
    effort_medium: int = 96
    effort_high: int = 192
    # What a sample without a stop earns: its score, nothing and no part in the mean, or 0.
    truncated_completions: Literal["score", "mask", "zero"] = "score"
    # What answers must look like: a JSON file with OpenAI's response_format, a JSON schema or
    # {"type": "regex", "pattern": ...}, or its content; empty: anything. Answers always end.
    response_format: str | dict[str, Any] = field(default="", hash=False)  # a dict has no hash
    # Completions that are decoded at a time, of the whole batch; one that ends makes room for
    # another, so that memory and time follow their mean length instead of the longest. Best a
    # multiple of group_size / 2 on each device. 0: all at once.
    slots: int = 0
    # Sample with weights, or with keys and values, in eight bits: less memory and traffic, and
    # another policy than the learner's, which `policy_loss.importance` corrects.
    int8_weights: bool = False
    int8_cache: bool = False

    @property
    def thinking_tokens(self) -> int:
        """The budget of thinking tokens before the end-of-think marker is forced."""
        if isinstance(self.reasoning_effort, int):
            return self.reasoning_effort
        budgets = {"low": self.effort_low, "medium": self.effort_medium, "high": self.effort_high}
        return budgets[self.reasoning_effort]

    @property
    def int8(self) -> bool:
        """Whether what samples has fewer bits than what learns."""
        return self.int8_weights or self.int8_cache

    @property
    def truncates(self) -> bool:
        """Whether tokens are drawn from a part of the policy's distribution only."""
        return self.top_k > 0 or self.top_p < 1


class UpdateParts(NamedTuple):
    """Into how many parts an update's batch is cut, and the setting that says so."""

    setting: str
    count: int


@dataclass(frozen=True)
class SFTStage:
    """Maximum likelihood on given completions: pre-training and supervised fine-tuning."""

    name: str = "pretrain"
    model: str = "policy"
    init: str = ""  # an earlier stage, or WORKDIR/STAGE of another run; empty: random weights
    data: Literal["supervised", "answers"] = "supervised"  # which file of the run's `data`
    steps: int = 1000
    batch_size: int = 16  # rows, each of several packed items
    max_row_tokens: int = 512  # at least the longest item
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, schedule="cosine", b2=0.95, weight_decay=0.01
    )
    gradient_accumulation: int = 1
    logit_chunk: int = 512  # positions of a row whose logits exist at once
    log_interval: int = 10
    checkpoint_interval: int = 500

    decode_slots: ClassVar[int] = 0

    @property
    def update_parts(self) -> UpdateParts:
        """The parts of a batch whose gradients are summed."""
        return UpdateParts("gradient_accumulation", self.gradient_accumulation)


@dataclass(frozen=True)
class RLStage:
    """Reinforcement fine-tuning against the grader."""

    name: str = "rft"
    model: str = "policy"
    init: str = "pretrain"  # as above
    steps: int = 100
    batch_size: int = 8  # B, prompts a step
    # Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476): where all samples of a prompt earn
    # the same, others take its place, from at most so many times B prompts a step; 1: off.
    max_resample_batches: int = 1
    rollout: RolloutConfig = RolloutConfig()
    policy_loss: PolicyLossConfig = PolicyLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    eval_interval: int = 10  # steps between evaluations on `data.valid`; 0: never
    eval_samples: int = 1  # samples per validation item
    # Evaluations without a better validation reward that end it; 0: never.
    early_stopping_patience: int = 0
    checkpoint_interval: int = 20
    samples_interval: int = 10  # steps between dumps of the step's samples
    host_chunks: int = 4  # a batch for graders on the host is sampled and graded in so many parts
    # While the host grades a batch, sample the next from the policy before the update, which
    # `policy_loss.importance` corrects. Interrupted, such a run goes on a little differently.
    async_rollout: bool = False

    @property
    def decode_slots(self) -> int:
        """Completions that are decoded at a time; 0 for all."""
        return self.rollout.slots

    @property
    def samples_on_policy(self) -> bool:
        """Whether what samples is what learns: the same weights in the same program."""
        return not (self.async_rollout or self.rollout.int8 or self.rollout.truncates)

    @property
    def update_parts(self) -> UpdateParts:
        """The parts of a batch whose gradients are summed."""
        loss = self.policy_loss
        return UpdateParts("policy_loss.gradient_accumulation", loss.gradient_accumulation)


@dataclass(frozen=True)
class DistillationStage:
    """What both stages of distillation have; the student samples as a policy does."""

    name: str = "distill"
    model: str = "policy"  # the student
    init: str = "pretrain"  # as above
    steps: int = 100
    batch_size: int = 8  # B, prompts a step
    rollout: RolloutConfig = RolloutConfig(group_size=1)
    # Minimized at each token: KL(student, teacher), KL(teacher, student), or what lies between.
    divergence: Literal["reverse_kl", "forward_kl", "jsd"] = "reverse_kl"
    jsd_beta: float = 0.5  # of jsd, the teacher's part of the mixture
    optimizer: OptimizerConfig = OptimizerConfig()
    gradient_accumulation: int = 1  # parts of a batch whose gradients are summed
    logit_chunk: int = 16  # positions of every completion whose logits exist at once
    eval_interval: int = 10  # of a run with a grader, steps between evaluations; 0: never
    eval_samples: int = 1  # samples per validation item
    early_stopping_patience: int = 0  # as of a RLStage
    checkpoint_interval: int = 20

    @property
    def decode_slots(self) -> int:
        """Completions that are decoded at a time; 0 for all."""
        return self.rollout.slots

    @property
    def update_parts(self) -> UpdateParts:
        """The parts of a batch whose gradients are summed."""
        return UpdateParts("gradient_accumulation", self.gradient_accumulation)


@dataclass(frozen=True)
class DistillStage(DistillationStage):
    """On-policy distillation (GKD, https://arxiv.org/abs/2306.13649) from another model."""

    # An earlier stage of any model of the run, WORKDIR/STAGE of another run, or a Hugging Face
    # checkpoint; of the student's tokenizer.
    teacher: str = ""


@dataclass(frozen=True)
class SelfDistillStage(DistillationStage):
    """Self-distillation from demonstrations (SDFT, https://arxiv.org/abs/2601.19897)."""

    name: str = "sdft"
    data: Literal["supervised", "answers"] = "answers"  # the demonstrations, as of a SFTStage
    # The last message to the teacher, which sees the answer that the student does not.
    demonstration: str = (
        "{{ prompt }}\n\nThis is an example for a response to the question:\n"
        "{{ demonstration }}\n\n"
        "Now answer with a response of your own, including the thinking process:"
    )
    max_teacher_prompt_tokens: int = 512  # the static length of its prompts
    # The teacher's weights average the student's: at each step, so much of the way towards them.
    teacher_rate: float = 0.01


@dataclass(frozen=True)
class EvalStage:
    """A comparison of models on one file, paired, in the run's `results.json` and report.

    Graded by the run's grader, and sampled as in the last stage of each model's run that samples.
    """

    name: str = "evaluate"
    # Stages of this run, WORKDIR/STAGE of others, Hugging Face checkpoints; empty: every stage.
    models: tuple[str, ...] = ()
    # RFT items: a file, or NAME for the NAME.jsonl that the run's task makes; empty: `data.valid`.
    data: str = ""
    # Answers from elsewhere to compare with: to items in valid.jsonl, NAME is valid.NAME.jsonl with
    # a line {"output_text": ...} for each of them, in their order.
    baselines: tuple[str, ...] = ()
    samples: int = 1  # per item
    # Of all models, such as 0 for their likeliest tokens; None: as each was trained.
    temperature: float | None = None
    cluster_by: str = ""  # key of the items whose equals the bootstrap draws together
    macro_by: str = ""  # key of the items; `macro_` metrics are means over its values
    cases: int = 24  # the report shows what the models answered to the first so many items

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of the items that it needs."""
        return tuple(key for key in (self.cluster_by, self.macro_by) if key)


SamplingStage = RLStage | DistillStage | SelfDistillStage  # whose model samples
TrainingStageConfig = SFTStage | SamplingStage
StageConfig = TrainingStageConfig | EvalStage
DEMONSTRATION_GAPS = ("{{ prompt }}", "{{ demonstration }}")
RESERVED = ("data", "models")  # what else has a folder in a work directory


@dataclass(frozen=True)
class Config:
    """A run: data, grader, models and the stages that are done in order."""

    name: str = "run"
    seed: int = 0
    data: DataConfig = DataConfig()
    # A JSON file in OpenAI's format, or its content, or "module:name" of a `device_grader`.
    grader: str | dict[str, Any] = ""
    # A grader in the same form that looks at the validation samples and is in no reward: its mean
    # beside the reward's shows whether the model is paid for a trick; empty: none.
    audit_grader: str | dict[str, Any] = ""
    placement: Literal["auto", "device", "host"] = "auto"  # where the grader's nodes run
    host: HostOptions = HostOptions()
    tokenizer: TokenizerConfig = TokenizerConfig()
    models: tuple[ModelConfig, ...] = (ModelConfig(),)
    mesh: MeshConfig = MeshConfig()
    tensorboard: bool = True  # event files beside the metrics
    wandb_project: str = ""  # of Weights & Biases; empty: off
    # Folder of compiled programs; None: JAX_COMPILATION_CACHE_DIR, or the user's own; empty: off.
    compilation_cache: str | None = None
    stages: tuple[StageConfig, ...] = field(default_factory=lambda: (SFTStage(), RLStage()))

    @property
    def training_stages(self) -> tuple[TrainingStageConfig, ...]:
        """The stages that change weights."""
        return tuple(stage for stage in self.stages if not isinstance(stage, EvalStage))

    @property
    def rl_stages(self) -> tuple[RLStage, ...]:
        """The stages that learn from the grader."""
        return tuple(stage for stage in self.stages if isinstance(stage, RLStage))

    @property
    def sampling_stages(self) -> tuple[SamplingStage, ...]:
        """The stages that sample, and can be validated by the grader."""
        return tuple(stage for stage in self.stages if isinstance(stage, SamplingStage))

    @property
    def eval_stages(self) -> tuple[EvalStage, ...]:
        """The stages that compare models."""
        return tuple(stage for stage in self.stages if isinstance(stage, EvalStage))

    def model(self, name: str) -> ModelConfig:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)
