"""Which completions are in a model's slots: admits, dispatches, reads, streams, frees.

One `Batcher` a model. A `Task` is a request of n samples; tasks take turns, a sample each. Between
two dispatches `step` puts waiting samples into free slots, and hands out what has been decoded. A
prompt that is in some slot already, running or ended, is copied from there instead of run again;
the others that begin between the same two dispatches are run by one program. A dispatch leaves
before the texts of the one before it are made.
"""

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.grammars import GrammarTables
from rft_jax.serve.answer_text import AnswerText, TokenLogprob
from rft_jax.serve.grammar_pool import ANYTHING, GrammarPool
from rft_jax.serve.loaded import LoadedModel
from rft_jax.serve.slots import (
    Beginnings,
    Decoded,
    Decoding,
    Sample,
    Slots,
    Weights,
    begin,
    decode_tokens,
    empty_slots,
    repeat,
    resize,
)
from rft_jax.utils.types import JsonObject

SLOTS = 16
STEPS = 12  # tokens of a dispatch, at most
_LEAST_ROOM = 64  # of prompts, and of completions
_LEAST_PROMPT = 24  # tokens that are run, at least
_LEAST_TOP_P = 1e-6  # the most probable token is always in the nucleus
_MINUS_INFINITY = -9999.0  # as OpenAI's API writes it

_empty = jax.jit(empty_slots, static_argnums=(0, 1, 2, 3))  # arrays of their own, to be donated
_resize = jax.jit(resize, static_argnums=(1, 2))


class _Programs(NamedTuple):
    """What changes slots, compiled; see `slots`."""

    begin: Callable[[Weights, Slots, Beginnings], Slots]
    repeat: Callable[[Slots, np.int32, np.int32, Sample], Slots]
    decode: Callable[[Weights, Slots, np.ndarray, GrammarTables | None], tuple[Slots, Decoded]]


@functools.cache
def _programs(decoding: Decoding, steps: int) -> _Programs:
    """One set for all models that decode alike, found once a model: its description is large, and
    to hash it at every dispatch takes a tenth of a small model's time."""
    return _Programs(
        jax.jit(functools.partial(begin, decoding), donate_argnums=1),
        jax.jit(functools.partial(repeat, decoding), donate_argnums=0),
        jax.jit(functools.partial(decode_tokens, decoding, steps), donate_argnums=1),
    )


@dataclass
class Task:
    """A request of some samples of one prompt.

    Attributes:
        id: The request's.
        prompt: Token ids.
        samples: How many.
        seed: uint64.
        limit: Tokens of a completion.
        thinking_tokens: The budget.
        grammar: Its key and tables; None for any text.
        grammar_tokens: Within which an answer with a grammar ends.
        stops: Texts that end an answer.
        top: Alternatives whose log-probabilities are told; None: none, nor the tokens' own.
        streams: Whether parts of answers are handed out before their end.
    """

    id: int
    prompt: tuple[int, ...]
    samples: int
    seed: int
    temperature: float
    top_p: float
    limit: int
    thinking_tokens: int
    grammar: tuple[str, GrammarTables] | None = None
    grammar_tokens: int = 0
    stops: tuple[str, ...] = ()
    top: int | None = None
    streams: bool = False
    begun: int = 0
    ended: int = 0
    usage: dict[str, int] = field(default_factory=lambda: {"completion": 0, "reasoning": 0})


@dataclass
class _Running:
    """A sample in a slot."""

    task: Task
    index: int
    text: AnswerText
    tokens: int = 0
    thought: int = 0
    answering: bool = True
    dropped: bool = False  # what is decoded of it is for nobody


class _Flight(NamedTuple):
    """A dispatch: what becomes of its slots, on the device, and whose they are."""

    decoded: Decoded
    running: dict[int, _Running]


class _Beginning(NamedTuple):
    """A sample whose prompt is about to be run."""

    prompt: tuple[int, ...]
    slot: int
    sample: Sample


