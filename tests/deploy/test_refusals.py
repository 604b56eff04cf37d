"""What the market refuses, by the name of its reason, and that nothing is lost by asking."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from deploy.devnet import running_anvil
from marketplace.errors import ContractError, InputError
from marketplace.interface import commit_digest
from marketplace.signer import Signer
from marketplace.types import Membership, Params, Reveal, Status
from marketplace.wallet import dev_account
from tests.market import (
    AGGREGATOR,
    FIRST_TRAINER,
    SINK,
    SPONSOR,
    STRANGER,
    Stage,
    Town,
)

POINT, CID = b"\x02" * 96, b"\x03" * 32


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def refused(name: str) -> pytest.RaisesExc[ContractError]:
    return pytest.raises(ContractError, match=rf"^{name}\b")


def go_to(town: Town, timestamp: int) -> None:
    """Let the chain's clock reach a time."""
    left = timestamp - town.chain.head().timestamp
    if left > 0:
        town.wait(left)


def joined(town: Town, trainers: int = 2, **terms: object) -> Stage:
    """Return a project whose trainers have joined and whose first round is open."""
    stage = town.open(["honest"] * trainers, **terms)
    for trainer in stage.trainers:
        assert trainer.step()
    stage.view.refresh()
    go_to(town, stage.view.state.opens_at)
    stage.view.refresh()
    return stage


def trainer(stage: Stage, k: int = 0) -> Signer:
    return stage.town.signer(FIRST_TRAINER + k)


# --------------------------------------------------------------------- projects


def test_an_unknown_project_is_refused_by_every_action(town: Town) -> None:
    unknown, signer = b"\x09" * 32, town.signer(STRANGER)
    params = town.open(["honest"]).view.params
    reveal = Reveal(signer.address, POINT, CID)
    for act in (
        lambda: signer.join(unknown, params),
        lambda: signer.post_bond(unknown, params),
        lambda: signer.commit(unknown, 1, b"\x01" * 28),
        lambda: signer.reveal(unknown, reveal),
        lambda: signer.close_commits(unknown, 1),
        lambda: signer.settle(unknown, 1, [reveal], b"", b"", b"", CID),
        lambda: signer.expire_round(unknown, 1, []),
        lambda: signer.deactivate(unknown, signer.address),
        lambda: signer.leave(unknown),
        lambda: signer.release_stake(unknown, signer.address),
        lambda: signer.withdraw(unknown),
        lambda: signer.close_project(unknown),
        lambda: town.chain.params(unknown),
        lambda: town.chain.state(unknown),
    ):
        with refused("UnknownProject"):
            act()


def test_a_project_without_money_or_with_impossible_terms_is_not_opened(town: Town) -> None:
    params: Params = town.open(["honest"]).view.params
    poor = Signer(town.chain, dev_account(60))
    with pytest.raises(InputError, match="holds 0 units of .*; 210000000000000000000 are"):
        poor.open_project(params)
    before = len(town.chain.projects())
    for change in (
        {"rounds": 0},
        {"capacity": 129},
        {"min_updates": 0},
        {"slash_sink": params.aggregator},
        {"bond_penalty": params.bond + 1},
        {"unbonding_delay": 1},
        {"step_bits": 41},
    ):
        with refused("BadParam") as caught:
            town.signer(SPONSOR).open_project(replace(params, **change))
        named = "".join(part.capitalize() for part in next(iter(change)).split("_"))
        assert caught.value.values == (named[0].lower() + named[1:],)
    with refused("BadRuleParams"):
        town.signer(SPONSOR).open_project(replace(params, rule_params=b"\xff" * 32))
    assert len(town.chain.projects()) == before


def test_trainers_join_once_with_stake_and_up_to_the_capacity(town: Town) -> None:
    stage = joined(town, 2)
    params = stage.view.params
    with refused("AlreadyJoined"):
        trainer(stage).join(stage.project, params)
    with refused(r"ProjectFull\(2\): the project has this many active trainers"):
        town.signer(STRANGER).join(stage.project, params)
    poor = Signer(town.chain, dev_account(61))
    with pytest.raises(InputError, match="holds 0 units of the token .*; 50000000000000000000 are"):
        poor.join(stage.project, params)
    # The contract itself refuses too, where a client does not look first.
    with refused("ProjectFull"):
        poor._do("join", stage.project, bytes(32))
    roomy = town.open(["honest"])
    with refused("ERC20InsufficientAllowance"):
        poor._do("join", roomy.project, bytes(32))


