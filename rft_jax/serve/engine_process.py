"""The engine: the process that has the device and answers; `engine.Engine` starts it.

    python -m rft_jax.serve.engine_process FD

It takes requests from a socket and sends events back, `frames` of JSON. One thread reads, some
prepare requests (open the model, encode the prompt, build the grammar, compile), and the main one
goes round the models that have something to do, a dispatch each.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from rft_jax.grammars import GrammarTables, open_grammar
from rft_jax.grammars.errors import ResponseFormatError
from rft_jax.serve.batcher import Batcher, Task
from rft_jax.serve.frames import frame, read_frame
from rft_jax.serve.loaded import LoadedModel, load_model
from rft_jax.serve.slots import Weights
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

_log = logging.getLogger("rft_jax.engine")

PREPARERS = 4  # requests that are prepared at once
MEMORY_FRACTION = 0.3  # of the device, for weights that are kept
MOST_GRAMMARS = 32  # that are kept of a model


class Refused(Exception):
    """A request that cannot be answered, as its client should see it."""

    def __init__(self, message: str, param: str, code: str | None = None):
        super().__init__(message)
        self.error = {"status": 400, "message": message, "param": param, "code": code}


class OpenModels:
    """The models that are loaded, of which those not used for longest are dropped."""

    def __init__(self, budget: int, load: Callable[[Path, dict[str, Weights]], LoadedModel]):
        """Starts without any.

        Args:
            budget: Bytes of weights at most, but for a single model.
            load: `load_model`.
        """
        self._budget, self._load = budget, load
        self._kept: OrderedDict[str, _Served] = OrderedDict()
        self._bases: dict[str, Weights] = {}
        self._lock = threading.Lock()  # of what is kept
        self._loading = threading.Lock()

    def get(self, path: str) -> "_Served":
        """The model of a path; the first who asks loads it, others wait, but for those of others.

        Raises:
            InputError: As `load_model`.
        """
        if (served := self._find(path)) is not None:
            return served
        with self._loading:
            if (served := self._find(path)) is not None:  # somebody else has loaded it
                return served
            served = _Served(Batcher(self._load(Path(path), self._bases)))
            with self._lock:
                self._kept[path] = served
                self._drop()
            return served

    def _find(self, path: str) -> "_Served | None":
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
            return self._kept.get(path)

    def _drop(self) -> None:
        """Drops models until the others fit; whoever still answers goes on to the end."""
        size = sum(served.batcher.model.bytes for served in self._kept.values())
        while size > self._budget and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            size -= oldest.batcher.model.bytes
        used = {served.batcher.model.base for served in self._kept.values()}
        for base in set(self._bases) - used:
            del self._bases[base]


class _Served:
    """A loaded model and the grammars that were built for it."""

    def __init__(self, batcher: Batcher):
        self.batcher = batcher
        self._grammars: OrderedDict[str, GrammarTables] = OrderedDict()
        self._lock = threading.Lock()

    def grammar(self, form: JsonObject) -> tuple[str, GrammarTables]:
        """The grammar of a response format, and its key.

        Raises:
            Refused: It cannot be enforced.
        """
        text = json.dumps(form)
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            if key in self._grammars:
                self._grammars.move_to_end(key)
                return key, self._grammars[key]
        tables = self._build(form)
        with self._lock:
            self._grammars[key] = tables
            if len(self._grammars) > MOST_GRAMMARS:
                self._grammars.popitem(last=False)
        return key, tables

    def _build(self, form: JsonObject) -> GrammarTables:
        try:
            tables = open_grammar(form, self.batcher.model.tokenizer)
        except ResponseFormatError as error:
            raise Refused(str(error), error.place) from None
        except (RecursionError, MemoryError):
            message = "response_format: is too large or nested too deep; write it simpler"
            raise Refused(message, "response_format") from None
        assert tables is not None, "the server sends no format for any text"
        return tables


def prepare(request: JsonObject, served: _Served) -> Task:
    """The task of a request.

    Raises:
        Refused: The model cannot answer it.
    """
    model = served.batcher.model
    prompt = _encode(request["messages"], model)
    room = model.context - len(prompt)
    limit = min(request["limit"] or model.default_tokens, room)
    form = request["format"]
    return Task(
        id=request["id"],
        prompt=tuple(prompt),
        samples=request["samples"],
        seed=request["seed"],
        temperature=request["temperature"],
        top_p=request["top_p"],
        limit=limit,
        thinking_tokens=model.efforts[request["effort"]],
        grammar=None if form is None else served.grammar(form),
        # A limit cuts the answer that there would be without it; it does not make another.
        grammar_tokens=min(max(limit, model.default_tokens), room),
        stops=tuple(request["stops"]),
        top=request["top"],
        streams=request["streams"],
    )


def _encode(messages: list[JsonObject], model: LoadedModel) -> list[int]:
    # A prompt that cannot fit is not even encoded, which would take long.
    size = sum(len(str(message.get("content") or "")) for message in messages)
    if size > model.context * model.texts.longest:
        raise _too_long(f"at least {size // model.texts.longest}", model)
    try:
        prompt = model.tokenizer.encode_prompt(messages)
    except InputError as error:
        raise Refused(str(error), "messages") from None
    if len(prompt) >= model.context:
        raise _too_long(str(len(prompt)), model)
    return prompt


def _too_long(tokens: str, model: LoadedModel) -> Refused:
    message = (
        f"This model's context is {model.context} tokens, of prompt and answer together, but the "
        f"messages take {tokens}; shorten them"
    )
    return Refused(message, "messages", "context_length_exceeded")


class Worker:
    """The engine without its socket."""

    def __init__(self, models: OpenModels, send: Callable[[list[JsonObject]], None]):
        """Waits for requests.

        Args:
            models: Loads them.
            send: Takes events; called in several threads.
        """
        self._models, self._send = models, send
        self._incoming: queue.SimpleQueue[tuple[Batcher, Task] | int | None] = queue.SimpleQueue()
        self._preparers = ThreadPoolExecutor(PREPARERS, "prepare")
        self._active: list[Batcher] = []
        self._owner: dict[int, Batcher] = {}
        self._canceled: set[int] = set()  # before they were prepared
        self._preparing: set[int] = set()

    def take(self, request: JsonObject) -> None:
        """Takes a message of `engine.Engine`: a request, one to cancel, or a model to load."""
        if "cancel" in request:
            self._incoming.put(request["cancel"])
        elif "load" in request:
            self._preparers.submit(self._load, request["load"])
        else:
            self._preparing.add(request["id"])
            self._preparers.submit(self._prepare, request)

    def close(self) -> None:
        """Ends `run`."""
        self._incoming.put(None)

    def run(self) -> None:
        """Answers until `close`."""
        while True:
            while not self._active or not self._incoming.empty():
                message = self._incoming.get()
                if message is None:
                    return
                self._receive(message)
            events = [event for batcher in self._active for event in batcher.step()]
            for event in events:
                if "done" in event:
                    self._owner.pop(event["id"], None)
            if events:
                self._send(events)
            self._active = [batcher for batcher in self._active if batcher.busy]

    def _receive(self, message: tuple[Batcher, Task] | int) -> None:
        if isinstance(message, int):
            if (batcher := self._owner.pop(message, None)) is not None:
                batcher.cancel(message)
            elif message in self._preparing:
                self._canceled.add(message)
            return
        batcher, task = message
        self._preparing.discard(task.id)
        if task.id in self._canceled:
            self._canceled.discard(task.id)
            return
        self._owner[task.id] = batcher
        batcher.add(task)
        if batcher not in self._active:
            self._active.append(batcher)

    def _load(self, path: str) -> None:
        try:
            batcher = self._models.get(path).batcher
            batcher.compile_for(batcher.usual_task())
        except InputError as error:
            _log.warning("a model cannot be loaded: %s", error)
        except Exception:
            _log.exception("a model cannot be loaded")

    def _prepare(self, request: JsonObject) -> None:
        try:
            served = self._models.get(request["path"])
            task = prepare(request, served)
            served.batcher.compile_for(task)
            told = {"prompt": len(task.prompt), "fingerprint": served.batcher.model.fingerprint}
            self._send([{"id": task.id, "begin": told}])
            self._incoming.put((served.batcher, task))
            return
        except Refused as error:
            answer = error.error
        except InputError:
            message = "The model cannot be opened; see the server's log"
            _log.exception("a model cannot be opened")
            answer = {"status": 500, "message": message, "param": None, "code": None}
        except Exception:
            _log.exception("a request cannot be prepared")
            message = "The request cannot be answered; see the server's log"
            answer = {"status": 500, "message": message, "param": None, "code": None}
        self._preparing.discard(request["id"])
        self._canceled.discard(request["id"])
        self._send([{"id": request["id"], "error": answer}])


def memory_budget() -> int:
    """Bytes of weights that are kept."""
    stats = jax.devices()[0].memory_stats() or {}
    size = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(MEMORY_FRACTION * size)


def main() -> None:
    """Answers until the socket is closed at its other end."""
    logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
    for name in (signal.SIGINT, signal.SIGTERM):  # for the server, which then closes the socket
        signal.signal(name, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    reader, writer = connection.makefile("rb"), connection.makefile("wb")
    lock = threading.Lock()

    def send(events: list[JsonObject]) -> None:
        with lock, contextlib.suppress(OSError):  # then the end is read, too
            writer.write(frame({"events": events}))
            writer.flush()

    use_compilation_cache(None)
    worker = Worker(OpenModels(memory_budget(), load_model), send)

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):  # the end, in the middle of a message too
            while (message := read_frame(reader)) is not None:
                worker.take(message)
        os._exit(0)  # whatever is being computed, nobody waits for it

    threading.Thread(target=read, daemon=True, name="read").start()
    worker.run()


if __name__ == "__main__":
    main()
