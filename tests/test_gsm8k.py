"""`experiments/gsm8k.py` from data set to evaluation, with questions and a model of the test's."""

import json
from pathlib import Path

import pytest

from rft_jax.commands import entry
from rft_jax.config.load import load_config
from rft_jax.graders import build_grader, grade_texts

from .small_checkpoint import write_small

tfds = pytest.importorskip("tensorflow_datasets")

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "gsm8k.py")
TAGGED = "2 and 2</reasoning>\n<answer>\\boxed{4}</answer>"


class SmallGsm8k(tfds.core.GeneratorBasedBuilder):
    """Sums, with the features that the two files read of TFDS' `gsm8k`."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"question": text, "answer": text})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(10)}

    def _generate_examples(self, first):
        for a in range(first, first + 10):
            answer = f"{a} and 3 are <<{a}+3={a + 3}>>{a + 3}.\n#### {a + 3}"
            yield a, {"question": f"What is {a} + 3?", "answer": answer}


@pytest.mark.parametrize(
    ("variant", "answer", "reward"),
    [
        ("qwen2.5-0.5b-instruct", "2 and 2 are 4\n#### 4", 1),
        ("qwen2.5-0.5b-instruct", "2 and 2 are 4", 0),
        ("qwen2.5-0.5b-instruct", "#### 5", 0),
        ("qwen3-1.7b", TAGGED, 1),
        ("qwen3-1.7b", "so \\boxed{4}", 0.5),
        ("qwen3-1.7b", TAGGED.replace("4", "5"), 0.1),
        ("qwen3-1.7b", "4", 0),
    ],
)
def test_what_is_paid(variant, answer, reward):
    grader = build_grader(load_config(f"{EXPERIMENT}:{variant}", {}).grader)
    found = grade_texts(grader, [answer], [{"reference": "4"}])
    assert found.reward[0] == pytest.approx(reward)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["qwen2.5-0.5b-instruct", "qwen3-1.7b"])
def test_it_runs_end_to_end(variant, tmp_path, capsys):
    settings = {
        "data.train": "tfds:small_gsm8k:train",
        "data.valid": "tfds:small_gsm8k:test",
        "data.tfds.data_dir": tmp_path / "tfds",
        "models.policy.source": write_small(tmp_path / "source"),
        "tensorboard": False,
        "mesh.data": -1,
        "mesh.fsdp": 1,
        "stages.rft.steps": 2,
        "stages.rft.batch_size": 8,
        "stages.rft.eval_interval": 2,
        "stages.rft.optimizer.warmup_steps": 1,
        "stages.rft.policy_loss.gradient_accumulation": 1,
        "stages.rft.rollout.max_prompt_tokens": 512,
        "stages.rft.rollout.max_completion_tokens": 16,
        "stages.rft.rollout.group_size": 2,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    workdir = tmp_path / "run"
    command = ["train", "--config", f"{EXPERIMENT}:{variant}", "--workdir", str(workdir)]
    assert entry.main([*command, *flags]) == 0
    rows = [json.loads(line) for line in (workdir / "data/train.jsonl").read_text().splitlines()]
    assert {row["reference"] for row in rows} == {str(a + 3) for a in range(10)}
    assert all(row["question"] in row["messages"][0]["content"] for row in rows)
    metrics = (workdir / "rft/metrics.jsonl").read_text().splitlines()
    last = json.loads(metrics[-1])
    assert last["step"] == 2 and 0 <= last["valid_reward_mean"] <= 1
    capsys.readouterr()
    assert entry.main(["eval", "--workdir", str(workdir)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["items"] == 10
