"""What a run pays for checkpoints, metrics, samples and the report, as shares of its time.

    python experiments/benchmarks/run_costs.py [--config FILE] [--config.a.b=value ...]

Trains in a temporary directory and prints one JSON object. `share_of_wall` is the time in which the
run loop waited, over the run's. What Orbax writes in the background takes no time of the loop but
processors: `share_of_cpu` is the processor time of all threads for one save, measured apart, times
the number of saves, over the run's processor time. Starting and compiling count as the run's time
in neither: a longer run has more steps, not more of these.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp

from rft_jax import training
from rft_jax.commands import entry
from rft_jax.logging.metrics import CompileCounter, Writers
from rft_jax.report import Reporter
from rft_jax.runs.checkpoint import Checkpoints

PARTS = {
    "checkpoints": [(Checkpoints, "save"), (Checkpoints, "wait")],
    "metrics": [(Writers, "write")],
    "samples": [(training, "_write_samples")],
    "report": [(Reporter, "update")],
}
SAVES = 8  # measured apart


class Meter:
    """Wall and processor seconds of the loop's thread by part, and how often it was entered."""

    def __init__(self):
        self.wall, self.cpu = defaultdict(float), defaultdict(float)
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.state = None  # the first that was saved
        self._depth = 0

    def watch(self, owner: object, name: str, part: str) -> None:
        """Replaces a function by one that is timed; what it calls in turn is not counted again."""
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def timed(*arguments, **named):
            if self._depth:
                return plain(*arguments, **named)
            if name == "save" and self.state is None:
                self.state = jax.tree.map(jnp.copy, arguments[2])
            self._depth += 1
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return plain(*arguments, **named)
            finally:
                self._depth -= 1
                self.wall[part] += time.perf_counter() - wall
                self.cpu[part] += time.thread_time() - cpu
                self.calls[part, name] += 1

        setattr(owner, name, timed)


def cpu_of_a_save(state: object) -> float:
    """Processor seconds of all threads for one checkpoint."""
    with tempfile.TemporaryDirectory() as directory, Checkpoints(Path(directory)) as checkpoints:
        checkpoints.save(0, state, None)
        checkpoints.wait()
        before = time.process_time()
        for step in range(1, SAVES + 1):
            checkpoints.save(step, state, None)
            checkpoints.wait()
        return (time.process_time() - before) / SAVES


def main() -> None:
    """Runs the benchmark."""
    arguments, overrides = entry.split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "jsonl.py"))
    config = entry.load_config(parser.parse_args(arguments).config, overrides)
    meter = Meter()
    for part, functions in PARTS.items():
        for owner, name in functions:
            meter.watch(owner, name, part)
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as directory, CompileCounter() as compiled:
        training.train(config, Path(directory) / "run")
    wall = time.perf_counter() - wall - compiled.seconds
    cpu = time.process_time() - cpu - compiled.seconds
    save_s = cpu_of_a_save(meter.state)
    found = {
        part: {
            "loop_s": round(meter.wall[part], 4),
            "share_of_wall": round(meter.wall[part] / wall, 5),
            "loop_cpu_s": round(meter.cpu[part], 4),
            "share_of_cpu": round(meter.cpu[part] / cpu, 5),
        }
        for part in PARTS
    }
    saves = meter.calls["checkpoints", "save"]
    found["checkpoints"] |= {
        "saves": saves,
        "cpu_of_a_save_s": round(save_s, 4),
        "share_of_cpu": round(saves * save_s / cpu, 5),
    }
    print(json.dumps({"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), **found}, indent=1))


if __name__ == "__main__":
    main()
