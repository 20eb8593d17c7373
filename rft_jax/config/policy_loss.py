"""Settings of the policy-gradient objective: as they are given, and as they are used.

`PolicyLossConfig` is what one writes: an algorithm by name, and what is to differ from it. In
`PolicyLossSettings` nothing is left open; `config.presets` makes the one of the other.
"""

from dataclasses import dataclass, field
from typing import Literal

from rft_jax.config.algorithms import (
    ADVANTAGES,
    IMPORTANCE_WEIGHTS,
    KL_ESTIMATORS,
    POLICY_LOSSES,
    Algorithm,
)

AlgorithmName = Literal[
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce_pp",
    "maxrl",
    "gdpo",
    "dppo",
    "sapo",
]
Scale = Literal["group", "batch", "mean", "none"]
RewardParts = Literal["formula", "separate"]
Aggregation = Literal["token_mean", "sequence_mean", "prompt_mean", "constant", "sequence_sum"]
OldLogprobs = Literal["learner", "sampler"]


@dataclass(frozen=True)
class PolicyLossConfig:
    """The policy-gradient objective; see `learn.advantages` and `learn.losses`.

    What is None is what the algorithm, or else the loss, says. Where a function is chosen,
    `module:name` of one's own may stand as well, or in an experiment file the function itself;
    `learn.losses` has an example.
    """

    # A preset: what the settings below are that are None (docs/algorithms.md has the table).
    algorithm: AlgorithmName = "grpo"
    # How much better a sample was than the others of its prompt: group_mean (GRPO), leave_one_out
    # (RLOO) or max_at_k; or a function of your own, as for loss, importance and kl_estimator.
    advantage: Algorithm | None = field(default=None, metadata={"algorithms": ADVANTAGES})
    # The k of max_at_k: a group is worth its best of so many samples; below group_size.
    best_of: int = 2
    # What is compared: the grader's score, or each part of a `multi`, whose advantages are summed.
    reward_parts: RewardParts | None = None
    # What advantages are divided by: the rewards' standard deviation in the group (GRPO) or in the
    # batch, the group's mean (MaxRL), nothing (Dr. GRPO).
    scale_rewards: Scale | None = None
    # Then: their mean and standard deviation over the batch's tokens become 0 and 1 (REINFORCE++).
    whiten_advantages: bool | None = None
    # Groups whose samples all earn the same are left out of the loss and its denominator.
    drop_uniform_groups: bool | None = None
    # ppo_clip, gspo, cispo, sapo, dppo_tv, dppo_kl or reinforce
    loss: Algorithm | None = field(default=None, metadata={"algorithms": POLICY_LOSSES})
    # Below and above a ratio of 1; of DPPO, the divergence. None: the loss's own.
    clip_low: float | None = None
    clip_high: float | None = None
    two_sided: bool | None = None  # CISPO: keep the ratio above 1 - clip_low as well
    dual_clip: float | None = None  # https://arxiv.org/abs/1912.09729 uses 3
    gate_positive: float = 1.0  # SAPO's temperature where the advantage is above 0
    gate_negative: float = 1.05  # and below
    aggregation: Aggregation | None = None
    # What the ratio compares the new policy with: the learner's own log-probabilities before the
    # first gradient step, or the sampler's.
    old_logprobs: OldLogprobs | None = None
    # Weights against a mismatch of sampler and learner: none, tis or icepop. auto: none while they
    # are the same weights and program or the ratio is to the sampler, else tis.
    importance: Algorithm = field(default="auto", metadata={"algorithms": IMPORTANCE_WEIGHTS})
    tis_cap: float = 2.0  # https://fengyao.notion.site/off-policy-rl
    icepop_low: float = 0.5  # https://arxiv.org/abs/2510.18855
    icepop_high: float = 2.0
    # Subtract the score that the sampler expects, so that a sampler unlike the learner (eight-bit
    # weights, async_rollout) makes no drift; the update runs the sampler's weights as well.
    score_centering: bool = False
    kl_coefficient: float | None = None  # to the policy that the stage started from
    # k1, k2 or k3: http://joschu.net/blog/kl-approx.html; k1_in_reward: REINFORCE++
    kl_estimator: Algorithm | None = field(default=None, metadata={"algorithms": KL_ESTIMATORS})
    # Times the ratio, so that its gradient is that of KL(new, reference) (DeepSeek-V3.2)
    unbiased_kl: bool = False
    float32_head: bool | None = None  # logits of sampler and learner are products in float32
    epochs_per_batch: int = 1  # per rollout batch
    # The update in so many parts, whose gradients are summed: less memory, same results. With more
    # parts than a device has prompts the samples of a prompt are split as well.
    gradient_accumulation: int = 1
    # Completions side by side in rows of max_completion_tokens, so many rows of each device at
    # once; 0: a row each, padded. For lengths that differ; with full rows it only costs.
    pack_rows: int = 0
    logit_chunk: int = 16  # positions of every completion whose logits exist at once


@dataclass(frozen=True)
class PolicyLossSettings(PolicyLossConfig):
    """The same with nothing left open; the defaults are GRPO's, on policy."""

    advantage: Algorithm = field(default="group_mean", metadata={"algorithms": ADVANTAGES})
    reward_parts: RewardParts = "formula"
    scale_rewards: Scale = "group"
    whiten_advantages: bool = False
    drop_uniform_groups: bool = False
    loss: Algorithm = field(default="ppo_clip", metadata={"algorithms": POLICY_LOSSES})
    clip_low: float = 0.2  # PPO; DAPO (https://arxiv.org/abs/2503.14476) for the pair
    clip_high: float = 0.28
    two_sided: bool = True
    aggregation: Aggregation = "token_mean"
    old_logprobs: OldLogprobs = "learner"
    importance: Algorithm = field(default="none", metadata={"algorithms": IMPORTANCE_WEIGHTS})
    kl_coefficient: float = 0.0
    kl_estimator: Algorithm = field(default="k3", metadata={"algorithms": KL_ESTIMATORS})
    float32_head: bool = False
