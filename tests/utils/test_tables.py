"""Tables that fit any terminal: no number is cut, no name is broken, no column vanishes."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from rft_jax.utils.tables import show_table, side_by_side

COLUMNS = ["item", "reward", "a rather\nlong part", "errors", "answer"]
ROWS = [
    ["1", "0.5", "0.25", "", "short"],
    ["2", "1", "0.125", "invalid_variable_error", "words " * 40],
]


def shown(width, columns, rows, **options):
    console = Console(file=io.StringIO(), width=width)
    show_table(columns, rows, console=console, **options)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [24, 40, 50, 80, 120])
def test_every_number_and_name_is_whole_at_any_width(width):
    text = shown(width, COLUMNS, ROWS, texts=["answer"])
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for whole in ("0.5", "0.25", "0.125", "invalid_variable_error", "short", "words", "…"):
        assert whole in text
    assert sum("words" in line for line in lines) == 1  # what is cut takes one line
    is_table = "item   reward" in text
    assert is_table == (width >= 80) and (is_table or "reward 0.5" in text)


def test_the_first_column_breaks_between_words():
    text = shown(40, ["always answering", "mean"], [["the commonest references joined", "0.0294"]])
    assert "the commonest references" in text and "0.0294" in text
    assert max(map(len, text.splitlines())) <= 40


def test_pairs_stand_side_by_side_as_long_as_they_fit():
    console = Console(file=io.StringIO(), width=20)
    console.print(side_by_side([Text("entropy 0.5"), Text("loss 2"), Text("reward 1")], 20))
    assert console.file.getvalue().splitlines() == ["entropy 0.5  loss 2", "reward 1"]
