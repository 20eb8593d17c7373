"""GSPO: a ratio for the whole sequence learns more than one a token, although it clips far more.

    python -m experiments.papers.gspo --workdir runs/papers

Group Sequence Policy Optimization (https://arxiv.org/abs/2507.18071): the ratio of new to old
policy is that of the whole answer, its length taken out, with clips of 3e-4 and 4e-4. GSPO is more
efficient than GRPO for the same samples, while two orders of magnitude more tokens are clipped.

Two arms with two updates a batch, all else equal.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    reward at the end, GSPO minus GRPO
        -0.008 [-0.038, +0.021] (-0.043 / -0.048 / +0.067); expected more: not decided here
    reward over all steps, GSPO minus GRPO
        -0.032 [-0.046, -0.018] (-0.038 / -0.032 / -0.027); expected more: did not hold
    fraction of tokens clipped, GSPO minus GRPO
        +0.415 [+0.379, +0.450] (+0.401 / +0.413 / +0.429); expected more: held
    fraction of tokens clipped, GRPO alone
        +0.002 [+0.001, +0.003] (+0.002 / +0.002 / +0.002)

GSPO clips far more and ends where GRPO does, but does not learn faster here: with two updates a
batch, at GRPO's learning rate, which was not searched, its reward in training is lower in every
seed.
"""

from pathlib import Path

from experiments.papers import common
from experiments.papers.common import Difference, Study, of_items, of_seeds

ARMS = {"grpo_twice": "GRPO", "gspo_twice": "GSPO"}


def clipped(study: Study, arm: str):
    """The fraction of tokens that the loss clips, by seed and step."""
    return sum(study.curve(arm, f"train_clip_fraction_{side}") for side in ("high", "low"))


def measure(study: Study) -> list[Difference]:
    """Reward at the end and in training, and what is clipped."""
    grpo, gspo = ([s.reward for s in study.samples(arm)] for arm in ARMS)
    training = [study.curve(arm, "train_reward_mean").mean(axis=1) for arm in ARMS]
    fractions = [clipped(study, arm).mean(axis=1) for arm in ARMS]
    return [
        of_items("reward at the end, GSPO minus GRPO", "more", gspo, grpo),
        of_seeds("reward over all steps, GSPO minus GRPO", "more", training[1], training[0]),
        of_seeds("fraction of tokens clipped, GSPO minus GRPO", "more", fractions[1], fractions[0]),
        of_seeds("fraction of tokens clipped, GRPO alone", "", fractions[0], [0, 0, 0]),
    ]


def plot(study: Study, path: Path) -> None:
    """Reward and clipped tokens over the steps."""
    figure, right = common.reward_figure(study, ARMS)
    for index, (arm, label) in enumerate(ARMS.items()):
        common.draw(right, common.STEPS, common.smoothed(clipped(study, arm)), f"C{index}", label)
    right.set(xlabel="step")
    right.set_yscale("symlog", linthresh=1e-4)
    right.set_title("Fraction of tokens clipped, mean of ten steps", loc="left", fontsize=10)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
