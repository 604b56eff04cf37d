"""Split multi-exponentiations by coordinate range over processes.

The curve library holds the interpreter's lock, so that threads gain nothing. A worker is this
module run as a program: it maps the reference string once, keeps its points, reads scalars from
stdin and writes sums to stdout. Nothing is pickled, and the parent's memory is not copied.
"""

from __future__ import annotations

import queue
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from py_arkworks_bls12381 import G1Point

from marketplace.errors import ProofError
from marketplace.proof.field import SCALAR_BYTES, scalars
from marketplace.proof.srs import G1_BYTES, Progress, Srs

__all__ = ["Shards"]

_REQUEST = struct.Struct("<QQ")
_LARGEST_PART = 1 << 19


class Shards:
    """Sum powers of τ under scalars, by `processes` workers that live until `close`.

    With one process the caller's own does the work.
    """

    def __init__(self, srs: Srs, processes: int = 1) -> None:
        if processes < 1:
            raise ValueError(f"{processes} processes; at least one is needed")
        self.processes = processes
        self._srs = srs
        self._workers = [_start(srs.path) for _ in range(processes if processes > 1 else 0)]

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
            worker.communicate()
        self._workers = []

    def sum(self, data: bytes, progress: Progress | None = None) -> G1Point:
        """Return Σ_k data[k]·[τ^k]_1 for scalars of 32 bytes little-endian, all below r."""
        size = len(data) // SCALAR_BYTES
        total, done = G1Point.identity(), 0
        for count, part in self._sums(data, _ranges(size, self.processes)):
            total, done = total + part, done + count
            if progress:
                progress(done, size)
        return total

    def _sums(self, data: bytes, ranges: list[range]) -> Iterator[tuple[int, G1Point]]:
        view = memoryview(data)
        parts = [view[SCALAR_BYTES * r.start : SCALAR_BYTES * r.stop] for r in ranges]
        if not self._workers:
            for r, part in zip(ranges, parts, strict=True):
                yield len(r), _sum(self._srs, r.start, part)
            return
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def ask(r: range, part: memoryview) -> tuple[int, G1Point]:
            worker = idle.get()
            try:
                return len(r), _ask(worker, r.start, part)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            try:
                yield from threads.map(ask, ranges, parts)
            except BaseException:
                # threads wait for answers, and this block for them
                for worker in self._workers:
                    worker.kill()
                raise


def _ranges(size: int, processes: int) -> list[range]:
    """Return ranges of about equal length, a multiple of `processes` of them."""
    count = processes * max(1, -(-size // (processes * _LARGEST_PART)))
    return [range(size * i // count, size * (i + 1) // count) for i in range(count)]


def _sum(srs: Srs, start: int, data: memoryview) -> G1Point:
    factors = scalars(data)
    return G1Point.multiexp_unchecked(srs.points(start, start + len(factors)), factors)


def _start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "marketplace.proof.shards", str(path)]
    # In a group of its own, since Ctrl-C is the parent's to handle.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


def _ask(worker: subprocess.Popen[bytes], start: int, data: memoryview) -> G1Point:
    assert worker.stdin and worker.stdout
    try:
        worker.stdin.write(_REQUEST.pack(start, len(data)))
        worker.stdin.write(data)
        worker.stdin.flush()
    except BrokenPipeError:
        pass
    answer = worker.stdout.read(G1_BYTES)
    if len(answer) < G1_BYTES:
        raise ProofError(f"a worker ended early, exit status {worker.wait()}")
    return G1Point.from_xy_bytes_unchecked_be(answer)


def _serve(path: str) -> None:
    """Answer requests until the parent closes its end."""
    srs = Srs.open(path)
    while request := sys.stdin.buffer.read(_REQUEST.size):
        start, size = _REQUEST.unpack(request)
        total = _sum(srs, start, memoryview(sys.stdin.buffer.read(size)))
        sys.stdout.buffer.write(total.to_xy_bytes_be())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
