"""Work directories as a run leaves them."""

import json

import pytest


@pytest.fixture
def sample():
    """Makes a line of a samples file."""
    return _sample


def _sample(reward=0.5, **changes):
    return {
        "step": 10,
        "thought": "a thought",
        "answer": "an answer",
        "stop_reason": "stop",
        "reward": reward,
        "valid": True,
        "scores": {"exact": reward},
        "advantage": reward - 0.5,
        "errors": [],
        "prompt": [{"role": "user", "content": "a question"}],
        **changes,
    }


@pytest.fixture
def make_run(tmp_path):
    """Writes a work directory with two stages; `samples` by step, `rows` of the second stage."""

    def make(rows=(), samples=None, results=None, cases=None, name="a run", audit=None):
        stages = [
            {"class": "rft_jax.config.stages:SFTStage", "name": "sft", "steps": 40},
            {"class": "rft_jax.config.stages:RLStage", "name": "rft", "steps": 100},
        ]
        if cases is not None:
            stages.append({"class": "rft_jax.config.stages:EvalStage", "name": "unseen"})
            (tmp_path / "unseen").mkdir()
            text = "".join(json.dumps(case) + "\n" for case in cases)
            (tmp_path / "unseen" / "cases.jsonl").write_text(text)
        config = {"name": name, "seed": 3, "stages": stages}
        (tmp_path / "config.json").write_text(json.dumps(config))
        supervised = [
            {"stage": "sft", "step": k, "train_loss": 3.0 / k, "timing": {"full_iteration": 0.5}}
            for k in range(1, 41)
        ]
        for stage, lines in (("sft", supervised), ("rft", rows)):
            if lines:
                (tmp_path / stage).mkdir()
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (tmp_path / stage / "metrics.jsonl").write_text(text)
        folders = {"samples": samples or {}, "audit": audit or {}}
        for kind, step, found in [
            (k, s, f) for k, steps in folders.items() for s, f in steps.items()
        ]:
            folder = tmp_path / "rft" / kind
            folder.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row | {"step": step}, ensure_ascii=False) + "\n" for row in found]
            path = folder / f"step_{step:06d}.jsonl"
            path.write_bytes("".join(lines).encode("utf-8", "backslashreplace"))
        if results is not None:
            (tmp_path / "results.json").write_text(json.dumps(results))
        return tmp_path

    return make


@pytest.fixture
def rows():
    """Metrics of a reinforcement stage, validated every 20 steps, one loss not finite."""
    lines = []
    for k in range(101):
        row = {
            "stage": "rft",
            "step": k,
            "timing": {"full_iteration": 2.0, "tokens_per_s": 100.0 + k},
        }
        if k:
            row |= {
                "train_reward_mean": k / 250,
                "train_scores/exact": k / 250,
                "train_errors/other_error_mean": 0.0,
                "train_loss": None if k == 7 else 0.1,
                "train_surprise": k % 3 + 1,
            }
        if k % 20 == 0:
            row |= {"valid_reward_mean": 0.2 + k / 250, "valid_items": 50, "valid_samples": 4}
            row |= {"valid_reward_mean_low": 0.1 + k / 250, "valid_reward_mean_high": 0.7}
        lines.append(row)
    return lines


@pytest.fixture
def cases(sample):
    """Two models' answers to two items, as an evaluation stage writes them."""
    lines = [
        {**sample(reward), "model": model, "prompt": [{"role": "user", "content": question}]}
        for question in ("first", "second")
        for model, reward in (("base", 0.0), ("tuned", 1.0))
    ]
    return [
        {name: line[name] for name in line if name not in ("step", "advantage")} for line in lines
    ]


@pytest.fixture
def results():
    """A comparison, in the format of results.json."""
    keys = ("parameters", "top1", "top5", "top_max", "mrr", "malformed_rate", "mean_list_length")
    models = {
        "small_base": dict(zip(keys, (1_200_000, 0.1, 0.2, 0.3, 0.15, 0.05, 7.5), strict=True))
        | {"intervals": {"top1": [0.06, 0.14]}},
        "small_rft": dict(zip(keys, (1_200_000, 0.2, 0.3, 0.4, 0.25, 0.01, 8.5), strict=True)),
    }
    pair = {"a": "small_rft", "b": "small_base", "metric": "top1"}
    return {
        "seed": 3,
        "evaluations": {
            "genes_unseen": {
                "cases": 200,
                "models": models,
                "paired": [pair | {"difference": 0.1, "low": 0.04, "high": 0.16}],
            }
        },
    }
