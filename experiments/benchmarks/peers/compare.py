"""`rft bench` beside TRL and Tunix, in alternation, with the floor of the step.

    python experiments/benchmarks/peers/compare.py --trl trl/bin/python --tunix tunix/bin/python

The peers need an environment each; the top of their scripts says of what. Everything runs on the
same machine, one after the other; what is compared are the medians over the rounds. A run that
does not end in time counts as all its steps in that time, which is more than it did. `rft bench`
makes so many devices of a CPU's cores as --devices says; the peers use all cores as they do by
themselves. Prints one JSON object and writes it to experiments/benchmarks/results/.
"""

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHAPES = {"short": (64, 64), "rft": (512, 64)}  # prompt and completion tokens


def main() -> None:
    """Runs all, writes and prints the result."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or folder
        if not options.checkpoint:
            _run([options.trl, HERE / "make_checkpoint.py", checkpoint], options.timeout)
        shapes = {name: _compare(checkpoint, *SHAPES[name], options) for name in options.shapes}
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu(), "load_average": os.getloadavg()[0]},
        "versions": {
            "trl": _versions(options.trl, "trl", "torch"),
            "tunix": _versions(options.tunix, "google-tunix", "jax"),
            "rft_jax": _versions(sys.executable, "rft_jax", "jax"),
        },
        "prompts": options.prompts,
        "group": options.group,
        "steps": options.steps,
        "rounds": options.rounds,
        "timeout_s": options.timeout,
        "shapes": shapes,
    }
    text = json.dumps(result, indent=1)
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"{result['date']}_peers.json").write_text(text + "\n")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trl", required=True, help="the Python of TRL's environment")
    parser.add_argument("--tunix", required=True, help="the Python of Tunix's environment")
    parser.add_argument("--checkpoint", help="from make_checkpoint.py; written if left out")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--devices", type=int, help="for rft bench; as many as divide the prompts")
    parser.add_argument("--timeout", type=int, default=600, help="seconds of one run")
    return parser.parse_args()


def _compare(checkpoint: str, prompt: int, completion: int, options: argparse.Namespace) -> Any:
    sizes = {"prompt": prompt, "completion": completion, "prompts": options.prompts}
    sizes |= {"group": options.group, "steps": options.steps}
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    commands = {
        "rft_jax": [
            sys.executable,
            "-m",
            "rft_jax.commands.entry",
            "bench",
            "--model",
            checkpoint,
            *flags,
        ],
        "trl": [options.trl, HERE / "trl_grpo.py", checkpoint, *flags],
        "tunix": [options.tunix, HERE / "tunix_grpo.py", checkpoint, *flags],
        "floor": [sys.executable, HERE / "floor.py", checkpoint, *flags],
    }
    devices = options.devices or math.gcd(os.cpu_count() or 1, options.prompts)
    environments = {"rft_jax": {"JAX_NUM_CPU_DEVICES": str(devices)}}
    runs: dict[str, list[Any]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            if None in runs[name]:
                continue  # one run that does not end in time is enough
            runs[name].append(_run(command, options.timeout, environments.get(name)))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
    most = options.prompts * options.group * options.steps / options.timeout
    rate = {
        name: most if None in found else statistics.median(r["completions_per_s"] for r in found)
        for name, found in runs.items()
    }
    better = max(rate["trl"], rate["tunix"])
    return {
        "completions_per_s": rate,
        "timed_out": [name for name, found in runs.items() if None in found],
        "ratio_to": {name: round(rate["rft_jax"] / rate[name], 2) for name in ("trl", "tunix")},
        "ratio_to_the_better_peer": round(rate["rft_jax"] / better, 2),
        "share_of_the_floor": round(rate["rft_jax"] / rate["floor"], 2),
        "runs": runs,
    }


def _run(command: list[Any], timeout: int, environment: dict[str, str] | None = None) -> Any:
    """The JSON object that a command prints last; None if it takes too long."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            timeout=timeout,
            check=True,
            text=True,
            env=os.environ | (environment or {}),
        )
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def _versions(python: str, *packages: str) -> dict[str, str]:
    code = "import sys, importlib.metadata as m\nfor p in sys.argv[1:]: print(p, m.version(p))"
    done = subprocess.run(
        [python, "-c", code, *packages], stdout=subprocess.PIPE, check=True, text=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
