"""`report.html`: one file that needs no network, with curves, comparison, samples and settings.

What a model or a data file wrote is hostile. It reaches the page as JSON in which no `<` is left,
becomes text nodes only (`page.js` never parses HTML), and the page's content security policy allows
its own script and style, by their hashes, and nothing else.
"""

import base64
import datetime
import hashlib
import html
import json
import re
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from rft_jax.report.charts import payload
from rft_jax.report.history import Group, RunHistory, StageHistory, read_run
from rft_jax.utils.console import log
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject

REPORT_FILE = "report.html"
BUDGET = 0.005  # of a run's time may go into reports while it runs


class Reporter:
    """Keeps a running run's report fresh without costing more than `BUDGET` of its time."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._start = time.perf_counter()
        self._spent = 0.0
        self._last = 0.0

    def update(self) -> None:
        """Writes the report, unless that would exceed the budget."""
        if self._spent + self._last <= BUDGET * (time.perf_counter() - self._start):
            self.finish()

    def finish(self) -> None:
        """Writes the report; what hinders it is told and does not stop the run."""
        start = time.perf_counter()
        try:
            write_report(self._workdir)
        except Exception as error:  # a full disk, or files that somebody else has written to
            log(f"warning: {self._workdir / REPORT_FILE} could not be written ({error})")
        self._last = time.perf_counter() - start
        self._spent += self._last


def write_report(workdir: Path) -> Path:
    """Writes `report.html` of a work directory, running or done; replaces it in one go.

    Raises:
        InputError: If it is no work directory.
    """
    path = workdir / REPORT_FILE
    # Replaced: halves of surrogate pairs, which JSON can hold and UTF-8 cannot.
    write_atomically(path, render(read_run(workdir)).encode("utf-8", "replace"))
    return path


def write_comparison(path: Path, name: str, evaluations: JsonObject) -> None:
    """Writes a page with a comparison of models only.

    Args:
        name: Its title.
        evaluations: By name, as in `results.json`.
    """
    page = {"name": name, "about": "", "stages": [], "evaluations": evaluations}
    page |= {"sampling": [], "prompts": [], "groups": [], "audit": [], "config": None}
    write_atomically(path, _render(page).encode("utf-8", "replace"))


def render(history: RunHistory) -> str:
    """The page; the same history gives the same text."""
    return _render(page_data(history))


def _render(data: JsonObject) -> str:
    style, script = _resource("page.css"), _resource("page.js")
    parts = {
        "title": html.escape(f"{data['name']} · rft_jax"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _embed(data),
    }
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], _resource("page.html"))


def page_data(history: RunHistory) -> JsonObject:
    """All that the page shows, as a JSON value."""
    prompts: dict[str, int] = {}  # as JSON, to their index

    def listed(found: Mapping[str, Iterable[Group]]) -> list[JsonObject]:
        """Groups by stage as a flat list, each with the index of its prompt."""
        return [
            {
                "stage": name,
                "step": group.step,
                "prompt": prompts.setdefault(json.dumps(group.prompt), len(prompts)),
                "samples": group.samples,
            }
            for name, of_stage in found.items()
            for group in of_stage
        ]

    groups = listed({stage.name: stage.groups for stage in history.stages} | history.cases)
    audit = listed({stage.name: stage.audit for stage in history.stages})
    return {
        "name": history.name,
        "about": _about(history),
        "stages": [payload(stage) for stage in history.stages],
        "evaluations": history.results.get("evaluations", {}),
        "sampling": [_sampling(stage) for stage in history.stages if stage.dumps]
        + [f"{name}: the first {len(of)} cases." for name, of in history.cases.items() if of],
        "prompts": [json.loads(prompt) for prompt in prompts],
        "groups": groups,
        "audit": audit,
        "config": history.config,
    }


def _about(history: RunHistory) -> str:
    stages = " → ".join(stage["name"] for stage in history.config["stages"])
    parts = [f"seed {history.config['seed']}", stages]
    if history.written:
        when = datetime.datetime.fromtimestamp(history.written, datetime.UTC)
        parts.append(f"as of {when:%-d %B %Y, %H:%M} UTC")
    return " · ".join(parts)


def _sampling(stage: StageHistory) -> str:
    """How the samples that are shown were chosen, in a sentence."""
    shown = sum(len(group.samples) for group in stage.groups)
    read = len({group.step for group in stage.groups})
    if shown == stage.samples and read == stage.dumps:
        return f"{stage.name}: all {shown:,} samples that the run wrote down."
    return (
        f"{stage.name}: {shown:,} samples, of {read} of the {stage.dumps} steps whose samples the "
        "run wrote down; steps, and prompts of a step, evenly spaced, whatever their reward."
    )


def _embed(value: object) -> str:
    """JSON that is safe inside of a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _resource(name: str) -> str:
    return resources.files("rft_jax.report").joinpath(name).read_text(encoding="utf-8")
