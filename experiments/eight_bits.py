"""What sampling with weights of eight bits costs, and what makes it good: the quickstart's task.

    python -m experiments.eight_bits --workdir runs/few_examples

The quickstart's small base model, of three seeds, is reinforced as there, by an exact sampler and
by one whose weights have eight bits. The samples of the latter are not corrected, have truncated
importance weights, or are centered (score centering, https://arxiv.org/abs/2609.20807). All are
evaluated with exact weights on genes without a case. Writes eight_bits.json into the work
directory; base models of `few_examples.py` there are used again. Stopped, the same command goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from experiments.few_examples import BASE, RFT, SEEDS, base_config
from experiments.papers.common import uncorrected
from rft_jax import quickstart
from rft_jax.config import Config, EvalStage
from rft_jax.training import train

EVALUATION = "genes_unseen"
GAP = "train_sampler_learner_logprob_gap"
# Each arm's settings of `policy_loss`; all but the first sample with eight bits.
ARMS = {
    "exact": {},
    "not_corrected": {"importance": uncorrected},
    "weighted": {"importance": "tis"},
    "centered": {"importance": "none", "score_centering": True},
}


def arm_config(seed: int, arm: str, base: Path) -> Config:
    """Reinforces the base model in that work directory."""
    config = quickstart.get_config(seed)
    (rft,) = (stage for stage in config.training_stages if stage.name == RFT)
    rft = dataclasses.replace(
        rft,
        init=f"{base}/{BASE}",
        rollout=dataclasses.replace(rft.rollout, int8_weights=arm != "exact"),
        policy_loss=dataclasses.replace(rft.policy_loss, **ARMS[arm]),
    )
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, path=f"{base}/tokenizer.model"),
        stages=(rft, EvalStage(name=EVALUATION, models=(RFT,), samples=2)),
    )


def main() -> None:
    """Runs what is missing, then writes and prints a line a seed and arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    lines = []
    for seed in SEEDS:
        base = workdir / f"base_{seed}"
        train(base_config(seed), base)
        for arm in ARMS:
            run = workdir / f"{arm}_{seed}"
            train(arm_config(seed, arm, base), run)
            results = json.loads((run / "results.json").read_text())
            row = results["evaluations"][EVALUATION]["models"][RFT]
            metrics = [json.loads(line) for line in (run / RFT / "metrics.jsonl").open()]
            gap = float(np.mean([line[GAP] for line in metrics if GAP in line]))
            lines.append({"seed": seed, "arm": arm, "gap": round(gap, 5)})
            lines[-1] |= {name: round(row[name], 4) for name in ("reward_mean", "top1")}
            lines[-1] |= {"interval": [round(end, 4) for end in row["intervals"]["top1"]]}
            print(json.dumps(lines[-1]), flush=True)
    (workdir / "eight_bits.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
