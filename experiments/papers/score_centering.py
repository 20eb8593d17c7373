"""Score centering: samples of eight-bit weights teach as exact ones, without importance weights.

    python -m experiments.papers.score_centering --workdir runs/papers

Score centering (https://arxiv.org/abs/2609.20807): where the sampler is not the learner, the score
has a mean that is not zero and drifts the policy, whatever is rewarded. Taking it out is to do what
truncated importance sampling does, or better.

Four arms with one update a batch: an exact sampler, and one with weights of eight bits, whose
samples are not corrected, are weighted (capped at 2), or are centered. The gap is the mean distance
of the log-probabilities of a token in sampler and learner.
"""

from pathlib import Path

import numpy as np

from experiments.papers import common
from experiments.papers.common import Difference, Study, of_items, of_seeds

ARMS = {
    "grpo": "exact sampler",
    "int8_uncorrected": "eight bits, not corrected",
    "int8_tis": "eight bits, truncated importance sampling",
    "int8_centered": "eight bits, score centering",
}
GAP = "train_sampler_learner_logprob_gap"


def measure(study: Study) -> list[Difference]:
    """The reward at the end, against the exact sampler and against centering."""
    reward = {arm: [s.reward for s in study.samples(arm)] for arm in ARMS}
    centered, exact = reward["int8_centered"], reward["grpo"]
    gap = study.curve("int8_uncorrected", GAP).mean(axis=1)
    none = np.zeros(len(common.SEEDS))
    return [
        of_items(
            "reward, centered minus not corrected", "more", centered, reward["int8_uncorrected"]
        ),
        of_items("reward, centered minus weighted", "", centered, reward["int8_tis"]),
        of_items("reward, centered minus exact", "same", centered, exact),
        of_items("reward, weighted minus exact", "", reward["int8_tis"], exact),
        of_items("reward, not corrected minus exact", "", reward["int8_uncorrected"], exact),
        of_seeds("gap of sampler and learner, nats a token", "", gap, none),
    ]


def plot(study: Study, path: Path) -> None:
    """Reward and gap over the steps."""
    figure, right = common.reward_figure(study, ARMS)
    for index, (arm, label) in enumerate(ARMS.items()):
        common.draw(right, common.STEPS, common.smoothed(study.curve(arm, GAP)), f"C{index}", label)
    right.set(xlabel="step")
    right.set_title("Gap, nats a token, mean of ten steps", loc="left", fontsize=10)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
