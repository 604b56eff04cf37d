"""Hold what the marketplace contract holds, under the same names.

Fields stand in the order of the structs in `contracts/IMarketplace.sol`, so that a value converts
to and from the ABI's tuples without a table of names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

from marketplace.errors import InputError, NotFoundError, unusable_path

__all__ = [
    "Account",
    "Deployment",
    "Exclusion",
    "NOBODY",
    "Membership",
    "Params",
    "Reveal",
    "State",
    "Status",
]

POINT_BYTES = 96

NOBODY = "0x" + 40 * "0"
"""The address that stands for none."""


class Status(IntEnum):
    """Say what phase of its life a project is in."""

    NONE = 0
    BONDING = 1
    RUNNING = 2
    FINISHED = 3
    HALTED = 4
    CLOSED = 5


class Membership(IntEnum):
    """Say whether an account takes part in a project."""

    NONE = 0
    ACTIVE = 1
    LEAVING = 2
    INACTIVE = 3


class Exclusion(IntEnum):
    """Say why the aggregator left an update out; 0 is an update that counts."""

    NONE = 0
    UNAVAILABLE = 1
    MALFORMED = 2
    MISMATCH = 3
    BAD_POINT = 4
    DUPLICATE = 5
    OUT_OF_RANGE = 6

    @staticmethod
    def word(reason: int) -> str:
        """Return a reason's name, also of one that an aggregator made up; empty for 0."""
        if not reason:
            return ""
        known = reason in Exclusion._value2member_map_
        return Exclusion(reason).name.lower().replace("_", " ") if known else f"reason {reason}"


@dataclass(frozen=True)
class Params:
    """State the terms of a project; see `IMarketplace.Params`.

    Amounts are in the token's smallest unit, times in seconds; `root` is `NOBODY` where there is no
    root trainer.
    """

    token: str
    bond_penalty: int
    aggregator: str
    bond: int
    rule: str
    reward: int
    verifier: str
    fee: int
    slash_sink: str
    rounds: int
    capacity: int
    min_updates: int
    patience: int
    max_failures: int
    step_bits: int
    stake: int
    join_window: int
    commit_window: int
    reveal_window: int
    settle_window: int
    exclusive_window: int
    unbonding_delay: int
    dimension: int
    epsilon_milli: int
    clip_norm: int
    root: str
    rule_params: bytes
    slash_bps: bytes
    description_cid: bytes
    initial_commitment: bytes

    def abi(self) -> tuple[Any, ...]:
        """Return the struct as the ABI takes it."""
        *plain, point = astuple(self)
        return (*plain, [point[i : i + 32] for i in range(0, POINT_BYTES, 32)])

    @classmethod
    def of(cls, values: Sequence[Any]) -> Params:
        """Return the terms in an ABI tuple."""
        return cls(*[*values[:-1], b"".join(values[-1])])

    @property
    def root_trainer(self) -> str | None:
        """Return the root trainer's address, None where the project has none."""
        return None if self.root == NOBODY else self.root

    def root_row(self, trainers: Sequence[str]) -> int | None:
        """Return the root trainer's place among `trainers`, None where it is not one of them."""
        root = self.root_trainer
        return None if root is None or root not in trainers else list(trainers).index(root)

    @property
    def escrow(self) -> int:
        """Return what opening the project costs."""
        return self.rounds * (self.reward + self.fee)

    @property
    def slash_schedule(self) -> tuple[int, ...]:
        """Return the basis points of the stake that each strike costs, 16 of them."""
        return tuple(int.from_bytes(self.slash_bps[i : i + 2]) for i in range(0, 32, 2))


@dataclass(frozen=True)
class State:
    """Say where a project stands; see `IMarketplace.State`."""

    status: Status
    round: int
    settled_rounds: int
    failures: int
    opens_at: int
    commit_end: int
    reveal_end: int
    settle_end: int
    active: int
    commits: int
    reveals: int
    reveal_hash: bytes
    sponsor: str
    escrow: int
    bond: int

    @classmethod
    def of(cls, values: Sequence[Any]) -> State:
        """Return the state in an ABI tuple."""
        status, *rest = values
        return cls(Status(status), *rest)


@dataclass(frozen=True)
class Account:
    """Say what an address has in a project; see `IMarketplace.Account`."""

    stake: int
    credit: int
    strikes: int
    membership: Membership
    index: int
    last_commit: int
    revealed: bool
    exit_at: int
    spent_milli: int

    @classmethod
    def of(cls, values: Sequence[Any]) -> Account:
        """Return the account in an ABI tuple."""
        stake, credit, strikes, membership, *rest = values
        return cls(stake, credit, strikes, Membership(membership), *rest)


@dataclass(frozen=True)
class Reveal:
    """Hold what a trainer revealed: its commitment, 96 bytes, and its update's digest, 32.

    `spent_milli` is the privacy that it said with its commit to have spent, in thousandths of ε; 0
    in a project without a budget.
    """

    trainer: str
    point: bytes
    cid: bytes
    spent_milli: int = 0


@dataclass(frozen=True)
class Deployment:
    """Say where a marketplace and its policies are deployed; kept in the home's file."""

    chain_id: int
    rpc: str
    block: int
    marketplace: str
    token: str
    rules: Mapping[str, str] = field(default_factory=dict)
    verifiers: Mapping[str, str] = field(default_factory=dict)
    srs: str = "srs.bin"

    @staticmethod
    def file(home: Path) -> Path:
        """Return the file that `tribute deploy` writes."""
        return home / "deployment.json"

    @classmethod
    def load(cls, home: Path) -> Deployment:
        """Read the home's deployment; NotFoundError where there is none."""
        file = cls.file(home)
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError:
            raise NotFoundError(
                f"{home} holds no deployment; run `tribute deploy`, or name another folder "
                "with --home"
            ) from None
        except OSError as error:
            raise unusable_path(error, "another folder with --home") from error
        except ValueError as error:
            raise InputError(
                f"{file} is no deployment ({error}); run `tribute deploy`, or name another folder "
                "with --home"
            ) from error
        known = {entry.name for entry in fields(cls)}
        if not isinstance(found, dict) or set(found) != known:
            raise InputError(f"{file} is no deployment; its fields are {', '.join(sorted(known))}")
        return cls(**found)

    def save(self, home: Path) -> None:
        """Write the home's deployment."""
        home.mkdir(parents=True, exist_ok=True)
        new = self.file(home).with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=2) + "\n")
        new.replace(self.file(home))

    def srs_path(self, home: Path) -> Path:
        """Return the file of the reference string."""
        return home / self.srs

    def rule_name(self, address: str) -> str:
        """Return the name of a scoring rule's address."""
        return _name_of(self.rules, address, "rule")

    def verifier_name(self, address: str) -> str:
        """Return the name of a verifier's address."""
        return _name_of(self.verifiers, address, "verifier")


def _name_of(addresses: Mapping[str, str], address: str, kind: str) -> str:
    for name, known in addresses.items():
        if known.lower() == address.lower():
            return name
    raise NotFoundError(
        f"the project's {kind} {address} is none of those this deployment knows: "
        f"{', '.join(addresses.values()) or 'none'}"
    )
