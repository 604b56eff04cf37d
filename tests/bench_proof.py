"""Measure the Gram proof: commitments, proofs, verification in Python and in the EVM.

Each figure is a median. CPU seconds count the prover and its workers; the critical path is the CPU
time of the prover and of its slowest worker, the wall time where each has a core of its own. Memory
is the highest sum of proportional set sizes (PSS) over the prover and its workers, sampled twice a
second. Gas is that of whole transactions to the verifier alone, base cost and calldata included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy.devnet import running_anvil
from deploy.paths import BUILD
from marketplace.codec import gram, pack_gram
from marketplace.proof.commitment import commit, random_blinding
from marketplace.proof.prover import prove
from marketplace.proof.shards import Shards
from marketplace.proof.srs import Srs, generate
from marketplace.proof.transcript import round_context
from marketplace.proof.verifier import verify
from tests.bench import Row, main
from tests.marketplace.proof.onchain import OnChain, call_data

__all__ = ["rows"]

LENET5 = 61_706
CNN = 1_663_370
CURVE = {1_000: 5, 10_000: 5, LENET5: 5, 100_000: 3, 1_000_000: 1, CNN: 1}
"""Coordinates, and how many proofs are timed; the first one waits for its workers to start."""
N = 10
PROCESSES = 2
GAS_LIMITS = {10: 370_000, 32: 750_000, 64: 2_000_000}


def rows() -> list[Row]:
    """Return times, memory and gas for ten trainers, and gas for more."""
    string = _string()
    curve = {d: _measure_apart(string, d, turns) for d, turns in CURVE.items()}
    found: list[Row] = []
    for d, one in curve.items():
        target = {LENET5: "≤ 0.2"}.get(d, "")
        note = f"{one.commit_cpu:.3f} CPU s"
        found.append(Row(f"commitment, d = {d:,}", one.commit_wall, "s", target, note))
    for d, one in curve.items():
        target = {LENET5: "≤ 2", CNN: "≤ 40"}.get(d, "")
        note = f"{one.prove_cpu:.2f} CPU s, {one.prove_path:.2f} s of them on the critical path"
        name = f"proof, n = {N}, d = {d:,}, {PROCESSES} processes"
        found.append(Row(name, one.prove_wall, "s", target, note))
    large = curve[1_000_000].prove_cpu / curve[100_000].prove_cpu
    found.append(Row("CPU for 10 times the coordinates, from d = 100,000", large, "times"))
    found.append(Row(f"memory, d = {CNN:,}", curve[CNN].peak_mb, "MB", "≤ 1500"))
    for d, one in curve.items():
        found.append(Row(f"verification in Python, d = {d:,}", 1000 * one.verify_cpu, "CPU ms"))
    found.append(Row("proof besides points and matrix", curve[CNN].proof_bytes, "bytes", "≤ 1000"))
    return found + _gas(string)


def _string() -> Srs:
    """Return a reference string for the largest model; made once, which takes a minute or two."""
    path = BUILD / "bench-proof.srs"
    if path.exists() and (found := Srs.open(path)).size >= CNN + 8:
        return found
    return generate(path, CNN + 8, b"bench")


def _updates(n: int, d: int) -> npt.NDArray[np.int16]:
    """Return what clipped and quantised updates look like: normal, deviation 1,000."""
    drawn = np.random.default_rng(d).standard_normal((n, d), dtype=np.float32)
    return (1000 * drawn).round().astype(np.int16)


@dataclass(frozen=True)
class Measured:
    """Hold the figures of one dimension: seconds, MB, bytes."""

    commit_wall: float
    commit_cpu: float
    prove_wall: float
    prove_cpu: float
    prove_path: float
    verify_cpu: float
    peak_mb: float
    proof_bytes: int


def _measure_apart(string: Srs, d: int, turns: int) -> Measured:
    """Measure in a process of its own, since memory is hardly ever given back."""
    command = [sys.executable, "-m", "tests.bench_proof", str(string.path), str(d), str(turns)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Measured(**json.loads(output))


def _measure(path: str, d: int, turns: int) -> Measured:
    srs, updates, context = Srs.open(path), _updates(N, d), bytes(32)
    blindings = [random_blinding() for _ in range(N)]
    points, commits, proofs, checks = [], [], [], []
    commit(srs, updates[0], 1)  # loads what later ones find loaded
    for update, blinding in zip(updates, blindings, strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        points.append(commit(srs, update, blinding))
        commits.append((time.perf_counter() - wall, time.process_time() - cpu))
    packed = pack_gram(gram(updates))
    with _peak() as peak_mb, Shards(srs, PROCESSES) as shards:
        for _ in range(turns):
            wall, before = time.perf_counter(), _cpu()
            proof = prove(srs, context, points, packed, updates, blindings, shards)
            took = [now - then for now, then in zip(_cpu(), before, strict=True)]
            proofs.append((time.perf_counter() - wall, sum(took), took[0] + max(took[1:])))
    for _ in range(20):
        cpu = time.process_time()
        verify(srs.header, context, points, packed, proof)
        checks.append(time.process_time() - cpu)
    return Measured(
        *map(statistics.median, zip(*commits, strict=True)),
        *map(statistics.median, zip(*proofs, strict=True)),
        statistics.median(checks),
        peak_mb[0],
        len(proof),
    )


def _workers() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _cpu() -> list[float]:
    """Return the CPU seconds of this process and of each of its workers."""
    found = [time.process_time()]
    for pid in _workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return found


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Yield a list that holds the highest memory so far, in MB, over this process and workers."""
    highest, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            total_kb = 0
            for pid in (os.getpid(), *_workers()):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total_kb += int(line.split()[1])
            highest[0] = max(highest[0], total_kb / 1000)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        stop.set()
        thread.join()


def _gas(string: Srs) -> list[Row]:
    """Return the gas of transactions to the verifier, for updates of LeNet-5's size."""
    found = []
    with running_anvil() as rpc:
        chain = OnChain(rpc)
        verifier = chain.deploy(string.header)
        marketplace = bytes.fromhex(chain.marketplace[2:])
        context = round_context(chain.chain_id, marketplace, bytes(32), 1)
        for n, limit in GAS_LIMITS.items():
            updates = _updates(n, LENET5)
            blindings = [random_blinding() for _ in updates]
            points = [commit(string, u, b) for u, b in zip(updates, blindings, strict=True)]
            packed = pack_gram(gram(updates))
            proof = prove(string, context, points, packed, updates, blindings)
            call = call_data(bytes(32), 1, b"".join(points), packed, proof)
            if chain.verdicts(verifier, [call]) != [True]:
                raise RuntimeError(f"the proof for {n} trainers was refused")
            gas = int(chain.receipt(verifier, call)["gasUsed"], 16)
            found.append(Row(f"EVM verification, n = {n}", gas, "gas", f"≤ {limit}"))
    return found


if __name__ == "__main__":
    if len(sys.argv) == 1:
        raise SystemExit(main(["proof"]))
    sys.stdout.write(json.dumps(asdict(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
