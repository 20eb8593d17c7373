"""A run on a terminal: what `report.html` shows, in tables and small curves.

Texts of models and data files are shown with their control characters made visible, so that they
cannot move the cursor, recolor the screen or reverse the text around them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rft_jax.report.charts import always_zero, arrange, facts, trend
from rft_jax.report.comparison import INTERVALS, main_metric, metrics_of
from rft_jax.report.history import Group as SampleGroup
from rft_jax.report.history import RunHistory, Series, StageHistory, evenly, read_run
from rft_jax.utils.errors import InputError
from rft_jax.utils.formats import CURVE_WIDTH, number, sparkline
from rft_jax.utils.tables import side_by_side, table
from rft_jax.utils.types import JsonObject

PLAIN_WIDTH = 100  # columns where there is no terminal to ask
TEXT_LINES = 12  # of a prompt, thought or answer
FIGURES_WIDTH = 34  # of the columns with numbers
MOST_NAMED = 3  # of metrics without a row
WITH_INTERVALS = 3  # models side by side whose intervals fit beside their means
# C0 and C1 controls but tab and newline, bidirectional overrides, halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def show_run(workdir: Path, *, samples: int = 3, console: Console | None = None) -> None:
    """Prints a run's stages, comparison and some samples.

    Args:
        workdir: A run's, going on or done.
        samples: How many of the newest step whose samples were written, evenly spaced in reward.
        console: Where to print; None: standard output, without colors where it is not a terminal.

    Raises:
        InputError: If it is no work directory.
    """
    if samples < 0:
        raise InputError(f"samples: must be at least 0, got {samples}")
    console = console or Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    history = read_run(workdir)
    console.print(visible(history.name, "bold"))
    for stage in history.stages:
        console.print(_stage(stage, console.width))
    if not history.stages:
        console.print("No step is done yet.")
    for name, evaluation in history.results.get("evaluations", {}).items():
        console.print(_comparison(name, evaluation, console.width))
    for stage in history.stages:
        console.print(_audit(stage, samples))
    console.print(_samples(history, samples))


def visible(text: str, style: str = "") -> Text:
    """The text without markup, control characters as pictures (escape is ␛), others as �."""
    return Text(_CONTROL.sub(lambda match: _picture(ord(match[0])), text), style)


def _picture(code: int) -> str:
    return (
        chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
    )


def _stage(stage: StageHistory, width: int = PLAIN_WIDTH) -> Group:
    figures = Table.grid(padding=(0, 2))
    for label, value, note in facts(stage):
        figures.add_row(Text(label, "dim"), Text(value, "bold"), Text(note, "dim"))
    metrics = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    arranged = [[name for chart in charts for name in chart.names] for _, charts in arrange(stage)]
    longest = max(
        (cell_len(visible(name).plain) for names in arranged for name in names), default=0
    )
    # Where the names leave too little room, the curves go; then the names have a line of their own.
    curves = width >= longest + FIGURES_WIDTH + 2 * CURVE_WIDTH
    own_line = width < longest + FIGURES_WIDTH
    lines = Table.grid()
    metrics.add_column("metric", no_wrap=True)
    for split in ("training", "validation"):
        if curves:
            metrics.add_column(split, no_wrap=True)
        metrics.add_column("now" if curves else split, justify="right", no_wrap=True)
    metrics.add_column("change", justify="right", no_wrap=True)
    for names in arranged:
        for name in names:
            train = stage.series.get(name, stage.series.get(f"train_{name}"))
            valid = stage.values(f"valid_{name}")
            cells = [
                Text(sparkline(train.value) if train else "", "blue"),
                number(_now(train)) if train else "",
                Text(sparkline(valid), "yellow"),
                number(float(valid[-1])) if len(valid) else "",
                f"{valid[-1] - valid[0]:+.3g}" if len(valid) > 1 else "",
            ]
            shown = cells if curves else [cells[1], *cells[3:]]
            if own_line:
                lines.add_row(visible(name))
                lines.add_row(_figures(shown, width))
            else:
                metrics.add_row(visible(name), *shown)
        metrics.add_section()
    parts = [_heading(stage.name), figures, lines if own_line else metrics]
    if zero := always_zero(stage):
        named = ", ".join(zero) if len(zero) <= MOST_NAMED else f"{len(zero)} metrics more"
        parts.append(visible(f"Always 0: {named}", "dim"))
    return Group(*parts, "")


def _figures(shown: Sequence[RenderableType], width: int) -> Padding:
    """Figures below a metric's name: of training, of validation, and how much that has changed."""
    labels = ("training ", "validation ", "")
    pairs = [
        Text(f"{label}{value}", "dim") for label, value in zip(labels, shown, strict=True) if value
    ]
    return Padding(side_by_side(pairs, width - 2), (0, 0, 0, 2))