# ---------------------------------------------------------------------- windows


def test_each_action_has_its_window_and_is_done_once(town: Town) -> None:
    stage = town.open(["honest"] * 2, join_window_s=50)
    project, view = stage.project, stage.view
    for client in stage.trainers[:1]:
        client.step()
    view.refresh()
    one = trainer(stage)
    reveal = Reveal(one.address, POINT, CID)
    digest = commit_digest(project, 1, reveal)
    with refused("TooEarly"):
        one.commit(project, 1, digest)
    stage.trainers[1].step()
    view.refresh()
    go_to(town, view.state.opens_at)
    with refused("WrongRound"):
        one.commit(project, 2, digest)
    with refused("NotTrainer"):
        town.signer(STRANGER).commit(project, 1, digest)
    with refused("TooEarly"):
        one.reveal(project, reveal)
    with refused(r"CommitsMissing\(2"):
        one.close_commits(project, 1)
    one.commit(project, 1, digest)
    with refused(r"AlreadyCommitted\(.*, 1\): a trainer commits once a round"):
        one.commit(project, 1, b"\x07" * 28)
    trainer(stage, 1).commit(project, 1, b"\x07" * 28)
    one.close_commits(project, 1)
    with refused("TooLate"):
        one.close_commits(project, 1)
    with refused("RevealMismatch"):
        one.reveal(project, replace(reveal, cid=b"\x04" * 32))
    with refused("RevealMismatch"):
        one.reveal(project, replace(reveal, point=b"\x04" * 96))
    with refused("NothingCommitted"):
        town.signer(STRANGER).reveal(project, reveal)
    one.reveal(project, reveal)
    with refused("AlreadyRevealed"):
        one.reveal(project, reveal)
    view.refresh()
    with refused("TooEarly"):
        town.signer(AGGREGATOR).settle(project, 1, [reveal], b"", bytes(8), b"", CID)
    with refused("TooEarly"):
        one.expire_round(project, 1, [reveal])
    go_to(town, view.state.reveal_end)
    with refused("TooLate"):
        trainer(stage, 1).reveal(project, reveal)
    with refused("TooLate"):
        one.commit(project, 1, digest)


def test_a_settlement_is_refused_for_each_of_its_faults_and_then_done_once(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=2)
    stage.play_until_revealed()
    project, reveals = stage.project, stage.view.round.reveals
    named = town.signer(AGGREGATOR)
    gram, model = bytes(8 * 6), bytes(32)
    cases = [
        ("WrongRound", named, 2, reveals, b"", gram),
        ("LengthMismatch", named, 1, reveals[:2], b"", gram),
        ("LengthMismatch", named, 1, [], b"", gram),
        ("RevealListMismatch", named, 1, [reveals[1], reveals[0], reveals[2]], b"", gram),
        ("RevealListMismatch", named, 1, [*reveals[:2], reveals[1]], b"", gram),
        ("LengthMismatch", named, 1, reveals, b"\x00\x01", gram),
        ("LengthMismatch", named, 1, reveals, b"", gram[:-8]),
        ("LengthMismatch", named, 1, reveals, b"\x00\x00\x01", gram),
        ("GramRejected", named, 1, reveals, b"", gram),
        ("NotAggregator", town.signer(STRANGER), 1, reveals, b"", gram),
        ("SinkMayNotSettle", town.signer(SINK), 1, reveals, b"", gram),
    ]
    for name, signer, number, revealed, exclusions, matrix in cases:
        with refused(name):
            signer.settle(project, number, revealed, exclusions, matrix, b"", model)
    before = [town.chain.account(project, reveal.trainer) for reveal in reveals]
    assert all(account.credit == 0 for account in before)

    assert stage.aggregator.step()
    with refused("WrongRound"):
        named.settle(project, 1, reveals, b"", gram, b"", model)

    stage.play_until_revealed(2)
    go_to(town, stage.view.state.reveal_end + stage.view.params.exclusive_window)
    with refused("ExclusionNotAllowed"):
        town.signer(STRANGER).settle(
            project, 2, stage.view.round.reveals, b"\x01\x00\x00", gram, b"", model
        )
    go_to(town, stage.view.state.settle_end)
    with refused("TooLate"):
        named.settle(project, 2, stage.view.round.reveals, b"", gram, b"", model)


