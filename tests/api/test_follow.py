"""Follow real chains: what the index holds is what the contract holds, whatever happens."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.errors import ForeignIndexError
from api.follow import Follower
from api.index import Index
from api.tables import accounts, blocks, events, params_of, projects, rounds, updates
from deploy.devnet import running_anvil
from marketplace.chain import Chain
from marketplace.history import ProjectView
from marketplace.types import Deployment, Membership, Status
from tests.api.bazaar import AGGREGATOR, FIRST_TRAINER, SPONSOR, STRANGER, Bazaar
from tests.api.listener import wait_for

CROWD = range(FIRST_TRAINER, FIRST_TRAINER + 7)
NewDatabase = Callable[[], str]


Follow = Callable[..., Follower]


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Return what makes followers, whose indices are closed when the test ends."""
    made: list[Follower] = []

    def make(bazaar: Bazaar, url: str, **options: Any) -> Follower:
        made.append(Follower(Index(url, bazaar.deployment), bazaar.chain, **options))
        return made[-1]

    yield make
    for follower in made:
        follower.index.close()


def rows(index: Index, table: Any) -> list[dict[str, Any]]:
    with index.engine.connect() as connection:
        query = select(table).order_by(*table.primary_key)
        return [dict(row) for row in connection.execute(query).mappings()]


def check_against_contract(bazaar: Bazaar, index: Index) -> None:
    """Compare every project and account with what the contract's views say."""
    chain = bazaar.chain
    found = rows(index, projects)
    assert [row["id"] for row in found] == chain.projects()
    held = 0
    for row in found:
        state, params = chain.state(row["id"]), chain.params(row["id"])
        assert params_of(row["params"]) == params
        for name in (
            "round",
            "settled_rounds",
            "failures",
            "opens_at",
            "commit_end",
            "reveal_end",
            "settle_end",
            "active",
            "reveals",
            "sponsor",
            "escrow",
            "bond",
        ):
            assert row[name] == getattr(state, name), name
        assert row["status"] == state.status
        if state.commits:
            assert row["commits"] == state.commits
        its = [entry for entry in rows(index, accounts) if entry["project"] == row["number"]]
        active = sorted(
            (entry for entry in its if entry["membership"] == Membership.ACTIVE),
            key=lambda entry: int(entry["position"]),
        )
        assert tuple(entry["address"] for entry in active) == chain.trainers(row["id"])
        for entry in its:
            account = chain.account(row["id"], entry["address"])
            for name in ("stake", "credit", "strikes"):
                assert entry[name] == getattr(account, name), (name, entry["address"])
            assert entry["membership"] == account.membership
            if account.membership in (Membership.ACTIVE, Membership.LEAVING):
                assert entry["last_commit"] == account.last_commit
                assert entry["exit_at"] == account.exit_at or account.membership == 1
            held += account.stake + account.credit
        held += state.escrow + state.bond
    token = bazaar.deployment.token
    assert held == chain.token_balance(token, bazaar.deployment.marketplace)


def check_against_history(bazaar: Bazaar, index: Index) -> None:
    """Compare rounds and updates with the fold that the roles use, an event at a time."""
    for row in rows(index, projects):
        history = ProjectView(bazaar.chain, row["id"]).history
        its = [entry for entry in rows(index, rounds) if entry["project"] == row["number"]]
        for entry in its:
            found = history.round(entry["number"])
            updates_of = [
                update
                for update in rows(index, updates)
                if (update["project"], update["round"]) == (row["number"], entry["number"])
            ]
            assert {update["trainer"] for update in updates_of} == set(found.committed)
            revealed = sorted(
                (update for update in updates_of if update["place"] >= 0),
                key=lambda update: int(update["place"]),
            )
            assert [(u["trainer"], u["point"], u["cid"]) for u in revealed] == [
                (r.trainer, r.point, r.cid) for r in found.reveals
            ]
            if found.settlement is None:
                assert entry["status"] == ("open" if found.failed is None else "failed")
                assert entry["bond_lost"] == found.bond_lost
                continue
            records = found.settlement.records
            assert [
                (u["share"], u["slashed"], u["weight"], u["strikes"], u["reason"]) for u in revealed
            ] == [(r.share, r.slashed, r.weight, r.strikes, r.reason) for r in records]
            assert [u["status"] == "outlier" for u in revealed] == [r.outlier for r in records]
            assert entry["gram"] == found.settlement.gram
            assert entry["model_cid"] == found.settlement.model_cid
            assert entry["paid"] == sum(r.share for r in records)
            assert entry["outliers"] == sum(r.outlier for r in records)


