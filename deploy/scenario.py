"""Run a whole market on a local chain: sponsor, aggregator and trainers in processes of their own.

Covered: the processes, what they report, the money before and after. Not covered: what a person
sees (`deploy.demo`), what a round costs (`tests/bench_market.py`); both run scenarios.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from deploy.deployment import deploy
from deploy.opening import Terms, open_project, to_units
from ipfs import BlockStore
from marketplace.chain import Chain
from marketplace.errors import MarketplaceError
from marketplace.history import ProjectView
from marketplace.proof.srs import Progress, Srs
from marketplace.signer import Signer
from marketplace.types import NOBODY, Deployment, Membership, Status
from marketplace.wallet import dev_account

__all__ = [
    "AGGREGATOR",
    "FIRST_TRAINER",
    "SPONSOR",
    "TREASURY",
    "Balance",
    "Market",
    "Notice",
    "Scenario",
    "running_market",
]

SPONSOR, AGGREGATOR, TREASURY, FIRST_TRAINER = 0, 1, 2, 3
"""Numbers of the devnet accounts that play the roles."""

_POLL_S = 0.02
_POLL_MOST_S = 0.16
_FOLLOW_S = 0.25
"""Seconds without a report after which a watcher looks at the chain itself."""
_STOP_S = 20.0


@dataclass(frozen=True)
class Scenario:
    """Describe a market: the sponsor's terms, and each trainer's data and behaviour.

    `data` and `behaviours` have one entry a trainer; `workers` processes share the trainers,
    `provers` the aggregator's proofs; `ahead` lets trainers begin a round while the one before is
    proven. With `root`, a data set, the sponsor takes part as the root trainer.
    `terms.aggregator`, `terms.slash_sink` and `terms.root` are filled in.
    """

    terms: Terms
    data: Sequence[str]
    behaviours: Sequence[str]
    workers: int = 2
    provers: int = 1
    seed: int = 0
    ahead: bool = True
    root: str | None = None


@dataclass(frozen=True)
class Notice:
    """Tell that a role reached a stage of a round; the stage "failed" carries an error's text.

    `who` is the number of a devnet account; `at` is in seconds of the machine's clock. The stage
    "proving" comes several times, with `done` parts of `of`.
    """

    who: int
    stage: str
    round: int
    text: str
    at: float
    done: int = 0
    of: int = 0


@dataclass(frozen=True)
class Balance:
    """Account for one participant, in the token's smallest unit.

    `expected` is what the settlements' records say it won or lost, `before` and `after` are what
    the token says it holds.
    """

    who: int
    role: str
    address: str
    before: int
    after: int
    expected: int

    @property
    def good(self) -> bool:
        """Tell whether the token and the records agree to the last unit."""
        return self.after - self.before == self.expected


class Market:
    """Watch a running market, and settle up when it has ended."""

    def __init__(
        self,
        home: Path,
        scenario: Scenario,
        view: ProjectView,
        store: BlockStore,
        srs: Srs,
        notices: Any,
    ) -> None:
        self.home = home
        self.scenario = scenario
        self.view = view
        self.store = store
        self.srs = srs
        self._notices = notices
        self._processes: list[BaseProcess] = []
        self._before: dict[int, int] = {}

    @property
    def trainers(self) -> range:
        """Return the account numbers of the trainers."""
        return range(FIRST_TRAINER, FIRST_TRAINER + len(self.scenario.data))

    @property
    def actors(self) -> list[int]:
        """Return the account numbers of all who train, the root trainer's, if any, last."""
        return [*self.trainers, *([SPONSOR] if self.scenario.root else [])]

    def follow(self) -> Iterator[Notice]:
        """Give what the roles report until the project has ended.

        Raises MarketplaceError as soon as one of them fails.
        """
        while True:
            self.view.refresh()
            try:
                while True:
                    notice: Notice = self._notices.get(timeout=_FOLLOW_S)
                    if notice.stage == "failed":
                        raise MarketplaceError(notice.text)
                    if notice.stage in ("settled", "expired"):
                        self.view.refresh()
                    yield notice
            except queue.Empty:
                if self.view.ended:
                    return
            for process in self._processes:
                if process.exitcode not in (None, 0):
                    raise MarketplaceError(f"{process.name} stopped with {process.exitcode}")

    def settle_up(self) -> list[Balance]:
        """Let everybody leave, close the project, withdraw, and return the balances."""
        chain, project, params = self.view.chain, self.view.project, self.view.params
        numbers = [SPONSOR, AGGREGATOR, TREASURY, *self.trainers]
        signers = {number: Signer(chain, dev_account(number)) for number in numbers}
        for number in self.trainers:
            membership = chain.account(project, signers[number].address).membership
            if membership in (Membership.ACTIVE, Membership.INACTIVE):
                signers[number].leave(project)
        if chain.state(project).status in (Status.FINISHED, Status.HALTED):
            signers[SPONSOR].close_project(project)
        for signer in signers.values():
            if chain.account(project, signer.address).credit:
                signer.withdraw(project)
        self.view.refresh()
        gains = self._gains(signers)
        return [
            Balance(
                number,
                _role(number),
                signers[number].address,
                self._before[number],
                chain.token_balance(params.token, signers[number].address),
                gains[number],
            )
            for number in numbers
        ]

    def _gains(self, signers: dict[int, Signer]) -> dict[int, int]:
        """Return what each account won or lost by the records of the settlements alone."""
        numbers = {signer.address: number for number, signer in signers.items()}
        gains = dict.fromkeys(signers, 0)
        for found in self.view.history.rounds.values():
            if found.bond_lost:
                gains[AGGREGATOR] -= found.bond_lost
                if found.failed:
                    gains[TREASURY] += found.bond_lost
                else:
                    for reveal in found.reveals:
                        gains[numbers[reveal.trainer]] += found.bond_lost // len(found.reveals)
            if found.settlement is None:
                continue
            fee = self.view.params.fee
            gains[SPONSOR] -= fee
            gains[numbers[found.settlement.settler]] += fee
            for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
                gains[numbers[reveal.trainer]] += record.share - record.slashed
                gains[SPONSOR] -= record.share
                gains[TREASURY] += record.slashed
        return gains


