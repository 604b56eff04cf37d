"""Keep a project's accounts from its events alone, by the contract's rules.

Pure: the same events give the same accounts. Each event that states an amount is checked against
what the rules make of all that came before it, so that a contract that pays otherwise is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from marketplace.interface import Event
from marketplace.payout import Standing, decode_records, pay
from marketplace.scoring import Scores
from marketplace.types import Membership, Params, Status

__all__ = ["Entry", "Ledger"]

_Expect = Callable[[str, int, int], int]


@dataclass
class Entry:
    """Hold what an address has in a project, in the token's smallest unit."""

    stake: int = 0
    credit: int = 0
    strikes: int = 0
    membership: Membership = Membership.NONE


class Ledger:
    """Add up events in their order; `add` returns what in an event is not as the rules have it."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.sponsor = ""
        self.status = Status.NONE
        self.escrow = 0
        self.bond = 0
        self.settled_rounds = 0
        self.entries: dict[str, Entry] = {}
        self._dropped: dict[str, str] = {}

    def entry(self, address: str) -> Entry:
        """Return an address's entry, empty if it has done nothing yet."""
        return self.entries.setdefault(address, Entry())

    def add(
        self, event: Event, trainers: Sequence[str] = (), scores: Scores | None = None
    ) -> list[str]:
        """Take in the next event.

        For "Settled" and "RoundFailed", `trainers` are those who revealed in that round, in order;
        for "Settled", `scores` are those of the included updates by the project's rule, None where
        it is not known here and the records have to be believed.
        """
        values, params = event.values, self.params
        wrong: list[str] = []

        def expect(what: str, said: int, right: int) -> int:
            if said != right:
                wrong.append(f"{what} is {said}, but should be {right}")
            return said

        match event.name:
            case "ProjectOpened":
                self.sponsor, self.status = values["sponsor"], Status.BONDING
                self.escrow = params.escrow
            case "Bonded":
                self.status = Status.RUNNING
                self.bond = expect("the bond", values["amount"], params.bond)
            case "Joined":
                entry = self.entry(values["trainer"])
                entry.stake, entry.membership = params.stake, Membership.ACTIVE
            case "Deactivated":
                self.entry(values["trainer"]).membership = Membership.INACTIVE
                self._dropped[values["trainer"]] = event.transaction
            case "LeaveRequested":
                self.entry(values["trainer"]).membership = Membership.LEAVING
            case "Left":
                entry = self.entry(values["trainer"])
                expect("the stake given back", values["stake"], entry.stake)
                entry.credit += entry.stake
                entry.stake, entry.membership = 0, Membership.NONE
            case "Settled":
                wrong += self._settle(event, trainers, scores)
            case "RoundFailed":
                self._fail(event, trainers, expect)
            case "ProjectEnded":
                self.status = Status(values["status"])
                self.entry(params.aggregator).credit += self.bond
                self.bond = 0
            case "ProjectClosed":
                expect("the refund", values["refund"], self.escrow)
                self.entry(self.sponsor).credit += self.escrow
                self.escrow, self.status = 0, Status.CLOSED
            case "Withdrawn":
                entry = self.entry(values["account"])
                expect("what was withdrawn", values["amount"], entry.credit)
                entry.credit -= values["amount"]
        return wrong

    def _settle(self, event: Event, trainers: Sequence[str], scores: Scores | None) -> list[str]:
        params, values = self.params, event.values
        records = decode_records(values["records"])
        if len(records) != len(trainers):
            return [f"{len(records)} records for {len(trainers)} reveals"]
        standings = []
        for trainer, record in zip(trainers, records, strict=True):
            entry = self.entry(trainer)
            # The contract says first whom a settlement made inactive, in the same transaction.
            here = self._dropped.get(trainer) == event.transaction and record.deactivated
            active = entry.membership == Membership.ACTIVE or here
            standings.append(Standing(entry.stake, entry.strikes, active))
        wrong = []
        if scores is not None:
            reasons = bytes(record.reason for record in records)
            root = params.root_row(trainers)
            right, _ = pay(standings, reasons, scores, params.stake, params.slash_schedule, root)
            for trainer, said, should in zip(trainers, records, right, strict=True):
                if said != should:
                    wrong.append(f"the record of {trainer} is {said}, but should be {should}")
        paid = sum(record.share for record in records)
        slashed = sum(record.slashed for record in records)
        if paid > params.reward:
            wrong.append(f"{paid} units were paid out of a pot of {params.reward}")
        for trainer, record in zip(trainers, records, strict=True):
            entry = self.entry(trainer)
            entry.credit += record.share
            entry.stake -= record.slashed
            entry.strikes = record.strikes
        self.entry(values["settler"]).credit += params.fee
        self.entry(params.slash_sink).credit += slashed
        self.escrow -= paid + params.fee
        self.settled_rounds += 1
        return wrong

    def _fail(self, event: Event, trainers: Sequence[str], expect: _Expect) -> None:
        lost, exclusions = event.values["bondLost"], event.values["exclusions"]
        enough = len(trainers) >= self.params.min_updates
        penalty = min(self.params.bond_penalty, self.bond) if enough else 0
        if exclusions:
            expect("the penalty for shutting out too many", lost, penalty)
            self.entry(self.params.slash_sink).credit += lost
        else:
            each = penalty // len(trainers) if enough else 0
            expect("the penalty for silence", lost, each * len(trainers))
            for trainer in trainers:
                self.entry(trainer).credit += each
        self.bond -= lost
