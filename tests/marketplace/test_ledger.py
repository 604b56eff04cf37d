"""Keep accounts by hand and compare; amounts here are worked out in the comments."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.interface import Event
from marketplace.ledger import Ledger
from marketplace.payout import Record, encode_records
from marketplace.scoring import Scores
from marketplace.types import NOBODY, Membership, Params, Status

ADA, BOB, EVE = "0xAda", "0xBob", "0xEve"
SPONSOR, AGGREGATOR, SINK = "0xSponsor", "0xAggregator", "0xSink"

PARAMS = Params(
    token="0xToken",
    aggregator=AGGREGATOR,
    rule="0xRule",
    verifier="0xVerifier",
    slash_sink=SINK,
    rounds=3,
    capacity=3,
    min_updates=2,
    patience=1,
    max_failures=2,
    step_bits=14,
    dimension=4,
    epsilon_milli=0,
    clip_norm=100,
    root=NOBODY,
    reward=100,
    fee=7,
    stake=50,
    bond=40,
    bond_penalty=25,
    join_window=1,
    commit_window=1,
    reveal_window=1,
    settle_window=1,
    exclusive_window=1,
    unbonding_delay=3,
    rule_params=bytes(32),
    # 20 % of the stake for the first strike, all of it from the second
    slash_bps=(2000).to_bytes(2, "big") + (10_000).to_bytes(2, "big") * 15,
    description_cid=bytes(32),
    initial_commitment=bytes(96),
)


def event(name: str, transaction: str = "0x1", **values: Any) -> Event:
    return Event(name, values, 1, transaction, 0)


def settled(records: list[Record], transaction: str = "0x1") -> Event:
    return event("Settled", transaction, settler=BOB, records=encode_records(records), round=1)


@pytest.fixture
def ledger() -> Ledger:
    """Return the ledger of a project with a bond and three trainers: 3·107 in escrow."""
    found = Ledger(PARAMS)
    wrong = [
        *found.add(event("ProjectOpened", sponsor=SPONSOR)),
        *found.add(event("Bonded", amount=40)),
        *(text for who in (ADA, BOB, EVE) for text in found.add(event("Joined", trainer=who))),
    ]
    assert wrong == []
    assert (found.escrow, found.bond, found.status) == (321, 40, Status.RUNNING)
    return found


SCORES = Scores((40_000, 25_536, 0), (61, 38, 0), (False, False, True))
RECORDS = [
    Record(61, 0, 40_000, 0, 0, False, False),
    Record(38, 0, 25_536, 0, 0, False, False),
    Record(0, 10, 0, 1, 0, True, False),
]


def test_settlement_moves_shares_fee_and_slash(ledger: Ledger) -> None:
    assert ledger.add(settled(RECORDS), [ADA, BOB, EVE], SCORES) == []
    # of the pot of 100, 99 are shares and 1 is dust that stays in escrow: 321 - 99 - 7 = 215
    assert ledger.escrow == 215
    assert ledger.entry(ADA).credit == 61
    assert ledger.entry(BOB).credit == 38 + 7
    assert (ledger.entry(EVE).stake, ledger.entry(EVE).strikes) == (40, 1)
    assert ledger.entry(SINK).credit == 10
    assert ledger.settled_rounds == 1


@pytest.mark.parametrize(
    ("place", "record"),
    [
        (0, Record(62, 0, 40_000, 0, 0, False, False)),
        (0, Record(61, 0, 40_001, 0, 0, False, False)),
        (1, Record(38, 0, 25_536, 1, 0, False, False)),
        (2, Record(0, 11, 0, 1, 0, True, False)),
        (2, Record(0, 10, 0, 2, 0, True, False)),
        (2, Record(0, 10, 0, 1, 0, True, True)),
        (2, Record(0, 0, 0, 0, 0, False, False)),
    ],
)
def test_a_record_that_differs_from_the_rule_is_named(
    ledger: Ledger, place: int, record: Record
) -> None:
    records = list(RECORDS)
    records[place] = record
    (wrong,) = ledger.add(settled(records), [ADA, BOB, EVE], SCORES)
    assert [ADA, BOB, EVE][place] in wrong


def test_what_moves_no_money_changes_nothing(ledger: Ledger) -> None:
    before = {who: vars(entry).copy() for who, entry in ledger.entries.items()}
    assert ledger.add(event("Committed", trainer=ADA, round=1)) == []
    assert {who: vars(entry) for who, entry in ledger.entries.items()} == before


def test_a_root_set_aside_keeps_what_it_has_and_its_record_must_say_so(ledger: Ledger) -> None:
    ledger.params = replace(PARAMS, root=SPONSOR)
    trainers, scores = [ADA, SPONSOR, BOB], Scores((40_000, 0, 25_536), (61, 0, 39), (False,) * 3)
    aside = replace(scores, outliers=(False, True, False))
    first, second = (Record(s, 0, w, 0, 0, False, False) for s, w in ((61, 40_000), (39, 25_536)))
    for found, outlier in ((scores, False), (aside, True)):
        records = [first, Record(0, 0, 0, 0, 0, outlier, False), second]
        assert ledger.add(settled(records), trainers, found) == []
        records[1] = replace(records[1], outlier=not outlier)
        (wrong,) = Ledger(replace(PARAMS, root=SPONSOR)).add(settled(records), trainers, found)
        assert SPONSOR in wrong
    entry = ledger.entry(SPONSOR)
    assert (entry.stake, entry.credit, entry.strikes) == (0, 0, 0)


def test_second_strike_takes_the_rest_and_makes_inactive(ledger: Ledger) -> None:
    ledger.add(settled(RECORDS), [ADA, BOB, EVE], SCORES)
    last = [*RECORDS[:2], Record(0, 40, 0, 2, 0, True, True)]
    # the contract says who became inactive before it says that it settled
    assert ledger.add(event("Deactivated", "0x2", trainer=EVE)) == []
    assert ledger.add(settled(last, "0x2"), [ADA, BOB, EVE], SCORES) == []
    assert (ledger.entry(EVE).stake, ledger.entry(EVE).membership) == (0, Membership.INACTIVE)
    assert ledger.entry(SINK).credit == 50


def test_who_was_inactive_before_is_not_made_so_by_a_settlement(ledger: Ledger) -> None:
    ledger.add(settled(RECORDS), [ADA, BOB, EVE], SCORES)
    ledger.add(event("Deactivated", "0x2", trainer=EVE))
    last = [*RECORDS[:2], Record(0, 40, 0, 2, 0, True, True)]
    assert ledger.add(settled(last, "0x3"), [ADA, BOB, EVE], SCORES)


def test_more_than_the_pot_is_noticed_where_the_rule_is_not_known(ledger: Ledger) -> None:
    records = [Record(61, 0, 0, 0, 0, False, False), Record(40, 0, 0, 0, 0, False, False)]
    assert ledger.add(settled(records), [ADA, BOB], None) == [
        "101 units were paid out of a pot of 100"
    ]
    assert ledger.add(settled(records), [ADA], None) == ["2 records for 1 reveals"]


def test_silence_costs_the_bond_what_reveals_share(ledger: Ledger) -> None:
    # 25 among three is 8 each: 24 are lost
    assert ledger.add(event("RoundFailed", bondLost=24, exclusions=b""), [ADA, BOB, EVE]) == []
    assert ledger.bond == 16
    assert [ledger.entry(who).credit for who in (ADA, BOB, EVE)] == [8, 8, 8]
    # what is left of the bond, 16, is less than the penalty
    assert ledger.add(event("RoundFailed", bondLost=16, exclusions=b""), [ADA, BOB]) == []
    assert ledger.bond == 0
    assert ledger.add(event("RoundFailed", bondLost=1, exclusions=b""), [ADA]) == [
        "the penalty for silence is 1, but should be 0"
    ]


def test_shutting_out_too_many_pays_the_sink(ledger: Ledger) -> None:
    failed = event("RoundFailed", bondLost=25, exclusions=b"\1\1\0")
    assert ledger.add(failed, [ADA, BOB, EVE]) == []
    assert (ledger.bond, ledger.entry(SINK).credit, ledger.entry(ADA).credit) == (15, 25, 0)


def test_everybody_gets_out_what_is_theirs(ledger: Ledger) -> None:
    ledger.add(settled(RECORDS), [ADA, BOB, EVE], SCORES)
    steps = [
        event("Deactivated", trainer=EVE),
        event("LeaveRequested", trainer=EVE),
        event("ProjectEnded", status=int(Status.FINISHED)),
        event("Left", trainer=EVE, stake=40),
        event("ProjectClosed", refund=215),
        event("Withdrawn", account=EVE, amount=40),
        event("Withdrawn", account=AGGREGATOR, amount=40),
        event("Withdrawn", account=SPONSOR, amount=215),
    ]
    assert [text for step in steps for text in ledger.add(step)] == []
    assert ledger.status == Status.CLOSED
    assert (ledger.escrow, ledger.bond) == (0, 0)
    owed = sum(entry.credit + entry.stake for entry in ledger.entries.values())
    # in: 321 escrow + 40 bond + 150 stakes; out: 40 + 40 + 215
    assert owed == 321 + 40 + 150 - 295


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Bonded", {"amount": 41}),
        ("Left", {"trainer": EVE, "stake": 49}),
        ("ProjectClosed", {"refund": 320}),
        ("Withdrawn", {"account": ADA, "amount": 1}),
    ],
)
def test_amounts_that_do_not_follow_are_named(
    ledger: Ledger, name: str, values: dict[str, Any]
) -> None:
    (wrong,) = ledger.add(event(name, **values))
    assert "should be" in wrong
