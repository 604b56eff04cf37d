"""Pay and slash as `Marketplace.settle` does, and read the records that it leaves in its event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from marketplace.errors import CodecError
from marketplace.scoring import Scores

__all__ = ["RECORD", "Record", "Standing", "decode_records", "encode_records", "pay"]

RECORD = np.dtype(
    [
        ("deactivated", "u1"),
        ("outlier", "u1"),
        ("reason", "u1"),
        ("strikes", "u1"),
        ("weight", ">u4"),
        ("slashed_high", ">u4"),
        ("slashed_low", ">u8"),
        ("share_high", ">u4"),
        ("share_low", ">u8"),
    ]
)
"""A record's word of 32 bytes, from its highest byte: numpy reads any number of them at once."""

MAX_STRIKES = 255


@dataclass(frozen=True)
class Record:
    """Say what a round brought a trainer; amounts in the token's smallest unit, weight of 2^16.

    For the root trainer `outlier` says that the rule set the root aside.
    """

    share: int
    slashed: int
    weight: int
    strikes: int
    reason: int
    outlier: bool
    deactivated: bool


@dataclass(frozen=True)
class Standing:
    """Say how a trainer stands before a round, or after it."""

    stake: int
    strikes: int
    active: bool


def encode_records(records: Sequence[Record]) -> bytes:
    """Write records as the event carries them."""
    words = np.zeros(len(records), dtype=RECORD)
    for word, record in zip(words, records, strict=True):
        word["deactivated"], word["outlier"] = record.deactivated, record.outlier
        word["reason"], word["strikes"] = record.reason, record.strikes
        word["weight"] = record.weight
        word["slashed_high"], word["slashed_low"] = divmod(record.slashed, 1 << 64)
        word["share_high"], word["share_low"] = divmod(record.share, 1 << 64)
    return words.tobytes()


def decode_records(data: bytes) -> list[Record]:
    """Read the records of a `Settled` event; CodecError for anything else."""
    if len(data) % RECORD.itemsize:
        raise CodecError(f"{len(data)} bytes of records; a record has {RECORD.itemsize}")
    words = np.frombuffer(data, dtype=RECORD)
    columns = {name: words[name].tolist() for name in RECORD.names or ()}
    return [
        Record(
            share=(columns["share_high"][i] << 64) + columns["share_low"][i],
            slashed=(columns["slashed_high"][i] << 64) + columns["slashed_low"][i],
            weight=columns["weight"][i],
            strikes=columns["strikes"][i],
            reason=columns["reason"][i],
            outlier=columns["outlier"][i] != 0,
            deactivated=columns["deactivated"][i] != 0,
        )
        for i in range(len(words))
    ]


def pay(
    standings: Sequence[Standing],
    exclusions: bytes,
    scores: Scores,
    stake: int,
    slash_schedule: Sequence[int],
    root: int | None = None,
) -> tuple[list[Record], list[Standing]]:
    """Return each reveal's record, and how its trainer stands afterwards.

    `exclusions` has a reason for each of the n reveals, or is empty; `scores` are those of the
    included ones in their order; `slash_schedule` has 16 basis points of `stake`, one a strike;
    `root` is the root trainer's place among the reveals, which is set aside, but never slashed.
    """
    reasons = exclusions or bytes(len(standings))
    scored = iter(zip(*astuple(scores), strict=True))
    records, after = [], []
    for i, (standing, reason) in enumerate(zip(standings, reasons, strict=True)):
        if reason:
            records.append(Record(0, 0, 0, standing.strikes, reason, False, False))
            after.append(standing)
            continue
        weight, share, outlier = next(scored)
        if i == root:
            records.append(Record(0, 0, 0, standing.strikes, 0, outlier, False))
            after.append(standing)
        elif outlier:
            strikes = min(standing.strikes + 1, MAX_STRIKES)
            loss = min(standing.stake, stake * slash_schedule[min(strikes, 16) - 1] // 10_000)
            left = standing.stake - loss
            gone = standing.active and left == 0
            records.append(Record(0, loss, 0, strikes, 0, True, gone))
            after.append(Standing(left, strikes, standing.active and not gone))
        else:
            strikes = max(0, standing.strikes - 1)
            records.append(Record(share, 0, weight, strikes, 0, False, False))
            after.append(Standing(standing.stake, strikes, standing.active))
    return records, after
