"""Every setting and its default, as frozen dataclasses.

An experiment file has `get_config() -> Config`; the command line changes single settings with
`--config.a.b=value` (`apply_overrides`). A run stores its configuration as JSON (`to_json`,
`from_json`). `validate` refuses what cannot work before anything is read or compiled.
"""

import ast
import dataclasses
import importlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rft_jax.errors import InputError

REASONING_EFFORTS = ("low", "medium", "high")


@dataclass(frozen=True)
class DataConfig:
    """Where the items come from: JSON lines. A task subclasses this and overrides `materialise`."""

    train: str = ""  # RFT items: messages, and any other keys for the grader
    valid: str = ""  # RFT items, none of them in `train`
    supervised: str = ""  # items that end with an assistant message
    answers: str = ""  # likewise: the right answers to `train`, for supervised fine-tuning
    symbols: str = ""  # a text a line, such as a name, that a tokenizer trained here keeps whole

    def materialise(self, directory: Path) -> "DataConfig":
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
    requests: int = 16  # HTTP requests under way at once, for each grader


@dataclass(frozen=True)
class TokenizerConfig:
    """A SentencePiece model: read from `path`, or trained on the run's own data."""

    path: str = ""
    vocab_size: int = 8192
    thinking: bool | None = None  # of a source whose template leaves the choice
    training_texts: int = 20_000  # a sample of the data's texts; training takes seconds