class Batcher:
    """The slots of one model, and what waits for them."""

    def __init__(self, model: LoadedModel, slots: int = SLOTS, steps: int = STEPS):
        self.model = model
        self._steps = steps
        self._programs = _programs(model.decoding, steps)
        self._room = self._usual_room = _room_of(self.usual_task())  # of prompts, of completions
        self._slots = _empty(model.decoding, slots, *self._room)
        self._running: dict[int, _Running] = {}
        self._free = deque(range(slots))  # that which has been free longest first
        self._prompt_in: list[tuple[int, ...] | None] = [None] * slots
        self._cancel: set[int] = set()
        self._flight: _Flight | None = None
        self._waiting: deque[Task] = deque()
        self._tasks: dict[int, Task] = {}
        self._pool = GrammarPool()
        self._tables: tuple[GrammarTables, GrammarTables] | None = None  # of the pool, and a copy
        self._compiled: set[tuple] = set()
        self._compiling = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._running or self._waiting)

    def add(self, task: Task) -> None:
        """Lets a task wait for slots."""
        self._tasks[task.id] = task
        self._waiting.append(task)

    def cancel(self, task_id: int) -> None:
        """Forgets a task, if it is there, and frees its slots."""
        if (task := self._tasks.pop(task_id, None)) is None:
            return
        if task in self._waiting:
            self._waiting.remove(task)
        for slot, running in list(self._running.items()):
            if running.task is task:
                self._drop(slot)

    def step(self) -> list[JsonObject]:
        """Decodes some tokens of all that run, and says what has become of them.

        Returns:
            Events: `{"id", "sample", "text", "tokens"}` for a part of an answer, with `finish` for
            its last, and `{"id", "done", "usage"}` behind the last of a task.
        """
        if self._flight is None:
            self._dispatch()
        if (flight := self._flight) is None:
            return []
        decoded = jax.device_get(flight.decoded)
        for slot, running in flight.running.items():
            if not decoded.running_S[slot] and self._running.get(slot) is running:
                self._end(slot)
        # First, so that texts are made while the device decodes.
        self._dispatch()
        return list(self._hand_out(decoded, flight.running))

    def compile_for(self, task: Task) -> None:
        """Compiles what a task needs, if that has not been done; in any thread.

        So the thread that calls `step` seldom compiles while others wait. What several tasks need
        at once is seen only there.
        """
        length, before = _run_length(len(task.prompt)), self._room
        rooms = _roomier(_room_of(task), before)
        pool = GrammarPool()
        state = ANYTHING
        if task.grammar is not None:
            state = self._first_state(pool, task.grammar) or ANYTHING
        wanted = rooms, length, pool.shapes
        if wanted in self._compiled:
            return
        with self._compiling:
            if wanted in self._compiled:  # by another thread, meanwhile
                return
            decoding, weights = self.model.decoding, self.model.weights
            slots = _empty(decoding, len(self._prompt_in), *before)
            if rooms != before:
                slots = _resize(slots, *rooms)
                _resize(slots, *self._usual_room)
            sample, zero = _sample(task, state), np.int32(0)
            one = [_Beginning(task.prompt, 0, sample)]
            slots = self._programs.begin(weights, slots, self._rows(one, length))
            slots = self._programs.repeat(slots, zero, zero, sample)
            cancel_S = np.ones(len(self._prompt_in), bool)
            tables = jax.tree.map(jnp.asarray, pool.tables)
            jax.block_until_ready(self._programs.decode(weights, slots, cancel_S, tables))
            self._compiled.add(wanted)

    def usual_task(self) -> Task:
        """A task as most are, to compile for."""
        length = max(1, min(self.model.usual_prompt, self.model.context - 1))
        prompt = (self.model.decoding.pad_id,) * length
        return Task(-1, prompt, 1, 0, 1.0, 1.0, self.model.default_tokens, 1)

    def _first_state(self, pool: GrammarPool, grammar: tuple[str, GrammarTables]) -> int | None:
        if pool.tables is None:
            pool.first_state("", self.model.counted)
        return pool.first_state(*grammar)

    def _admit(self) -> None:
        """Puts waiting samples into free slots."""
        if not self._running:
            self._pool.clear()
        blocked = 0
        begun: list[_Beginning] = []
        while self._free and blocked < len(self._waiting):
            task = self._waiting[0]
            self._waiting.rotate(-1)
            first = ANYTHING
            if task.grammar is not None:
                found = self._first_state(self._pool, task.grammar)
                if found is None:
                    blocked += 1
                    continue
                first = found
            blocked = 0
            if self._roomy_for(task) != self._room:
                self._run(begun)
                self._resize(*self._roomy_for(task))
            self._begin(task, first, begun)
            if task.begun == task.samples:
                self._waiting.remove(task)
        self._run(begun)

    def _roomy_for(self, task: Task) -> tuple[int, int]:
        # Room that one request made others do without as soon as they can.
        return _roomier(_room_of(task), self._room if self._running else self._usual_room)

    def _resize(self, prompt_room: int, room: int) -> None:
        self._room = prompt_room, room
        self._slots = _resize(self._slots, prompt_room, room)
        self._prompt_in = [p if p and len(p) <= prompt_room else None for p in self._prompt_in]

    def _begin(self, task: Task, grammar: int, begun: list[_Beginning]) -> None:
        """Begins the task's next sample, at once or with those that are about to begin."""
        known = [slot for slot, prompt in enumerate(self._prompt_in) if prompt == task.prompt]
        slot = next((slot for slot in self._free if slot in known), self._free[0])
        self._free.remove(slot)
        self._cancel.discard(slot)
        sample = _sample(task, grammar)
        if known:
            self._run(begun)
            source = np.int32(slot if slot in known else known[0])
            self._slots = self._programs.repeat(self._slots, source, np.int32(slot), sample)
        else:
            begun.append(_Beginning(task.prompt, slot, sample))
        self._prompt_in[slot] = task.prompt
        answering = self.model.decoding.end_of_think_id is None
        text = AnswerText(self.model.texts, task.stops)
        self._running[slot] = _Running(task, task.begun, text, answering=answering)
        task.begun += 1

    def _run(self, begun: list[_Beginning]) -> None:
        """Runs the prompts of those that are about to begin, of one length at once."""
        lengths = [_run_length(len(one.prompt)) for one in begun]
        for length in sorted(set(lengths)):
            ones = [one for one, size in zip(begun, lengths, strict=True) if size == length]
            rows = self._rows(ones, length)
            self._slots = self._programs.begin(self.model.weights, self._slots, rows)
        begun.clear()

    def _rows(self, begun: list[_Beginning], length: int) -> Beginnings:
        """Beginnings as the program takes them: a row for every slot, with so many tokens."""
        count, slots = len(begun), len(self._prompt_in)
        tokens_NP = np.full((slots, length), self.model.decoding.pad_id, np.int32)
        for row_P, one in zip(tokens_NP, begun, strict=False):
            row_P[: len(one.prompt)] = one.prompt
        filled = begun + begun[:1] * (slots - count)
        return Beginnings(
            tokens_NP,
            np.array([len(one.prompt) for one in filled], np.int32),
            np.array([one.slot for one in filled], np.int32),
            jax.tree.map(lambda *values: np.stack(values), *(one.sample for one in filled)),
            np.array(count, np.int32),
        )

    def _dispatch(self) -> None:
        """Fills slots, and lets the device decode in all that run."""
        self._admit()
        if not self._running:
            self._flight = None
            return
        cancel_S = np.zeros(len(self._prompt_in), bool)
        cancel_S[list(self._cancel)] = True
        self._cancel.clear()
        grammar = None
        if any(running.task.grammar for running in self._running.values()):
            grammar = self._grammar()
        self._slots, decoded = self._programs.decode(
            self.model.weights, self._slots, cancel_S, grammar
        )
        if all(running.task.top is None for running in self._running.values()):
            nothing = np.zeros((len(self._prompt_in), self._steps, 0))  # is not fetched
            decoded = decoded._replace(
                logprobs_SK=nothing, top_SKN=nothing, top_logprobs_SKN=nothing
            )
        self._flight = _Flight(decoded, dict(self._running))

    def _grammar(self) -> GrammarTables:
        """The pool's tables, on the device."""
        tables = self._pool.tables
        assert tables is not None, "a slot has a grammar"
        if self._tables is None or self._tables[0] is not tables:
            self._tables = tables, jax.tree.map(jnp.asarray, tables)
        return self._tables[1]

    def _hand_out(self, decoded: Decoded, ran: dict[int, _Running]) -> Iterator[JsonObject]:
        tokens_SK, written_S = decoded.tokens_SK.tolist(), decoded.written_S.tolist()
        for slot, running in ran.items():
            if running.dropped:
                continue
            for at, token in enumerate(tokens_SK[slot][: written_S[slot]]):
                self._take(running, token, decoded, slot, at)
                if running.text.stopped:
                    break
                if running.task.streams:
                    yield from self._part(running, None)
            if finish := self._finish(running, decoded, slot):
                running.text.finish()
                yield from self._part(running, finish)
                yield from self._ended(running)

    def _part(self, running: _Running, finish: str | None) -> Iterator[JsonObject]:
        """What is ready of an answer, if anything, or its end."""
        task, piece = running.task, running.text.take()
        if not piece.text and finish is None:
            return
        part: JsonObject = {"id": task.id, "sample": running.index, "text": piece.text}
        if task.top is not None:
            part["tokens"] = [token.to_json(self.model.texts) for token in piece.tokens]
        if finish is not None:
            part["finish"] = finish
        yield part

    def _take(self, running: _Running, token: int, decoded: Decoded, slot: int, at: int) -> None:
        """One token more of a sample."""
        decoding, task = self.model.decoding, running.task
        running.tokens += 1
        if token in decoding.stop_ids:
            return
        if not running.answering:
            if token == decoding.end_of_think_id:
                running.answering = True
            else:
                running.thought += 1
            return
        logprob = TokenLogprob(token, 0.0)
        if task.top is not None:
            logprob.logprob = _number(decoded.logprobs_SK[slot, at])
            top = decoded.top_SKN[slot, at, : task.top], decoded.top_logprobs_SKN[slot, at]
            logprob.top = [(int(other), _number(value)) for other, value in zip(*top)]  # noqa: B905
        running.text.add(logprob)

    def _finish(self, running: _Running, decoded: Decoded, slot: int) -> str | None:
        """Why a sample has ended, if it has."""
        if running.text.stopped:
            if self._running.get(slot) is running:
                self._drop(slot)
            return "stop"
        if decoded.running_S[slot]:
            return None
        last = int(decoded.tokens_SK[slot, decoded.written_S[slot] - 1])
        return "stop" if last in self.model.decoding.stop_ids else "length"

    def _ended(self, running: _Running) -> Iterator[JsonObject]:
        task = running.task
        task.ended += 1
        task.usage["completion"] += running.tokens
        task.usage["reasoning"] += running.thought
        if task.ended == task.samples:
            self._tasks.pop(task.id, None)
            yield {"id": task.id, "done": True, "usage": task.usage}

    def _drop(self, slot: int) -> None:
        """Frees a slot in which the device would go on."""
        self._running[slot].dropped = True
        self._end(slot)
        self._cancel.add(slot)

    def _end(self, slot: int) -> None:
        del self._running[slot]
        self._free.append(slot)


