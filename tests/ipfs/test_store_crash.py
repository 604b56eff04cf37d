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

from ipfs.cid import Cid
from ipfs.errors import IpfsError
from ipfs.store import BlockStore

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "unlink")
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
PUT = f"store.put_directory({NEW!r})"
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
    assert store.read(old, "old") == OLD["old"]
    for file in (store.path / "blocks").glob("*/*.data"):
        assert file.name.startswith("CIQ")
        assert_whole(file)
    new = store.put_directory(NEW)
    assert {name: store.read(new, name) for name in NEW} == NEW
    store.gc()
    assert store.read(old, "old") == OLD["old"]
    assert list((store.path / "blocks" / ".temp").iterdir()) == []


def assert_whole(file: Path) -> None:
    from multiformats import multibase, multihash

    digest = multihash.digest(file.read_bytes(), "sha2-256")
    assert multibase.encode(digest, "base32upper")[1:] == file.stem


def test_a_process_killed_at_any_call_of_a_put_leaves_a_readable_store(tmp_path: Path) -> None:
    def prepared(name: str) -> tuple[BlockStore, Cid]:
        store = BlockStore(tmp_path / name)
        return store, store.put_directory(OLD)

    calls = int(run(prepared("count")[0].path, PUT, 0).stdout)
    assert calls > 20
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
        (store.path / "blocks" / ".temp" / "1-stale").write_bytes(b"of a killed writer")
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


@pytest.mark.parametrize("name", ["open", "write", "fsync", "close", "mkdir", "rename"])
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
                assert fail_at > 2
                return
        assert_readable(store, old)


def failing_put(store: BlockStore, failing: FailingAt) -> IpfsError | None:
    """Return the error of a put, or None where it had no call left to fail at."""
    try:
        store.put_directory(NEW)
    except IpfsError as error:
        assert "No space left on device" in str(error)
        return error
    # the last call closes the lock, which can do no harm
    assert failing.calls < failing.fail_at or failing.name == "close"
    return None


def test_content_is_synced_before_it_is_named_and_named_before_it_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlockStore(tmp_path / "store")
    trace: list[tuple[str, str]] = []

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    originals = {name: getattr(os, name) for name in ("write", "fsync", "rename", "open")}

    def write(descriptor: int, data: bytes) -> int:
        trace.append(("write", path_of(descriptor)))
        return int(originals["write"](descriptor, data))

    def fsync(descriptor: int) -> None:
        trace.append(("fsync", path_of(descriptor)))
        originals["fsync"](descriptor)

    def rename(source: Path, target: Path) -> None:
        trace.append(("rename", f"{source} {target}"))
        originals["rename"](source, target)

    def open_(path: Any, *args: Any, **kwargs: Any) -> int:
        if "/pins/" in str(path):
            trace.append(("open", str(path)))
        return int(originals["open"](path, *args, **kwargs))

    for stand_in in (write, fsync, rename, open_):
        monkeypatch.setattr(os, stand_in.__name__.rstrip("_"), stand_in)
    store.put_directory(NEW)
    monkeypatch.undo()

    renames = [(at, *what.split()) for at, (call, what) in enumerate(trace) if call == "rename"]
    assert len(renames) == 3
    pinned = next(at for at, (call, _) in enumerate(trace) if call == "open")
    for at, source, target in renames:
        last_write = max(i for i, entry in enumerate(trace) if entry == ("write", source))
        assert last_write < trace.index(("fsync", source)) < at
        assert at < trace.index(("fsync", str(Path(target).parent)), at) < pinned
    assert trace[-1] == ("fsync", str(store.path / "pins" / "kept"))


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
    assert list((tmp_path / "blocks" / ".temp").iterdir()) == []
    for _, cid in store.pins():
        assert len(store.read(cid)) == 2_500_000
