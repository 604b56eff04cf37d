"""Run markets whose updates only some can read, and look at them as everybody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from deploy.cli import app
from deploy.devnet import running_anvil
from deploy.show import root_word, verify_model
from ipfs.reader import reader
from marketplace.codec import Description, Training, Update
from marketplace.errors import CodecError, SealedError
from marketplace.history import fetch_update
from marketplace.sealing import Opener, encryption_key, key_card, public_bytes
from marketplace.signer import Signer
from marketplace.terminal import run
from marketplace.types import Exclusion, Status
from marketplace.wallet import dev_account
from tests.market import AGGREGATOR, FIRST_TRAINER, SPONSOR, STRANGER, Stage, Town

AUDITOR = 9


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def opened(
    town: Town,
    readers: Literal["sealed", "members"],
    *named: int,
    rounds: int,
    root: str | None = None,
) -> Stage:
    description = Description(
        title="Sealed digits",
        model="logistic",
        model_options={"features": 64, "classes": 10},
        training=Training(batch_size=16),
        readers=readers,
        keys=tuple(key_card(dev_account(number), town.deployment) for number in named),
    )
    return town.open(["honest"] * 4, root=root, description=description, rounds=rounds)


def read_as(stage: Stage, number: int | None, round_number: int, which: int = 0) -> Update:
    """Return an update of a round as an account sees it; None has no key at all."""
    view, deployment = stage.view, stage.town.deployment
    opener = None
    if number is not None:
        private = encryption_key(dev_account(number), deployment)
        opener = Opener(deployment.chain_id, view.project, private)
    read = reader(stage.town.store)
    reveal = view.history.round(round_number).reveals[which]
    return fetch_update(read, reveal, view.params.dimension, round_number, opener)


def test_a_file_that_is_no_key_card_is_named(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter"
    letter.write_text("hello world")
    words = "project open --dev 0 --aggregator dev:1 --sink dev:2 --readers sealed --key-card"
    assert run(app, [*words.split(), str(letter), "--home", str(town.home)]) == 6
    said = capsys.readouterr().err
    assert f"{letter}: key card is no JSON" in said and "give what `tribute key` printed" in said


def test_a_sealed_market_pays_and_only_the_named_read(town: Town) -> None:
    stage = opened(town, "sealed", AGGREGATOR, AUDITOR, rounds=1)
    stage.trainers[0].encoding = "int8"
    stage.trainers[1].encoding = "plain"
    stage.play(lambda view: view.ended)
    assert stage.view.state.status == Status.FINISHED
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    assert [record.reason for record in found.settlement.records] == [Exclusion.NONE] * 4
    assert all(record.share > 0 for record in found.settlement.records)
    for which in range(4):
        mine = read_as(stage, AGGREGATOR, found.number, which)
        audited = read_as(stage, AUDITOR, found.number, which)
        assert mine.values.tolist() == audited.values.tolist()
        assert mine.values.any()
        for stranger in (STRANGER, FIRST_TRAINER + which, None):
            with pytest.raises(SealedError):
                read_as(stage, stranger, found.number, which)
    # the model and what the chain implies of it stay open to everybody
    assert verify_model(stage.view, town.store, town.srs).good


@pytest.mark.parametrize("readers", ["sealed", "members"])
def test_a_root_takes_part_in_a_sealed_market_without_reading_the_others(
    town: Town, readers: Literal["sealed", "members"]
) -> None:
    stage = opened(town, readers, AGGREGATOR, rounds=2, root="honest")
    stage.play(lambda view: view.ended)
    for found in stage.view.history.settled:
        assert root_word(stage.view.params, found) == "believed"
        for which, reveal in enumerate(found.reveals):
            assert read_as(stage, AGGREGATOR, found.number, which).values.any()
            if reveal.trainer != stage.view.params.root:
                with pytest.raises(SealedError):
                    read_as(stage, SPONSOR, found.number, which)


def test_a_trainer_that_leaves_reads_what_came_before_and_nothing_after(town: Town) -> None:
    stage = opened(town, "members", AGGREGATOR, rounds=2)
    stage.play(lambda view: view.state.settled_rounds == 1)
    left = FIRST_TRAINER + 3
    Signer(town.chain, dev_account(left)).leave(stage.project)
    stage.trainers.pop()
    stage.view.refresh()
    first_without = stage.view.state.round
    stage.play(lambda view: view.state.settled_rounds == 2)
    assert read_as(stage, left, 1).values.any()
    for which in range(3):
        assert read_as(stage, FIRST_TRAINER, first_without, which).values.any()
        with pytest.raises(SealedError, match="sealed to 4 keys"):
            read_as(stage, left, first_without, which)


def test_a_trainer_joins_with_the_key_of_its_account(town: Town) -> None:
    stage = opened(town, "members", AGGREGATOR, rounds=1)
    stage.play(lambda view: len(view.history.active) == 4)
    for trainer in stage.trainers:
        key = encryption_key(trainer.signer.account, town.deployment)
        assert stage.view.history.joined[trainer.signer.address] == public_bytes(key)


def test_an_update_that_the_aggregator_cannot_open_is_left_out(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = opened(town, "sealed", AGGREGATOR, rounds=1)
    spiteful = stage.trainers[2]
    publish = spiteful._publish

    def to_nobody(round_number: int, update: Update) -> object:
        key = public_bytes(encryption_key(spiteful.signer.account, town.deployment))
        with monkeypatch.context() as patch:
            patch.setattr("trainer.client.recipients", lambda *_: [key])
            return publish(round_number, update)

    monkeypatch.setattr(spiteful, "_publish", to_nobody)
    stage.play(lambda view: view.ended)
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    reasons = {
        reveal.trainer: record.reason
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True)
    }
    assert reasons.pop(spiteful.signer.address) == Exclusion.MALFORMED
    assert set(reasons.values()) == {Exclusion.NONE}


def test_a_project_that_its_aggregator_cannot_read_is_not_opened(town: Town) -> None:
    with pytest.raises(CodecError, match="not to its aggregator"):
        opened(town, "sealed", AUDITOR, rounds=1)