def _sample(task: Task, grammar: int) -> Sample:
    return Sample(
        seed=np.array(task.seed & 0xFFFFFFFF, np.uint32),
        step=np.array(task.seed >> 32, np.uint32).astype(np.int32),
        index=np.array(task.begun, np.int32),
        temperature=np.array(task.temperature, np.float32),
        top_p=np.array(max(task.top_p, _LEAST_TOP_P), np.float32),
        thinking_tokens=np.array(task.thinking_tokens, np.int32),
        most_tokens=np.array(task.limit, np.int32),
        grammar=np.array(grammar, np.int32),
        grammar_tokens=np.array(task.grammar_tokens if task.grammar else 0, np.int32),
        tells=np.array(task.top is not None),
    )


def _room_of(task: Task) -> tuple[int, int]:
    """The room for prompts and for completions that a task takes."""
    return _rounded(len(task.prompt)), _rounded(task.limit)


def _roomier(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), max(a[1], b[1])


def _rounded(size: int) -> int:
    """The next power of two, and `_LEAST_ROOM` at least."""
    return max(_LEAST_ROOM, _power_above(size))


@functools.cache
def _run_length(size: int) -> int:
    """The tokens that are run of a prompt and its padding: a power of two, or three quarters of it,
    for each of which a program is compiled."""
    power = _power_above(size)
    return max(_LEAST_PROMPT, power // 4 * 3 if size <= power // 4 * 3 else power)


def _power_above(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _number(logprob: Array | float) -> float:
    return max(float(logprob), _MINUS_INFINITY)
