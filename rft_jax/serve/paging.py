"""Lists as OpenAI's API pages them: `?limit=2&after=ID`, newest first."""

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session
from starlette.requests import Request

from rft_jax.serve.errors import ApiError
from rft_jax.utils.types import JsonObject

Row = TypeVar("Row")


def limit_of(request: Request, default: int = 20, most: int = 100) -> int:
    """The query's `limit`.

    Raises:
        ApiError: 400, if it is no number from 1 to `most`.
    """
    text = request.query_params.get("limit", "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise ApiError(400, f"limit: must be a whole number from 1 to {most}", param="limit")
    return int(text)


def page(
    session: Session,
    table: Any,
    request: Request,
    limit: int,
    *conditions: ColumnElement[bool],
    ascending: bool = False,
    key: str = "id",
) -> tuple[list[Any], bool]:
    """The rows of a page, and whether more follow.

    Args:
        table: A class of `store` with `seq`.
        request: Its query may have `after`, the last id of the page before.
        conditions: What rows must fulfil.
        ascending: Oldest first.
        key: The column that holds the ids.

    Raises:
        ApiError: 400, if there is no row `after`; a list that began anew would never end.
    """
    query = select(table).where(*conditions)
    if after := request.query_params.get("after"):
        found = select(table.seq).where(getattr(table, key) == after, *conditions)
        seq = session.scalar(found)
        if seq is None:
            raise ApiError(400, "after: there is no such id in this list", param="after")
        query = query.where(table.seq > seq if ascending else table.seq < seq)
    order = table.seq.asc() if ascending else table.seq.desc()
    rows = list(session.scalars(query.order_by(order).limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def list_body(data: list[JsonObject], more: bool) -> JsonObject:
    """A page as clients get it."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
