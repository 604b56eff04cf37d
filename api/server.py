"""Run the API and its indexer in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from api.app import Settings, create_app
from api.describe import READ_S, Describer
from api.errors import StoppedError
from api.follow import Follower
from api.index import Index, default_database
from api.metrics import Metrics
from api.service import Service
from ipfs import BlockStore
from ipfs.reader import reader
from ipfs.store import Store
from marketplace.chain import Chain
from marketplace.errors import InputError

__all__ = ["Server", "running_server"]

_STOP_S = 5.0


class Server:
    """Stand for a server that runs; `url` is where."""

    def __init__(self, url: str, runner: uvicorn.Server, thread: threading.Thread) -> None:
        self.url = url
        self._runner = runner
        self._thread = thread

    def wait(self) -> None:
        """Wait until somebody interrupts the program."""
        while self._thread.is_alive():
            self._thread.join(1.0)
        raise StoppedError(f"the server at {self.url} stopped by itself; the log says why")


@contextmanager
def running_server(
    home: Path,
    chain: Chain,
    database: str | None,
    host: str,
    port: int,
    settings: Settings,
    follow: bool = True,
    store: Store | None = None,
) -> Iterator[Server]:
    """Serve for a block of code, and keep the index up to date meanwhile if `follow`.

    Descriptions are looked for in `store`, in the home's own if none is given.
    """
    index = Index(database or default_database(home), chain.deployment)
    metrics = Metrics()
    follower = Follower(index, chain, metrics=metrics)
    describer = Describer(index, reader(store or BlockStore(home / "ipfs"), READ_S))
    service = Service(index.engine, chain, home, metrics, follower if follow else None)
    config = uvicorn.Config(
        create_app(service, settings),
        log_level="warning",
        timeout_graceful_shutdown=1,
        access_log=False,
    )
    runner = uvicorn.Server(config)
    listening = _listen(host, port)
    stop = threading.Event()
    threads = [threading.Thread(target=runner.run, args=([listening],), name="api")]
    if follow:
        for keeper in (follower, describer):
            name = type(keeper).__name__.lower()
            threads.append(threading.Thread(target=keeper.run, args=(stop,), name=name))
    for thread in threads:
        thread.start()
    try:
        name, taken = listening.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        yield Server(f"http://{shown}:{taken}", runner, threads[0])
    finally:
        stop.set()
        service.closing.set()
        runner.should_exit = True
        for thread in threads:
            thread.join(_STOP_S)
        index.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from error
    # Who connects before the server runs waits for it.
    listening.listen(128)
    return listening
