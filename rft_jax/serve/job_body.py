"""The body of `POST /v1/fine_tuning/jobs`: everything that can be refused without its files."""

import re
import secrets
from dataclasses import dataclass
from typing import Any

from rft_jax.grammars import ResponseFormatError, read_response_format
from rft_jax.serve.bodies import Fields
from rft_jax.serve.errors import ApiError
from rft_jax.serve.settings import AUTO, MOST_EPOCHS
from rft_jax.utils.types import JsonObject

EFFORTS = ("default", "low", "medium", "high")
MOST_SEED = 2**31 - 1
_MOST_STEPS = 2**31 - 1
_MOST_SAMPLES = 128  # of a validation item; all are decoded at once
_MOST_BATCH = 256
_SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROJECT = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class JobBody:
    """A request that may become a job.

    Attributes:
        method: As it is shown, with "auto" for what was not given.
    """

    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: JsonObject | None
    method: JsonObject
    integrations: list[Any] | None


def read_job(body: JsonObject) -> JobBody:
    """Checks a body but for its grader, model and files. Unknown keys at its top are ignored.

    Raises:
        ApiError: 400 with the path of the field.
    """
    fields = Fields(body)
    for key in ("model", "training_file"):
        fields.required(key)
    model, training = fields.string("model", 1), fields.string("training_file", 1)
    assert model is not None and training is not None
    seed = fields.integer("seed", 0, MOST_SEED)
    return JobBody(
        model,
        training,
        fields.string("validation_file", 1),
        _suffix(fields),
        secrets.randbelow(MOST_SEED + 1) if seed is None else seed,
        _metadata(fields),
        _method(fields),
        _integrations(fields),
    )


def wandb_project(integrations: list[Any] | None) -> str:
    """The project of Weights & Biases that a job is shown in; "" for none."""
    return integrations[0]["wandb"]["project"] if integrations else ""


def _suffix(fields: Fields) -> str | None:
    suffix = fields.string("suffix", 1, 64)
    if suffix is not None and not _SUFFIX.fullmatch(suffix):
        raise fields.refusal("suffix", "may hold letters, digits, '.', '_' and '-' only")
    return suffix


def _metadata(fields: Fields) -> JsonObject | None:
    section = fields.section("metadata")
    if section is None:
        return None
    if len(section.values) > 16:
        raise fields.refusal("metadata", f"has {len(section.values)} pairs; at most 16 are kept")
    for key, value in section.values.items():
        if not 1 <= len(key) <= 64 or not isinstance(value, str) or len(value) > 512:
            problem = "keys have 1 to 64 characters, and values are strings of at most 512"
            raise fields.refusal("metadata", problem)
    return section.values


def _integrations(fields: Fields) -> list[Any] | None:
    given = fields.array("integrations")
    if not given:
        return None
    problem = 'may be one {"type": "wandb", "wandb": {"project": NAME}}'
    if len(given) != 1 or not isinstance(given[0], dict) or given[0].get("type") != "wandb":
        raise fields.refusal("integrations", problem)
    section = Fields(given[0], "integrations.0").section("wandb")
    if section is None or not _PROJECT.fullmatch(section.string("project") or ""):
        raise fields.refusal("integrations", problem)
    shown = {"project": section.values["project"]}
    shown |= {key: section.string(key, 0, 256) for key in ("name", "entity")}
    tags = section.array("tags") or []
    if not all(isinstance(tag, str) and len(tag) <= 64 for tag in tags) or len(tags) > 50:
        raise section.refusal("tags", "must be at most 50 strings of at most 64 characters")
    return [{"type": "wandb", "wandb": shown | {"tags": tags}}]


def _method(fields: Fields) -> JsonObject:
    method = fields.section("method")
    if method is None:  # as before there were methods
        return {
            "type": "supervised",
            "supervised": {"hyperparameters": _supervised(fields.section("hyperparameters"))},
        }
    method.required("type")
    kind = method.string("type")
    if kind == "dpo":
        raise method.refusal("type", "dpo is not done here; use reinforcement or supervised")
    if kind not in ("reinforcement", "supervised"):
        raise method.refusal("type", "must be reinforcement or supervised")
    section = method.section(kind)
    if kind == "supervised":
        given = section.section("hyperparameters") if section else None
        return {"type": kind, kind: {"hyperparameters": _supervised(given)}}
    if section is None:
        raise method.refusal(kind, "is missing; add an object with a grader")
    section.required("grader")
    grader = section.section("grader")
    assert grader is not None
    return {
        "type": kind,
        kind: {
            "grader": grader.values,
            "hyperparameters": _reinforcement(section.section("hyperparameters")),
            "response_format": _response_format(section),
        },
    }


def _supervised(given: Fields | None) -> JsonObject:
    given = given or Fields({})
    given.only(("batch_size", "n_epochs", "learning_rate_multiplier"))
    return {
        "batch_size": _integer(given, "batch_size", _MOST_BATCH),
        "n_epochs": _integer(given, "n_epochs", MOST_EPOCHS),
        "learning_rate_multiplier": _number(given, "learning_rate_multiplier", 0),
    }


def _reinforcement(given: Fields | None) -> JsonObject:
    given = given or Fields({})
    names = ("batch_size", "n_epochs", "learning_rate_multiplier", "compute_multiplier")
    given.only((*names, "eval_interval", "eval_samples", "reasoning_effort"))
    effort = given.choice("reasoning_effort", EFFORTS)
    return {
        "batch_size": _integer(given, "batch_size", _MOST_BATCH),
        "n_epochs": _integer(given, "n_epochs", MOST_EPOCHS),
        "learning_rate_multiplier": _number(given, "learning_rate_multiplier", 0),
        "compute_multiplier": _number(given, "compute_multiplier", 1e-5, 10),
        "eval_interval": _integer(given, "eval_interval", _MOST_STEPS),
        "eval_samples": _integer(given, "eval_samples", _MOST_SAMPLES),
        "reasoning_effort": effort or "default",
    }


def _integer(given: Fields, key: str, most: int) -> int | str:
    if given.values.get(key) in (None, AUTO):
        return AUTO
    value = given.integer(key, 1, most)
    assert value is not None
    return value


def _number(given: Fields, key: str, low: float, most: float | None = None) -> float | str:
    if given.values.get(key) in (None, AUTO):
        return AUTO
    value = given.number(key, low, 1e6 if most is None else most, above=True)
    assert value is not None
    return value


def _response_format(section: Fields) -> JsonObject | None:
    """The format, checked; None where answers are free."""
    given = section.section("response_format")
    if given is None:
        return None
    given.required("type")
    given.only(("type", "json_schema", "pattern"))
    try:
        found = read_response_format(given.values, given.where)
        if found is not None:
            found.automaton()
    except ResponseFormatError as error:
        raise ApiError(400, str(error), param=error.place) from None
    return given.values
