"""One real server, by the `openai` client: a tiny job, and a SIGKILL that does not change it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from openai import APIConnectionError, OpenAI

from rft_jax import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
)
from rft_jax.config.overrides import to_json

pytestmark = pytest.mark.slow

KEY, BASE, STEPS = "sk-of-the-test", "team/tiny", 6
GRADER = {
    "type": "string_check", "name": "same", "operation": "ilike", "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}  # fmt: skip
TRAIN = """
import pathlib, sys
from rft_jax import train
from rft_jax.config.overrides import read_config
folder = pathlib.Path(sys.argv[1])
train(read_config(folder / "config.json"), folder / "run")
"""


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def items(first, count):
    return [
        {"messages": [{"role": "user", "content": f"number {n}"}], "answer": "a"}
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with two stages, each of one step."""
    folder = tmp_path_factory.mktemp("base")
    answered = [
        {"messages": [*item["messages"], {"role": "assistant", "content": "a"}]}
        for item in items(0, 8)
    ]
    (folder / "supervised.jsonl").write_bytes(jsonl(answered))
    (folder / "train.jsonl").write_bytes(jsonl(items(0, 8)))
    model = ModelConfig(
        num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=32
    )
    rollout = RolloutConfig(
        group_size=2, max_prompt_tokens=64, max_completion_tokens=16, output_bytes=64,
        reasoning_effort=4,
    )  # fmt: skip
    stages = (
        SFTStage(
            name="sft",
            init="",
            steps=1,
            batch_size=1,
            max_row_tokens=128,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
        RLStage(init="sft", steps=1, batch_size=4, rollout=rollout, eval_samples=1),
    )
    config = Config(
        data=DataConfig(
            train=str(folder / "train.jsonl"), supervised=str(folder / "supervised.jsonl")
        ),
        grader=GRADER, models=(model,), stages=stages, tensorboard=False,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    environment = os.environ | {"XLA_FLAGS": ""}  # one device, as the server's children have
    command = [sys.executable, "-c", TRAIN, str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return folder / "run"


class Server:
    """`rft serve` in a process."""

    def __init__(self, folder, workdir):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.command = [sys.executable, "-m", "rft_jax.commands", "serve", "--port", port]
        self.command += ["--dir", str(folder), "--model", f"{BASE}={workdir}"]
        self.client = OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, timeout=30
        )

    def start(self):
        environment = os.environ | {"RFT_API_KEY": KEY, "XLA_FLAGS": ""}
        self.process = subprocess.Popen(self.command, env=environment)
        self.until(self.answers)

    def answers(self):
        try:
            return self.client.models.list()
        except APIConnectionError:
            assert self.process.poll() is None
            return None

    def end(self, signum):
        self.process.send_signal(signum)
        return self.process.wait(40)

    def until(self, condition):
        end = time.monotonic() + 120
        while not (value := condition()):
            assert time.monotonic() < end
            time.sleep(0.1)
        return value

    def steps(self, job):
        events = list(self.client.fine_tuning.jobs.list_events(job, limit=100))
        return sorted(event.data["step"] for event in events if event.type == "metrics")


def test_a_job_through_a_kill(tmp_path, workdir):
    server = Server(tmp_path / "data", workdir)
    server.start()
    client = server.client
    train_file = client.files.create(file=("t.jsonl", jsonl(items(0, 8))), purpose="fine-tune")
    valid_file = client.files.create(file=("v.jsonl", jsonl(items(50, 4))), purpose="fine-tune")
    hyperparameters = {"batch_size": 4, "n_epochs": STEPS // 2, "eval_interval": 2}
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=train_file.id, validation_file=valid_file.id, seed=3,
        method={"type": "reinforcement",
                "reinforcement": {"grader": GRADER, "hyperparameters": hyperparameters}},
        integrations=[{"type": "wandb", "wandb": {"project": "claims"}}],
    )  # fmt: skip
    server.until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    server.end(signal.SIGKILL)
    server.start()

    def done():
        found = client.fine_tuning.jobs.retrieve(job.id)
        assert found.status not in ("failed", "cancelled"), found.error
        return found.status == "succeeded" and found

    found = server.until(done)
    assert server.steps(job.id) == list(range(STEPS + 1))
    if find_spec("wandb") is None:  # the job goes on without it, and says so
        told = client.fine_tuning.jobs.list_events(job.id, limit=100)
        assert any("Weights & Biases" in e.message and e.level == "warn" for e in told)
    assert found.fine_tuned_model in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(
        model=found.fine_tuned_model, messages=items(0, 1)[0]["messages"], temperature=0
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert server.end(signal.SIGTERM) == 0
