"""From a row of `metrics.jsonl` to what clients are told: an event's data, and a line of the CSV.

Pure. Keys of validation are there only where one ran, and a figure that was not measured is null.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rft_jax.utils.types import JsonMapping, JsonObject

ERRORS = (
    "formula_parse_error",
    "sample_parse_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
    "truncated_observation_error",
)
_FLAT = (
    "train_mean_reward",
    "full_valid_mean_reward",
    "completion_tokens_mean",
    "reasoning_tokens_mean",
    "valid_reasoning_tokens_mean",
    "mean_unresponsive_rewards",
    "full_valid_mean_parse_error",
    "train_loss",
    "train_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
_OF_TOKENS = ("loss", "mean_token_accuracy")  # of supervised jobs
_DURATIONS = ("sampling", "training", "eval", "full_iteration")


@dataclass(frozen=True)
class Teller:
    """What has to be known of a job to tell its metrics.

    Attributes:
        total_steps: The job's.
        graders: Name and type of the parts of a multi, or of the grader alone; empty for
            supervised jobs.
        samples: Completions of a step.
    """

    total_steps: int
    graders: Mapping[str, str]
    samples: int

    @classmethod
    def of(cls, grader: JsonMapping | None, total_steps: int, samples: int) -> "Teller":
        """A job's, by its grader as the client gave it."""
        return cls(total_steps, grader_types(grader) if grader else {}, samples)

    def data(self, row: JsonMapping) -> JsonObject:
        """The data of a metrics event."""
        found: JsonObject = {"step": row["step"], "total_steps": self.total_steps}
        if not self.graders:
            for side, told in (("train", "train"), ("valid", "full_valid")):
                for name in _OF_TOKENS:
                    if f"{side}_{name}" in row:
                        found[f"{told}_{name}"] = row[f"{side}_{name}"]
            found["timing"] = {"step": self._durations(row), "graders": []}
            return found
        sides = [side for side in ("train", "valid") if f"{side}_valid_fraction" in row]
        found["scores"] = {f"{side}_reward_mean": row.get(f"{side}_reward_mean") for side in sides}
        found["scores"]["graders"] = [
            self._named(name) | _scores(row, name, sides) for name in self.graders
        ]
        found["errors"] = {"graders": [self._errors(row, name, sides) for name in self.graders]}
        found["usage"] = {"samples": self._usage(row, sides), "graders": self._tokens(row, sides)}
        found["timing"] = {"step": self._durations(row), "graders": self._latencies(row, sides)}
        if "train" in sides:
            found["train_mean_reward"] = row.get("train_reward_mean")
            found["completion_tokens_mean"] = row.get("train_completion_tokens_mean")
            found["reasoning_tokens_mean"] = row.get("train_reasoning_tokens_mean")
            found["mean_unresponsive_rewards"] = 1 - row["train_valid_fraction"]
        if "valid" in sides:
            found["full_valid_mean_reward"] = row.get("valid_reward_mean")
            found["valid_reasoning_tokens_mean"] = row.get("valid_reasoning_tokens_mean")
            found["full_valid_mean_parse_error"] = row.get("valid_errors/sample_parse_error_mean")
        return found

    def message(self, data: JsonMapping) -> str:
        """The sentence of a metrics event."""
        parts = [f"Step {data['step']}/{self.total_steps} "]
        for name, title in (
            ("train_loss", "training loss"),
            ("full_valid_loss", "full validation loss"),
            ("train_mean_reward", "train mean reward"),
            ("full_valid_mean_reward", "full validation mean reward"),
            ("full_valid_mean_parse_error", "full validation mean parse error"),
        ):
            if name in data:
                value = data[name]
                parts.append(f" {title}={'none' if value is None else format(value, '.2f')}")
        return ",".join(parts)

    def _named(self, name: str) -> JsonObject:
        return {"name": name, "type": self.graders[name]}

    def _errors(self, row: JsonMapping, name: str, sides: list[str]) -> JsonObject:
        """How often a grader had each error; only what it can have is in the row by its name."""
        found = self._named(name)
        for side in sides:
            for error in ERRORS:
                for what in ("mean", "count"):
                    key = f"{error}_{what}"
                    whole = row.get(f"{side}_errors/{key}", 0)
                    own = row.get(f"{side}_errors/{name}/{key}", 0)
                    found[f"{side}_{key}"] = whole if len(self.graders) == 1 else own
        return found

    def _usage(self, row: JsonMapping, sides: list[str]) -> JsonObject:
        counts = {
            "train": self.samples,
            "valid": row.get("valid_items", 0) * row.get("valid_samples", 0),
        }
        found = {}
        for side in sides:
            mean = row.get(f"{side}_reasoning_tokens_mean")
            found[f"{side}_reasoning_tokens_mean"] = mean
            graded = round(counts[side] * row[f"{side}_valid_fraction"])
            found[f"{side}_reasoning_tokens_count"] = graded
        return found

    def _tokens(self, row: JsonMapping, sides: list[str]) -> list[JsonObject]:
        """What graders that ask a model have used, by grader."""
        found = []
        for name in self.graders:
            counts = {}
            for side in sides:
                for kind in ("prompt", "completion"):
                    value = row.get(f"{side}_details/{name}/{kind}_tokens")
                    if value is not None:
                        counts[f"{side}_{kind}_tokens_mean"] = value
            if counts:
                found.append(self._named(name) | counts)
        return found

    def _durations(self, row: JsonMapping) -> JsonObject:
        timing = row.get("timing", {})
        return {name: timing.get(name) for name in _DURATIONS}

    def _latencies(self, row: JsonMapping, sides: list[str]) -> list[JsonObject]:
        found = []
        for name in self.graders:
            seconds = row.get("timing", {}).get(f"{name}/execution_latency_mean")
            found.append(
                self._named(name)
                | {
                    f"{side}_execution_latency_mean": seconds if side == "train" else None
                    for side in sides
                }
            )
        return found


