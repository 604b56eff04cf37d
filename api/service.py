"""Hold what the API answers from: the index, the chain, the store, and who listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from fastapi import Request
from fastapi.sse import ServerSentEvent
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import OperationalError

from api import lists
from api.entries import Evaluation, MarketEvent
from api.errors import BadRequestError
from api.evaluations import Evaluations
from api.follow import Follower
from api.index import read_cursor, reading
from api.market import market
from api.metrics import Metrics
from api.models import Balance, Market, Readiness, Status
from api.queries import Found, Reader, hexed
from api.tables import POSITION_BITS, blocks, descriptions, events, projects
from api.terms import SignedAccuracy
from marketplace.accuracy import Accuracy
from marketplace.chain import Chain
from marketplace.errors import CodecError, MarketplaceError
from marketplace.proof.srs import Srs
from marketplace.types import Deployment
from marketplace.wallet import LOCAL_CHAINS

__all__ = ["Service", "StreamStart"]

STREAM_POLL_S = 0.25
STATUS_EVERY_S = 5.0
_STREAM_BATCH = 500


@dataclass(frozen=True)
class StreamStart:
    """Say where a stream goes on.

    `project` is its number in the index, None for all; `described` counts the descriptions that
    were known; `lost` is the block from which on what the client was told does not hold any more.
    """

    project: int | None
    position: int
    reorganisations: int
    described: int
    lost: int | None


@dataclass(frozen=True)
class _News:
    """Hold events with their blocks' hashes, and what else changed in the index."""

    events: list[tuple[MarketEvent, str]]
    reorganisations: int
    fork: int
    described: int


