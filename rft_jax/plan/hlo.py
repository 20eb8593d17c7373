"""What a compiled program does, loops multiplied: read from the text of its optimized HLO.

XLA's own cost analysis counts the body of a loop once, but nearly all of a step happens in loops:
over layers, tokens and micro-batches. `Program.loops` walks the computations from the entry and
gives each level of the program with its trip count. Matrix products are counted in floating-point
operations (element-wise ones are not: they hide behind memory), traffic in bytes that go to or come
from HBM, collectives in bytes that a device sends, and launches in instructions outside of fusions.

A fusion reads of an operand what its slices take, and writes of a result that is updated in place
only the update. Arrays in on-chip memory (`S(n)` in a layout) are no traffic. XLA for TPUs spreads
a collective over the fusions that it overlaps with: it counts once, where it starts.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rft_jax.plan.hlo_parser import Computation, Instruction, parse

_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "opt-barrier async-update domain".split()
)

_KNOWN_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_GPU_ATTENTION = re.compile(r"(?P<cudnn>__cudnn\$fmha)|decode_attention/pallas_call")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclass
class Cost:
    """What something does, on one device."""

    flops: float = 0.0  # of matrix products
    hbm_bytes: float = 0.0
    launches: float = 0.0  # instructions outside of fusions: on a GPU, mostly kernels
    sent_bytes: dict[str, float] = field(default_factory=dict)  # by kind of collective

    def add(self, other: "Cost", times: float = 1.0) -> None:
        """Adds another cost, so many times."""
        self.flops += times * other.flops
        self.hbm_bytes += times * other.hbm_bytes
        self.launches += times * other.launches
        for kind, sent in other.sent_bytes.items():
            self.sent_bytes[kind] = self.sent_bytes.get(kind, 0.0) + times * sent

    @property
    def sent(self) -> float:
        """Bytes that the device sends in collectives of all kinds."""
        return sum(self.sent_bytes.values())


class Loop(NamedTuple):
    """What is done at one level of a program: between, not within, its inner loops."""

    path: str  # names of the loops around it, outermost first; empty: outside of all
    trips: float  # how often in all
    cost: Cost  # of one trip


class Program:
    """A parsed module."""

    def __init__(self, text: str):
        """Reads `compiled.as_text()`."""
        self.computations, self._entry = parse(text)

    def loops(self, unknown_trips: int = 1) -> list[Loop]:
        """The levels of the program, a line each; their costs times their trips are the whole.

        Args:
            unknown_trips: Trips of a loop whose condition compares with no constant.
        """
        found: list[Loop] = []
        self._visit(self._entry, "", 1.0, unknown_trips, found)
        return found

    def _visit(
        self, name: str, path: str, trips: float, unknown_trips: int, found: list[Loop]
    ) -> None:
        cost, inner = self._own(name)
        found.append(Loop(path, trips, cost))
        for instruction in inner:
            label = f"{path}/{_label(instruction)}".lstrip("/")
            condition, body = _condition_and_body(instruction)
            count = self.trip_count(instruction)
            if count is None:
                count = unknown_trips
            self._visit(body, label, trips * count, unknown_trips, found)
            found.append(Loop(label, trips * count, self._own(condition)[0]))

    def _own(self, name: str) -> tuple[Cost, list[Instruction]]:
        """The cost of a computation without its loops, and these."""
        cost, loops = Cost(), []
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                loops.append(instruction)
            elif instruction.opcode in ("call", "async-start", "conditional"):
                for called in instruction.called:
                    inner, inner_loops = self._own(called)
                    cost.add(inner)
                    loops += inner_loops
            elif instruction.opcode not in _FREE and not instruction.opcode.endswith("-done"):
                cost.add(self._cost(computation, instruction))
        return cost, loops

    def _cost(self, computation: Computation, instruction: Instruction) -> Cost:
        cost = Cost(hbm_bytes=self._traffic(computation, instruction), launches=1)
        if instruction.opcode == "fusion":
            for called in instruction.called:
                cost.add(self._inside_fusion(called, instruction))
        else:
            cost.add(_collective_cost(instruction, computation))
            cost.flops += product_flops(instruction, computation)
        return cost

    def _inside_fusion(self, name: str, fusion: Instruction) -> Cost:
        """Products and collectives of a fusion; its values between them stay on the chip."""
        cost, computation = Cost(), self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "fusion":
                for called in instruction.called:
                    cost.add(self._inside_fusion(called, instruction))
            else:
                cost.flops += product_flops(instruction, computation)
                if not _continues(fusion, name):
                    cost.add(_collective_cost(instruction, computation, fusion))
        return cost

    def _traffic(self, computation: Computation, instruction: Instruction) -> float:
        shapes = [computation.instructions[name].shapes for name in instruction.operands]
        out = sum(shape.traffic for shape in instruction.shapes)
        if instruction.opcode == "fusion":
            fused = self.computations[instruction.called[0]]
            reads = [
                self._read(fused, fused.parameters[index], sum(s.traffic for s in operand))
                for index, operand in enumerate(shapes)
                if index in fused.parameters
            ]
            return sum(reads) + self._written(fused, fused.root, out)
        if instruction.opcode in ("copy-start", "slice-start"):
            # A copy's type begins with its result, a slice's with what it is taken of.
            moved = instruction.shapes[instruction.opcode == "slice-start"]
            return moved.bytes * (moved.in_hbm + shapes[0][0].in_hbm)
        if instruction.opcode in ("all-gather-start", "collective-permute-start"):
            # Its type has the operands, the results, and more.
            results = instruction.shapes[len(shapes) : 2 * len(shapes)]
            out = sum(shape.traffic for shape in results)
        if instruction.opcode in ("dynamic-slice", "gather", "slice"):
            taken = sum(shape.bytes for shape in instruction.shapes)
            return out + (taken if shapes[0][0].in_hbm else 0)
        if instruction.opcode == "dynamic-update-slice":
            return sum(s.traffic for s in shapes[1]) + (shapes[1][0].bytes if out else 0)
        return out + sum(shape.traffic for operand in shapes for shape in operand)

    def _read(self, fused: Computation, name: str, whole: float) -> float:
        """Bytes that a fused computation reads of one of its values, at most all of it."""
        if not whole:
            return 0
        total = 0.0
        for user in fused.users[name]:
            index = user.operands.index(name)
            if user.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
                total += sum(shape.bytes for shape in user.shapes)
            elif user.opcode == "dynamic-update-slice" and index == 0:
                continue
            elif user.opcode == "tuple" or user.collective:  # passed on; counted as collective
                continue
            elif user.opcode in ("bitcast", "reshape"):
                total += self._read(fused, user.name, whole)
            elif user.opcode == "fusion":
                inner = self.computations[user.called[0]]
                total += self._read(inner, inner.parameters[index], whole)
            else:
                return whole
        return min(total, whole)

    def _written(self, fused: Computation, root: Instruction, whole: float) -> float:
        """Bytes that a fused computation writes of its result."""
        if not whole:
            return 0
        if root.opcode == "tuple":
            parts = [fused.instructions[name] for name in root.operands]
            return sum(
                self._written(fused, part, sum(shape.traffic for shape in part.shapes))
                for part in parts
            )
        if root.opcode == "parameter" or root.collective:
            return 0
        if root.opcode in ("bitcast", "reshape"):
            return self._written(fused, fused.instructions[root.operands[0]], whole)
        if root.opcode == "dynamic-update-slice":
            return sum(shape.bytes for shape in fused.instructions[root.operands[1]].shapes)
        if root.opcode == "fusion":
            inner = self.computations[root.called[0]]
            return self._written(inner, inner.root, whole)
        return whole

    def trip_count(self, loop: Instruction) -> int | None:
        """How often a loop's body runs, counting up to a constant from 0; None: not known.

        A loop with another condition besides, such as the one over tokens, which ends when all
        samples have, is taken to run to its bound.
        """
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        condition, _ = _condition_and_body(loop)
        bounds = list(self._bounds(condition))
        return min(bounds) if bounds else None

    def _bounds(self, name: str, arguments: tuple[Instruction, ...] = ()) -> Iterator[int]:
        computation = self.computations[name]
        numbers = {computation.parameters.get(i): value for i, value in enumerate(arguments)}

        def resolve(operand: str) -> Instruction:
            return numbers.get(operand) or computation.instructions[operand]

        for instruction in computation.instructions.values():
            if instruction.opcode == "fusion":
                operands = tuple(resolve(name) for name in instruction.operands)
                yield from self._bounds(instruction.called[0], operands)
            elif instruction.opcode == "compare":
                upper = {"direction=LT": 1, "direction=GT": 0}
                for text, index in upper.items():
                    bound = resolve(instruction.operands[index])
                    whole = bound.opcode == "constant" and bound.arguments.isdigit()
                    if text in instruction.attributes and whole:
                        yield int(bound.arguments)


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """Floating-point operations of a matrix product or convolution, of attention in a GPU's kernel,
    or another kernel's own estimate of its; 0 for anything else.
    """
    if instruction.opcode == "dot":
        left = computation.instructions[instruction.operands[0]].shapes[0]
        axes = _attribute(r"lhs_contracting_dims=\{([\d,]*)\}", instruction)
        summed = math.prod(left.sizes[int(axis)] for axis in axes[1].split(",") if axis)
        return 2.0 * instruction.shapes[0].elements * summed
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    if instruction.opcode == "custom-call":
        if attention := _GPU_ATTENTION.search(instruction.attributes):
            operands = (computation.instructions[name] for name in instruction.operands[:2])
            query, key = (operand.shapes[0] for operand in operands)
            products = 5 if "Backward" in instruction.attributes else 2  # scores are computed anew
            return 2.0 * products * query.elements * key.sizes[1 if attention["cudnn"] else 2]
        estimate = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.attributes)
        return float(estimate[1]) if estimate else 0.0
    return 0.0


def _convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """XLA for TPUs writes products as convolutions, a batch axis as a dilated spatial one."""
    left, right = (computation.instructions[name].shapes[0] for name in instruction.operands[:2])
    labels = _attribute(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction)
    left_labels, right_labels, out_labels = labels.groups()
    out = instruction.shapes[0]
    spatial = sorted(label for label in right_labels if label.isdigit())
    window = _window(instruction.attributes, len(spatial))
    flops = 2.0 * out.elements * right.sizes[right_labels.index("i")]
    for label, (size, stride, low, left_dilate, right_dilate) in zip(spatial, window, strict=True):
        inputs = left.sizes[left_labels.index(label)]
        outputs = out.sizes[out_labels.index(label)]
        position = np.arange(outputs)[:, None] * stride + np.arange(size) * right_dilate - low
        inside = (position >= 0) & (position <= (inputs - 1) * left_dilate)
        inside &= position % left_dilate == 0
        flops *= inside.sum() / outputs
    return flops


def _window(attributes: str, rank: int) -> list[tuple[int, int, int, int, int]]:
    """Size, stride, low padding and the two dilations of each spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}

    def numbers(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * rank
        return [int(part.split("_")[0]) for part in fields[name].split("x")]

    names = (("size", 1), ("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1))
    return list(zip(*(numbers(*name) for name in names), strict=True))


def _collective_cost(
    instruction: Instruction, computation: Computation, fusion: Instruction | None = None
) -> Cost:
    """Bytes that a device sends, in the ring algorithms.

    An all-reduce whose result is sliced in the same fusion is a reduce-scatter.
    """
    kind, devices = instruction.collective, group_size(instruction.attributes)
    if kind is None:
        return Cost()
    sizes = [shape.bytes for shape in instruction.shapes]
    inputs = sum(
        shape.bytes
        for name in instruction.operands
        for shape in computation.instructions[name].shapes
    )
    share = (devices - 1) / devices
    if kind == "all-gather":
        sent = inputs * (devices - 1)
    elif kind == "all-reduce":
        scattered = fusion is not None and sum(s.bytes for s in fusion.shapes) < sum(sizes)
        kind = "reduce-scatter" if scattered else kind
        sent = inputs * share * (1 if scattered else 2)
    elif kind == "collective-permute":
        sent = inputs
    else:
        sent = inputs * share
    moved = inputs + sum(sizes) if fusion is not None else 0  # else as any instruction's traffic
    return Cost(hbm_bytes=moved, sent_bytes={kind: float(sent)}) if sent else Cost()


def _continues(fusion: Instruction, fused: str) -> bool:
    """Whether a fusion's collective began in another one."""
    return fused.startswith("async_collective_fusion") or "collective-done" in fusion.name


def group_size(attributes: str) -> int:
    """Devices that take part in one group of a collective."""
    if found := _MESH_GROUPS.search(attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := _IOTA_GROUPS.search(attributes):
        return int(found[2])
    if found := _LISTED_GROUPS.search(attributes):
        return len(found[1].split(","))
    return 2  # of a permutation, which has pairs instead


def _label(loop: Instruction) -> str:
    """What of the source a loop comes from, as jax names it."""
    found = re.search(r'op_name="([^"]*)"', loop.attributes)
    return found[1] if found else loop.name


def _condition_and_body(loop: Instruction) -> tuple[str, str]:
    condition = _attribute(r"condition=%?([\w.\-]+)", loop)
    return condition[1], _attribute(r"body=%?([\w.\-]+)", loop)[1]


def _attribute(pattern: str, instruction: Instruction) -> re.Match[str]:
    """What an attribute says that instructions of this kind have."""
    found = re.search(pattern, instruction.attributes)
    if found is None:
        raise ValueError(f"{instruction.opcode} {instruction.name}: has no {pattern}")
    return found
