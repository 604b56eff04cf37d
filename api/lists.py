"""Read the lists that run over projects: updates, scores, rewards, penalties, models, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, select

from api.entries import (
    Evaluation,
    MarketEvent,
    Model,
    Outlier,
    Penalty,
    Receiver,
    Reward,
    Score,
    Settlement,
)
from api.models import Update
from api.notation import Page
from api.paging import decode_cursor, encode_cursor, page_of
from api.queries import (
    Found,
    Reader,
    cid_text,
    counted_of,
    hexed,
    update_of,
)
from api.tables import (
    POSITION_BITS,
    blocks,
    descriptions,
    events,
    params_of,
    projects,
    rounds,
    tokens,
    updates,
)
from marketplace.codec import MODEL_FILE

__all__ = [
    "Filter",
    "event_rows",
    "list_evaluations",
    "list_events",
    "list_models",
    "list_of",
    "list_penalties",
]


@dataclass(frozen=True)
class Filter:
    """Limit a list to a project, a round, a trainer."""

    project: Found | None = None
    round: int | None = None
    trainer: str | None = None


def _joined(table: Any, *more: Any) -> Select[Any]:
    return (
        select(
            table,
            projects.c.id.label("project_id"),
            projects.c.params,
            projects.c.token,
            tokens.c.symbol,
            tokens.c.decimals,
            *more,
        )
        .select_from(table)
        .join(projects, projects.c.number == table.c.project)
        .outerjoin(tokens, tokens.c.address == projects.c.token)
    )


_UPDATES = _joined(
    updates,
    rounds.c.closed_at,
    rounds.c.transaction,
).join(rounds, and_(rounds.c.project == updates.c.project, rounds.c.number == updates.c.round))
_ROUNDS = _joined(rounds)


def _update(reader: Reader, row: Found) -> Update:
    del reader
    return update_of(row["project_id"], row)


def _score(reader: Reader, row: Found) -> Score:
    del reader
    return Score(
        **_place(row),
        status=row["status"],
        weight=row["weight"],
        norm=row["norm"],
        share=str(row["share"]),
        pot=str(params_of(row["params"]).reward),
        settled_at=row["closed_at"],
    )


def _outlier(reader: Reader, row: Found) -> Outlier:
    return Outlier(
        **_place(row),
        slashed=str(row["slashed"]),
        strikes=row["strikes"],
        stake=str(row["stake"]),
        deactivated=row["deactivated"],
        settled_at=row["closed_at"],
        transaction=hexed(row["transaction"]),
        token=reader.token(row),
    )


def _reward(reader: Reader, row: Found) -> Reward:
    return Reward(
        **_place(row),
        amount=str(row["share"]),
        weight=row["weight"],
        settled_at=row["closed_at"],
        transaction=hexed(row["transaction"]),
        token=reader.token(row),
    )


def _stake_penalty(reader: Reader, row: Found) -> Penalty:
    lost, sink = str(row["slashed"]), params_of(row["params"]).slash_sink
    return Penalty(
        project=hexed(row["project_id"]),
        round=row["round"],
        kind="stake",
        account=row["trainer"],
        amount=lost,
        reason="outlier",
        went_to=[Receiver(account=sink, amount=lost)] if row["slashed"] else [],
        strikes=row["strikes"],
        at=row["closed_at"],
        transaction=hexed(row["transaction"]),
        token=reader.token(row),
    )


def _bond_penalty(reader: Reader, row: Found) -> Penalty:
    params, lost = params_of(row["params"]), row["bond_lost"]
    if row["exclusions"]:
        went_to = [Receiver(account=params.slash_sink, amount=str(lost))]
    else:
        query = select(updates.c.trainer).where(
            updates.c.project == row["project"],
            updates.c.round == row["number"],
            updates.c.place >= 0,
        )
        revealed = list(reader.connection.execute(query.order_by(updates.c.place)).scalars())
        each = str(lost // len(revealed))
        went_to = [Receiver(account=trainer, amount=each) for trainer in revealed]
    return Penalty(
        project=hexed(row["project_id"]),
        round=row["number"],
        kind="bond",
        account=params.aggregator,
        amount=str(lost),
        reason="exclusions" if row["exclusions"] else "silence",
        went_to=went_to,
        strikes=None,
        at=row["closed_at"],
        transaction=hexed(row["transaction"]),
        token=reader.token(row),
    )


def _settlement(reader: Reader, row: Found) -> Settlement:
    params = params_of(row["params"])
    return Settlement(
        project=hexed(row["project_id"]),
        round=row["number"],
        settler=row["settler"],
        updates=row["reveals"],
        outliers=row["outliers"],
        excluded=row["excluded"],
        paid=str(row["paid"]),
        fee=str(params.fee),
        slashed=str(row["slashed"]),
        model_cid=cid_text(row["model_cid"]),
        settled_at=row["closed_at"],
        block=row["position"] >> POSITION_BITS,
        transaction=hexed(row["transaction"]),
        verifier=reader.verifiers.get(params.verifier.lower()),
        proof=reader.proof(params),
        token=reader.token(row),
    )


def _place(row: Found) -> dict[str, Any]:
    return {
        "project": hexed(row["project_id"]),
        "round": row["round"],
        "trainer": row["trainer"],
    }


@dataclass(frozen=True)
class _List:
    query: Select[Any]
    table: Any
    item: Callable[[Reader, Found], Any]
    statuses: Sequence[str] = ()


_SCORED = ("counted", "outlier")
_LISTS: Mapping[str, _List] = {
    "updates": _List(_UPDATES, updates, _update),
    "scores": _List(_UPDATES, updates, _score, _SCORED),
    "outliers": _List(_UPDATES, updates, _outlier, ("outlier",)),
    "rewards": _List(_UPDATES, updates, _reward, ("counted",)),
    "settlements": _List(_ROUNDS, rounds, _settlement, ("settled",)),
}


_STAKES = _List(_UPDATES, updates, _stake_penalty, ("outlier",))
_BONDS = _List(_ROUNDS, rounds, _bond_penalty, ("failed",))


def list_of(reader: Reader, name: str, chosen: Filter, limit: int, cursor: str | None) -> Page[Any]:
    """Return a page of one of the lists, newest first."""
    kind = _LISTS[name]
    query = _among(kind, chosen)
    if chosen.trainer is not None and kind.table is rounds:
        its = select(updates.c.round).where(
            updates.c.project == rounds.c.project,
            updates.c.round == rounds.c.number,
            updates.c.trainer == chosen.trainer,
        )
        query = query.where(its.exists())
    rows, following = _page(reader, kind, query, limit, cursor)
    return Page(items=[kind.item(reader, row) for row in rows], next=following)


def list_penalties(reader: Reader, chosen: Filter, limit: int, cursor: str | None) -> Page[Penalty]:
    """Return a page of what stakes and bonds lost, newest first; `chosen.trainer` is who lost."""
    bonds = _among(_BONDS, chosen).where(rounds.c.bond_lost > 0)
    if chosen.trainer is not None:
        bonds = bonds.where(projects.c.aggregator == chosen.trainer)
    found = []
    more = False
    for kind, query in ((_STAKES, _among(_STAKES, chosen)), (_BONDS, bonds)):
        rows, following = _page(reader, kind, query, limit, cursor)
        found += [(row["position"], kind, row) for row in rows]
        more = more or following is not None
    found.sort(key=lambda entry: -int(entry[0]))
    more, found = more or len(found) > limit, found[:limit]
    return Page(
        items=[kind.item(reader, row) for _, kind, row in found],
        next=encode_cursor([found[-1][0]]) if more else None,
    )


def _among(kind: _List, chosen: Filter) -> Select[Any]:
    """Return the query of a list, limited to a project, a round, and a trainer's own rows."""
    query, table = kind.query, kind.table
    if kind.statuses:
        query = query.where(table.c.status.in_(kind.statuses))
    if chosen.project is not None:
        query = query.where(table.c.project == chosen.project["number"])
    if chosen.round is not None:
        query = query.where((table.c.round if table is updates else table.c.number) == chosen.round)
    if chosen.trainer is not None and table is updates:
        query = query.where(table.c.trainer == chosen.trainer)
    return query


