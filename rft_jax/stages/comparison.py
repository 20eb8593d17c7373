"""A comparison of models on one file, in the run's `results.json` and report."""

import json
import time
from pathlib import Path

from rft_jax import data
from rft_jax.config import Config, DataConfig, EvalStage
from rft_jax.evaluation.models import ModelResult, evaluate_models, paired
from rft_jax.graders import Grader
from rft_jax.logging.samples import json_lines
from rft_jax.parallel import is_first
from rft_jax.report import CASES_FILE, Reporter, compare
from rft_jax.runs.checkpoint import steps
from rft_jax.runs.datasets import (
    Rows,
    StageData,
    baseline_files,
    encode_prompts,
    evaluated_file,
    needed_file,
    read_prompts,
)
from rft_jax.runs.fingerprints import input_file
from rft_jax.runs.run import Run
from rft_jax.stages.base import Loop
from rft_jax.tokenizers import Tokenizer
from rft_jax.utils.console import log
from rft_jax.utils.files import write_atomically
from rft_jax.utils.metrics_file import METRICS_FILE, read_metrics
from rft_jax.utils.numbers import peak_memory_bytes

RESULTS_FILE = "results.json"


class Comparison:
    """A stage that grades the run's models, and other answers, on the same items."""

    def __init__(self, run: Run, config: EvalStage):
        self.config = config
        self._run = run

    @staticmethod
    def read(
        config: EvalStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """The items, and a check that the baselines' answers fit them."""
        path = needed_file(evaluated_file(config, files, workdir), "valid", config)
        rows = read_prompts(path, grader)
        data.check_keys(rows.items, config.keys, path)
        for answers in baseline_files(config, path).values():
            data.load_answers(answers, len(rows.items))
        return {"valid": rows}

    @staticmethod
    def encode(
        config: EvalStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Prompts as tokens, as the last stage that samples takes them."""
        del config
        return StageData(valid=encode_prompts(rows["valid"], whole.sampling_stages[-1], tokenizer))

    def run(self, loop: Loop) -> None:
        """Compares the models, unless the results have the comparison already."""
        run, config = self._run, self.config
        file = run.workdir / RESULTS_FILE
        results = json.loads(file.read_text()) if file.exists() else {}
        trained = self._trained_steps()
        if results.get("steps", trained) != trained:  # the run was made longer
            results = {}
        evaluations = results.get("evaluations", {})
        if config.name in evaluations:
            return
        start = time.perf_counter()
        models = config.models or tuple(stage.name for stage in run.config.training_stages)
        names = models + config.baselines
        found = self._evaluate(loop, models, names)
        if not is_first():
            return
        self._write_cases(found, names)
        if not evaluations:
            results["wall_s"] = self._training_seconds()
        table = compare(
            [result.to_json() for result in found],
            [difference.to_json() for difference in paired(found)],
            names,
        )
        results |= {
            "seed": run.config.seed,
            "steps": trained,
            "wall_s": round(results["wall_s"] + time.perf_counter() - start, 1),
            "peak_rss_bytes": peak_memory_bytes(),
            "evaluations": evaluations | {config.name: table},
        }
        write_atomically(file, json.dumps(results, indent=2) + "\n")
        Reporter(run.workdir).finish()

    def _evaluate(
        self, loop: Loop, models: tuple[str, ...], names: tuple[str, ...]
    ) -> list[ModelResult]:
        run, config = self._run, self.config
        paths = [Path(name) if "/" in name else run.workdir / name for name in models]
        items = input_file(run.workdir, f"stages.{config.name}")
        assert items is not None  # `runs.prepare` has noted it
        answers = baseline_files(config, items)
        found = []
        for result in evaluate_models(paths, items, config, run.seed(config), answers):
            if is_first():
                mean = result.summary["reward_mean"]
                log(f"{config.name} {names[len(found)]}  reward_mean {mean:.4f}")
            found.append(result)
            loop.stop_if_asked()
        return found

    def _write_cases(self, found: list[ModelResult], names: tuple[str, ...]) -> None:
        """What the models answered to the first items, item by item."""
        directory = self._run.directory(self.config)
        directory.mkdir(exist_ok=True)
        by_item = zip(*(result.cases for result in found), strict=True)
        rows = [
            {"model": name, **row}
            for item in by_item
            for name, samples in zip(names, item, strict=True)
            for row in samples
        ]
        write_atomically(directory / CASES_FILE, json_lines(rows))

    def _trained_steps(self) -> dict[str, int]:
        """By stage of this run, how many steps the models have that are compared."""
        run = self._run
        return {
            s.name: max(steps(run.checkpoints(s)), default=0) for s in run.config.training_stages
        }

    def _training_seconds(self) -> float:
        run = self._run
        files = [run.directory(s) / METRICS_FILE for s in run.config.training_stages]
        rows = [row for file in files for row in read_metrics(file)]
        return sum(row["timing"]["full_iteration"] for row in rows)