def _heading(text: str) -> Rule:
    return Rule(visible(text), align="left")


def _now(series: Series) -> float | None:
    recent = trend(series).value
    return float(recent[-1]) if len(recent) else None


def show_comparison(name: str, evaluation: JsonObject, console: Console | None = None) -> None:
    """Prints a comparison of models; `console` None: standard error."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(_comparison(name, evaluation, console.width))


def _comparison(name: str, evaluation: JsonObject, width: int) -> Group:
    models = evaluation.get("models", {})
    with_intervals = len(models) <= WITH_INTERVALS
    rows = [
        [visible(metric), *(_cell(row, metric, with_intervals) for row in models.values())]
        for metric in metrics_of(models)
    ]
    pairs = Table.grid(padding=(0, 2))
    main = main_metric(evaluation)
    for pair in [pair for pair in evaluation.get("paired", []) if pair["metric"] == main]:
        pairs.add_row(
            visible(f"{pair['a']} - {pair['b']}, {pair['metric']}"),
            Text(f"{pair['difference']:+.3f}", "bold"),
            f"from {pair['low']:+.3f} to {pair['high']:+.3f}",
        )
    cases = f" ({evaluation['cases']} cases)" if "cases" in evaluation else ""
    columns = ["metric", *map(visible, models)]
    return Group(_heading(name + cases), table(columns, rows, width), pairs, "")


def _cell(row: JsonObject, metric: str, with_interval: bool) -> Text:
    """A value; of one with an interval all three have as many decimals."""
    value, interval = row.get(metric), row.get(INTERVALS, {}).get(metric)
    if value is None or not interval:
        return visible(number(value))
    low, high = interval
    text = Text(f"{value:.3f}")
    return text.append(f" [{low:.3f}, {high:.3f}]", "dim") if with_interval else text


def _samples(history: RunHistory, count: int) -> Group:
    stages = [stage for stage in history.stages if stage.groups]
    if not stages or not count:
        return Group()
    step = stages[-1].groups[-1].step
    found = [
        (sample, group)
        for group in stages[-1].groups
        if group.step == step
        for sample in group.samples
    ]
    found.sort(key=lambda pair: pair[0]["reward"] or 0)
    parts: list[RenderableType] = [_heading(f"{stages[-1].name}, samples of step {step}")]
    parts += [_sample(*found[index]) for index in reversed(evenly(len(found), count))]
    return Group(*parts)


def _audit(stage: StageHistory, count: int) -> Group:
    """The newest samples on which reward and audit differ most."""
    if not stage.audit or not count:
        return Group()
    step = stage.audit[-1].step
    found = [(sample, g) for g in stage.audit if g.step == step for sample in g.samples][:count]
    heading = f"{stage.name}, where reward and audit differ most at step {step}"
    return Group(_heading(heading), *(_sample(*pair) for pair in found))


def _sample(sample: JsonObject, group: SampleGroup) -> Group:
    """One sample with its prompt."""
    head = Text(f"reward {number(sample['reward'])}", "bold")
    if "audit" in sample:
        head.append(f"  audit {number(sample['audit'])}")
    if "advantage" in sample:
        head.append(f"  advantage {number(sample['advantage'])}", "not bold")
    for name, score in sample["scores"].items():
        head.append("  ").append(visible(name, "dim")).append(f" {number(score)}", "dim")
    for error in sample["errors"]:
        head.append("  ").append(visible(error, "red"))
    parts: list[RenderableType] = [head]
    parts += [_text(message["role"], message["content"]) for message in group.prompt]
    if sample["thought"]:
        parts.append(_text("thought", sample["thought"]))
    parts.append(_text("answer", sample["answer"]))
    if "expected" in sample:
        parts.append(_text("expected", sample["expected"]))
    return Group(*parts, "")


def _text(label: str, text: str) -> Padding:
    lines = text.split("\n")
    if len(lines) > TEXT_LINES:
        lines = [*lines[:TEXT_LINES], f"[… {len(lines) - TEXT_LINES} more lines]"]
    body = visible(f"{label}: ", "dim") + visible("\n".join(lines), "not dim")
    return Padding(body, (0, 0, 0, 2))