def play_everything(bazaar: Bazaar) -> None:
    """Let happen whatever can: outliers, exclusions, silence, failure, halt, every way out."""
    first = bazaar.start(CROWD)
    bazaar.play(first, CROWD, hostile=[FIRST_TRAINER])
    bazaar.play(first, CROWD, hostile=[FIRST_TRAINER], exclusions=bytes([0, 0, 0, 3, 0, 0, 0]))
    assert FIRST_TRAINER not in bazaar.numbers(first)  # two strikes took the whole stake
    bazaar.signer(FIRST_TRAINER).leave(first)
    bazaar.play(first, [11, 12, 13, 14], [11, 12, 13])
    assert bazaar.chain.state(first).status == Status.FINISHED
    bazaar.signer(12).leave(first)
    bazaar.signer(12).withdraw(first)
    bazaar.signer(SPONSOR).close_project(first)

    second = bazaar.start(list(CROWD)[:4], capacity=5, fee=0)
    bazaar.play(second, list(CROWD)[:4], outcome="expire")
    bazaar.signer(11).leave(second)
    bazaar.play(second, [10, 12], exclusions=bytes([1, 0]))
    assert bazaar.chain.state(second).status == Status.HALTED
    bazaar.signer(STRANGER).release_stake(second, bazaar.signer(11).address)

    never = bazaar.open(rounds=1)
    bazaar.signer(SPONSOR).close_project(never)
    bazaar.signer(SPONSOR).withdraw(never)

    fourth = bazaar.start(list(CROWD)[:3], patience=0)
    bazaar.play(fourth, [10, 11])
    bazaar.play(fourth, [10, 11])
    bazaar.signer(STRANGER).deactivate(fourth, bazaar.signer(12).address)
    bazaar.signer(12).leave(fourth)
    bazaar.wait(1_000)
    bazaar.signer(STRANGER).release_stake(fourth, bazaar.signer(12).address)


def test_the_index_holds_what_the_contract_holds(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow
) -> None:
    play_everything(bazaar)
    followed = follow(bazaar, new_database())
    followed.catch_up()
    check_against_contract(bazaar, followed.index)
    check_against_history(bazaar, followed.index)
    names = {row["name"] for row in rows(followed.index, events)}
    assert names >= {
        "ProjectOpened",
        "Bonded",
        "Joined",
        "Committed",
        "CommitsClosed",
        "Revealed",
        "Settled",
        "RoundFailed",
        "Deactivated",
        "LeaveRequested",
        "Left",
        "ProjectEnded",
        "ProjectClosed",
        "Withdrawn",
    }


def test_batches_of_any_size_give_the_same_rows(tmp_path: Path, follow: Follow) -> None:
    with running_anvil() as rpc:
        bazaar = Bazaar(rpc, tmp_path / "home", seed=3)
        for trainers in (CROWD, list(CROWD)[:5]):
            bazaar.start(trainers)
        found = [
            follow(bazaar, f"sqlite:///{tmp_path}/{size}.db", batch_blocks=size)
            for size in (1, 3, 7)
        ]
        for _ in range(6):
            bazaar.roam(6)
            for followed in found:
                followed.catch_up()
            check_against_contract(bazaar, found[0].index)
        check_against_history(bazaar, found[0].index)
        at_once = follow(bazaar, f"sqlite:///{tmp_path}/all.db")
        at_once.catch_up()
        prints = {followed.index.fingerprint() for followed in (*found, at_once)}
        assert len(prints) == 1


