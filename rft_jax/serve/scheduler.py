"""What becomes of jobs: checks at once, trainings one at a time, each in a process of its own.

The loop looks at the database and at its children, and does what is next. All that matters is in
the database and in the jobs' folders, so that it may be killed between any two acts.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from rft_jax.serve.context import Context
from rft_jax.serve.files import sweep_files
from rft_jax.serve.grader_spec import SERVER_KEY_ENV
from rft_jax.serve.job_folder import JobFolder, read_value
from rft_jax.serve.jobs import end_job
from rft_jax.serve.parent import PARENT
from rft_jax.serve.progress import Progress
from rft_jax.serve.store import JobRow, tell
from rft_jax.utils.types import JsonObject

_LOOK_S = 0.3
_SWEEP_S = 60.0
_KILL_S = 30.0  # from a cancellation to the trainer's end, if it does not leave by itself
_LEAVE_S = 20.0  # that the trainer has to save when the server ends
_CRASHES = 1  # after which a job is tried again
_GPU_MEMORY_FRACTION = "0.6"  # the rest is the engine's
_LOG = logging.getLogger(__name__)


class _Child:
    """A process on a job."""

    def __init__(self, job_id: str, process: asyncio.subprocess.Process):
        self.job_id, self.process = job_id, process
        self.asked = 0.0  # when it was told to end; 0 before

    @property
    def status(self) -> int | None:
        """The exit status; below 0 for a signal, None while it runs."""
        return self.process.returncode

    def ask_to_end(self) -> None:
        """SIGTERM, once: a second one would end it without a checkpoint."""
        if not self.asked:
            self.asked = time.monotonic()
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)


class Scheduler:
    """Starts and watches the processes of jobs; a `context.Service`.

    Args:
        tell_webhooks: Says that there may be something to deliver.
    """

    def __init__(self, context: Context, tell_webhooks: Callable[[], None]):
        self._context, self._store = context, context.store
        self._tell_webhooks = tell_webhooks
        self._wake: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._checking: _Child | None = None
        self._training: _Child | None = None
        self._progress: Progress | None = None
        self._swept = 0.0

    def wake(self) -> None:
        """Says that rows have changed; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def start(self) -> None:
        """Goes on with what the last server left."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._take_over)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends the children; the job that runs saves, and goes on at the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._checking is not None:
            self._checking.kill()
        if self._training is not None:
            self._training.ask_to_end()
            try:
                async with asyncio.timeout(_LEAVE_S):  # wait_for of Python 3.11 may lose a `cancel`
                    await self._training.process.wait()
            except TimeoutError:
                self._training.kill()

    def _take_over(self) -> None:
        """Jobs that ran are first in the queue; what they were asked for is still to be done."""
        with self._store.write() as session:
            for job in session.scalars(select(JobRow).where(JobRow.status == "running")):
                job.status, job.place = "queued", -1
            known = set(session.scalars(select(JobRow.id)))
        for path in self._store.jobs.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # a full disk, a locked database; jobs must go on
                _LOG.exception("scheduler")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        if time.monotonic() - self._swept > _SWEEP_S:
            await asyncio.to_thread(sweep_files, self._store)
            self._swept = time.monotonic()
        await self._look_at_check()
        await self._look_at_training()
        if self._checking is None:
            await self._start_check()
        if self._training is None:
            await self._start_training()

    # -------------------------------------------------------------------------------------- checks

    async def _start_check(self) -> None:
        job_id = await asyncio.to_thread(self._first, "validating_files")
        if job_id is not None:
            JobFolder(self._store.jobs / job_id).checked.unlink(missing_ok=True)
            self._checking = await self._spawn("rft_jax.serve.check", job_id, on_device=False)

    async def _look_at_check(self) -> None:
        if (child := self._checking) is None:
            return
        if child.status is None:
            if await asyncio.to_thread(self._status, child.job_id) != "validating_files":
                child.kill()  # the job was cancelled
            return
        await asyncio.to_thread(self._end_check, child.job_id)
        self._checking = None
        self._tell_webhooks()

    def _end_check(self, job_id: str) -> None:
        found = read_value(JobFolder(self._store.jobs / job_id).checked)
        with self._store.write() as session:
            job = _job(session, job_id)
            if job.status != "validating_files":
                return
            if found is None:
                job.crashes += 1
                if job.crashes > _CRASHES:
                    _fail(session, job, "server_error", "The files could not be checked", None)
            elif problem := found.get("error"):
                _fail(session, job, problem["code"], problem["message"], problem["param"])
            else:
                kind = job.given["type"]
                method = job.given[kind] | {"hyperparameters": found["hyperparameters"]}
                job.given = job.given | {kind: method}
                job.total_steps, job.samples = found["total_steps"], found["samples"]
                job.settings, job.status, job.crashes = found["settings"], "queued", 0
                for warning in found["warnings"]:
                    tell(session, job_id, warning, "warn")
                tell(session, job_id, "Files validated, moving job to queued state")

    # ------------------------------------------------------------------------------------ training

    async def _start_training(self) -> None:
        job_id = await asyncio.to_thread(self._first, "queued")
        if job_id is None or JobFolder(self._store.jobs / job_id).is_held():
            return  # a trainer of the server before this one is still saving
        if not await asyncio.to_thread(self._begin, job_id):
            return
        self._progress = await asyncio.to_thread(Progress, self._store, job_id)
        self._training = await self._spawn("rft_jax.serve.trainer", job_id, on_device=True)

    def _begin(self, job_id: str) -> bool:
        """Makes a queued job run, unless it was ended meanwhile."""
        with self._store.write() as session:
            job = _job(session, job_id)
            if job.status != "queued":
                return False
            if job.wanted:  # asked of the server before this one
                self._leave(session, job)
                return False
            job.status = "running"
            if not job.started:
                job.started = True
                tell(session, job_id, "Fine-tuning job started")
        return True

    async def _look_at_training(self) -> None:
        if (child := self._training) is None:
            return
        status = child.status  # before the look at the metrics, which are then all there
        assert self._progress is not None
        await asyncio.to_thread(self._progress.tell)
        if status is None:
            wanted = await asyncio.to_thread(self._wanted, child.job_id)
            if wanted:
                child.ask_to_end()
            if wanted == "cancel" and time.monotonic() - child.asked > _KILL_S:
                child.kill()
            return
        await asyncio.to_thread(self._end_training, child.job_id, status, self._progress)
        self._training = self._progress = None
        self._tell_webhooks()

    def _end_training(self, job_id: str, status: int, progress: Progress) -> None:
        """What the end of a trainer makes of its job."""
        with self._store.read() as session:
            wanted = _job(session, job_id).wanted
        if status == 0 and wanted != "cancel":
            progress.succeed()
            return
        folder = JobFolder(self._store.jobs / job_id)
        with self._store.write() as session:
            job = _job(session, job_id)
            asked_to_leave = status in (128 + signal.SIGTERM, -signal.SIGTERM)
            if wanted == "cancel" or wanted and asked_to_leave:
                self._leave(session, job)
            elif status in (1, 2) and (reason := read_value(folder.ended)):
                message = _without_paths(str(reason["message"]), folder)
                _fail(session, job, "training_failed", message, None)
            elif job.crashes < _CRASHES:
                job.crashes += 1
                job.status, job.wanted, job.place = "queued", "", -1
                _LOG.warning("the trainer of %s ended with status %s; once more", job_id, status)
            else:
                message = "The training process ended unexpectedly; the server's log says more"
                _fail(session, job, "server_error", message, None)

    def _leave(self, session: Session, job: JobRow) -> None:
        """What was asked for has come about."""
        if job.wanted == "cancel":
            tell(session, job.id, "Fine-tuning job cancelled")
            end_job(session, job, "cancelled")
        else:
            tell(session, job.id, "Fine-tuning job paused")
            job.status, job.wanted, job.place = "paused", "", job.seq

    # --------------------------------------------------------------------------------------- common

    async def _spawn(self, module: str, job_id: str, *, on_device: bool) -> _Child:
        folder = JobFolder(self._store.jobs / job_id)
        options = self._context.options
        environment = dict(options.environment) | {
            PARENT: str(os.getpid()),
            SERVER_KEY_ENV: options.api_key,
        }
        environment.setdefault("XLA_CLIENT_MEM_FRACTION", _GPU_MEMORY_FRACTION)
        if not on_device:
            environment["JAX_PLATFORMS"] = "cpu"
        with folder.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(folder.path),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,  # a Ctrl-C of the server's terminal is for the server
            )  # fmt: skip
        return _Child(job_id, process)

    def _first(self, status: str) -> str | None:
        with self._store.read() as session:
            query = select(JobRow.id).where(JobRow.status == status)
            return session.scalar(query.order_by(JobRow.place, JobRow.seq).limit(1))

    def _status(self, job_id: str) -> str:
        with self._store.read() as session:
            return _job(session, job_id).status

    def _wanted(self, job_id: str) -> str:
        with self._store.read() as session:
            return _job(session, job_id).wanted


def _job(session: Session, identity: str) -> JobRow:
    return session.scalars(select(JobRow).where(JobRow.id == identity)).one()


def _fail(session: Session, job: JobRow, code: str, message: str, param: str | None) -> None:
    error: JsonObject = {"code": code, "message": message, "param": param}
    job.error = error
    tell(session, job.id, message, "error")
    end_job(session, job, "failed")


def _without_paths(message: str, folder: JobFolder) -> str:
    """A sentence without the places of our disk."""
    return message.replace(f"{folder.path}/", "")
