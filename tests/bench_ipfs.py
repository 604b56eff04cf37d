"""Measure the embedded store against what the disk and the hash function cost by themselves.

Each figure is the median over turns in which raw and own work alternate, so that a change of the
machine's load meets both. Rates are in MB/s of content, ratios are own rate over raw rate.
"""

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ipfs.store import BlockStore
from ipfs.unixfs import CHUNK_BYTES, file_cid
from tests.bench import Row

__all__ = ["bench_store", "rows"]

SIZES_MB = (0.25, 5.0, 50.0)


def rows() -> list[Row]:
    """Return the rates, and the ratios of own work to what the disk and the hash cost."""
    return [
        Row(name, value, "of raw" if name.endswith("_ratio") else "MB/s")
        for name, value in bench_store().items()
    ]


def bench_store(folder: Path | None = None, *, turns: int = 5) -> dict[str, float]:
    """Return rates and ratios of add, cat and CID computation for 0.25, 5 and 50 MB."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for size_mb in SIZES_MB:
            figures |= _sizes_figures(Path(place), size_mb, turns if size_mb > 5 else 4 * turns)
    return figures


def _sizes_figures(place: Path, size_mb: float, turns: int) -> dict[str, float]:
    store = BlockStore(place / f"store-{size_mb}")
    took: dict[str, list[float]] = {}

    def measure(name: str, act: Callable[[], object]) -> None:
        start = time.perf_counter()
        act()
        took.setdefault(name, []).append(time.perf_counter() - start)

    for turn in range(turns):
        content = os.urandom(int(size_mb * 1e6))
        raw = place / f"raw-{size_mb}-{turn}"
        measure("raw_add", lambda content=content, raw=raw: _raw_add(raw, content))
        measure("add", lambda content=content: store.put(content))
        cid = file_cid(content)
        measure("raw_cat", lambda raw=raw: _raw_cat(raw))
        measure("cat", lambda cid=cid: sum(map(len, store.open(cid))))
        measure("sha256", lambda content=content: hashlib.sha256(content).digest())
        measure("cid", lambda content=content: file_cid(content))
        raw.unlink()
    rates = {name: size_mb / statistics.median(times) for name, times in took.items()}
    figures = {f"ipfs_{name}_{size_mb:g}MB_MBps": rate for name, rate in rates.items()}
    for own, reference in (("add", "raw_add"), ("cat", "raw_cat"), ("cid", "sha256")):
        figures[f"ipfs_{own}_{size_mb:g}MB_ratio"] = rates[own] / rates[reference]
    return {name: round(value, 3) for name, value in figures.items()}


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
