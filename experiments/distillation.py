"""Distillation on the quickstart's patients: from a larger model, and from demonstrations.

    python experiments/distillation.py --workdir runs/distillation

The quickstart's base models are pre-trained once a seed, shorter than there, and the larger one is
reinforced. Then the small base learns, with equally many steps and completions,

    from the larger     on its answers (SFT), or on its own samples, as the larger reads them
    from demonstrations on right answers (SFT), or on its own samples, as it reads them itself when
                        it is shown the right answer (SDFT)

and all are compared on genes with and without a training case. SDFT needs a model that can make use
of an answer in its prompt, which one from scratch must have learned: every third pre-training item
has the answer's first gene behind the patient. Eight minutes a seed on one core of a CPU. Writes
distillation.md and .json into the work directory; `--seeds 0` does one of them, and stopped, the
same command goes on.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_jax import data, quickstart
from rft_jax.config import (
    Config,
    DataConfig,
    DistillStage,
    EvalStage,
    OptimizerConfig,
    SelfDistillStage,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.evaluation.sample import SampleOptions, sample_items
from rft_jax.tasks.rare_disease.prompts import answer
from rft_jax.tasks.rare_disease.simulated import SimulatedData
from rft_jax.training import train
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject

SEEDS = (0, 1, 2)
PRETRAINING, REINFORCEMENT, STEPS = 350, 50, 60
PROMPTS, SAMPLES = 16, 4  # of a step
TEACHER = f"larger_rft/checkpoints/{REINFORCEMENT}"
SHOWN = "{{ prompt }}\nright answer: {{ demonstration }}"
PAIRS = {"distilled": "sft_on_larger", "sdft": "sft_on_answers"}
# The quickstart's: of reinforcement, and of the small model's right answers.
RATE = OptimizerConfig(learning_rate=5e-4, warmup_steps=5)
SFT_RATE = OptimizerConfig(learning_rate=1e-3, warmup_steps=5, schedule="cosine")


def write_files(seed: int, directory: Path) -> DataConfig:
    """The quickstart's files, with a gene to be put first in every third pre-training item."""
    files = SimulatedData(data_seed=seed).materialize(directory)
    items = data.load_supervised_items(files.supervised)
    mixed = [_shown(item) if n % 3 == 0 else item for n, item in enumerate(items)]
    return dataclasses.replace(files, supervised=_write(directory / "mixed.jsonl", mixed))


def _shown(item: JsonObject) -> JsonObject:
    """The item with its own first gene as the right answer in the prompt."""
    genes = json.loads(item["messages"][-1]["content"])["genes"]
    right = {"role": "assistant", "content": answer("", genes[:1])}
    (shown,) = data.with_demonstrations([{"messages": [*item["messages"][:-1], right]}], SHOWN)
    return {"messages": [*shown["messages"], item["messages"][-1]]}


def _write(path: Path, items: Sequence[JsonObject]) -> str:
    write_atomically(path, "".join(f"{json.dumps(item)}\n" for item in items))
    return str(path)


def base_config(seed: int, files: DataConfig) -> Config:
    """Pre-trains both models and reinforces the larger one."""
    config = quickstart.get_config(seed)
    stages = {stage.name: stage for stage in config.stages}
    small, larger, rft = (stages[name] for name in ("small_base", "larger_base", "small_rft"))
    rft = dataclasses.replace(
        rft, name="larger_rft", model="larger", init="larger_base", steps=REINFORCEMENT
    )
    return dataclasses.replace(
        config,
        data=files,
        stages=(
            dataclasses.replace(small, steps=PRETRAINING),
            dataclasses.replace(larger, steps=PRETRAINING),
            dataclasses.replace(rft, eval_interval=0, checkpoint_interval=REINFORCEMENT),
        ),
    )


def larger_answers(base: Path, files: DataConfig) -> str:
    """The larger model's answers to the training prompts, as items to tune on."""
    path = base / "larger_answers.jsonl"
    if path.exists():
        return str(path)
    items = data.load_items(files.train)
    options = SampleOptions(samples=SAMPLES, seed=1)
    rows = []
    for sample in sample_items(base / TEACHER, items, options, files.train):
        if sample["stop_reason"] == "stop":
            message = {"role": "assistant", "content": sample["text"]}
            message |= {"reasoning_content": sample["thought"]}
            rows.append({"messages": [*items[sample["item"] - 1]["messages"], message]})
    return _write(path, rows)


