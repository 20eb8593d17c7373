"""RL's Razor: reinforcement forgets less than supervised fine-tuning of equal reward.

    python -m experiments.papers.razor --workdir runs/papers

RL's Razor (https://arxiv.org/abs/2509.04259): of the policies that solve a new task, reinforcement
on its own samples finds one near the policy that it started from, and keeps more of what that one
could do than supervised fine-tuning that does the new task as well.

The base model has learned to sort five digits. Then it is trained on the Countdown alone: by GRPO,
and on a teacher's right answers, evaluated after 25, 50, 100 and 200 steps. GRPO is compared with
that stage of the same seed whose reward is nearest to its own.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    sorted right, reinforced minus SFT (sft_100, sft_50, sft_25)
        +0.033 [+0.011, +0.054] (+0.067 / +0.008 / +0.023); expected more: held
    reward, which should be equal
        +0.171 [+0.128, +0.215] (+0.182 / +0.161 / +0.171); expected same: did not hold
    sorted right, reinforced minus before
        -0.032 [-0.047, -0.018] (-0.065 / -0.017 / -0.013)
    sorted right, SFT minus before
        -0.064 [-0.083, -0.047] (-0.132 / -0.025 / -0.037)

GRPO kept more in every seed, but the claim is of equal rewards, and no supervised stage came near
to its own: right answers of a teacher who knows them made the base model worse.
"""

from pathlib import Path

import numpy as np

from experiments.papers import common
from experiments.papers.common import Difference, Samples, Study, of_items

ARMS = ("grpo",)
MODELS = ("base", *common.SFT_STEPS, "rft")


def nearest(study: Study) -> list[str]:
    """By seed, the supervised stage whose reward is nearest to that of reinforcement."""
    goal = [s.reward.mean for s in study.samples("grpo")]
    rewards = {name: [s.reward.mean for s in study.samples("grpo", name)] for name in MODELS[1:-1]}
    return [
        min(rewards, key=lambda name, seed=seed: abs(rewards[name][seed] - goal[seed]))
        for seed in range(len(common.SEEDS))
    ]


def chosen(study: Study, names: list[str], data: str) -> list[Samples]:
    """The samples of a stage for every seed."""
    return [study.samples("grpo", name, data)[seed] for seed, name in enumerate(names)]


def measure(study: Study) -> list[Difference]:
    """What is kept of sorting, and how equal the rewards are."""
    names = nearest(study)
    kept, reward = (
        (study.samples("grpo", "rft", data), chosen(study, names, data))
        for data in ("sort", "countdown")
    )
    base = [s.reward for s in study.samples("grpo", "base", "sort")]
    supervised = f"SFT ({', '.join(names)})"

    def of(what: str, expected: common.Expected, a: list[Samples], b: list[Samples]) -> Difference:
        return of_items(what, expected, [s.reward for s in a], [s.reward for s in b])

    return [
        of(f"sorted right, reinforced minus {supervised}", "more", *kept),
        of("reward, which should be equal", "same", *reward),
        of_items("sorted right, reinforced minus before", "", [s.reward for s in kept[0]], base),
        of_items("sorted right, SFT minus before", "", [s.reward for s in kept[1]], base),
    ]


def plot(study: Study, path: Path) -> None:
    """Sorting against the reward: the way of supervised learning, and where reinforcement ends."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    points = {
        name: np.array(
            [
                [s.reward.mean for s in study.samples("grpo", name, data)]
                for data in ("countdown", "sort")
            ]
        )
        for name in MODELS
    }
    for seed in range(len(common.SEEDS)):
        way = np.array([points[name][:, seed] for name in MODELS[:-1]])
        label = "right answers, 0 to 200 steps" if seed == 0 else None
        axes.plot(*way.T, "C1o-", markersize=4, linewidth=1, label=label)
    axes.plot(*points["base"], "o", color="gray", label="before")
    axes.plot(*points["rft"], "C0s", label="reinforced")
    axes.set(xlabel="reward on the Countdown", ylabel="sorted right", ylim=(None, 1.02))
    axes.set_title("What is kept; a point a seed", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(ARMS, measure, plot)
