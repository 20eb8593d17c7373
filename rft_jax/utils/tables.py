"""Tables for people on a terminal of any width: no name is broken, and no column vanishes.

show_table(["item", "reward", "answer"], [["1", "0.5", "deny"]], texts=["answer"])
"""

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 3  # columns of the terminal between two of a table
LEAST_TEXT = 16  # width of a column of text that gives way


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    texts: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Prints `table(...)`; `console` None: on stdout."""
    console = console or Console()
    console.print(table(columns, rows, console.width, texts=texts))


def table(
    columns: Sequence[str | Text],
    rows: Iterable[Sequence[str | Text]],
    width: int,
    *,
    texts: Sequence[str] = (),
) -> Table | Group:
    """A table, or, where the terminal is too narrow for it, its rows one below the other.

    Args:
        columns: Their titles.
        rows: The cells, without markup.
        width: The terminal's.
        texts: Titles of the columns of text, which are cut at the terminal's edge; all others hold
            numbers and names, which are never cut. The first column breaks between words.
    """
    titles = [_text(title) for title in columns]
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [
        max(cell_len(line) for text in (title, *(row[n] for row in cells)) for line in _lines(text))
        for n, title in enumerate(titles)
    ]
    # The first column and those of text share what the others leave.
    giving = [n for n, title in enumerate(titles) if n == 0 or title.plain in texts]
    room = width - GAP * len(titles) - sum(widths) + sum(widths[n] for n in giving)
    least = {n: min(widths[n], LEAST_TEXT) for n in giving}
    if titles[0].plain not in texts:
        names = (word for text in (titles[0], *(row[0] for row in cells)) for word in _words(text))
        least[0] = max(names, default=0)
    if room < sum(least.values()):
        return _one_below_the_other(titles, cells, texts, width)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, title in enumerate(titles):
        if n in giving:
            later = sum(least[k] for k in giving if k > n)
            widths[n] = min(widths[n], room - later)
            room -= widths[n]
        is_text = title.plain in texts
        found.add_column(
            title,
            justify="left" if n == 0 or is_text else "right",
            overflow="ellipsis" if is_text else "fold",
            no_wrap=n > 0 or is_text,
            width=widths[n],
        )
    for row in cells:
        found.add_row(*row)
    return found


def side_by_side(texts: Sequence[Text], width: int) -> Group:
    """Texts in as few lines as they fit, none of them broken."""
    lines: list[Text] = []
    for text in texts:
        if lines and lines[-1].cell_len + 2 + text.cell_len <= width:
            lines[-1] = Text("  ").join((lines[-1], text))
        else:
            lines.append(text)
    return Group(*lines)


def _one_below_the_other(
    titles: Sequence[Text], rows: Sequence[Sequence[Text]], texts: Sequence[str], width: int
) -> Group:
    """Each row as `title value` pairs, its texts in lines of their own."""
    parts: list[RenderableType] = []
    for row in rows:
        pairs, below = [], []
        for title, cell in zip(titles, row, strict=True):
            named = Text(" ".join(_lines(title)), "dim")
            if title.plain in texts:
                line = Text("  ").append_text(named).append(" ").append_text(cell)
                line.truncate(width, overflow="ellipsis")
                below += [line] if cell.plain else []
            elif cell.plain:
                pairs.append(Text(" ").join(part for part in (named, cell) if part.plain))
        parts += [side_by_side(pairs, width), *below, ""]
    return Group(*parts)


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _words(text: Text) -> list[int]:
    """The widths of the words."""
    return [cell_len(word) for word in text.plain.split()]


def _lines(text: Text) -> list[str]:
    return text.plain.split("\n")
