"""The program that grades inside of the sandbox: a warm process, of which each sample gets a fork.

Run as a script, without the package, which is not there; spoken to through its standard input and
output, a JSON object a line:

    in   {"source", "path", "scratch", "timeout_s"}            once
    out  {"ready": true}
    in   {"sample", "item"}                                    for every sample
    out  {"end", "reply", "status", "seconds", "last"}

`end` says how the fork's reply came to an end: "whole", "silent" (it ended without one), "timeout"
or "too long". `reply` is what the fork wrote, which the worker does not look into. `last` says that
this worker cannot go on and wants to be replaced.

The worker itself never runs graded code. It is the first process of its namespace, which is why no
signal from inside can end it and why it can end everything else there: after each sample all
processes are killed and the scratch folder is emptied.
"""

import ast
import contextlib
import gc
import importlib
import json
import linecache
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import types

_FILE = "grader.py"  # what tracebacks call the source
_MODULE = "grader"
_REPLY_BYTES = 16384
_ERROR_CHARACTERS = 2000
_CORES = 2
# Of each process; memory and file size are OpenAI's, as are the cores.
_LIMITS = {
    resource.RLIMIT_AS: 2 << 30,
    resource.RLIMIT_FSIZE: 1 << 30,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
}
_PROCESSES = 32  # and threads; outside of a sandbox the user's others would count, too


def main() -> None:
    """Serves until the input ends or the scratch folder cannot be emptied."""
    requests, replies = _take_streams()
    setup = json.loads(requests.readline())
    alone = os.getpid() == 1
    _limit(alone)
    sys.path += setup["path"]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = compile(setup["source"], _FILE, "exec", dont_inherit=True)
    lines = setup["source"].splitlines(keepends=True)
    linecache.cache[_FILE] = (len(setup["source"]), None, lines, _FILE)
    _import_ahead(setup["source"])
    gc.freeze()  # forks share what is here, as nothing is written to it
    _say(replies, {"ready": True})
    last = False
    while not last and (request := requests.readline()):
        result = _grade_in_fork(code, request, (requests, replies), setup["timeout_s"], alone)
        last = not _emptied(setup["scratch"])
        _say(replies, result | {"last": last})


def _take_streams():
    """Standard input and output under other numbers; what a grader prints goes nowhere."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    return streams


def _say(replies, message) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _limit(alone: bool) -> None:
    """Sets the limits that this process and its forks live under."""
    limits = _LIMITS | ({resource.RLIMIT_NPROC: _PROCESSES} if alone else {})
    for kind, value in limits.items():
        # Outside of a sandbox, systems differ in what they let one set.
        with contextlib.nullcontext() if alone else contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def _import_ahead(source: str) -> None:
    """Imports the libraries that the source names, so that forks find them loaded.

    Only what is installed can be found, and none of the source itself is run.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            # Whatever is wrong with it, the sample's own import will say so.
            with contextlib.suppress(BaseException):
                importlib.import_module(name)


def _grade_in_fork(code, request: bytes, streams, timeout_s: float, alone: bool) -> dict:
    began = time.monotonic()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        for stream in streams:
            os.close(stream.fileno())
        os.close(read_end)
        try:
            _run(code, request, write_end, timeout_s)
        finally:
            os._exit(0)
    os.close(write_end)
    end, reply = _read_reply(read_end, began + timeout_s)
    os.close(read_end)
    status = _kill_all(child, alone)
    seconds = time.monotonic() - began
    return {"end": end, "reply": reply.decode("latin-1"), "status": status, "seconds": seconds}


def _read_reply(pipe: int, deadline: float) -> tuple[str, bytes]:
    """A line from the fork, and how it came to an end."""
    reply = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(reply) <= _REPLY_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(1000 * left)):
            return "timeout", b""
        chunk = os.read(pipe, 4096)
        if not chunk:
            return "silent", b""
        reply += chunk
        if b"\n" in chunk:
            return "whole", reply[: reply.index(b"\n")]
    return "too long", b""


def _kill_all(child: int, alone: bool) -> int:
    """Ends the fork and whatever it has started; its exit code, negative for a signal."""
    with contextlib.suppress(ProcessLookupError):
        if alone:
            os.kill(-1, signal.SIGKILL)  # everything in this namespace but the worker
        else:
            os.kill(child, signal.SIGKILL)
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ChildProcessError):
        while alone:
            os.waitpid(-1, 0)
    return os.waitstatus_to_exitcode(status)


def _emptied(scratch: str) -> bool:
    """Empties the scratch folder, if it can."""
    try:
        os.chmod(scratch, 0o700)
        for entry in os.scandir(scratch):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except (OSError, RecursionError, MemoryError):
        return False
    return True


def _run(code, request: bytes, pipe: int, timeout_s: float) -> None:
    """What a fork does: grades one sample and writes a line. Here nothing can be trusted."""
    os.setsid()
    seconds = math.ceil(_CORES * timeout_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        sample = json.loads(request)
        module = sys.modules[_MODULE] = types.ModuleType(_MODULE)
        exec(code, module.__dict__)
        reply = {"score": _number(module.grade(sample["sample"], sample["item"]))}
    except BaseException as error:
        here = error.__traceback__
        below = here.tb_next if here else None  # without this function
        lines = traceback.format_exception(type(error), error, below or here)
        reply = {"error": "".join(lines)[-_ERROR_CHARACTERS:]}
    line = json.dumps(reply).encode() + b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def _number(value) -> float:
    """What `grade` returned as a float, by the methods of Python's own numbers."""
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.bool_ | numpy.integer | numpy.floating):
        value = value.item()
    if isinstance(value, float):
        number = float.__float__(value)
    elif isinstance(value, int):
        number = int.__float__(value)
    else:
        raise TypeError(f"grade must return a number, not {type(value).__name__}")
    if not math.isfinite(number):
        raise ValueError(f"grade must return a finite number, not {number}")
    return number


if __name__ == "__main__":
    main()
