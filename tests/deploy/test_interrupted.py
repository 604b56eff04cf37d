"""Kill trainers, the aggregator and the chain, start them again, and lose nothing."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from deploy.devnet import down, find, free_port, running_anvil, up
from marketplace.chain import Block
from marketplace.errors import ChainError
from marketplace.history import ProjectView
from marketplace.types import Status
from tests.deploy.actor import act
from tests.market import AGGREGATOR, FIRST_TRAINER, Stage, Town
from trainer.client import TrainerClient
from trainer.errors import JournalError


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


# Its processes are forked from one that has imported everything, which takes seconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.deploy.actor", "web3"])


def start(town: Town, stage: Stage, role: str, moment: str = "never") -> BaseProcess:
    process = context.Process(target=act, args=(town.home, stage.project, role, moment))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(30)
    return process.exitcode


def play_beside(stage: Stage, process: BaseProcess) -> None:
    """Let the others act until the process is gone or the project has ended."""
    for _ in range(3000):
        stage.view.refresh()
        if process.exitcode is not None:
            return
        acted = [trainer.step() for trainer in stage.trainers]
        if stage.aggregator is not None:
            acted.append(stage.aggregator.step())
        if not any(acted):
            time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the process never died: {stage.view.state}")


def is_paid_once(stage: Stage, rounds: int = 1) -> None:
    """Check that every trainer committed, revealed and was paid once in each round."""
    view = stage.view
    view.refresh()
    assert view.state.status == Status.FINISHED
    assert [found.number for found in view.history.settled] == list(range(1, rounds + 1))
    for found in view.history.settled:
        assert found.settlement is not None
        assert len(found.committed) == len(set(found.committed)) == 4
        assert len(found.reveals) == len(found.revealed) == 4
        assert all(record.reason == 0 for record in found.settlement.records)
        assert sum(record.share for record in found.settlement.records) == view.params.reward


TRAINER_MOMENTS = ["after-join", "before-write", "after-write", "after-commit", "after-reveal"]


@pytest.mark.parametrize("moment", TRAINER_MOMENTS)
def test_a_trainer_that_is_killed_goes_on_where_it_stopped(town: Town, moment: str) -> None:
    stage = town.open(["honest"] * 4, rounds=1)
    stage.trainers.pop(3).close()
    dying = start(town, stage, "3", moment)
    play_beside(stage, dying)
    assert ended(dying) == -signal.SIGKILL
    again = start(town, stage, "3")
    play_beside(stage, again)
    assert ended(again) == 0
    is_paid_once(stage)


AGGREGATOR_MOMENTS = ["after-close_commits", "after-put_directory", "before-settle", "after-settle"]


@pytest.mark.parametrize("moment", AGGREGATOR_MOMENTS)
def test_an_aggregator_that_is_killed_goes_on_where_it_stopped(town: Town, moment: str) -> None:
    stage = town.open(["honest"] * 4, rounds=1)
    stage.aggregator = None  # type: ignore[assignment]
    dying = start(town, stage, "aggregator", moment)
    play_beside(stage, dying)
    assert ended(dying) == -signal.SIGKILL
    again = start(town, stage, "aggregator")
    play_beside(stage, again)
    assert ended(again) == 0
    is_paid_once(stage)
    params = stage.view.params
    credit = town.chain.account(stage.project, town.signer(AGGREGATOR).address).credit
    assert credit == params.bond + params.fee


def test_two_processes_do_not_train_for_one_account(town: Town) -> None:
    stage = town.open(["honest"] * 4, rounds=1)
    first = stage.trainers[0]
    folder = first._journal.folder
    arguments = (stage.view, first.signer, town.store, town.srs, first.dataset, folder)
    with pytest.raises(JournalError, match="another process trains for this account and project"):
        TrainerClient(*arguments)
    first.close()
    TrainerClient(*arguments).close()


# --------------------------------------------------------------------- the chain


@pytest.fixture
def village(tmp_path: Path) -> Iterator[Town]:
    """Return a town on a devnet that outlives its process, with its state in a file."""
    home = tmp_path / "home"
    devnet = up(home, free_port())
    yield Town(devnet.rpc, home)
    down(home)


def saved(town: Town) -> None:
    """Wait until the devnet has saved what it is now; it does so every second."""
    file, now = town.home / "devnet-state.json", time.time()
    while not file.exists() or file.stat().st_mtime < now:
        assert time.time() < now + 20
        time.sleep(0.05)


def restart(town: Town, how: signal.Signals) -> None:
    pid = find(town.home).pid
    os.kill(pid, how)
    os.waitpid(pid, 0)
    up(town.home)


def play_until(stage: Stage, until: Callable[[ProjectView], object]) -> None:
    """Step one actor at a time until the view fulfils `until`."""
    for _ in range(300):
        for actor in (*stage.trainers, stage.aggregator):
            stage.view.refresh()
            if until(stage.view):
                return
            actor.step()
    raise AssertionError(f"the market stands still: {stage.view.state}")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_chain_that_restarts_in_the_middle_goes_on_with_every_round(
    village: Town, how: signal.Signals
) -> None:
    stage = village.open(["honest"] * 4, rounds=2)
    # What follows the last save is lost with a chain that is killed, and done again.
    saved(village)
    for count in (2, 4):
        # Once among the commits of a round, once among the reveals of the next.
        if count == 2:
            play_until(stage, lambda view: len(view.round.committed) == 2)
        else:
            play_until(stage, lambda view: view.state.round == 2 and len(view.round.reveals) == 2)
        restart(village, how)
    stage.play(lambda view: view.ended)
    is_paid_once(stage, rounds=2)


def test_a_chain_that_forgets_two_rounds_is_given_the_same_updates_again(town: Town) -> None:
    stage = town.open(["honest"] * 4, rounds=2)
    play_until(stage, lambda view: len(view.round.committed) == 2)
    before = town.chain.request("evm_snapshot", [])
    stage.play(lambda view: view.ended)
    forgotten = [stage.view.history.round(number).reveals for number in (1, 2)]
    assert town.chain.request("evm_revert", [before])
    for actor in (*stage.trainers, stage.aggregator):
        # Who finds out by a lost transaction acts later than others, and another order of reveals
        # gives other weights, by their rounding, and thus another model to go on from.
        actor.signer.forget_nonce()
    stage.view.refresh()
    assert stage.view.state.round == 1 and not stage.view.round.reveals
    stage.play(lambda view: view.ended)
    is_paid_once(stage, rounds=2)
    assert [stage.view.history.round(number).reveals for number in (1, 2)] == forgotten


def test_reveals_that_come_back_in_another_order_keep_their_updates(town: Town) -> None:
    stage = town.open(["honest"] * 4, rounds=1)
    play_until(stage, lambda view: len(view.round.committed) == 4)
    before = town.chain.request("evm_snapshot", [])
    play_until(stage, lambda view: len(view.round.reveals) == 3)
    stage.aggregator.step()  # fetches the three
    order = [reveal.trainer for reveal in stage.view.round.reveals]
    assert town.chain.request("evm_revert", [before])
    for actor in (*stage.trainers, stage.aggregator):
        actor.signer.forget_nonce()
    stage.trainers.reverse()
    stage.play(lambda view: view.ended)
    again = stage.view.history.round(1).reveals
    assert [reveal.trainer for reveal in again][:3] != order
    is_paid_once(stage, rounds=1)


def test_a_chain_that_goes_back_between_two_questions_is_asked_again(town: Town) -> None:
    stage, chain = town.open(["honest"] * 4, rounds=1), town.chain
    before, head = chain.request("evm_snapshot", []), chain.head
    play_until(stage, lambda view: len(view.history.active) == 4)
    chain.request("evm_mine", [])

    def head_and_back() -> Block:
        found, chain.head = head(), head
        assert chain.request("evm_revert", [before])
        return found

    chain.head = head_and_back
    assert stage.view.refresh()
    assert stage.view.history.active == [] and stage.view.block == head()
    for trainer in stage.trainers:
        trainer.signer.forget_nonce()


@pytest.mark.parametrize("kind", ["Settled", "Revealed"])
def test_a_state_that_is_ahead_of_its_block_is_asked_for_again(
    town: Town, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # As anvil gives it, now and then, while it mines.
    stage, chain = town.open(["honest"] * 4, rounds=2), town.chain
    view, head, state = ProjectView(chain, stage.view.project), chain.head, chain.state
    if kind == "Settled":
        stage.play(lambda view: view.state.settled_rounds == 1)
    else:
        play_until(stage, lambda view: len(view.round.reveals) == 2)
    told = [event.block for event in chain.events(stage.view.project, 0, head().number, [kind])]
    heads = [chain.block(told[-1] - 1), head()]
    monkeypatch.setattr(chain, "head", lambda: heads.pop(0))
    monkeypatch.setattr(chain, "state", lambda project, _: state(project, head().number))
    assert view.refresh() and heads == []
    assert len(view.history.settled) == view.state.settled_rounds == (kind == "Settled")
    assert len(view.round.reveals) == view.state.reveals == 2 * (kind == "Revealed")


def test_while_the_chain_is_down_roles_fail_by_name_and_then_go_on(village: Town) -> None:
    stage = village.open(["honest"] * 4, rounds=1)
    play_until(stage, lambda view: len(view.round.committed) == 2)
    down(village.home)
    village.chain.patience_s = 0.2
    for actor in (*stage.trainers, stage.aggregator):
        with pytest.raises(ChainError, match="did not answer .*tribute devnet status"):
            actor.step()
    up(village.home)
    village.chain.patience_s = 20.0
    stage.play(lambda view: view.ended)
    is_paid_once(stage)
    address = village.signer(FIRST_TRAINER).address
    assert stage.view.history.round(1).committed.count(address) == 1
