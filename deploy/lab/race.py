"""Time rounds of plain averaging, by our simulator or by a bare loop over two processes.

`python -m deploy.lab.race RACER CELL.json OUT.json` runs in a process of its own, so that starting
counts: the times at which rounds ended are absolute. `deploy.lab.flower` does the same by Flower.
CPU seconds are those of all processes that a racer started, too (Linux).
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.lab.experiment import Cell
from deploy.lab.simulate import network_of, run, seeds_of, world_of

__all__ = ["PROCESSES", "RACERS", "Laps", "one_by_one"]

PROCESSES = 2

Result = dict[str, Any]


class Laps:
    """Note when rounds end, and what CPU time was spent at the end of the first and the last."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._ends: list[float] = []
        self._cpu_s: list[float] = []

    def end(self) -> None:
        """Note the end of a round."""
        self._ends.append(time.time())
        # Looking at all processes takes some milliseconds.
        if len(self._ends) in (1, self._rounds):
            self._cpu_s.append(_cpu_seconds())

    def found(self) -> Result:
        """Return `ends`, `first_cpu_s` and `round_cpu_s`, the mean of all rounds but the first."""
        first, last = self._cpu_s
        spent = (last - first) / (self._rounds - 1)
        return {"ends": self._ends, "first_cpu_s": first, "round_cpu_s": spent}


def _cpu_seconds() -> float:
    """Return what this process and all its descendants have used."""
    parents, ticks = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name in parentheses may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    ours = {os.getpid()}
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] not in ours:
            line.append(parents[line[-1]])
        if line[-1] in ours:
            ours.update(line)
    return sum(ticks[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def one_by_one(cell: Cell) -> Cell:
    """Return the cell with the trainer's own model in place of a dense one: the same network."""
    return replace(cell, model="mlp") if cell.model == "dense:32" else cell


def _ours(cell: Cell) -> Result:
    laps = Laps(cell.rounds)
    row = run(cell, lambda _, __: laps.end(), PROCESSES)
    return {**laps.found(), "accuracy": row["accuracy"]}


def _bare(cell: Cell) -> Result:
    """Train half of the clients in each of two forked processes, and average."""
    cell = one_by_one(cell)
    world = world_of(cell)
    network = network_of(cell, world.test)
    model = network.initial(cell.seed).double().numpy()
    n, d = cell.clients, len(model)
    flat = np.frombuffer(mmap.mmap(-1, 4 * d), np.float32)
    deltas = np.frombuffer(mmap.mmap(-1, 8 * n * d), np.float64).reshape(n, d)
    context, pipes = get_context("fork"), []

    def serve(pipe: Connection, mine: range) -> None:
        for number in range(cell.rounds):
            pipe.recv()
            seeds = seeds_of(cell, number)
            for i in mine:
                start = torch.from_numpy(flat)
                deltas[i] = network.train(start, [world.clients[i]], [seeds[i]])[0]
            pipe.send(None)

    for k in range(PROCESSES):
        here, there = context.Pipe()
        mine = range(n * k // PROCESSES, n * (k + 1) // PROCESSES)
        context.Process(target=serve, args=(there, mine), daemon=True).start()
        pipes.append(here)
    laps = Laps(cell.rounds)
    for _ in range(cell.rounds):
        flat[:] = model
        for pipe in pipes:
            pipe.send(None)
        for pipe in pipes:
            pipe.recv()
        model = model + deltas.mean(axis=0)
        laps.end()
    found = torch.from_numpy(model).float()
    return {**laps.found(), "accuracy": network.accuracy(found, world.test)}


RACERS: dict[str, Callable[[Cell], Result]] = {"ours": _ours, "bare": _bare}


def _peak_mib() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main(racer: str, cell: str, out: str) -> None:
    """Run a racer on the cell in a file of JSON, and write what it measured to another."""
    torch.set_num_threads(1)
    found = RACERS[racer](Cell(**json.loads(Path(cell).read_text())))
    found["peak_mib"] = _peak_mib()
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
