"""Play a market step by step in one process, on a real chain and a real store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aggregator.service import AggregatorService
from deploy.deployment import deploy, ensure_srs
from deploy.opening import Terms, open_project
from ipfs import BlockStore
from marketplace.chain import Chain
from marketplace.codec import Description, Training
from marketplace.history import ProjectView
from marketplace.proof.srs import Srs
from marketplace.signer import Signer
from marketplace.types import NOBODY, Deployment
from marketplace.wallet import dev_account
from trainer.client import TrainerClient
from trainer.data import load
from trainer.privacy import Privacy

SPONSOR, AGGREGATOR, SINK, STRANGER, FIRST_TRAINER = 0, 1, 2, 3, 10
PARAMETERS = 650


class Town:
    """Hold a chain with a deployed marketplace, and a store that everybody shares."""

    def __init__(self, rpc: str, home: Path) -> None:
        self.home = home
        self.srs: Srs = ensure_srs(home, PARAMETERS + 8)
        self.deployment: Deployment = deploy(rpc, dev_account(SPONSOR), home, self.srs)
        self.chain = Chain.open(self.deployment)
        self.store = BlockStore(home / "ipfs")
        self._signers: dict[int, Signer] = {}

    def signer(self, number: int) -> Signer:
        """Return a devnet account that can pay."""
        if number not in self._signers:
            self._signers[number] = Signer(self.chain, dev_account(number))
            self._signers[number].mint(self.deployment.token, dev_account(number).address, 10**24)
        return self._signers[number]

    def wait(self, seconds: int) -> None:
        """Let the chain's clock run ahead."""
        self.chain.request("evm_increaseTime", [seconds])
        self.chain.request("evm_mine", [])

    def open(
        self,
        behaviours: Sequence[str],
        privacy: Privacy | None = None,
        root: str | None = None,
        **changes: Any,
    ) -> Stage:
        """Open a project of a logistic regression on digits, with a trainer a behaviour.

        `root` is how the sponsor behaves as the root trainer, the last one; None for no root.
        """
        terms = Terms(
            description=Description(
                title="Digits",
                model="logistic",
                model_options={"features": 64, "classes": 10},
                training=Training(batch_size=16),
            ),
            aggregator=dev_account(AGGREGATOR).address,
            slash_sink=dev_account(SINK).address,
            root=dev_account(SPONSOR).address if root else NOBODY,
            rounds=2,
            capacity=len(behaviours),
            min_updates=max(2 if root else 1, len(behaviours) - 2),
        )
        project = open_project(
            self.signer(SPONSOR), self.store, self.srs, replace(terms, **changes)
        )
        return Stage(self, project, behaviours, privacy, root)


class Stage:
    """Let the actors of one project act in turn."""

    def __init__(
        self,
        town: Town,
        project: bytes,
        behaviours: Sequence[str],
        privacy: Privacy | None = None,
        root: str | None = None,
    ) -> None:
        self.town = town
        self.project = project
        self.view = ProjectView(town.chain, project)
        self.aggregator = self.service(AGGREGATOR)
        actors = [(FIRST_TRAINER + k, behaviour) for k, behaviour in enumerate(behaviours)]
        actors += [(SPONSOR, root)] if root else []
        self.trainers = [
            TrainerClient(
                ProjectView(town.chain, project),
                town.signer(number),
                town.store,
                town.srs,
                load(f"digits{'?most=100' if number == SPONSOR else ''}@{k}/{len(actors)}"),
                town.home / f"journal-{project.hex()[:8]}",
                behaviour=behaviour,
                seed=k,
                privacy=privacy,
            )
            for k, (number, behaviour) in enumerate(actors)
        ]
        assert self.aggregator.step()  # the bond

    def service(self, number: int, **options: Any) -> AggregatorService:
        """Return the aggregator's service, run by an account that need not be the named one."""
        return AggregatorService(
            ProjectView(self.town.chain, self.project),
            self.town.signer(number),
            self.town.store,
            self.town.srs,
            **options,
        )

    def play(self, until: Callable[[ProjectView], bool]) -> None:
        """Step everybody until the view fulfils `until`."""
        for _ in range(400):
            self.view.refresh()
            if until(self.view):
                return
            for actor in (*self.trainers, self.aggregator):
                actor.step()
        raise AssertionError(f"the market stands still: {self.view.state}")

    def play_until_revealed(self, round_number: int = 1) -> None:
        """Step the trainers until all revealed; the aggregator does nothing."""
        for _ in range(100):
            self.view.refresh()
            state, found = self.view.state, self.view.round
            if state.round == round_number and state.reveals == len(self.trainers):
                return
            if len(found.committed) == len(self.trainers) and not state.commits:
                self.town.signer(STRANGER).close_commits(self.project, round_number)
            for trainer in self.trainers:
                trainer.step()
        raise AssertionError(f"the market stands still: {self.view.state}")
