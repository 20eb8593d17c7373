"""Rare disease with the evidence in the prompt: does an open model rank candidates better?

    python experiments/evidence.py --archive all_phenopackets.zip --model qwen3-0.6b \
        --workdir runs/evidence

Each case comes with ten candidate genes, dealt at random under letters, and with the findings that
point to each; the annotations that they come from do not have the case's own publication. The list
of genes is open, and absent findings are left out. Needs `pip install -e '.[rare-disease]'` and an
accelerator; the models are those of open_models.py. It was run on made-up cases only.

First the base model is held against chance: where it does not put the right gene first at least
twice as often as letters at random do, there is nothing to reinforce, and the script stops. Then it
is tuned on right answers and reinforced. What has to be beaten is not the base but the ranker's own
order, from which the candidates come; `copies_ranker` is the fraction of answers that begin with
the ranker's first.

Writes evidence.md into the work directory. Stopped, the same command goes on.
"""

import argparse
import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft_jax.config import (
    Config,
    DataConfig,
    EvalStage,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
)
from rft_jax.tasks.rare_disease import evidence
from rft_jax.tasks.rare_disease.evidence_data import EvidenceData
from rft_jax.training import train
from rft_jax.utils.errors import InputError

BASELINES = ("chance", "ranker", "fusion", "logit")
HELD_OUT = {"genes_unseen": "valid", "genes_seen": "seen"}
LEAST_TIMES_CHANCE = 2.0
COLUMNS = {
    "top1": "top@1",
    "top5": "top@5",
    "top_max": "top@max",
    "scores/copies_ranker": "begin with the ranker's first",
    "malformed_rate": "malformed",
}


def main() -> None:
    """Asks whether the base knows more than chance; then trains it and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archive", required=True, help="a release of phenopacket-store")
    parser.add_argument("--model", default="qwen3-0.6b", help="of open_models.py")
    parser.add_argument("--workdir", type=Path, required=True)
    options = parser.parse_args()
    models = _open_models()
    if options.model not in models:
        raise SystemExit(f"--model: expected one of {', '.join(models)}, got {options.model}")
    try:
        run(
            EvidenceData(archive=options.archive),
            models[options.model].model,
            models[options.model].mesh,
            options.workdir,
        )
    except InputError as error:
        raise SystemExit(str(error)) from None


def run(data: DataConfig, model: ModelConfig, mesh: MeshConfig, workdir: Path) -> None:
    """The gate, the run and the table.

    Raises:
        InputError: The base is not ahead of chance, or the data cannot be had.
    """
    config = get_config(data, model, mesh)
    train(gate(config), workdir / "gate")
    check_gate(_evaluations(workdir / "gate")["gate"]["models"])
    train(config, workdir / "run")
    text = "\n".join(lines_of(_evaluations(workdir / "run"))) + "\n"
    (workdir / "evidence.md").write_text(text)
    print(text, end="")


def get_config(data: DataConfig, model: ModelConfig, mesh: MeshConfig) -> Config:
    """Right answers, reinforcement, and the comparison with everything else."""
    rate = 1e-5 if model.lora is None else 1e-4
    sft = SFTStage(
        name="sft",
        data="answers",
        steps=40,
        batch_size=16,
        max_row_tokens=1024,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=4, schedule="cosine"),
        gradient_accumulation=4,
        logit_chunk=64,
    )
    rft = RLStage(
        name="rft",
        init="sft",
        steps=100,
        batch_size=16,
        rollout=RolloutConfig(
            group_size=8,
            max_prompt_tokens=1024,
            max_completion_tokens=512,
            output_bytes=2048,
            reasoning_effort=256,
        ),
        policy_loss=PolicyLossConfig(gradient_accumulation=4, logit_chunk=32),
        optimizer=OptimizerConfig(warmup_steps=5),
        eval_interval=20,
    )
    comparisons = (
        EvalStage(
            name=name,
            models=(model.source, "sft", "rft"),
            data=file,
            baselines=BASELINES,
            samples=4,
            cluster_by="cluster",
        )
        for name, file in HELD_OUT.items()
    )
    return Config(
        name="evidence",
        data=data,
        grader=evidence.grader(),
        audit_grader=evidence.official_grader(),
        models=(model,),
        mesh=mesh,
        stages=(sft, rft, *comparisons),
    )


def gate(config: Config) -> Config:
    """The same data, and the base beside the baselines.

    A run is sampled as its reinforcement stage says, so that there is one, of a single step at a
    rate that changes nothing.
    """
    (rft,) = config.rl_stages
    still = OptimizerConfig(learning_rate=1e-12)
    base = dataclasses.replace(rft, name="base", init="", steps=1, optimizer=still, eval_interval=0)
    compared = EvalStage(
        name="gate", models=("base",), data="valid", baselines=BASELINES, samples=4
    )
    return dataclasses.replace(config, audit_grader="", stages=(base, compared))


def check_gate(models: Mapping[str, Mapping[str, float]]) -> None:
    """Refuses to go on with a base that does not know more than chance.

    Args:
        models: Those of `results.json`: by name what each earns.

    Raises:
        InputError: With both figures.
    """
    base, chance = (100 * models[name]["top1"] for name in ("base", "chance"))
    if base < LEAST_TIMES_CHANCE * chance:
        raise InputError(
            f"the base puts the right gene first in {base:.1f} % and chance in {chance:.1f} %: "
            f"less than {LEAST_TIMES_CHANCE:g} times as often, so there is nothing to reinforce; "
            "take a larger model"
        )


def lines_of(evaluations: Mapping[str, Any]) -> list[str]:
    """The tables of a run's `results.json`, one a kind of genes."""
    lines: list[str] = []
    for name, found in evaluations.items():
        lines += ["", f"{name}, {found['cases']} cases, open list, present findings, in %:", ""]
        lines += [_row("", *COLUMNS.values(), "rft minus it, top@1")]
        lines += [_row(*["---"] * (len(COLUMNS) + 2))]
        for model, row in found["models"].items():
            rates = [f"{100 * row[column]:.1f}" for column in COLUMNS]
            name = "base" if "/" in model else model
            lines.append(_row(name, *rates, _ahead(found["paired"], model)))
    return lines[1:]


def _ahead(paired: Sequence[Mapping[str, Any]], other: str) -> str:
    for pair in paired:
        if pair["metric"] == "top1" and {pair["a"], pair["b"]} == {"rft", other}:
            ends = [100 * pair[end] for end in ("difference", "low", "high")]
            if pair["b"] == "rft":
                ends = [-ends[0], -ends[2], -ends[1]]
            return f"{ends[0]:+.1f} [{ends[1]:+.1f}, {ends[2]:+.1f}]"
    return ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _evaluations(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())["evaluations"]


def _open_models() -> dict[str, Any]:
    """The models of the experiment beside this one, with their meshes."""
    path = Path(__file__).with_name("open_models.py")
    spec = importlib.util.spec_from_file_location("open_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MODELS


if __name__ == "__main__":
    main()
