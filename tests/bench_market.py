"""Measure a round of the market against a bare PyTorch loop in the same run.

Both train LeNet-5 (61,706 parameters) on MNIST for ten clients of 6,000 images, an epoch a round,
in two processes with one thread each, and average. The bare loop is what is left without a market:
SGD in float32, the mean of the parameters, nothing else; it runs before and after. The market has
its chain, its store and the verifier `AttestedGram`. A round lasts from one settlement to the next.

Seconds of CPU are those of all processes, the chain's and the aggregator's included; on a machine
that others use they say more than the clock. A stage's seconds are the mean over the rounds of what
each trainer process, or the aggregator, spent before it reported the end of the stage, waiting
included.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from deploy.deployment import ensure_srs
from deploy.devnet import down, pick_port, up
from deploy.opening import Terms
from deploy.scenario import AGGREGATOR, FIRST_TRAINER, Market, Notice, Scenario, running_market
from marketplace.codec import Description, Training
from marketplace.errors import NotFoundError
from tests.bench import Row

CLIENTS, PARAMETERS, WORKERS = 10, 61_706, 2
RATE, BATCH = 0.05, 32
ROUNDS = int(os.environ.get("TRIBUTE_BENCH_ROUNDS", "4"))
ENDS = {
    "committing": "local training",
    "published": "commitment to the update",
    "committed": "publishing and committing",
    "revealed": "revealing, and waiting for the others",
    "training": "waiting for the settlement, checking the model",
    "fetched": "aggregator: fetching, and waiting",
    "aggregated": "aggregator: checking, scoring, next model",
    "proved": "aggregator: publishing the model, signing",
    "settled": "aggregator: settling",
}
"""What a process did before it reported a stage."""


def rows() -> list[Row]:
    """Return seconds a round, their ratio, where they go, gas a trainer and peak memory."""
    mnist = _mnist()
    bare = _bare(mnist, ROUNDS)
    market = _Measured(mnist)
    bare += _bare(mnist, ROUNDS)
    wall, cpu = (statistics.median(found) for found in zip(*bare, strict=True))
    setting = f"LeNet-5, {CLIENTS} clients of 6,000 images, {WORKERS} processes"
    found = [
        Row("round of the bare loop", wall, "s", note=setting),
        Row("round of the market", market.wall, "s", note=f"{setting}, without proof"),
        Row("market / bare loop", market.wall / wall, "", "≤ 1.25"),
        Row("CPU of the bare loop, a round", cpu, "s"),
        Row("CPU of the market, a round", market.cpu, "s", note="chain and aggregator included"),
        Row("CPU, market / bare loop", market.cpu / cpu, ""),
    ]
    for stage, seconds in market.stages.items():
        found.append(Row(f"of a round: {stage}", seconds, "s"))
    for what, gas in market.gas.items():
        found.append(Row(f"gas a trainer and round: {what}", gas, "gas"))
    for process, megabytes in market.memory.items():
        found.append(Row(f"peak memory: {process}", megabytes, "MB"))
    return found


def _mnist() -> Path:
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("TRIBUTE_DATA", root / "shared" / "data")) / "mnist"
    if not folder.is_dir():
        raise NotFoundError(f"no MNIST in {folder}; set TRIBUTE_DATA")
    return folder


# ---------------------------------------------------------------------- bare loop


def _bare(mnist: Path, rounds: int) -> list[tuple[float, float]]:
    """Return seconds and CPU seconds of each round but the first."""
    context = multiprocessing.get_context("spawn")
    with _workers(context, mnist) as pipes:
        flat: Any = None
        times = []
        for _ in range(rounds):
            began, used = time.perf_counter(), time.process_time()
            for pipe in pipes:
                pipe.send(flat)
            answers = [pipe.recv() for pipe in pipes]
            flat = sum(total for total, _ in answers) / CLIENTS
            cpu = time.process_time() - used + sum(spent for _, spent in answers)
            times.append((time.perf_counter() - began, cpu))
    return times[1:]


@contextmanager
def _workers(context: Any, mnist: Path) -> Iterator[list[Connection]]:
    pipes, processes = [], []
    for k in range(WORKERS):
        ours, theirs = context.Pipe()
        chosen = list(range(CLIENTS))[k::WORKERS]
        process = context.Process(target=_bare_worker, args=(theirs, mnist, chosen), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    yield pipes
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()


def _bare_worker(pipe: Connection, mnist: Path, chosen: Sequence[int]) -> None:
    """Answer each model with the sum of what these clients make of it."""
    import torch
    from torch.nn.functional import cross_entropy

    from trainer.data import load
    from trainer.models import build, flatten, load_flat

    torch.set_num_threads(1)
    datasets = [load(f"idx:{mnist}@{k}/{CLIENTS}") for k in chosen]
    # Built as the market builds it, in the faster memory layout.
    model = build("lenet5", {}, 0)
    model.train()
    current = flatten(model)
    while not isinstance(given := pipe.recv(), str):
        used = time.process_time()
        if given is not None:
            current = given
        total = np.zeros_like(current)
        for dataset in datasets:
            load_flat(model, current)
            optimiser = torch.optim.SGD(model.parameters(), lr=RATE, fused=True)
            for batch in torch.randperm(len(dataset)).split(BATCH):
                optimiser.zero_grad()
                cross_entropy(model(dataset.features[batch]), dataset.labels[batch]).backward()
                optimiser.step()
            total += flatten(model)
        pipe.send((total, time.process_time() - used))


# ------------------------------------------------------------------------- market


class _Measured:
    """Run a market and hold what was measured of it."""

    def __init__(self, mnist: Path) -> None:
        terms = Terms(
            description=Description(
                title="Round times",
                model="lenet5",
                model_options={"channels": 1, "size": 28, "classes": 10},
                training=Training(learning_rate=RATE, batch_size=BATCH),
            ),
            aggregator="",
            slash_sink="",
            verifier="AttestedGram",
            rounds=ROUNDS,
            capacity=CLIENTS,
            min_updates=CLIENTS,
        )
        data = [f"idx:{mnist}@{k}/{CLIENTS}" for k in range(CLIENTS)]
        scenario = Scenario(terms, data, ["honest"] * CLIENTS, workers=WORKERS)
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            srs = ensure_srs(home, PARAMETERS + 8)
            devnet = up(home, pick_port())
            try:
                with running_market(devnet.rpc, home, srs, scenario) as market:
                    pids = {process.name: process.pid or 0 for process in market._processes}
                    pids["the chain"] = devnet.pid
                    self.memory = dict.fromkeys(pids, 0.0)
                    notices, settled = self._follow(market, pids)
                    self.gas = _gas(market)
            finally:
                down(home)
        times, cpus = zip(*settled, strict=True)
        rounds = len(times) - 1
        self.wall = statistics.median(np.diff(times).tolist())
        self.cpu = (cpus[-1] - cpus[0]) / rounds
        self.stages = _stages(notices, times[0], times[-1], rounds)

    def _follow(
        self, market: Market, pids: Mapping[str, int]
    ) -> tuple[list[Notice], list[tuple[float, float]]]:
        """Return all notices, and for each settlement the time and the CPU seconds so far."""
        notices, settled = [], []
        for notice in market.follow():
            notices.append(notice)
            # What has ended, as the aggregator has after the last round, tells no peak any more.
            for name, pid in pids.items():
                self.memory[name] = max(self.memory[name], _peak_mb(pid))
            if notice.stage == "settled":
                settled.append((notice.at, sum(_cpu_s(pid) for pid in pids.values())))
        return notices, settled


def _stages(notices: Sequence[Notice], first: float, last: float, rounds: int) -> dict[str, float]:
    """Return the mean seconds a round and process before each report, by its stage."""
    spent: dict[str, float] = defaultdict(float)
    before: dict[int, float] = {}
    for notice in sorted(notices, key=lambda notice: notice.at):
        aggregating = notice.who == AGGREGATOR
        # Trainer k is played by process k mod WORKERS.
        process = -1 if aggregating else (notice.who - FIRST_TRAINER) % WORKERS
        began, before[process] = before.get(process, first), notice.at
        if notice.stage in ENDS and first < notice.at <= last:
            seconds = notice.at - max(began, first)
            spent[ENDS[notice.stage]] += seconds / rounds / (1 if aggregating else WORKERS)
    return {stage: spent[stage] for stage in ENDS.values()}


def _gas(market: Market) -> dict[str, float]:
    """Return what a trainer's round costs, from the receipts of all rounds but the first."""
    view = market.view
    kinds = {"Committed": "commit", "Revealed": "reveal", "Settled": "settlement, a share of"}
    used: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    for event in view.chain.events(view.project, 0, view.block.number, list(kinds)):
        if event.values["round"] > 1:
            receipt = view.chain.request("eth_getTransactionReceipt", [event.transaction])
            used[event.name][event.transaction] = int(receipt["gasUsed"], 16)
    rounds = len(view.history.settled) - 1
    gas = {kinds[kind]: sum(found.values()) / rounds / CLIENTS for kind, found in used.items()}
    return {**gas, "in all": sum(gas.values())}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