def student_config(seed: int, base: Path, files: DataConfig, answers: str) -> Config:
    """The small base four times, from the work directory of the bases, and the comparison."""
    config = quickstart.get_config(seed)
    common = {"model": "small", "init": f"{base}/small_base", "steps": STEPS, "optimizer": RATE}
    sampled = common | {
        "batch_size": PROMPTS,
        "rollout": dataclasses.replace(quickstart.ROLLOUT, group_size=SAMPLES),
        "eval_interval": 0,
    }
    packed = common | {
        "batch_size": PROMPTS * SAMPLES,
        "max_row_tokens": 128,
        "optimizer": SFT_RATE,
    }
    seen = str(Path(files.valid).with_name("seen.jsonl"))
    models = (f"{base}/small_base", f"{base}/{TEACHER}", *(m for p in PAIRS.items() for m in p))
    return dataclasses.replace(
        config,
        # What the stages call answers are the larger's, and the right ones are demonstrations.
        data=dataclasses.replace(files, answers=answers, supervised=files.answers),
        tokenizer=TokenizerConfig(path=f"{base}/tokenizer.model"),
        stages=(
            DistillStage(name="distilled", teacher=f"{base}/{TEACHER}", **sampled),
            SFTStage(name="sft_on_larger", data="answers", **packed),
            SelfDistillStage(
                name="sdft",
                data="supervised",
                demonstration=SHOWN,
                max_teacher_prompt_tokens=64,
                **sampled,
            ),
            SFTStage(name="sft_on_answers", data="supervised", **packed),
            EvalStage(name="genes_unseen", models=models, samples=2),
            EvalStage(name="genes_seen", models=models, data=seen, samples=2),
        ),
    )


def run_seed(seed: int, workdir: Path) -> JsonObject:
    """What is missing of a seed's two runs; the comparisons."""
    base = workdir / f"base_{seed}"
    files = write_files(seed, workdir / f"data_{seed}")
    train(base_config(seed, files), base)
    run = workdir / f"students_{seed}"
    train(student_config(seed, base, files, larger_answers(base, files)), run)
    return json.loads((run / "results.json").read_text())["evaluations"]


def lines_of(found: dict[int, dict[str, Any]]) -> list[str]:
    """Tables of the right gene first, in %, and of what the pairs differ by, in points."""
    lines = []
    for name in next(iter(found.values())):
        lines += ["", f"{name}, right gene first in %, seeds {', '.join(map(str, found))}:", ""]
        lines += ["| model | top@1 | reward | malformed |", "| --- | --- | --- | --- |"]
        for model in next(iter(found.values()))[name]["models"]:
            rows = [evaluations[name]["models"][model] for evaluations in found.values()]
            cells = [
                " / ".join(f"{scale * row[key]:.{digits}f}" for row in rows)
                for key, scale, digits in (
                    ("top1", 100, 1),
                    ("reward_mean", 1, 3),
                    ("malformed_rate", 100, 1),
                )
            ]
            lines.append(f"| {_short(model)} | {' | '.join(cells)} |")
        lines += ["", "| minus | " + " | ".join(f"seed {seed}" for seed in found) + " |"]
        lines += ["| --- |" + " --- |" * len(found)]
        for model, other in PAIRS.items():
            cells = [_difference(found[seed][name]["paired"], model, other) for seed in found]
            lines.append(f"| {model} minus {other} | {' | '.join(cells)} |")
    return lines


def _short(model: str) -> str:
    return model.split("/checkpoints")[0].rpartition("/")[2]


def _difference(pairs: Sequence[JsonObject], model: str, other: str) -> str:
    """How much more often the first model puts the right gene first, in points."""
    for pair in pairs:
        if pair["metric"] == "top1" and {pair["a"], pair["b"]} == {model, other}:
            ends = [100 * pair[end] for end in ("difference", "low", "high")]
            if pair["a"] == other:
                ends = [-ends[0], -ends[2], -ends[1]]
            return f"{ends[0]:+.1f} [{ends[1]:+.1f}, {ends[2]:+.1f}]"
    raise ValueError(f"{model} and {other} were not compared")


def main() -> None:
    """Runs what is missing, then writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    found = {seed: run_seed(seed, options.workdir) for seed in options.seeds}
    text = "\n".join(lines_of(found)) + "\n"
    (options.workdir / "distillation.md").write_text(text)
    print(text, end="")
    values = [
        {"seed": seed, "evaluation": name, "model": _short(model)}
        | {key: round(row[key], 4) for key in ("top1", "reward_mean", "malformed_rate")}
        for seed, evaluations in found.items()
        for name, evaluation in evaluations.items()
        for model, row in evaluation["models"].items()
    ]
    (options.workdir / "distillation.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
