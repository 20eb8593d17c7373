"""A work directory with a small model, and that model loaded, for tests of what answers."""

import dataclasses
import json
from pathlib import Path

import pytest

from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides, to_json
from rft_jax.serve.batcher import Batcher, Task
from rft_jax.serve.loaded import load_model
from rft_jax.training import train

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "jsonl.py")
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "models.policy.num_heads": "2",
    "models.policy.num_kv_heads": "1",
    "models.policy.head_dim": "16",
    "models.policy.intermediate_size": "32",
    "stages.sft.steps": "2",
    "stages.sft.batch_size": "8",
    "stages.sft.optimizer.warmup_steps": "0",
    "stages.rft.rollout.max_completion_tokens": "40",
    "stages.rft.rollout.effort_low": "6",
}
QUESTION = [{"role": "user", "content": "stolen camera, 1500 EUR, reported after 9 days"}]


@pytest.fixture(scope="session")
def small_stage(tmp_path_factory) -> Path:
    """The folder of a stage whose model has hardly learned, so that its samples differ."""
    return make_stage(tmp_path_factory.mktemp("served"))


def make_stage(workdir: Path, **changes) -> Path:
    """The same of a model with other settings."""
    config = apply_overrides(load_config(EXPERIMENT, {}), SMALL)
    (policy,) = config.models
    config = dataclasses.replace(config, models=(dataclasses.replace(policy, **changes),))
    train(dataclasses.replace(config, stages=config.stages[:1]), workdir)
    # The stage that says how it is sampled is known, but not trained.
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    return workdir / "sft"


@pytest.fixture(scope="module")
def batcher(small_stage) -> Batcher:
    """Slots for the model, fewer than the samples that tests ask for."""
    return Batcher(load_model(small_stage, {}), slots=4, steps=3)


def make_task(batcher: Batcher, number: int = 1, messages=QUESTION, **settings) -> Task:
    """A task of the model's defaults."""
    model = batcher.model
    given = {
        "samples": 1,
        "seed": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "limit": model.default_tokens,
        "thinking_tokens": model.efforts[""],
        "grammar_tokens": model.default_tokens,
    }
    return Task(number, tuple(model.tokenizer.encode_prompt(messages)), **(given | settings))


def answers(batcher: Batcher, *tasks: Task) -> dict[int, list[dict]]:
    """The samples of each task, with all of their text and tokens, and how they ended."""
    for task in tasks:
        batcher.add(task)
    found = {task.id: [{"text": "", "tokens": []} for _ in range(task.samples)] for task in tasks}
    while batcher.busy:
        for event in batcher.step():
            if "sample" in event:
                sample = found[event["id"]][event["sample"]]
                sample["text"] += event["text"]
                sample["tokens"] += event.get("tokens", [])
                sample["finish"] = event.get("finish")
    return found
