"""Marketplace.sol and its mirror in Python pay, slash and record alike, over whole projects."""

import numpy as np
import pytest

from marketplace.payout import Standing, decode_records, pay
from marketplace.scoring import RULES, MultiKrumParams
from marketplace.types import Membership
from tests.contracts.local_market import AGGREGATOR, SINK, Evm, Market, actor


@pytest.mark.parametrize("seed", range(30))
def test_whole_projects_are_paid_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crowd = [actor(f"trainer {k}") for k in range(int(rng.integers(4, 10)))]
    schedule = sorted(int(bps) for bps in rng.choice([0, 500, 2500, 5000, 10_000], 16))
    stake = int(rng.integers(0, 2**63)) << int(rng.integers(0, 25))
    root = actor("root") if seed % 2 else None
    market = Market(
        Evm(),
        crowd,
        root=root,
        rounds=6,
        stake=stake,
        reward=int(rng.integers(0, 2**62)),
        fee=int(rng.integers(0, 3)),
        slash_bps=b"".join(bps.to_bytes(2) for bps in schedule),
        rule_params=MultiKrumParams(5000, 10_000).pack(),
    )
    terms = market.params
    standing = {trainer.address: Standing(stake, 0, True) for trainer in crowd}
    if root is not None:
        standing[root.address] = Standing(0, 0, False)
    credit = dict.fromkeys([*standing, SINK.address, AGGREGATOR.address], 0)
    escrow = terms.escrow
    for number in range(1, 7):
        names = [trainer.address for trainer in market.trainers]
        if len(names) < 3:
            break
        root_at = int(rng.integers(0, len(names) + 1))
        if root is not None:
            names.insert(root_at, root.address)
        n = len(names)
        excluded = rng.random(n) < 0.15
        if (~excluded).sum() < terms.min_updates:
            excluded[:] = False
        exclusions = bytes(int(rng.integers(1, 256)) if out else 0 for out in excluded)
        if not excluded.any() and rng.random() < 0.5:
            exclusions = b""
        leaving = [k for k in range(len(market.trainers)) if rng.random() < 0.05]
        gone = {market.trainers[k].address for k in leaving}
        rows = rng.normal(0, 100, (int((~excluded).sum()), 30)) + rng.normal(0, 100, 30)
        rows[: len(rows) // 2] *= rng.choice([-3, 0, 1])
        whole = rows.astype(np.int64)
        played = market.play(whole @ whole.T, exclusions, leaving=leaving, root_at=root_at)

        row = None
        if root is not None and not excluded[root_at]:
            row = int((~excluded[:root_at]).sum())
        rule = RULES["MultiKrumShapley"]
        scores = rule(terms.rule_params, whole @ whole.T, terms.reward, row)
        before = [
            Standing(
                standing[name].stake,
                standing[name].strikes,
                standing[name].active and name not in gone,
            )
            for name in names
        ]
        records, after = pay(
            before,
            exclusions,
            scores,
            stake,
            terms.slash_schedule,
            None if root is None else root_at,
        )
        assert decode_records(played.records) == records
        for name, record, stands in zip(names, records, after, strict=True):
            standing[name] = stands
            credit[name] += record.share
            account = market.account(name)
            assert (account.stake, account.strikes) == (stands.stake, stands.strikes)
            assert account.credit == credit[name]
            assert (account.membership == Membership.ACTIVE) == stands.active
        credit[SINK.address] += sum(record.slashed for record in records)
        credit[AGGREGATOR.address] += terms.fee
        escrow -= sum(record.share for record in records) + terms.fee
        state = market.state
        assert (state.escrow, state.settled_rounds) == (escrow, number)
        assert market.account(SINK.address).credit == credit[SINK.address]
        ended = terms.bond if number == 6 else 0
        assert market.account(AGGREGATOR.address).credit == credit[AGGREGATOR.address] + ended
        held = market.token(SINK.address, "balanceOf", market.market.address)
        stakes = sum(market.account(trainer.address).stake for trainer in crowd)
        credits = sum(market.account(name).credit for name in credit)
        assert held == escrow + state.bond + stakes + credits
        market.trainers = [t for t in market.trainers if standing[t.address].active]
