"""`/v1/fine_tuning/jobs`: jobs, what they tell, and their checkpoints.

A handler changes rows and wakes the scheduler, which starts and ends processes.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import ColumnElement, column, func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.serve.bodies import JSON_LIMIT, parse_json, read_body
from rft_jax.serve.context import Context
from rft_jax.serve.errors import ApiError
from rft_jax.serve.files import TRAINING, find_file
from rft_jax.serve.job_body import JobBody, read_job, wandb_project
from rft_jax.serve.job_folder import JobFolder, link_file, write_value
from rft_jax.serve.models import ServedModel
from rft_jax.serve.paging import limit_of, list_body, page
from rft_jax.serve.store import (
    FINISHED,
    CheckpointRow,
    EventRow,
    FileRow,
    JobRow,
    new_id,
    now,
    tell,
)
from rft_jax.serve.webhooks import note_end
from rft_jax.utils.types import JsonObject

_SAME_S = 60  # in which a request that is sent again makes no second job
_SENT_AGAIN = "x-stainless-retry-count"
Value = TypeVar("Value")


def routes(context: Context, wake: Callable[[], None]) -> list[BaseRoute]:
    """The routes of jobs.

    Args:
        wake: Tells the scheduler that rows have changed.
    """
    jobs, one = Jobs(context, wake), "/v1/fine_tuning/jobs/{id}"
    return [
        Route("/v1/fine_tuning/jobs", jobs.create, methods=["POST"]),
        Route("/v1/fine_tuning/jobs", jobs.list, methods=["GET"]),
        Route(one, jobs.retrieve, methods=["GET"]),
        Route(f"{one}/cancel", jobs.cancel, methods=["POST"]),
        Route(f"{one}/pause", jobs.pause, methods=["POST"]),
        Route(f"{one}/resume", jobs.resume, methods=["POST"]),
        Route(f"{one}/events", jobs.events, methods=["GET"]),
        Route(f"{one}/checkpoints", jobs.checkpoints, methods=["GET"]),
    ]


def _shown_method(method: JsonObject) -> JsonObject:
    """The method as OpenAI shows it of a new job, where an effort left open reads "medium".

    Like all that is left open it is the template's, which the job says once its files are checked.
    """
    if method["type"] != "reinforcement":
        return method
    reinforcement = method["reinforcement"]
    shown = reinforcement["hyperparameters"]
    if shown["reasoning_effort"] == "default":
        shown = shown | {"reasoning_effort": "medium"}
    return method | {"reinforcement": reinforcement | {"hyperparameters": shown}}


def job_json(row: JobRow) -> JsonObject:
    """A job as clients see it; what is not known yet is null."""
    kind = row.given["type"]
    left = None
    if row.status == "running" and row.step_seconds is not None:
        left = (row.total_steps - max(row.told_step, 0)) * row.step_seconds
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "estimated_finish": None if left is None else int(time.time() + left),
        "model": row.model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": "org-local",
        "status": row.status,
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "result_files": [row.result_file] if row.result_file else [],
        "trained_tokens": row.trained_tokens,
        "error": row.error,
        "seed": row.seed,
        "user_provided_suffix": row.suffix,
        "hyperparameters": row.given[kind]["hyperparameters"] if kind == "supervised" else None,
        "method": row.given,
        "metadata": row.labels,
        "integrations": row.integrations,
        "usage_metrics": None,
        "shared_with_openai": False,
    }


def event_json(row: EventRow) -> JsonObject:
    """An event as clients see it."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.event",
        "created_at": row.created_at,
        "level": row.level,
        "type": row.type,
        "message": row.message,
        "data": row.data,
    }


