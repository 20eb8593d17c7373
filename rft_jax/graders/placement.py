"""Where each node of a grader runs: on the device whenever it can, else, or if asked, on the host.

A node on the host is wrapped in `OnHost`. It is asked first, through `HostGrading`; on the device
it then is a node like any other, which reads what was found.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft_jax.config import HostOptions
from rft_jax.graders.protocols import (
    GraderType,
    HostGraderType,
    HostlessNode,
    HostSession,
    ProbeTarget,
    ScoresOnHost,
    Ways,
    has_say,
    leaves,
    ways_below,
)
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import ERRORS, HostSample, HostScore, HostView, Items, SampleView, Score
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree, host_array


@dataclass(frozen=True)
class OnHost(HostlessNode):
    """A node that runs on the host; on the device it is what was found there.

    Attributes:
        grader: The node.
        ways: From the nodes above it to the node, of those that choose.
    """

    runs_on = "host"
    grader: GraderType | HostGraderType
    ways: Ways = ()

    @property
    def name(self) -> str:
        """The node's name."""
        return self.grader.name

    @property
    def type_name(self) -> str:
        """The node's type."""
        return self.grader.type_name

    @property
    def why(self) -> str:
        """See `Node.why`."""
        if isinstance(self.grader, HostGraderType):
            return self.grader.why
        return "asked for; its reference library"

    @property
    def only_on_device(self) -> str:
        """See `GraderType.only_on_device`."""
        return "has its place already"

    @property
    def probe_target(self) -> ProbeTarget | None:
        """See `Node.probe_target`."""
        return self.grader.probe_target

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "OnHost":
        """It is made by `place`."""
        raise NotImplementedError

    @property
    def judge_model(self) -> str:
        """See `HostGraderType.judge_model`."""
        return self.grader.judge_model if isinstance(self.grader, HostGraderType) else ""

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

    def grades(self, items: Items, n: int) -> bool:
        """Whether it has a say on the answers to item n."""
        return has_say(self.ways, items, n)

    def open(self, options: HostOptions) -> contextlib.AbstractContextManager[HostSession]:
        """See `HostGraderType.open`."""
        if isinstance(self.grader, HostGraderType):
            return self.grader.open(options)
        if self.grader.asks_host:
            return self.grader.open_host(options)
        return contextlib.nullcontext(OneByOne(self.grader))


@dataclass(frozen=True)
class PartlyOnHost(OnHost):
    """A node on the device that asks the host about what it cannot decide."""

    runs_on = "device, host"
    grader: GraderType

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return self.grader.asks_host

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        return self.grader.encode(items)

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        return self.grader.score(view, encoded)


class OneByOne:
    """A session that grades in plain Python, one sample after the other."""

    def __init__(self, grader: ScoresOnHost):
        self._grader = grader

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`."""
        return [
            self._grader.score_on_host(HostView(sample), items, n)
            for sample, n in zip(samples, rows, strict=True)
        ]


def place(grader: GraderType | HostGraderType, placement: str, ways: Ways = ()) -> GraderType:
    """The grader with its nodes on the host marked as such.

    Args:
        grader: From `load_grader`.
        placement: "auto", "device" or "host"; "device" refuses what cannot run there.
        ways: See `OnHost`.

    Raises:
        InputError: Naming the node that cannot run there.
    """
    if isinstance(grader, HostGraderType):
        if placement == "device":
            raise InputError(
                f"{grader.name}: {grader.type_name} runs on the host only; use placement auto"
            )
        return OnHost(grader, ways)
    if grader.children:
        return grader.with_children(
            {
                key: place(child, placement, ways_below(ways, grader, key))
                for key, child in grader.children.items()
            }
        )
    if placement == "host":
        if grader.only_on_device:
            raise InputError(f"{grader.name}: {grader.only_on_device}; use placement auto")
        return OnHost(grader, ways)
    if grader.asks_host and placement == "device":
        raise InputError(
            f"{grader.name}: what the device cannot decide goes to the host; use placement auto, "
            'or symbolic "off"'
        )
    return PartlyOnHost(grader, ways) if grader.asks_host else grader


def explain(grader: GraderType) -> Iterator[dict[str, str]]:
    """For every node of a placed grader its name, type, where it runs and why."""
    yield {
        "node": grader.name,
        "type": grader.type_name,
        "runs_on": grader.runs_on,
        "why": grader.why,
    }
    for child in grader.children.values():
        yield from explain(child)


class HostGrading:
    """The open nodes on the host; a context manager.

    Attributes:
        told: What went wrong and has been shown.
    """

    def __init__(self, nodes: Sequence[OnHost], options: HostOptions):
        self._nodes, self._options = nodes, options
        self._stack = contextlib.ExitStack()
        self._sessions: dict[str, HostSession] = {}
        self.told: set[str] = set()

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
            items: The data set.
            rows: int[N], the item of each sample.

        Returns:
            What they found, NumPy arrays [N] by the node's name; and what went wrong, for people.
        """
        everyone = list(range(len(samples)))
        # One at least, for the names of the details; those below a switch have none.
        answered = [i for i in everyone if samples[i].has_answer and not samples[i].overflow]
        answered = answered or everyone[:1]
        pending = []
        for node in self._nodes:
            asked = answered if isinstance(node.grader, HostGraderType) else everyone
            asked = [i for i in asked if node.grades(items, int(rows[i]))]
            arguments = [samples[i] for i in asked], items, [int(rows[i]) for i in asked]
            session = self._sessions[node.name]
            pending.append((node, asked, self._threads.submit(session.grade_batch, *arguments)))
        found, messages = {}, []
        for node, asked, future in pending:
            scores = dict(zip(asked, future.result(), strict=True))
            errors = ERRORS if isinstance(node.grader, HostGraderType) else node.grader.errors
            found[node.name] = _collect([scores.get(i) for i in everyone], errors, not node.ways)
            messages += [f"{node.name}: {s.message}" for s in scores.values() if s.message]
        return found, messages


def _collect(
    scores: Sequence[HostScore | None], names_of_errors: Sequence[str], detailed: bool
) -> Score:
    """Arrays [N]; zero where nothing was asked."""
    empty = HostScore(0.0)
    rows = [score or empty for score in scores]
    names = next((score.details for score in scores if score), {}) if detailed else {}
    failed = [
        row.errors | ({"other_error"} if not row.answers_fault else frozenset()) for row in rows
    ]
    errors = {name: np.array([name in found for found in failed], bool) for name in names_of_errors}
    details = {name: [row.details.get(name, 0) for row in rows] for name in names}
    return Score(
        host_array(np.array([row.score for row in rows], np.float32)),
        {error: host_array(flag_N) for error, flag_N in errors.items()},
        {name: host_array(np.array(row_N, np.float32)) for name, row_N in details.items()},
        {},
    )


def judge_models(grader: GraderType) -> dict[str, str]:
    """The models that nodes ask at a server, by the node's name."""
    return {node.name: node.judge_model for node in nodes_on_host(grader) if node.judge_model}


def nodes_on_host(grader: GraderType) -> tuple[OnHost, ...]:
    """The nodes of a placed grader that run on the host."""
    return tuple(node for node in leaves(grader) if isinstance(node, OnHost))