def test_a_batch_that_comes_twice_changes_nothing(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow
) -> None:
    project = bazaar.start(list(CROWD)[:3])
    bazaar.play(project, [10, 11, 12])
    followed = follow(bazaar, new_database())
    followed.catch_up()
    before, at = followed.index.fingerprint(), followed.index.cursor()
    batch, timestamps = followed._events(at.first_block, at.block, None)
    last = (at.block, at.block_hash, at.block_time)
    followed.index.write(batch, timestamps, last)
    followed.index.write(batch[5:], timestamps, last)
    assert followed.index.fingerprint() == before
    assert followed.index.cursor() == at


def test_a_reorganisation_is_undone_and_replayed(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow
) -> None:
    old = bazaar.start(list(CROWD)[:4])
    bazaar.play(old, [10, 11, 12, 13])
    followed = follow(bazaar, new_database())
    followed.catch_up()
    point = bazaar.chain.request("evm_snapshot", [])
    bazaar.play(old, [10, 11, 12, 13], hostile=[12])
    lost = bazaar.start([14, 15, 16])
    bazaar.play(lost, [14, 15, 16])
    followed.catch_up()
    check_against_contract(bazaar, followed.index)
    assert bazaar.chain.request("evm_revert", [point])
    bazaar.forget_nonces()
    bazaar.projects.remove(lost)
    bazaar.signer(13).leave(old)
    bazaar.play(old, [10, 12], outcome="nothing")
    new = bazaar.start([12, 11])
    followed.catch_up()
    check_against_contract(bazaar, followed.index)
    check_against_history(bazaar, followed.index)
    assert followed.index.cursor().reorganisations == 1
    assert [row["id"] for row in rows(followed.index, projects)] == [old, new]
    fresh = follow(bazaar, new_database())
    fresh.catch_up()
    assert followed.index.fingerprint() == fresh.index.fingerprint()


def test_blocks_mined_anew_at_the_same_height_are_noticed(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow
) -> None:
    project = bazaar.start(list(CROWD)[:3])
    bazaar.play(project, [10, 11, 12])
    followed = follow(bazaar, new_database(), batch_blocks=2)
    followed.catch_up()
    before = bazaar.chain.head()
    bazaar.chain.request("anvil_reorg", [4, []])
    after = bazaar.chain.head()
    assert after.number >= before.number and bazaar.chain.block(before.number).hash != before.hash
    followed.catch_up()
    assert followed.index.cursor().reorganisations == 1
    check_against_contract(bazaar, followed.index)
    known = {row["number"]: row["hash"] for row in rows(followed.index, blocks)}
    for number, block_hash in known.items():
        assert "0x" + block_hash.hex() == bazaar.chain.block(number).hash


