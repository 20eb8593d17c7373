"""What a grader type has to provide.

A grader type is one file with a frozen dataclass, and one line in `registry.CLASSES`. Either it has
what `GraderType` asks for: then it runs on the device, and `score_on_host` says the same in plain
Python; or what `HostGraderType` asks for: then it runs on the host. `DeviceNode`, `CompositeNode`
and `HostNode` are bases with what most types have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rft_jax.config import HostOptions
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import TEMPLATE_ERRORS, Template
from rft_jax.graders.types import HostSample, HostScore, HostView, Items, SampleView, Score
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class ProbeTarget:
    """Where a node looks for the answer and what it compares it with, so that probes can write one.

    Attributes:
        answers: Templates that show the answer.
        references: Templates of the item, without variables of the sample; empty if the answer is
            compared with none.
        is_right: Whether a reference as it is is the right answer, where a template in `answers`
            is one variable and nothing else.
        is_list: Whether the answer is a list of strings.
        marker: What stands before the answer; empty for nothing.
        closing: What stands after it; empty for nothing.
        captures: Whether a part that is taken out of an answer is all of it; those of the
            outermost node first.
    """

    answers: tuple[Template, ...]
    references: tuple[Template, ...] = ()
    is_right: bool = True
    is_list: bool = False
    marker: str = ""
    closing: str = ""
    captures: tuple[Callable[[str], bool], ...] = ()

    @classmethod
    def of_sides(
        cls,
        *sides: Template,
        is_right: bool = True,
        is_list: bool = False,
        marker: str = "",
        closing: str = "",
    ) -> ProbeTarget:
        """The target of a node that compares two templates, whichever shows the answer."""
        answers = tuple(side for side in sides if side.sample_variables)
        references = tuple(side for side in sides if not side.sample_variables)
        return cls(answers, references, is_right, is_list, marker, closing)


class Node(Protocol):
    """What every node of a grader tells about itself."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    @property
    def type_name(self) -> str:
        """The type as a grader's JSON has it, which the registry knows the class by."""
        ...

    @property
    def runs_on(self) -> str:
        """Where it runs, for people, such as "device"."""
        ...

    @property
    def why(self) -> str:
        """Why it runs there, for people."""
        ...

    @property
    def children(self) -> Mapping[str, GraderType]:
        """The nodes below that have a place of their own, by the keys that the grader's JSON gives
        them; empty for a leaf. Until `placement.place` some may be of a `HostGraderType`."""
        ...

    @property
    def probe_target(self) -> ProbeTarget | None:
        """What probes need to know; None for a node that no answer can be written for, and for one
        whose children tell."""
        ...


