"""Sampling and updating on one GPU, of two models and two batches, beside torch.

    python experiments/benchmarks/gpu/compare.py [--torch torch/bin/python]

`ours.py` and, with --torch, the Python of an environment with torch and transformers, `peer.py`
have the card in turn, a process each. Prints one JSON object and writes it to
experiments/benchmarks/results/. What else is given goes to `ours.py`.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Runs all, writes and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256], help="completions")
    parser.add_argument("--torch", help="the Python of an environment with torch, transformers")
    parser.add_argument("--torch-micro-batch", type=int, default=8, help="completions")
    options, others = parser.parse_known_args()
    rows = []
    for model in options.models:
        for batch in options.batch:
            shape = [f"--model={model}", f"--batch={batch}"]
            row = _run([sys.executable, str(HERE / "ours.py"), *shape, *others])
            if options.torch:
                sizes = [f"--{name}={row[name]}" for name in ("prompt", "completion", "layers")]
                sizes.append(f"--micro-batch={options.torch_micro_batch}")
                row["torch"] = _run([options.torch, str(HERE / "peer.py"), *shape, *sizes])
                for part in ("token_s", "update_s"):
                    row[f"torch_{part}_over_ours"] = round(row["torch"][part] / row[part], 3)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    date, device = datetime.date.today().isoformat(), rows[0]["device"]
    result = {"date": date, "command": " ".join(sys.argv), "device": device, "rows": rows}
    text = json.dumps(result, indent=1)
    name = re.sub(r"\W+", "_", device.lower())
    (HERE.parent / "results" / f"{date}_{name}.json").write_text(text + "\n")
    print(text)


def _run(command: list[str]) -> dict[str, Any]:
    """The JSON object that a command prints last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
