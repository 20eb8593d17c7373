"""A configuration as text: single settings from the command line, and JSON in a work directory.

config = apply_overrides(config, {"stages.rft.steps": "200"})  # --config.stages.rft.steps=200
config = from_json(to_json(config))
"""

import ast
import dataclasses
import importlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft_jax.config import Config, DataConfig
from rft_jax.config.elsewhere import remedy, setting_for
from rft_jax.config.types import (
    MISMATCH,
    alternatives,
    convert,
    describe,
    is_settings,
    is_settings_class,
)
from rft_jax.utils.errors import InputError
from rft_jax.utils.suggestions import did_you_mean

_PACKAGE = "rft_jax.config"


def apply_overrides(config: Any, overrides: Mapping[str, str]) -> Any:
    """Returns `config` with settings replaced, e.g. {"stages.rft.steps": "200"}.

    Members of `models` and `stages` are addressed by their names. Values are parsed as Python
    literals of the setting's type; what is not a literal is a string.

    Raises:
        InputError: For an unknown setting or a value of the wrong type.
    """
    for path, text in overrides.items():
        config = _replace(config, path.split("."), text, path)
    return config


def _replace(node: Any, path: list[str], text: str, setting: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):
        names = [member.name for member in node]
        if name not in names or not rest:
            hint = f"{meant} " if (meant := did_you_mean(name, names)) else ""
            raise InputError(
                f"{setting}: {hint}expected one of {', '.join(names)} and a setting of it"
            )
        return tuple(
            _replace(member, rest, text, setting) if member.name == name else member
            for member in node
        )
    if name not in _settings_of(node):
        raise InputError(f"{setting}: there is no setting {name!r}{_remedy(node, path, setting)}")
    kind = typing.get_type_hints(type(node))[name]
    if rest:
        value = _replace(_section(getattr(node, name), kind), rest, text, setting)
    else:
        value = _parse(text, kind, setting)
    return dataclasses.replace(node, **{name: value})


def _remedy(node: Any, path: list[str], setting: str) -> str:
    """What may be meant by a setting of which a section does not have `path`."""
    name, known = path[0], _settings_of(node)
    if within := [k for k in known if name in _settings_of(getattr(node, k))]:
        return f"; did you mean {within[0]}.{name}? known here: {', '.join(known)}"
    alike = did_you_mean(name, known)
    elsewhere = setting_for(name, setting) or ("" if alike else setting_for(setting, setting))
    section = "".join(f"{part}." for part in setting.split(".")[: -len(path)])
    # A stage of another kind may have it at another place.
    if elsewhere.startswith(section):
        fits = not known or elsewhere.removeprefix(section).partition(".")[0] in known
    else:
        fits = bool(elsewhere)
    if fits and elsewhere:
        return f"; {remedy(setting, elsewhere)}"
    return f"; {alike + ' ' if alike else ''}known here: {', '.join(known)}" if known else ""


def _settings_of(node: Any) -> list[str]:
    """The names of a section's settings; empty for a value."""
    return [f.name for f in dataclasses.fields(node)] if is_settings(node) else []


def _section(value: Any, kind: Any) -> Any:
    """The settings themselves; with their defaults, if they are left out and can be of one kind."""
    kinds = [option for option in alternatives(kind) if is_settings_class(option)]
    return kinds[0]() if value is None and len(kinds) == 1 else value


def _parse(text: str, kind: Any, setting: str) -> Any:
    # A word that the setting knows is that word, `none` too.
    if any(text in typing.get_args(option) for option in alternatives(kind)):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    for candidate in (value, text):
        for option in alternatives(kind):
            if (converted := convert(candidate, option)) is not MISMATCH:
                return converted
    raise InputError(f"{setting}: {text!r} is not {describe(kind)}")


def to_json(config: Any) -> Any:
    """A JSON value from which `from_json` rebuilds the configuration."""
    if is_settings(config):
        kind = type(config)
        values = {f.name: _field_to_json(f, config) for f in dataclasses.fields(config)}
        return {"class": f"{kind.__module__}:{kind.__qualname__}", **values}
    if isinstance(config, tuple | list):
        return [to_json(member) for member in config]
    return config


def _field_to_json(setting: dataclasses.Field, config: Any) -> Any:
    value = getattr(config, setting.name)
    if "algorithms" in setting.metadata and value is not None:
        return setting.metadata["algorithms"].stored(value)
    return to_json(value)


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, dict) and "class" in value:
        module, name = value["class"].split(":")
        # Any release may have had a class of `config` in another file of it.
        if module.startswith(f"{_PACKAGE}."):
            module = _PACKAGE
        kind = getattr(importlib.import_module(module), name)
        ours = module.split(".")[0] == __name__.split(".")[0]
        if not is_settings_class(kind) or not (ours or issubclass(kind, DataConfig)):
            raise ValueError(f"{value['class']} is no class of settings")
        return kind(**{key: from_json(v) for key, v in value.items() if key != "class"})
    if isinstance(value, list):
        return tuple(from_json(member) for member in value)
    return value


def read_config(stored: Path) -> Config:
    """The configuration of a work directory, from its `config.json`.

    Raises:
        InputError: It cannot be read, or was written by another version or an experiment file
            whose data class cannot be imported.
    """
    try:
        value = json.loads(stored.read_text())
        if value.get("class") == "rft_jax.config:Config":
            raise InputError(
                f"{stored}: was written by rft_jax 0.1, whose settings have other names now; use "
                "another work directory"
            )
        config = from_json(value)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InputError(
            f"{stored}: cannot be read as a run's configuration ({error}); if another version of "
            "rft_jax wrote it, use that one or another work directory; keep data classes of your "
            "own in a module that can be imported"
        ) from None
    if not isinstance(config, Config):
        raise InputError(f"{stored}: is not a run's configuration; use another work directory")
    return config


def differences(old: object, new: object, path: str = "") -> list[str]:
    """The settings in which two `to_json` values differ, as `a.b: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            line
            for index, (a, b) in enumerate(pairs)
            for line in differences(a, b, f"{path}.{a['name'] if _named(a) else index}")
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def _named(value: object) -> bool:
    return isinstance(value, dict) and "name" in value
