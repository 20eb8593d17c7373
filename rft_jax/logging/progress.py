"""A stage's progress on stderr: a panel that stays in its place on a terminal, lines elsewhere.

with Progress("rft", steps=100) as progress:
    progress.update(row)  # a metrics row
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rft_jax.utils.console import log
from rft_jax.utils.formats import duration, number, sparkline
from rft_jax.utils.tables import side_by_side
from rft_jax.utils.types import JsonObject

WINDOW = 50  # rows over which time, trend and the small curve look back
NOTABLE = 0.95  # fraction of valid samples below which it is shown
# Columns of the lines where there is no terminal: by heading the metrics, of which a row's first
# counts. Samples that are not valid count as 0 in `reward_mean_all`.
REINFORCED = {
    "reward": ("train_reward_mean_all", "train_reward_mean"),
    "validation": ("valid_reward_mean_all", "valid_reward_mean"),
    "top 1": ("valid_top1",),
    "entropy": ("train_entropy",),
}
SUPERVISED = {
    "loss": ("train_loss",),
    "validation": ("valid_loss",),
    "accuracy": ("train_mean_token_accuracy",),
}
DISTILLED = {"loss": SUPERVISED["loss"]} | {
    head: REINFORCED[head] for head in REINFORCED if head != "reward"
}
BAR_WIDTH = 30
WITH_PACE = 60  # columns of a terminal from which there is room for the seconds of a step
ENDING = ("ending after the steps under way, all saved;", "once more ends at once")
PANEL = (  # after the headline's reward or loss
    ("train_entropy", "entropy"),
    ("train_completion_tokens_mean", "tokens an answer"),
    ("train_grad_norm", "gradient norm"),
)


class Progress:
    """A context manager; what others print to stdout or stderr appears above the panel.

    Args:
        stage: The stage's name.
        steps: It has in all.
        every: Steps between lines where there is no terminal; evaluations and the last step always
            get theirs.
        console: None: stderr.
        earlier: The metrics rows of the steps before, of a stage that goes on.
        constant: What the best constant answer earns on the validation items, if that is known.
        stopping: Whether the run was asked to end.
        distilled: Whether steps sample and earn nothing, whatever validations do.
    """

    def __init__(
        self,
        stage: str,
        steps: int,
        every: int = 1,
        console: Console | None = None,
        earlier: Iterable[JsonObject] = (),
        constant: float | None = None,
        stopping: Callable[[], bool] = lambda: False,
        distilled: bool = False,
    ):
        self._stage, self._steps, self._every = stage, steps, every
        self._console = console or Console(stderr=True)
        self._constant, self._stopping = constant, stopping
        self._distilled = distilled
        self._row: JsonObject = {"step": 0}
        self._columns: dict[str, tuple[str, ...]] | None = None
        validations = (_first(row, REINFORCED["validation"]) for row in earlier)
        self._valid = [value for value in validations if value is not None]
        self._headline: deque[float] = deque(maxlen=WINDOW)
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._compiled = False
        self._live: Live | None = None

    @property
    def is_panel(self) -> bool:
        """Whether there is a panel, which whatever else is written to the terminal would garble."""
        return self._live is not None

    def __enter__(self) -> "Progress":
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        if terminal and not self._console.is_jupyter:
            self._live = Live(
                console=self._console, get_renderable=self._panel, refresh_per_second=1
            )
            self._live.start(refresh=True)
        else:
            log(f"{self._stage}: compiling, which takes from seconds to minutes")
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, row: JsonObject) -> None:
        """Takes in a metrics row, numbers already: `step`, metrics and `timing`."""
        self._row |= row
        valid = _first(row, REINFORCED["validation"])
        if valid is not None:
            self._valid.append(valid)
        if (value := _first(row, self._headline_metrics)) is not None:
            self._headline.append(value)
        step = row["step"]
        if step > 0:
            if self._compiled:  # the first step's time is mostly compilation
                self._seconds.append(row["timing"]["full_iteration"])
            self._compiled = True
        due = step % self._every == 0 or step == self._steps or valid is not None
        if self._live is None and due:
            self._log_line(row)

    @property
    def seconds_left(self) -> float | None:
        """The time for the remaining steps at the recent pace, evaluations included."""
        if not self._seconds:
            return None
        return float(np.mean(self._seconds)) * (self._steps - self._row["step"])

    @property
    def _headline_metrics(self) -> tuple[str, ...]:
        reinforced = any(name in self._row for name in REINFORCED["reward"])
        return REINFORCED["reward"] if reinforced else SUPERVISED["loss"]

    def _log_line(self, row: JsonObject) -> None:
        """A line of figures, below a heading before the first one."""
        width = len(f"{self._stage} {self._steps}/{self._steps}")
        if self._columns is None:
            graded = any(name.removeprefix("train_").startswith("reward_mean") for name in row)
            graded |= any(name in row for name in REINFORCED["validation"])
            columns = REINFORCED if graded else SUPERVISED
            self._columns = dict(DISTILLED if self._distilled else columns)
            if "valid_top1" not in row:
                self._columns.pop("top 1", None)
            heads = [f"{head:>11}" for head in (*self._columns, "seconds", "left")]
            log(f"{'step':<{width}}{''.join(heads)}")
        values = (_first(row, names) for names in self._columns.values())
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        left = self.seconds_left
        cells += [f"{row['timing']['full_iteration']:.2f}", duration(left) if left else ""]
        line = f"{self._stage} {row['step']}/{self._steps}"
        line = f"{line:<{width}}{''.join(f'{cell:>11}' for cell in cells)}"
        if (graded := self._graded(row)) is not None:
            line += f"  only {graded:.0%} graded"
        log(line.rstrip())

    def _graded(self, row: JsonObject) -> float | None:
        """The fraction of a row's samples that are valid, the least there is, if it is notable."""
        found = [row.get(name) for name in ("train_valid_fraction", "valid_valid_fraction")]
        least = min((value for value in found if value is not None), default=1.0)
        return least if least < NOTABLE else None

    def _panel(self) -> Group:
        width = self._console.width
        parts: list[RenderableType] = [self._bar(width)]
        if self._stopping():
            parts.append(side_by_side([Text(part, "bold") for part in ENDING], width))
        parts += [side_by_side(found, width) for found in (self._headline_texts(), self._details())]
        return Group(*parts)

    def _bar(self, width: int) -> Table:
        step, left = self._row["step"], self.seconds_left
        bar = Table.grid(padding=(0, 2))
        state = "" if left is None else f"{duration(left)} left" if left else "done"
        cells: list[RenderableType] = [
            Text(self._stage, style="bold", no_wrap=True),
            ProgressBar(self._steps, step, width=min(BAR_WIDTH, max(width // 4, 8))),
            Text(f"{step:,}/{self._steps:,}", no_wrap=True),
            Text(state if self._compiled else "compiling", no_wrap=True),
        ]
        if self._seconds and width >= WITH_PACE:
            cells.append(Text(f"{np.mean(self._seconds):.3g} s a step", no_wrap=True))
        bar.add_row(*cells)
        return bar

    def _headline_texts(self) -> list[Text]:
        if not self._headline:
            return []
        values = np.asarray(self._headline)
        half = len(values) // 2
        reinforced = self._headline_metrics == REINFORCED["reward"]
        text = Text("reward " if reinforced else "loss ", style="dim")
        text.append(f"{values[half:].mean():.3f}", style="bold not dim")
        if half:
            change = values[half:].mean() - values[:half].mean()
            sign = "▲" if change > 0 else "▼" if change < 0 else "="
            text.append(f" {sign} {change:+.3f}", style="not dim")
        texts = [text, Text(sparkline(values), style="blue")]
        if self._valid:
            valid = Text("validation ", style="dim")
            valid.append(f"{self._valid[-1]:.3f}", style="bold not dim")
            texts.append(valid.append(f" (best {max(self._valid):.3f})"))
            if self._constant is not None:
                texts.append(Text(f"best constant answer {self._constant:.3f}", style="dim"))
        if (graded := self._graded(self._row)) is not None:
            texts.append(Text(f"only {graded:.0%} graded", style="bold red"))
        return texts

    def _details(self) -> list[Text]:
        timing = self._row.get("timing", {})
        shown = [(label, self._row.get(name)) for name, label in PANEL]
        shown += [
            ("tokens/s", timing.get("tokens_per_s")),
            ("peak memory", timing.get("peak_memory_bytes")),
        ]
        return [
            Text(f"{name} {number(value)}", "dim") for name, value in shown if value is not None
        ]


def _first(row: JsonObject, names: Sequence[str]) -> float | None:
    """The first of these metrics that a row has."""
    return next((row[name] for name in names if row.get(name) is not None), None)
