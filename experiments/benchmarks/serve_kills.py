"""Kills `rft serve` at random moments of a job, and compares its weights with those of a job in
peace: bit for bit the same, no step told twice or missing.

    python experiments/benchmarks/serve_kills.py --workdir runs/claims --kills 20

`--workdir` is a run of the experiment `claims`, the base model of both jobs. Prints a JSON line.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from openai import APIConnectionError, OpenAI  # noqa: E402

from rft_jax.runs.reopen import open_model  # noqa: E402

CLAIMS = Path(__file__).parents[1] / "claims"
BASE, KEY = "claims/tiny", "sk-of-the-benchmark"
BATCH, VALID = 4, 8


class Server:
    """`rft serve` in a folder, which can be killed."""

    def __init__(self, folder: Path, workdir: Path):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.command = [sys.executable, "-m", "rft_jax.commands", "serve", "--dir", str(folder)]
        self.command += ["--model", f"{BASE}={workdir}", "--port", port]
        url = f"http://127.0.0.1:{port}/v1"
        self.client = OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=600)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with Path(f"{self.folder}.log").open("ab") as log:
            environment = os.environ | {"RFT_API_KEY": KEY}
            self.process = subprocess.Popen(self.command, env=environment, stdout=log, stderr=log)
        while True:
            with contextlib.suppress(APIConnectionError):
                self.client.models.list()
                return
            time.sleep(0.1)

    def end(self, signum: signal.Signals) -> None:
        """Ends it."""
        self.process.send_signal(signum)
        self.process.wait()

    def make_job(self, steps: int) -> str:
        """A job of so many steps."""
        files = []
        for name, count in (("train.jsonl", BATCH * steps), ("valid.jsonl", VALID)):
            lines = (CLAIMS / name).read_bytes().splitlines(keepends=True)[:count]
            made = self.client.files.create(file=(name, b"".join(lines)), purpose="fine-tune")
            files.append(made.id)
        settings = {"batch_size": BATCH, "n_epochs": 1, "eval_interval": 5, "eval_samples": 1}
        grader = json.loads((CLAIMS / "grader.json").read_text(encoding="utf-8"))
        inner = {"grader": grader, "hyperparameters": settings}
        job = self.client.fine_tuning.jobs.create(
            model=BASE, training_file=files[0], validation_file=files[1], seed=11,
            method={"type": "reinforcement", "reinforcement": inner},
        )  # fmt: skip
        return job.id

    def is_done(self, job: str) -> bool:
        """Whether the job has succeeded.

        Raises:
            RuntimeError: It has failed.
        """
        found = self.client.fine_tuning.jobs.retrieve(job)
        if found.status in ("failed", "cancelled"):
            raise RuntimeError(f"{found.status}: {found.error}")
        return found.status == "succeeded"

    def steps_told(self, job: str) -> list[int]:
        """The steps of the job's metrics events, in their order."""
        events = list(self.client.fine_tuning.jobs.list_events(job, limit=100))[::-1]
        return [event.data["step"] for event in events if event.type == "metrics"]

    def weights(self, job: str) -> list[np.ndarray]:
        """The job's last checkpoint."""
        model = open_model(self.folder / "jobs" / job / "run" / "rft")
        return [np.asarray(leaf) for leaf in jax.tree.leaves(model.run.load_params(model.stage))]


def run_job(folder: Path, workdir: Path, steps: int, kills: int, within: float) -> tuple:
    """A job's weights and told steps, the kills that it had, and its seconds."""
    server, rng, killed = Server(folder, workdir), random.Random(5), 0
    server.start()
    began = time.perf_counter()
    job = server.make_job(steps)
    next_kill = time.perf_counter() + rng.uniform(0, within)
    while not server.is_done(job):
        if killed < kills and time.perf_counter() > next_kill:
            server.end(signal.SIGKILL)
            killed += 1
            server.start()
            next_kill = time.perf_counter() + rng.uniform(0, within)
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    told = server.steps_told(job)
    server.end(signal.SIGTERM)
    return server.weights(job), told, killed, seconds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--within", type=float, default=15, help="seconds from start to kill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, workdir = Path(temporary), options.workdir.resolve()
        peace, told_in_peace, _, quick = run_job(folder / "a", workdir, options.steps, 0, 1)
        arguments = options.steps, options.kills, options.within
        killed, told, kills, slow = run_job(folder / "b", workdir, *arguments)
    same = all(np.array_equal(a, b) for a, b in zip(peace, killed, strict=True))
    line = {
        "kills": kills,
        "weights_same_bit_for_bit": same,
        "steps_told_once_each": told == told_in_peace == list(range(options.steps + 1)),
        "seconds": round(slow, 1),
        "seconds_in_peace": round(quick, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
