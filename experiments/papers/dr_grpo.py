"""Dr. GRPO: dividing by the answer's length and by the rewards' deviation lengthens wrong answers.

    python -m experiments.papers.dr_grpo --workdir runs/papers

Understanding R1-Zero-Like Training (https://arxiv.org/abs/2503.20783): GRPO divides a sample's loss
by its length, so that a long wrong answer is punished less for each token than a short one, and its
advantage by the standard deviation of its group's rewards. Dr. GRPO does neither.

Three arms with one update a batch: GRPO, GRPO without the deviation (what is left is the length),
and Dr. GRPO. Measured is the length of the thoughts of wrong answers to the same items.

Measured on 2026-11-29: mean over the three seeds [95 % interval] (seeds 0 / 1 / 2).

    characters of wrong answers' thoughts, GRPO minus Dr. GRPO
        +0.011 [-0.174, +0.177] (+0.040 / +0.161 / -0.168); expected more: not decided here
    characters of wrong answers' thoughts, what the deviation adds
        +0.053 [-0.028, +0.137] (+0.071 / +0.010 / +0.079); expected more: not decided here
    characters of wrong answers' thoughts, what the length adds
        -0.027 [-0.174, +0.113] (-0.029 / +0.111 / -0.163); expected more: not decided here
    characters of wrong answers' thoughts, GRPO minus the base model
        -4.831 [-5.097, -4.561] (-4.667 / -4.353 / -5.473)
    characters of wrong answers' thoughts, Dr. GRPO minus the base model
        -4.892 [-5.210, -4.571] (-4.684 / -4.499 / -5.494)
    reward, GRPO minus Dr. GRPO
        +0.025 [+0.010, +0.041] (+0.004 / +0.010 / +0.060)

Not decided: nearly all thoughts come to have one try, of about the same length in each arm. Their
rewards differ in favor of GRPO, at one learning rate that was not searched.
"""

from pathlib import Path

from experiments.papers import common
from experiments.papers.common import Difference, Study, of_items

ARMS = {"grpo": "GRPO", "grpo_without_std": "GRPO without deviation", "dr_grpo": "Dr. GRPO"}


def measure(study: Study) -> list[Difference]:
    """GRPO against Dr. GRPO, and what each of the two terms does of it."""
    samples = {arm: study.samples(arm) for arm in ARMS}
    length = {arm: [common.wrong_length(s) for s in found] for arm, found in samples.items()}
    reward = {arm: [s.reward for s in found] for arm, found in samples.items()}
    wrong = "characters of wrong answers' thoughts"
    base = [common.wrong_length(s) for s in study.samples("grpo", "base")]
    pairs = (
        (f"{wrong}, GRPO minus Dr. GRPO", "grpo", "dr_grpo"),
        (f"{wrong}, what the deviation adds", "grpo", "grpo_without_std"),
        (f"{wrong}, what the length adds", "grpo_without_std", "dr_grpo"),
    )
    return [
        *(of_items(what, "more", length[a], length[b]) for what, a, b in pairs),
        *(
            of_items(f"{wrong}, {ARMS[arm]} minus the base model", "", length[arm], base)
            for arm in ("grpo", "dr_grpo")
        ),
        of_items("reward, GRPO minus Dr. GRPO", "", reward["grpo"], reward["dr_grpo"]),
    ]


def plot(study: Study, path: Path) -> None:
    """Lengths of wrong answers and the reward, over the steps."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    for index, (arm, label) in enumerate(ARMS.items()):
        steps, length = study.wrong_lengths(arm)
        common.draw(left, steps, length, f"C{index}", label)
        reward = common.smoothed(study.curve(arm, "train_reward_mean"))
        common.draw(right, range(common.LAST, common.RL_STEPS + 1), reward, f"C{index}", label)
    left.set(xlabel="step", ylabel="characters")
    left.set_title("Thoughts of wrong answers in training", loc="left", fontsize=10)
    right.set(xlabel="step", ylim=(0, 1))
    right.set_title("Reward, mean of ten steps", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    common.run_paper(tuple(ARMS), measure, plot)
