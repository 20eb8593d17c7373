"""Children of the server end with it, also when it is killed.

end_with_parent(int(os.environ[PARENT]))  # the child's first act
"""

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "RFT_SERVER_PID"  # in the environment of the server's children
_PR_SET_PDEATHSIG = 1
_LOOK_S = 1.0


def end_with_parent(parent: int, signum: signal.Signals = signal.SIGTERM) -> None:
    """Has this process get a signal, once, when its parent has ended, however that came.

    Args:
        parent: The process that started this one; if it is gone already, the signal comes at once.
    """
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent, signum), daemon=True).start()
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signum)


def _watch(parent: int, signum: signal.Signals) -> None:
    """Where the kernel does not tell."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signum)
