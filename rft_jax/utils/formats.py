"""Numbers for people: durations, values in few characters, curves in one line of text."""

import numpy as np

CURVE_WIDTH = 16
_BLOCKS = "▁▂▃▄▅▆▇█"


def duration(seconds: float) -> str:
    """A length of time for people: 42 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def number(value: float | None) -> str:
    """A value in few characters; – for none."""
    if value is None:
        return "–"
    if abs(value) >= 1e4:
        return next(
            f"{value / unit:.3g} {name}"
            for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
            if abs(value) >= unit
        )
    return f"{value:.4g}"


def sparkline(values: np.ndarray, width: int = CURVE_WIDTH) -> str:
    """A curve in one line of text: means of `width` parts of the finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    parts = np.array_split(values, min(width, len(values)))
    heights = np.asarray([part.mean() for part in parts])
    low, high = heights.min(), heights.max()
    relative = (heights - low) / (high - low) if high > low else np.full(len(heights), 0.5)
    return "".join(_BLOCKS[round(float(x) * (len(_BLOCKS) - 1))] for x in relative)
