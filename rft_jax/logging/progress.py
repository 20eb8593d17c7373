"""A stage's progress on stderr: a panel that stays in its place on a terminal, lines elsewhere.

with Progress("rft", steps=100) as progress:
    progress.update(row)  # a metrics row
"""

from collections import deque
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rft_jax.logging.metrics import log
from rft_jax.report.charts import duration
from rft_jax.report.terminal import number, sparkline

WINDOW = 50  # rows over which time, trend and the small curve look back
LINE = ("train_loss", "train_reward_mean", "valid_reward_mean", "valid_top1", "train_entropy")
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
    """

    def __init__(self, stage: str, steps: int, every: int = 1, console: Console | None = None):
        self._stage, self._steps, self._every = stage, steps, every
        self._console = console or Console(stderr=True)
        self._row: dict[str, Any] = {"step": 0}
        self._valid: list[float] = []
        self._headline: deque[float] = deque(maxlen=WINDOW)
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._compiled = False
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        if terminal and not self._console.is_jupyter:
            self._live = Live(
                console=self._console, get_renderable=self._panel, refresh_per_second=1
            )
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, row: dict[str, Any]) -> None:
        """Takes in a metrics row, numbers already: `step`, metrics and `timing`."""
        self._row |= row
        if row.get("valid_reward_mean") is not None:
            self._valid.append(row["valid_reward_mean"])
        if row.get(self._metric) is not None:
            self._headline.append(row[self._metric])
        step = row["step"]
        if step > 0:
            if self._compiled:  # the first step's time is mostly compilation
                self._seconds.append(row["timing"]["full_iteration"])
            self._compiled = True
        due = step % self._every == 0 or step == self._steps or "valid_reward_mean" in row
        if self._live is None and due:
            log(self._line(row))

    @property
    def seconds_left(self) -> float | None:
        """The time for the remaining steps at the recent pace, evaluations included."""
        if not self._seconds:
            return None
        return float(np.mean(self._seconds)) * (self._steps - self._row["step"])

    @property
    def _metric(self) -> str:
        return "train_reward_mean" if "train_reward_mean" in self._row else "train_loss"

    def _line(self, row: dict[str, Any]) -> str:
        parts = [f"{self._stage} {row['step']}/{self._steps}"]
        parts += [f"{name} {row[name]:.4f}" for name in LINE if row.get(name) is not None]
        parts.append(f"{row['timing']['full_iteration']:.2f} s")
        if left := self.seconds_left:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _panel(self) -> Group:
        step, left = self._row["step"], self.seconds_left
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(self._stage, style="bold"),
            ProgressBar(self._steps, step, width=30),
            f"{step:,}/{self._steps:,}",
            "starting" if left is None else f"{duration(left)} left" if left else "done",
            f"{np.mean(self._seconds):.3g} s a step" if self._seconds else "",
        )
        return Group(bar, self._headline_text(), self._details())

    def _headline_text(self) -> Text:
        text = Text()
        if not self._headline:
            return text
        values = np.asarray(self._headline)
        half = len(values) // 2
        text.append(f"{self._metric.removeprefix('train_').removesuffix('_mean')} ", style="dim")
        text.append(f"{values[half:].mean():.3f}", style="bold")
        if half:
            change = values[half:].mean() - values[:half].mean()
            text.append(f" {'▲' if change > 0 else '▼' if change < 0 else '='} {change:+.3f}")
        text.append(f"  {sparkline(values)}", style="blue")
        if self._valid:
            text.append("  validation ", style="dim").append(f"{self._valid[-1]:.3f}", style="bold")
            text.append(f" (best {max(self._valid):.3f})", style="dim")
        return text

    def _details(self) -> Text:
        timing = self._row.get("timing", {})
        shown = [(label, self._row.get(name)) for name, label in PANEL]
        shown += [
            ("tokens/s", timing.get("tokens_per_s")),
            ("peak memory", timing.get("peak_memory_bytes")),
        ]
        return Text(
            "  ".join(f"{label} {number(value)}" for label, value in shown if value is not None),
            style="dim",
        )
