"""What probes answer: the right answer, and what a lazy policy could learn to write."""

import collections
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rft_jax.graders.protocols import GraderType, Ways, has_say, ways_below
from rft_jax.graders.template import Template, Variable, show
from rft_jax.graders.types import Items
from rft_jax.tokenizers import message_text
from rft_jax.utils.types import JsonMapping

RIGHT = "right"
OWN = "each item's own reference"
COMMONEST = "the commonest reference"
LONG_BYTES = 4096
MOST_PROMPT_CHARACTERS = 1 << 14  # of a prompt that is tried as an answer
_MOST_REFERENCES = 20  # joined in one answer; longer lists are malformed for most graders
_MOST_WAYS = 8  # of writing one answer


@dataclass(frozen=True)
class Slot:
    """Where a node looks for its answer, and what it compares with.

    Attributes:
        path: In the answer's JSON; None for the text.
        reference: A template without variables of the sample; None without one.
        is_right: The reference, as it is, is the right answer.
        is_list: The answer is a list of strings.
        marker: What stands before the answer.
        closing: What stands after it.
        captures: See `ProbeTarget`.
        ways: From the nodes above to the node, of those that choose.
    """

    path: tuple[str | int, ...] | None
    reference: Template | None
    is_right: bool
    is_list: bool = False
    marker: str = ""
    closing: str = ""
    captures: tuple[Callable[[str], bool], ...] = ()
    ways: Ways = ()

    def reads(self, items: Items, n: int) -> bool:
        """Whether answers to item n are looked at."""
        return has_say(self.ways, items, n)

    def value(self, items: Items, n: int) -> Any:
        """What is compared with for item n, of a slot with a reference."""
        assert self.reference is not None
        if self.reference.variable is None:
            return self.reference.item_text(items, n)
        return self.reference.value(items, n)

    def is_captured(self, answer: str) -> bool:
        """Whether the node looks at the answer as a whole."""
        return all(captures(answer) for captures in self.captures)


def answers_of(spec: GraderType, items: Items) -> Iterator[tuple[str, list[list[str]]]]:
    """The name of each probe, with an answer for every item, in one way or more.

    Args:
        spec: A placed grader.
        items: With prompts.
    """
    count = len(items.rows)
    slots = list(dict.fromkeys(_slots(spec)))
    referring = [slot for slot in slots if slot.reference]
    columns = [
        [slot.value(items, n) for n in range(count) if slot.reads(items, n)] for slot in referring
    ]
    common = [_most_common(column) for column in columns]
    own = _ways(referring, items, lambda slot, n: slot.value(items, n)) if referring else []
    captured = (
        slot.is_captured(answer)
        for way in own[:1]
        for n, answer in enumerate(way)
        for slot in referring
        if slot.reads(items, n)
    )
    if not all(captured):  # nothing is known of what stands around an answer
        own, referring, common = [], [], []
    if own:
        is_right = len(referring) == len(slots) and all(slot.is_right for slot in slots)
        yield RIGHT if is_right else OWN, own
    yield "nothing", [[""] * count]
    prompts = [message_text(row["messages"][-1]) for row in items.rows]
    yield "the prompt", [[prompt[:MOST_PROMPT_CHARACTERS] for prompt in prompts]]
    if any(slot.path is not None for slot in slots):
        empty = _ways(slots, items, lambda slot, n: [] if slot.is_list else "")[:1]
        yield "the format without content", empty
    if not any(common):
        yield "a very long text", [[_repeat("word")] * count]
        return
    firsts = dict(zip(referring, common, strict=True))
    yield (
        COMMONEST,
        _ways(referring, items, lambda slot, n: next(iter(firsts[slot]), "")),
    )

    def joined(slot: Slot, n: int) -> Any:
        some = firsts[slot][:_MOST_REFERENCES]
        return some if slot.is_list else " ".join(map(show, some))

    yield "the commonest references joined", _ways(referring, items, joined)[:1]
    words = " ".join(show(value) for column in common for value in column[:_MOST_REFERENCES])
    yield "a very long text", [[_repeat(words or "word")] * count]


def _repeat(words: str) -> str:
    words = f"{words} "
    return words * (LONG_BYTES // len(words.encode()) + 1)


def _slots(node: GraderType, ways: Ways = ()) -> Iterator[Slot]:
    for key, child in node.children.items():
        yield from _slots(child, ways_below(ways, node, key))
    target = node.probe_target
    if target is None:
        return
    for template in target.answers:
        for variable in template.sample_variables:
            for reference in target.references or (None,):
                yield Slot(
                    path=_path(variable),
                    reference=reference,
                    is_right=target.is_right and template.variable is not None,
                    is_list=target.is_list,
                    marker=target.marker,
                    closing=target.closing,
                    captures=target.captures,
                    ways=ways,
                )


def _path(variable: Variable) -> tuple[str | int, ...] | None:
    return variable.path if variable.namespace == "output_json" else None


def _most_common(values: Sequence[Any]) -> list[Any]:
    """The distinct values, the commonest first; lists count by their members."""
    members = [m for value in values for m in (value if isinstance(value, list) else [value])]
    by_text = {show(member): member for member in members}
    counts = collections.Counter(map(show, members))
    return [by_text[text] for text, _ in counts.most_common() if text]


def _ways(slots: Sequence[Slot], items: Items, value: Any) -> list[list[str]]:
    """An answer for every item, once for each slot that may have the last word on its place, and
    before that with all texts joined."""
    found: dict[tuple[str, ...], None] = {}
    for last in range(len(slots) - 1, -1, -1):
        order = [*slots[:last], *slots[last + 1 :], slots[last]]
        for joins in (True, False):
            answers = []
            for n in range(len(items.rows)):
                own = [slot for slot in order if slot.reads(items, n)]
                answers.append(_write(own, [value(slot, n) for slot in own], joins))
            found.setdefault(tuple(answers))
    return [list(answers) for answers in found][:_MOST_WAYS]


def _write(slots: Sequence[Slot], values: Sequence[Any], joins: bool) -> str:
    """An answer with a value in every slot, or, of texts with the same marker, the last one's."""
    pairs = []
    for slot, value in zip(slots, values, strict=True):
        if slot.marker:
            value = f"{slot.marker}{show(value)}{slot.closing}"
        pairs.append((slot, value))
    document: Any = None
    for slot, value in pairs:
        if slot.path is not None:
            is_single = slot.is_list and not isinstance(value, list)
            document = _set(document, slot.path, [value] if is_single else value)
    if document is not None:
        return show(document) if not isinstance(document, str) else json.dumps(document)
    texts = [show(value) for _, value in pairs]
    if not joins:
        texts = list({slot.marker: show(value) for slot, value in pairs}.values())
    return " ".join(dict.fromkeys(texts))


def _set(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The document with a value at a path; what is in between is made."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        entries = document if isinstance(document, list) else []
        entries = entries + [None] * (step + 1 - len(entries))
        return [_set(m, rest, value) if n == step else m for n, m in enumerate(entries)]
    members: JsonMapping = document if isinstance(document, dict) else {}
    return {**members, step: _set(members.get(step), rest, value)}
