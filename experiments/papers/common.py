"""What the reproductions share: base models, arms of training, and how they are compared.

An arm is a way to train the base model, and is trained once for all files that need it. What is
compared is the mean of three seeds, which draw weights, order and samples. Where items are
evaluated (the same for both arms, 16 samples each) the 95 % interval is a bootstrap over the items,
with the seeds' differences of an item drawn together; of training curves it is Student's over
the three seeds. `countdown` has the task.
"""

import argparse
import dataclasses
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.papers.countdown import GRADER, VALID, data_config, write_data
from rft_jax.config import (
    Config,
    EvalStage,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    PolicyLossSettings,
    RLStage,
    RolloutConfig,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.evaluation.bootstrap import Column, paired_differences
from rft_jax.report import CASES_FILE
from rft_jax.runs.export import export_model
from rft_jax.training import train
from rft_jax.utils.metrics_file import read_metrics

SEEDS = (0, 1, 2)
STUDENT = 4.303  # the 97.5th percentile of Student's distribution with two degrees of freedom
SAME = 0.05  # rewards that are closer than this are called the same
LAST = 10  # steps over which the end of a training curve is averaged

BASE_STEPS, RL_STEPS = 800, 60
STEPS = range(LAST, RL_STEPS + 1)  # at which the curves of figures have a point
# Supervised learning goes on from stage to stage, after each of which it is evaluated.
SFT_STEPS = {"sft_25": 25, "sft_50": 25, "sft_100": 50, "sft_200": 100}
RATE, LORA_RATE = 5e-4, 5e-3  # adapters want ten times the rate (LoRA without regret)


@dataclass(frozen=True)
class Arm:
    """A way to train the base model.

    Attributes:
        policy_loss: The loss of reinforcement.
        max_resample_batches: As in `RLStage`.
        lora: Adapters instead of all weights.
        supervised: Tune the base model on right answers as well, for a comparison.
        int8_weights: Sample with weights of eight bits, unlike those that are trained.
    """

    policy_loss: PolicyLossConfig
    max_resample_batches: int = 1
    lora: LoraConfig | None = None
    supervised: bool = False
    int8_weights: bool = False

    @property
    def keeps_its_skill(self) -> bool:
        """Whether all its models are evaluated, also on what the base model has learned besides."""
        return self.supervised and self.lora is None


def uncorrected(old: Array, sampler: Array, mask: Array, config: PolicyLossSettings) -> Array:
    """Weights of 1: `none`, which itself is refused where the sampler is not the learner."""
    del sampler, mask, config
    return jnp.ones_like(old)


# As published (2402.03300), but without a KL term, which none of the other papers has either.
GRPO = PolicyLossConfig(algorithm="grpo", aggregation="sequence_mean", clip_high=0.2)
TWICE = dataclasses.replace(GRPO, epochs_per_batch=2)
RANK_1 = LoraConfig(rank=1, base_dtype="float32")

ARMS: Mapping[str, Arm] = {
    "grpo": Arm(GRPO, supervised=True),
    "grpo_without_std": Arm(dataclasses.replace(GRPO, scale_rewards="none")),
    "dr_grpo": Arm(PolicyLossConfig(algorithm="dr_grpo", clip_high=0.2)),
    "dynamic_sampling": Arm(GRPO, max_resample_batches=4),
    "maxrl": Arm(dataclasses.replace(GRPO, scale_rewards="mean")),
    "max_at_4": Arm(
        dataclasses.replace(GRPO, advantage="max_at_k", best_of=4, scale_rewards="none")
    ),
    "grpo_twice": Arm(TWICE),
    "clip_higher_twice": Arm(dataclasses.replace(TWICE, clip_high=0.28)),
    "gspo_twice": Arm(PolicyLossConfig(algorithm="gspo", epochs_per_batch=2)),
    "cispo_twice": Arm(dataclasses.replace(TWICE, loss="cispo", clip_high=None)),
    "lora": Arm(GRPO, lora=RANK_1, supervised=True),
    "int8_uncorrected": Arm(dataclasses.replace(GRPO, importance=uncorrected), int8_weights=True),
    "int8_tis": Arm(dataclasses.replace(GRPO, importance="tis"), int8_weights=True),
    "int8_centered": Arm(
        dataclasses.replace(GRPO, importance="none", score_centering=True), int8_weights=True
    ),
}


def base_config(workdir: Path, seed: int) -> Config:
    """Imitates the trainee, from random weights."""
    stage = SFTStage(
        name="sft",
        steps=BASE_STEPS,
        batch_size=32,
        max_row_tokens=128,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-2, warmup_steps=20, schedule="cosine"
        ),
        log_interval=50,
    )
    return Config(
        name="base",
        seed=seed,
        data=data_config(workdir / "data"),
        grader=GRADER,
        tokenizer=TokenizerConfig(vocab_size=392),
        models=(
            ModelConfig(
                num_layers=2,
                hidden_size=64,
                num_heads=4,
                num_kv_heads=2,
                head_dim=16,
                intermediate_size=128,
            ),
        ),
        stages=(stage,),
        tensorboard=False,
    )


