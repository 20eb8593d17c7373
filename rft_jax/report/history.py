"""What a work directory says about its run: metrics by stage, some of the samples, the comparison.

Only files of the work directory are read, in bounded time, so that a run can be looked at while it
goes on. A file that is cut or is being written gives what it has.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rft_jax.graders.constant import Constant
from rft_jax.runs.constant_record import read_constant
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import METRICS_FILE, read_metrics
from rft_jax.utils.types import JsonObject

# In an evaluation's folder: some items' samples, those of all models to an item together.
CASES_FILE = "cases.jsonl"

# In a stage's folder: the samples on which reward and audit differ most, a file a validation.
AUDIT_FOLDER = "audit"
MAX_AUDITS = 8  # files that are read, evenly spaced

# Samples: dumps (files of a step) evenly spaced over the stage, and of each dump as many whole
# groups (the samples of a prompt) as fit its share of the bounds, evenly spaced too. Nothing
# depends on rewards or on chance: what is shown is as good and as bad as what was sampled.
MAX_DUMPS = 64
MAX_SAMPLES = 4_000  # of a run
MAX_SAMPLE_BYTES = 8_000_000  # of a run, as JSON
MAX_TEXT = 12_000  # characters of one text; a longer one keeps its beginning and end


class Series(NamedTuple):
    """A metric over the steps at which it was written; values that were not finite are NaN."""

    step: np.ndarray
    value: np.ndarray


class Group(NamedTuple):
    """Samples of one prompt, in one step or of one evaluation's models (each has its `model`)."""

    step: int | None
    prompt: list[dict[str, str]]  # messages: role, content
    samples: list[JsonObject]  # as in the file, without `step` and `prompt`


@dataclass(frozen=True)
class StageHistory:
    """A stage so far."""

    name: str
    kind: str  # the configuration's class: such as "RLStage"
    steps: int  # planned; 0 if unknown
    series: dict[str, Series]  # by name in the metrics file, `timing/` for those of `timing`
    groups: list[Group]  # some of the samples, in the order of their steps
    samples: int  # how many the files that `groups` come from hold
    dumps: int  # how many files of samples there are
    constant: Constant | None = None  # the best constant answer to the validation items
    # Samples on which reward and audit differ, the largest difference of a step first.
    audit: tuple[Group, ...] = ()

    @property
    def done(self) -> int:
        """Steps done."""
        return max((int(series.step[-1]) for series in self.series.values()), default=0)

    def values(self, name: str) -> np.ndarray:
        """The finite values of a metric, which may never have been written."""
        if name not in self.series:
            return np.zeros(0)
        value = self.series[name].value
        return value[np.isfinite(value)]

    def best(self, name: str) -> tuple[float, int]:
        """The highest value of a metric, and its step; of equals the last, as of checkpoints."""
        step, value = self.series[name]
        index = len(value) - 1 - int(np.nanargmax(value[::-1]))
        return float(value[index]), int(step[index])


@dataclass(frozen=True)
class RunHistory:
    """A run so far."""

    name: str
    config: JsonObject
    stages: list[StageHistory]  # those with metrics, in the configuration's order
    cases: dict[str, list[Group]]  # of the evaluation stages that are done
    results: JsonObject  # results.json; empty if there is none
    written: float  # when the newest metrics line was, seconds since the epoch; 0: never


def read_run(
    workdir: Path, *, max_samples: int = MAX_SAMPLES, max_bytes: int = MAX_SAMPLE_BYTES
) -> RunHistory:
    """Reads a work directory.

    Args:
        workdir: A run's, which may be going on.
        max_samples: Samples of all stages together; of each file of samples at least one is kept.
        max_bytes: Size of those samples as JSON; a bound of the same kind.

    Raises:
        InputError: If it is no work directory.
    """
    try:
        config = json.loads((workdir / "config.json").read_text())
        planned = {stage["name"]: stage for stage in config["stages"]}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{workdir}: not a work directory (it has no config.json)") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{workdir / 'config.json'}: cannot be read as a run's configuration ({error}); it is "
            "damaged, use another work directory"
        ) from error
    files = {name: workdir / name / METRICS_FILE for name in planned}
    files = {name: path for name, path in files.items() if path.exists()}
    dumping = sum((workdir / name / "samples").is_dir() for name in files)
    stages = []
    for name in files:
        dumps = sorted((workdir / name / "samples").glob("step_*.jsonl"))
        groups, samples = _read_groups(
            dumps, max_samples // max(dumping, 1), max_bytes // max(dumping, 1)
        )
        stages.append(
            StageHistory(
                name=name,
                kind=planned[name]["class"].rpartition(":")[2],
                steps=planned[name]["steps"],
                series=collect_series(read_metrics(files[name])),
                groups=groups,
                samples=samples,
                dumps=len(dumps),
                constant=read_constant(workdir / name),
                audit=_read_audit(workdir / name / AUDIT_FOLDER),
            )
        )
    cases = {name: workdir / name / CASES_FILE for name in planned}
    return RunHistory(
        name=config["name"],
        config=config,
        stages=stages,
        cases={
            name: [_cut(group) for group in _read_dump(path)]
            for name, path in cases.items()
            if path.exists()
        },
        results=_read_results(workdir / "results.json"),
        written=max((path.stat().st_mtime for path in files.values()), default=0.0),
    )


