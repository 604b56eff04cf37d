"""Measure the store against what disk, hash and cipher cost by themselves.

Raw and own work alternate, and each ratio is the median over turns of raw time over own time, so
that a change of the machine's load meets both. Rates are in MB/s of content, median over turns. The
CPU time is this process' own, without waiting for disk and other processes. `add_pinned` also keeps
the root under a name, which is one sync more. The gateway is a process of its own; transfers are
verified, `kept` ones also written and synced. Peak memory is that of a process that stores and
reads a file, of 200 MB over that of one of 20 MB.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ipfs.cid import Cid
from ipfs.dag import Deadline
from ipfs.gateway import Gateways
from ipfs.layered import LayeredStore
from ipfs.store import BlockStore
from ipfs.unixfs import CHUNK_BYTES, file_cid
from marketplace.sealing import open_sealed, public_bytes, seal
from tests.bench import Row

__all__ = ["rows"]

SIZES_MB = (0.25, 5.0, 50.0)
RATIOS = {
    "add": ("raw_add", "≥ 0.9"),
    "add_pinned": ("raw_add", ""),
    "cat": ("raw_cat", "≥ 0.5"),
    "cid": ("sha256", "≥ 0.8"),
}
RATES = {"seal": "≥ 500", "open": "≥ 500", "fetch": "≥ 200"}


def rows() -> list[Row]:
    """Return the rates, and the ratios of own work to what the disk and the hash cost."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        for size_mb in SIZES_MB:
            found += _rows(Path(place), size_mb, 9 if size_mb > 5 else 21)
        found.append(_memory_row(Path(place)))
    return found


def _rows(place: Path, size_mb: float, turns: int) -> list[Row]:
    store = BlockStore(place / f"store-{size_mb}")
    took: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}

    def measure(name: str, act: Callable[[], object]) -> None:
        start, cpu_start = time.perf_counter(), time.process_time()
        act()
        took.setdefault(name, []).append(time.perf_counter() - start)
        busy.setdefault(name, []).append(time.process_time() - cpu_start)

    private = X25519PrivateKey.generate()
    with _served(store.path) as url:
        gateways = Gateways([url])
        for turn in range(turns):
            content, other = (os.urandom(int(size_mb * 1e6)) for _ in range(2))
            raw = place / f"raw-{size_mb}-{turn}"
            adds = [
                ("raw_add", lambda content=content, raw=raw: _raw_add(raw, content)),
                ("add", lambda content=content: store.put(content, pin=None)),
                ("add_pinned", lambda other=other: store.put(other)),
            ]
            # whoever comes first gets the pages that the last turn freed, warm and zeroed
            for name, act in adds[turn % 3 :] + adds[: turn % 3]:
                measure(name, act)
            cid = file_cid(content)
            cats = [
                ("raw_cat", lambda raw=raw: _raw_cat(raw)),
                ("cat", lambda cid=cid: sum(map(len, store.open(cid)))),
            ]
            for name, act in cats if turn % 2 else reversed(cats):
                measure(name, act)
            measure("sha256", lambda content=content: hashlib.sha256(content).digest())
            measure("cid", lambda content=content: file_cid(content))
            measure("fetch", lambda cid=cid: _fetch(gateways, cid))
            local = LayeredStore(BlockStore(place / f"local-{size_mb}-{turn}"), gateways)
            measure("fetch_kept", lambda cid=cid, local=local: sum(map(len, local.open(cid))))
            sealed: list[tuple[bytes, dict[bytes, bytes]]] = []
            measure(
                "seal",
                lambda content=content, sealed=sealed: sealed.append(
                    seal(content, [public_bytes(private)], b"bench")
                ),
            )
            measure("open", lambda sealed=sealed: open_sealed(*sealed[0], private, b"bench"))
            raw.unlink()
    found = []
    for own, (reference, target) in RATIOS.items():
        note = f"by CPU time {_ratio(busy[reference], busy[own])}"
        ratio = _ratio(took[reference], took[own])
        found.append(Row(f"ipfs_{own}_{size_mb:g}MB_ratio", ratio, "of raw", target, note))
    for name, times in took.items():
        # a small file is one round trip, whose time says nothing of a rate
        target = RATES.get(name, "") if size_mb > 0.25 or name != "fetch" else ""
        rate = round(size_mb / statistics.median(times), 1)
        note = f"by CPU time {size_mb / statistics.median(busy[name]):,.0f}"
        found.append(Row(f"ipfs_{name}_{size_mb:g}MB", rate, "MB/s", target, note))
    return found


def _ratio(raw: list[float], own: list[float]) -> float:
    return round(statistics.median(r / o for r, o in zip(raw, own, strict=True)), 3)


def _fetch(gateways: Gateways, cid: Cid) -> int:
    blocks = gateways.dag(cid, max_bytes=1 << 30, deadline=Deadline.after(60))
    return sum(len(block) for _, block in blocks)


def _raw_add(path: Path, content: bytes) -> None:
    """Write, hash and sync one file and the folder that names it."""
    digest = hashlib.sha256()
    view = memoryview(content)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    for start in range(0, len(view), CHUNK_BYTES):
        digest.update(view[start : start + CHUNK_BYTES])
        os.write(descriptor, view[start : start + CHUNK_BYTES])
    os.fsync(descriptor)
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _raw_cat(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(CHUNK_BYTES):
            digest.update(part)


_SERVE = """
import sys
from ipfs.serve import listen, serve
from ipfs.store import BlockStore
bound = listen("127.0.0.1", 0)
print(bound.getsockname()[1], flush=True)
serve(BlockStore(sys.argv[1]), bound)
"""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


_PEAK = """
import sys
from ipfs.store import BlockStore
store = BlockStore(sys.argv[1])
with open(sys.argv[2], "rb", buffering=0) as file:
    cid = store.put(file)
for part in store.open(cid):
    pass
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def _memory_row(place: Path) -> Row:
    peaks = []
    for size_mb in (20, 200):
        file = place / "content"
        with file.open("wb") as stream:
            for _ in range(size_mb):
                stream.write(os.urandom(10**6))
        command = [sys.executable, "-c", _PEAK, str(place / f"peak-{size_mb}"), str(file)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    note = f"{peaks[1] / 1024:.0f} MiB"
    return Row("ipfs_peak_memory_ratio", round(peaks[1] / peaks[0], 3), "of 20 MB", "≤ 1.1", note)
