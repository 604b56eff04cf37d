"""Measure what proving costs a round: a whole market with and without, in turn.

Ten honest trainers with 3,000 images of MNIST each train LeNet-5 (61,706 parameters) for an epoch a
round, in one process on one core; the aggregator has the other. `AttestedGram` takes a signature
instead of a proof. A round lasts from one settlement to the next; medians over the rounds after the
first, of all repetitions.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from deploy.deployment import ensure_srs
from deploy.devnet import running_anvil
from deploy.opening import Terms
from deploy.scenario import Scenario, running_market
from marketplace.codec import Description, Training
from marketplace.errors import NotFoundError
from marketplace.proof.srs import Srs
from tests.bench import Row

ROOT = Path(__file__).resolve().parents[1]
TRAINERS, SHARDS, PARAMETERS = 10, 20, 61_706
ROUNDS = int(os.environ.get("TRIBUTE_BENCH_ROUNDS", "4"))
REPEATS = int(os.environ.get("TRIBUTE_BENCH_REPEATS", "2"))


@dataclass
class _Rounds:
    """Collect, a round, seconds from settlement to settlement, CPU seconds, and gas."""

    wall: list[float] = field(default_factory=list)
    trainers: list[float] = field(default_factory=list)
    aggregator: list[float] = field(default_factory=list)
    gas: list[int] = field(default_factory=list)


def rows() -> list[Row]:
    """Return round times with a proof, with a signature, and their ratio."""
    cores = sorted(os.sched_getaffinity(0))
    signed, proven, waiting = (_Rounds() for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        srs = ensure_srs(Path(folder), PARAMETERS + 8)
        for _ in range(REPEATS):
            _measure(signed, srs, "AttestedGram", True, cores)
            _measure(proven, srs, "GramVerifier", True, cores)
            _measure(waiting, srs, "GramVerifier", False, cores)
    median = statistics.median
    setting = f"LeNet-5, n = {TRAINERS}, trainers on one core, aggregator on another"
    return [
        Row("round, signed", median(signed.wall), "s", note=setting),
        Row("round, proven", median(proven.wall), "s", note="trainers begin the next meanwhile"),
        Row("round, proven, trainers waiting for it", median(waiting.wall), "s"),
        Row(
            "round time with proof / without",
            median(proven.wall) / median(signed.wall),
            "",
            "≤ 1.1",
            "wall time: worth nothing on a busy machine",
        ),
        Row("CPU of all trainers, signed", median(signed.trainers), "s"),
        Row("CPU of all trainers, proven", median(proven.trainers), "s"),
        Row(
            "CPU of the aggregator, proven",
            median(proven.aggregator),
            "s",
            note="hidden where it is below the trainers'",
        ),
        Row(
            f"settlement, proven, n = {TRAINERS}",
            median(proven.gas),
            "gas",
            "≤ 540000",
            "whole transaction: proof, rule, credits, records; later rounds",
        ),
    ]


def _measure(found: _Rounds, srs: Srs, verifier: str, ahead: bool, cores: Sequence[int]) -> None:
    """Run one market and add its rounds but the first."""
    terms = Terms(
        description=Description(
            title="Round times",
            model="lenet5",
            model_options={"channels": 1, "size": 28, "classes": 10},
            training=Training(),
        ),
        aggregator="",
        slash_sink="",
        verifier=verifier,
        rounds=ROUNDS,
        capacity=TRAINERS,
        min_updates=TRAINERS,
    )
    mnist = _mnist()
    data = [f"idx:{mnist}#train@{k}/{SHARDS}" for k in range(TRAINERS)]
    scenario = Scenario(terms, data, ["honest"] * TRAINERS, workers=1, ahead=ahead)
    with running_anvil() as rpc, running_market(rpc, srs.path.parent, srs, scenario) as market:
        aggregator, trainers = (process.pid or 0 for process in market._processes)
        os.sched_setaffinity(aggregator, {cores[-1]})
        os.sched_setaffinity(trainers, {cores[0]})
        settled = [
            (notice.at, _cpu_s(trainers), _cpu_s(aggregator), int(notice.text.split()[0]))
            for notice in market.follow()
            if notice.stage == "settled"
        ]
    for before, after in pairwise(settled):
        found.wall.append(after[0] - before[0])
        found.trainers.append(after[1] - before[1])
        found.aggregator.append(after[2] - before[2])
        found.gas.append(after[3])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mnist() -> Path:
    folder = Path(os.environ.get("TRIBUTE_DATA", ROOT.parent / "shared" / "data")) / "mnist"
    if not folder.is_dir():
        raise NotFoundError(f"no MNIST in {folder}; set TRIBUTE_DATA")
    return folder
