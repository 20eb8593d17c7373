"""What a run has written becomes what its job tells: events, checkpoints, the end.

Steps beyond the last told one and all that follows from them go into one transaction, so that no
step is told twice or left out, whenever the server is killed and whatever the trainer does again.
"""

import json
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from rft_jax.serve.files import RESULTS, add_file
from rft_jax.serve.job_folder import JobFolder, read_value
from rft_jax.serve.jobs import end_job
from rft_jax.serve.models import checkpoint_path, stage_path
from rft_jax.serve.store import (
    CheckpointRow,
    EventRow,
    FileRow,
    JobRow,
    ModelRow,
    Store,
    new_id,
    now,
    tell,
)
from rft_jax.serve.told import Teller, checkpoint_metrics, table
from rft_jax.utils.metrics_file import read_metrics
from rft_jax.utils.types import JsonObject

_BEST = 3  # checkpoints that are listed
_WARNINGS = 3  # of graders, told of a step at most
_RESULT_NAME = "step_metrics.csv"
_LONGEST = 2000  # characters of a warning


class Tail:
    """The rows that a metrics file has got since the last look.

    The file is begun anew, and then has another inode, when a trainer goes on.
    """

    def __init__(self, path: Path):
        self._path = path
        self._inode, self._offset = 0, 0

    def read(self) -> list[JsonObject]:
        """The new whole lines."""
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for line in whole.splitlines() if (row := _row(line)) is not None]


