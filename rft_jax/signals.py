"""Ending a run in good order: SIGTERM, SIGINT, and a TPU's notice of preemption.

with StopSignals() as stop:
    ...
    if stop.requested(step):
        save()
        stop.leave()
"""

import os
import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from rft_jax.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes the first signal, so that the loop can end after a step; the second one ends at once.

    A context manager; outside of the main thread it notes nothing.
    """

    def __init__(self):
        self._signum: int | None = None
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

    def requested(self, step: int) -> bool:
        """Whether to end after this step; on several hosts all of them hear it at the same step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signum = self._signum or signal.SIGTERM
            return True
        return self._signum is not None and jax.process_count() == 1

    def leave(self) -> None:
        """Raises `Interrupted`, for the first signal."""
        signum = self._signum or signal.SIGTERM
        raise Interrupted(f"ended by {signal.Signals(signum).name}, all saved", 128 + signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self._signum = signum
        self._restore()
        os.write(2, b"ending after this step, with all saved; once more ends at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
