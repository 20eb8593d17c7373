"""Grading one text: what the grader process does; it is told what by `grader_process`.

Most types grade in plain Python here, by the functions that the tests hold against those on the
device, as compiling takes longer than grading one text. Those that need a library for it, or could
take for ever (`re` on a hostile pattern), are compiled.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from rft_jax.config import HostOptions
from rft_jax.graders import Grader, HostGrading, load_grader
from rft_jax.graders.placement import OnHost, judge_models, nodes_on_host, place
from rft_jax.graders.protocols import GraderType, HostGraderType, Ways, leaves, ways_below
from rft_jax.graders.template import MissingVariable
from rft_jax.graders.types import ERRORS, Grade, HostSample, Items, Sample, Score
from rft_jax.strings import from_host
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject, host_array

# OpenAI's flags that no grader here can raise: an answer is always given, so it responds.
_NEVER = ("unresponsive_reward_error",)
_COMPILED = ("regex", "text_similarity", "json_schema")
_TEXT_STEP = 1024  # widths of texts that are compiled for
_OPEN = 8  # graders that stay open, with their sandboxes
_COMPILATIONS = 300  # after which what is compiled is thrown away


def check(spec: JsonObject) -> None:
    """Looks whether a grader can be used.

    Raises:
        InputError: Naming the path inside the JSON and the remedy.
    """
    _build(spec)


def _build(spec: JsonObject) -> GraderType:
    try:
        grader = _place(load_grader(spec))
        hash(grader)  # as compiling does
        return grader
    except RecursionError:
        raise InputError("the grader is nested too deep; make its formula shorter") from None


def _place(grader: GraderType | HostGraderType, ways: Ways = ()) -> GraderType:
    """The grader with each of its nodes on the host, except for those that are compiled."""
    if isinstance(grader, HostGraderType):
        return place(grader, "host", ways)
    if grader.children:
        children = {
            key: _place(child, ways_below(ways, grader, key))
            for key, child in grader.children.items()
        }
        return grader.with_children(children)
    return place(grader, "auto" if grader.type_name in _COMPILED else "host", ways)


@dataclass
class _OpenGrader:
    """A grader with its sandboxes.

    Attributes:
        grader: The grader.
        host: Its nodes on the host, open.
        users: Threads that grade with it now.
    """

    grader: Grader
    host: HostGrading
    users: int = 0


@dataclass
class OpenGraders:
    """Graders that stay open for the next text, the last used ones.

    Attributes:
        options: What they may use.
    """

    options: HostOptions
    _open: OrderedDict[str, _OpenGrader] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def use(self, key: str, make: Callable[[], GraderType]) -> Iterator[_OpenGrader]:
        """The open grader of a key, made if there is none.

        Raises:
            InputError: It cannot be made, or its Python cannot be isolated.
        """
        entry = self._take(key)
        if entry is None:
            grader = Grader(make(), self.options)
            host = HostGrading(nodes_on_host(grader.spec), self.options)
            host.__enter__()
            entry = self._put(key, _OpenGrader(grader, host))
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
            self._close_oldest()

    def _take(self, key: str) -> _OpenGrader | None:
        with self._lock:
            entry = self._open.get(key)
            if entry:
                entry.users += 1
                self._open.move_to_end(key)
            return entry

    def _put(self, key: str, made: _OpenGrader) -> _OpenGrader:
        """Keeps a new one; if another thread was faster, its."""
        with self._lock:
            entry = self._open.setdefault(key, made)
            entry.users += 1
        if entry is not made:
            made.host.__exit__(None, None, None)
        return entry

    def _close_oldest(self) -> None:
        with self._lock:
            idle = [key for key, entry in self._open.items() if not entry.users]
            closed = [self._open.pop(key) for key in idle[: max(0, len(self._open) - _OPEN)]]
        for entry in closed:
            entry.host.__exit__(None, None, None)


def run(
    graders: OpenGraders, key: str, spec: JsonObject, text: str, item: JsonObject
) -> JsonObject:
    """The answer to `/graders/run`: reward, parts, errors, time, tokens of judges.

    Args:
        key: What an open grader is known by.
        spec: The grader's JSON.
        text: The answer to grade.
        item: The row that it answers.

    Raises:
        InputError: The grader, or a value of the item, cannot be used.
    """
    began = time.monotonic()
    with graders.use(key, lambda: _build(spec)) as opened:
        try:
            graded = _grade(opened, text, Items([item], "item"))
        except MissingVariable:
            graded = _Graded(0.0, _parts_alone(graders, key, spec, text, item))
            graded.errors["invalid_variable_error"] = True
        judges = judge_models(opened.grader.spec)
    name = spec.get("name")
    usage = _token_usage(graded.details, judges)
    total = sum(used["total_tokens"] for used in usage.values())
    return {
        "reward": graded.reward,
        "metadata": {
            "name": name if isinstance(name, str) else opened.grader.type_name,
            "type": opened.grader.type_name,
            "errors": graded.errors,
            "execution_time": time.monotonic() - began,
            "scores": graded.parts,
            "token_usage": total if usage else None,
            "sampled_model_name": next(iter(judges.values()), None),
        },
        "sub_rewards": graded.parts,
        "model_grader_token_usage_per_model": usage,
    }


@dataclass
class _Graded:
    """One grade in plain numbers; `parts` are those of a multi."""

    reward: float
    parts: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    errors: dict[str, bool | str | None] = field(default_factory=lambda: _no_errors())


def _no_errors() -> dict[str, bool | str | None]:
    words = (
        "python_grader_server_error_type",
        "python_grader_runtime_error_details",
        "model_grader_server_error_details",
    )
    return {**dict.fromkeys((*ERRORS, *_NEVER), False), **dict.fromkeys(words)}


def _grade(opened: _OpenGrader, text: str, items: Items) -> _Graded:
    grader = opened.grader
    fields = jax.tree.map(np.asarray, grader.encode_items(items.rows, items.source))
    size = len(text.encode())
    sample = Sample(
        output_text=from_host([text], _TEXT_STEP * (size // _TEXT_STEP + 1)),
        has_answer=host_array(np.array([True])),
        truncated=host_array(np.array([False])),
        overflow=host_array(np.array([False])),
        completion_tokens=host_array(np.array([0], np.int32)),
    )
    found, messages = opened.host.grade([HostSample(text)], items, [0])
    if all(isinstance(node, OnHost) for node in leaves(grader.spec)):
        grade = grader.grade(sample, fields, found)  # a few sums: not worth compiling
    else:
        grade = _compiled(grader, sample, fields, found)
    grade = jax.device_get(grade)
    graded = _Graded(_plain(grade.reward), details=_plain_all(grade.details))
    if grader.type_name == "multi":
        graded.parts = _plain_all(grade.scores)
    graded.errors |= {name: bool(flag[0]) for name, flag in grade.errors.items()}
    _tell_failures(graded.errors, grader.spec, found, messages)
    return graded


_compilations = 0


def _compiled(grader: Grader, sample: Sample, fields: object, found: Mapping[str, Score]) -> Grade:
    """`Grader.grade`, compiled; every width of texts of the item compiles anew."""
    global _compilations
    _compilations += 1
    if _compilations % _COMPILATIONS == 0:
        jax.clear_caches()
    return _jitted(grader, sample, fields, found)


@functools.partial(jax.jit, static_argnums=0)
def _jitted(grader: Grader, sample: Sample, fields: Any, found: Mapping[str, Score]) -> Grade:
    return grader.grade(sample, fields, found)


def _plain(value: np.ndarray) -> float:
    """A float32 as the shortest number that means it: 0.7, and not 0.699999988."""
    return float(str(np.asarray(value, np.float32)[0]))


def _plain_all(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: _plain(value) for name, value in values.items()}


def _tell_failures(
    errors: dict[str, bool | str | None],
    spec: GraderType,
    found: Mapping[str, Score],
    messages: list[str],
) -> None:
    """Adds what went wrong on the host, in words; a time-out is an error of the Python grader's."""
    nodes = nodes_on_host(spec)
    late = [
        node
        for node in nodes
        if node.type_name == "python" and _flag(found, node, "python_grader_runtime_error")
    ]
    if late:
        errors["python_grader_runtime_error"] = True
        errors["other_error"] = any(
            _flag(found, node, "other_error") for node in nodes if node not in late
        )
    for error, told in (
        ("python_grader_server_error", "python_grader_server_error_type"),
        ("python_grader_runtime_error", "python_grader_runtime_error_details"),
        ("model_grader_server_error", "model_grader_server_error_details"),
    ):
        starts = [f"{node.name}: " for node in nodes if _flag(found, node, error)]
        said = [
            message.removeprefix(start)
            for start in starts
            for message in messages
            if message.startswith(start)
        ]
        # Half of a surrogate pair, which an exception may hold, is no text of an answer in JSON.
        shown = "\n".join(dict.fromkeys(said)).encode(errors="replace").decode()
        errors[told] = shown or None


