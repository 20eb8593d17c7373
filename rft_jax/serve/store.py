"""The database of the server: tables, and short transactions on one SQLite file.

    with store.write() as session:
        session.add(EventRow(...))

Only the API process writes it. Files and checkpoints are looked after outside of transactions.
Ids are random; the order of a list is that of `seq`, a number of the table's own.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, ForeignKey, UniqueConstraint, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from rft_jax.utils.errors import InputError

DATABASE = "server.sqlite"
VERSION = 1
_READ = "rft_read"  # an execution option: the transaction only reads

UNFINISHED = ("validating_files", "queued", "running", "paused")
FINISHED = ("succeeded", "failed", "cancelled")


class Base(DeclarativeBase):
    """A table; JSON columns hold what clients gave or see."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}


class FileRow(Base):
    """A file; its bytes are `files/ID`."""

    __tablename__ = "files"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(index=True)
    size: Mapped[int]
    created_at: Mapped[int]
    expires_at: Mapped[int | None] = mapped_column(index=True)


class JobRow(Base):
    """A job; its folder is `jobs/ID`.

    Attributes:
        base: The base model's name.
        init: The path of the model that it starts from.
        given: `method` as it is shown, with "auto" where nothing was given.
        wanted: "pause" or "cancel" while the trainer has yet to leave, else "".
        place: In the queue; the lowest is first.
        started: Whether that it started was told.
        noted: Whether what "auto" became was told.
        samples: Completions of a step.
        settings: What its hyperparameters became, in a sentence.
        told_step: The last step of which a metrics event exists; -1 before.
        warned_bytes: How much of the trainer's warnings has been told.
        crashes: How often the trainer ended otherwise than it should.
        body_digest: That of the request, to know one that is sent again.
        step_seconds: What a step has taken lately.
    """

    __tablename__ = "jobs"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]
    base: Mapped[str]
    init: Mapped[str]
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    labels: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON(none_as_null=True))
    given: Mapped[dict[str, Any]]
    integrations: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(index=True)
    wanted: Mapped[str] = mapped_column(default="")
    place: Mapped[int] = mapped_column(default=0)
    started: Mapped[bool] = mapped_column(default=False)
    noted: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int]
    finished_at: Mapped[int | None]
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result_file: Mapped[str | None]
    total_steps: Mapped[int] = mapped_column(default=0)
    samples: Mapped[int] = mapped_column(default=0)
    settings: Mapped[str] = mapped_column(default="")
    told_step: Mapped[int] = mapped_column(default=-1)
    warned_bytes: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    body_digest: Mapped[str] = mapped_column(index=True)
    step_seconds: Mapped[float | None]


class EventRow(Base):
    """What a job tells; `step` is set for metrics, and no step is told twice."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "step"), {"sqlite_autoincrement": True})
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[int]
    level: Mapped[str] = mapped_column(default="info")
    type: Mapped[str] = mapped_column(default="message")
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    step: Mapped[int | None]


class CheckpointRow(Base):
    """A checkpoint that clients may use; the weights are those of the job's run."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"), {"sqlite_autoincrement": True})
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)
    step: Mapped[int]
    created_at: Mapped[int]
    metrics: Mapped[dict[str, Any]]


class ModelRow(Base):
    """A fine-tuned model that has not been deleted."""

    __tablename__ = "models"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    path: Mapped[str]
    created_at: Mapped[int]


class WebhookRow(Base):
    """A place that hears of what happens to jobs.

    Attributes:
        secret: `whsec_` and base64.
        old_secret: One that was rotated out and signs as well until `old_until`.
    """

    __tablename__ = "webhooks"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[Any]]
    secret: Mapped[str]
    old_secret: Mapped[str | None]
    old_until: Mapped[int | None]
    created_at: Mapped[int]
    updated_at: Mapped[int]


class DeliveryRow(Base):
    """An event that an endpoint has yet to take; gone when it did, or after a day.

    Attributes:
        event_id: `evt_...`, the same at every try.
        body: What is signed and sent.
        next_at: When it is tried next, in seconds since 1970.
    """

    __tablename__ = "deliveries"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[int]
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float] = mapped_column(index=True)


class Store:
    """The server's folder and its database.

    Args:
        folder: Made if needed; only its owner can enter.

    Raises:
        InputError: The database is of another version of the server.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        for path in (self.folder, self.files, self.jobs):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        database = self.folder / DATABASE
        os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))
        database.chmod(0o600)
        self._engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 30})
        _configure(self._engine)
        self._reading = self._engine.execution_options(**{_READ: True})
        with self._engine.begin() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found not in (0, VERSION):
                raise InputError(
                    f"{database}: is of another version of rft_jax ({found}); use another --dir"
                )
            Base.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    @property
    def files(self) -> Path:
        """Where the bytes of files are, by id."""
        return self.folder / "files"

    @property
    def jobs(self) -> Path:
        """Where the folders of jobs are, by id."""
        return self.folder / "jobs"

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: all of it or nothing is kept."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads one state of the database."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()


def _configure(engine: Engine) -> None:
    """SQLite's settings, and transactions that begin when we say so."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # or the driver would begin transactions by itself
        for pragma in (
            "journal_mode=WAL",
            "busy_timeout=30000",
            "foreign_keys=ON",
            "synchronous=FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        reads = connection.get_execution_options().get(_READ)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def new_id(prefix: str) -> str:
    """An id that nobody can guess: the prefix and 24 hexadecimal digits."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def tell(session: Session, job_id: str, message: str, level: str = "info") -> None:
    """Adds a message to what a job tells."""
    row = EventRow(
        id=new_id("ftevent-"), job_id=job_id, created_at=now(), level=level, message=message
    )
    session.add(row)
    session.flush()  # in the order of the calls
