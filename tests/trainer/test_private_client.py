"""Trainers count the privacy that they spend, and stop at the project's budget."""

from collections.abc import Iterator

import pytest

from deploy.devnet import running_anvil
from marketplace.codec import Training
from marketplace.errors import InputError
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
    assert len(stage.view.history.round(1).committed) == 2
    assert stage.trainers[0].signer.address not in stage.view.history.round(2).committed


def test_without_noise_nobody_trains_for_a_project_with_a_budget(town: Town) -> None:
    with pytest.raises(InputError, match="ε = 1.5 in this project: train with noise"):
        town.open(["honest"], epsilon=1.5)