def test_a_reorganisation_below_a_batch_while_it_is_read_is_noticed(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = bazaar.start(list(CROWD)[:3])
    followed = follow(bazaar, new_database())
    followed.catch_up()
    bazaar.play(project, [10, 11, 12])
    followed.batch_blocks = 2
    most, header = followed.index.cursor().block + 2, followed._header

    def reorganising(number: int | str) -> Any:
        if number == most:
            monkeypatch.undo()
            depth = bazaar.chain.head().number - most + 4
            bazaar.chain.request("anvil_reorg", [depth, []])
        return header(number)

    monkeypatch.setattr(followed, "_header", reorganising)
    followed.catch_up()
    assert followed.index.cursor().reorganisations == 1
    check_against_contract(bazaar, followed.index)
    known = {row["number"]: row["hash"] for row in rows(followed.index, blocks)}
    for number, block_hash in known.items():
        assert "0x" + block_hash.hex() == bazaar.chain.block(number).hash


def test_a_reorganisation_deeper_than_all_checkpoints_starts_over(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.index.CHECKPOINTS", 2)
    for number in (SPONSOR, AGGREGATOR, *CROWD):
        bazaar.signer(number)
    point = bazaar.chain.request("evm_snapshot", [])
    bazaar.start(list(CROWD)[:2])
    followed = follow(bazaar, new_database(), batch_blocks=1)
    followed.catch_up()
    assert bazaar.chain.request("evm_revert", [point])
    bazaar.forget_nonces()
    bazaar.projects.clear()
    bazaar.start(list(CROWD)[:3])
    followed.catch_up()
    check_against_contract(bazaar, followed.index)
    fresh = follow(bazaar, new_database())
    fresh.catch_up()
    assert followed.index.fingerprint() == fresh.index.fingerprint()


DRIVER = """
import sys
from pathlib import Path
from api.follow import Follower
from api.index import Index
from marketplace.chain import Chain
from marketplace.types import Deployment
deployment = Deployment.load(Path(sys.argv[1]))
follower = Follower(Index(sys.argv[2], deployment), Chain(deployment), batch_blocks=1)
while follower.step():
    print(follower.index.cursor().block, flush=True)
print("done", flush=True)
"""


def test_an_indexer_killed_at_random_points_ends_with_the_same_rows(
    bazaar: Bazaar, new_database: NewDatabase, follow: Follow
) -> None:
    bazaar.start(CROWD)
    bazaar.start(list(CROWD)[:5])
    bazaar.roam(10)
    url, chance = new_database(), random.Random(5)
    killed_at = []
    for turn in range(4):
        command = [sys.executable, "-c", DRIVER, str(bazaar.home), url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            if turn == 3:
                assert driver.stdout.read().endswith("done\n")
                break
            for _ in range(chance.randint(5, 15)):
                line = driver.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.01))
            driver.send_signal(signal.SIGKILL)
            killed_at.append(int(line))
    assert len(set(killed_at)) == 3
    fresh = follow(bazaar, new_database())
    fresh.catch_up()
    again = follow(bazaar, url)
    assert again.index.fingerprint() == fresh.index.fingerprint()
    check_against_contract(bazaar, again.index)


def test_an_outage_of_the_node_is_waited_out(tmp_path: Path, follow: Follow) -> None:
    import threading

    state = tmp_path / "state.json"
    with running_anvil(state) as rpc:
        bazaar = Bazaar(rpc, tmp_path / "home")
        project = bazaar.start(list(CROWD)[:3])
        followed = follow(bazaar, f"sqlite:///{tmp_path}/index.db")
        stop = threading.Event()
        thread = threading.Thread(target=followed.run, args=(stop, 0.05))
        thread.start()
        try:
            wait_for(lambda: followed.index.cursor().block >= bazaar.chain.head().number - 1)
        except BaseException:
            stop.set()
            raise
    try:
        wait_for(lambda: followed.failure is not None)
        with running_anvil(state) as again:
            followed.chain.rpc = again
            moved = Chain(bazaar.deployment, again)
            bazaar.chain = moved
            bazaar.forget_nonces()
            bazaar.play(project, [10, 11, 12])
            head = moved.head().number
            wait_for(lambda: followed.index.cursor().block >= head)
            assert followed.failure is None
            check_against_contract(bazaar, followed.index)
            stop.set()
            thread.join(10)
    finally:
        stop.set()
        thread.join(10)


def test_an_index_of_another_marketplace_is_refused(
    bazaar: Bazaar, new_database: NewDatabase
) -> None:
    url = new_database()
    Index(url, bazaar.deployment).close()
    other = Deployment(**{**vars(bazaar.deployment), "marketplace": bazaar.deployment.token})
    with pytest.raises(ForeignIndexError, match="tribute index rebuild"):
        Index(url, other)
