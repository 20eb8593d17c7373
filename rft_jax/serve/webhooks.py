"""Webhooks: `/v1/webhook_endpoints`, and deliveries that are tried until they are taken.

Deliveries are rows, made in the transaction that ends a job, so that none is lost or made twice.
"""

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import logging
import secrets
import urllib.parse
from typing import NamedTuple

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session
from standardwebhooks import Webhook
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.serve.bodies import Fields, read_json
from rft_jax.serve.context import Context
from rft_jax.serve.errors import ApiError
from rft_jax.serve.paging import limit_of, list_body, page
from rft_jax.serve.store import DeliveryRow, JobRow, Store, WebhookRow, new_id, now
from rft_jax.utils.types import JsonObject

EVENT_TYPES = tuple(f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled"))
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1, 3600
_GIVE_UP_S = 24 * 3600
_TIMEOUT_S = 10
_LOOK_S = 0.5
_AT_ONCE = 8  # deliveries
_ROTATED_S = 24 * 3600
_LOG = logging.getLogger(__name__)


def note_end(session: Session, job: JobRow) -> None:
    """Adds the deliveries of a job's end, one for each endpoint that wants it."""
    kind = f"fine_tuning.job.{job.status}"
    event = new_id("evt_")
    body = _event_body(event, kind, job.id)
    for hook in session.scalars(select(WebhookRow)):
        if kind in hook.event_types:
            session.add(
                DeliveryRow(
                    webhook_id=hook.id, event_id=event, body=body, created_at=now(), next_at=0.0
                )
            )


def _event_body(event: str, kind: str, job_id: str) -> str:
    return json.dumps(
        {
            "id": event,
            "object": "event",
            "created_at": now(),
            "type": kind,
            "data": {"id": job_id},
        }
    )


class _Due(NamedTuple):
    """A delivery with its endpoint, read."""

    delivery: DeliveryRow
    hook: WebhookRow


class Deliveries:
    """Sends what is due; a `context.Service`."""

    def __init__(self, store: Store):
        self._store = store
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._loop())

    async def stop(self) -> None:
        """Ends; what was not taken is sent after the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """Says that there is something to send."""
        self._wake.set()

    async def _loop(self) -> None:
        # Without the environment's proxies, which could be told what loopback hears.
        async with httpx.AsyncClient(
            timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False
        ) as client:
            while True:
                try:
                    due = await asyncio.to_thread(self._due)
                    await asyncio.gather(*(self._send(client, one) for one in due))
                except Exception:  # a full disk; sending must go on
                    _LOG.exception("webhooks")
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()

    def _due(self) -> list[_Due]:
        moment = datetime.datetime.now().timestamp()
        query = (
            select(DeliveryRow, WebhookRow)
            .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
            .where(DeliveryRow.next_at <= moment)
            .order_by(DeliveryRow.next_at)
            .limit(_AT_ONCE)
        )
        with self._store.read() as session:
            return [_Due(*row) for row in session.execute(query).all()]

    async def _send(self, client: httpx.AsyncClient, due: _Due) -> None:
        status = await post_signed(client, due.hook, due.delivery.event_id, due.delivery.body)
        await asyncio.to_thread(self._note, due.delivery, 200 <= status < 300)

    def _note(self, delivery: DeliveryRow, taken: bool) -> None:
        with self._store.write() as session:
            row = session.get(DeliveryRow, delivery.seq)
            if row is None:  # its endpoint was deleted meanwhile
                return
            if taken or now() - row.created_at > _GIVE_UP_S:
                session.delete(row)
                return
            wait = min(_FIRST_WAIT_S * 2 ** min(row.tries, 20), _LONGEST_WAIT_S)
            row.tries += 1
            row.next_at = datetime.datetime.now().timestamp() + wait


async def post_signed(client: httpx.AsyncClient, hook: WebhookRow, event: str, body: str) -> int:
    """Sends an event once.

    Returns:
        The status of the answer; 0 without one.
    """
    moment = datetime.datetime.now(datetime.UTC)
    keys = [hook.secret]
    if hook.old_secret is not None and (hook.old_until or 0) > now():
        keys.append(hook.old_secret)
    headers = {
        "content-type": "application/json",
        "user-agent": "rft_jax",
        "webhook-id": event,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(event, moment, body) for key in keys),
    }
    try:
        async with client.stream("POST", hook.url, content=body, headers=headers) as answer:
            return answer.status_code  # of the body nothing is read
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0


def routes(context: Context) -> list[BaseRoute]:
    """The routes of webhooks."""
    hooks, one = Webhooks(context), "/v1/webhook_endpoints/{id}"
    return [
        Route("/v1/webhook_endpoints", hooks.create, methods=["POST"]),
        Route("/v1/webhook_endpoints", hooks.list, methods=["GET"]),
        Route("/v1/webhook_event_types", hooks.event_types, methods=["GET"]),
        Route(one, hooks.retrieve, methods=["GET"]),
        Route(one, hooks.update, methods=["POST"]),
        Route(one, hooks.delete, methods=["DELETE"]),
        Route(f"{one}/rotate_secret", hooks.rotate_secret, methods=["POST"]),
        Route(f"{one}/test", hooks.test, methods=["POST"]),
    ]


class Webhooks:
    """The routes' handlers."""

    def __init__(self, context: Context):
        self._store, self._allowed = context.store, context.options.allow_hosts

    async def create(self, request: Request) -> Response:
        """A new endpoint; only this answer has its secret."""
        fields = Fields(await read_json(request))
        for key in ("name", "url", "event_types"):
            fields.required(key)
        values = self._values(fields)
        moment = now()
        row = WebhookRow(
            id=new_id("whe_"), secret=_secret(), created_at=moment, updated_at=moment, **values
        )
        await run_in_threadpool(self._add, row)
        return JSONResponse(_json(row) | {"signing_secret": row.secret})

    def _add(self, row: WebhookRow) -> None:
        with self._store.write() as session:
            session.add(row)

    def list(self, request: Request) -> Response:
        """Pages of endpoints."""
        with self._store.read() as session:
            rows, more = page(session, WebhookRow, request, limit_of(request))
        return JSONResponse(list_body([_json(row) for row in rows], more))

    def event_types(self, request: Request) -> Response:
        """What endpoints can hear of."""
        return JSONResponse({"object": "list", "data": list(EVENT_TYPES)})

    def retrieve(self, request: Request) -> Response:
        """One endpoint."""
        with self._store.read() as session:
            return JSONResponse(_json(_find(session, request)))

    async def update(self, request: Request) -> Response:
        """Changes what is given of an endpoint."""
        values = self._values(Fields(await read_json(request)))

        def change() -> JsonObject:
            with self._store.write() as session:
                row = _find(session, request)
                changed = {k: v for k, v in values.items() if getattr(row, k) != v}
                for key, value in changed.items():
                    setattr(row, key, value)
                if changed:
                    row.updated_at = now()
                return _json(row)

        return JSONResponse(await run_in_threadpool(change))

    def delete(self, request: Request) -> Response:
        """Deletes an endpoint, and what it was to get."""
        with self._store.write() as session:
            row = _find(session, request)
            session.delete(row)
        gone = {"id": row.id, "object": "webhook_endpoint.deleted", "deleted": True}
        return JSONResponse(gone)

    async def rotate_secret(self, request: Request) -> Response:
        """Another secret; the old one signs as well for a day where that is asked for."""
        body = await request.body()
        fields = Fields(await read_json(request)) if body else Fields({})
        keep = fields.boolean("keep_old_secret_active_for_24_hours")

        def rotate() -> JsonObject:
            with self._store.write() as session:
                row = _find(session, request)
                row.old_secret = row.secret if keep else None
                row.old_until = now() + _ROTATED_S if keep else None
                row.secret, row.updated_at = _secret(), now()
                return _json(row) | {"signing_secret": row.secret}

        return JSONResponse(await run_in_threadpool(rotate))

    async def test(self, request: Request) -> Response:
        """Sends a made-up event, and says how it was answered."""
        fields = Fields(await read_json(request))
        fields.required("event_type")
        kind = fields.choice("event_type", EVENT_TYPES)
        assert kind is not None

        def find() -> WebhookRow:
            with self._store.read() as session:
                return _find(session, request)

        row = await run_in_threadpool(find)
        event = new_id("evt_")
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
            body = _event_body(event, kind, "ftjob-" + "0" * 24)
            status = await post_signed(client, row, event, body)
        if status == 0:
            raise ApiError(400, f"{row.url}: did not answer; correct the endpoint's url")
        return JSONResponse(
            {
                "object": "webhook_endpoint.test",
                "webhook_endpoint_id": row.id,
                "event_type": kind,
                "success": True,
                "status_code": status,
            }
        )

    def _values(self, fields: Fields) -> JsonObject:
        """What a body gives of an endpoint, checked."""
        found: JsonObject = {}
        if (name := fields.string("name", 1, 256)) is not None:
            found["name"] = name
        if (url := fields.string("url", 1, 2048)) is not None:
            if problem := url_problem(url, self._allowed):
                raise fields.refusal("url", problem)
            found["url"] = url
        if (types := fields.array("event_types")) is not None:
            if not types or any(kind not in EVENT_TYPES for kind in types):
                expected = ", ".join(EVENT_TYPES)
                raise fields.refusal("event_types", f"must be some of {expected}")
            found["event_types"] = list(dict.fromkeys(types))
        return found


def url_problem(url: str, allowed: tuple[str, ...]) -> str:
    """Why a URL cannot be an endpoint; "" if it can."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        return "must be a https:// URL without a user in it"
    if any(ord(c) <= 32 for c in url):
        return "must not hold spaces or control characters"
    if parts.scheme == "https" or host in allowed or _is_loopback(host):
        return ""
    return "http goes to this machine only; use https, or start the server with --allow-host"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _find(session: Session, request: Request) -> WebhookRow:
    identity = request.path_params["id"]
    row = session.scalar(select(WebhookRow).where(WebhookRow.id == identity))
    if row is None:
        raise ApiError(404, f"There is no webhook endpoint {identity[:80]!r}", param="id")
    return row


def _json(row: WebhookRow) -> JsonObject:
    return {
        "id": row.id,
        "object": "webhook_endpoint",
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "signing_secret_hint": f"whsec_...{row.secret[-4:]}",
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
