"""The database: what it refuses to hold twice, and where it lies."""

import stat

import pytest
import sqlalchemy
from sqlalchemy.exc import IntegrityError

from rft_jax.serve.store import DATABASE, EventRow, FileRow, JobRow, Store, new_id, now, tell
from rft_jax.utils.errors import InputError


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "data")
    yield made
    made.close()


def a_job(**changes):
    values = dict(
        id=new_id("ftjob-"), model="base", base="base", init="/x/rft", training_file="file-1",
        seed=1, given={"type": "supervised"}, status="queued", created_at=now(), body_digest="",
    )  # fmt: skip
    return JobRow(**(values | changes))


def metrics(job, step):
    return EventRow(
        id=new_id("ftevent-"), job_id=job.id, created_at=now(), type="metrics", message="",
        step=step,
    )  # fmt: skip


def test_only_the_owner_can_look(store):
    for path in (store.folder, store.files, store.jobs):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with store.write() as session:
        session.add(a_job())
    for path in store.folder.glob(f"{DATABASE}*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_step_is_told_twice(store):
    job = a_job()
    with store.write() as session:
        session.add(job)
    with store.write() as session:
        session.add(metrics(job, 3))
    with pytest.raises(IntegrityError), store.write() as session:
        session.add(metrics(job, 4))
        session.add(metrics(job, 3))
    with store.read() as session:
        assert list(session.scalars(sqlalchemy.select(EventRow.step))) == [3]


def test_messages_have_no_step_and_keep_their_order(store):
    job = a_job()
    with store.write() as session:
        session.add(job)
        session.flush()
        for text in "abc":
            tell(session, job.id, text)
    with store.read() as session:
        told = session.scalars(sqlalchemy.select(EventRow.message).order_by(EventRow.seq))
        assert list(told) == ["a", "b", "c"]


def test_a_transaction_that_fails_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.write() as session:
        session.add(a_job())
        session.flush()
        raise RuntimeError
    with store.read() as session:
        assert session.scalar(sqlalchemy.select(sqlalchemy.func.count(JobRow.seq))) == 0


def test_numbers_of_deleted_rows_are_not_used_again(store):
    def add():
        row = FileRow(id=new_id("file-"), filename="a", purpose="batch", size=1, created_at=1)
        with store.write() as session:
            session.add(row)
        return row

    first = add()
    with store.write() as session:
        session.delete(session.get(FileRow, first.seq))
    assert add().seq > first.seq


def test_it_is_opened_again(store, tmp_path):
    with store.write() as session:
        session.add(a_job(labels={"a": "b"}))
    again = Store(tmp_path / "data")
    with again.read() as session:
        assert session.scalars(sqlalchemy.select(JobRow)).one().labels == {"a": "b"}
    again.close()


def test_another_version_is_refused(store, tmp_path):
    with store.write() as session:
        session.connection().exec_driver_sql("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="another version"):
        Store(tmp_path / "data")