class GraderType(Node, Protocol):
    """A validated grader of a type that runs on the device: a frozen, hashable dataclass."""

    @classmethod
    def parse(cls, name: str, fields: Fields) -> GraderType | HostGraderType:
        """Reads the grader's JSON object.

        Raises:
            InputError: Naming the path inside the JSON and the remedy.
        """
        ...

    @property
    def chooses(self) -> bool:
        """Whether the item says which children have a say; see `has_say`."""
        ...

    @property
    def errors(self) -> tuple[str, ...]:
        """The names of `ERRORS` that `score` has, which are those that it can have on the host."""
        ...

    @property
    def only_on_device(self) -> str:
        """Why it cannot run on the host; empty if it can."""
        ...

    @property
    def asks_host(self) -> str:
        """What the host decides of what the device cannot; empty for nothing."""
        ...

    def open_host(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """Acquires what that needs; only for a node that `asks_host`."""
        ...

    def with_children(self, children: Mapping[str, GraderType]) -> GraderType:
        """The node with others in the place of its children, under the same keys."""
        ...

    def has_say(self, key: str, items: Items, n: int) -> bool:
        """Whether the child under a key has a say on the answers to item n.

        Raises:
            InputError: The item does not serve the grader; naming the line.
        """
        ...

    def encode(self, items: Items) -> Any:
        """What the node needs of every item: a tree of NumPy arrays with leading axis len(items).

        Raises:
            InputError: Naming the line and the template.
        """
        ...

    def score(self, view: SampleView, encoded: Any) -> Score:
        """Grades N samples on the device; `encoded` has the items' rows, one per sample."""
        ...

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """Grades one sample of item n in plain Python, through the libraries that define the type.

        What `score` is held against, and what runs when a grader is placed on the host.

        Raises:
            InputError: A library is missing, naming the package to install; or the node is
                `only_on_device`.
        """
        ...


@runtime_checkable
class HostGraderType(Node, Protocol):
    """A validated grader of a type that can run on the host only: a frozen, hashable dataclass."""

    @classmethod
    def parse(cls, name: str, fields: Fields) -> HostGraderType:
        """As `GraderType.parse`."""
        ...

    @property
    def judge_model(self) -> str:
        """The model at a server that is asked; empty without one."""
        ...

    def check(self, items: Items) -> None:
        """Looks whether every item serves the grader.

        Raises:
            InputError: Naming the line and the template.
        """
        ...

    def open(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """Acquires what grading needs, such as a pool of workers.

        Raises:
            InputError: It cannot be had here; naming the remedy.
        """
        ...


class HostSession(Protocol):
    """An open grader on the host."""

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """Grades samples, sample i of item rows[i]. One that fails fails alone, without raising."""
        ...


class ScoresOnHost(Protocol):
    """What grades sample by sample in plain Python."""

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        ...


class DeviceNode:
    """Base of the types that run on the device and have no children."""

    runs_on = "device"
    chooses = False

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return "a jnp function"

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        return TEMPLATE_ERRORS

    @property
    def only_on_device(self) -> str:
        """See `GraderType.only_on_device`."""
        return ""

    @property
    def asks_host(self) -> str:
        """See `GraderType.asks_host`."""
        return ""

    def open_host(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """See `GraderType.open_host`."""
        raise NotImplementedError

    @property
    def probe_target(self) -> ProbeTarget | None:
        """See `Node.probe_target`."""
        return None

    @property
    def children(self) -> Mapping[str, GraderType]:
        """See `Node.children`."""
        return {}

    def with_children(self, children: Mapping[str, GraderType]) -> Any:
        """See `GraderType.with_children`."""
        del children
        return self

    def has_say(self, key: str, items: Items, n: int) -> bool:
        """See `GraderType.has_say`."""
        del key, items, n
        return True


class HostlessNode(DeviceNode):
    """Base of the types on the device that have no way to grade on the host."""

    name: str

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """There is nothing to hold it against.

        Raises:
            InputError: Always.
        """
        del view, items, n
        raise InputError(f"{self.name}: {self.only_on_device}; use placement auto")


class CompositeNode(HostlessNode):
    """Base of the types that grade by their children, each of which has a place of its own.

    A subclass has `children` and `with_children`, and `has_say` if `chooses`.
    """

    @property
    def only_on_device(self) -> str:
        """See `GraderType.only_on_device`."""
        return self.why


class HostNode:
    """Base of the types that run on the host only."""

    runs_on = "host"

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return "what it needs is not on the device"

    @property
    def probe_target(self) -> ProbeTarget | None:
        """See `Node.probe_target`."""
        return None

    @property
    def children(self) -> Mapping[str, GraderType]:
        """See `Node.children`."""
        return {}

    @property
    def judge_model(self) -> str:
        """See `HostGraderType.judge_model`."""
        return ""


# The nodes above one that choose among their children, each with the key of the way to it.
Ways = tuple[tuple[GraderType, str], ...]


def ways_below(ways: Ways, node: GraderType, key: str) -> Ways:
    """The ways to a node's child, from those to the node."""
    return (*ways, (node, key)) if node.chooses else ways


def has_say(ways: Ways, items: Items, n: int) -> bool:
    """Whether the node that the ways lead to has a say on the answers to item n."""
    return all(node.has_say(key, items, n) for node, key in ways)


def leaves(grader: GraderType) -> Iterator[GraderType]:
    """The nodes of a grader that have no children."""
    if not grader.children:
        yield grader
    for child in grader.children.values():
        yield from leaves(child)
