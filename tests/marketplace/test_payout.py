"""Pay and slash as the contract's text says, and read the words that it writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.errors import CodecError
from marketplace.payout import Record, Standing, decode_records, encode_records, pay
from marketplace.scoring import Scores

SCHEDULE = (1000, 2500, 5000) + (10_000,) * 13

records = st.builds(
    Record,
    share=st.integers(0, 2**96 - 1),
    slashed=st.integers(0, 2**96 - 1),
    weight=st.integers(0, 2**32 - 1),
    strikes=st.integers(0, 255),
    reason=st.integers(0, 255),
    outlier=st.booleans(),
    deactivated=st.booleans(),
)


def word_of(record):
    """Put a record together as `IMarketplace.Settled` describes it, from the lowest bit."""
    return (
        record.share
        | record.slashed << 96
        | record.weight << 192
        | record.strikes << 224
        | record.reason << 232
        | record.outlier << 240
        | record.deactivated << 248
    )


@given(st.lists(records, max_size=5))
def test_records_are_the_words_of_the_event(found):
    words = b"".join(word_of(record).to_bytes(32) for record in found)
    assert encode_records(found) == words
    assert decode_records(words) == found


@pytest.mark.parametrize("size", [1, 31, 33])
def test_records_cut_short_are_refused(size):
    with pytest.raises(CodecError, match=f"{size} bytes of records"):
        decode_records(bytes(size))


def test_a_round_settled_by_hand():
    standings = [
        Standing(1000, 0, True),
        Standing(1000, 2, True),
        Standing(400, 1, True),
        Standing(1000, 0, True),
    ]
    # The third reveal is excluded; the others score weight, share, outlier.
    scores = Scores((40_000, 25_536, 0), (60, 40, 0), (False, False, True))
    found, after = pay(standings, bytes([0, 0, 2, 0]), scores, 1000, SCHEDULE)
    assert found == [
        Record(60, 0, 40_000, 0, 0, False, False),
        Record(40, 0, 25_536, 1, 0, False, False),
        Record(0, 0, 0, 1, 2, False, False),
        Record(0, 100, 0, 1, 0, True, False),
    ]
    assert after == [
        Standing(1000, 0, True),
        Standing(1000, 1, True),
        Standing(400, 1, True),
        Standing(900, 1, True),
    ]


def outlier(standing, stake=1000, schedule=SCHEDULE):
    found, after = pay([standing], b"", Scores((0,), (0,), (True,)), stake, schedule)
    return found[0], after[0]


def test_strikes_in_a_row_cost_what_the_schedule_says_until_nothing_is_left():
    standing, lost = Standing(1000, 0, True), []
    for _ in range(4):
        record, standing = outlier(standing)
        lost.append(record.slashed)
    # 10, 25 and 50 per cent of the stake, then all that is left of 150.
    assert lost == [100, 250, 500, 150]
    assert record.deactivated
    assert standing == Standing(0, 4, False)


def test_a_stake_never_goes_below_zero_and_only_active_trainers_are_deactivated():
    record, standing = outlier(Standing(7, 9, False))
    assert (record.slashed, record.deactivated) == (7, False)
    assert standing == Standing(0, 10, False)


def test_the_last_entry_of_the_schedule_holds_for_all_later_strikes():
    schedule = tuple(range(16))
    assert outlier(Standing(10_000, 14, True), 10_000, schedule)[0].slashed == 14
    assert outlier(Standing(10_000, 15, True), 10_000, schedule)[0].slashed == 15
    assert outlier(Standing(10_000, 200, True), 10_000, schedule)[0].slashed == 15


def test_strikes_stop_at_the_largest_byte():
    record, _ = outlier(Standing(1000, 255, True))
    assert record.strikes == 255


@pytest.mark.parametrize("aside", [False, True])
def test_the_root_is_neither_paid_nor_slashed(aside):
    # A rule cannot set anybody's share and outlier's bit at once, but the root's bit costs nothing.
    scores = Scores((65_536, 0), (5, 0), (False, aside))
    found, after = pay([Standing(10, 3, True), Standing(0, 0, False)], b"", scores, 10, SCHEDULE, 1)
    assert found[1] == Record(0, 0, 0, 0, 0, aside, False)
    assert after == [Standing(10, 2, True), Standing(0, 0, False)]


def test_a_good_round_takes_a_strike_back_but_no_more_than_there_are():
    scores = Scores((65_536,), (5,), (False,))
    for strikes, left in ((0, 0), (1, 0), (4, 3)):
        found, _ = pay([Standing(10, strikes, True)], b"", scores, 10, SCHEDULE)
        assert found[0].strikes == left


@given(
    standings=st.lists(
        st.builds(Standing, st.integers(0, 1000), st.integers(0, 255), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_no_unit_appears_or_vanishes(standings, data):
    reasons = bytes(data.draw(st.integers(0, 6)) for _ in standings)
    rows = [
        (0, 0, True) if data.draw(st.booleans()) else (1, data.draw(st.integers(0, 99)), False)
        for reason in reasons
        if not reason
    ]
    scores = Scores(*(tuple(column) for column in zip(*rows, strict=True))) if rows else None
    found, after = pay(standings, reasons, scores or Scores((), (), ()), 1000, SCHEDULE)
    for record, before, later, reason in zip(found, standings, after, reasons, strict=True):
        assert later.stake == before.stake - record.slashed >= 0
        assert record.reason == reason
        if reason:
            assert later == before
    assert sum(record.share for record in found) == sum(row[1] for row in rows)