def checkpoint_json(row: CheckpointRow) -> JsonObject:
    """A checkpoint as clients see it."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": row.created_at,
        "fine_tuned_model_checkpoint": row.name,
        "fine_tuning_job_id": row.job_id,
        "step_number": row.step,
        "metrics": row.metrics,
    }


def find_job(session: Session, identity: str) -> JobRow:
    """A job.

    Raises:
        ApiError: 404, if there is none.
    """
    row = session.scalar(select(JobRow).where(JobRow.id == identity))
    if row is None:
        raise ApiError(404, f"There is no fine-tuning job {identity[:80]!r}", param="id")
    return row


def end_job(session: Session, job: JobRow, status: str) -> None:
    """Gives a job its last status, and tells webhooks."""
    job.status, job.wanted, job.finished_at = status, "", now()
    note_end(session, job)


class Jobs:
    """The routes' handlers."""

    def __init__(self, context: Context, wake: Callable[[], None]):
        self._context, self._store, self._wake = context, context.store, wake

    async def create(self, request: Request) -> Response:
        """A new job, whose files are looked at after the answer."""
        raw = await read_body(request, JSON_LIMIT)
        body = await run_in_threadpool(lambda: read_job(parse_json(raw)))
        digest = hashlib.sha256(raw).hexdigest()
        if request.headers.get(_SENT_AGAIN, "0") not in ("", "0"):
            earlier = await run_in_threadpool(self._earlier, digest)
            if earlier is not None:
                return JSONResponse(job_json(earlier))
        model = await run_in_threadpool(self._context.models.find, body.model)
        files = await run_in_threadpool(self._files, body)
        grader = None
        if body.method["type"] == "reinforcement":
            param = "method.reinforcement.grader"
            try:
                given = body.method["reinforcement"]["grader"]
                grader = await self._context.graders.check(given, param)
            except ApiError as error:
                if error.status == 400:
                    error.param = param  # the message has the place inside of it
                raise
        row = await run_in_threadpool(self._add, body, model, files, grader, digest)
        self._wake()
        return JSONResponse(job_json(row))

    def _earlier(self, digest: str) -> JobRow | None:
        """The job of the same request, whose answer got lost."""
        same = JobRow.body_digest == digest, JobRow.created_at >= now() - _SAME_S
        with self._store.read() as session:
            return session.scalar(select(JobRow).where(*same).order_by(JobRow.seq.desc()))

    def _files(self, body: JobBody) -> dict[str, FileRow]:
        """The job's files by their parameter."""
        found = {}
        for param in ("training_file", "validation_file"):
            identity = getattr(body, param)
            if identity is None:
                continue
            try:
                row = find_file(self._store, identity)
            except ApiError as error:
                raise ApiError(404, f"{param}: {error.message}", param=param) from None
            if row.purpose != TRAINING:
                problem = f"has the purpose {row.purpose}; upload it with {TRAINING}"
                raise ApiError(400, f"{param}: {identity} {problem}", param=param)
            found[param] = row
        return found

    def _add(
        self,
        body: JobBody,
        model: ServedModel,
        files: dict[str, FileRow],
        grader: JsonObject | None,
        digest: str,
    ) -> JobRow:
        identity = new_id("ftjob-")
        folder = JobFolder(self._store.jobs / identity)
        folder.path.mkdir(mode=0o700)
        try:
            for param, path in (("training_file", folder.train), ("validation_file", folder.valid)):
                if param in files:
                    link_file(self._store.files / files[param].id, path)
        except FileNotFoundError:
            shutil.rmtree(folder.path)
            raise ApiError(404, f"{param}: was deleted a moment ago", param=param) from None
        options = self._context.options
        names = {param: row.filename for param, row in files.items()}
        write_value(
            folder.request,
            {
                "id": identity,
                "source": dict(options.base_models)[model.base],
                "init": str(model.path),
                "seed": body.seed,
                "method": body.method,
                "grader": grader,
                "train_name": names["training_file"],
                "valid_name": names.get("validation_file", ""),
                "python_timeout_s": options.python_timeout_s,
                "wandb_project": wandb_project(body.integrations),
            },
        )
        row = JobRow(
            id=identity,
            model=body.model,
            base=model.base,
            init=str(model.path),
            training_file=body.training_file,
            validation_file=body.validation_file,
            suffix=body.suffix,
            seed=body.seed,
            labels=body.metadata,
            given=_shown_method(body.method),
            integrations=body.integrations,
            status="validating_files",
            created_at=now(),
            body_digest=digest,
        )
        validating = f"Validating training file: {body.training_file}"
        if body.validation_file:
            validating += f" and validation file: {body.validation_file}"
        with self._store.write() as session:
            # Again, in the transaction: it may have been deleted, with its weights, since.
            self._context.models.find(body.model)
            session.add(row)
            session.flush()
            row.place = row.seq
            tell(session, identity, f"Created fine-tuning job: {identity}")
            tell(session, identity, validating)
            session.refresh(row)
        return row

    def list(self, request: Request) -> Response:
        """Pages of jobs, which metadata may choose."""
        conditions = _metadata_conditions(request)
        with self._store.read() as session:
            rows, more = page(session, JobRow, request, limit_of(request), *conditions)
        return JSONResponse(list_body([job_json(row) for row in rows], more))

    def retrieve(self, request: Request) -> Response:
        """One job."""
        with self._store.read() as session:
            return JSONResponse(job_json(find_job(session, request.path_params["id"])))

    def cancel(self, request: Request) -> Response:
        """Ends a job; one that runs saves first, and is cancelled when its trainer has left."""

        def change(session: Session, job: JobRow) -> None:
            if job.status == "running":
                job.wanted = "cancel"
                return
            tell(session, job.id, "Fine-tuning job cancelled")
            end_job(session, job, "cancelled")

        return self._change(request, "cancelled", FINISHED, change)

    def pause(self, request: Request) -> Response:
        """Has a job that runs save and make room."""

        def change(session: Session, job: JobRow) -> None:
            if job.wanted == "cancel":
                raise _conflict(job, "paused", "is being cancelled")
            job.wanted = "pause"

        others = ("validating_files", "queued", "paused", *FINISHED)
        return self._change(request, "paused", others, change)

    def resume(self, request: Request) -> Response:
        """Puts a paused job into the queue, where it was."""

        def change(session: Session, job: JobRow) -> None:
            job.status, job.wanted = "queued", ""
            tell(session, job.id, "Fine-tuning job resumed")

        others = ("validating_files", "queued", "running", *FINISHED)
        return self._change(request, "resumed", others, change)

    def _change(
        self,
        request: Request,
        wanted: str,
        refused: tuple[str, ...],
        change: Callable[[Session, JobRow], None],
    ) -> Response:
        """Changes a job in a transaction, unless its status is one of those that are refused."""
        with self._store.write() as session:
            job = find_job(session, request.path_params["id"])
            if job.status in refused:
                raise _conflict(job, wanted, f"is {job.status}")
            change(session, job)
            body = job_json(job)
        self._wake()
        return JSONResponse(body)

    def events(self, request: Request) -> Response:
        """Pages of what a job has told."""
        with self._store.read() as session:
            job = find_job(session, request.path_params["id"])
            rows, more = page(
                session, EventRow, request, limit_of(request), EventRow.job_id == job.id
            )
        return JSONResponse(list_body([event_json(row) for row in rows], more))

    def checkpoints(self, request: Request) -> Response:
        """Pages of a job's checkpoints."""
        with self._store.read() as session:
            job = find_job(session, request.path_params["id"])
            limit, of_job = limit_of(request, 10), CheckpointRow.job_id == job.id
            rows, more = page(session, CheckpointRow, request, limit, of_job)
        return JSONResponse(list_body([checkpoint_json(row) for row in rows], more))


def _conflict(job: JobRow, wanted: str, state: str) -> ApiError:
    return ApiError(409, f"The job {job.id} {state} and cannot be {wanted}", param="id")


def _metadata_conditions(request: Request) -> list[ColumnElement[bool]]:
    """What the query's `metadata[key]=value`, or `metadata=null`, asks of jobs.

    Raises:
        ApiError: 400 for another form.
    """
    conditions: list[ColumnElement[bool]] = []
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            if value != "null":
                raise ApiError(400, "metadata: must be null or metadata[KEY]", param="metadata")
            conditions.append(JobRow.labels.is_(None))
        elif name.startswith("metadata[") and name.endswith("]"):
            pairs = func.json_each(JobRow.labels).table_valued("key", "value")
            key = name.removeprefix("metadata[").removesuffix("]")
            found = select(column("key")).select_from(pairs)
            found = found.where(pairs.c.key == key, pairs.c.value == value)
            conditions.append(found.exists())
    return conditions
