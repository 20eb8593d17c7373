"""What a grader that came over the network may not do, and where its judges are.

A grader of a client's is a JSON object: it names no module of Python, no file and no address, since
the server would go there with its own rights. Judges are asked at `--judge-url`, or are models of
this server; `resolve_judges` writes down which. Nothing here needs jax.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeGuard

from rft_jax.serve.bodies import kind
from rft_jax.serve.errors import ApiError

if TYPE_CHECKING:
    from rft_jax.utils.types import JsonObject

JUDGES = ("score_model", "label_model")
# Environment variables of the processes that grade: the key for `--judge-url`, which whoever starts
# the server may set, and the server's own.
JUDGE_KEY_ENV = "RFT_JUDGE_KEY"
SERVER_KEY_ENV = "RFT_JUDGE_SERVER_KEY"
_MOST_PYTHON = 16  # graders in Python inside of one: each has its own sandboxed processes


def refusal(param: str, problem: str) -> ApiError:
    """The error for a place in a grader."""
    return ApiError(400, f"{param}: {problem}", param=param)


def check_shape(grader: object, param: str) -> JsonObject:
    """Looks whether a grader is an object that stays within this server.

    Args:
        grader: As it came.
        param: The dotted path of the grader in the body.

    Returns:
        The grader.

    Raises:
        ApiError: 400, with the path inside of the grader.
    """
    if not isinstance(grader, dict):
        raise refusal(param, f"must be an object with a grader, not {kind(grader)}")
    in_python = 0
    for path, part in parts_of(grader, param):
        if part.get("type") == "endpoint":
            raise refusal(
                f"{path}.type", "endpoint is not served here, as the server would call any address"
            )
        if part.get("type") in JUDGES:
            for key in ("base_url", "api_key_env"):
                if key in part:
                    raise refusal(
                        f"{path}.{key}", "is not taken here; the server knows where its judges are"
                    )
            if str(part.get("model", "")).startswith("device:"):
                raise refusal(
                    f"{path}.model", "device: reads a folder of the server; name a model it serves"
                )
        in_python += part.get("type") == "python"
    if in_python > _MOST_PYTHON:
        raise refusal(param, f"has {in_python} graders of type python; {_MOST_PYTHON} at most")
    return grader


def parts_of(grader: JsonObject, path: str) -> Iterator[tuple[str, JsonObject]]:
    """A grader and those inside of it, each with its path."""
    yield path, grader
    below = grader.get("graders")
    if isinstance(below, dict):
        named = [(f"{path}.graders.{key}", part) for key, part in below.items()]
    elif isinstance(below, list):
        named = [(f"{path}.graders[{n}]", part) for n, part in enumerate(below)]
    else:
        named = []
    if _is_grader(single := grader.get("grader")):  # of a regex, for what it captures
        named.append((f"{path}.grader", single))
    for inside, part in named:
        if _is_grader(part):
            yield from parts_of(part, inside)


def _is_grader(part: object) -> TypeGuard[JsonObject]:
    return isinstance(part, dict)


def resolve_judges(
    grader: JsonObject,
    param: str,
    judge_url: str,
    server_url: str,
    is_served: Callable[[str], bool],
) -> JsonObject:
    """The grader with the address of each judge in it, for the processes that grade.

    Args:
        grader: From `check_shape`.
        param: The dotted path of the grader in the body.
        judge_url: That of `--judge-url`; "" for none.
        server_url: This server's own, with /v1.
        is_served: Whether a name is that of a model of this server.

    Raises:
        ApiError: 400, for a judge that is nowhere.
    """
    for path, part in parts_of(grader, param):
        model = part.get("model")
        if part.get("type") in JUDGES and isinstance(model, str):
            if not is_served(model) and not judge_url:
                raise refusal(
                    f"{path}.model",
                    f"{model!r} is no model of this server, which was started without --judge-url; "
                    "name one of GET /v1/models",
                )
    return _resolved(grader, judge_url, server_url, is_served)


def _resolved(
    grader: JsonObject, judge_url: str, server_url: str, is_served: Callable[[str], bool]
) -> JsonObject:
    copy = dict(grader)
    model = copy.get("model")
    if copy.get("type") in JUDGES and isinstance(model, str):
        if is_served(model):
            copy |= {"base_url": server_url, "api_key_env": SERVER_KEY_ENV}
        elif os.environ.get(JUDGE_KEY_ENV):
            copy |= {"base_url": judge_url, "api_key_env": JUDGE_KEY_ENV}
        else:
            copy |= {"base_url": judge_url}

    def inside(part: object) -> object:
        return _resolved(part, judge_url, server_url, is_served) if _is_grader(part) else part

    below = copy.get("graders")
    if isinstance(below, dict):
        copy["graders"] = {key: inside(part) for key, part in below.items()}
    elif isinstance(below, list):
        copy["graders"] = [inside(part) for part in below]
    if "grader" in copy:
        copy["grader"] = inside(copy["grader"])
    return copy
