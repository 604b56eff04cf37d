"""Compare our rules with Flower's strategies, and our simulator with Flower's and a bare loop.

Strategies and rules aggregate the same updates: those of twenty trainers' first round, of which
four are turned. Times are CPU time on one thread, medians over repeats, from the updates (Flower's
from its messages) to the aggregate; byzfl's rules are timed, too.

Racers average the same model over the same clients, on two processes, each in an interpreter of
its own, one after the other, several times over. A round's time is the median after the first
round, its CPU time the mean; what starting takes is the end of the first round less that. The bare
loop forks two processes, each of which trains half of the clients.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aggregator import rules
from deploy.lab.experiment import Cell
from deploy.lab.simulate import network_of, seeds_of, world_of
from deploy.paths import ROOT
from marketplace.errors import InputError

__all__ = [
    "CROWDS",
    "MODELS",
    "RACES",
    "STRATEGIES",
    "crowd_row",
    "import_byzfl",
    "race_rows",
    "strategy_rows",
]

MNIST = "idx:$TRIBUTE_DATA/mnist"
TURNED = 4

Row = dict[str, Any]
Vectors = NDArray[np.float64]


def _by_gram(
    weigh: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Callable[[Vectors], NDArray[np.float64]]:
    def aggregate(updates: Vectors) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = weigh(updates @ updates.T) @ updates
        return moved

    return aggregate


STRATEGIES: Mapping[str, Callable[[Vectors], NDArray[np.float64]] | None] = {
    "FedAvg": _by_gram(rules.fed_avg),
    "Krum": _by_gram(lambda gram: rules.krum(gram, TURNED)),
    "MultiKrum": _by_gram(lambda gram: rules.multi_krum(gram, TURNED)),
    "FedMedian": rules.coordinate_median,
    "FedTrimmedAvg": lambda updates: rules.trimmed_mean(updates, TURNED),
    "Bulyan": None,
}
"""Flower's strategies and what we have of them."""

BYZFL: Mapping[str, Callable[[Any], Any]] = {
    "FedAvg": lambda theirs: theirs.Average(),
    "Krum": lambda theirs: theirs.Krum(TURNED),
    "MultiKrum": lambda theirs: theirs.MultiKrum(TURNED),
    "FedMedian": lambda theirs: theirs.Median(),
    "FedTrimmedAvg": lambda theirs: theirs.TrMean(TURNED),
}
"""What byzfl has of them; that they agree with ours is a matter of tests."""

MODELS = [Cell(data=MNIST, split="dirichlet:0.5", model=name) for name in ("dense:64,64", "lenet5")]
"""Whose first updates are aggregated."""

RACES: Mapping[str, Cell] = {
    "lenet5": Cell(
        data=MNIST,
        clients=10,
        samples=6000,
        model="lenet5",
        rounds=3,
        learning_rate=0.05,
        batch_size=32,
    ),
    "small": Cell(data=MNIST, clients=50, samples=60, model="dense:32", rounds=10),
    "small lenet5": Cell(data=MNIST, clients=50, samples=60, model="lenet5", rounds=6),
}

CROWDS = [
    Cell(data=MNIST, clients=1000, samples=60, model=name, rounds=3)
    for name in ("dense:64,64", "lenet5")
]


def strategy_rows(flower: Path, cell: Cell, repeats: int = 7) -> Iterator[Row]:
    """Yield one row for each of Flower's strategies: how far from ours, and both times.

    `flower` is a Python that has Flower; `difference` is the largest of any coordinate, as a part
    of the aggregate's largest coordinate.
    """
    torch.set_num_threads(1)
    world = world_of(cell)
    network = network_of(cell, world.test)
    flat = network.initial(0)
    updates = network.train(flat, world.clients, seeds_of(cell, 0)[: cell.clients])
    updates[-TURNED:] *= -3
    updates = updates.astype(np.float32).astype(np.float64)
    with TemporaryDirectory() as folder:
        given, out = Path(folder, "updates.npz"), Path(folder, "aggregates.json")
        np.savez(given, updates=updates.astype(np.float32), f=TURNED, repeats=repeats)
        _in_flower(flower, "aggregate", given, out)
        answers = json.loads(out.read_text())
    for row in answers:
        ours = STRATEGIES[row["name"]]
        found: Row = {
            "strategy": row["name"],
            "model": cell.model,
            "n": cell.clients,
            "d": len(flat),
            "flower_ms": 1000 * median(row["times"]),
        }
        if ours is not None:
            moved, found["ours_ms"] = _timed(ours, updates, repeats)
            apart = np.abs(moved - np.array(row["aggregate"])).max()
            found["difference"] = float(apart / np.abs(moved).max())
        if row["name"] in BYZFL:
            theirs = BYZFL[row["name"]](import_byzfl("aggregators.aggregators"))
            _, found["byzfl_ms"] = _timed(theirs, updates, repeats)
        yield found


def _timed(
    aggregate: Callable[[Vectors], NDArray[np.float64]], updates: Vectors, repeats: int
) -> tuple[NDArray[np.float64], float]:
    """Return the aggregate, and the median CPU time in ms."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        moved = aggregate(updates)
        times.append(time.process_time() - started)
    return moved, 1000 * median(times)


def import_byzfl(name: str) -> Any:
    """Import a module of byzfl; its package would import torchvision and seaborn, too."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            raise InputError("byzfl is not installed; pip install --no-deps byzfl==0.0.11")
        package = ModuleType("byzfl")
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["byzfl"] = package
    return importlib.import_module(f"byzfl.{name}")


def race_rows(flower: Path, cell: Cell) -> Iterator[Row]:
    """Yield one row for each racer, which run one after the other."""
    for racer in ("bare", "ours", "flower"):
        yield _raced(flower, racer, cell)


def crowd_row(cell: Cell) -> Row:
    """Return what our simulator needs for very many clients."""
    return {"samples": cell.samples, **_raced(None, "ours", cell)}


def _raced(flower: Path | None, racer: str, cell: Cell) -> Row:
    with TemporaryDirectory() as folder:
        given, out = Path(folder, "cell.json"), Path(folder, "out.json")
        given.write_text(json.dumps(asdict(cell)))
        started = time.time()
        if racer == "flower" and flower is not None:
            _in_flower(flower, "race", given, out)
        else:
            module = [sys.executable, "-m", "deploy.lab.race"]
            _call([*module, racer, str(given), str(out)], {})
        found = json.loads(out.read_text())
    ends, first_cpu_s = found.pop("ends"), found.pop("first_cpu_s")
    round_s = median(np.diff(ends).tolist())
    return {
        "racer": racer,
        "model": cell.model,
        "clients": cell.clients,
        "start_s": ends[0] - started - round_s,
        "start_cpu_s": first_cpu_s - found["round_cpu_s"],
        "round_s": round_s,
        **found,
    }


def _in_flower(flower: Path, work: str, given: Path, out: Path) -> None:
    script = "import sys; from deploy.lab.flower import main; main(*sys.argv[1:])"
    packages = sysconfig.get_path("purelib")
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
    }
    _call([str(flower), "-c", script, packages, work, str(given), str(out)], quiet)


def _call(command: list[str], extra: Mapping[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise InputError(
            f"{command[0]} cannot be run: {error.strerror}; give a Python with --flower"
        ) from error
    if done.returncode:
        *_, last = ["no message", *done.stderr.strip().splitlines()]
        raise InputError(f"{command[0]} ended with exit status {done.returncode}: {last}")
