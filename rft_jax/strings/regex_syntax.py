"""Python regular expressions read as graphs: what one character can be, choices, loops, anchors.

Python's own parser reads the pattern, and what a single character or an anchor matches is found by
asking Python's `re`. Classes such as `\\w`, scoped flags and case-insensitive letters therefore
mean what they mean there, for the Unicode version of this Python (`unicodedata.unidata_version`).
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # typeshed knows these modules by their old names only
    import sre_compile as _compiler
    import sre_constants as codes
    import sre_parse as _parser
else:
    from re import _compiler, _parser
    from re import _constants as codes

# Sorted code points: each range from its first up to and without its end.
Ranges: TypeAlias = tuple[tuple[int, int], ...]

# What the parser calls the kinds of nodes; their arguments differ from kind to kind.
_Code: TypeAlias = "codes._NamedIntConstant"

FLAGS = {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
MODES = ("search", "fullmatch")
MOST_CHARACTERS = 1500  # nodes of one character; also what a repetition is written out to

_REMEDY = "write the pattern without it, or grade with a python grader"
_UNSUPPORTED = {
    codes.GROUPREF: "a backreference such as \\1",
    codes.GROUPREF_EXISTS: "a conditional group such as (?(1)...)",
    codes.ASSERT: "a lookahead or lookbehind such as (?=...)",
    codes.ASSERT_NOT: "a negative lookahead or lookbehind such as (?!...)",
    codes.POSSESSIVE_REPEAT: "a possessive repetition such as a++",
    codes.ATOMIC_GROUP: "an atomic group (?>...)",
}


class RegexError(ValueError):
    """A pattern cannot be used; the message says why and what to do.

    Attributes:
        about: The argument that is wrong: "pattern", "flags" or "group".
    """

    def __init__(self, message: str, about: str = "pattern"):
        super().__init__(message)
        self.about = about


@dataclass(eq=False)
class Character:
    """One character out of a set, then `follow`; `group` is the innermost named one around it."""

    ranges: Ranges
    follow: Node
    group: str = ""


@dataclass(eq=False)
class Split:
    """One of several ways on, the first that leads to a match."""

    branches: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Anchor:
    """Nothing, where `holds` matches with nothing between two characters; then `follow`."""

    holds: re.Pattern[str]
    follow: Node


@dataclass(eq=False)
class Mark:
    """Nothing, at the start (OPENS) or the end (CLOSES) of the captured group; then `follow`."""

    bit: int
    follow: Node


@dataclass(eq=False)
class Accept:
    """The end of the text."""


Node = Character | Split | Anchor | Mark | Accept
OPENS, CLOSES = 1, 2


@dataclass(frozen=True)
class Graph:
    """A pattern that matches whole texts; the parts of a text that a search skips are in it.

    Attributes:
        entry: The first node.
        characters: Every node of one character.
        anchors: Every anchor of the pattern, once each.
        rest: What takes the text after a match that was searched for; None for whole matches.
    """

    entry: Node
    characters: tuple[Character, ...]
    anchors: tuple[re.Pattern[str], ...]
    rest: Character | None


def parse_regex(
    pattern: str,
    flags: str = "",
    mode: str = "search",
    group: int | str | tuple[str, ...] | None = None,
) -> Graph:
    """Reads a pattern.

    Args:
        pattern: As for `re.compile`.
        flags: Letters of `FLAGS`.
        mode: One of `MODES`, what `re` has functions for.
        group: Number or name of the group to mark, 0 for all, or names of several; None for no
            marks.

    Raises:
        RegexError: The pattern is wrong, or uses what has no such graph.
    """
    try:
        tree = _parser.parse(pattern, python_flags(flags))
        marked = group if isinstance(group, tuple) else () if group is None else (group,)
        numbers = frozenset(_group_number(tree.state, name) for name in marked)
        names: dict[int | None, str] = {
            number: name for name, number in tree.state.groupdict.items()
        }
        return _Builder(numbers, names).build(tree, mode)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        raise RegexError(f"not a regular expression ({error.msg}{where}); correct it") from None
    except OverflowError:
        raise RegexError("a repetition count is too large; write a smaller one") from None
    except RecursionError:
        raise RegexError("the groups are nested too deep; write the pattern flatter") from None


def python_flags(flags: str) -> int:
    """What `re` takes for letters of `FLAGS`.

    Raises:
        RegexError: Naming a letter that is not one of them.
    """
    for letter in flags:
        if letter not in FLAGS:
            known = ", ".join(FLAGS)
            raise RegexError(f"unknown flag {letter!r}; use letters of {known}", "flags")
    return functools.reduce(int.__or__, (int(FLAGS[letter]) for letter in flags), 0)


def _group_number(state: _parser.State, group: int | str) -> int:
    number = state.groupdict.get(group) if isinstance(group, str) else group
    if number is None or not 0 <= number < state.groups:
        known = ", ".join(map(str, [*range(state.groups), *state.groupdict]))
        raise RegexError(f"the pattern has no group {group!r}; use one of {known}", "group")
    return number


class _Builder:
    """Writes the graph from its end to its start: each part is given the node that follows it."""

    def __init__(self, marked: frozenset[int], names: Mapping[int | None, str]):
        self._marked = marked
        self._names = names
        self._name = ""
        self._characters: list[Character] = []
        self._anchors: dict[tuple[_Code, int], re.Pattern[str]] = {}

    def build(self, tree: _parser.SubPattern, mode: str) -> Graph:
        """The graph of a syntax tree of Python's parser."""
        search = mode == "search"
        end = self._loop(self._any, Accept(), greedy=True) if search else Accept()
        rest = self._characters[0] if search else None
        entry = self._group(0, lambda end: self._sequence(tree, tree.state.flags, end), end)
        if search:
            entry = self._loop(self._any, entry, greedy=False)
        return Graph(entry, tuple(self._characters), tuple(self._anchors.values()), rest)

    def _sequence(self, tree: _parser.SubPattern, flags: int, follow: Node) -> Node:
        for operation, argument in reversed(tree.data):
            follow = self._item(operation, argument, flags, follow)
        return follow

    def _item(self, operation: _Code, argument: Any, flags: int, follow: Node) -> Node:
        if operation in _UNSUPPORTED:
            raise RegexError(f"{_UNSUPPORTED[operation]} is not supported; {_REMEDY}")
        if operation is codes.SUBPATTERN:
            number, add, remove, tree = argument
            if add & _parser.TYPE_FLAGS:  # re.search compiles the first set with other flags
                raise RegexError(
                    "the flags a and u for a part of a pattern such as (?a:...) are not supported, "
                    "Python itself confuses them; set them for all of it"
                )
            inner = (flags | add) & ~remove
            return self._group(number, lambda end: self._sequence(tree, inner, end), follow)
        if operation is codes.BRANCH:
            return Split([self._sequence(tree, flags, follow) for tree in argument[1]])
        if operation in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, tree = argument
            greedy = operation is codes.MAX_REPEAT
            return self._repeat(least, most, tree, flags, follow, greedy)
        if operation is codes.AT:
            return self._anchor(argument, flags, follow)
        return self._character(_ranges(operation, _frozen(argument), flags), follow)

    def _group(self, number: int | None, body: Callable[[Node], Node], follow: Node) -> Node:
        outer = self._name
        self._name = self._names.get(number, outer)
        marked = number in self._marked
        node = body(Mark(CLOSES, follow) if marked else follow)
        self._name = outer
        return Mark(OPENS, node) if marked else node

    def _repeat(
        self,
        least: int,
        most: int,
        tree: _parser.SubPattern,
        flags: int,
        follow: Node,
        greedy: bool,
    ) -> Node:
        if self._marked and most > 1 and tree.getwidth()[0] == 0:
            raise RegexError(
                "a repetition of what can be empty, such as (a*)*, is not supported with a group "
                "to capture; write it so that what is repeated takes a character at least"
            )

        def body(end: Node) -> Node:
            return self._sequence(tree, flags, end)

        if most is codes.MAXREPEAT:
            follow = self._loop(body, follow, greedy)
            if least:  # x+ is a loop that is entered at its body
                follow, least = follow.branches[0 if greedy else 1], least - 1
        else:
            end = follow
            for _ in range(most - least):
                branches = [body(follow), end]
                follow = Split(branches if greedy else branches[::-1])
        for _ in range(least):
            follow = body(follow)
        return follow

    def _loop(self, body: Callable[[Node], Node], follow: Node, greedy: bool) -> Split:
        loop = Split()
        again = body(loop)
        loop.branches = [again, follow] if greedy else [follow, again]
        return loop

    def _anchor(self, code: _Code, flags: int, follow: Node) -> Anchor:
        key = code, flags
        if key not in self._anchors:
            self._anchors[key] = _compile([(codes.AT, code)], flags)
        return Anchor(self._anchors[key], follow)

    def _any(self, follow: Node) -> Character:
        return self._character(((0, sys.maxunicode + 1),), follow)

    def _character(self, ranges: Ranges, follow: Node) -> Character:
        if len(self._characters) == MOST_CHARACTERS:
            raise RegexError(
                f"longer than {MOST_CHARACTERS} characters, with repetitions such as x{{9}} "
                "written out; write smaller counts or fewer alternatives"
            )
        self._characters.append(Character(ranges, follow, self._name))
        return self._characters[-1]


def _compile(items: Sequence[tuple[_Code, Any]], flags: int) -> re.Pattern[str]:
    """What Python compiles a part of a syntax tree to."""
    state = _parser.State()
    state.flags = flags
    return _compiler.compile(_parser.SubPattern(state, list(items)), flags)


def _frozen(argument: Any) -> Any:
    """The argument of a node of one character, hashable."""
    return tuple(argument) if isinstance(argument, list) else argument


@functools.lru_cache(maxsize=4096)
def _ranges(operation: _Code, argument: Any, flags: int) -> Ranges:
    """The characters that a node of one character matches."""
    if operation is codes.LITERAL and not flags & re.IGNORECASE:
        return ((argument, argument + 1),)
    argument = list(argument) if operation is codes.IN else argument
    state = _parser.State()
    node = _parser.SubPattern(state, [(operation, argument)])
    return ranges_of(_compile([(codes.MAX_REPEAT, (1, codes.MAXREPEAT, node))], flags))


def ranges_of(run: re.Pattern[str]) -> Ranges:
    """The characters of a pattern that matches one or more of them."""
    return tuple(match.span() for match in run.finditer(_every_character()))


@functools.cache
def _every_character() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))