def test_a_point_revealed_twice_must_be_excluded_once(town: Town) -> None:
    stage = joined(town, 2, min_updates=1)
    project = stage.project
    reveals = [Reveal(trainer(stage, k).address, POINT, CID) for k in range(2)]
    for k, reveal in enumerate(reveals):
        trainer(stage, k).commit(project, 1, commit_digest(project, 1, reveal))
    trainer(stage).close_commits(project, 1)
    for k, reveal in enumerate(reveals):
        trainer(stage, k).reveal(project, reveal)
    with refused(r"DuplicatePoint\(0, 1\): two reveals carry the same commitment; exclude one"):
        town.signer(AGGREGATOR).settle(project, 1, reveals, b"", bytes(24), b"", CID)
    # A point off the curve cannot be proven anything of.
    with refused("GramRejected"):
        town.signer(AGGREGATOR).settle(project, 1, reveals, b"\x00\x05", bytes(8), bytes(900), CID)


# --------------------------------------------------------------- expiry, leaving


def test_rounds_without_commits_or_with_too_few_reveals_expire_and_open_again(town: Town) -> None:
    stage = joined(town, 3, min_updates=2, rounds=1)
    view = stage.view
    for number in (1, 2):
        if number == 2:
            stage.trainers[0].step()
            view.refresh()
            assert view.round.committed == [trainer(stage).address]
        go_to(town, view.state.commit_end)
        stage.aggregator.step()
        stage.trainers[0].step()
        go_to(town, view.state.reveal_end)
        stage.aggregator.step()
        view.refresh()
        assert (view.state.round, view.state.failures) == (number + 1, number)
    assert view.history.round(2).revealed == {trainer(stage).address}
    assert view.state.bond == view.params.bond
    stage.play(lambda seen: seen.ended)
    assert view.state.status == Status.FINISHED
    assert view.history.settled[0].number == 3
    assert view.state.escrow == 0


def test_a_silent_aggregator_pays_those_who_revealed_and_the_round_opens_again(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=1, max_failures=2)
    stage.play_until_revealed()
    view, project = stage.view, stage.project
    with refused("TooEarly"):
        town.signer(STRANGER).expire_round(project, 1, view.round.reveals)
    go_to(town, view.state.settle_end)
    with refused("RevealListMismatch"):
        town.signer(STRANGER).expire_round(project, 1, list(reversed(view.round.reveals)))
    town.signer(STRANGER).expire_round(project, 1, view.round.reveals)
    each = view.params.bond_penalty // 3
    view.refresh()
    assert view.history.round(1).bond_lost == 3 * each
    assert view.state.bond == view.params.bond - 3 * each
    for k in range(3):
        assert town.chain.account(project, trainer(stage, k).address).credit == each
    assert view.state.round == 2
    stage.play(lambda seen: seen.ended)
    assert view.state.status == Status.FINISHED


def test_too_many_failures_halt_the_project_and_everybody_gets_out(town: Town) -> None:
    stage = joined(town, 2, rounds=1, max_failures=2)
    view, project = stage.view, stage.project
    for _ in range(2):
        go_to(town, view.state.reveal_end)
        town.signer(STRANGER).expire_round(project, view.state.round, [])
        view.refresh()
    assert view.state.status == Status.HALTED
    with refused("WrongStatus"):
        trainer(stage).commit(project, 3, b"\x01" * 28)
    for k in range(2):
        trainer(stage, k).leave(project)
        assert trainer(stage, k).withdraw(project) == view.params.stake
    assert town.signer(AGGREGATOR).withdraw(project) == view.params.bond
    with refused("NotSponsor"):
        town.signer(STRANGER).close_project(project)
    town.signer(SPONSOR).close_project(project)
    with refused("WrongStatus"):
        town.signer(SPONSOR).close_project(project)
    assert town.signer(SPONSOR).withdraw(project) == view.params.escrow


