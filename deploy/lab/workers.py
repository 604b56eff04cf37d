"""Train the clients of one run in several processes.

Workers are forked when the data sets are there, so that nothing is loaded or pickled again: they
take one client after the other from a shared counter and write what it learned into shared memory.
Beyond training a round costs one message to each worker and one back.

Covered: any `train` that treats clients one at a time. Results are those of one process, bit for
bit, as long as torch uses one thread in both. Not covered: systems without fork.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marketplace.errors import MarketplaceError
from trainer.data import Dataset

__all__ = ["Train", "TrainSome", "workers"]

Train = Callable[[Tensor, Sequence[Dataset], Sequence[int]], NDArray[np.float64]]
"""Take parameters f32[d], k data sets and a seed for each; return deltas f64[k, d]."""

TrainSome = Callable[[Tensor, Sequence[int], Sequence[int]], NDArray[np.float64]]
"""Take parameters f32[d], numbers of k data sets and a seed for each; return deltas f64[k, d].

What it returns may be written again by the next call.
"""

_PATIENCE_S = 1.0


@contextmanager
def workers(train: Train, sets: Sequence[Dataset], d: int, count: int) -> Iterator[TrainSome]:
    """Give a function that trains by `count` processes; they end with the context.

    An error in a worker is raised here; MarketplaceError where a worker was killed.
    """
    context = get_context("fork")
    flat = np.frombuffer(mmap.mmap(-1, 4 * d), np.float32)
    deltas = np.frombuffer(mmap.mmap(-1, 8 * d * len(sets)), np.float64).reshape(-1, d)
    counter = context.Value("q", 0)
    parent = os.getpid()
    pipes = []
    processes = []
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(
            target=_serve, args=(there, parent, train, sets, flat, deltas, counter), daemon=True
        )
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)

    def train_some(
        start: Tensor, which: Sequence[int], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        flat[:] = start.numpy()
        counter.value = 0
        for pipe in pipes:
            pipe.send((which, seeds))
        for pipe in pipes:
            try:
                error = pipe.recv()
            except EOFError:
                raise MarketplaceError(
                    f"one of {count} workers that train clients was killed; "
                    "where memory is short, use fewer --workers"
                ) from None
            if error is not None:
                raise error
        return deltas[: len(which)]

    try:
        yield train_some
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _serve(
    pipe: Connection,
    parent: int,
    train: Train,
    sets: Sequence[Dataset],
    flat: NDArray[np.float32],
    deltas: NDArray[np.float64],
    counter: Synchronized[int],
) -> None:
    # Ctrl-C reaches the whole group; the parent ends its workers, and may itself handle SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    start = torch.from_numpy(flat)
    while True:
        # Siblings hold copies of the pipe's other end, so that a killed parent does not close it.
        while not pipe.poll(_PATIENCE_S):
            if os.getppid() != parent:
                return
        which, seeds = pipe.recv()
        error = None
        try:
            while (k := _take(counter)) < len(which):
                deltas[k] = train(start, [sets[which[k]]], [seeds[k]])[0]
        except Exception as raised:
            error = raised
        pipe.send(error)


def _take(counter: Synchronized[int]) -> int:
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1
