"""The text of XLA's optimized HLO as computations of instructions.

computations, entry = parse(compiled.as_text())
computations[entry].root.opcode
"""

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

ITEM_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip

_COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip

_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Shape(NamedTuple):
    """An array."""

    kind: str
    sizes: tuple[int, ...]
    in_hbm: bool

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of tiles."""
        return self.elements * ITEM_BITS.get(self.kind, 0) // 8

    @property
    def traffic(self) -> int:
        """Bytes if the array is in HBM, else 0."""
        return self.bytes if self.in_hbm else 0


@dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the elements, for a tuple
    operands: tuple[str, ...]
    arguments: str  # what stands between the parentheses
    attributes: str  # what follows them
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        names = _CALLED.findall(self.attributes)
        if branches := _BRANCHES.search(self.attributes):
            names += [name.strip().lstrip("%") for name in branches[1].split(",")]
        return tuple(names)

    @property
    def collective(self) -> str | None:
        """Its kind without the suffix of an asynchronous one."""
        name = self.opcode.removesuffix("-start")
        return name if name in _COLLECTIVES else None


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in order."""

    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The one whose value is the computation's."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Their names, by number."""
        found = (i for i in self.instructions.values() if i.opcode == "parameter")
        return {int(i.arguments): i.name for i in found}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each one."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                if name in users:
                    users[name].append(instruction)
        return users


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        if header := _COMPUTATION.match(line):
            current = {}
            computations[header[1]] = Computation(current)
            entry = header[1] if line.startswith("ENTRY") else entry
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(bool(match[1]), match[2], match[3])
            current[instruction.name] = instruction
    return computations, entry


def _instruction(is_root: bool, name: str, text: str) -> Instruction:
    kind, rest = _split_type(text)
    opcode, _, rest = rest.partition("(")
    end = _closing(rest, 1)
    arguments, attributes = rest[:end], rest[end + 1 :]
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(
        name, opcode.strip(), _shapes(kind), operands, arguments, attributes, is_root
    )


def _split_type(text: str) -> tuple[str, str]:
    if text.startswith("("):
        end = _closing(text[1:], 1) + 2
        return text[:end], text[end:].lstrip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closing(text: str, depth: int) -> int:
    """Where the parenthesis closes that was open at the start."""
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return index
    return len(text)


def _shapes(kind: str) -> tuple[Shape, ...]:
    found = []
    for name, sizes, layout in _ARRAY.findall(kind):
        space = re.search(r"S\((\d+)\)", layout)
        found.append(
            Shape(
                name,
                tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size),
                space is None or space[1] == "0",
            )
        )
    return tuple(found)
