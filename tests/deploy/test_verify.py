"""Let `tribute verify` look at honest markets, and at ones where somebody cheated."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.cli import app
from deploy.compile import artefact
from deploy.devnet import running_anvil
from deploy.verify import check_contracts
from ipfs import Cid
from ipfs.reader import reader
from marketplace.aggregate import Outcome, aggregate
from marketplace.audit import BAD, GOOD, UNKNOWN, Report, audit
from marketplace.chain import Chain, SettleCall
from marketplace.codec import (
    MODEL_FILE,
    Description,
    Model,
    Training,
    Update,
    encode_model,
    pack_gram,
    unpack_gram,
)
from marketplace.errors import ProofError
from marketplace.history import fetch_update
from marketplace.interface import Event, commit_digest
from marketplace.payout import decode_records, encode_records
from marketplace.proof.prover import prove
from marketplace.proof.srs import generate
from marketplace.proof.transcript import round_context
from marketplace.scoring import MultiKrumParams, multi_krum_shapley
from marketplace.sealing import Opener, encryption_key, key_card
from marketplace.signer import attested_claim
from marketplace.terminal import run
from marketplace.types import Account, Exclusion, Reveal, State
from marketplace.wallet import dev_account
from tests.market import AGGREGATOR, FIRST_TRAINER, SINK, SPONSOR, STRANGER, Stage, Town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def finished(town: Town) -> Stage:
    """Play a market with an attacker to its end, with everybody paid out."""
    stage = town.open(["honest"] * 4 + ["sign-flip"], slash=(60.0, 100.0), max_failures=3)
    stage.play_until_revealed()
    # the aggregator sleeps through the first round, which expires at its bond's cost
    state = stage.view.state
    town.wait(state.settle_end - stage.view.block.timestamp + 1)
    stage.play(lambda view: view.ended)
    for k in range(5):
        signer = town.signer(FIRST_TRAINER + k)
        signer.leave(stage.project)
        if k != 1 and town.chain.account(stage.project, signer.address).credit:
            signer.withdraw(stage.project)
    town.signer(SPONSOR).close_project(stage.project)
    town.signer(SINK).withdraw(stage.project)
    stage.view.refresh()
    return stage


def looked_at(stage: Stage, chain: Chain | None = None, **options: Any) -> Report:
    read = reader(stage.town.store, timeout_s=2)
    return audit(chain or stage.town.chain, stage.project, read, stage.town.srs, **options)


def outcome_of(stage: Stage, **other: Exclusion | Update) -> Outcome:
    """Return how the current round is decided where some updates, "_0" and so on, are others."""
    view = stage.view
    view.refresh()
    read = reader(stage.town.store)
    updates: list[Any] = [
        fetch_update(read, reveal, view.params.dimension) for reveal in view.round.reveals
    ]
    for name, update in other.items():
        updates[int(name[1:])] = update
    model = view.model(read, stage.town.srs)
    rule = "MultiKrumShapley"
    return aggregate(stage.town.srs, view.params, rule, view.round.reveals, updates, model)


def settle(stage: Stage, outcome: Outcome, model: Model | None = None) -> None:
    """Settle the current round with an outcome, proven, and perhaps with another model's file."""
    view, deployment = stage.view, stage.town.deployment
    assert outcome.gram is not None and outcome.model is not None
    market = bytes.fromhex(deployment.marketplace[2:])
    context = round_context(deployment.chain_id, market, stage.project, view.state.round)
    proof = prove(
        stage.town.srs,
        context,
        outcome.points,
        outcome.gram,
        outcome.updates,
        outcome.blindings,
    )
    file = encode_model(model or outcome.model)
    stage.town.signer(AGGREGATOR).settle(
        stage.project,
        view.state.round,
        view.round.reveals,
        outcome.exclusions,
        outcome.gram,
        proof,
        stage.town.store.put_directory({MODEL_FILE: file}).digest,
    )
    view.refresh()


def lose(stage: Stage, digest: bytes) -> None:
    """Delete content from everywhere."""
    lost, store = Cid.from_digest(digest), stage.town.store
    for name, cid in store.pins():
        if cid == lost:
            store.unpin(cid, name)
    store.gc()