class Service:
    """Answer from one index; `follower` is None where another process keeps it up to date."""

    def __init__(
        self,
        engine: Engine,
        chain: Chain,
        home: Path,
        metrics: Metrics,
        follower: Follower | None = None,
    ) -> None:
        self.engine = engine
        self.chain = chain
        self.home = home
        self.metrics = metrics
        self.closing = threading.Event()
        self.follower = follower
        self.deployment: Deployment = chain.deployment
        self._evaluations = Evaluations(home, self.deployment)
        self._srs = self._read_srs()
        self._market: tuple[tuple[int, int], Market] | None = None

    def _read_srs(self) -> tuple[str, bool] | None:
        try:
            found = Srs.open(self.deployment.srs_path(self.home))
        except (MarketplaceError, OSError):
            return None
        return hexed(found.id), found.insecure

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Give what reads one state of the index."""
        with reading(self.engine) as connection:
            yield self.reader(connection)

    def reader(self, connection: Connection) -> Reader:
        """Return what reads one state of the index."""
        return Reader(connection, self.deployment, self._evaluations.of)

    def status(self) -> Status:
        """Say which marketplace this is, and how far the index has come."""
        with reading(self.engine) as connection:
            at = read_cursor(connection)
            count = connection.execute(select(func.count()).select_from(projects)).scalar_one()
        head = self.follower.head if self.follower else None
        devnet = at.chain_id in LOCAL_CHAINS
        return Status(
            chain_id=at.chain_id,
            devnet=devnet,
            rpc=self.chain.rpc if devnet else None,
            head=head[0] if head else None,
            head_time=head[1] if head else None,
            indexed_block=at.block,
            indexed_time=at.block_time,
            lag=max(0, head[0] - at.block) if head else None,
            reorganisations=at.reorganisations,
            failure=self.follower.failure if self.follower else None,
            marketplace=at.marketplace,
            token=self.deployment.token,
            rules=dict(self.deployment.rules),
            verifiers=dict(self.deployment.verifiers),
            srs_id=self._srs[0] if self._srs else None,
            srs_insecure=self._srs[1] if self._srs else None,
            projects=count,
            version=version("tribute"),
        )

    def market(self) -> Market:
        """Add the whole market up, once a block: every front page asks for it again and again."""
        with reading(self.engine) as connection:
            at = read_cursor(connection)
            key = (at.block, at.reorganisations)
            if self._market is None or self._market[0] != key:
                self._market = key, market(self.reader(connection))
            return self._market[1]

    def opened_by(self, sponsor: str) -> int:
        """Count the projects that a sponsor has opened."""
        query = select(func.count()).select_from(projects).where(projects.c.sponsor == sponsor)
        with reading(self.engine) as connection:
            return int(connection.execute(query).scalar_one())

    def accept(self, reader: Reader, project: Found, statement: SignedAccuracy) -> Evaluation:
        """Keep what the project's sponsor measured and signed."""
        given = statement.model_dump()
        signature = bytes.fromhex(given.pop("signature"))
        for name in ("project", "model"):
            given[name] = bytes.fromhex(given[name])
        try:
            accuracy = Accuracy(**given)
        except CodecError as error:
            raise BadRequestError(str(error)) from error
        if accuracy.project != project["id"]:
            raise BadRequestError(
                f"the statement is about project {hexed(accuracy.project)}, not about "
                f"{hexed(project['id'])}"
            )
        model = reader.model_digest(project, accuracy.settled_rounds)
        return self._evaluations.accept(accuracy, signature, project["sponsor"], model)

    def readiness(self) -> Readiness:
        """Say whether the index can be read and follows the chain."""
        try:
            found = self.status()
        except OperationalError:
            return Readiness(ready=False, lag=None, failure="the database does not answer")
        return Readiness(ready=found.failure is None, lag=found.lag, failure=found.failure)

    def with_wallets(self, address: str, balances: list[Balance]) -> list[Balance]:
        """Return the balances with the tokens that the address itself holds."""
        found = []
        for balance in balances:
            try:
                held = str(self.chain.token_balance(balance.token.address, address))
            except MarketplaceError:
                held = None
            found.append(balance.model_copy(update={"wallet": held}))
        return found

    # ------------------------------------------------------------------ stream

    def stream_start(self, project: str | None, last_event_id: str | None) -> StreamStart:
        """Return where a stream goes on: after `last_event_id`, or after all that is known."""
        with reading(self.engine) as connection:
            at = read_cursor(connection)
            number = None
            if project is not None:
                number = int(self.reader(connection).project_row(project)["number"])
            newest = connection.execute(select(func.max(events.c.position))).scalar() or 0
            described = _described(connection)
            start = StreamStart(number, newest, at.reorganisations, described, None)
            if last_event_id is None:
                return start
            position, _, block_hash = last_event_id.partition("-")
            if not position.isdecimal() or int(position) >= 1 << 63:
                raise BadRequestError(
                    f"Last-Event-ID {last_event_id[:40]!r} is none that this stream gave"
                )
            known = connection.execute(
                select(blocks.c.hash).where(blocks.c.number == int(position) >> POSITION_BITS)
            ).scalar()
            if known is None or known.hex()[:8] != block_hash:
                return replace(start, lost=at.first_block)
            return replace(start, position=int(position))

    async def stream(self, request: Request, start: StreamStart) -> AsyncIterator[ServerSentEvent]:
        """Give what is new from there on, until the client goes."""
        with self.metrics.streams.track_inprogress():
            async for event in self._stream(request, start):
                yield event

    async def _stream(self, request: Request, start: StreamStart) -> AsyncIterator[ServerSentEvent]:
        position, turns, described = start.position, start.reorganisations, start.described
        if start.lost is not None:
            yield ServerSentEvent(event="reorganised", data={"from_block": start.lost})
        clock = asyncio.get_running_loop().time
        told = -STATUS_EVERY_S
        while not self.closing.is_set() and not await request.is_disconnected():
            if clock() - told >= STATUS_EVERY_S:
                told = clock()
                status = await asyncio.to_thread(self.status)
                yield ServerSentEvent(event="status", data=status)
            news = await asyncio.to_thread(self._news, position, start.project)
            if news.reorganisations != turns:
                turns = news.reorganisations
                position = min(position, ((news.fork + 1) << POSITION_BITS) - 1)
                yield ServerSentEvent(event="reorganised", data={"from_block": news.fork + 1})
                continue
            if news.described != described:
                described = news.described
                yield ServerSentEvent(event="described", data={"descriptions": described})
            for event, block_hash in news.events:
                position = int(event.id)
                yield ServerSentEvent(event="market", id=f"{event.id}-{block_hash[:8]}", data=event)
            if len(news.events) < _STREAM_BATCH:
                await asyncio.sleep(STREAM_POLL_S)

    def _news(self, position: int, project: int | None) -> _News:
        with reading(self.engine) as connection:
            at = read_cursor(connection)
            reader = self.reader(connection)
            found = lists.event_rows(reader, position, _STREAM_BATCH, project)
            numbers = {event.block for event in found}
            rows = connection.execute(
                select(blocks.c.number, blocks.c.hash).where(blocks.c.number.in_(numbers))
            )
            hashes = {row.number: row.hash.hex() for row in rows}
            described = _described(connection)
        told = [(event, hashes[event.block]) for event in found]
        return _News(told, at.reorganisations, at.fork_block, described)


def _described(connection: Connection) -> int:
    found = connection.execute(select(func.count()).select_from(descriptions)).scalar_one()
    return int(found)