def _role(number: int) -> str:
    roles = {SPONSOR: "sponsor", AGGREGATOR: "aggregator", TREASURY: "slash sink"}
    return roles.get(number, f"trainer {number - FIRST_TRAINER}")


@contextmanager
def running_market(rpc: str, home: Path, srs: Srs, scenario: Scenario) -> Iterator[Market]:
    """Deploy, open the project and start everybody; stop them when the block ends."""
    deployment = deploy(rpc, dev_account(SPONSOR), home, srs)
    chain = Chain.open(deployment)
    store = BlockStore(home / "ipfs")
    sponsor = Signer(chain, dev_account(SPONSOR))
    aggregator, sink = dev_account(AGGREGATOR).address, dev_account(TREASURY).address
    root = dev_account(SPONSOR).address if scenario.root else NOBODY
    terms = replace(scenario.terms, aggregator=aggregator, slash_sink=sink, root=root)
    scenario = replace(scenario, terms=terms)
    decimals = chain.token_decimals(deployment.token)
    cost = to_units(terms.rounds * (terms.reward + terms.fee), decimals)
    stakes = [to_units(terms.stake, decimals)] * len(scenario.data)
    amounts = [cost, to_units(terms.bond, decimals), 0, *stakes]
    for number, amount in enumerate(amounts):
        sponsor.mint(deployment.token, dev_account(number).address, amount)
    project = open_project(sponsor, store, srs, terms)

    context = multiprocessing.get_context("spawn")
    notices, stop = context.Queue(), context.Event()
    market = Market(home, scenario, ProjectView(chain, project), store, srs, notices)
    market._before = dict(enumerate(amounts))
    market._processes = [
        context.Process(
            target=_run_aggregator,
            args=(deployment, home, project, scenario.provers, notices, stop),
            name="the aggregator",
            daemon=True,
        )
    ]
    for k in range(scenario.workers):
        chosen = market.actors[k :: scenario.workers]
        if chosen:
            market._processes.append(
                context.Process(
                    target=_run_trainers,
                    args=(deployment, home, project, scenario, chosen, notices, stop),
                    name=f"trainer process {k}",
                    daemon=True,
                )
            )
    try:
        for process in market._processes:
            process.start()
        yield market
    finally:
        stop.set()
        deadline = time.monotonic() + _STOP_S
        for process in market._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _paused(acted: bool, pause: float) -> float:
    """Sleep where nothing was due, each time longer, and return the next pause.

    Looking fifty times a second through a long wait would take a tenth of a core from those who
    train.
    """
    if acted:
        return _POLL_S
    time.sleep(pause)
    return min(2 * pause, _POLL_MOST_S)