def test_a_trainer_that_misses_rounds_is_deactivated_and_its_client_stops(town: Town) -> None:
    stage = town.open(["honest"] * 3, min_updates=2, rounds=4, patience=1)
    view, lazy = stage.view, stage.trainers.pop()
    lazy.step()
    address = trainer(stage, 2).address
    for number in range(1, 3):
        stage.play(
            lambda seen, number=number: (
                seen.state.round == number and len(seen.round.committed) == 2
            )
        )
        with refused("TooFewMissed"):
            town.signer(STRANGER).deactivate(stage.project, address)
        go_to(town, view.state.commit_end)
        stage.play(lambda seen, number=number: len(seen.history.settled) == number)
    # It missed two rounds, one more than the project's patience; the aggregator puts it out.
    stage.play(lambda seen: address not in seen.history.active)
    assert not lazy.out
    assert not lazy.step()
    assert lazy.out
    account = town.chain.account(stage.project, address)
    assert (account.membership, account.stake) == (Membership.INACTIVE, view.params.stake)
    # The others go on without waiting for it.
    stage.play(lambda seen: seen.ended)
    assert view.state.status == Status.FINISHED
    trainer(stage, 2).leave(stage.project)
    assert trainer(stage, 2).withdraw(stage.project) == view.params.stake


def test_leaving_frees_the_stake_after_its_delay_and_pays_it_once(town: Town) -> None:
    stage = joined(town, 3, min_updates=2)
    view, project, one = stage.view, stage.project, trainer(stage)
    params = view.params
    with refused("NothingToWithdraw"):
        one.withdraw(project)
    with refused("NotTrainer"):
        town.signer(STRANGER).leave(project)
    with refused("NotTrainer"):
        one.release_stake(project, one.address)
    one.leave(project)
    with refused("NotTrainer"):
        one.leave(project)
    with refused("NotTrainer"):
        one.commit(project, 1, b"\x01" * 28)
    with refused("AlreadyJoined"):
        one.join(project, params)
    exit_at = town.chain.account(project, one.address).exit_at
    with refused(r"StillUnbonding\(\d+, \d+\): the stake is free in [0-9,]+ s"):
        one.release_stake(project, one.address)
    stage.trainers[0].step()
    assert stage.trainers[0].out
    go_to(town, exit_at)
    # Anybody may, but the money is the trainer's.
    town.signer(STRANGER).release_stake(project, one.address)
    with refused("NotTrainer"):
        one.release_stake(project, one.address)
    before = town.chain.token_balance(params.token, one.address)
    assert one.withdraw(project) == params.stake
    with refused(r"NothingToWithdraw\(.*\): the account has no credit in this project"):
        one.withdraw(project)
    assert town.chain.token_balance(params.token, one.address) == before + params.stake
    # Whoever is out may join again.
    one.join(project, params)
    assert town.chain.account(project, one.address).membership == Membership.ACTIVE


def test_rewards_are_paid_out_once_to_the_unit(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=2)
    stage.play(lambda seen: seen.ended)
    view, project = stage.view, stage.project
    paid: dict[str, int] = {}
    for found in view.history.settled:
        assert found.settlement is not None
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
            paid[reveal.trainer] = paid.get(reveal.trainer, 0) + record.share
    assert sum(paid.values()) == 2 * view.params.reward
    for k in range(3):
        signer = trainer(stage, k)
        assert signer.withdraw(project) == paid[signer.address]
        with refused("NothingToWithdraw"):
            signer.withdraw(project)
        # The stake is free at once in a project that has ended.
        signer.leave(project)
        assert signer.withdraw(project) == view.params.stake
    rounds = [found.number for found in view.history.settled]
    assert all(later - earlier == 1 for earlier, later in pairwise(rounds))
