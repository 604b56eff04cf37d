"""Let trainers begin the next round before the last one is settled, and be wrong about it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from deploy.devnet import running_anvil
from deploy.show import verify_model
from ipfs import Cid
from ipfs.reader import reader
from marketplace.history import fetch_update
from tests.market import AGGREGATOR, Stage, Town
from trainer.privacy import Privacy, spent


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def heard(stage: Stage) -> list[tuple[int, str, int]]:
    """Return what trainers will say: trainer, stage, round."""
    said: list[tuple[int, str, int]] = []
    for k, trainer in enumerate(stage.trainers):
        trainer._notify = lambda what, number, _text, k=k: said.append((k, what, number))
    return said


def updates(stage: Stage, round_number: int) -> list[Any]:
    view = stage.view
    view.refresh()
    read = reader(stage.town.store)
    found = {
        reveal.trainer: fetch_update(read, reveal, view.params.dimension).values.tolist()
        for reveal in view.history.round(round_number).reveals
    }
    return [found[trainer.signer.address] for trainer in stage.trainers]


def step_all(stage: Stage) -> int:
    return sum(trainer.step() for trainer in stage.trainers)


def test_next_round_is_trained_before_this_one_is_settled_and_used_after(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=3)
    said = heard(stage)
    stage.play_until_revealed()
    assert step_all(stage) == 3
    assert [entry for entry in said if entry[1:] == ("training", 2)] == [
        (k, "training", 2) for k in range(3)
    ]
    assert step_all(stage) == 0, "once is enough"
    assert stage.view.state.settled_rounds == 0
    assert not any(entry[1:] == ("published", 2) for entry in said), "it is not shown early"
    assert stage.aggregator.step()
    assert step_all(stage) == 3
    stage.view.refresh()
    assert len(stage.view.round.committed) == 3
    assert sum(entry[1:] == ("training", 2) for entry in said) == 3
    stage.play(lambda view: view.ended)
    assert not any(what == "discarded" for _, what, _ in said)
    assert not any(number == 4 for _, _, number in said), "nothing follows the last round"
    assert verify_model(stage.view, town.store, town.srs).good


def test_training_ahead_gives_the_same_updates_as_training_after(town: Town) -> None:
    behaviours = ["honest", "honest", "honest", "free-ride", "replay"]
    ahead, after = (town.open(behaviours, rounds=3) for _ in range(2))
    for trainer in after.trainers:
        trainer._ahead = False
    for stage in (ahead, after):
        stage.play(lambda view: view.ended)
    for round_number in (1, 2, 3):
        assert updates(ahead, round_number) == updates(after, round_number)


def test_what_was_trained_from_another_model_is_discarded(town: Town) -> None:
    # Everybody can read the update of trainer 2 but the aggregator, which leaves it out: the model
    # that is settled is not the expected one.
    behaviours = ["honest", "honest", "honest", "free-ride", "replay"]
    ahead, after = (town.open(behaviours, min_updates=2) for _ in range(2))
    for trainer in after.trainers:
        trainer._ahead = False
    said = heard(ahead)
    for stage in (ahead, after):
        stage.play_until_revealed()
        step_all(stage)
        blind(stage, 2)
        assert stage.aggregator.step()
        stage.aggregator._read = reader(town.store)
        stage.play(lambda view: view.ended)
    assert sum(what == "discarded" for _, what, _ in said) == 5
    assert sum(entry[1:] == ("training", 2) for entry in said) == 10
    assert updates(ahead, 2) == updates(after, 2)
    assert verify_model(ahead.view, town.store, town.srs).good


def blind(stage: Stage, which: int) -> None:
    """Keep the aggregator from reading an update."""
    lost, read = stage.trainers[which]._journal.get(1), reader(stage.town.store)
    assert lost is not None
    service = stage.service(AGGREGATOR, grace_s=0.0)

    def reads(digest: bytes, name: str, max_bytes: int) -> bytes:
        if digest == lost.reveal.cid:
            return b"not an update"
        return read(digest, name, max_bytes)

    service._read = reads
    stage.aggregator = service


def test_what_the_chain_forgot_and_settled_otherwise_is_trained_anew(town: Town) -> None:
    privacy = Privacy(noise=2.0, delta=1e-4)
    stage = town.open(["honest"] * 3, privacy, min_updates=2)
    for trainer in stage.trainers:
        trainer.dataset = trainer.dataset.subset(np.arange(48))
    stage.play_until_revealed()
    before = town.chain.request("evm_snapshot", [])
    stage.play(lambda view: view.state.round == 2 and len(view.round.committed) == 3)
    forgotten = [trainer._journal.get(2) for trainer in stage.trainers]
    assert town.chain.request("evm_revert", [before])
    for actor in (*stage.trainers, stage.aggregator):
        actor.signer.forget_nonce()
    said: list[str] = []
    stage.trainers[0]._notify = lambda what, number, text: said.append(f"{what} {number} {text}")
    blind(stage, 2)
    assert stage.aggregator.step()
    stage.aggregator._read = reader(town.store)
    stage.play(lambda view: view.ended)
    cids = {entry.reveal.cid for entry in forgotten if entry is not None}
    assert len(cids) == 3 == len(stage.view.history.round(2).reveals)
    assert cids.isdisjoint(reveal.cid for reveal in stage.view.history.round(2).reveals)
    # Both updates of round 2 were published: three in all.
    samples, training = len(stage.trainers[0].dataset), stage.trainers[0].description.training
    thrice = spent(privacy, samples, training, 3)
    assert any(line.startswith(f"privacy 2 ε = {thrice:.3f} spent") for line in said)
    assert verify_model(stage.view, town.store, town.srs).good


def test_a_node_that_lags_behind_stops_no_trainer(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=1)
    first = stage.trainers[0]
    step, refresh = first.step, first.view.refresh

    def step_and_look_back() -> bool:
        acted = step()
        first.view.refresh = lambda: False
        assert not (acted and step()), "it is done already"
        first.view.refresh = refresh
        return acted

    first.step = step_and_look_back
    stage.play(lambda view: view.ended)
    (found,) = stage.view.history.settled
    assert len(found.reveals) == 3


def test_a_failed_round_is_begun_anew_from_the_old_model(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    said = heard(stage)
    stage.play_until_revealed()
    assert step_all(stage) == 3
    stage.view.refresh()
    town.wait(stage.view.state.settle_end - stage.view.block.timestamp + 1)
    assert stage.aggregator.step()
    assert stage.view.state.settled_rounds == 0
    stage.play(lambda view: view.state.settled_rounds == 1)
    assert sum(what == "discarded" for _, what, _ in said) == 3
    assert stage.view.history.settled[0].number == 2
    assert verify_model(stage.view, town.store, town.srs).good


def test_missing_content_stops_nobody(town: Town) -> None:
    stage = town.open(["honest"] * 3, min_updates=2)
    said = heard(stage)
    stage.play_until_revealed()
    lost = Cid.from_digest(stage.view.round.reveals[0].cid)
    for name, cid in town.store.pins():
        if cid == lost:
            town.store.unpin(cid, name)
    town.store.gc()
    assert step_all(stage) == 0
    assert not any(number == 2 for _, _, number in said)
    stage.aggregator = stage.service(AGGREGATOR, grace_s=0.0)
    stage.aggregator._read = reader(town.store)
    stage.play(lambda view: view.ended)
    assert sum(entry[1:] == ("training", 2) for entry in said) == 3


def test_the_expected_model_is_taken_only_if_the_chain_implies_it(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=3)
    stage.play_until_revealed()
    view, read = stage.view, reader(town.store)
    view.model(read, town.srs)
    expected = view.expected_model(read, town.srs)
    assert expected is not None
    assert stage.aggregator.step()
    view.refresh()

    def nothing(_digest: bytes, _name: str, _max_bytes: int) -> bytes:
        raise AssertionError("the file is not needed")

    assert view.model(nothing, town.srs) is expected
    stage.play(lambda seen: seen.state.settled_rounds == 2)
    assert view.expected_model(read, town.srs) is None, "nothing is revealed in round 3"
    assert not np.array_equal(view.model(read, town.srs).values, expected.values)