def _flag(found: Mapping[str, Score], node: OnHost, error: str) -> bool:
    errors = found[node.name].errors  # those that the node can have
    return error in errors and bool(np.asarray(errors[error])[0])


def _parts_alone(
    graders: OpenGraders, key: str, spec: JsonObject, text: str, item: JsonObject
) -> dict[str, float]:
    """The scores of a multi's parts where the item lacks what one of them needs, which earns 0."""
    if spec.get("type") != "multi":
        return {}
    below = spec["graders"]
    named = below if isinstance(below, dict) else {part["name"]: part for part in below}
    scores = {}
    for name, part in named.items():
        with graders.use(f"{key}/{name}", functools.partial(_build, part)) as opened:
            try:
                scores[name] = _grade(opened, text, Items([item], "item")).reward
            except MissingVariable:
                scores[name] = 0.0
    return scores


def _token_usage(
    details: Mapping[str, float], judges: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """By model, the tokens that judges took."""
    usage: dict[str, dict[str, int]] = {}
    for name, model in judges.items():
        prompt = int(details.get(f"{name}/prompt_tokens", 0))
        completion = int(details.get(f"{name}/completion_tokens", 0))
        used = usage.setdefault(
            model,
            {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cached_tokens": 0},
        )
        used["prompt_tokens"] += prompt
        used["completion_tokens"] += completion
        used["total_tokens"] += prompt + completion
    return usage
