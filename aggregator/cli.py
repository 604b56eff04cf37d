"""Run an aggregator from the command line."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Output,
    ProjectArgument,
    RpcOption,
    open_chain,
    open_signer,
)

__all__ = ["aggregator_app"]

_POLL_S = 0.2

aggregator_app = typer.Typer(no_args_is_help=True, help="Score, prove and settle rounds.")


@aggregator_app.callback()
def _group() -> None:
    """Score, prove and settle rounds."""


@aggregator_app.command("run")
def run_command(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    grace: Annotated[
        float, typer.Option(help="Seconds to wait for an update that cannot be fetched.")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Post the bond if need be, and settle rounds until the project ends. Ctrl-C is safe."""
    from aggregator.service import AggregatorService
    from ipfs import BlockStore
    from marketplace.history import ProjectView
    from marketplace.proof.srs import Srs

    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    out = Output(as_json)
    view = ProjectView(chain, found)
    service = AggregatorService(
        view,
        signer,
        BlockStore(home / "ipfs"),
        Srs.open(chain.deployment.srs_path(home)),
        grace_s=grace,
        notify=lambda stage, number, text: out.note(f"round {number}  {stage}: {text}"),
    )
    if service.named:
        signer.fund_on_devnet(view.params.token, view.params.bond)
    out.note(f"aggregator {signer.address} for project 0x{found.hex()[:12]}…")
    while not view.ended:
        if not service.step():
            time.sleep(_POLL_S)
    credit = chain.account(found, signer.address).credit
    out.result(
        {"status": view.state.status.name.lower(), "credit": credit},
        f"the project has {view.state.status.name.lower()}; {credit} units are yours: "
        f"`tribute withdraw {project}`",
    )
