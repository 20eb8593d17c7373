"""The grader types, and reading a grader's JSON: `load_grader`."""

import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft_jax.graders import device_judge
from rft_jax.graders.choice import Choice
from rft_jax.graders.format import Format
from rft_jax.graders.function import FunctionGrader
from rft_jax.graders.host import Endpoint, LabelModel, PythonGrader, ScoreModel
from rft_jax.graders.json_schema import JsonSchema
from rft_jax.graders.length import Length
from rft_jax.graders.list_overlap import ListOverlap
from rft_jax.graders.multi import Multi
from rft_jax.graders.number import Number
from rft_jax.graders.rank import Rank
from rft_jax.graders.regex import Regex
from rft_jax.graders.repetition import Repetition
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.string_check import StringCheck
from rft_jax.graders.text_similarity import TextSimilarity
from rft_jax.graders.types import GraderType
from rft_jax.utils.errors import InputError

_IN_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

TYPES: dict[str, type[GraderType]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "regex": Regex,
    "choice": Choice,
    "rank": Rank,
    "number": Number,
    "list_overlap": ListOverlap,
    "json_schema": JsonSchema,
    "format": Format,
    "length": Length,
    "repetition": Repetition,
    "python": PythonGrader,
    "endpoint": Endpoint,
    "score_model": ScoreModel,
    "label_model": LabelModel,
    "multi": Multi,
}
# In their place if the JSON names a judge on the device.
DEVICE_JUDGES: dict[str, type[GraderType]] = {
    "score_model": device_judge.ScoreModel,
    "label_model": device_judge.LabelModel,
}


def load_grader(grader: str | Path | Mapping[str, Any]) -> GraderType:
    """Reads and validates a grader.

    Args:
        grader: a JSON file in OpenAI's format, or its content; or "package.module:name" for one
            made with `function.device_grader`.

    Returns:
        The grader's specification.

    Raises:
        InputError: naming the file, the path inside the JSON and the remedy.
    """
    if _is_function(grader):
        return _import(*grader.split(":"))
    return parse_grader(_read(grader), "")


def load_pass_threshold(grader: str | Path | Mapping[str, Any]) -> float | None:
    """The grader's `pass_threshold`: the reward from which a sample passes; None without one.

    Args:
        grader: as for `load_grader`.

    Raises:
        InputError: it is not a number.
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
        grader: as for `load_grader`, which has read it.
    """
    if isinstance(grader, Mapping):
        return None
    if _is_function(grader):
        return getattr(sys.modules.get(grader.split(":")[0]), "__file__", None)
    return str(grader)


def _is_function(grader: str | Path | Mapping[str, Any]) -> bool:
    named = isinstance(grader, str) and _IN_MODULE.fullmatch(grader)
    return bool(named) and not Path(grader).exists()


def _read(grader: str | Path | Mapping[str, Any]) -> Fields:
    """The outermost object of a grader's JSON."""
    if isinstance(grader, Mapping):
        return Fields(grader, "", "", parse_grader)
    source = str(grader)
    try:
        values = json.loads(Path(grader).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 at byte {error.start}; convert the file") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source}, line {error.lineno}: not JSON ({error.msg}); correct it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not usable as JSON ({error}); correct it") from None
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold one JSON object with a grader; correct it")
    return Fields(values, source, "", parse_grader)


def _import(module: str, name: str) -> GraderType:
    try:
        grader = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a user's module raises
        kind = type(error).__name__
        raise InputError(
            f"{module}: cannot be imported ({kind}: {error}); install it or correct it"
        ) from None
    if grader is None:
        raise InputError(f"{module}: has no {name}; correct the grader's name")
    if not isinstance(grader, FunctionGrader):
        raise InputError(f"{module}:{name}: is no grader; make it one with @device_grader(...)")
    return grader


def parse_grader(fields: Fields, name: str) -> GraderType:
    """Reads the grader in an object.

    Args:
        fields: of the object.
        name: what the grader is called; if empty its `name`, or else its type.
    """
    kind = fields.choice("type", tuple(TYPES))
    own_name = fields.string("name") if "name" in fields.values else kind
    types = TYPES | (DEVICE_JUDGES if device_judge.is_on_device(fields) else {})
    return types[kind].parse(name or own_name, fields)
