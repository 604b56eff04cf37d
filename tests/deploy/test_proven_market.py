"""Run markets whose rounds are proven, with attackers, strangers and aggregators that lie."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.cli import app
from deploy.devnet import running_anvil
from deploy.show import verify_model
from ipfs import Cid
from ipfs.reader import reader
from marketplace.aggregate import Outcome, aggregate
from marketplace.chain import Chain
from marketplace.codec import MODEL_FILE, Model, encode_model, pack_gram, unpack_gram
from marketplace.errors import ContractError, InputError, ProofError
from marketplace.history import ProjectView, fetch_update
from marketplace.proof.prover import prove
from marketplace.proof.srs import generate
from marketplace.proof.transcript import round_context
from marketplace.terminal import run
from marketplace.types import Exclusion, Status
from tests.market import AGGREGATOR, FIRST_TRAINER, SINK, STRANGER, Stage, Town
from trainer.client import TrainerClient

ATTACKED = ["honest"] * 5 + ["sign-flip", "free-ride"]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def decided(stage: Stage) -> Outcome:
    """Return what an honest aggregator finds in the current round."""
    view = stage.view
    view.refresh()
    read = reader(stage.town.store)
    updates = [fetch_update(read, reveal, view.params.dimension) for reveal in view.round.reveals]
    return aggregate(
        stage.town.srs,
        view.params,
        "MultiKrumShapley",
        view.round.reveals,
        updates,
        view.model(read, stage.town.srs),
    )


def context(stage: Stage, round_number: int, project: bytes | None = None) -> bytes:
    deployment = stage.town.deployment
    return round_context(
        deployment.chain_id,
        bytes.fromhex(deployment.marketplace[2:]),
        project or stage.project,
        round_number,
    )


def proof_of(stage: Stage, outcome: Outcome, context: bytes) -> bytes:
    assert outcome.gram is not None
    points, updates = outcome.points, outcome.updates
    return prove(stage.town.srs, context, points, outcome.gram, updates, outcome.blindings)


def test_whole_market_is_proven_and_attackers_lose_their_stake(town: Town) -> None:
    stage = town.open(ATTACKED, slash=(50.0, 100.0))
    stage.play(lambda view: view.ended)
    assert town.deployment.verifier_name(stage.view.params.verifier) == "GramVerifier"
    assert stage.view.state.status == Status.FINISHED
    attackers = {town.signer(FIRST_TRAINER + k).address for k in (5, 6)}
    for found in stage.view.history.settled:
        assert found.settlement is not None
        records = zip(found.reveals, found.settlement.records, strict=True)
        assert {reveal.trainer for reveal, record in records if record.outlier} == attackers
        assert sum(record.share for record in found.settlement.records) == stage.view.params.reward
    for address in attackers:
        account = town.chain.account(stage.project, address)
        assert (account.stake, account.credit) == (0, 0)
    assert verify_model(stage.view, town.store, town.srs).good


def test_a_stranger_settles_and_earns_the_fee_when_the_aggregator_falls_silent(town: Town) -> None:
    stage = town.open(["honest"] * 4)
    stage.play_until_revealed()
    heard: list[str] = []
    stranger = stage.service(STRANGER, notify=lambda stage, _n, text: heard.append(stage + text))
    address = town.signer(STRANGER).address
    assert not stranger.named
    for _ in range(2):
        assert not stranger.step(), "the exclusive window is the aggregator's"
    (waits,) = [text for text in heard if text.startswith("waiting")]
    assert "only the aggregator may settle, for " in waits
    assert stage.view.state.reveals == 4

    left = stage.view.state.reveal_end + stage.view.params.exclusive_window
    town.wait(left - stage.view.block.timestamp + 1)
    assert stranger.step()
    stage.view.refresh()
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    assert found.settlement.settler == address
    assert town.chain.account(stage.project, address).credit == stage.view.params.fee
    assert verify_model(stage.view, town.store, town.srs).good

    # The aggregator wakes up and finds nothing to do twice; its bond was never touched.
    stage.play(lambda view: view.ended)
    bond = stage.view.params.bond + stage.view.params.fee
    assert town.chain.account(stage.project, town.signer(AGGREGATOR).address).credit == bond


def test_within_the_exclusive_window_the_contract_refuses_a_strangers_proof(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    stage.play_until_revealed()
    outcome = decided(stage)
    assert outcome.gram is not None
    proof = proof_of(stage, outcome, context(stage, 1))
    arguments = (stage.project, 1, stage.view.round.reveals, b"", outcome.gram, proof, bytes(32))
    with pytest.raises(ContractError, match="NotAggregator"):
        town.signer(STRANGER).settle(*arguments)
    town.wait(stage.view.params.reveal_window + stage.view.params.exclusive_window + 1)
    with pytest.raises(ContractError, match="SinkMayNotSettle"):
        town.signer(SINK).settle(*arguments)
    town.signer(STRANGER).settle(*arguments)


def test_an_aggregator_that_changes_the_matrix_is_refused(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    stage.play_until_revealed()
    outcome = decided(stage)
    assert outcome.gram is not None
    proof = proof_of(stage, outcome, context(stage, 1))
    signer, reveals = town.signer(AGGREGATOR), stage.view.round.reveals

    def settle(gram: bytes, proof: bytes) -> None:
        signer.settle(stage.project, 1, reveals, b"", gram, proof, bytes(32))

    true = unpack_gram(outcome.gram, 3)
    for i, j in ((0, 0), (0, 2), (1, 1), (2, 2)):
        lie = true.copy()
        lie[i, j] = lie[j, i] = lie[i, j] + 1
        with pytest.raises(ContractError, match="GramRejected"):
            settle(pack_gram(lie), proof)
        with pytest.raises(ProofError, match="does not hold the inner products"):
            prove(
                town.srs,
                context(stage, 1),
                outcome.points,
                pack_gram(lie),
                outcome.updates,
                outcome.blindings,
            )
    # scaling one trainer up: a true matrix, but of other updates than those committed to
    doubled = outcome.updates.astype(np.int64)
    doubled[0] *= 2
    with pytest.raises(ContractError, match="GramRejected"):
        settle(pack_gram(doubled @ doubled.T), proof)
    for stale in (context(stage, 2), context(stage, 1, bytes(32))):
        with pytest.raises(ContractError, match="GramRejected"):
            settle(outcome.gram, proof_of(stage, outcome, stale))
    with pytest.raises(ContractError, match="GramRejected"):
        settle(outcome.gram, b"")
    settle(outcome.gram, proof)


def test_a_swapped_model_file_is_caught_and_trainers_go_on_with_the_true_one(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    stage.play_until_revealed()
    outcome = decided(stage)
    assert outcome.gram is not None and outcome.model is not None
    forged = Model(outcome.model.values + 1, outcome.model.blinding)
    cid = town.store.put_directory({MODEL_FILE: encode_model(forged)}).digest
    proof = proof_of(stage, outcome, context(stage, 1))
    reveals = stage.view.round.reveals
    town.signer(AGGREGATOR).settle(stage.project, 1, reveals, b"", outcome.gram, proof, cid)
    stage.view.refresh()
    assert not verify_model(stage.view, town.store, town.srs).good
    true = stage.view.model(reader(town.store), town.srs)
    assert np.array_equal(true.values, outcome.model.values)
    stage.play(lambda view: view.ended)
    assert verify_model(stage.view, town.store, town.srs).good


def test_a_round_with_unusable_updates_waits_for_the_aggregator(
    town: Town,
) -> None:
    stage = town.open(["honest"] * 3, min_updates=2)
    stage.play_until_revealed()
    lost = Cid.from_digest(stage.view.round.reveals[1].cid)
    for name, cid in town.store.pins():
        if cid == lost:
            town.store.unpin(cid, name)
    town.store.gc()
    heard: list[str] = []
    stranger = stage.service(STRANGER, grace_s=0.2, notify=lambda s, _n, _t: heard.append(s))
    town.wait(stage.view.params.reveal_window + stage.view.params.exclusive_window + 1)
    for _ in range(4):
        assert not stranger.step()
        time.sleep(0.1)
    assert heard.count("waiting") == 1
    named = stage.service(AGGREGATOR, grace_s=0.2)
    assert not named.step()
    time.sleep(0.2)
    assert named.step()
    stage.view.refresh()
    settlement = stage.view.history.settled[0].settlement
    assert settlement is not None
    reasons = [Exclusion.NONE, Exclusion.UNAVAILABLE, Exclusion.NONE]
    assert [record.reason for record in settlement.records] == reasons


def test_nobody_works_under_another_reference_string(town: Town, tmp_path: Path) -> None:
    stage = town.open(["honest"] * 3)
    other = generate(tmp_path / "other.srs", town.srs.size, b"another seed")
    town_srs, town.srs = town.srs, other
    try:
        with pytest.raises(InputError, match="verifier takes"):
            stage.service(AGGREGATOR)
        client = stage.trainers[0]
        with pytest.raises(InputError, match="verifier takes"):
            TrainerClient(stage.view, client.signer, town.store, other, client.dataset, tmp_path)
    finally:
        town.srs = town_srs


def test_nobody_works_under_a_known_tau_on_a_chain_that_is_no_devnet(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    elsewhere = Chain(dataclasses.replace(town.deployment, chain_id=1))
    with pytest.raises(InputError, match="chain 1 is no devnet"):
        ProjectView(elsewhere, stage.project).check_srs(town.srs)


def test_people_see_whom_a_project_trusts(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    for verifier, words in (
        ("GramVerifier", "proven: nobody is trusted"),
        ("AttestedGram", "signed: the aggregator is trusted"),
    ):
        stage = town.open(["honest"] * 3, verifier=verifier)
        assert run(app, ["project", "show", stage.project.hex(), "--home", str(town.home)]) == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_a_stranger_is_told_that_attested_projects_are_not_for_it(town: Town) -> None:
    stage = town.open(["honest"] * 3, verifier="AttestedGram")
    with pytest.raises(InputError, match="nobody else can settle"):
        stage.service(STRANGER)
