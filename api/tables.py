"""Lay out the index: what the events of the chain add up to, one row a thing.

Every row but those of `cursor` and `checkpoints` is a function of the chain, `tokens` and
`descriptions` of what addresses and CIDs on it name: an index that was built again has the same
rows. Amounts are decimal text of fixed width, so that both databases order them as numbers.
Positions are block · 2^20 + index of the log in its block: the order of events.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
)

from marketplace.types import Params

__all__ = [
    "POSITION_BITS",
    "AMOUNT_DIGITS",
    "Amount",
    "amount_text",
    "accounts",
    "blank",
    "blocks",
    "checkpoints",
    "cursor",
    "descriptions",
    "events",
    "metadata",
    "params_of",
    "params_text",
    "projects",
    "rounds",
    "tokens",
    "updates",
]

POSITION_BITS = 20
AMOUNT_DIGITS = 39
"""Decimal digits of 2^128: room for the sum of 2^32 amounts of 96 bits."""


def amount_text(value: int | None) -> str | None:
    """Write an amount as the database keeps it."""
    return None if value is None else f"{value:0{AMOUNT_DIGITS}d}"


class Amount(TypeDecorator[int]):
    """Keep an integer from 0 as text of fixed width, which sorts as the number does."""

    impl = String(AMOUNT_DIGITS)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """Write the number with leading zeros."""
        del dialect
        return amount_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Read the number."""
        del dialect
        return None if value is None else int(value)


def _amount(name: str) -> Column[int]:
    return Column(name, Amount, nullable=False)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _hash(name: str, nullable: bool = True) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=nullable)


metadata = MetaData()

cursor = Table(
    "cursor",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    _time("chain_id"),
    Column("marketplace", String(42), nullable=False),
    _time("first_block"),
    # Last block whose events are in, -1 + first_block before any.
    _time("block"),
    _hash("block_hash", nullable=False),
    _time("block_time"),
    # Counts the reorganisations met, and says from which block the last one changed rows.
    _count("reorganisations"),
    _time("fork_block"),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("block", BigInteger, primary_key=True, autoincrement=False),
    _hash("hash", nullable=False),
)
blocks = Table(
    "blocks",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _hash("hash", nullable=False),
    _time("timestamp"),
)
tokens = Table(
    "tokens",
    metadata,
    Column("address", String(42), primary_key=True),
    Column("symbol", String(64), nullable=False),
    Column("decimals", SmallInteger, nullable=False),
)
descriptions = Table(
    "descriptions",
    metadata,
    Column("cid", LargeBinary, primary_key=True),
    Column("title", Text, nullable=False),
    Column("summary", Text, nullable=False),
    # Title and summary in lower case, for the search.
    Column("words", Text, nullable=False),
    Column("document", Text, nullable=False),
)
projects = Table(
    "projects",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False, unique=True),
    _time("position"),
    _hash("transaction", nullable=False),
    _time("opened_at"),
    Column("sponsor", String(42), nullable=False, index=True),
    Column("aggregator", String(42), nullable=False, index=True),
    Column("token", String(42), nullable=False),
    _hash("description_cid", nullable=False),
    Column("params", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    _count("round"),
    _count("settled_rounds"),
    _count("failures"),
    _time("opens_at"),
    _time("commit_end"),
    _time("reveal_end"),
    _time("settle_end"),
    _count("active"),
    _count("commits"),
    _count("reveals"),
    _amount("reward"),
    _amount("escrow"),
    _amount("bond"),
    _amount("paid"),
    _amount("fees"),
    _amount("slashed"),
    _amount("refunded"),
    _time("last_at"),
    Index("projects_status", "status", "number"),
    Index("projects_reward", "reward", "number"),
    Index("projects_escrow", "escrow", "number"),
    Index("projects_last_at", "last_at", "number"),
)


def _project() -> Column[int]:
    return Column("project", Integer, ForeignKey("projects.number"), nullable=False)


