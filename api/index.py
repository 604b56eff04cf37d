"""Keep the rows of the index in a database, SQLite or PostgreSQL.

Covered: opening and migrating it, writing a batch of events in one transaction, undoing what a
reorganisation took back. Not covered: where events come from (`api.follow`), reading rows for
people (`api.queries`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    BindParameter,
    Column,
    Connection,
    Engine,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from api.errors import DatabaseError, ForeignIndexError
from api.fold import Book, Row
from api.logs import LogEvent
from api.tables import (
    POSITION_BITS,
    Amount,
    accounts,
    amount_text,
    blocks,
    checkpoints,
    cursor,
    descriptions,
    events,
    metadata,
    projects,
    rounds,
    tokens,
    updates,
)
from marketplace.errors import InputError
from marketplace.types import Deployment

__all__ = [
    "Cursor",
    "Index",
    "clear",
    "default_database",
    "migrate",
    "open_engine",
    "read_cursor",
    "reading",
]

CHECKPOINTS = 256
"""How many blocks' hashes are kept to find where a reorganisation forked off."""

_TABLES = {table.name: table for table in (projects, accounts, rounds, updates)}
_DERIVED = (events, updates, rounds, accounts, projects, blocks)


def default_database(home: Path) -> str:
    """Return the address of the home's own database."""
    return f"sqlite:///{(home / 'index.db').resolve()}"


@dataclass(frozen=True)
class Cursor:
    """Say how far the index has come."""

    chain_id: int
    marketplace: str
    first_block: int
    block: int
    block_hash: bytes
    block_time: int
    reorganisations: int
    fork_block: int


