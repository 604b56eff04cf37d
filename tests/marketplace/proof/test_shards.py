"""Split sums over worker processes, and lose some of these on the way."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof import shards as module
from marketplace.proof.shards import Shards
from marketplace.proof.srs import Srs
from tests.marketplace.proof.reference import R

VALUES = [pow(3, 100 + k, R) for k in range(50)]
DATA = b"".join(value.to_bytes(32, "little") for value in VALUES)


def naive(srs: Srs) -> G1Point:
    total = G1Point.identity()
    for k, value in enumerate(VALUES):
        total += srs.points(k, k + 1)[0] * Scalar(value)
    return total


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("largest_part", [1 << 19, 7])
def test_sums_do_not_depend_on_how_they_are_split(
    srs: Srs, processes: int, largest_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGEST_PART", largest_part)
    with Shards(srs, processes) as shards:
        assert shards.sum(DATA) == naive(srs)
        # and once more, by the same workers
        assert shards.sum(DATA[:32]) == srs.points(0, 1)[0] * Scalar(VALUES[0])
        assert shards.sum(b"") == G1Point.identity()


@given(size=st.integers(0, 10_000_000), processes=st.integers(1, 64))
def test_ranges_cover_everything_once_in_parts_of_like_size(size: int, processes: int) -> None:
    ranges = module._ranges(size, processes)
    assert len(ranges) % processes == 0
    assert [ranges[0].start, *(r.stop for r in ranges)] == [
        *(r.start for r in ranges),
        size,
    ]
    lengths = [len(r) for r in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= 1 << 19


def test_lost_worker_is_reported(srs: Srs) -> None:
    with Shards(srs, 2) as shards:
        shards.sum(DATA)
        shards._workers[0].kill()
        shards._workers[0].wait()
        with pytest.raises(ProofError, match="ended early, exit status -9"):
            shards.sum(DATA)


def test_interruption_ends_the_workers_at_once(srs: Srs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_PART", 5)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with Shards(srs, 2) as shards:
        workers = list(shards._workers)
        with pytest.raises(KeyboardInterrupt):
            shards.sum(DATA, stop)
        deadline = time.monotonic() + 10
        while any(worker.poll() is None for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_no_process_outlives_its_block(srs: Srs) -> None:
    with Shards(srs, 2) as shards:
        workers = list(shards._workers)
        assert all(worker.poll() is None for worker in workers)
    assert all(worker.poll() is not None for worker in workers)


def test_at_least_one_process_is_needed(srs: Srs) -> None:
    with pytest.raises(ValueError, match="0 processes"):
        Shards(srs, 0)
