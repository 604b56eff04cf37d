"""Crashes: whatever happens at whatever call to the system, the store stays readable.

A test run first counts the calls of one `put`; then it is run again for each of them, once with the
call failing and once with the process killed there.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipfs.cid import Cid
from ipfs.errors import IpfsError
from ipfs.store import BlockStore
from tests.ipfs.segment_files import blocks, files, is_mark, sections

CALLS = ("open", "pwritev", "fdatasync", "fsync", "ftruncate", "close", "mkdir", "unlink")
OLD = {"old": b"kept from before" * 1000}
NEW = {"a": b"x" * 2000 + b"y" * 2000, "b": b"other"}

# a put of several small blocks; os' functions count and die at the one that was asked for
SCRIPT = """
import os, signal, sys
import ipfs.store, ipfs.unixfs
from ipfs.store import BlockStore
ipfs.unixfs.CHUNK_BYTES = 1500
store = BlockStore(sys.argv[1])
die_at, calls = int(sys.argv[2]), 0
def counted(call):
    def stand_in(*args, **kwargs):
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return stand_in
for name in {calls!r}:
    setattr(os, name, counted(getattr(os, name)))
{act}
sys.stdout.write(str(calls))
"""
PUT = f"store.put_directory({NEW!r}, pin='new')"
COLLECT = "store.gc()"


def run(folder: Path, act: str, die_at: int) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.replace("{calls!r}", repr(CALLS)).replace("{act}", act)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder), str(die_at)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_readable(store: BlockStore, old: Cid) -> None:
    """Check what must hold after any crash: old content, no damaged block, a new start."""
    store = BlockStore(store.path)
    assert store.read(old, "old") == OLD["old"]
    for _, root in store.pins():
        assert store.has(root)
    new = store.put_directory(NEW)
    assert {name: store.read(new, name) for name in NEW} == NEW
    store.gc()
    assert store.read(old, "old") == OLD["old"]
    # no crash leaves anything behind that is no block or mark
    for file in files(store):
        assert all(section.whole for section in sections(file))
    assert len(blocks(store)) == store.stat().blocks


def test_a_process_killed_at_any_call_of_a_put_leaves_a_readable_store(tmp_path: Path) -> None:
    def prepared(name: str) -> tuple[BlockStore, Cid]:
        store = BlockStore(tmp_path / name)
        return store, store.put_directory(OLD)

    calls = int(run(prepared("count")[0].path, PUT, 0).stdout)
    assert calls > 15
    for die_at in range(1, calls + 1):
        store, old = prepared(str(die_at))
        assert run(store.path, PUT, die_at).returncode == -signal.SIGKILL
        assert_readable(store, old)


def test_a_process_killed_at_any_call_of_a_collection_leaves_a_readable_store(
    tmp_path: Path,
) -> None:
    def prepared(name: str) -> tuple[BlockStore, Cid]:
        store = BlockStore(tmp_path / name)
        old = store.put_directory(OLD)
        for number in range(4):
            store.put_directory({"loose": b"%d" % number}, pin=None)
        with files(store)[0].open("ab") as file:
            file.write(b"of a killed writer")
        return store, old

    calls = int(run(prepared("count")[0].path, COLLECT, 0).stdout)
    assert calls > 8
    for die_at in range(1, calls + 1):
        store, old = prepared(str(die_at))
        assert run(store.path, COLLECT, die_at).returncode == -signal.SIGKILL
        assert_readable(store, old)


class FailingAt:
    """Stands in for a function of `os` and fails once, at one of its calls."""

    def __init__(self, name: str, fail_at: int) -> None:
        self.original = getattr(os, name)
        self.name, self.fail_at, self.calls = name, fail_at, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.fail_at:
            if self.name == "close":  # it closes all the same
                self.original(*args, **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.original(*args, **kwargs)


@pytest.mark.parametrize("name", ["open", "pwritev", "fdatasync", "fsync", "close", "mkdir"])
def test_a_put_that_fails_at_any_call_leaves_a_readable_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ipfs.unixfs.CHUNK_BYTES", 1500)
    for fail_at in range(1, 1000):
        store = BlockStore(tmp_path / str(fail_at))
        old = store.put_directory(OLD)
        failing = FailingAt(name, fail_at)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            if failing_put(store, failing) is None:
                assert fail_at > 1
                return
        assert_readable(store, old)


def failing_put(store: BlockStore, failing: FailingAt) -> IpfsError | None:
    """Return the error of a put, or None where it had no call left to fail at."""
    try:
        store.put_directory(NEW, pin="new")
    except IpfsError as error:
        assert "No space left on device" in str(error)
        return error
    # the last call closes the lock, which can do no harm
    assert failing.calls < failing.fail_at or failing.name == "close"
    return None


@pytest.mark.parametrize("new", [True, False])
def test_content_is_synced_before_it_is_marked_and_marked_before_it_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    store = BlockStore(tmp_path / "store")
    if not new:
        store.put(b"first")
    trace: list[tuple[str, str]] = []

    def noted(name: str) -> None:
        original = getattr(os, name)

        def stand_in(what: Any, *args: Any, **kwargs: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
            if name != "open" or "/pins/" in path:
                trace.append((name, path))
            return original(what, *args, **kwargs)

        monkeypatch.setattr(os, name, stand_in)

    for name in ("pwritev", "fdatasync", "fsync", "open"):
        noted(name)
    root = store.put_directory(NEW)
    monkeypatch.undo()
    (file,) = files(store)
    name_it = [("pwritev", str(file)), ("fsync", str(store.path / "segments"))]
    pin = store.path / "pins" / "kept"
    name_pin = [("fsync", str(store.path / "pins"))]
    assert trace == [
        *(name_it if new else []),
        *[("pwritev", str(file))] * 3,
        ("fdatasync", str(file)),
        ("pwritev", str(file)),
        *(name_pin if new else []),
        ("open", str(pin / str(root))),
        ("open", str(pin)),
        ("fsync", str(pin)),
    ]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    marked=st.booleans(),
    lost=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=3),
    size=st.integers(0, 9000),
)
def test_a_power_cut_may_take_any_part_of_what_was_not_synced(
    tmp_path_factory: pytest.TempPathFactory,
    marked: bool,
    lost: list[tuple[int, int]],
    size: int,
) -> None:
    store = BlockStore(tmp_path_factory.mktemp("cut"))
    old = store.put_directory(OLD)
    (file,) = files(store)
    synced = file.read_bytes()
    before = synced if marked else synced[: -len(mark_of(file))]
    store.put_directory({"a": bytes(range(256)) * 20, "b": b"b" * 3000}, pin=None)
    later = bytearray(file.read_bytes())[len(before) : -len(mark_of(file))]
    # of what came after the last sync, some sectors never reached the disk, nor did the file's end
    for sector, count in lost:
        at = sector * 512 - len(before) % 512
        for place in range(max(0, at), min(len(later), at + 512 * count)):
            later[place] = 0
    file.write_bytes(before + later[: size or len(later)])
    assert_readable(store, old)


def mark_of(file: Path) -> bytes:
    """Return the bytes of the last section of a segment, which must be a mark."""
    last = list(sections(file))[-1]
    assert is_mark(last)
    return file.read_bytes()[last.at - 37 :]


def test_what_was_synced_stays_though_its_mark_was_lost(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    old = store.put_directory(OLD)
    (file,) = files(store)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - len(mark_of(file)))
    for reader in (BlockStore(tmp_path), store):
        assert reader.read(old, "old") == OLD["old"]
    mark_of(file)


def test_two_processes_that_write_the_same_at_once_agree(tmp_path: Path) -> None:
    script = """
import random, sys
from ipfs.store import BlockStore
store = BlockStore(sys.argv[1])
sys.stdin.readline()
for number in range(12):
    content = random.Random(number).randbytes(2_500_000)
    print(store.put(content), store.read(store.put(content)) == content, flush=True)
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    first, second = (writer.communicate(timeout=120)[0] for writer in writers)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert first == second
    assert first.count("True") == 12
    store = BlockStore(tmp_path)
    assert len(store.pins()) == 12
    for _, cid in store.pins():
        assert len(store.read(cid)) == 2_500_000