def arm_config(workdir: Path, arm: Arm, seed: int) -> Config:
    """Trains the base model of that seed, and evaluates what came of it."""
    base, folder = base_config(workdir, seed), base_dir(workdir, seed)
    init, rate = f"{folder}/sft", RATE
    models, tokenizer = base.models, TokenizerConfig(path=f"{folder}/tokenizer.model")
    if arm.lora is not None:
        init, rate, tokenizer = "", LORA_RATE, TokenizerConfig()
        models = (ModelConfig(source=str(exported_dir(workdir, seed)), lora=arm.lora),)
    stages = [
        RLStage(
            name="rft",
            init=init,
            steps=RL_STEPS,
            batch_size=16,
            max_resample_batches=arm.max_resample_batches,
            rollout=RolloutConfig(
                group_size=8,
                max_prompt_tokens=24,
                max_completion_tokens=60,
                output_bytes=96,
                reasoning_effort=48,
                int8_weights=arm.int8_weights,
            ),
            policy_loss=arm.policy_loss,
            optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=5),
            eval_interval=0,
            checkpoint_interval=RL_STEPS,
            samples_interval=5,
        )
    ]
    if arm.supervised:
        stages += _supervised(init, rate)
    names = [stage.name for stage in stages]
    keeps = arm.keeps_its_skill
    compared = (init, *names) if keeps else tuple(dict.fromkeys((names[0], names[-1])))
    stages.append(EvalStage(name="countdown", models=compared, samples=16, cases=VALID))
    if keeps:
        sort = str(workdir / "data/sort.jsonl")
        stages.append(EvalStage(name="sort", models=compared, data=sort, samples=4, cases=VALID))
    return dataclasses.replace(
        base, name="arm", tokenizer=tokenizer, models=models, stages=tuple(stages)
    )


def _supervised(init: str, rate: float) -> list[SFTStage]:
    stages = []
    for name, steps in SFT_STEPS.items():
        stages.append(
            SFTStage(
                name=name,
                init=init,
                data="answers",
                steps=steps,
                batch_size=16,
                max_row_tokens=128,
                optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=5),
                log_interval=25,
            )
        )
        init = name
    return stages


def base_dir(workdir: Path, seed: int) -> Path:
    """The work directory of a base model."""
    return workdir / f"base_{seed}"


def exported_dir(workdir: Path, seed: int) -> Path:
    """The base model as a Hugging Face checkpoint, to which adapters can be added."""
    return workdir / f"base_{seed}_hf"


