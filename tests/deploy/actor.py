"""Play one role in a process of its own, and kill it at a given moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aggregator.service import AggregatorService
from ipfs import BlockStore
from marketplace.chain import Chain
from marketplace.history import ProjectView
from marketplace.proof.srs import Srs
from marketplace.signer import Signer
from marketplace.types import Deployment
from marketplace.wallet import dev_account
from tests.market import AGGREGATOR, FIRST_TRAINER
from trainer.client import TrainerClient
from trainer.data import load


def mortal(target: Any, moment: str) -> None:
    """Make the process kill itself before or after `target` does what the moment names."""
    when, _, name = moment.partition("-")
    if not hasattr(target, name):
        return
    living: Callable[..., Any] = getattr(target, name)

    def die(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            living(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(target, name, die)


def act(home: Path, project: bytes, role: str, moment: str) -> None:
    """Act until the project has ended.

    A moment is the name of something that the role does to the chain or the store, after "before-"
    or "after-"; "never" is none.
    """
    torch.set_num_threads(1)
    deployment = Deployment.load(home)
    chain = Chain(deployment)
    view = ProjectView(chain, project)
    store, srs = BlockStore(home / "ipfs"), Srs.open(deployment.srs_path(home))
    actor: AggregatorService | TrainerClient
    if role == "aggregator":
        signer = Signer(chain, dev_account(AGGREGATOR))
        actor = AggregatorService(view, signer, store, srs)
    else:
        signer = Signer(chain, dev_account(FIRST_TRAINER + int(role)))
        journal = home / "journal"
        actor = TrainerClient(view, signer, store, srs, load(f"digits@{role}/4"), journal)
        mortal(actor._journal, moment)
    for target in (signer, store, chain):
        mortal(target, moment)
    while not view.ended:
        if not actor.step():
            time.sleep(0.02)