accounts = Table(
    "accounts",
    metadata,
    Column(
        "project",
        Integer,
        ForeignKey("projects.number"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("address", String(42), primary_key=True),
    # Whether the account ever joined as a trainer, or is the root trainer.
    Column("trainer", Boolean, nullable=False),
    Column("membership", SmallInteger, nullable=False),
    _count("position"),
    _amount("stake"),
    _amount("credit"),
    _count("strikes"),
    _hash("encryption_key"),
    _time("joined_at"),
    _time("exit_at"),
    _count("last_commit"),
    _amount("earned"),
    _amount("slashed"),
    _amount("withdrawn"),
    # privacy spent, in thousandths of ε, as its last commit said
    Column("spent_milli", BigInteger, nullable=False),
    _count("commits"),
    _count("reveals"),
    _count("counted"),
    _count("outliers"),
    _count("excluded"),
    Index("accounts_address", "address", "project"),
)
rounds = Table(
    "rounds",
    metadata,
    Column(
        "project",
        Integer,
        ForeignKey("projects.number"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # open, settled or failed
    Column("status", String(8), nullable=False),
    _time("opens_at"),
    _time("commit_end"),
    _time("reveal_end"),
    _time("settle_end"),
    _count("active"),
    _count("commits"),
    _count("reveals"),
    # How many rounds were settled with this one; 0 for one that is not.
    _count("settled_rounds"),
    _time("position"),
    _time("closed_at"),
    _hash("transaction"),
    Column("settler", String(42), nullable=False),
    _hash("model_cid"),
    _hash("gram"),
    _amount("paid"),
    _amount("slashed"),
    _count("outliers"),
    _count("excluded"),
    _amount("bond_lost"),
    _hash("exclusions"),
    # of a settled round in a project with a root trainer: believed, set aside or absent
    Column("root", String(9), nullable=True),
    Index("rounds_position", "status", "position"),
)
updates = Table(
    "updates",
    metadata,
    Column(
        "project",
        Integer,
        ForeignKey("projects.number"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("trainer", String(42), primary_key=True),
    # committed, revealed, counted, outlier, excluded, root (the root trainer's), aside (a root's
    # that was set aside), or void: revealed in a round that failed
    Column("status", String(9), nullable=False),
    # of the commit
    _time("position"),
    _time("committed_at"),
    _hash("commit_transaction", nullable=False),
    # place among the round's reveals, -1 before
    _count("place"),
    _time("revealed_at"),
    _hash("reveal_transaction"),
    _hash("point"),
    _hash("cid"),
    _amount("share"),
    _amount("slashed"),
    _count("weight"),
    # length of the update in steps, from the Gram matrix
    Column("norm", BigInteger, nullable=False),
    _count("strikes"),
    _amount("stake"),
    Column("reason", SmallInteger, nullable=False),
    Column("deactivated", Boolean, nullable=False),
    Index("updates_position", "position"),
    Index("updates_status", "status", "position"),
    Index("updates_trainer", "trainer", "position"),
    Index("updates_project", "project", "position"),
)
events = Table(
    "events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("project", Integer, ForeignKey("projects.number"), nullable=True),
    Column("name", String(32), nullable=False),
    _count("round"),
    Column("account", String(42), nullable=False),
    Column("amount", Amount, nullable=True),
    _hash("transaction", nullable=False),
    Index("events_project", "project", "position"),
)


def blank(table: Table) -> dict[str, Any]:
    """Return a row whose every column is 0."""
    return dict.fromkeys(table.columns.keys(), 0)


def params_text(params: Params) -> str:
    """Write a project's terms as canonical JSON: bytes as hexadecimal digits."""
    plain = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in asdict(params).items()
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


_BYTES = tuple(entry.name for entry in fields(Params) if entry.type == "bytes")


@functools.lru_cache(maxsize=8192)
def params_of(text: str) -> Params:
    """Read a project's terms."""
    plain = json.loads(text)
    for name in _BYTES:
        plain[name] = bytes.fromhex(plain[name])
    return Params(**plain)
