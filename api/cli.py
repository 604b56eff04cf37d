"""Serve the API and keep its index, from the command line."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.telemetry import (
    LogOption,
    MetricsPortOption,
    configure_logging,
    serving_metrics,
)
from marketplace.terminal import (
    DEFAULT_HOME,
    HomeOption,
    IpfsOption,
    JsonOption,
    Output,
    RpcOption,
    open_chain,
)

if TYPE_CHECKING:
    from pathlib import Path

    from api.describe import Describer
    from api.index import Index

__all__ = ["index_app", "serve"]

PORT = 8600

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="TRIBUTE_DATABASE",
        help="sqlite:///FILE or postgresql://USER@HOST:PORT/NAME; index.db in the home if none.",
        show_default=False,
    ),
]

index_app = typer.Typer(no_args_is_help=True, help="Keep the API's index of the chain.")


def _describer(index: Index, home: Path, ipfs: list[str] | None) -> Describer:
    from api.describe import READ_S, Describer
    from ipfs.reader import reader
    from ipfs.select import open_store

    return Describer(index, reader(open_store(home / "ipfs", ipfs or ()), READ_S))


@index_app.command("run")
def run_command(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    database: DatabaseOption = None,
    ipfs: IpfsOption = None,
    metrics_port: MetricsPortOption = None,
    log: LogOption = "text",
) -> None:
    """Follow the chain until Ctrl-C."""
    from api.follow import Follower
    from api.index import Index, default_database

    configure_logging(log)
    chain = open_chain(home, rpc)
    index = Index(database or default_database(home), chain.deployment)
    follower, stop = Follower(index, chain), threading.Event()
    describer = _describer(index, home, ipfs)
    describing = threading.Thread(target=describer.run, args=(stop,), name="describer")
    describing.start()
    try:
        with serving_metrics(follower.metrics.registry, metrics_port), suppress(KeyboardInterrupt):
            follower.run(stop)
    finally:
        stop.set()
        describing.join()
        index.close()
    Output().note("stopped")


@index_app.command("rebuild")
def rebuild_command(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    database: DatabaseOption = None,
    ipfs: IpfsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget the index and build it again from the chain; the same rows come out."""
    from api.follow import Follower
    from api.index import Index, clear, default_database

    chain = open_chain(home, rpc)
    url = database or default_database(home)
    clear(url)
    index = Index(url, chain.deployment)
    try:
        Follower(index, chain).catch_up()
        describer = _describer(index, home, ipfs)
        while describer.look():
            pass
        block, rows = index.cursor().block, index.fingerprint()
    finally:
        index.close()
    shown = f"indexed to block {block}; rows {rows[:16]}…"
    Output(as_json).result({"block": block, "rows": rows}, shown)


@index_app.command("status")
def status_command(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far the index has come."""
    from rich.table import Table

    from api.index import Index, default_database

    chain = open_chain(home, rpc)
    index = Index(database or default_database(home), chain.deployment)
    try:
        at, rows = index.cursor(), index.fingerprint()
    finally:
        index.close()
    head = chain.head().number
    data = {**asdict(at), "head": head, "lag": max(0, head - at.block), "rows": rows}
    data["block_hash"] = "0x" + at.block_hash.hex()
    table = Table(box=None, show_header=False)
    for name, value in data.items():
        table.add_row(name.replace("_", " "), str(value))
    Output(as_json).result(data, table)


def serve(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    database: DatabaseOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.", min=0, max=65535)] = PORT,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Other page that may read the API (CORS), e.g. http://127.0.0.1:5173."),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Requests a second that a client may make; 0 for any.", min=0)
    ] = 100.0,
    index: Annotated[
        bool, typer.Option(help="Keep the index here; off where `tribute index run` does.")
    ] = True,
    ipfs: IpfsOption = None,
    log: LogOption = "text",
) -> None:
    """Serve the API and the dashboard, and keep their index up to date, until Ctrl-C."""
    from api.app import Settings
    from api.server import running_server
    from ipfs.select import open_store

    configure_logging(log)
    chain = open_chain(home, rpc)
    settings = Settings(origins=tuple(origin or ()), rate=rate, burst=max(1, int(2 * rate)))
    store = open_store(home / "ipfs", ipfs or ())
    serving = running_server(home, chain, database, host, port, settings, follow=index, store=store)
    with serving as server, suppress(KeyboardInterrupt):
        Output().note(f"dashboard and API at {server.url}  (Ctrl-C stops them)")
        server.wait()
    Output().note("stopped")
