"""Give lists page by page: keyset pagination, whose cursors stay right while rows are added."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, or_

from api.errors import BadRequestError

__all__ = ["decode_cursor", "encode_cursor", "page_of"]


def encode_cursor(keys: Sequence[Any]) -> str:
    """Write a row's keys as an opaque cursor."""
    text = json.dumps(list(keys), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(text: str, kinds: Sequence[type]) -> list[Any]:
    """Read the keys in a cursor; BadRequestError unless they are of these kinds."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        keys = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        good = isinstance(keys, list) and [type(key) for key in keys] == list(kinds)
    except (ValueError, RecursionError):
        good = False
    if not good or any(isinstance(key, int) and not 0 <= key < 1 << 63 for key in keys):
        raise BadRequestError(
            f"cursor {text[:80]!r} is none of this list's: give `next` of the page before, or none"
        )
    return list(keys)


def page_of(
    connection: Connection,
    query: Select[Any],
    keys: Sequence[Any],
    descending: bool,
    limit: int,
    cursor: str | None,
) -> tuple[list[Row[Any]], str | None]:
    """Return a page of a query's rows in the order of `keys`, and the cursor of the next one."""
    kinds = [int if key.type.python_type is int and not _is_amount(key) else str for key in keys]
    if cursor is not None:
        after = [
            _value(key, found)
            for key, found in zip(keys, decode_cursor(cursor, kinds), strict=True)
        ]
        query = query.where(_beyond(keys, after, descending))
    order = [key.desc() if descending else key.asc() for key in keys]
    found = connection.execute(query.order_by(*order).limit(limit + 1)).all()
    if len(found) <= limit:
        return list(found), None
    last = found[limit - 1]._mapping
    values = [last[key] for key in keys]
    texts = [str(v) if kind is str else v for v, kind in zip(values, kinds, strict=True)]
    return list(found[:limit]), encode_cursor(texts)


def _is_amount(key: Any) -> bool:
    return type(key.type).__name__ == "Amount"


def _value(key: Any, found: Any) -> Any:
    if not _is_amount(key):
        return found
    if not found.isdecimal() or len(found) > 39:
        raise BadRequestError(f"cursor names {found[:50]!r} where an amount stands")
    return int(found)


def _beyond(keys: Sequence[Any], after: Sequence[Any], descending: bool) -> Any:
    options = []
    for i, key in enumerate(keys):
        same = [keys[k] == after[k] for k in range(i)]
        beyond = key < after[i] if descending else key > after[i]
        options.append(and_(*same, beyond))
    return or_(*options)