def collect_series(rows: Iterable[JsonObject]) -> dict[str, Series]:
    """Metrics by name, out of metrics rows in the order of their steps."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        timing = {f"timing/{name}": value for name, value in row.get("timing", {}).items()}
        for name, value in (row | timing).items():
            if name in ("step", "timing") or isinstance(value, str):
                continue
            steps, values = columns.setdefault(name, ([], []))
            steps.append(row["step"])
            values.append(np.nan if value is None else value)
    return {
        name: Series(np.asarray(steps, np.int64), np.asarray(values, np.float64))
        for name, (steps, values) in columns.items()
    }


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` (at least 1) of `count` indices, evenly spaced, the last one among them."""
    if count <= limit:
        return list(range(count))
    return sorted({round(i) for i in np.linspace(count - 1, 0, limit)})


def _read_groups(dumps: list[Path], max_samples: int, max_bytes: int) -> tuple[list[Group], int]:
    """Some groups of a stage (see above), and the number of samples in the files that were read."""
    chosen = [dumps[i] for i in evenly(len(dumps), MAX_DUMPS)]
    groups: list[Group] = []
    samples = 0
    for path in chosen:
        found = _read_dump(path)
        samples += sum(len(group.samples) for group in found)
        groups += _fit(found, max_samples // len(chosen), max_bytes // len(chosen))
    return groups, samples


def _read_audit(folder: Path) -> tuple[Group, ...]:
    files = sorted(folder.glob("step_*.jsonl"))
    chosen = [files[i] for i in evenly(len(files), MAX_AUDITS)]
    return tuple(_cut(group) for path in chosen for group in _read_dump(path))


def _read_dump(path: Path) -> list[Group]:
    rows = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # being written
    return [
        Group(step, prompt, list(samples))
        for (step, prompt), samples in groupby(
            rows, key=lambda row: (row.get("step"), row["prompt"])
        )
    ]


def _fit(groups: list[Group], max_samples: int, max_bytes: int) -> list[Group]:
    """As many groups as fit, evenly spaced; or of the last one as many samples, at least one."""
    if not groups:
        return []
    groups = [_cut(group) for group in groups]
    counts = np.asarray([len(group.samples) for group in groups])
    sizes = np.asarray([_size(group.prompt) + sum(map(_size, group.samples)) for group in groups])
    limit = int(len(groups) * min(1, max_samples / counts.sum(), max_bytes / sizes.sum()))
    for number in range(limit, 0, -1):
        kept = evenly(len(groups), number)
        if counts[kept].sum() <= max_samples and sizes[kept].sum() <= max_bytes:
            return [groups[i] for i in kept]
    last = groups[-1]
    size = _size(last.prompt) + np.cumsum([_size(sample) for sample in last.samples])
    number = min(int(np.searchsorted(size, max_bytes, side="right")), max_samples)
    return [last._replace(samples=last.samples[: max(number, 1)])]


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _cut(group: Group) -> Group:
    """A group whose long texts keep only their beginning and end."""
    prompt = [
        {"role": message.get("role", ""), "content": _cut_text(_content(message))}
        for message in group.prompt
    ]
    samples = [
        {name: value for name, value in sample.items() if name not in ("step", "prompt")}
        | {name: _cut_text(sample.get(name) or "") for name in ("thought", "answer")}
        | ({"expected": _cut_text(str(sample["expected"]))} if "expected" in sample else {})
        for sample in group.samples
    ]
    return Group(group.step, prompt, samples)


def _content(message: JsonObject) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _cut_text(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _read_results(path: Path) -> JsonObject:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
