"""The settings for people: each with its default and the comment that stands with it in schema.py.

print(settings_text())      # the end of `rft train --help`
"""

import ast
import dataclasses
import inspect
import io
import shutil
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from rft_jax.config import schema

_LEFT = 46  # columns of names and defaults
_STAGES = (schema.SFTStage, schema.RLStage, schema.EvalStage)


class Setting(NamedTuple):
    """One setting, its default as Python, and one sentence or none."""

    path: str
    default: str
    note: str


def settings_text() -> str:
    """All settings, in columns as wide as the terminal."""
    width = max(shutil.get_terminal_size().columns, 80)
    parts = ["settings (an experiment may have other defaults):"]
    for title, found in _sections():
        parts += ["", *textwrap.wrap(title, width)] if title else [""]
        parts += [line for setting in found for line in _lines(setting, width)]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, list[Setting]]]:
    notes = _notes()
    whole = list(_walk(schema.Config(), "", notes))
    yield "", [setting for setting in whole if setting.path not in ("models", "stages")]
    yield "of each model:", list(_walk(schema.ModelConfig(), "models.NAME.", notes))
    for kind in _STAGES:
        purpose = inspect.getdoc(kind).splitlines()[0]
        title = f"of each stage that is a {kind.__name__}: {purpose}"
        yield title, list(_walk(kind(), "stages.NAME.", notes))


def _walk(node: Any, prefix: str, notes: dict[tuple[str, str], str]) -> Iterator[Setting]:
    """The settings of a data class and of those in it."""
    for field in dataclasses.fields(node):
        value, path = getattr(node, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{path}.", notes)
        else:
            yield Setting(path, repr(value), notes.get((type(node).__name__, field.name), ""))


def _notes() -> dict[tuple[str, str], str]:
    """The comment behind each field, or in the lines right above it, by class and field."""
    source = inspect.getsource(schema)
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    found = {}
    for kind in ast.walk(ast.parse(source)):
        for node in kind.body if isinstance(kind, ast.ClassDef) else ():
            if not isinstance(node, ast.AnnAssign):
                continue
            lines, above = [], node.lineno - 1
            while above in alone:
                lines.insert(0, comments[above])
                above -= 1
            if node.end_lineno in comments:
                lines.append(comments[node.end_lineno])
            found[kind.name, node.target.id] = " ".join(lines)
    return found


def _lines(setting: Setting, width: int) -> list[str]:
    left = f"  --config.{setting.path}={setting.default}"
    notes = textwrap.wrap(setting.note, width - _LEFT)
    if len(left) >= _LEFT or not notes:
        return [left, *(" " * _LEFT + note for note in notes)]
    return [left.ljust(_LEFT) + notes[0], *(" " * _LEFT + note for note in notes[1:])]
