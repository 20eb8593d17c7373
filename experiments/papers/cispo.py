"""CISPO: tokens whose gradient a clip would drop are of use, and training needs fewer steps.

    python -m experiments.papers.cispo --workdir runs/papers

MiniMax-M1 (https://arxiv.org/abs/2506.13585): PPO's clip drops the gradient of tokens whose
probability has moved, often rare ones at which a thought turns. CISPO clips the importance weight
instead, so that every token keeps a gradient, and reaches the same reward in fewer steps.

Two arms with two updates a batch that differ in the loss alone; CISPO's weight is at most 5, as in
ScaleRL (https://arxiv.org/abs/2510.13786). Had the clip of GRPO dropped few tokens, the two would
be nearly the same algorithm, so that fraction is given as well.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    reward at the end, CISPO minus GRPO
        +0.010 [-0.021, +0.040] (-0.004 / -0.056 / +0.090); expected more: not decided here
    reward over all steps, CISPO minus GRPO
        -0.024 [-0.059, +0.011] (-0.019 / -0.040 / -0.014); expected more: not decided here
    fraction of tokens whose gradient GRPO drops
        +0.002 [+0.001, +0.003] (+0.002 / +0.002 / +0.002)
    entropy in the last ten steps, CISPO minus GRPO
        +0.048 [+0.008, +0.087] (+0.030 / +0.061 / +0.052)

Not decided: GRPO's clip drops two tokens in a thousand here, so that there is little to gain from
them. CISPO keeps more entropy.
"""

from pathlib import Path

import numpy as np

from experiments.papers import common
from experiments.papers.common import Difference, Study, of_items, of_seeds
from experiments.papers.gspo import clipped

ARMS = {"grpo_twice": "GRPO", "cispo_twice": "CISPO"}


def measure(study: Study) -> list[Difference]:
    """Reward at the end and in training, and the tokens of which GRPO drops the gradient."""
    grpo, cispo = ([s.reward for s in study.samples(arm)] for arm in ARMS)
    training = [study.curve(arm, "train_reward_mean").mean(axis=1) for arm in ARMS]
    # Of the second update of each batch; the first clips nothing.
    dropped = clipped(study, "grpo_twice").mean(axis=1)
    entropy = [study.curve(arm, "train_entropy")[:, -common.LAST :].mean(axis=1) for arm in ARMS]
    none = np.zeros(len(common.SEEDS))
    return [
        of_items("reward at the end, CISPO minus GRPO", "more", cispo, grpo),
        of_seeds("reward over all steps, CISPO minus GRPO", "more", training[1], training[0]),
        of_seeds("fraction of tokens whose gradient GRPO drops", "", dropped, none),
        of_seeds("entropy in the last ten steps, CISPO minus GRPO", "", entropy[1], entropy[0]),
    ]


def plot(study: Study, path: Path) -> None:
    """Reward, and what GRPO drops, over the steps."""
    figure, right = common.reward_figure(study, ARMS)
    dropped = common.smoothed(clipped(study, "grpo_twice"))
    common.draw(right, common.STEPS, dropped, "C0", "GRPO")
    right.set(xlabel="step", ylim=(0, None))
    right.set_title("Fraction of tokens that GRPO drops", loc="left", fontsize=10)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
