"""Add the whole market up, in the database: amounts have more digits than its integers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, String, cast, func, select, type_coerce

from api.models import Market, MarketTotal
from api.queries import Reader
from api.tables import AMOUNT_DIGITS, accounts, projects, tokens
from marketplace.types import Status

__all__ = ["market"]

_PART = 13
"""Digits of an amount that are added up as one integer: 10^5 such numbers fit 64 bits with room."""

_AMOUNTS = ("escrow", "bond", "paid", "fees", "slashed")


def market(reader: Reader) -> Market:
    """Return the market's figures."""
    connection = reader.connection
    count = func.count()
    by_status = select(projects.c.status, count, func.sum(projects.c.settled_rounds))
    states = connection.execute(by_status.group_by(projects.c.status)).all()
    trainers = select(func.count(accounts.c.address.distinct())).where(accounts.c.trainer)
    sums = [part.label(f"{name}{k}") for name in _AMOUNTS for k, part in enumerate(_parts(name))]
    query = (
        select(projects.c.token, tokens.c.symbol, tokens.c.decimals, *sums)
        .outerjoin(tokens, tokens.c.address == projects.c.token)
        .group_by(projects.c.token, tokens.c.symbol, tokens.c.decimals)
        .order_by(count.desc(), projects.c.token)
    )
    rows = connection.execute(query).mappings().all()
    return Market(
        projects={Status(status).name.lower(): number for status, number, _ in states},
        settled_rounds=sum(int(settled) for _, _, settled in states),
        trainers=connection.execute(trainers).scalar_one(),
        totals=[
            MarketTotal(
                token=reader.token(row), **{name: str(_whole(row, name)) for name in _AMOUNTS}
            )
            for row in rows
        ],
    )


def _parts(name: str) -> list[Any]:
    text = type_coerce(projects.c[name], String)
    return [
        func.sum(cast(func.substr(text, 1 + start, _PART), BigInteger))
        for start in range(0, AMOUNT_DIGITS, _PART)
    ]


def _whole(row: Any, name: str) -> int:
    whole = 0
    for k in range(AMOUNT_DIGITS // _PART):
        whole = whole * 10**_PART + int(row[f"{name}{k}"])
    return whole
