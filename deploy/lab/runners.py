"""Run cells side by side: by processes on this machine, or by Ray on a cluster.

A cell's result is the same however it is run. Rows come in the order in which runs end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from deploy.lab.experiment import Cell
from deploy.lab.simulate import run
from marketplace.errors import InputError

__all__ = ["Row", "Runner", "by_processes", "by_ray"]

Row = dict[str, Any]
Runner = Callable[[Sequence[Cell]], Iterable[Row]]


def by_processes(processes: int = 1, workers: int = 1) -> Runner:
    """Run as many cells as `processes` at a time, each with `workers` that train its clients."""

    def runner(cells: Sequence[Cell]) -> Iterator[Row]:
        work = partial(run, processes=workers)
        if processes == 1:
            _single_thread()
            yield from map(work, cells)
            return
        # Threads of torch do not survive a fork.
        with ProcessPoolExecutor(processes, get_context("spawn"), _single_thread) as pool:
            for future in as_completed([pool.submit(work, cell) for cell in cells]):
                yield future.result()

    return runner


def _single_thread() -> None:
    torch.set_num_threads(1)


def by_ray(address: str) -> Runner:
    """Run each cell as a task of one core on the Ray cluster at `address` (extra `ray`).

    `local` starts one on this machine's loopback that ends with the runs. The nodes of a cluster
    need this package and, at the same place, the data.
    """
    if address != "local":
        _check_answers(address)
    # Ray reads these when it is imported: its workers would give way to all other processes, it
    # would report its use, and what it starts here would listen on every interface.
    os.environ["RAY_worker_niceness"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; pip install '.[ray]'") from None

    options: dict[str, Any] = {"address": address}
    if address == "local":
        options["include_dashboard"] = False
    shared = {name: os.environ[name] for name in ("TRIBUTE_DATA",) if name in os.environ}

    def runner(cells: Sequence[Cell]) -> Iterator[Row]:
        environment = {**shared, "OMP_NUM_THREADS": "1"}
        ray.init(log_to_driver=False, runtime_env={"env_vars": environment}, **options)
        try:
            work = ray.remote(num_cpus=1)(_run_alone)
            waiting = [work.remote(cell) for cell in cells]
            while waiting:
                done, waiting = ray.wait(waiting)
                yield from ray.get(done)
        finally:
            ray.shutdown()

    return runner


def _check_answers(address: str) -> None:
    """Raise InputError unless something listens there; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}); give local or HOST:PORT, which "
            "`ray start --head` prints"
        ) from error


def _run_alone(cell: Cell) -> Row:
    _single_thread()
    return run(cell)
