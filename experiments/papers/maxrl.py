"""MaxRL and max@k: more of the items that are rarely solved get solved in k tries.

    python -m experiments.papers.maxrl --workdir runs/papers

MaxRL (https://arxiv.org/abs/2602.02710) divides advantages by the mean reward of the group, so that
a success counts the more the rarer it is, and has a higher pass@k than GRPO. max@k
(https://arxiv.org/abs/2510.23393) rewards the best of k samples, here of 4 of the group's 8.

Three arms with one update a batch. pass@k is estimated from 16 samples of each item; rare are the
items that the base model solves in at most 2 of its 16.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    pass@16 of rare items, MaxRL minus GRPO
        +0.233 [+0.142, +0.322] (+0.267 / +0.182 / +0.250); expected more: held
    pass@16 of all items, MaxRL minus GRPO
        +0.122 [+0.084, +0.162] (+0.113 / +0.087 / +0.167); expected more: held
    pass@1 of rare items, MaxRL minus GRPO
        +0.039 [+0.009, +0.067] (+0.068 / +0.023 / +0.028)
    pass@1 of all items, MaxRL minus GRPO
        -0.047 [-0.074, -0.021] (-0.040 / -0.038 / -0.062)
    pass@16 of rare items, max@4 minus GRPO
        +0.278 [+0.186, +0.367] (+0.356 / +0.227 / +0.250); expected more: held
    pass@16 of all items, max@4 minus GRPO
        +0.140 [+0.100, +0.182] (+0.153 / +0.093 / +0.173); expected more: held
    pass@1 of rare items, max@4 minus GRPO
        +0.055 [+0.027, +0.080] (+0.085 / +0.044 / +0.035)
    pass@1 of all items, max@4 minus GRPO
        -0.076 [-0.108, -0.044] (-0.077 / -0.070 / -0.080)

Both held. They cost pass@1 of all items.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.papers import common
from experiments.papers.common import Difference, Samples, Study, of_items
from experiments.papers.countdown import VALID
from rft_jax.evaluation.bootstrap import Column
from rft_jax.evaluation.metrics import pass_at

ARMS = {"grpo": "GRPO", "maxrl": "MaxRL", "max_at_4": "max@4"}
RARE = 2  # successes of the base model in 16 samples, at most


def solved(samples: Samples, k: int) -> Column:
    """pass@k by item."""
    return pass_at(samples.reward_MS == 1, np.ones_like(samples.reward_MS, bool))[f"pass_at_{k}"]


def measure(study: Study) -> list[Difference]:
    """pass@k of all items and of the rare ones."""
    samples = {arm: study.samples(arm) for arm in ARMS}
    rare = [s.reward_MS.sum(axis=1) <= RARE for s in study.samples("grpo", "base")]

    def rates(arm: str, k: int, only_rare: bool) -> Sequence[Column]:
        columns = [solved(found, k) for found in samples[arm]]
        if not only_rare:
            return columns
        pairs = zip(columns, rare, strict=True)
        return [Column(c.total_M * chosen, c.weight_M * chosen) for c, chosen in pairs]

    differences = []
    for arm in ("maxrl", "max_at_4"):
        for k, only_rare, expected in (
            (16, True, "more"),
            (16, False, "more"),
            (1, True, ""),
            (1, False, ""),
        ):
            which = "rare items" if only_rare else "all items"
            what = f"pass@{k} of {which}, {ARMS[arm]} minus GRPO"
            pair = rates(arm, k, only_rare), rates("grpo", k, only_rare)
            differences.append(of_items(what, expected, *pair))
    return differences


def plot(study: Study, path: Path) -> None:
    """pass@k over k, of all items and of the rare ones."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained", sharey=True)
    rare = [s.reward_MS.sum(axis=1) <= RARE for s in study.samples("grpo", "base")]
    tries = 1, 2, 4, 8, 16
    for axes, only_rare in zip(panels, (False, True), strict=True):
        for index, arm in enumerate(("base", *ARMS)):
            samples = study.samples("grpo", "base") if arm == "base" else study.samples(arm)
            curve = [
                [solved(s, k).total_M[chosen if only_rare else slice(None)].mean() for k in tries]
                for s, chosen in zip(samples, rare, strict=True)
            ]
            color, label = ("gray", "before") if arm == "base" else (f"C{index - 1}", ARMS[arm])
            common.draw(axes, tries, np.array(curve), color, label)
        axes.set(xlabel="k", xscale="log", ylim=(0, 1))
        axes.set_xticks(tries, tries)
    count = np.mean([chosen.sum() for chosen in rare])
    panels[0].set_title(f"pass@k of all {VALID} items", loc="left", fontsize=10)
    panels[1].set_title(f"of the {count:.0f} rare ones", loc="left", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
