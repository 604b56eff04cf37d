"""Answer requests under /v1: parameters in, models out.

Covered: every route, with its parameters and examples. Not covered: what surrounds them (errors,
limits, headers, pages: `api.app`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from eth_utils.address import to_checksum_address
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from api import addresses, lists, transactions
from api.entries import Evaluation, MarketEvent, Model, Outlier, Penalty, Reward, Score, Settlement
from api.errors import NoSuchError
from api.explain import explanation
from api.models import (
    AccountBalances,
    Explanation,
    Market,
    Project,
    ProjectSummary,
    Round,
    RoundDetail,
    Status,
    Trainer,
    TrainerAcross,
    Update,
)
from api.notation import Page, Problem
from api.queries import Reader
from api.service import Service, StreamStart
from api.terms import Approval, CommitTerms, OpenTerms, SignedAccuracy, Transactions, TypedData

__all__ = ["router"]

ProjectId = Annotated[
    str,
    Path(
        pattern=r"^(0x)?[0-9a-fA-F]{1,64}$",
        description="Project id, or its first digits.",
        examples=["0x" + "5c" * 32],
    ),
]
RoundNumber = Annotated[int, Path(ge=1, lt=1 << 31, examples=[1])]
_ADDRESS = r"^0x[0-9a-fA-F]{40}$"
AddressPath = Annotated[
    str, Path(pattern=_ADDRESS, examples=["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"])
]
AddressQuery = Annotated[str | None, Query(pattern=_ADDRESS)]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on the page.")]
Cursor = Annotated[
    str | None, Query(max_length=300, description="`next` of the page before, for the one after.")
]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": Problem,
        "description": text,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
    for status, text in {
        400: "A parameter cannot be read",
        404: "No project, round or trainer has this name",
        422: "A parameter is out of its limits",
        429: "Too many requests",
    }.items()
}
_WRITE_PROBLEMS = {
    **_PROBLEMS,
    409: {**_PROBLEMS[400], "description": "The marketplace would refuse it"},
    503: {**_PROBLEMS[400], "description": "The chain did not answer"},
}

_STATEMENT_PROBLEMS: dict[int | str, dict[str, Any]] = {
    403: {**_PROBLEMS[400], "description": "The project's sponsor did not sign it"},
    409: {**_PROBLEMS[400], "description": "It is about another model, or a later one is known"},
}

_ASKING = CapacityLimiter(16)

router = APIRouter(prefix="/v1", responses=_PROBLEMS)


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceNeed = Annotated[Service, Depends(_service)]


async def _from_chain(ask: Callable[[], BaseModel]) -> Response:
    """Answer what the chain must be asked for, where its silence stops no other request."""
    return _json(await run_sync(ask, limiter=_ASKING))


def _json(answer: BaseModel) -> Response:
    """Write a model once: it has been checked when it was made."""
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")


def _filter(reader: Reader, project: str | None, number: int | None, trainer: str | None) -> Any:
    return lists.Filter(
        None if project is None else reader.project_row(project),
        number,
        None if trainer is None else to_checksum_address(trainer),
    )


# ---------------------------------------------------------------------- status


@router.get("/status", response_model=Status, tags=["status"])
def status(service: ServiceNeed) -> Response:
    """Say which marketplace this is, and how far the index has come."""
    return _json(service.status())


@router.get("/market", response_model=Market, tags=["status"])
def whole_market(service: ServiceNeed) -> Response:
    """Add the whole market up: projects, rounds, trainers, money."""
    return _json(service.market())


# -------------------------------------------------------------------- projects


@router.get("/projects", response_model=Page[ProjectSummary], tags=["projects"])
def projects(
    service: ServiceNeed,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Literal["bonding", "running", "finished", "halted", "closed"] | None = None,
    search: Annotated[
        str | None,
        Query(
            max_length=200, description="Words that title or summary contain.", examples=["digits"]
        ),
    ] = None,
    sponsor: AddressQuery = None,
    trainer: AddressQuery = None,
    sort: Literal["newest", "oldest", "reward", "escrow", "activity"] = "newest",
) -> Response:
    """List and search the marketplace's projects."""
    with service.reading() as reader:
        return _json(
            reader.projects(
                limit,
                cursor,
                sort,
                status,
                search,
                None if sponsor is None else to_checksum_address(sponsor),
                None if trainer is None else to_checksum_address(trainer),
            )
        )


@router.get("/projects/{project}", response_model=Project, tags=["projects"])
def project(service: ServiceNeed, project: ProjectId) -> Response:
    """Show a project's terms and where it stands."""
    with service.reading() as reader:
        return _json(reader.project(reader.project_row(project)))


