"""Where each node of a grader runs: on the device whenever it can, else, or if asked, on the host.

A node on the host is wrapped in `OnHost`. It is asked first, through `HostGrading`; on the device
it then is a node like any other, which reads what was found.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft_jax.config import HostOptions
from rft_jax.graders.device_judge import DeviceJudge
from rft_jax.graders.multi import Multi
from rft_jax.graders.types import (
    ERRORS,
    GraderType,
    HostGraderType,
    HostSample,
    HostScore,
    HostSession,
    HostView,
    Items,
    SampleView,
    Score,
)
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class OnHost:
    """A node that runs on the host; on the device it is what was found there."""

    grader: GraderType | HostGraderType

    @property
    def name(self) -> str:
        """The node's name."""
        return self.grader.name

    def encode(self, items: Items) -> tuple[()]:
        """Checks the items; nothing of them is needed on the device."""
        if isinstance(self.grader, HostGraderType):
            self.grader.check(items)
        else:
            self.grader.encode(items)
        return ()

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        del encoded
        return view.on_host[self.name]

    def open(self, options: HostOptions) -> contextlib.AbstractContextManager[HostSession]:
        """See `HostGraderType.open`."""
        if isinstance(self.grader, HostGraderType):
            return self.grader.open(options)
        return contextlib.nullcontext(OneByOne(self.grader))


class OneByOne:
    """A session that grades in plain Python, one sample after the other."""

    def __init__(self, grader: GraderType):
        self._grader = grader

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`."""
        return [
            self._grader.score_on_host(HostView(sample), items, n)
            for sample, n in zip(samples, rows, strict=True)
        ]


def place(grader: GraderType | HostGraderType, placement: str) -> GraderType:
    """The grader with its nodes on the host marked as such.

    Args:
        grader: from `load_grader`.
        placement: "auto", "device" or "host"; "device" refuses what cannot run there.

    Raises:
        InputError: naming the node that cannot run there.
    """
    if isinstance(grader, Multi):
        parts = tuple(place(part, placement) for part in grader.graders)
        return dataclasses.replace(grader, graders=parts)
    if isinstance(grader, DeviceJudge) and placement == "host":
        raise InputError(f"{grader.name}: its judge is on the device; use placement auto")
    only_host = isinstance(grader, HostGraderType)
    if only_host and placement == "device":
        raise InputError(
            f"{grader.name}: {type_name(grader)} runs on the host only; use placement auto"
        )
    return OnHost(grader) if only_host or placement == "host" else grader


def explain(grader: GraderType) -> Iterator[dict[str, str]]:
    """For every node of a placed grader its name, type, where it runs and why."""
    if isinstance(grader, Multi):
        yield _line(grader, "device", "formulas of scores always do")
        for part in grader.graders:
            yield from explain(part)
    elif isinstance(grader, DeviceJudge):
        yield _line(grader, "device judge", f"the frozen model {grader.model}")
    elif not isinstance(grader, OnHost):
        yield _line(grader, "device", "a jnp function")
    elif isinstance(grader.grader, HostGraderType):
        yield _line(grader.grader, "host", "what it needs is not on the device")
    else:
        yield _line(grader.grader, "host", "asked for; its reference library")


def _line(grader: Any, where: str, why: str) -> dict[str, str]:
    return {"node": grader.name, "type": type_name(grader), "runs_on": where, "why": why}


def type_name(grader: Any) -> str:
    """A node's type as in a grader's JSON, which its class is named after."""
    grader = grader.grader if isinstance(grader, OnHost) else grader
    name = type(grader).__name__.removesuffix("Grader")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class HostGrading:
    """The open nodes on the host; a context manager."""

    def __init__(self, nodes: Sequence[OnHost], options: HostOptions):
        self._nodes, self._options = nodes, options
        self._stack = contextlib.ExitStack()
        self._sessions: dict[str, HostSession] = {}

    def __enter__(self) -> "HostGrading":
        with contextlib.ExitStack() as stack:
            for node in self._nodes:
                self._sessions[node.name] = stack.enter_context(node.open(self._options))
            self._threads = stack.enter_context(ThreadPoolExecutor(max(1, len(self._nodes))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def grade(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> tuple[dict[str, Score], list[str]]:
        """Asks every node about N samples, the nodes side by side.

        Args:
            samples: N completions; graders that can run on the host only are not asked about those
                without an answer, or cut.
            items: the data set.
            rows: int[N], the item of each sample.

        Returns:
            What they found, NumPy arrays [N] by the node's name; and what went wrong, for people.
        """
        everyone = list(range(len(samples)))
        # One at least, for the names of the details.
        answered = [i for i in everyone if samples[i].has_answer and not samples[i].overflow]
        answered = answered or everyone[:1]
        pending = []
        for node in self._nodes:
            asked = answered if isinstance(node.grader, HostGraderType) else everyone
            arguments = [samples[i] for i in asked], items, [int(rows[i]) for i in asked]
            session = self._sessions[node.name]
            pending.append((node, asked, self._threads.submit(session.grade_batch, *arguments)))
        found, messages = {}, []
        for node, asked, future in pending:
            scores = dict(zip(asked, future.result(), strict=True))
            found[node.name] = _collect([scores.get(i) for i in everyone])
            messages += [f"{node.name}: {s.message}" for s in scores.values() if s.message]
        return found, messages


def _collect(scores: Sequence[HostScore | None]) -> Score:
    """Arrays [N]; zero where nothing was asked."""
    empty = HostScore(0.0)
    rows = [score or empty for score in scores]
    names = next((score.details for score in scores if score), {})
    return Score(
        np.array([row.score for row in rows], np.float32),
        {error: np.array([error in row.errors for row in rows], bool) for error in ERRORS},
        {name: np.array([row.details.get(name, 0) for row in rows], np.float32) for name in names},
        {},
    )


def judge_models(grader: GraderType) -> dict[str, str]:
    """Of the nodes that ask a model at a server, by name, the model."""
    asked = {node.name: getattr(node.grader, "judge", None) for node in nodes_on_host(grader)}
    return {name: judge.model for name, judge in asked.items() if judge is not None}


def nodes_on_host(grader: GraderType) -> tuple[OnHost, ...]:
    """The nodes of a placed grader that run on the host."""
    parts = grader.graders if isinstance(grader, Multi) else (grader,)
    return tuple(part for part in parts if isinstance(part, OnHost))