@pytest.mark.parametrize(("times", "wrong"), [(1, 0), (2, 1)])
def test_a_difference_counts_if_it_is_there_twice(
    finished: Stage, monkeypatch: pytest.MonkeyPatch, times: int, wrong: int
) -> None:
    # anvil gives the state of a later block, now and then, while it mines.
    chain, asked = finished.town.chain, list[int]()
    state = chain.state

    def ahead(project: bytes, block: int) -> State:
        asked.append(block)
        found = state(project, block)
        return dataclasses.replace(found, escrow=found.escrow + 1) if len(asked) <= times else found

    monkeypatch.setattr(chain, "state", ahead)
    told = [finding.text for finding in looked_at(finished).of(BAD)]
    assert len(told) == wrong and all("the escrow is" in text for text in told)


def test_an_honest_market_checks_to_the_last_unit(finished: Stage) -> None:
    report = looked_at(finished)
    assert report.of(BAD) == report.of(UNKNOWN) == []
    counts = dict.fromkeys(("reveals", "updates", "matrix", "proof", "records"), 0)
    for found in report.of(GOOD):
        if found.check in counts:
            counts[found.check] += 1
    assert set(counts.values()) == {2}
    assert [found.check for found in report.findings if not found.round] == [
        "reference string",
        "initial model",
        "accounts",
    ]
    attacker = finished.town.signer(FIRST_TRAINER + 4).address
    (first, second) = [row for row in report.outcomes if row.trainer == attacker]
    assert (first.share, first.slashed) == (0, finished.view.params.stake * 60 // 100)
    assert "outlier" in first.why and "strike 2" in second.why


def test_command_says_so_with_its_exit_code_and_in_json(
    finished: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["verify", finished.project.hex()[:12], "--home", str(finished.town.home)]
    assert run(app, arguments) == 0
    shown = capsys.readouterr().out
    assert "Everything checks" in shown and "Taken on trust" in shown
    assert run(app, [*arguments, "--json", "--round", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["good"], data["complete"]) == (True, True)
    assert {row["round"] for row in data["outcomes"]} == {2}
    assert all(len(row["steps"]) > 5 for row in data["outcomes"])
    assert run(app, [*arguments, "--round", "2"]) == 0
    assert "Krum score" in " ".join(capsys.readouterr().out.split())
    assert {found["round"] for found in data["findings"] if found["check"] == "proof"} == {2}
    assert run(app, [*arguments, "--round", "9"]) == 4
    assert "these have: 1, 2, 3" in capsys.readouterr().err


def test_a_swapped_model_file_is_exposed_and_the_true_one_computed(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = town.open(["honest"] * 3)
    stage.play_until_revealed()
    outcome = outcome_of(stage)
    assert outcome.model is not None
    settle(stage, outcome, Model(outcome.model.values + 1, outcome.model.blinding))
    report = looked_at(stage)
    assert [(found.round, found.check) for found in report.of(BAD)] == [(1, "model file")]
    assert "can be computed" in next(f for f in report.of(GOOD) if f.check == "model").text
    assert run(app, ["verify", stage.project.hex(), "--home", str(town.home)]) == 6
    assert "another one than the chain implies" in " ".join(capsys.readouterr().out.split())


def test_a_missing_update_is_listed_and_the_rest_is_checked(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = town.open(["honest"] * 3, rounds=1)
    stage.play(lambda view: view.ended)
    reveals = stage.view.history.settled[0].reveals
    lose(stage, reveals[1].cid)
    report = looked_at(stage)
    assert report.of(BAD) == []
    assert [found.check for found in report.of(UNKNOWN)] == ["update", "matrix"]
    assert reveals[1].trainer in report.of(UNKNOWN)[0].text
    assert {"proof", "model file", "records"} <= {found.check for found in report.of(GOOD)}
    assert run(app, ["verify", stage.project.hex(), "--home", str(town.home)]) == 0
    assert "as far as could be checked" in capsys.readouterr().out


def test_an_update_that_only_the_aggregator_was_given_is_exposed(town: Town) -> None:
    # Trainer 1 publishes its update turned around, and the aggregator counts the one that it got
    # by other ways: the proof holds, but nobody else can follow it.
    stage = town.open(["honest"] * 3, rounds=1)
    accomplice, given = stage.trainers[1], []
    publish = accomplice._publish

    def turned_around(round_number: int, update: Update) -> Cid:
        given.append(update)
        return publish(round_number, Update(-update.values, update.blinding))

    accomplice._publish = turned_around  # type: ignore[method-assign]
    stage.play_until_revealed()
    order = [reveal.trainer for reveal in stage.view.round.reveals]
    place = order.index(accomplice.signer.address)
    settle(stage, outcome_of(stage, **{f"_{place}": given[0]}))
    report = looked_at(stage)
    assert [found.check for found in report.of(BAD)] == ["update"]
    assert "mismatch" in report.of(BAD)[0].text
    assert [found.check for found in report.of(UNKNOWN)] == ["matrix"], "what is seen is right"
    assert {"proof", "model file", "records"} <= {found.check for found in report.of(GOOD)}


def test_a_signed_lie_about_the_matrix_is_exposed(town: Town) -> None:
    # The chain believes the signature of AttestedGram. The aggregator makes trainer 0 an outlier,
    # by a matrix in which its update points the other way and is ten times as long.
    stage = town.open(["honest"] * 5, verifier="AttestedGram", rounds=1)
    stage.play_until_revealed()
    outcome = outcome_of(stage)
    assert outcome.gram is not None and outcome.model is not None
    lie = unpack_gram(outcome.gram, 5)
    lie[0, :] *= -10
    lie[:, 0] *= -10
    reveals, params = stage.view.round.reveals, stage.view.params
    packed = pack_gram(lie)
    claim = attested_claim(town.deployment, stage.project, 1, outcome.points, packed)
    signer = town.signer(AGGREGATOR)
    signature = bytes(signer.account.sign_message(claim).signature)
    cid = town.store.put_directory({MODEL_FILE: encode_model(outcome.model)}).digest
    signer.settle(stage.project, 1, reveals, b"", packed, signature, cid)

    stage.view.refresh()
    settlement = stage.view.history.settled[0].settlement
    assert settlement is not None and settlement.records[0].outlier, "the lie had its effect"
    rule = MultiKrumParams.unpack(params.rule_params)
    true = multi_krum_shapley(unpack_gram(outcome.gram, 5), rule, params.reward)
    assert not any(true.outliers)

    report = looked_at(stage)
    wrong = {found.check: found.text for found in report.of(BAD)}
    assert "9 entries are wrong" in wrong["matrix"]
    # With other weights, the honest model is not the one that the chain implies.
    assert set(wrong) == {"matrix", "model file"}
    assert "not proven" in next(f for f in report.of(GOOD) if f.check == "proof").text


def test_a_signed_settlement_that_implies_no_model_is_exposed(town: Town) -> None:
    # AttestedGram never looks at points: one off the curve counts if the aggregator signs for it.
    stage = town.open(["honest"] * 3, verifier="AttestedGram", capacity=4, rounds=1)
    other = town.signer(FIRST_TRAINER + 3)
    other.join(stage.project, stage.view.params)
    for trainer in stage.trainers:
        trainer.view.refresh()
    town.wait(stage.view.params.join_window + 1)
    junk = Reveal(other.address, b"\x01" * 96, bytes(32))
    other.commit(stage.project, 1, commit_digest(stage.project, 1, junk))
    for _ in range(3):
        for trainer in stage.trainers:
            trainer.step()
    town.signer(STRANGER).close_commits(stage.project, 1)
    other.reveal(stage.project, junk)
    for trainer in stage.trainers:
        trainer.step()
    stage.view.refresh()
    reveals = stage.view.round.reveals
    assert len(reveals) == 4
    packed = pack_gram(np.eye(4, dtype=np.int64) * 1000)
    points = [reveal.point for reveal in reveals]
    claim = attested_claim(town.deployment, stage.project, 1, points, packed)
    signer = town.signer(AGGREGATOR)
    signature = bytes(signer.account.sign_message(claim).signature)
    signer.settle(stage.project, 1, reveals, b"", packed, signature, bytes(32))
    wrong = {found.check: found.text for found in looked_at(stage).of(BAD)}
    assert "implies no model" in wrong["model file"]
    assert "bad point" in wrong["update"]
    assert "inner product" in wrong["matrix"]


def test_an_honest_signature_passes_as_one(town: Town) -> None:
    stage = town.open(["honest"] * 3, verifier="AttestedGram", rounds=1)
    stage.play(lambda view: view.ended)
    report = looked_at(stage)
    assert report.of(BAD) == report.of(UNKNOWN) == []


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(Exclusion.MISMATCH, BAD), (Exclusion.UNAVAILABLE, UNKNOWN), (Exclusion.DUPLICATE, BAD)],
)
def test_shutting_out_a_good_update_is_exposed_or_at_least_named(
    town: Town, reason: Exclusion, verdict: str
) -> None:
    stage = town.open(["honest"] * 3, min_updates=2)
    stage.play_until_revealed()
    settle(stage, outcome_of(stage, _1=reason))
    report = looked_at(stage)
    (found,) = [found for found in report.findings if found.check == "exclusion"]
    assert found.verdict == verdict
    assert stage.view.history.settled[0].reveals[1].trainer in found.text
    assert len(report.of(BAD)) + len(report.of(UNKNOWN)) == 1


def test_the_penalty_for_shutting_out_too_many_is_reckoned(town: Town) -> None:
    stage = town.open(["honest"] * 3, min_updates=2, rounds=1)
    stage.play_until_revealed()
    reveals = stage.view.round.reveals
    reasons = bytes([0, Exclusion.MALFORMED, Exclusion.MISMATCH])
    town.signer(AGGREGATOR).settle(stage.project, 1, reveals, reasons, b"", b"", bytes(32))
    params = stage.view.params
    assert town.chain.state(stage.project).bond == params.bond - params.bond_penalty
    report = looked_at(stage)
    assert {found.check for found in report.of(BAD)} == {"exclusion"}, "the money is right"
    assert len(report.of(BAD)) == 2
    stage.play(lambda view: view.ended)
    assert {found.check for found in looked_at(stage).of(BAD)} == {"exclusion"}


def test_a_round_under_way_is_said_to_be_open(town: Town) -> None:
    stage = town.open(["honest"] * 3)
    stage.play_until_revealed()
    report = looked_at(stage)
    assert report.of(BAD) == []
    assert "not settled yet" in report.of(UNKNOWN)[0].text


def test_a_stranger_s_settlement_checks_like_the_aggregators(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=1)
    stage.play_until_revealed()
    town.wait(stage.view.params.reveal_window + stage.view.params.exclusive_window + 1)
    assert stage.service(STRANGER).step()
    report = looked_at(stage)
    assert report.of(BAD) == report.of(UNKNOWN) == []


def test_sealed_updates_are_checked_by_who_can_open_them(town: Town) -> None:
    cards = tuple(key_card(dev_account(number), town.deployment) for number in (AGGREGATOR, 9))
    description = Description(
        title="Sealed",
        model="logistic",
        model_options={"features": 64, "classes": 10},
        training=Training(),
        readers="sealed",
        keys=cards,
    )
    stage = town.open(["honest"] * 3, description=description, rounds=1)
    stage.play(lambda view: view.ended)
    report = looked_at(stage)
    assert report.of(BAD) == []
    assert [found.check for found in report.of(UNKNOWN)] == ["update"] * 3 + ["matrix"]
    assert {"proof", "records", "model file"} <= {found.check for found in report.of(GOOD)}
    private = encryption_key(dev_account(9), town.deployment)
    opener = Opener(town.deployment.chain_id, stage.project, private)
    opened = looked_at(stage, opener=opener)
    assert opened.of(BAD) == opened.of(UNKNOWN) == []


class LyingChain(Chain):
    """Say of the chain what is not so, as a contract that breaks its rules would."""

    lie = ""

    def account(self, project: bytes, address: str, block: int | None = None) -> Account:
        found = super().account(project, address, block)
        more = int(self.lie == "credit" and found.credit > 0)
        return dataclasses.replace(found, credit=found.credit + more)

    def settle_call(self, transaction: str) -> SettleCall | None:
        found = super().settle_call(transaction)
        assert found is not None
        if self.lie == "hidden":
            return None
        if self.lie == "proof":
            damaged = found.proof[:100] + bytes([found.proof[100] ^ 1]) + found.proof[101:]
            return dataclasses.replace(found, proof=damaged)
        if self.lie == "reveals":
            return dataclasses.replace(found, trainers=list(found.trainers)[::-1])
        return found

    def events(self, *arguments: Any, **options: Any) -> Iterator[Event]:
        for event in super().events(*arguments, **options):
            if self.lie == "records" and event.name == "Settled":
                records = decode_records(event.values["records"])
                moved = [
                    dataclasses.replace(records[0], share=records[0].share - 1),
                    dataclasses.replace(records[1], share=records[1].share + 1),
                    *records[2:],
                ]
                values = {**event.values, "records": encode_records(moved)}
                yield dataclasses.replace(event, values=values)
            else:
                yield event


@pytest.mark.parametrize(
    ("lie", "verdict", "checks"),
    [
        ("credit", BAD, {"accounts"}),
        ("proof", BAD, {"proof"}),
        ("reveals", BAD, {"reveals"}),
        ("records", BAD, {"records", "accounts", "money"}),
        ("hidden", UNKNOWN, {"reveals", "proof"}),
    ],
)
def test_what_is_not_so_is_found(finished: Stage, lie: str, verdict: str, checks: set[str]) -> None:
    chain = LyingChain(finished.town.deployment)
    chain.lie = lie
    report = looked_at(finished, chain)
    assert {found.check for found in report.of(verdict)} == checks
    assert verdict == BAD or report.of(BAD) == []


@pytest.mark.parametrize("what", ["rule", "verifier", "marketplace"])
def test_other_code_than_the_sources_is_found(finished: Stage, what: str) -> None:
    town, params = finished.town, finished.view.params
    honest = check_contracts(town.chain, params, town.srs)
    assert [found.verdict for found in honest] == [GOOD] * 3
    address = town.deployment.marketplace if what == "marketplace" else getattr(params, what)
    code = bytes.fromhex(town.chain.request("eth_getCode", [address, "latest"])[2:])
    if what == "verifier":
        # a verifier of another τ, which whoever knows it can prove anything to
        other = generate(town.home / "other.srs", town.srs.size, b"known to the sponsor").header
        mine = town.srs.header
        swapped = code.replace(mine.tau_g1[:32], other.tau_g1[:32])
        assert swapped != code and artefact("GramVerifier").runs_as(swapped)
    else:
        swapped = code[:500] + bytes([code[500] ^ 1]) + code[501:]
    town.chain.request("anvil_setCode", [address, "0x" + swapped.hex()])
    try:
        found = check_contracts(town.chain, params, town.srs)
    finally:
        town.chain.request("anvil_setCode", [address, "0x" + code.hex()])
    assert [entry.text.split()[1] for entry in found if entry.verdict == BAD] == [what]


def test_nothing_can_be_checked_under_another_reference_string(
    finished: Stage, tmp_path: Path
) -> None:
    other = generate(tmp_path / "other", finished.town.srs.size, b"another")
    with pytest.raises(ProofError, match="verifier takes"):
        audit(finished.town.chain, finished.project, reader(finished.town.store), other)


def test_model_values_are_those_of_the_updates(finished: Stage) -> None:
    read = reader(finished.town.store)
    first, last = (finished.view.model(read, finished.town.srs, k) for k in (0, 2))
    moved = np.zeros_like(first.values)
    for found in finished.view.history.settled:
        assert found.settlement is not None
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
            update = fetch_update(read, reveal, len(moved))
            moved += record.weight * update.values.astype(np.int64)
    assert np.array_equal(first.values + moved, last.values)