def open_engine(url: str) -> Engine:
    """Return an engine for the address; InputError for none, DatabaseError for a shut one."""
    try:
        parsed = make_url(url)
    except Exception:
        # The library's message may quote a password.
        raise InputError(
            "the database address cannot be read: give sqlite:///FILE or "
            "postgresql://USER@HOST:PORT/NAME"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif parsed.get_backend_name() != "sqlite":
        raise InputError(f"no database {parsed.drivername!r} here: sqlite or postgresql")
    elif parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
    try:
        engine.connect().close()
    except DBAPIError as error:
        engine.dispose()
        why = str(error.orig).partition("\n")[0]
        raise DatabaseError(
            f"the database {parsed.render_as_string()} cannot be opened ({why}); mend that, or "
            "name another one with --database"
        ) from error
    return engine


def _tune_sqlite(connection: Any, record: object) -> None:
    del record
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def migrate(engine: Engine) -> None:
    """Bring the database's tables to what this version of the package needs."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise InputError(
                f"the index was made by another version of tribute ({error}); run "
                "`tribute index rebuild`"
            ) from error


class Index:
    """Write the index of one marketplace."""

    def __init__(self, url: str, deployment: Deployment) -> None:
        self.engine = open_engine(url)
        self.deployment = deployment
        try:
            migrate(self.engine)
            self._claim()
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        """Begin an empty database, or make sure that this one is the deployment's."""
        deployment = self.deployment
        with self.engine.begin() as connection:
            found = connection.execute(select(cursor)).one_or_none()
            if found is None:
                self._start(connection)
            elif (found.chain_id, found.marketplace) != (
                deployment.chain_id,
                deployment.marketplace,
            ):
                raise ForeignIndexError(
                    f"the database holds the index of marketplace {found.marketplace} on chain "
                    f"{found.chain_id}, not of {deployment.marketplace} on chain "
                    f"{deployment.chain_id}; name another one with --database, or run "
                    "`tribute index rebuild`"
                )

    def _start(self, connection: Connection) -> None:
        connection.execute(
            insert(cursor).values(
                id=1,
                chain_id=self.deployment.chain_id,
                marketplace=self.deployment.marketplace,
                first_block=self.deployment.block,
                block=self.deployment.block - 1,
                block_hash=b"",
                block_time=0,
                reorganisations=0,
                fork_block=0,
            )
        )

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def cursor(self) -> Cursor:
        """Return how far the index has come."""
        with self.engine.connect() as connection:
            return read_cursor(connection)

    # ------------------------------------------------------------------- batch

    def write(
        self,
        batch: Sequence[LogEvent],
        timestamps: Mapping[int, int],
        last: tuple[int, bytes, int],
    ) -> None:
        """Take in the events of the blocks up to `last`: its number, hash and time.

        Events that are in already are passed over, so that a batch may be delivered twice.
        """
        with self.engine.begin() as connection:
            at = read_cursor(connection)
            fresh = [found for found in batch if found.block > at.block]
            self._fold(connection, fresh, timestamps)
            if fresh:
                hashes = {found.block: found.block_hash for found in fresh}
                its_rows = [
                    {"number": number, "hash": block_hash, "timestamp": timestamps[number]}
                    for number, block_hash in hashes.items()
                ]
                _insert(connection, blocks, its_rows)
            if last[0] > at.block:
                self._set_cursor(connection, last)

    def _set_cursor(self, connection: Connection, last: tuple[int, bytes, int]) -> None:
        number, block_hash, time = last
        connection.execute(
            update(cursor).values(block=number, block_hash=block_hash, block_time=time)
        )
        connection.execute(delete(checkpoints).where(checkpoints.c.block >= number))
        connection.execute(insert(checkpoints).values(block=number, hash=block_hash))
        keep = (
            select(checkpoints.c.block)
            .order_by(checkpoints.c.block.desc())
            .offset(CHECKPOINTS)
            .limit(1)
        )
        oldest = connection.execute(keep).scalar()
        if oldest is not None:
            connection.execute(delete(checkpoints).where(checkpoints.c.block <= oldest))

    def _fold(
        self, connection: Connection, batch: Sequence[LogEvent], timestamps: Mapping[int, int]
    ) -> None:
        last = connection.execute(select(func.max(projects.c.number))).scalar()
        book = Book(1 if last is None else last + 1)
        ids = {bytes(found.values["project"]) for found in batch}
        for project in _chunked(connection, projects, projects.c.id, sorted(ids)):
            _load(connection, book, project)
        book.add(batch, timestamps)
        _save(connection, book)

    # ---------------------------------------------------------- reorganisations

    def checkpoints(self) -> list[tuple[int, bytes]]:
        """Return blocks that the index has seen, newest first, with their hashes."""
        with self.engine.connect() as connection:
            polled = connection.execute(
                select(checkpoints.c.block, checkpoints.c.hash).order_by(checkpoints.c.block.desc())
            )
            return [(row.block, row.hash) for row in polled]

    def project_ids_after(self, block: int) -> list[bytes]:
        """Return the projects opened by `block` that have events after it."""
        first = (block + 1) << POSITION_BITS
        with self.engine.connect() as connection:
            found = connection.execute(
                select(projects.c.id)
                .where(
                    projects.c.position < first,
                    projects.c.number.in_(
                        select(events.c.project).where(events.c.position >= first)
                    ),
                )
                .order_by(projects.c.number)
            )
            return [row.id for row in found]

    def undo(
        self,
        last: tuple[int, bytes, int],
        kept: Sequence[LogEvent],
        timestamps: Mapping[int, int],
    ) -> None:
        """Take back everything after block `last`.

        `kept` are all events up to that block of the projects that `project_ids_after` named: their
        rows are added up again from these.
        """
        number = last[0]
        first = (number + 1) << POSITION_BITS
        with self.engine.begin() as connection:
            changed = select(events.c.project).where(events.c.position >= first).distinct()
            numbers = list(connection.execute(changed).scalars())
            gone = select(projects.c.number).where(projects.c.position >= first)
            numbers = sorted({*numbers, *connection.execute(gone).scalars()})
            known = {
                row.id: row.number
                for row in connection.execute(
                    select(projects.c.id, projects.c.number).where(projects.c.number.in_(numbers))
                )
            }
            for table in (events, updates, rounds, accounts):
                connection.execute(delete(table).where(table.c.project.in_(numbers)))
            connection.execute(delete(projects).where(projects.c.number.in_(numbers)))
            connection.execute(delete(blocks).where(blocks.c.number > number))
            for project_id, its_number in known.items():
                its = [found for found in kept if found.values["project"] == project_id]
                if its:
                    book = Book(its_number)
                    book.add(its, timestamps)
                    _save(connection, book)
            connection.execute(delete(checkpoints).where(checkpoints.c.block > number))
            self._set_cursor(connection, last)
            connection.execute(
                update(cursor).values(
                    reorganisations=cursor.c.reorganisations + 1, fork_block=number
                )
            )

    # ------------------------------------------------------ tokens, descriptions

    def unknown_tokens(self) -> list[str]:
        """Return the tokens of projects that nothing is known of yet."""
        with self.engine.connect() as connection:
            found = select(projects.c.token).distinct()
            known = select(tokens.c.address)
            return sorted(connection.execute(found.where(projects.c.token.not_in(known))).scalars())

    def add_token(self, address: str, symbol: str, decimals: int) -> None:
        """Note how a token's amounts are shown."""
        with self.engine.begin() as connection:
            connection.execute(
                insert(tokens).values(address=address, symbol=symbol, decimals=decimals)
            )

    def unknown_descriptions(self) -> list[bytes]:
        """Return the digests of descriptions that have not been read yet, the newest first."""
        with self.engine.connect() as connection:
            known = select(descriptions.c.cid)
            found = (
                select(projects.c.description_cid)
                .where(projects.c.description_cid.not_in(known))
                .order_by(projects.c.number.desc())
            )
            return list(dict.fromkeys(connection.execute(found).scalars()))

    def add_description(self, digest: bytes, title: str, summary: str, document: str) -> None:
        """Note what a project's description says."""
        with self.engine.begin() as connection:
            connection.execute(
                insert(descriptions).values(
                    cid=digest,
                    title=title,
                    summary=summary,
                    words=f"{title}\n{summary}".lower(),
                    document=document,
                )
            )

    def fingerprint(self) -> str:
        """Return a hash of all rows that follow from the chain, the same after a rebuild."""
        digest = hashlib.sha256()
        with self.engine.connect() as connection:
            for table in (*reversed(_DERIVED), tokens, descriptions):
                digest.update(table.name.encode())
                order = list(table.primary_key)
                for row in connection.execute(select(table).order_by(*order)):
                    digest.update(repr(tuple(row)).encode())
        return digest.hexdigest()


def clear(url: str) -> None:
    """Drop an index, whatever version of this package made it."""
    engine = open_engine(url)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    engine.dispose()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that sees one state of the index however long it reads."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            # The driver begins a transaction by itself before it writes only.
            connection.exec_driver_sql("BEGIN")
            yield connection
    else:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield connection


def read_cursor(connection: Connection) -> Cursor:
    """Return the cursor's row."""
    row = connection.execute(select(cursor)).one()
    return Cursor(
        row.chain_id,
        row.marketplace,
        row.first_block,
        row.block,
        row.block_hash,
        row.block_time,
        row.reorganisations,
        row.fork_block,
    )


def _chunked(connection: Connection, table: Any, column: Any, keys: Sequence[Any]) -> list[Row]:
    """Return the rows whose `column` is among the keys, a few hundred keys a query."""
    found: list[Row] = []
    for start in range(0, len(keys), 500):
        query = select(table).where(column.in_(keys[start : start + 500]))
        found += [dict(row) for row in connection.execute(query).mappings()]
    return found


def _load(connection: Connection, book: Book, project: Row) -> None:
    number, current = project["number"], project["round"]

    def rows(query: Any) -> list[Row]:
        return [dict(row) for row in connection.execute(query).mappings()]

    its_accounts = rows(select(accounts).where(accounts.c.project == number))
    its_round = rows(select(rounds).where(rounds.c.project == number, rounds.c.number == current))
    its_updates = rows(
        select(updates).where(updates.c.project == number, updates.c.round == current)
    )
    book.load(project, its_accounts, its_round[0] if its_round else None, its_updates)


def _save(connection: Connection, book: Book) -> None:
    for name, table in _TABLES.items():
        _insert(connection, table, book.new[name].values())
        changed = book.changed[name].values()
        if changed:
            keys = [column for column in table.columns if column.primary_key]
            plain = [column for column in table.columns if not column.primary_key]
            query = (
                update(table)
                .where(*(column == _parameter(column) for column in keys))
                .values({column: _parameter(column) for column in plain})
            )
            names = [column.name for column in table.columns]
            rows = [{f"new_{column}": row[column] for column in names} for row in changed]
            connection.execute(query, rows)
    _insert(connection, events, book.events)


def _insert(connection: Connection, table: Table, new: Collection[Row]) -> None:
    """Insert many rows by the driver itself, which takes a third of SQLAlchemy's time."""
    if not new:
        return
    columns = [(column.name, isinstance(column.type, Amount)) for column in table.columns]
    prepare = connection.dialect.identifier_preparer
    names = ", ".join(prepare.quote(name) for name, _ in columns)
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    marks = ", ".join([mark] * len(columns))
    values = [
        tuple([amount_text(row[name]) if amount else row[name] for name, amount in columns])
        for row in new
    ]
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", values)


def _parameter(column: Column[Any]) -> BindParameter[Any]:
    """Return a parameter of the column's type; its plain name is taken by SQLAlchemy."""
    return bindparam(f"new_{column.name}", type_=column.type)
