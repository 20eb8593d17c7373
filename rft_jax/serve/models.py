"""The models that clients can name: bases of the command line, and what jobs have trained.

Names are looked up, never opened as paths. A checkpoint is found by its name and not listed.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.serve.errors import ApiError, unknown_model
from rft_jax.serve.store import UNFINISHED, CheckpointRow, JobRow, ModelRow, Store
from rft_jax.utils.types import JsonObject


@dataclass(frozen=True)
class ServedModel:
    """A model that answers and can be trained on.

    Attributes:
        name: What clients call it; a base's may hold `/`, a tuned one's holds `:`.
        path: What `rft_jax.runs.reopen.open_model` takes: WORKDIR/STAGE[/checkpoints/STEP], or a
            Hugging Face checkpoint.
        base: The name of the base model that it was trained from; its own, of a base.
        created: In seconds since 1970.
    """

    name: str
    path: Path
    base: str
    created: int


class Models:
    """Finds models by name."""

    def __init__(self, bases: Sequence[ServedModel], store: Store):
        self._bases = {model.name: model for model in bases}
        self._store = store

    def find(self, name: str) -> ServedModel:
        """The model of a name: a base, a tuned model or a checkpoint.

        Raises:
            ApiError: 404, if there is none.
        """
        if name in self._bases:
            return self._bases[name]
        with self._store.read() as session:
            tuned = session.scalar(select(ModelRow).where(ModelRow.name == name))
            if tuned is not None:
                base = session.scalars(select(JobRow.base).where(JobRow.id == tuned.job_id)).one()
                return ServedModel(name, Path(tuned.path), base, tuned.created_at)
            checkpoint = session.scalar(select(CheckpointRow).where(CheckpointRow.name == name))
            if checkpoint is not None:
                job = session.scalars(select(JobRow).where(JobRow.id == checkpoint.job_id)).one()
                path = checkpoint_path(self._store, job, checkpoint.step)
                return ServedModel(name, path, job.base, checkpoint.created_at)
        raise unknown_model(name[:200])

    def list(self) -> list[ServedModel]:
        """Bases, then tuned models, the newest first."""
        with self._store.read() as session:
            rows = session.execute(
                select(ModelRow, JobRow.base)
                .join(JobRow, JobRow.id == ModelRow.job_id)
                .order_by(ModelRow.seq.desc())
            ).all()
        tuned = [ServedModel(row.name, Path(row.path), base, row.created_at) for row, base in rows]
        return [*self._bases.values(), *tuned]

    def delete(self, name: str) -> None:
        """Deletes a tuned model and its job's checkpoints, or one of these.

        Raises:
            ApiError: 404 without such a model, 403 for a base, 409 while a job needs it.
        """
        if name in self._bases:
            raise ApiError(
                403, f"{name}: is a base model; end the server to take it away", param="model"
            )
        with self._store.write() as session:
            if row := session.scalar(select(ModelRow).where(ModelRow.name == name)):
                folder = self._delete_tuned(session, row)
            elif row := session.scalar(select(CheckpointRow).where(CheckpointRow.name == name)):
                folder = self._delete_checkpoint(session, row)
            else:
                raise unknown_model(name[:200])
        shutil.rmtree(folder, ignore_errors=True)

    def _delete_tuned(self, session: Session, row: ModelRow) -> Path:
        """Forgets a tuned model; returns the folder of its weights."""
        job = session.scalars(select(JobRow).where(JobRow.id == row.job_id)).one()
        stage = stage_path(self._store, job)
        _refuse_if_used(session, row.name, JobRow.init.startswith(f"{stage}/", autoescape=True))
        checkpoints = select(CheckpointRow).where(CheckpointRow.job_id == job.id)
        for checkpoint in session.scalars(checkpoints):
            session.delete(checkpoint)
        session.delete(row)
        return stage / "checkpoints"

    def _delete_checkpoint(self, session: Session, row: CheckpointRow) -> Path:
        """Forgets a checkpoint; returns the folder of its weights."""
        job = session.scalars(select(JobRow).where(JobRow.id == row.job_id)).one()
        if job.status in UNFINISHED:
            raise ApiError(
                409, f"{row.name}: its job goes on from it; wait for it or cancel it", "model"
            )
        path = checkpoint_path(self._store, job, row.step)
        tuned = select(ModelRow.name).where(ModelRow.path == str(path))
        if model := session.scalar(tuned):
            raise ApiError(
                409, f"{row.name}: its weights are those of {model}; delete that", "model"
            )
        _refuse_if_used(session, row.name, JobRow.init == str(path))
        session.delete(row)
        return path


def _refuse_if_used(session: Session, name: str, is_used: ColumnElement[bool]) -> None:
    users = select(JobRow.id).where(JobRow.status.in_(UNFINISHED), is_used)
    if user := session.scalar(users):
        raise ApiError(
            409, f"{name}: the job {user} trains on it; wait for it or cancel it", "model"
        )


def stage_path(store: Store, job: JobRow) -> Path:
    """The folder of a job's stage."""
    stage = "rft" if job.given["type"] == "reinforcement" else "sft"
    return store.jobs / job.id / "run" / stage


def checkpoint_path(store: Store, job: JobRow, step: int) -> Path:
    """The folder of a checkpoint of a job."""
    return stage_path(store, job) / "checkpoints" / str(step)


def model_json(model: ServedModel) -> JsonObject:
    """A model as clients see it."""
    return {
        "id": model.name,
        "object": "model",
        "created": max(model.created, 1),
        "owned_by": "local",
        "shutdown_date": None,
    }


def routes(models: Models) -> list[BaseRoute]:
    """The routes of models; names may hold slashes."""

    def list_models(request: Request) -> Response:
        data = [model_json(model) for model in models.list()]
        return JSONResponse({"object": "list", "data": data})

    def retrieve(request: Request) -> Response:
        return JSONResponse(model_json(models.find(request.path_params["model"])))

    def delete(request: Request) -> Response:
        name = request.path_params["model"]
        models.delete(name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", retrieve, methods=["GET"]),
        Route("/v1/models/{model:path}", delete, methods=["DELETE"]),
    ]