@router.get("/projects/{project}/rounds", response_model=Page[Round], tags=["rounds"])
def rounds(
    service: ServiceNeed, project: ProjectId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List a project's rounds, newest first."""
    with service.reading() as reader:
        return _json(reader.rounds(reader.project_row(project), limit, cursor))


@router.get("/projects/{project}/rounds/{number}", response_model=RoundDetail, tags=["rounds"])
def round_detail(service: ServiceNeed, project: ProjectId, number: RoundNumber) -> Response:
    """Show a round: windows, updates, records, the Gram matrix, the settlement."""
    with service.reading() as reader:
        return _json(reader.round(reader.project_row(project), number))


@router.get(
    "/projects/{project}/rounds/{number}/explain/{trainer}",
    response_model=Explanation,
    tags=["rounds"],
)
def explain(
    service: ServiceNeed, project: ProjectId, number: RoundNumber, trainer: AddressPath
) -> Response:
    """Say step by step why a trainer was paid what it was for a round."""
    with service.reading() as reader:
        row = reader.project_row(project)
        return _json(explanation(reader, row, number, to_checksum_address(trainer)))


@router.get("/projects/{project}/trainers", response_model=Page[Trainer], tags=["trainers"])
def trainers(
    service: ServiceNeed, project: ProjectId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List a project's trainers, best paid first."""
    with service.reading() as reader:
        return _json(reader.trainers(reader.project_row(project), limit, cursor))


@router.get("/projects/{project}/trainers/{address}", response_model=Trainer, tags=["trainers"])
def trainer(service: ServiceNeed, project: ProjectId, address: AddressPath) -> Response:
    """Show how a trainer stands in a project, and what it can do next."""
    with service.reading() as reader:
        row = reader.project_row(project)
        return _json(reader.one_trainer(row, to_checksum_address(address)))


@router.get("/projects/{project}/models", response_model=Page[Model], tags=["projects"])
def models(
    service: ServiceNeed, project: ProjectId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List a project's global models, newest first."""
    with service.reading() as reader:
        return _json(lists.list_models(reader, reader.project_row(project), limit, cursor))


@router.get("/projects/{project}/evaluations", response_model=Page[Evaluation], tags=["projects"])
def evaluations(
    service: ServiceNeed, project: ProjectId, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List what the sponsor published about its models' accuracy, oldest first."""
    with service.reading() as reader:
        return _json(lists.list_evaluations(reader, reader.project_row(project), limit, cursor))


@router.post(
    "/projects/{project}/evaluations",
    response_model=Evaluation,
    responses=_STATEMENT_PROBLEMS,
    tags=["projects"],
)
def publish_evaluation(
    service: ServiceNeed, project: ProjectId, statement: SignedAccuracy
) -> Response:
    """Publish an accuracy that the project's sponsor measured and signed."""
    with service.reading() as reader:
        return _json(service.accept(reader, reader.project_row(project), statement))


# ----------------------------------------------------------- trainers, accounts


@router.get("/trainers/{address}", response_model=TrainerAcross, tags=["trainers"])
def trainer_across(service: ServiceNeed, address: AddressPath) -> Response:
    """Show how a trainer stands in all its projects."""
    with service.reading() as reader:
        found = addresses.across(reader, to_checksum_address(address))
        if not found.projects:
            raise NoSuchError(f"{found.address} never joined a project; see /v1/projects")
        return _json(found)


@router.get("/accounts/{address}/balances", response_model=AccountBalances, tags=["accounts"])
async def balances(service: ServiceNeed, address: AddressPath) -> Response:
    """Show what an address has in the marketplace, whatever its roles, and in its wallet."""
    checked = to_checksum_address(address)

    def ask() -> AccountBalances:
        with service.reading() as reader:
            found, its_projects = addresses.holdings(reader, checked)
        wallets = service.with_wallets(checked, found)
        return AccountBalances(address=checked, balances=wallets, projects=its_projects)

    return await _from_chain(ask)


# ----------------------------------------------------------------------- lists


Listing = Callable[[Reader, lists.Filter, int, str | None], Page[Any]]


def _list_route(name: str, item: Any, text: str, listing: Listing) -> None:
    def answer(
        service: ServiceNeed,
        project: Annotated[str | None, Query(pattern=r"^(0x)?[0-9a-fA-F]{1,64}$")] = None,
        round: Annotated[int | None, Query(ge=1, lt=1 << 31)] = None,
        trainer: AddressQuery = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        with service.reading() as reader:
            chosen = _filter(reader, project, round, trainer)
            return _json(listing(reader, chosen, limit, cursor))

    answer.__name__ = name
    answer.__doc__ = text
    router.get(f"/{name}", response_model=Page[item], tags=["lists"])(answer)


def _named_list(name: str, item: Any, text: str) -> None:
    def listing(reader: Reader, chosen: lists.Filter, limit: int, cursor: str | None) -> Page[Any]:
        return lists.list_of(reader, name, chosen, limit, cursor)

    _list_route(name, item, text, listing)


_named_list("updates", Update, "List updates, the latest committed first.")
_named_list("scores", Score, "List how updates were scored, the latest first.")
_named_list("outliers", Outlier, "List updates that the rules rejected, the latest first.")
_named_list("rewards", Reward, "List what trainers were paid, the latest first.")
_named_list("settlements", Settlement, "List how rounds were settled, the latest first.")
_list_route(
    "penalties",
    Penalty,
    "List what stakes and bonds lost, the latest first; `trainer` is who lost.",
    lists.list_penalties,
)


# ---------------------------------------------------------------------- events


@router.get("/events/recent", response_model=Page[MarketEvent], tags=["events"])
def recent_events(
    service: ServiceNeed,
    project: Annotated[str | None, Query(pattern=r"^(0x)?[0-9a-fA-F]{1,64}$")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """List the chain's events, newest first."""
    with service.reading() as reader:
        row = None if project is None else reader.project_row(project)
        return _json(lists.list_events(reader, row, limit, cursor))


def _position(
    service: ServiceNeed,
    project: Annotated[str | None, Query(pattern=r"^(0x)?[0-9a-fA-F]{1,64}$")] = None,
    last_event_id: Annotated[str | None, Header(max_length=80)] = None,
) -> StreamStart:
    return service.stream_start(project, last_event_id)


@router.get(
    "/events",
    response_class=EventSourceResponse,
    tags=["events"],
    responses={
        200: {"description": "Server-sent events: `market`, `reorganised`, `described`, `status`."}
    },
)
async def stream(
    request: Request, service: ServiceNeed, start: Annotated[StreamStart, Depends(_position)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream everything new: an event `market` for each of the chain's.

    After a reconnection with Last-Event-ID, the events since then come first. `reorganised` says
    from which block on what was told does not hold any more, `described` that a project's
    description was found; `status` how far the index is.
    """
    async for event in service.stream(request, start):
        yield event


# ---------------------------------------------------------------- transactions

_WRITE: dict[str, Any] = {"tags": ["transactions"], "responses": _WRITE_PROBLEMS}


@router.post("/transactions/open", response_model=Transactions, **_WRITE)
async def open_transaction(service: ServiceNeed, terms: OpenTerms) -> Response:
    """Prepare the transactions that fund and open a project."""

    def prepare() -> Transactions:
        opened = service.opened_by(to_checksum_address(terms.sender))
        return transactions.open_project(service.chain, terms, opened)

    return await _from_chain(prepare)


@router.post("/transactions/join", response_model=Transactions, **_WRITE)
async def join_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transactions that make an account a trainer."""
    return await _from_chain(lambda: transactions.join(service.chain, who.sender, who.project))


@router.post("/transactions/withdraw", response_model=Transactions, **_WRITE)
async def withdraw_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transaction that pays an account's credit."""
    return await _from_chain(lambda: transactions.withdraw(service.chain, who.sender, who.project))


@router.post("/transactions/leave", response_model=Transactions, **_WRITE)
async def leave_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transaction that ends a trainer's part."""
    return await _from_chain(lambda: transactions.leave(service.chain, who.sender, who.project))


@router.post("/transactions/release", response_model=Transactions, **_WRITE)
async def release_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transaction that turns the free stake of a trainer who left into credit."""
    return await _from_chain(lambda: transactions.release(service.chain, who.sender, who.project))


@router.post("/transactions/expire", response_model=Transactions, **_WRITE)
async def expire_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transaction that ends a round which nobody settled in time."""

    def prepare() -> Transactions:
        with service.reading() as reader:
            row = reader.project_row(who.project)
            number = row["round"]
            updates = reader.update_rows(row, number)
        reveals = [(one["trainer"], one["point"]) for one in updates if one["place"] >= 0]
        return transactions.expire(service.chain, who.sender, who.project, number, reveals)

    return await _from_chain(prepare)


@router.post("/transactions/close", response_model=Transactions, **_WRITE)
async def close_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transaction that turns what is left in escrow into the sponsor's credit."""
    return await _from_chain(lambda: transactions.close(service.chain, who.sender, who.project))


@router.post("/transactions/bond", response_model=Transactions, **_WRITE)
async def bond_transaction(service: ServiceNeed, who: Approval) -> Response:
    """Prepare the transactions that deposit the aggregator's bond."""
    return await _from_chain(lambda: transactions.bond(service.chain, who.sender, who.project))


@router.post("/transactions/commit", response_model=TypedData, **_WRITE)
def commit_message(service: ServiceNeed, terms: CommitTerms) -> Response:
    """Prepare the message that lets a relayer commit for a trainer, who then needs no gas."""
    return _json(transactions.commit_typed_data(service.deployment, terms))