def train_arm(workdir: Path, name: str, seed: int) -> None:
    """Trains an arm, and before it the base model; what is done already is passed over."""
    arm, run = ARMS[name], workdir / f"{name}_{seed}"
    last = "sort" if arm.keeps_its_skill else "countdown"
    if (run / last / CASES_FILE).exists():
        return
    train_base(workdir, seed)
    exported = exported_dir(workdir, seed)
    if arm.lora is not None and not exported.exists():
        export_model(base_dir(workdir, seed) / "sft", exported)
    train(arm_config(workdir, arm, seed), run)


@functools.cache
def train_base(workdir: Path, seed: int) -> None:
    """Writes the data and trains the base model, unless both are there."""
    if not (workdir / "data").exists():
        write_data(workdir / "data")
    train(base_config(workdir, seed), base_dir(workdir, seed))


class Samples(NamedTuple):
    """What a model answered to M items, S samples of each."""

    reward_MS: np.ndarray
    length_MS: np.ndarray  # characters of the thought, each of which is about a token

    @property
    def reward(self) -> Column:
        """The mean reward by item."""
        return Column(self.reward_MS.mean(axis=1), np.ones(len(self.reward_MS)))


class Study(NamedTuple):
    """The trained arms."""

    workdir: Path

    def samples(self, arm: str, model: str = "rft", data: str = "countdown") -> list[Samples]:
        """What a model of an arm answered at the end, by seed; `base` is the model before."""
        return [self._samples(self.workdir / f"{arm}_{seed}", model, data) for seed in SEEDS]

    def _samples(self, run: Path, model: str, data: str) -> Samples:
        lines = (run / data / CASES_FILE).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        # The base model has the name of its stage in another run.
        rows = [r for r in rows if (model == "base" and "/" in r["model"]) or r["model"] == model]
        reward_MS = np.reshape([row["reward"] for row in rows], (VALID, -1))
        length_MS = np.reshape([len(row["thought"]) for row in rows], (VALID, -1))
        return Samples(reward_MS, length_MS)

    def curve(self, arm: str, metric: str, stage: str = "rft") -> np.ndarray:
        """A metric of training by seed and step."""
        runs = [self.workdir / f"{arm}_{seed}" / stage / "metrics.jsonl" for seed in SEEDS]
        return np.array([[row[metric] for row in read_metrics(run)] for run in runs])

    def wrong_lengths(self, arm: str) -> tuple[list[int], np.ndarray]:
        """Steps, and by seed and step the mean length of wrong samples' thoughts in training."""
        steps = [*range(5, RL_STEPS + 1, 5)]
        found = []
        for seed, step in itertools.product(SEEDS, steps):
            file = self.workdir / f"{arm}_{seed}/rft/samples/step_{step:06d}.jsonl"
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            found.append(np.mean([len(row["thought"]) for row in rows if row["reward"] < 1]))
        return steps, np.reshape(found, (len(SEEDS), -1))


