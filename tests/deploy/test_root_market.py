"""Markets in which the sponsor is the root trainer, with 100 clean samples."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from deploy.cli import app
from deploy.devnet import running_anvil
from deploy.show import root_word
from ipfs.reader import reader
from marketplace.audit import audit
from marketplace.codec import Description, Training, unpack_gram
from marketplace.errors import ContractError
from marketplace.history import Round
from marketplace.payout import Record
from marketplace.scoring import RULES
from marketplace.terminal import run
from marketplace.types import Membership
from tests.market import SPONSOR, Stage, Town

CROWD = ["honest"] * 4 + ["label-flip"] * 2


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def records(stage: Stage, found: Round) -> list[Record]:
    """Return the trainers' records in their order, the root's last."""
    assert found.settlement is not None
    reveals = [reveal.trainer for reveal in found.reveals]
    by_name = dict(zip(reveals, found.settlement.records, strict=True))
    return [by_name[trainer.signer.address] for trainer in stage.trainers]


def played(town: Town, root: str | None, rule: str) -> Stage:
    # Trained for long enough that a flipped label is told from a true one in the first round.
    description = Description(
        title="Digits",
        model="logistic",
        model_options={"features": 64, "classes": 10},
        training=Training(batch_size=16, learning_rate=0.3, epochs=3),
    )
    stage = town.open(CROWD, root=root, rule=rule, rounds=2, description=description)
    stage.play(lambda view: view.ended)
    return stage


def is_clean(stage: Stage) -> bool:
    town = stage.town
    report = audit(town.chain, stage.project, reader(town.store), town.srs)
    return not report.of("bad") and not report.of("unknown")


@pytest.mark.parametrize("rule", ["MultiKrumShapley", "PeelShapley"])
def test_who_flips_labels_is_paid_nothing_where_the_root_is_clean(town: Town, rule: str) -> None:
    stage, without = played(town, "honest", rule), played(town, None, rule)
    earned = [
        sum(records(without, found)[k].share for found in without.view.history.settled)
        for k in range(6)
    ]
    # The peel sees both of them by itself, multi-Krum does not.
    assert (max(earned[4:]) > 0) == (rule == "MultiKrumShapley")
    for found in stage.view.history.settled:
        *trainers, root = records(stage, found)
        assert root_word(stage.view.params, found) == "believed"
        assert root == Record(0, 0, 0, 0, 0, False, False)
        assert [record.share for record in trainers[4:]] == [0, 0]
        assert [record.weight for record in trainers[4:]] == [0, 0]
        assert all(record.share > 0 for record in trainers[:4])
        assert sum(record.share for record in trainers) == stage.view.params.reward
    assert is_clean(stage)
    account = town.chain.account(stage.project, town.signer(SPONSOR).address)
    assert (account.membership, account.credit, account.stake) == (Membership.NONE, 0, 0)


def test_a_root_that_contradicts_the_majority_is_set_aside_and_the_pot_is_paid(town: Town) -> None:
    stage = played(town, "sign-flip", "MultiKrumShapley")
    for found in stage.view.history.settled:
        assert found.settlement is not None
        *trainers, root = records(stage, found)
        assert root == Record(0, 0, 0, 0, 0, True, False)
        assert root_word(stage.view.params, found) == "set aside"
        assert sum(record.share for record in trainers) == stage.view.params.reward
        # As if it had not been there.
        names = [reveal.trainer for reveal in found.reveals]
        at = names.index(stage.view.params.root)
        others = np.delete(np.arange(len(names)), at)
        matrix = unpack_gram(found.settlement.gram, len(names))[np.ix_(others, others)]
        params = stage.view.params
        plain = RULES["MultiKrumShapley"](params.rule_params, matrix, params.reward)
        assert [found.settlement.records[i].share for i in others] == list(plain.shares)
    assert is_clean(stage)


def test_a_root_that_stays_away_delays_pay_and_does_not_change_it(town: Town) -> None:
    stage = town.open(["honest"] * 3, root="honest", rounds=1)
    *trainers, _ = stage.trainers
    stage.trainers = trainers
    for _ in range(40):
        for actor in (*trainers, stage.aggregator):
            actor.step()
    stage.view.refresh()
    assert len(stage.view.round.committed) == 3 and not stage.view.state.commits
    town.wait(3600)
    stage.play(lambda view: view.state.settled_rounds == 1)
    (found,) = stage.view.history.settled
    assert root_word(stage.view.params, found) == "absent"
    assert sum(record.share for record in records(stage, found)) == stage.view.params.reward
    assert is_clean(stage)


def test_the_root_is_refused_a_seat_and_its_part_is_told(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = town.open(["honest"] * 3, root="honest", rounds=1)
    root = stage.trainers[-1].signer
    with pytest.raises(ContractError, match="AlreadyJoined"):
        root.join(stage.project, stage.view.params)
    stage.play(lambda view: view.ended)
    name, home = stage.project.hex(), str(town.home)
    run(app, ["project", "show", name, "--home", home])
    shown = capsys.readouterr().out
    assert "root trainer" in shown and root.address in shown and "believed" in shown
    run(app, ["rewards", name, "--json", "--home", home])
    rows = {row["trainer"]: row["root"] for row in json.loads(capsys.readouterr().out)}
    assert rows.pop(root.address) == "believed" and set(rows.values()) == {""}
    run(app, ["rewards", name, "--trainer", root.address, "--explain", "--home", home])
    assert "divided by the inner products with it" in " ".join(capsys.readouterr().out.split())


def test_terms_with_an_impossible_root_are_refused_by_name(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "project open --dev 0 --aggregator dev:1 --sink dev:2 --model logistic -o features=64"
    for root, said in (("dev:1", "BadParam(root)"), ("dev:2", "BadParam(root)"), ("x", "dev:N")):
        code = run(app, [*words.split(), "--root", root, "--home", str(town.home)])
        assert code == (2 if root == "x" else 3)
        assert said in capsys.readouterr().err
