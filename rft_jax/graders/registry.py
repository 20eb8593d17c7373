"""The grader types, and reading a grader's JSON: `load_grader`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft_jax.errors import InputError
from rft_jax.graders.fields import Fields
from rft_jax.graders.multi import Multi
from rft_jax.graders.rank import Rank
from rft_jax.graders.string_check import StringCheck
from rft_jax.graders.types import GraderType

TYPES: dict[str, type[GraderType]] = {
    "string_check": StringCheck,
    "rank": Rank,
    "multi": Multi,
}


def load_grader(grader: str | Path | Mapping[str, Any]) -> GraderType:
    """Reads and validates a grader.

    Args:
        grader: a JSON file in OpenAI's format, or its content.

    Returns:
        The grader's specification.

    Raises:
        InputError: naming the file, the path inside the JSON and the remedy.
    """
    if isinstance(grader, Mapping):
        return parse_grader(Fields(grader, "", "", parse_grader), "")
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
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold one JSON object with a grader; correct it")
    return parse_grader(Fields(values, source, "", parse_grader), "")


def parse_grader(fields: Fields, name: str) -> GraderType:
    """Reads the grader in an object.

    Args:
        fields: of the object.
        name: what the grader is called; if empty its `name`, or else its type.
    """
    kind = fields.choice("type", tuple(TYPES))
    own_name = fields.string("name") if "name" in fields.values else kind
    return TYPES[kind].parse(name or own_name, fields)
