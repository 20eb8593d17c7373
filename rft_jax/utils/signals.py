"""Ending a run in good order: SIGINT, and SIGTERM, which is a TPU's notice of preemption as well.

with StopSignals() as stop:
    ...
    if stop.signum:
        save()
        leave(stop.signum)
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn

from rft_jax.utils.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes the first signal, so that the loop can end after a step; the second one ends at once.

    A context manager; outside of the main thread it notes nothing.

    Attributes:
        signum: of the first signal; 0 before it.
    """

    def __init__(self):
        self.signum = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        self._restore()
        os.write(2, b"ending after the steps under way, all saved; once more ends at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def raise_interrupted(signum: int) -> NoReturn:
    """Raises `Interrupted` for a signal."""
    raise Interrupted(f"ended by {signal.Signals(signum).name}, all saved", 128 + signum)
