"""The grader types, and reading a grader's JSON: `load_grader`."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from rft_jax.graders import device_judge
from rft_jax.graders.choice import Choice
from rft_jax.graders.format import Format
from rft_jax.graders.function import BrokenGrader, FunctionGrader, deferred_errors
from rft_jax.graders.host import Endpoint, LabelModel, PythonGrader, ScoreModel
from rft_jax.graders.json_schema import JsonSchema
from rft_jax.graders.length import Length
from rft_jax.graders.list_overlap import ListOverlap
from rft_jax.graders.math import Math
from rft_jax.graders.multi import Multi
from rft_jax.graders.number import Number
from rft_jax.graders.protocols import GraderType, HostGraderType
from rft_jax.graders.rank import Rank
from rft_jax.graders.regex import Regex
from rft_jax.graders.repetition import Repetition
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.string_check import StringCheck
from rft_jax.graders.switch import Switch
from rft_jax.graders.text_similarity import TextSimilarity
from rft_jax.utils.errors import InputError
from rft_jax.utils.references import import_module, is_reference

_IN_FILE = re.compile(r"(.+)\.py(?::([A-Za-z_]\w*))?")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")

# The grader types; what a grader's JSON calls each is its `type_name`.
CLASSES = (
    StringCheck,
    TextSimilarity,
    Regex,
    Choice,
    Rank,
    Number,
    Math,
    ListOverlap,
    JsonSchema,
    Format,
    Length,
    Repetition,
    PythonGrader,
    Endpoint,
    ScoreModel,
    LabelModel,
    Multi,
    Switch,
)
TYPES: dict[str, type[GraderType] | type[HostGraderType]] = {c.type_name: c for c in CLASSES}
# In their place if the JSON names a judge on the device.
DEVICE_JUDGES: dict[str, type[GraderType] | type[HostGraderType]] = {
    c.type_name: c for c in (device_judge.ScoreModel, device_judge.LabelModel)
}


def load_grader(grader: str | Path | Mapping[str, Any]) -> GraderType | HostGraderType:
    """Reads and validates a grader.

    Args:
        grader: A JSON file in OpenAI's format, or its content; or "package.module:name" for one
            made with `function.device_grader`.

    Returns:
        The grader's specification.

    Raises:
        InputError: Naming the file, the path inside the JSON and the remedy.
    """
    if isinstance(grader, str) and (match := _IN_FILE.fullmatch(grader)):
        module = match[1].replace("/", ".").strip(".")
        raise InputError(
            f"{grader}: a grader of a Python module is named without .py; write "
            f"{module}:{match[2] or 'NAME'}"
        )
    if _is_function(grader):
        module, name = grader.split(":")
        return _import(module, name)
    return parse_grader(_read(grader), "")


def load_pass_threshold(grader: str | Path | Mapping[str, Any]) -> float | None:
    """The grader's `pass_threshold`: the reward from which a sample passes; None without one.

    Args:
        grader: As for `load_grader`.

    Raises:
        InputError: It is not a number.
    """
    if _is_function(grader):
        return None
    fields = _read(grader)
    threshold = fields.values.get("pass_threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise fields.error("pass_threshold", f"must be a number, not {threshold!r}")
    return threshold


def grader_file(grader: str | Path | Mapping[str, Any]) -> str | None:
    """The file that a grader is read from: its JSON, or the module of a function; None without one.

    Args:
        grader: As for `load_grader`, which has read it.
    """
    if isinstance(grader, Mapping):
        return None
    if _is_function(grader):
        return getattr(sys.modules.get(grader.split(":")[0]), "__file__", None)
    return str(grader)


def _is_function(grader: str | Path | Mapping[str, Any]) -> TypeGuard[str]:
    return isinstance(grader, str) and is_reference(grader) and not Path(grader).exists()


def _read(grader: str | Path | Mapping[str, Any]) -> Fields:
    """The outermost object of a grader's JSON."""
    if isinstance(grader, Mapping):
        return Fields(grader, "", "", parse_grader)
    source = str(grader)
    try:
        text = Path(grader).read_text(encoding="utf-8-sig")  # a byte order mark is harmless
        values = json.loads(text, object_pairs_hook=_refuse_repeats)
    except OSError as error:
        if _MODULE.fullmatch(source) and not source.endswith(".json"):
            raise InputError(
                f"{source}: there is no such file; for a grader of a Python module write "
                f"{source}:NAME"
            ) from None
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 at byte {error.start}; convert the file") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}); correct "
            "it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not usable as JSON ({error}); correct it") from None
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold one JSON object with a grader; correct it")
    return Fields(values, source, "", parse_grader)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; for `json.loads`."""
    for k, (key, _) in enumerate(pairs):
        if any(key == other for other, _ in pairs[:k]):
            raise ValueError(f"the key {key!r} stands there twice in one object")
    return dict(pairs)


def _import(module: str, name: str) -> GraderType:
    with deferred_errors():
        found = import_module(module)
    grader = getattr(found, name, None)
    if isinstance(grader, BrokenGrader):
        raise InputError(f"{module}: {grader.problem}")
    if grader is None:
        graders = [n for n, thing in vars(found).items() if isinstance(thing, FunctionGrader)]
        hint = f" (its graders are {', '.join(graders)})" if graders else ""
        raise InputError(f"{module}: has no {name}{hint}; correct the grader's name")
    if not isinstance(grader, FunctionGrader):
        raise InputError(f"{module}:{name}: is no grader; make it one with @device_grader(...)")
    return grader


def parse_grader(fields: Fields, name: str) -> GraderType | HostGraderType:
    """Reads the grader in an object.

    Args:
        fields: The object's.
        name: What the grader is called; if empty its `name`, or else its type.
    """
    kind = fields.choice("type", tuple(TYPES))
    own_name = fields.string("name") if "name" in fields.values else kind
    types = TYPES | (DEVICE_JUDGES if device_judge.is_on_device(fields) else {})
    return types[kind].parse(name or own_name, fields)
