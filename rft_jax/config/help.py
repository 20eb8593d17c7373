"""The settings for people: each with its default and the comment that stands with it.

print(settings_text())      # the end of `rft train --help`
"""

import ast
import dataclasses
import inspect
import io
import shutil
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from rft_jax.config import data, model, optimizer, policy_loss, rollout, rope, schema, stages
from rft_jax.config.presets import presets_text
from rft_jax.config.types import alternatives, is_settings_class

_LEFT = 46  # columns of names and defaults
_STAGES = (
    stages.SFTStage,
    stages.RLStage,
    stages.DistillStage,
    stages.SelfDistillStage,
    stages.EvalStage,
)


class Setting(NamedTuple):
    """One setting, its default as Python, and its comment and allowed values, if any."""

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
    parts += ["", presets_text(width)]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, list[Setting]]]:
    notes = _notes()
    whole = list(_walk(schema.Config(), "", notes))
    yield "", [setting for setting in whole if setting.path not in ("models", "stages")]
    yield "of each model:", list(_walk(model.ModelConfig(), "models.NAME.", notes))
    for kind in _STAGES:
        purpose = (inspect.getdoc(kind) or "").splitlines()[0]
        title = f"of each stage that is a {kind.__name__}: {purpose}"
        yield title, list(_walk(kind(), "stages.NAME.", notes))


def _walk(node: Any, prefix: str, notes: dict[tuple[str, str], str]) -> Iterator[Setting]:
    """The settings of a data class and of those in it, or that can be in it."""
    kinds = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value, path, kind = getattr(node, field.name), prefix + field.name, kinds[field.name]
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{path}.", notes)
            continue
        owners = (owner.__name__ for owner in type(node).__mro__)
        note = next((notes[at] for owner in owners if (at := (owner, field.name)) in notes), "")
        parts = [part for part in (note, _allowed(field, kind)) if part]
        yield Setting(path, repr(value), "; ".join(part.rstrip(".;") for part in parts))
        inner = [option for option in alternatives(kind) if is_settings_class(option)]
        if value is None and len(inner) == 1:
            yield from _walk(inner[0](), f"{path}.", notes)


def _allowed(field: dataclasses.Field, kind: Any) -> str:
    """The values that a setting can have, where they are few."""
    if algorithms := field.metadata.get("algorithms"):
        names = dict.fromkeys((*algorithms.shipped, *algorithms.functions))
        return f"one of {', '.join(names)}, or module:name"
    if field.name == "reasoning_effort":
        return f"one of {', '.join(rollout.REASONING_EFFORTS)}, or a number"
    for option in alternatives(kind):
        each = typing.get_args(option)[0] if typing.get_origin(option) is tuple else option
        if typing.get_origin(each) is Literal:
            values = ", ".join(map(str, typing.get_args(each)))
            return f"one of {values}" if each is option else f"any of {values}"
    return ""


def _notes() -> dict[tuple[str, str], str]:
    """The comment behind each field, or in the lines right above it, by class and field."""
    found: dict[tuple[str, str], str] = {}
    for module in (data, model, optimizer, policy_loss, rollout, rope, schema, stages):
        found |= _notes_of(inspect.getsource(module))
    return found


def _notes_of(source: str) -> dict[tuple[str, str], str]:
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    found = {}
    for kind in ast.parse(source).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        for node in kind.body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            lines, above = [], node.lineno - 1
            while above in alone:
                lines.insert(0, comments[above])
                above -= 1
            if comment := comments.get(node.end_lineno or node.lineno):
                lines.append(comment)
            found[kind.name, node.target.id] = " ".join(lines)
    return found


def _lines(setting: Setting, width: int) -> list[str]:
    left = f"  --config.{setting.path}={setting.default}"
    notes = textwrap.wrap(setting.note, width - _LEFT)
    if len(left) >= _LEFT or not notes:
        return [left, *(" " * _LEFT + note for note in notes)]
    return [left.ljust(_LEFT) + notes[0], *(" " * _LEFT + note for note in notes[1:])]