class Progress:
    """Tells of one job's run."""

    def __init__(self, store: Store, job_id: str):
        self._store, self._id = store, job_id
        self._folder = JobFolder(store.jobs / job_id)
        with store.read() as session:
            job = _job(session, job_id)
            self._stage = stage_path(store, job)
            method = job.given[job.given["type"]]
            self._teller = Teller.of(method.get("grader"), job.total_steps, job.samples)
        self._tail = Tail(self._stage / "metrics.jsonl")

    def tell(self) -> None:
        """Puts what is new into the database."""
        rows = self._tail.read()
        notes = read_value(self._folder.notes)
        warnings, size = self._warnings()
        with self._store.read() as session:
            job = _job(session, self._id)
            nothing = not rows and (job.noted or notes is None) and job.warned_bytes >= size
        if nothing:
            self._sync_checkpoints()
            return
        with self._store.write() as session:
            job = _job(session, self._id)
            if not job.noted and notes is not None:
                job.noted = True
                where = f"{notes['devices']} device(s) of type {notes['platform']}"
                tell(session, self._id, f"Settings: {job.settings}; on {where}")
            for message in warnings:
                tell(session, self._id, message[:_LONGEST], "warn")
            job.warned_bytes = max(job.warned_bytes, size)
            for row in rows:
                if row["step"] > job.told_step:
                    self._tell_row(session, job, row)
        self._sync_checkpoints()

    def _tell_row(self, session: Session, job: JobRow, row: JsonObject) -> None:
        data = self._teller.data(row)
        job.told_step = row["step"]
        seconds = row.get("timing", {}).get("full_iteration")
        if seconds is not None and row["step"] > 0:
            before = job.step_seconds
            job.step_seconds = seconds if before is None else 0.8 * before + 0.2 * seconds
        session.add(
            EventRow(
                id=new_id("ftevent-"),
                job_id=job.id,
                created_at=now(),
                type="metrics",
                message=self._teller.message(data),
                data=data,
                step=row["step"],
            )
        )
        session.flush()
        if skipped := row.get("train_skipped_updates"):
            message = f"Step {row['step']}: the gradient was not finite, {skipped} in a row"
            tell(session, job.id, message, "warn")

    def _warnings(self) -> tuple[list[str], int]:
        """What graders said since the last time, and how much of the file that makes."""
        with self._store.read() as session:
            told = _job(session, self._id).warned_bytes
        try:
            with self._folder.warnings.open("rb") as file:
                file.seek(told)
                content = file.read()
        except FileNotFoundError:
            return [], told
        whole = content[: content.rfind(b"\n") + 1]
        messages = [str(json.loads(line)) for line in whole.splitlines()]
        return messages[-_WARNINGS:], told + len(whole)

    def _sync_checkpoints(self) -> None:
        """Lists the checkpoints that are there and told of: the best, or the newest."""
        folder = self._stage / "checkpoints"
        there = {int(path.name) for path in folder.glob("*") if path.name.isdigit()}
        with self._store.read() as session:
            listed = select(CheckpointRow.step).where(CheckpointRow.job_id == self._id)
            before = set(session.scalars(listed))
            if before == there or not there | before:
                return
            wanted = self._listed(session, there)
        if wanted.keys() == before:
            return
        with self._store.write() as session:
            job = _job(session, self._id)
            rows = select(CheckpointRow).where(CheckpointRow.job_id == self._id)
            for row in session.scalars(rows):
                if row.step not in wanted:
                    session.delete(row)
            session.flush()
            for step in sorted(wanted.keys() - before):
                session.add(
                    CheckpointRow(
                        id=new_id("ftckpt_"),
                        job_id=self._id,
                        name=f"{tuned_name(job)}:ckpt-step-{step}",
                        step=step,
                        created_at=now(),
                        metrics=checkpoint_metrics(wanted[step]),
                    )
                )
                session.flush()

    def _listed(self, session: Session, there: set[int]) -> dict[int, JsonObject]:
        """The checkpoints that are listed, with the data of their steps."""
        of_steps = EventRow.job_id == self._id, EventRow.step.in_(there)
        events = session.scalars(select(EventRow).where(*of_steps))
        data = {event.step: event.data for event in events if event.step and event.data}
        rewards = {
            step: found["full_valid_mean_reward"]
            for step, found in data.items()
            if found.get("full_valid_mean_reward") is not None
        }
        if rewards:
            chosen = sorted(rewards, key=lambda step: (rewards[step], step))[-_BEST:]
        else:
            job = _job(session, self._id)
            count = 1 if job.given["type"] == "reinforcement" else _BEST
            chosen = sorted(data)[-count:]
        return {step: data[step] for step in chosen}

    def succeed(self) -> None:
        """The end of a run that is done; all of it or nothing is told."""
        with self._store.read() as session:
            job = _job(session, self._id)
            steps = select(EventRow.data).where(
                EventRow.job_id == self._id, EventRow.step.is_not(None)
            )
            told = list(session.scalars(steps.order_by(EventRow.step)))
        content = table(data for data in told if data is not None)
        result = add_file(self._store, content)
        rows = read_metrics(self._stage / "metrics.jsonl")
        names = ("train_completion_tokens", "train_target_tokens")
        tokens = sum(int(row.get(name) or 0) for row in rows for name in names)
        path = checkpoint_path(self._store, job, job.total_steps)
        with self._store.write() as session:
            job = _job(session, self._id)
            name = tuned_name(job)
            job.fine_tuned_model, job.trained_tokens, job.result_file = name, tokens, result
            session.add(
                FileRow(
                    id=result,
                    filename=_RESULT_NAME,
                    purpose=RESULTS,
                    size=len(content),
                    created_at=now(),
                )
            )
            session.add(ModelRow(name=name, job_id=job.id, path=str(path), created_at=now()))
            tell(session, job.id, f"New fine-tuned model created: {name}")
            tell(session, job.id, "The job has successfully completed")
            end_job(session, job, "succeeded")


def tuned_name(job: JobRow) -> str:
    """What the model of a job is called."""
    return f"ft:{job.base}:local:{job.suffix or ''}:{job.id.removeprefix('ftjob-')[:8]}"


def _job(session: Session, identity: str) -> JobRow:
    return session.scalars(select(JobRow).where(JobRow.id == identity)).one()


def _row(line: bytes) -> JsonObject | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