def _page(
    reader: Reader, kind: _List, query: Select[Any], limit: int, cursor: str | None
) -> tuple[list[Found], str | None]:
    keys = (kind.table.c.position,)
    rows, following = page_of(reader.connection, query, keys, True, limit, cursor)
    return [row._mapping for row in rows], following


def list_models(reader: Reader, project: Found, limit: int, cursor: str | None) -> Page[Model]:
    """Return a page of a project's models, the newest first and the initial one last."""
    query = select(rounds).where(
        rounds.c.project == project["number"], rounds.c.status == "settled"
    )
    rows, following = page_of(
        reader.connection, query, (rounds.c.settled_rounds,), True, limit, cursor
    )
    published = reader.evaluations(project)
    items = [
        Model(
            project=hexed(project["id"]),
            settled_rounds=row.settled_rounds,
            round=row.number,
            cid=cid_text(row.model_cid),
            file=MODEL_FILE,
            published_at=row.closed_at,
            transaction=hexed(row.transaction),
            updates=counted_of(row._mapping),
            accuracy=reader.accuracy(published, row.settled_rounds, row.model_cid),
        )
        for row in rows
    ]
    if following is None:
        items.append(
            Model(
                project=hexed(project["id"]),
                settled_rounds=0,
                round=0,
                cid=cid_text(project["description_cid"]),
                file=MODEL_FILE,
                published_at=project["opened_at"],
                transaction=hexed(project["transaction"]),
                updates=0,
                accuracy=reader.accuracy(published, 0, project["description_cid"]),
            )
        )
    return Page(items=items, next=following)


