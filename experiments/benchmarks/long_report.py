"""The report of a run of 10,000 steps and 50,000 samples: its size, and how fast it opens.

    python experiments/benchmarks/long_report.py [--keep DIR] [--screenshots]

Needs Chromium. Prints one JSON object: `ready_ms` is the time from the start of loading until the
page is drawn (`performance.now()` at the end of its script), `browser_s` that of a whole headless
browser with the page, `empty_s` of one with an empty page.
"""

import argparse
import json
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from rft_jax.report import write_report

STEPS, DUMPS, GROUPS, GROUP = 10_000, 500, 10, 10
WORDS = "the patient has short stature and a high forehead so that gene may explain it".split()
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
RUNS = 5


def make_run(workdir: Path) -> None:
    """Writes a work directory with metrics and samples that nobody sampled."""
    rng = random.Random(0)
    stages = [{"class": "rft_jax.config.stages:RLStage", "name": "rft", "steps": STEPS}]
    config = {"name": "a long run", "seed": 0, "stages": stages}
    (workdir / "config.json").write_text(json.dumps(config))
    samples = workdir / "rft" / "samples"
    samples.mkdir(parents=True)
    with (workdir / "rft" / "metrics.jsonl").open("w") as file:
        for step in range(STEPS + 1):
            file.write(json.dumps(metrics(rng, step)) + "\n")
    for number in range(1, DUMPS + 1):
        step = number * STEPS // DUMPS
        lines = [
            sample(rng, step, f"{text(rng, 40)} {group}") for group in range(GROUPS)
            for _ in range(GROUP)
        ]  # fmt: skip
        lines.sort(key=lambda line: line["prompt"][0]["content"])
        path = samples / f"step_{step:06d}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def text(rng: random.Random, words: int) -> str:
    """Some words."""
    return " ".join(rng.choices(WORDS, k=words))


def metrics(rng: random.Random, step: int) -> dict:
    """A row as a run writes it."""
    level = 0.2 + 0.5 * step / STEPS
    row = {"stage": "rft", "step": step}
    row["timing"] = {"full_iteration": rng.uniform(1, 2), "tokens_per_s": rng.uniform(900, 1100)}
    row |= {f"train_{name}": rng.gauss(level, 0.05) for name in (
        "reward_mean", "reward_std", "loss", "entropy", "grad_norm", "kl",
        "sampler_learner_logprob_gap",
        "zero_std_groups_fraction", "clip_fraction_low", "clip_fraction_high", "truncated_fraction",
        "completion_tokens_mean", "reasoning_tokens_mean",
    )}  # fmt: skip
    row |= {f"train_scores/grader_{k}": rng.gauss(level, 0.1) for k in range(8)}
    row |= {f"train_errors/error_{k}_mean": rng.random() / 50 for k in range(10)}
    if step % 20 == 0:
        row |= {"valid_reward_mean": rng.gauss(level, 0.02)}
        row |= {f"valid_scores/grader_{k}": rng.gauss(level, 0.03) for k in range(8)}
    return row


def sample(rng: random.Random, step: int, prompt: str) -> dict:
    """A line of a samples file."""
    reward = round(rng.random(), 2)
    return {
        "step": step,
        "thought": text(rng, 60),
        "answer": text(rng, 20),
        "stop_reason": "stop",
        "reward": reward,
        "valid": True,
        "scores": {f"grader_{k}": reward for k in range(3)},
        "advantage": reward - 0.5,
        "errors": [],
        "prompt": [{"role": "user", "content": prompt}],
    }


def browse(address: str, *flags: str) -> tuple[float, str]:
    """Seconds of a headless browser, and the document that it made."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, f"--user-data-dir={profile}", *(flags or ["--dump-dom"]), address],
            capture_output=True, check=True,
        )  # fmt: skip
        return time.perf_counter() - start, done.stdout.decode()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a new folder for the run and its report")
    parser.add_argument("--screenshots", action="store_true", help="of two widths, into --keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = options.keep or Path(temporary)
        workdir.mkdir(parents=True, exist_ok=True)
        make_run(workdir)
        start = time.perf_counter()
        path = write_report(workdir)
        write_s = time.perf_counter() - start
        opened, ready = [], []
        for _ in range(RUNS):
            seconds, document = browse(path.as_uri())
            opened.append(seconds)
            ready.append(int(re.search('data-ready="(\\d+)"', document)[1]))
        if options.screenshots:
            for name, (width, height) in SIZES.items():
                file = f"--screenshot={workdir / name}.png"
                browse(path.as_uri(), file, f"--window-size={width},{height}")
        print(
            json.dumps(
                {
                    "steps": STEPS,
                    "samples": DUMPS * GROUPS * GROUP,
                    "bytes": path.stat().st_size,
                    "write_s": round(write_s, 2),
                    "ready_ms": statistics.median(ready),
                    "browser_s": round(statistics.median(opened), 2),
                    "empty_s": round(browse("about:blank")[0], 2),
                }
            )
        )


if __name__ == "__main__":
    main()
