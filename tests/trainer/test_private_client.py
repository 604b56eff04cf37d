"""Trainers count the privacy that they spend, and stop at the project's budget."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import pytest

from deploy.devnet import running_anvil
from ipfs.reader import reader
from marketplace.audit import audit
from marketplace.codec import Training
from marketplace.errors import ContractError, InputError
from marketplace.history import fetch_update
from marketplace.types import Exclusion
from tests.market import Town
from trainer.errors import BudgetError
from trainer.privacy import Privacy, spent

PRIVACY = Privacy(noise=2.0, delta=1e-4)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def test_a_trainer_stops_before_the_round_that_would_exceed_the_budget(town: Town) -> None:
    # Two trainers share the 1,437 training samples of the digits: the first has 719.
    once, twice = (spent(PRIVACY, 719, Training(batch_size=16), rounds) for rounds in (1, 2))
    stage = town.open(["honest", "honest"], PRIVACY, epsilon=(once + twice) / 2, rounds=3)
    said: list[str] = []
    stage.trainers[0]._notify = lambda what, _, text: said.append(f"{what}: {text}")
    with pytest.raises(BudgetError, match=f"round 2 would bring .* to ε = {twice:.3f}"):
        stage.play(lambda view: view.state.settled_rounds == 2)
    assert any(f"privacy: ε = {once:.3f} spent at δ = 0.0001" in line for line in said)
    stage.view.refresh()
    history, me = stage.view.history, stage.trainers[0].signer
    assert len(history.round(1).committed) == 2
    assert me.address not in history.round(2).committed
    # The chain and the manifest say the same, rounded up to thousandths.
    milli = ceil(1000 * once)
    assert town.chain.account(stage.project, me.address).spent_milli == milli
    assert history.round(1).spent_milli[me.address] == milli
    (reveal,) = (found for found in history.round(1).reveals if found.trainer == me.address)
    update = fetch_update(reader(town.store), reveal, stage.view.params.dimension)
    assert update.spent_milli == milli == reveal.spent_milli
    # The chain would not take what the trainer would not send.
    while stage.view.state.round < 2:
        stage.aggregator.step()
        stage.view.refresh()
    with pytest.raises(ContractError, match="BudgetExceeded"):
        me.commit(stage.project, 2, bytes(28), ceil(1000 * twice))
    with pytest.raises(ContractError, match="SpendingShrinks"):
        me.commit(stage.project, 2, bytes(28), milli - 1)


def test_all_rounds_within_the_budget_are_paid_and_audited(town: Town) -> None:
    stage = town.open(["honest", "honest"], PRIVACY, root="honest", epsilon=50.0)
    stage.play(lambda view: view.ended)
    first, second = (found.spent_milli for found in stage.view.history.settled)
    assert len(first) == len(second) == 3
    assert all(second[who] > first[who] > 0 for who in first)
    report = audit(town.chain, stage.project, reader(town.store), town.srs)
    assert not report.of("bad") and not report.of("unknown")


def test_who_says_otherwise_in_the_manifest_is_left_out(town: Town) -> None:
    stage = town.open(["honest"] * 3, PRIVACY, epsilon=50.0, rounds=1, min_updates=2)
    liar = stage.trainers[2]
    honestly = liar._publish
    liar._publish = lambda number, update: honestly(number, replace(update, spent_milli=7))
    stage.play(lambda view: view.ended)
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    reasons = {
        reveal.trainer: record.reason
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True)
    }
    assert reasons.pop(liar.signer.address) == Exclusion.MALFORMED
    assert set(reasons.values()) == {0}
    report = audit(town.chain, stage.project, reader(town.store), town.srs)
    assert not report.of("bad")


def test_a_budget_below_a_thousandth_is_refused(town: Town) -> None:
    with pytest.raises(InputError, match="less than 0.001"):
        town.open(["honest"], PRIVACY, epsilon=0.0009)


def test_without_noise_nobody_trains_for_a_project_with_a_budget(town: Town) -> None:
    with pytest.raises(InputError, match="ε = 1.5 in this project: train with noise"):
        town.open(["honest"], epsilon=1.5)
