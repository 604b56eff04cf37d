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
from itertools import pairwise
from pathlib import Path

from deploy.deployment import ensure_srs
from deploy.devnet import running_anvil
from deploy.project import Terms
from deploy.scenario import Scenario, running_market
from marketplace.codec import Description, Training
from marketplace.errors import NotFoundError
from marketplace.proof.srs import Srs
from tests.bench import Row

ROOT = Path(__file__).resolve().parents[1]
TRAINERS, SHARDS, PARAMETERS = 10, 20, 61_706
ROUNDS = int(os.environ.get("TRIBUTE_BENCH_ROUNDS", "4"))
REPEATS = int(os.environ.get("TRIBUTE_BENCH_REPEATS", "2"))


def rows() -> list[Row]:
    """Return round times with a proof, with a signature, and their ratio."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        srs = ensure_srs(Path(folder), PARAMETERS + 8)
        times: dict[tuple[str, bool], list[float]] = {}
        gas: dict[str, list[int]] = {}
        for _ in range(REPEATS):
            for verifier, ahead in (
                ("AttestedGram", True),
                ("GramVerifier", True),
                ("GramVerifier", False),
            ):
                found, used = _rounds(srs, verifier, ahead, cores)
                times.setdefault((verifier, ahead), []).extend(found)
                gas.setdefault(verifier, []).extend(used)
    signed, proven, waiting = (statistics.median(found) for found in times.values())
    setting = f"LeNet-5, n = {TRAINERS}, trainers on one core, aggregator on another"
    return [
        Row("round, signed", signed, "s", note=setting),
        Row("round, proven", proven, "s", note="trainers begin the next one meanwhile"),
        Row("round, proven, trainers waiting for it", waiting, "s"),
        Row("round time with proof / without", proven / signed, "", "≤ 1.1"),
        Row(
            f"settlement, proven, n = {TRAINERS}",
            statistics.median(gas["GramVerifier"]),
            "gas",
            "≤ 540000",
            "whole transaction: proof, rule, credits, records; later rounds",
        ),
    ]


def _rounds(
    srs: Srs, verifier: str, ahead: bool, cores: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Return the seconds between settlements of one market, and the gas of all but the first."""
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
        for process in market._processes:
            core = cores[-1] if process.name == "the aggregator" else cores[0]
            os.sched_setaffinity(process.pid or 0, {core})
        settled = [notice for notice in market.follow() if notice.stage == "settled"]
    times = [b.at - a.at for a, b in pairwise(settled)]
    return times, [int(notice.text.split()[0]) for notice in settled[1:]]


def _mnist() -> Path:
    folder = Path(os.environ.get("TRIBUTE_DATA", ROOT.parent / "shared" / "data")) / "mnist"
    if not folder.is_dir():
        raise NotFoundError(f"no MNIST in {folder}; set TRIBUTE_DATA")
    return folder