def _prepare(notices: Any, who: int) -> Any:
    # Ctrl-C reaches every process of the terminal; the parent stops its own in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def notify(stage: str, round_number: int, text: str, number: int = who) -> None:
        notices.put(Notice(number, stage, round_number, text, time.time()))

    return notify


def _run_aggregator(
    deployment: Deployment, home: Path, project: bytes, provers: int, notices: Any, stop: Any
) -> None:
    from aggregator.service import AggregatorService
    from marketplace.proof.shards import Shards

    notify = _prepare(notices, AGGREGATOR)

    @contextmanager
    def bar(_text: str) -> Iterator[Progress]:
        yield lambda done, of: notices.put(
            Notice(AGGREGATOR, "proving", 0, "", time.time(), done, of)
        )

    try:
        chain = Chain(deployment)
        view = ProjectView(chain, project)
        srs = Srs.open(deployment.srs_path(home))
        with Shards(srs, provers) as shards:
            service = AggregatorService(
                view,
                Signer(chain, dev_account(AGGREGATOR)),
                BlockStore(home / "ipfs"),
                srs,
                notify=notify,
                shards=shards,
                bar=bar,
            )
            pause = _POLL_S
            while not stop.is_set() and not view.ended:
                pause = _paused(service.step(), pause)
    except Exception as error:
        notify("failed", 0, f"the aggregator failed: {type(error).__name__}: {error}")


def _run_trainers(
    deployment: Deployment,
    home: Path,
    project: bytes,
    scenario: Scenario,
    chosen: Sequence[int],
    notices: Any,
    stop: Any,
) -> None:
    import torch

    from trainer.client import TrainerClient
    from trainer.data import load

    notify = _prepare(notices, chosen[0])
    torch.set_num_threads(1)
    try:
        chain = Chain(deployment)
        view = ProjectView(chain, project)
        store, srs = BlockStore(home / "ipfs"), Srs.open(deployment.srs_path(home))

        def client(number: int) -> TrainerClient:
            k = number - FIRST_TRAINER
            if number == SPONSOR and scenario.root:
                data, behaviour, seed = scenario.root, "honest", len(scenario.data)
            else:
                data, behaviour, seed = scenario.data[k], scenario.behaviours[k], k

            def tell(stage: str, round_number: int, text: str) -> None:
                notify(stage, round_number, text, number)

            return TrainerClient(
                view,
                Signer(chain, dev_account(number)),
                store,
                srs,
                load(data),
                home / "journal",
                behaviour=behaviour,
                seed=scenario.seed + seed,
                allow_code=scenario.terms.allow_code,
                notify=tell,
                ahead=scenario.ahead,
            )

        clients = [client(number) for number in chosen]
        pause = _POLL_S
        while not stop.is_set() and not view.ended:
            pause = _paused(sum(client.step() for client in clients) > 0, pause)
    except Exception as error:
        notify("failed", 0, f"a trainer failed: {type(error).__name__}: {error}")
