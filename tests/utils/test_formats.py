"""Numbers for people."""

import numpy as np

from rft_jax.utils.formats import duration, number, sparkline


def test_durations_are_for_people():
    seconds = (0.4, 42, 750, 11_100, 200_000)
    assert [duration(s) for s in seconds] == ["0 s", "42 s", "12 min", "3 h 05 min", "2 d 7 h"]


def test_sparklines_span_the_values():
    assert sparkline(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(np.arange(1000.0))) == 16
    assert sparkline(np.asarray([])) == "" and len(set(sparkline(np.ones(5)))) == 1
    assert sparkline(np.asarray([0, np.nan, 1])) == "▁█"


def test_numbers_are_short():
    values = (None, 0.0, 0.123456, 1234.5, 98_765.0, 2.4e9)
    assert [number(value) for value in values] == ["–", "0", "0.1235", "1234", "98.8 k", "2.4 G"]
