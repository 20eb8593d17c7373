"""The process that grades for the API, on the CPU: `python -m rft_jax.serve.grader_process`.

It is spoken to through its standard input and output, in `frames`.

    in   {"options": {"python_timeout_s"}}                          once
    in   {"id", "do": "check", "grader"}
    in   {"id", "do": "run", "grader", "text", "item"}
    out  {"id", "result"} or {"id", "refused"} or {"id", "failed"}

`refused` is a sentence about what was sent, `failed` tells where this program went wrong. When its
input ends, so does the process, whatever it is doing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

from rft_jax.config import HostOptions
from rft_jax.serve import grading
from rft_jax.serve.frames import frame, read_frame
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

THREADS = 8
_WORKERS = 2  # sandboxed processes of each Python grader


def main() -> None:
    """Serves until the input ends."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever is printed here is no reply
    setup = read_frame(requests)
    if setup is None:
        return
    options = HostOptions(workers=_WORKERS, **setup["options"])
    graders, lock = grading.OpenGraders(options), threading.Lock()

    def serve(request: JsonObject) -> None:
        reply = frame({"id": request["id"], **_answer(graders, request)})
        with lock:
            replies.write(reply)
            replies.flush()

    threads = ThreadPoolExecutor(THREADS)
    while (request := read_frame(requests)) is not None:
        threads.submit(serve, request)
    os._exit(0)  # the API has ended; sandboxes end with the threads that started them


def _answer(graders: grading.OpenGraders, request: JsonObject) -> JsonObject:
    spec = request["grader"]
    try:
        if request["do"] == "check":
            grading.check(spec)
            return {"result": {}}
        key = json.dumps(spec, sort_keys=True)
        return {"result": grading.run(graders, key, spec, request["text"], request["item"])}
    except InputError as error:
        return {"refused": str(error)}
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return {"failed": f"{type(error).__name__}\n{frames}"}


if __name__ == "__main__":
    sys.exit(main())