class Difference(NamedTuple):
    """How much more of something one arm has than another.

    Attributes:
        what: What is compared, with its unit.
        expected: What the paper claims of it.
        seeds: The difference of each seed.
        mean: Their mean.
        low, high: Its 95 % interval.
    """

    what: str
    expected: Literal["more", "less", "same", ""]
    seeds: tuple[float, ...]
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the claim held; "" where there was none.

        More and less hold if the interval and all seeds are on that side of 0, and do not if the
        interval is on the other side; "same" holds if the interval is within `SAME` of 0.
        """
        low, high, seeds = self.low, self.high, self.seeds
        if self.expected == "":
            return ""
        if self.expected == "same":
            held, opposite = -SAME < low and high < SAME, low > SAME or high < -SAME
        else:
            if self.expected == "less":
                low, high, seeds = -high, -low, tuple(-value for value in seeds)
            held, opposite = low > 0 and min(seeds) > 0, high < 0
        return "held" if held else "did not hold" if opposite else "not decided here"

    def __str__(self) -> str:
        by_seed = " / ".join(f"{value:+.3f}" for value in self.seeds)
        said = f"; expected {self.expected}: {self.verdict}" if self.expected else ""
        interval = f"[{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.what}: {self.mean:+.3f} {interval} ({by_seed}){said}"


Expected = Literal["more", "less", "same", ""]


def of_items(what: str, expected: Expected, a: Sequence[Column], b: Sequence[Column]) -> Difference:
    """The difference a - b of means over items; a column of values by item for every seed."""
    pairs = [
        paired_differences({"": ours}, {"": theirs})[""]["difference"]
        for ours, theirs in zip(a, b, strict=True)
    ]
    item_M = np.tile(np.arange(len(a[0].total_M)), len(a))
    found = paired_differences({"": _joined(a)}, {"": _joined(b)}, cluster_M=item_M)[""]
    mean = float(np.mean(pairs))
    shift = mean - found["difference"]  # seeds count alike here, not by their samples
    return Difference(
        what, expected, tuple(pairs), mean, found["low"] + shift, found["high"] + shift
    )


def of_seeds(what: str, expected: Expected, a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference a - b of one value a seed."""
    pairs = np.asarray(a, float) - np.asarray(b, float)
    mean = float(pairs.mean())
    margin = STUDENT * float(pairs.std(ddof=1)) / len(pairs) ** 0.5
    return Difference(what, expected, tuple(pairs.tolist()), mean, mean - margin, mean + margin)


def _joined(columns: Sequence[Column]) -> Column:
    return Column(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def wrong_length(samples: Samples) -> Column:
    """The length of wrong samples' thoughts, by item."""
    wrong_MS = samples.reward_MS < 1
    return Column((samples.length_MS * wrong_MS).sum(axis=1), wrong_MS.sum(axis=1))


def smoothed(curve_RS: np.ndarray) -> np.ndarray:
    """The mean of each step and the `LAST` - 1 before it."""
    kernel = np.ones(LAST) / LAST
    return np.array([np.convolve(row, kernel, "valid") for row in curve_RS])


def draw(axes, steps: Sequence[int], curve_RS: np.ndarray, color: str, label: str) -> None:
    """The mean over the seeds as a line, each seed thinner."""
    axes.plot(steps, curve_RS.mean(axis=0), color, label=label)
    axes.plot(steps, curve_RS.T, color, linewidth=0.6, alpha=0.5)


def reward_figure(study: Study, arms: Mapping[str, str]) -> tuple[Any, Any]:
    """A figure with the arms' rewards by step on its left, and its right side, still empty."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    for index, (arm, label) in enumerate(arms.items()):
        reward = smoothed(study.curve(arm, "train_reward_mean"))
        draw(left, STEPS, reward, f"C{index}", label)
    left.set(xlabel="step", ylim=(0, 1))
    left.set_title("Reward, mean of ten steps", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    return figure, right


def run_paper(
    arms: Sequence[str],
    measure: Callable[[Study], list[Difference]],
    plot: Callable[[Study, Path], None],
) -> None:
    """The command of each file: trains what is missing, then writes numbers and figure.

    Args:
        arms: What the file compares.
        measure: The differences, from the trained arms.
        plot: Draws them into a file.
    """
    script = Path(inspect.getfile(measure))
    parser = argparse.ArgumentParser(description=inspect.getmodule(measure).__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", help="only train these, in another process")
    options = parser.parse_args()
    for seed, arm in itertools.product(options.seeds or SEEDS, arms):
        train_arm(options.workdir, arm, seed)
    if options.seeds:
        return
    study = Study(options.workdir)
    found = measure(study)
    rows = [d._asdict() | {"verdict": d.verdict} for d in found]
    results = options.workdir / "results"
    results.mkdir(exist_ok=True)
    (results / f"{script.stem}.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(study, results / f"{script.stem}.svg")
    for difference in found:
        print(difference, flush=True)