def list_evaluations(
    reader: Reader, project: Found, limit: int, cursor: str | None
) -> Page[Evaluation]:
    """Return a page of what the sponsor published, oldest model first."""
    first = 0 if cursor is None else decode_cursor(cursor, [int])[0]
    found = [e for number, e in reader.evaluations(project).items() if number >= first]
    following = found[limit].settled_rounds if len(found) > limit else None
    return Page(items=found[:limit], next=None if following is None else encode_cursor([following]))


# ---------------------------------------------------------------------- events

_EVENTS = (
    select(
        events,
        projects.c.id.label("project_id"),
        descriptions.c.title,
        blocks.c.timestamp,
    )
    .select_from(events)
    .join(projects, projects.c.number == events.c.project)
    .outerjoin(descriptions, descriptions.c.cid == projects.c.description_cid)
    .join(blocks, blocks.c.number == events.c.position.op(">>")(POSITION_BITS))
)


def event_of(row: Found) -> MarketEvent:
    """Return the event that a row is."""
    return MarketEvent(
        id=str(row["position"]),
        name=row["name"],
        project=hexed(row["project_id"]),
        title=row["title"],
        round=row["round"],
        account=row["account"] or None,
        amount=None if row["amount"] is None else str(row["amount"]),
        block=row["position"] >> POSITION_BITS,
        at=row["timestamp"],
        transaction=hexed(row["transaction"]),
    )


def event_rows(
    reader: Reader, after: int, limit: int, project: int | None = None
) -> list[MarketEvent]:
    """Return events later than a position, oldest first."""
    query = _EVENTS.where(events.c.position > after)
    if project is not None:
        query = query.where(events.c.project == project)
    rows = reader.connection.execute(query.order_by(events.c.position).limit(limit)).mappings()
    return [event_of(row) for row in rows]


def list_events(
    reader: Reader, project: Found | None, limit: int, cursor: str | None
) -> Page[MarketEvent]:
    """Return a page of events, newest first."""
    query = _EVENTS
    if project is not None:
        query = query.where(events.c.project == project["number"])
    rows, following = page_of(reader.connection, query, (events.c.position,), True, limit, cursor)
    return Page(items=[event_of(row._mapping) for row in rows], next=following)
