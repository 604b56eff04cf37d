"""Run an aggregator from the command line."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from marketplace.telemetry import (
    LogOption,
    MetricsPortOption,
    RoleTelemetry,
    configure_logging,
    serving_metrics,
)
from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    IpfsOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Money,
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
    ipfs: IpfsOption = None,
    grace: Annotated[
        float, typer.Option(help="Seconds to wait for an update that cannot be fetched.")
    ] = 30.0,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that proofs are made with; one a core if not given.",
            min=1,
            show_default=False,
        ),
    ] = None,
    metrics_port: MetricsPortOption = None,
    log: LogOption = "text",
    as_json: JsonOption = False,
) -> None:
    """Post the bond if need be, prove and settle rounds until the project ends. Ctrl-C is safe.

    Any account may run this: one that the project does not name settles what the named one left
    undone after its exclusive window, and earns the fee.
    """
    from aggregator.service import AggregatorService
    from ipfs.select import open_store
    from marketplace.history import ProjectView
    from marketplace.proof.shards import Shards
    from marketplace.proof.srs import Srs
    from marketplace.types import Status

    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    out = Output(as_json)
    configure_logging(log)
    telemetry = RoleTelemetry("aggregator", found, signer.address, out.note, log == "json")
    view = ProjectView(chain, found)
    srs = Srs.open(chain.deployment.srs_path(home))
    with Shards(srs, processes or len(os.sched_getaffinity(0))) as shards:
        service = AggregatorService(
            view,
            signer,
            open_store(home / "ipfs", ipfs or ()),
            srs,
            grace_s=grace,
            notify=telemetry.notify,
            shards=shards,
            bar=out.bar,
        )
        if service.named and view.state.status == Status.BONDING:
            signer.fund_on_devnet(view.params.token, view.params.bond)
        role = "the aggregator" if service.named else "not the named aggregator, but ready,"
        out.note(f"{signer.address} is {role} for project 0x{found.hex()[:12]}…")
        with serving_metrics(telemetry.registry, metrics_port):
            while not view.ended:
                if not service.step():
                    time.sleep(_POLL_S)
                telemetry.looked(view.state.round, view.state.settled_rounds)
    credit = chain.account(found, signer.address).credit
    status, shown = view.state.status.name.lower(), Money.of(chain, view.params.token).text(credit)
    out.result(
        {"status": status, "credit": credit},
        f"the project has {status}; {shown} are yours: `tribute withdraw {project}`",
    )
