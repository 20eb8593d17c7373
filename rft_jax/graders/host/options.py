"""What graders on the host may use of the machine and the network."""

import os
from dataclasses import dataclass


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class HostOptions:
    """Settings of the graders that run on the host.

    Attributes:
        workers: Sandboxed processes of a `python` grader, each of which grades one sample at a
            time; None for one per core, up to 16.
        python_timeout_s: Seconds that grading one sample in Python may take (OpenAI's: 120).
        sandbox: Whether Python runs isolated. Without, it can do whatever the user can do who runs
            it, and the limits hold for each process but not for their number, cores and disk.
        requests: HTTP requests that are under way at once, for each grader.
    """

    workers: int | None = None
    python_timeout_s: float = 120.0
    sandbox: bool = True
    requests: int = 16

    @property
    def worker_count(self) -> int:
        """The number of workers."""
        return self.workers or min(16, _cores())


DEFAULTS = HostOptions()