@dataclass(frozen=True)
class LinearRope:
    """Rotary positions divided by a factor (https://arxiv.org/abs/2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's scaling: low frequencies are divided, high ones kept, a ramp lies between."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int  # of pre-training


@dataclass(frozen=True)
class YarnRope:
    """YaRN (https://arxiv.org/abs/2309.00071)."""

    factor: float
    original_positions: int  # of pre-training
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0  # on queries and keys alike
    truncate: bool = True  # the ramp's ends to whole dimensions


RopeScaling = LinearRope | Llama3Rope | YarnRope
LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters (https://arxiv.org/abs/2106.09685): W + alpha / rank * A B, A and B are trained."""

    rank: int = 16  # TRL's
    alpha: float = 32.0  # TRL's
    # PEFT's names; all of them: https://thinkingmachines.ai/blog/lora
    targets: tuple[LoraTarget, ...] = typing.get_args(LoraTarget)
    base_dtype: Literal["bfloat16", "float32"] = "bfloat16"  # of the frozen weights


@dataclass(frozen=True)
class ModelConfig:
    """One decoder (Llama's block, https://arxiv.org/abs/2302.13971, with the usual options)."""

    name: str = "policy"
    # A Hugging Face checkpoint, a directory or "hf:Owner/Name", which then gives architecture,
    # weights and tokenizer, whatever the settings below say; empty: from scratch.
    source: str = ""
    layers: int = 6
    width: int = 256  # D
    heads: int = 4  # H
    kv_heads: int = 2  # K; groups of H/K query heads share a key/value head
    head_dim: int = 64
    mlp_width: int = 768  # of the MLP, or of one expert
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    attention_bias: bool = False  # biases on query, key and value, as in Qwen 2
    output_bias: bool = False  # a bias on attention's output
    qk_norm: bool = False  # RMSNorm on queries and keys, as in Qwen 3
    attention_scale: float | None = None  # on the scores; None: head_dim**-0.5
    attention_softcap: float | None = None  # c tanh(score / c), as in Gemma 2
    logit_softcap: float | None = None  # the same on the final logits
    attention_pattern: tuple[Literal["full", "sliding"], ...] = ("full",)  # repeated over layers
    sliding_window: int = 0  # tokens that a sliding layer sees, with the current one
    sliding_rope_theta: float | None = None  # of sliding layers, unscaled; None: as full layers
    activation: Literal["silu", "gelu_tanh"] = "silu"  # of the gated MLP: SwiGLU or GeGLU
    norms_around_one: bool = False  # RMSNorm multiplies by 1 + its weight, as in Gemma
    post_norms: bool = False  # norms also behind attention and MLP, as in Gemma 2
    scale_embeddings: bool = False  # by sqrt(width), as in Gemma
    experts: int = 0  # mixture of experts instead of one MLP; 0: off
    experts_per_token: int = 0
    normalize_experts: bool = True  # the chosen experts' weights sum to 1
    # What the backward pass recomputes of a layer: all; all but the products with weights, whose
    # results are kept; nothing.
    remat: Literal["full", "dots", "none"] = "full"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bf16 on TPU and GPU
    # Of many queries, as in the update; pallas: a kernel for TPUs, where the lengths of prompts and
    # completions are multiples of 128, up to 2,048.
    attention: Literal["xla", "pallas"] = "xla"
    # The layers in the loop over tokens; auto: unrolled on a CPU.
    decode_layers: Literal["auto", "scanned", "unrolled"] = "auto"
    # Train adapters only, over the weights of the source, which stay as they are; None: train all.
    # A source that is an adapter itself (PEFT's format) is trained on, whatever is set here.
    lora: LoraConfig | None = None


# What a source does not say of a model: how it is run and trained.
NOT_OF_SOURCE = (
    *("name", "source", "remat", "compute_dtype", "attention", "decode_layers", "lora"),
)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, with a global-norm clip.

    Muon (https://kellerjordan.github.io/posts/muon/) is for pre-training: it takes the layers'
    matrices, AdamW with Nesterov's momentum the rest. Its updates are scaled to the size of
    AdamW's, and it counts weight decay as AdamW does (https://arxiv.org/abs/2502.16982), so that
    the settings are common to both.
    """

    name: Literal["adamw", "muon"] = "adamw"
    # None: 1e-6 (TRL, verl and OpenRLHF for full fine-tuning), or 1e-5 for adapters
    learning_rate: float | None = None
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    b1: float = 0.9  # Muon's momentum is 0.95
    b2: float = 0.999  # torch's and optax's default
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # verl, TRL
    max_skipped: int = 5  # updates in a row without a finite gradient that end the run

    def peak_learning_rate(self, lora: bool) -> float:
        """The learning rate, with its default for adapters or for all weights."""
        if self.learning_rate is None:
            return 1e-5 if lora else 1e-6
        return self.learning_rate


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left (one axis at most)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class RolloutConfig:
    """How completions are sampled. The policy is softmax(logits / temperature)."""

    group_size: int = 8  # G: TRL's and Tunix's default
    prompt_tokens: int = 256  # P, the static length of prompts
    # Static lengths to compile for: P, P / 2, P / 4 and so on, so many. A batch takes the shortest
    # that holds its prompts.
    prompt_buckets: int = 1
    completion_tokens: int = 256  # T, thought and answer together
    output_bytes: int = 1024  # L, the static length of the answer's text
    temperature: float = 1.0  # DeepSeek-R1, DAPO: the policy itself; 0 is greedy decoding
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    reasoning_effort: str | int = "medium"  # a name below, or a number of thinking tokens
    effort_low: int = 32
    effort_medium: int = 96
    effort_high: int = 192
    truncated: Literal["score", "mask", "zero"] = "score"  # what a sample without a stop earns
    # Completions that are decoded at a time, of the whole batch; one that ends makes room for
    # another, so that memory and time follow their mean length instead of the longest. Best a
    # multiple of group_size / 2 on each device. 0: all at once.
    slots: int = 0
    # Sample with weights, or with keys and values, in eight bits: less memory and traffic, and
    # another policy than the learner's, which `policy_loss.importance` must correct.
    int8_weights: bool = False
    int8_cache: bool = False

    @property
    def thinking_tokens(self) -> int:
        """The budget of thinking tokens before the end-of-think marker is forced."""
        if isinstance(self.reasoning_effort, int):
            return self.reasoning_effort
        return getattr(self, f"effort_{self.reasoning_effort}")


@dataclass(frozen=True)
class PolicyLossConfig:
    """The policy-gradient objective; see `learn.advantages` and `learn.losses`."""

    baseline: Literal["group", "batch", "none", "leave_one_out"] = "group"  # GRPO
    loss: Literal["ppo", "gspo", "cispo"] = "ppo"
    clip_low: float = 0.2  # PPO; DAPO (https://arxiv.org/abs/2503.14476) for the pair
    clip_high: float = 0.28
    two_sided: bool = True  # CISPO: keep the ratio above 1 - clip_low as well
    dual_clip: float | None = None  # https://arxiv.org/abs/1912.09729 uses 3
    aggregation: Literal["token_mean", "sequence_mean", "constant", "sequence_sum"] = "token_mean"
    importance: Literal["none", "tis", "icepop"] = "none"  # sampler/learner mismatch
    tis_cap: float = 2.0  # https://fengyao.notion.site/off-policy-rl
    icepop_low: float = 0.5  # https://arxiv.org/abs/2510.18855
    icepop_high: float = 2.0
    kl_coefficient: float = 0.0  # to the policy that the stage started from
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # http://joschu.net/blog/kl-approx.html
    gradient_steps: int = 1  # per rollout batch
    micro_batches: int = 1  # the update's prompts in so many parts; changes memory, not results
    # Completions side by side in rows of completion_tokens, so many rows of each device at once;
    # 0: a row each, padded. For lengths that differ; with full rows it only costs.
    pack_rows: int = 0
    logit_chunk: int = 16  # positions of every completion whose logits exist at once


@dataclass(frozen=True)
class SupervisedStage:
    """Maximum likelihood on given completions: pre-training and supervised fine-tuning."""

    name: str = "pretrain"
    model: str = "policy"
    init: str = ""  # an earlier stage, or WORKDIR/STAGE of another run; empty: random weights
    data: Literal["supervised", "answers"] = "supervised"  # which file of the run's `data`
    steps: int = 1000
    batch_size: int = 16  # rows, each of several packed items
    row_tokens: int = 512  # at least the longest item
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, schedule="cosine", b2=0.95, weight_decay=0.01
    )
    micro_batches: int = 1
    logit_chunk: int = 512  # positions of a row whose logits exist at once
    log_interval: int = 10
    checkpoint_interval: int = 500


@dataclass(frozen=True)
class ReinforceStage:
    """Reinforcement fine-tuning against the grader."""

    name: str = "rft"
    model: str = "policy"
    init: str = "pretrain"  # as above
    steps: int = 100
    batch_size: int = 8  # B, prompts a step
    # Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476): where all samples of a prompt earn
    # the same, others take its place, from at most so many times B prompts a step; 1: off.
    sampling_rounds: int = 1
    rollout: RolloutConfig = RolloutConfig()
    policy_loss: PolicyLossConfig = PolicyLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    eval_interval: int = 10  # steps between evaluations on `data.valid`; 0: never
    eval_samples: int = 1  # samples per validation item
    patience: int = 0  # evaluations without a better validation reward that end it; 0: never
    checkpoint_interval: int = 20
    samples_interval: int = 10  # steps between dumps of the step's samples
    host_chunks: int = 4  # a batch for graders on the host is sampled and graded in so many parts
    # While the host grades a batch, sample the next from the policy before the update, which
    # `policy_loss.importance` must correct. Interrupted, such a run goes on a little differently.
    overlap: bool = False


@dataclass(frozen=True)
class EvaluateStage:
    """A comparison of models on one file, paired, in the run's `results.json` and report.

    Graded by the run's grader, and sampled as the last reinforcement stage of each model's run is.
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
    cluster_by: str = ""  # key of the items whose equals the bootstrap draws together
    macro_by: str = ""  # key of the items; `macro_` metrics are means over its values
    cases: int = 24  # the report shows what the models answered to the first so many items

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of the items that it needs."""
        return tuple(key for key in (self.cluster_by, self.macro_by) if key)


TrainingStage = SupervisedStage | ReinforceStage
Stage = TrainingStage | EvaluateStage
RESERVED = ("data", "models")  # what else has a folder in a work directory


@dataclass(frozen=True)
class Config:
    """A run: data, grader, models and the stages that are done in order."""

    name: str = "run"
    seed: int = 0
    data: DataConfig = DataConfig()
    # A JSON file in OpenAI's format, or its content, or "module:name" of a `device_grader`.
    grader: str | dict[str, Any] = ""
    placement: Literal["auto", "device", "host"] = "auto"  # where the grader's nodes run
    host: HostOptions = HostOptions()
    tokenizer: TokenizerConfig = TokenizerConfig()
    models: tuple[ModelConfig, ...] = (ModelConfig(),)
    mesh: MeshConfig = MeshConfig()
    tensorboard: bool = True  # event files beside the metrics
    wandb_project: str = ""  # of Weights & Biases; empty: off
    # Folder of compiled programs; None: JAX_COMPILATION_CACHE_DIR, or the user's own; empty: off.
    compilation_cache: str | None = None
    stages: tuple[Stage, ...] = field(default_factory=lambda: (SupervisedStage(), ReinforceStage()))

    @property
    def training_stages(self) -> tuple[TrainingStage, ...]:
        """The stages that change weights."""
        return tuple(stage for stage in self.stages if not isinstance(stage, EvaluateStage))

    def model(self, name: str) -> ModelConfig:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)


def validate(config: Config) -> None:
    """Refuses a configuration that cannot work.

    Raises:
        InputError: naming the setting and what to change.
    """
    _check_types(config, "")
    _check_names("models", config.models)
    _check_names("stages", config.stages)
    _positive("tokenizer", config.tokenizer, "training_texts")
    _positive("host", config.host, "requests")
    if config.host.workers is not None:
        _positive("host", config.host, "workers")
    if not config.host.python_timeout_s > 0:
        raise InputError("host.python_timeout_s: must be above 0 seconds")
    for model in config.models:
        if model.lora is not None:
            _validate_lora(f"models.{model.name}", model)
        if not model.source:
            _validate_model(model)
    earlier: dict[str, TrainingStage] = {}
    for stage in config.stages:
        place = f"stages.{stage.name}"
        if isinstance(stage, EvaluateStage):
            _validate_evaluate(place, stage, earlier)
            continue
        if stage.model not in [model.name for model in config.models]:
            raise InputError(f"{place}.model: there is no model {stage.model!r} in `models`")
        here = stage.init and "/" not in stage.init
        if here and (stage.init not in earlier or earlier[stage.init].model != stage.model):
            raise InputError(
                f"{place}.init: {stage.init!r} is not an earlier stage of the model "
                f"{stage.model!r}; name one, or give WORKDIR/STAGE of another run"
            )
        _positive(place, stage, "steps", "batch_size", "checkpoint_interval")
        _validate_optimizer(f"{place}.optimizer", stage.optimizer, stage.steps)
        if isinstance(stage, ReinforceStage):
            _validate_reinforce(place, stage)
        else:
            _positive(place, stage, "row_tokens", "micro_batches", "logit_chunk", "log_interval")
            _divides(place, stage.micro_batches, stage.batch_size)
        earlier[stage.name] = stage


def _check_types(node: Any, place: str) -> None:
    """Every setting has its type, and numbers are finite."""
    kinds = typing.get_type_hints(type(node))
    for setting in dataclasses.fields(node):
        value, kind = getattr(node, setting.name), kinds[setting.name]
        where = f"{place}.{setting.name}".strip(".")
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite or all(_convert(value, option) is _NO for option in _options(kind)):
            raise InputError(f"{where}: {value!r} is not {_describe(kind)}")
        if dataclasses.is_dataclass(value):
            _check_types(value, where)
        elif isinstance(value, tuple):
            for member in filter(dataclasses.is_dataclass, value):
                _check_types(member, f"{where}.{member.name}")


def _check_names(place: str, things: tuple) -> None:
    names = [thing.name for thing in things]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{place}: at least one is needed and names must differ, got {names}")
    for name in names:
        if not name or "/" in name or "." in name:
            raise InputError(f"{place}: the name {name!r} must be non-empty, without '/' and '.'")
        if place == "stages" and name in RESERVED:
            raise InputError(
                f"{place}: the name {name!r} is taken in a work directory; use another"
            )


def _positive(place: str, settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{place}.{name}: must be at least 1, got {getattr(settings, name)}")


def _divides(place: str, parts: int, batch_size: int) -> None:
    if batch_size % parts:
        raise InputError(
            f"{place}.micro_batches: {parts} does not divide the batch of {batch_size}; "
            "choose a divisor"
        )


def _validate_model(model: ModelConfig) -> None:
    place = f"models.{model.name}"
    _positive(place, model, "layers", "width", "heads", "kv_heads", "head_dim", "mlp_width")
    if model.heads % model.kv_heads:
        raise InputError(f"{place}.heads: {model.heads} is not a multiple of kv_heads")
    for name in ("rope_theta", "norm_eps"):
        if not getattr(model, name) > 0:
            raise InputError(f"{place}.{name}: must be above 0, got {getattr(model, name)}")
    if model.head_dim % 2:
        raise InputError(f"{place}.head_dim: rotary positions need an even number")
    if not model.attention_pattern:
        raise InputError(f"{place}.attention_pattern: name at least one kind of layer")
    if "sliding" in model.attention_pattern and model.sliding_window < 1:
        raise InputError(f"{place}.sliding_window: sliding layers need a window of at least 1")
    if model.experts and not 1 <= model.experts_per_token <= model.experts:
        raise InputError(
            f"{place}.experts_per_token: {model.experts_per_token} must lie between 1 and the "
            f"{model.experts} experts"
        )


def _validate_lora(place: str, model: ModelConfig) -> None:
    lora = model.lora
    if not model.source:
        raise InputError(
            f"{place}.lora: adapters change a model that is there already; set {place}.source"
        )
    _positive(f"{place}.lora", lora, "rank")
    if not lora.alpha > 0:
        raise InputError(f"{place}.lora.alpha: must be above 0, got {lora.alpha}")
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise InputError(f"{place}.lora.targets: name at least one weight, and each only once")


def _validate_optimizer(place: str, optimizer: OptimizerConfig, steps: int) -> None:
    rate = optimizer.learning_rate
    if (rate is not None and not rate > 0) or not optimizer.clip_norm > 0:
        raise InputError(f"{place}: learning_rate and clip_norm must be above 0")
    if not (0 <= optimizer.b1 < 1 and 0 <= optimizer.b2 < 1 and optimizer.eps > 0):
        raise InputError(f"{place}: b1 and b2 must lie in [0, 1) and eps be above 0")
    if not optimizer.weight_decay >= 0:
        raise InputError(f"{place}.weight_decay: must be 0 or more")
    _positive(place, optimizer, "max_skipped")
    if not 0 <= optimizer.warmup_steps < steps:
        raise InputError(
            f"{place}.warmup_steps: {optimizer.warmup_steps} must be less than the {steps} steps"
        )


def _validate_reinforce(place: str, stage: ReinforceStage) -> None:
    rollout, loss = stage.rollout, stage.policy_loss
    where = f"{place}.rollout"
    _positive(place, stage, "sampling_rounds")
    sizes = "prompt_tokens", "prompt_buckets", "completion_tokens", "output_bytes"
    _positive(where, rollout, "group_size", *sizes)
    if not rollout.temperature > 0:
        raise InputError(f"{where}.temperature: training needs a temperature above 0")
    if not 0 < rollout.top_p <= 1 or rollout.top_k < 0:
        raise InputError(f"{where}: top_p must lie in (0, 1] and top_k must be 0 (off) or more")
    effort = rollout.reasoning_effort
    if isinstance(effort, str) and effort not in REASONING_EFFORTS:
        raise InputError(
            f"{where}.reasoning_effort: {effort!r} is none of {', '.join(REASONING_EFFORTS)} "
            "nor a number of tokens"
        )
    if not 0 <= rollout.thinking_tokens <= rollout.completion_tokens - 2:
        raise InputError(
            f"{where}.reasoning_effort: {rollout.thinking_tokens} thinking tokens leave no room "
            f"for an answer in completion_tokens={rollout.completion_tokens}; raise the latter"
        )
    if rollout.group_size < 2:
        raise InputError(
            f"{where}.group_size: the baseline {loss.baseline!r} compares the samples of a prompt; "
            "use at least 2"
        )
    if not 0 <= 2 * rollout.slots <= stage.batch_size * rollout.group_size:
        raise InputError(
            f"{where}.slots: {rollout.slots} must be at most half of the "
            f"{stage.batch_size * rollout.group_size} completions of a step; 0 decodes all at once"
        )
    if rollout.output_bytes < 4:
        raise InputError(f"{where}.output_bytes: must be at least 4, the longest character")
    _validate_loss(f"{place}.policy_loss", loss)
    if loss.importance == "none":
        another = "samples come from another policy than is trained; set "
        another += f"{place}.policy_loss.importance=tis"
        if rollout.int8_weights or rollout.int8_cache:
            raise InputError(f"{where}: with int8_weights or int8_cache {another}")
        if stage.overlap:
            raise InputError(f"{place}.overlap: with it {another}")
    _positive(place, stage, "eval_samples", "samples_interval", "host_chunks")
    if stage.eval_interval < 0 or stage.patience < 0:
        raise InputError(f"{place}: eval_interval and patience must be 0 (never) or more")
    if stage.patience and not stage.eval_interval:
        raise InputError(f"{place}.patience: needs evaluations; set eval_interval as well")
    _divides(f"{place}.policy_loss", loss.micro_batches, stage.batch_size)
    if loss.pack_rows < 0 or (loss.pack_rows and loss.micro_batches > 1):
        raise InputError(
            f"{place}.policy_loss.pack_rows: must be 0 (off), or at least 1 with micro_batches=1; "
            "packed rows are the parts of the update themselves"
        )


def _validate_evaluate(
    place: str, stage: EvaluateStage, earlier: Mapping[str, TrainingStage]
) -> None:
    _positive(place, stage, "samples")
    taken = [*earlier, *stage.models]
    for name in stage.baselines:
        if not name or "/" in name or name in taken:
            raise InputError(
                f"{place}.baselines: {name!r} must differ from stages and models, without '/'"
            )
        taken.append(name)
    for name in stage.models:
        if "/" not in name and name not in earlier:
            raise InputError(
                f"{place}.models: {name!r} is not an earlier stage; name one, or give "
                "WORKDIR/STAGE of another run"
            )
    if not any(isinstance(before, ReinforceStage) for before in earlier.values()):
        raise InputError(
            f"{place}: samples are drawn as in a reinforcement stage; put one before it"
        )


def _validate_loss(place: str, loss: PolicyLossConfig) -> None:
    _positive(place, loss, "gradient_steps", "micro_batches", "logit_chunk")
    if not 0 < loss.clip_low <= 1 or not loss.clip_high > 0:
        raise InputError(f"{place}: clip_low must lie in (0, 1] and clip_high be above 0")
    if loss.dual_clip is not None and (loss.loss != "ppo" or not loss.dual_clip > 1):
        raise InputError(f"{place}.dual_clip: must be above 1, and is for loss=ppo only")
    if not loss.tis_cap > 0 or not 0 <= loss.icepop_low < loss.icepop_high:
        raise InputError(f"{place}: tis_cap must be above 0 and icepop_low below icepop_high")
    if not loss.kl_coefficient >= 0:
        raise InputError(f"{place}.kl_coefficient: must be 0 (off) or more")
    if loss.kl_coefficient and loss.kl_estimator == "k1":
        raise InputError(
            f"{place}.kl_estimator: the gradient of k1 is zero in expectation; use k2 or k3"
        )


def apply_overrides(config: Any, overrides: Mapping[str, str]) -> Any:
    """Returns `config` with settings replaced, e.g. {"stages.rft.steps": "200"}.

    Members of `models` and `stages` are addressed by their names. Values are parsed as Python
    literals of the setting's type; what is not a literal is a string.

    Raises:
        InputError: for an unknown setting or a value of the wrong type.
    """
    for path, text in overrides.items():
        config = _replace(config, path.split("."), text, f"--config.{path}")
    return config


def _replace(node: Any, path: list[str], text: str, flag: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):
        names = [member.name for member in node]
        if name not in names or not rest:
            raise InputError(f"{flag}: expected one of {', '.join(names)} and a setting of it")
        return tuple(
            _replace(member, rest, text, flag) if member.name == name else member for member in node
        )
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if name not in known:
        remedy = f"; known here: {', '.join(known)}" if known else ""
        raise InputError(f"{flag}: there is no setting {name!r}{remedy}")
    kind = typing.get_type_hints(type(node))[name]
    if rest:
        value = _replace(_section(getattr(node, name), kind), rest, text, flag)
    else:
        value = _parse(text, kind, flag)
    return dataclasses.replace(node, **{name: value})


def _section(value: Any, kind: Any) -> Any:
    """The settings themselves; with their defaults, if they are left out and can be of one kind."""
    kinds = [option for option in _options(kind) if dataclasses.is_dataclass(option)]
    return kinds[0]() if value is None and len(kinds) == 1 else value


def _parse(text: str, kind: Any, flag: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    for candidate in (value, text):
        for option in _options(kind):
            if (converted := _convert(candidate, option)) is not _NO:
                return converted
    raise InputError(f"{flag}: {text!r} is not {_describe(kind)}")


_NO = object()


def _options(kind: Any) -> tuple:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _convert(value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value if value in typing.get_args(kind) else _NO
    if origin is tuple:
        items = value if isinstance(value, tuple | list) else (value,)
        options = _options(typing.get_args(kind)[0])
        found = [[_convert(item, option) for option in options] for item in items]
        found = [[value for value in values if value is not _NO] for values in found]
        return tuple(values[0] for values in found) if all(found) else _NO
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or kind
    if isinstance(value, bool) and plain is not bool:
        return _NO
    return value if isinstance(plain, type) and isinstance(value, plain) else _NO


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return (
        "a value of type " + getattr(kind, "__name__", str(kind))
        if isinstance(kind, type)
        else f"a value of type {kind}"
    )


def to_json(config: Any) -> Any:
    """A JSON value from which `from_json` rebuilds the configuration."""
    if dataclasses.is_dataclass(config):
        kind = type(config)
        values = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"class": f"{kind.__module__}:{kind.__qualname__}", **values}
    if isinstance(config, tuple | list):
        return [to_json(member) for member in config]
    return config


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, dict) and "class" in value:
        module, name = value["class"].split(":")
        kind = getattr(importlib.import_module(module), name)
        ours = module.split(".")[0] == __name__.split(".")[0]
        if not dataclasses.is_dataclass(kind) or not (ours or issubclass(kind, DataConfig)):
            raise ValueError(f"{value['class']} is no class of settings")
        return kind(**{key: from_json(v) for key, v in value.items() if key != "class"})
    if isinstance(value, list):
        return tuple(from_json(member) for member in value)
    return value


def read_config(stored: Path) -> Config:
    """The configuration of a work directory, from its `config.json`.

    Raises:
        InputError: it cannot be read, or was written by another version or an experiment file
            whose data class cannot be imported.
    """
    try:
        config = from_json(json.loads(stored.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InputError(
            f"{stored}: cannot be read as a run's configuration ({error}); use another --workdir, "
            "and keep data classes of your own in a module that can be imported"
        ) from None
    if not isinstance(config, Config):
        raise InputError(f"{stored}: is not a run's configuration; use another --workdir")
    return config


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """The settings in which two `to_json` values differ, as `a.b: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{place}.{key}".strip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            line
            for index, (a, b) in enumerate(pairs)
            for line in differences(a, b, f"{place}.{a['name'] if _named(a) else index}")
        ]
    return [] if old == new else [f"{place}: {old!r} -> {new!r}"]


def _named(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value
