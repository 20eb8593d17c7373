"""LoRA without regret: adapters of rank 1 match full fine-tuning in reinforcement, not in SFT.

    python -m experiments.papers.lora --workdir runs/papers

Thinking Machines (https://thinkingmachines.ai/blog/lora): a reward is about one bit a sample, which
the smallest adapter can take in; the tokens of a supervised data set are more than it can hold once
the data are large for its rank. Adapters on all matrices want ten times the learning rate.

The base model of each seed is trained with all weights and with adapters of rank 1 on all matrices
(alpha 32), by GRPO and on the right answers to the same 2,000 items, at rates of 5e-4 and 5e-3.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    reward by reinforcement, rank 1 minus all weights
        -0.122 [-0.144, -0.100] (-0.137 / -0.121 / -0.109); expected same: did not hold
    reward over all its steps
        -0.062 [-0.109, -0.015] (-0.069 / -0.041 / -0.077)
    loss on right answers in the last 50 steps
        +0.008 [-0.000, +0.016] (+0.011 / +0.008 / +0.005); expected more: not decided here
    reward by right answers
        -0.005 [-0.017, +0.006] (-0.011 / +0.015 / -0.020); expected less: not decided here

The other way round, if anything: adapters of rank 1 keep up on right answers, and after 60 steps of
reinforcement they earn what the base model does. Neither rate was searched for them.
"""

from pathlib import Path

import numpy as np

from experiments.papers import common
from experiments.papers.common import Difference, Study, of_items, of_seeds

ARMS = {"grpo": "all weights", "lora": "rank 1"}
LAST_SFT = "sft_200"


def losses(study: Study, arm: str) -> np.ndarray:
    """The supervised loss by seed and step, through all stages."""
    return np.concatenate(
        [study.curve(arm, "train_loss", stage) for stage in common.SFT_STEPS], axis=1
    )


def measure(study: Study) -> list[Difference]:
    """Rewards by reinforcement and by supervised learning, and the loss of the latter."""
    full, lora = ([s.reward for s in study.samples(arm)] for arm in ARMS)
    training = [study.curve(arm, "train_reward_mean").mean(axis=1) for arm in ARMS]
    answers = [[s.reward for s in study.samples(arm, LAST_SFT)] for arm in ARMS]
    end = [losses(study, arm)[:, -5 * common.LAST :].mean(axis=1) for arm in ARMS]
    return [
        of_items("reward by reinforcement, rank 1 minus all weights", "same", lora, full),
        of_seeds("reward over all its steps", "", training[1], training[0]),
        of_seeds("loss on right answers in the last 50 steps", "more", end[1], end[0]),
        of_items("reward by right answers", "less", answers[1], answers[0]),
    ]


def plot(study: Study, path: Path) -> None:
    """Reward of reinforcement and loss of supervised learning, over the steps."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    for index, (arm, label) in enumerate(ARMS.items()):
        reward = common.smoothed(study.curve(arm, "train_reward_mean"))
        common.draw(left, range(common.LAST, common.RL_STEPS + 1), reward, f"C{index}", label)
        loss = common.smoothed(losses(study, arm))
        common.draw(right, range(common.LAST, common.LAST + loss.shape[1]), loss, f"C{index}", "")
    left.set(xlabel="step", ylim=(0, 1))
    left.set_title("Reinforcement: reward, mean of ten steps", loc="left", fontsize=10)
    right.set(xlabel="step")
    right.set_title("Right answers: loss, mean of ten steps", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