def grader_types(grader: JsonMapping) -> dict[str, str]:
    """Name and type of what the metrics list: the parts of a multi, or the grader."""
    if grader.get("type") != "multi":
        return {str(grader.get("name") or grader.get("type")): str(grader.get("type"))}
    parts = grader["graders"]
    if isinstance(parts, list):
        parts = {part["name"]: part for part in parts}
    return {name: str(part["type"]) for name, part in parts.items()}


def checkpoint_metrics(data: JsonMapping) -> JsonObject:
    """The metrics of a checkpoint, of its step's data."""
    losses = [f"{side}_{name}" for side in ("train", "full_valid") for name in _OF_TOKENS]
    names = ("step", "train_mean_reward", "full_valid_mean_reward", *losses)
    return {name: data[name] for name in names if name in data}


def table(told: Iterable[JsonMapping]) -> bytes:
    """The result file: CSV with a line a step, empty where nothing was measured."""
    lines = [_line(data) for data in told]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names) or ["step"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode("utf-8", "replace")


def _scores(row: JsonMapping, name: str, sides: list[str]) -> JsonObject:
    return {f"{side}_reward_mean": row.get(f"{side}_scores/{name}") for side in sides}


def _line(data: JsonMapping) -> JsonObject:
    line: JsonObject = {"step": data["step"]}
    line |= {name: data[name] for name in _FLAT if name in data}
    durations = data["timing"]["step"]
    for name in _DURATIONS:
        short = "total" if name == "full_iteration" else name
        line[f"{short}_duration"] = durations[name]
    for part in ("scores", "errors"):
        for grader in data.get(part, {}).get("graders", []):
            place = f"{part}/graders/{grader['type']}/{grader['name']}"
            place += "/errors" if part == "errors" else ""
            rest = {key: value for key, value in grader.items() if key not in ("name", "type")}
            line |= {f"{place}/{key}": value for key, value in rest.items()}
    return line
