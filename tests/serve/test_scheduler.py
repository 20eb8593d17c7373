"""Jobs from queue to end, with made-up trainers: processes that write metrics and checkpoints."""

import asyncio
import csv
import io
import json
import os
import sys

import pytest
from sqlalchemy import select

from rft_jax.serve.parent import PARENT
from rft_jax.serve.scheduler import Scheduler, _Child
from rft_jax.serve.store import DeliveryRow, JobRow
from rft_jax.serve.webhooks import EVENT_TYPES

from .in_process import BASE, Server, reinforcement

STEPS = 6
CHECK = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
what = json.loads((folder / "train.jsonl").read_text().splitlines()[0]).get("check")
while what == "wait":
    time.sleep(0.02)
problem = {"code": "invalid_training_file", "param": "training_file"}
problem |= {"message": "a.jsonl, line 4: x"}
hyper = {"batch_size": 4, "n_epochs": 1, "reasoning_effort": "low"}
found = {"hyperparameters": hyper, "total_steps": STEPS, "samples": 8, "settings": "6 steps"}
found["warnings"] = ["without a package"] if what == "warn" else []
(folder / "checked.json").write_text(json.dumps({"error": problem} if what == "bad" else found))
"""
# Takes steps from the newest checkpoint on, each told at once; every second step is saved.
TRAINER = """
import fcntl, json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
what = json.loads((folder / "train.jsonl").read_text().splitlines()[0]).get("train", "")
asked = []
if what != "deaf":
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
stage = folder / "run" / "rft"
(stage / "checkpoints").mkdir(parents=True, exist_ok=True)
lock = (folder / "run" / ".lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
done = max((int(path.name) for path in (stage / "checkpoints").iterdir()), default=0)
file = stage / "metrics.jsonl"
kept = file.read_text().splitlines(keepends=True)[: done + 1] if done else []
(stage / "new").write_text("".join(kept)); os.replace(stage / "new", file)
(folder / "starts").open("a").write(f"{done}\\n")

def tell(step, **row):
    with file.open("a") as metrics:
        row |= {"step": step, "valid_reward_mean": [0.1, 0.5, 0.2, 0.9, 0.4, 0.9, 0.3][step]}
        row |= {"valid_valid_fraction": 1.0, "timing": {"full_iteration": 0.01}}
        metrics.write(json.dumps(row) + "\\n")

if not done:
    tell(0)
for step in range(done + 1, STEPS + 1):
    while what == "hold" and step == 4 and not asked:
        time.sleep(0.01)
    tell(step, train_reward_mean=step / 10, train_valid_fraction=1.0, train_completion_tokens=100)
    if what == "fail" and step == 3:
        (folder / "ended.json").write_text(json.dumps({"message": f"{folder}/run/rft: no"}))
        sys.exit(1)
    if what in ("crash", "crash once") and step == 4:
        if what == "crash" or not (folder / "crashed").exists():
            (folder / "crashed").touch()
            os._exit(70)
    if step % 2 == 0 or asked:
        (stage / "checkpoints" / str(step)).mkdir()
    if asked:
        sys.exit(143)
"""


class Made(Scheduler):
    """Starts the made-up processes."""

    async def _spawn(self, module, job_id, *, on_device):
        text = CHECK if module.endswith("check") else TRAINER
        text = text.replace("STEPS", str(STEPS))
        folder = self._store.jobs / job_id
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", text, str(folder), env=os.environ | {PARENT: str(os.getpid())}
        )
        return _Child(job_id, process)


class Jobs:
    """A server with the made-up scheduler, which runs for as long as something is waited for."""

    def __init__(self, folder):
        self.server = Server(folder)
        hook = {"name": "n", "url": "http://127.0.0.1:9/", "event_types": list(EVENT_TYPES)}
        self.server("POST", "/webhook_endpoints", json=hook)

    def make(self, model=BASE, suffix=None, **what):
        rows = "".join(json.dumps(what | {"n": n, "messages": []}) + "\n" for n in range(4))
        file = self.server.upload(rows.encode()).json()["id"]
        body = {"model": model, "training_file": file, "method": reinforcement(), "suffix": suffix}
        return self.server("POST", "/fine_tuning/jobs", json=body).json()["id"]

    def until(self, condition, *, end="stop"):
        """Runs a scheduler until something holds, and then stops or kills it."""

        async def run():
            scheduler = Made(self.server.context, lambda: None)
            await scheduler.start()
            try:
                async with asyncio.timeout(20):
                    while not await asyncio.to_thread(condition):
                        await asyncio.sleep(0.02)
                        scheduler.wake()
            finally:
                if end == "kill":
                    scheduler._task.cancel()
                    for child in (scheduler._checking, scheduler._training):
                        if child is not None and child.status is None:
                            child.kill()
                            await child.process.wait()
                else:
                    await scheduler.stop()

        asyncio.run(run())

    def row(self, job):
        with self.server.store.read() as session:
            return session.scalars(select(JobRow).where(JobRow.id == job)).one()

    def reaches(self, job, status, **how):
        self.until(lambda: self.row(job).status == status, **how)
        return self.get(f"/{job}")

    def get(self, path):
        return self.server("GET", f"/fine_tuning/jobs{path}").json()

    def do(self, job, action):
        return self.server("POST", f"/fine_tuning/jobs/{job}/{action}")

    def events(self, job, kind=None):
        events = self.get(f"/{job}/events?limit=100")["data"][::-1]
        return [event for event in events if kind in (None, event["type"])]

    def steps(self, job):
        return [event["data"]["step"] for event in self.events(job, "metrics")]

    def messages(self, job):
        return [event["message"] for event in self.events(job, "message")]

    def starts(self, job):
        path = self.server.store.jobs / job / "starts"
        return list(map(int, path.read_text().split())) if path.exists() else []

    def told(self):
        """The ends that webhooks are to hear of."""
        with self.server.store.read() as session:
            bodies = session.scalars(select(DeliveryRow.body).order_by(DeliveryRow.seq))
            events = [json.loads(body) for body in bodies]
        return [(event["type"].rpartition(".")[2], event["data"]["id"]) for event in events]


@pytest.fixture
def jobs(tmp_path):
    made = Jobs(tmp_path)
    yield made
    made.server.store.close()


def test_a_job_from_its_files_to_its_model(jobs):
    identity = jobs.make(suffix="mine")
    job = jobs.reaches(identity, "succeeded")
    name = f"ft:{BASE}:local:mine:{identity[6:14]}"
    assert (job["fine_tuned_model"], job["trained_tokens"], job["error"]) == (name, 600, None)
    assert job["method"]["reinforcement"]["hyperparameters"]["batch_size"] == 4
    assert jobs.messages(identity) == [
        f"Created fine-tuning job: {identity}",
        f"Validating training file: {job['training_file']}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"New fine-tuned model created: {name}",
        "The job has successfully completed",
    ]
    assert jobs.steps(identity) == list(range(STEPS + 1))
    (file,) = job["result_files"]
    table = jobs.server("GET", f"/files/{file}/content").text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["train_mean_reward"] for row in rows] == ["", *(str(k / 10) for k in range(1, 7))]
    assert jobs.server("GET", f"/files/{file}").json()["purpose"] == "fine-tune-results"
    assert jobs.told() == [("succeeded", identity)]
    found = jobs.server.context.models.find(name)
    assert str(found.path).endswith(f"{identity}/run/rft/checkpoints/6") and found.base == BASE


def test_checkpoints_are_those_of_the_best_validations(jobs):
    identity = jobs.make()
    jobs.reaches(identity, "succeeded")
    found = jobs.get(f"/{identity}/checkpoints")["data"]
    assert [checkpoint["step_number"] for checkpoint in found] == [6, 4, 2]
    assert found[1]["metrics"]["full_valid_mean_reward"] == 0.4
    name = found[2]["fine_tuned_model_checkpoint"]
    assert name == f"ft:{BASE}:local::{identity[6:14]}:ckpt-step-2"
    assert str(jobs.server.context.models.find(name).path).endswith("checkpoints/2")


def test_one_at_a_time_in_their_order(jobs):
    first, second = jobs.make(train="hold"), jobs.make()
    jobs.until(lambda: jobs.row(second).status == "queued" and jobs.starts(first))
    assert jobs.row(second).status == "queued" and not jobs.starts(second)
    jobs.do(first, "cancel")
    jobs.reaches(second, "succeeded")
    assert jobs.row(first).status == "cancelled"


def test_files_that_cannot_be_used(jobs):
    identity = jobs.make(check="bad")
    job = jobs.reaches(identity, "failed")
    assert job["error"] == {
        "code": "invalid_training_file", "param": "training_file", "message": "a.jsonl, line 4: x",
    }  # fmt: skip
    assert jobs.events(identity)[-1]["level"] == "error"
    assert jobs.told() == [("failed", identity)] and job["finished_at"]


def test_what_a_job_goes_without_is_told(jobs):
    identity = jobs.make(check="warn")
    jobs.reaches(identity, "succeeded")
    warnings = [event["message"] for event in jobs.events(identity) if event["level"] == "warn"]
    assert warnings == ["without a package"]


def test_pause_and_resume_keep_every_step(jobs):
    identity = jobs.make(train="hold")
    jobs.until(lambda: len(jobs.steps(identity)) > 2)
    assert jobs.do(identity, "pause").json()["status"] in ("running", "queued")
    jobs.reaches(identity, "paused")
    assert jobs.do(identity, "pause").status_code == 409
    assert jobs.do(identity, "resume").json()["status"] == "queued"
    jobs.server.set(identity, training_file="gone")  # nothing is read from it any more
    folder = jobs.server.store.jobs / identity
    (folder / "train.jsonl").write_text("{}\n")
    jobs.reaches(identity, "succeeded")
    assert jobs.steps(identity) == list(range(STEPS + 1))
    messages = jobs.messages(identity)
    assert messages.count("Fine-tuning job started") == 1
    assert messages.index("Fine-tuning job paused") < messages.index("Fine-tuning job resumed")


@pytest.mark.parametrize("action, status", [("pause", "paused"), ("cancel", "cancelled")])
def test_what_was_asked_for_outlives_the_server(jobs, action, status):
    identity = jobs.make(train="hold")
    jobs.until(lambda: len(jobs.steps(identity)) > 2, end="kill")
    assert jobs.row(identity).status == "running"
    jobs.do(identity, action)
    jobs.reaches(identity, status)
    assert jobs.starts(identity) == [0]


def test_a_killed_server_goes_on_without_telling_a_step_twice(jobs):
    identity, other = jobs.make(train="hold"), jobs.make()
    jobs.until(lambda: len(jobs.steps(identity)) == 4, end="kill")
    before = jobs.events(identity)
    (jobs.server.store.jobs / identity / "train.jsonl").write_text("{}\n")
    jobs.reaches(other, "succeeded")
    assert jobs.starts(identity) == [0, 2]  # step 3 was done twice
    assert jobs.steps(identity) == list(range(STEPS + 1))
    assert jobs.events(identity)[: len(before)] == before
    assert jobs.messages(identity).count("Fine-tuning job started") == 1
    ended = [jobs.get(f"/{job}")["finished_at"] for job in (identity, other)]
    assert ended == sorted(ended)


def test_a_crash_is_tried_once_more(jobs):
    identity = jobs.make(train="crash once")
    jobs.reaches(identity, "succeeded")
    assert jobs.starts(identity) == [0, 2]
    assert jobs.steps(identity) == list(range(STEPS + 1))


def test_crashes_end_a_job(jobs):
    identity = jobs.make(train="crash")
    job = jobs.reaches(identity, "failed")
    assert (job["error"]["code"], jobs.starts(identity)) == ("server_error", [0, 2])
    assert job["fine_tuned_model"] is None


def test_a_training_that_fails_says_why(jobs):
    identity = jobs.make(train="fail")
    error = jobs.reaches(identity, "failed")["error"]
    assert error == {"code": "training_failed", "message": "run/rft: no", "param": None}
    assert jobs.steps(identity) == [0, 1, 2, 3]


def test_cancelling_while_files_are_looked_at(jobs):
    identity, other = jobs.make(check="wait"), jobs.make()
    jobs.until(lambda: (jobs.server.store.jobs / identity).exists())
    assert jobs.do(identity, "cancel").json()["status"] == "cancelled"
    jobs.reaches(other, "succeeded")  # the check of the first does not hold it up
    assert jobs.row(identity).status == "cancelled" and not jobs.starts(identity)


def test_checkpoints_of_a_cancelled_job_stay(jobs):
    identity = jobs.make(train="hold")
    jobs.until(lambda: len(jobs.steps(identity)) > 2)
    jobs.do(identity, "cancel")
    job = jobs.reaches(identity, "cancelled")
    assert job["fine_tuned_model"] is None and job["finished_at"]
    found = jobs.get(f"/{identity}/checkpoints")["data"]
    assert found and jobs.server.context.models.find(found[0]["fine_tuned_model_checkpoint"])


def test_deleting_a_model_that_a_job_trains_on(jobs):
    first = jobs.make()
    name = jobs.reaches(first, "succeeded")["fine_tuned_model"]
    second = jobs.make(model=name)
    answer = jobs.server("DELETE", f"/models/{name}")
    assert answer.status_code == 409 and second in answer.json()["error"]["message"]
    job = jobs.reaches(second, "succeeded")
    assert job["model"] == name and job["fine_tuned_model"].startswith(f"ft:{BASE}:local::")
    assert jobs.server("DELETE", f"/models/{name}").json()["deleted"] is True
    assert jobs.server("GET", f"/models/{name}").status_code == 404
    assert not (jobs.server.store.jobs / first / "run" / "rft" / "checkpoints").exists()
    assert jobs.get(f"/{first}")["fine_tuned_model"] == name
    assert jobs.get(f"/{first}/checkpoints")["data"] == []


def test_deleting_a_checkpoint(jobs):
    running = jobs.make(train="hold")
    jobs.until(lambda: jobs.get(f"/{running}/checkpoints")["data"])
    held = jobs.get(f"/{running}/checkpoints")["data"][0]["fine_tuned_model_checkpoint"]
    refusal = jobs.server("DELETE", f"/models/{held}")
    assert refusal.status_code == 409 and "goes on from it" in refusal.json()["error"]["message"]
    jobs.do(running, "cancel")

    identity = jobs.make()
    model = jobs.reaches(identity, "succeeded")["fine_tuned_model"]
    found = jobs.get(f"/{identity}/checkpoints")["data"]
    names = {each["step_number"]: each["fine_tuned_model_checkpoint"] for each in found}
    refusal = jobs.server("DELETE", f"/models/{names[6]}")  # the tuned model's own weights
    assert refusal.status_code == 409 and model in refusal.json()["error"]["message"]
    user = jobs.make(model=names[4])
    refusal = jobs.server("DELETE", f"/models/{names[4]}")
    assert refusal.status_code == 409 and user in refusal.json()["error"]["message"]
    jobs.reaches(user, "succeeded")
    assert jobs.server("DELETE", f"/models/{names[4]}").json()["deleted"] is True
    assert jobs.server("GET", f"/models/{names[4]}").status_code == 404
    kept = jobs.get(f"/{identity}/checkpoints")["data"]
    assert [each["step_number"] for each in kept] == [6, 2]
    folder = jobs.server.store.jobs / identity / "run" / "rft" / "checkpoints"
    assert not (folder / "4").exists() and (folder / "6").exists()
