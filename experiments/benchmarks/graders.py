"""Times every device grader beside the library that defines it, on the host.

    python experiments/benchmarks/graders.py --samples 64 512 4096 --bytes 256 2048 --step-s 2.0

For each type, N completions of about L bytes: the time to grade them on the device, jitted, and on
the host one after the other, which has to fetch and decode the text first. With `--step-s`, the
seconds of an RFT step of the first N, the device's share of it as well. One JSON object a line on
stdout, and all of them in a file, by default experiments/benchmarks/results/DATE_graders.json.
"""

import argparse
import datetime
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rft_jax.graders import HostSample, Items, Sample, build_grader, load_grader
from rft_jax.graders.types import HostView
from rft_jax.strings import ByteString, from_host

RESULTS = Path(__file__).parent / "results"
REPEATS = 5
ENOUGH_S = 1.0  # no more repeats when the earlier ones took so long
MOST_ON_HOST = 64  # samples timed on the host; more of them take as long each
WORDS = "the patient has seizure ataxia of 12 3.5 and with early onset SCN1A gene".split()

TEXT, LIST = "{{sample.output_text}}", "{{sample.output_json.genes}}"
GRADERS: dict[str, dict[str, Any]] = {
    "string_check": {"type": "string_check", "operation": "ilike", "input": TEXT},
    **{
        metric: {"type": "text_similarity", "evaluation_metric": metric, "input": TEXT}
        for metric in ("fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_5", "rouge_l")
    },
    "regex": {"type": "regex", "input": TEXT, "pattern": r"\bgene: *[A-Z0-9]+\b"},
    "number": {"type": "number", "input": TEXT, "reference": "{{item.number}}", "absolute": 0.1},
    "choice": {"type": "choice", "input": TEXT, "choices": list("ABCD"), "reference": "B"},
    "rank": {"type": "rank", "input": LIST, "reference": "{{item.gene}}"},
    "list_overlap": {
        "type": "list_overlap", "input": LIST, "reference": "{{item.genes}}", "metric": "f1"
    },
    "json_schema": {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "required": ["genes"],
            "properties": {"genes": {"type": "array", "items": {"type": "string"}}},
        },
    },
    "format": {"type": "format", "json_only": True, "markers": ["genes"]},
    "repetition": {"type": "repetition", "input": TEXT},
}  # fmt: skip
NEEDS_REFERENCE = ("string_check", "text_similarity")
JSON_TYPES = ("rank", "list_overlap", "json_schema", "format")


def main() -> None:
    """Prints a line for each type, number of samples and length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--bytes", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--step-s", type=float, help="seconds of a step of the first --samples")
    parser.add_argument("--out", type=Path, help="the file of results")
    options = parser.parse_args()
    lines = []
    for name, spec in GRADERS.items():
        for length in options.bytes:
            for count in options.samples:
                line = time_grader(name, spec, count, length)
                if options.step_s:
                    step_s = options.step_s * count / options.samples[0]
                    line["share_of_step"] = round(line["device_s"] / step_s, 5)
                print(json.dumps(line), flush=True)
                lines.append(line)
    machine = {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "step_s": options.step_s,
    }
    out = options.out or RESULTS / f"{datetime.date.today()}_graders.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**machine, "results": lines}, indent=1) + "\n")


def time_grader(name: str, spec: dict[str, Any], count: int, length: int) -> dict[str, Any]:
    """One line."""
    if spec["type"] in NEEDS_REFERENCE:
        spec = spec | {"reference": "{{item.text}}"}
    rng = random.Random(0)
    texts = [answer(rng, length, spec["type"] in JSON_TYPES) for _ in range(count)]
    reference = answer(rng, length // 2, False)
    row = {"text": reference, "number": 3.5, "gene": "GENE3", "genes": ["GENE1", "GENE3"]}
    items = Items([row], "items")
    grader = build_grader(load_grader(spec))
    fields = jax.tree.map(
        lambda leaf: np.repeat(leaf, count, axis=0), grader.encode_items(items.rows, "items")
    )
    no = np.zeros(count, bool)
    sample = jax.device_put(Sample(from_host(texts, length), ~no, no, no, no.astype(np.int32)))
    fields = jax.device_put(fields)
    grade = jax.jit(grader.grade)
    device_s = _median(lambda: jax.block_until_ready(grade(sample, fields)))
    some = min(count, MOST_ON_HOST)
    host_s = _median(lambda: _on_host(grader.spec, sample.output_text, items, some))
    return {
        "grader": name,
        "samples": count,
        "bytes": length,
        "device_s": round(device_s, 6),
        "device_us_per_completion": round(1e6 * device_s / count, 2),
        "host_us_per_completion": round(1e6 * host_s / some, 2),
    }


def answer(rng: random.Random, length: int, as_json: bool) -> str:
    """A text of at most so many bytes, such as a model might write."""
    if as_json:
        genes = [f"GENE{rng.randrange(10)}" for _ in range(min(10, length // 20))]
        frame = json.dumps({"genes": genes, "why": ""})
        return frame[:-2] + _words(rng, length - len(frame)) + frame[-2:]
    return _words(rng, length)


def _words(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length))[:length]


def _on_host(spec: Any, text: ByteString, items: Items, count: int) -> None:
    data, lengths = np.asarray(text.bytes), np.asarray(text.length)
    for row, length in zip(data[:count], lengths[:count], strict=True):
        view = HostView(HostSample(row[:length].tobytes().decode()))
        spec.score_on_host(view, items, 0)


def _median(call: Callable[[], Any]) -> float:
    call()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_S:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
