"""The application in this process, called as a client would, without any child."""

import asyncio
import json

import httpx

from rft_jax.serve.app import make_app
from rft_jax.serve.context import Context, ServeOptions
from rft_jax.serve.errors import ApiError
from rft_jax.serve.models import Models, ServedModel
from rft_jax.serve.store import JobRow, Store

KEY = "sk-test"
BASE = "team/base"
ROW = {"messages": [{"role": "user", "content": "ja?"}], "answer": "Zürich"}
GRADER = {
    "type": "string_check", "name": "same", "operation": "eq", "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}  # fmt: skip


class Nothing:
    async def start(self):
        pass

    async def stop(self):
        pass


class Graders(Nothing):
    """Refuses one type, as the real ones do."""

    async def check(self, grader, param="grader"):
        if grader.get("type") == "nonsense":
            raise ApiError(400, f"{param}.type: is unknown", param=f"{param}.type")
        return grader


class Server:
    """The application, called as a client would."""

    def __init__(self, folder, **options):
        source = folder / "base"
        self.options = ServeOptions(
            dir=folder / "data", api_key=KEY, base_models=((BASE, str(source)),), **options
        )
        self.store = Store(self.options.dir)
        base = ServedModel(BASE, source / "rft" / "checkpoints" / "3", BASE, 5)
        models = Models([base], self.store)
        self.context = Context(self.options, self.store, models, Nothing(), Graders())
        self.app = make_app(self.context)

    def __call__(self, method, path, **arguments):
        async def call():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {KEY}"} | arguments.pop("headers", {})
            async with httpx.AsyncClient(transport=transport, base_url="http://test/v1") as client:
                return await client.request(method, path, headers=headers, **arguments)

        return asyncio.run(call())

    def upload(self, data=None, name="rows.jsonl", purpose="fine-tune", **more):
        data = jsonl([ROW]) if data is None else data
        return self(
            "POST", "/files", data={"purpose": purpose, **more}, files={"file": (name, data)}
        )

    def job(self, **changes):
        body = {"model": BASE, "training_file": self.file, "method": reinforcement()}
        return self("POST", "/fine_tuning/jobs", json=body | changes)

    def set(self, job_id, **values):
        with self.store.write() as session:
            row = session.query(JobRow).filter_by(id=job_id).one()
            for name, value in values.items():
                setattr(row, name, value)

    @property
    def file(self):
        if not hasattr(self, "_file"):
            self._file = self.upload().json()["id"]
        return self._file


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def reinforcement(grader=GRADER, **hyperparameters):
    inner = {"grader": grader, "hyperparameters": hyperparameters}
    return {"type": "reinforcement", "reinforcement": inner}
