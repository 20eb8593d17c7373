"""Settings of the stages of a run, a class for each kind."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rft_jax.config.optimizer import OptimizerConfig
from rft_jax.config.policy_loss import PolicyLossConfig
from rft_jax.config.rollout import RolloutConfig
from rft_jax.config.update_parts import UpdateParts

DEMONSTRATION_GAPS = ("{{ prompt }}", "{{ demonstration }}")  # of `SelfDistillStage.demonstration`


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
    # A file of such items, none of which is trained on, for the loss on them; empty: none.
    valid: str = ""
    eval_interval: int = 100  # steps between evaluations on it; 0: never

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
        count, group = self.policy_loss.gradient_accumulation, self.rollout.group_size
        return UpdateParts("policy_loss.gradient_accumulation", count, group)


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
