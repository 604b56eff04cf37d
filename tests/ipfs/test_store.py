"""The embedded store: what is put comes back, limits, damage, pins and garbage collection."""

import io
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multiformats import multibase, multihash

from ipfs import Store
from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import (
    CorruptError,
    FormatError,
    InputError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.store import DEFAULT_PIN, BlockStore, Collected, Stat

MIB = 1 << 20
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

many_examples_in_one_folder = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def block_file(store: BlockStore, cid: Cid) -> Path:
    """Return where Kubo's flatfs keeps a block, by the words of its specification."""
    key = multibase.encode(multihash.wrap(cid.digest, "sha2-256"), "base32upper")[1:]
    return store.path / "blocks" / key[-3:-1] / f"{key}.data"


def block_files(store: BlockStore) -> list[Path]:
    return sorted((store.path / "blocks").glob("*/*.data"))


def leftovers(store: BlockStore) -> list[Path]:
    return list((store.path / "blocks" / ".temp").iterdir())


# ---------------------------------------------------------------------- put and get back


def test_the_embedded_store_has_the_shape_that_every_store_has(store: BlockStore) -> None:
    checked_by_mypy: Store = store
    assert checked_by_mypy is store


def test_a_block_lies_where_kubo_looks_for_it(store: BlockStore) -> None:
    cid = store.put(b"hello world")
    assert str(cid) == HELLO
    assert block_file(store, cid).read_bytes() == b"hello world"
    sharding = (store.path / "blocks" / "SHARDING").read_text()
    assert sharding == "/repo/flatfs/shard/v1/next-to-last/2\n"


@pytest.mark.parametrize(
    "size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 9 * MIB + 5]
)
def test_content_around_every_chunk_boundary_comes_back(
    store: BlockStore, naive: Any, size: int
) -> None:
    content = os.urandom(size)
    cid = store.put(content)
    assert str(cid) == str(naive.file(content)[0])
    assert store.put(io.BytesIO(content)) == cid
    assert store.read(cid) == content
    assert leftovers(store) == []


@many_examples_in_one_folder
@given(st.binary(max_size=300), st.integers(1, 7), st.integers(2, 4), st.integers(1, 50))
def test_deep_files_from_slow_streams_have_the_naive_identifier(
    store: BlockStore, naive_builder: Any, content: bytes, chunk: int, width: int, gives: int
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, gives))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ipfs.unixfs.CHUNK_BYTES", chunk)
        patch.setattr("ipfs.unixfs.MAX_LINKS", width)
        cid = store.put(Slow(content))
    assert str(cid) == str(naive_builder().file(content, chunk, width)[0])
    assert store.read(cid) == content


def test_a_directory_comes_back_by_name(store: BlockStore, naive: Any) -> None:
    files = {"update.safetensors": os.urandom(3 * MIB), "a": b"", "é": b"x"}
    cid = store.put_directory({**files, "a": io.BytesIO(b"")})
    expected = naive.directory({name: naive.file(data) for name, data in files.items()})
    assert str(cid) == str(expected[0])
    assert Cid.from_digest(cid.digest) == cid
    assert {entry.name: entry.size for entry in store.ls(cid)} == {
        name: len(data) for name, data in files.items()
    }
    for name, data in files.items():
        assert store.read(cid, name) == data
        assert b"".join(store.open(cid, name)) == data


def test_equal_chunks_are_stored_once(store: BlockStore) -> None:
    store.put(bytes(200 * MIB))
    assert store.stat().blocks == 2
    assert store.stat().size < MIB + 12_000


def test_bad_names_and_streams_leave_nothing_behind(store: BlockStore) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 3 * MIB:
                raise OSError("the cable is out")
            return super().read(size)

    with pytest.raises(FormatError, match=r"'\.\./x'"):
        store.put_directory({"../x": b"1"})
    with pytest.raises(OSError, match="the cable is out"):
        store.put(Broken(os.urandom(9 * MIB)))
    assert store.stat() == Stat(0, 0, 0)
    assert leftovers(store) == []


def test_a_read_is_limited_in_bytes_and_time(store: BlockStore) -> None:
    cid = store.put_directory({"a": b"12345"})
    assert store.read(cid, "a", max_bytes=5) == b"12345"
    with pytest.raises(LimitError, match="5 bytes, more than the limit of 4"):
        store.read(cid, "a", max_bytes=4)
    with pytest.raises(TimeLimitError, match="longer than 0 s"):
        store.read(cid, "a", timeout_s=0)
    with pytest.raises(TimeLimitError, match="longer than -1 s"):
        store.ls(cid, timeout_s=-1)


def test_a_pin_is_limited_in_bytes_and_time(store: BlockStore) -> None:
    cid = store.put_directory({"a": b"1" * 3000, "b": b"2" * 3000}, pin=None)
    with pytest.raises(LimitError, match="more than the limit of 6000 bytes"):
        store.pin(cid, max_bytes=6000)
    with pytest.raises(TimeLimitError):
        store.pin(cid, timeout_s=0)
    assert store.pins() == []
    store.pin(cid, max_bytes=6200)
    assert store.pins() == [(DEFAULT_PIN, cid)]


def test_what_is_not_there_is_named(store: BlockStore) -> None:
    absent = Cid.of(b"absent", RAW)
    with pytest.raises(NotFoundError, match=str(absent)):
        store.read(absent)
    cid = store.put_directory({"a": b"1"})
    with pytest.raises(NotFoundError, match="no entry 'b'"):
        store.read(cid, "b")
    assert store.has(cid) and not store.has(absent)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = """
import os, resource, sys
from ipfs.store import BlockStore
class Random:
    def __init__(self, size): self.left = size
    def read(self, size):
        size = min(size, self.left); self.left -= size
        return os.urandom(size)
store = BlockStore(sys.argv[1])
cid = store.put(Random(int(sys.argv[2]) << 20))
print(sum(map(len, store.open(cid))) >> 20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = {}
    for size_mib in (24, 144):
        out = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), str(size_mib)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        assert int(out[0]) == size_mib
        peaks[size_mib] = int(out[1])
    assert peaks[144] - peaks[24] < 8 * 1024  # KiB


# ------------------------------------------------------------------------------- damage


@many_examples_in_one_folder
@given(st.data())
def test_any_flipped_bit_is_noticed_and_putting_again_repairs_it(
    store: BlockStore, data: st.DataObject
) -> None:
    files = {"a": b"small", "b": b"xyz" * 500_000}
    cid = store.put_directory(files)
    file = data.draw(st.sampled_from(block_files(store)))
    damaged = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    with pytest.raises(CorruptError):
        for name in files:
            store.read(cid, name)
    assert store.put_directory(files) == cid
    assert {name: store.read(cid, name) for name in files} == files


def test_truncated_and_empty_blocks_are_noticed(store: BlockStore) -> None:
    cid = store.put(b"hello world")
    for left in (b"hello worl", b"", b"hello world" * 2):
        block_file(store, cid).write_bytes(left)
        with pytest.raises(CorruptError, match=f"{len(left)} bytes"):
            store.read(cid)


def test_a_file_too_large_to_be_a_block_is_not_read_at_all(store: BlockStore) -> None:
    cid = store.put(b"hello world")
    with block_file(store, cid).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitError, match="1099511627776 bytes"):
        store.read(cid)


def test_a_missing_block_is_named_and_the_content_is_not_had(store: BlockStore) -> None:
    content = os.urandom(3 * MIB)
    cid = store.put(content)
    gone = Cid.of(content[MIB : 2 * MIB], RAW)
    block_file(store, gone).unlink()
    parts = store.open(cid)
    assert next(parts) == content[:MIB]
    with pytest.raises(NotFoundError, match=str(gone)):
        next(parts)
    assert store.has_block(cid) and not store.has(cid)
    with pytest.raises(NotFoundError, match=f"cannot be pinned: its block {gone}"):
        store.pin(cid, "x")
    assert store.put(content) == cid and store.has(cid)


def test_a_block_under_another_identifier_is_refused(store: BlockStore) -> None:
    cid = Cid.parse(HELLO)
    with pytest.raises(CorruptError, match=HELLO):
        store.put_block(cid, b"hello")
    with pytest.raises(LimitError, match="2097153 bytes"):
        store.put_block(cid, bytes(2 * MIB + 1))
    assert store.stat().blocks == 0
    store.put_block(cid, b"hello world")
    assert store.get(cid) == b"hello world"


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    blocks = tmp_path / "blocks"
    blocks.mkdir()
    (blocks / "SHARDING").write_text("/repo/flatfs/shard/v1/prefix/5\n")
    with pytest.raises(StoreError, match="prefix/5"):
        BlockStore(tmp_path)


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file.*Not a directory|File exists"):
        BlockStore(tmp_path / "file" / "store")


# --------------------------------------------------------------------------- pins and gc


def test_garbage_collection_keeps_what_is_pinned_and_frees_the_rest(store: BlockStore) -> None:
    keep = store.put_directory({"a": b"1", "b": b"2"})
    free = store.put_directory({"a": b"1", "c": b"3"}, pin=None)
    assert store.stat() == Stat(5, store.stat().size, 1)
    assert store.gc().freed_blocks == 2
    assert store.read(keep, "b") == b"2"
    assert not store.has(free)
    assert store.gc() == Collected(0, 0, 3)
    store.unpin(keep)
    collected = store.gc()
    assert (collected.freed_blocks, collected.kept_blocks) == (3, 0)
    assert store.stat() == Stat(0, 0, 0)


def test_each_name_keeps_content_for_itself(store: BlockStore) -> None:
    cid = store.put(b"shared", pin="project-1")
    store.pin(cid, "project-2")
    store.pin(cid, "project-2")
    assert store.pins() == [("project-1", cid), ("project-2", cid)]
    assert store.pins("project-2") == [("project-2", cid)]
    assert store.pins("project-3") == []
    store.unpin(cid, "project-1")
    store.gc()
    assert store.read(cid) == b"shared"
    with pytest.raises(NotFoundError, match="not pinned under the name 'project-1'"):
        store.unpin(cid, "project-1")
    store.unpin(cid, "project-2")
    assert store.gc().freed_blocks == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a" * 129, "é"])
def test_names_of_pins_are_names_of_files(store: BlockStore, name: str) -> None:
    cid = store.put(b"x")
    for act in (
        lambda: store.pin(cid, name),
        lambda: store.unpin(cid, name),
        lambda: store.pins(name),
        lambda: store.put(b"y", pin=name),
        lambda: store.put_directory({}, pin=name),
    ):
        with pytest.raises(InputError, match="cannot name pins"):
            act()
    assert store.pins() == [(DEFAULT_PIN, cid)]


def test_nothing_is_freed_while_a_pinned_node_cannot_be_read(store: BlockStore) -> None:
    kept = store.put_directory({"a": b"1"})
    loose = store.put(b"loose", pin=None)
    block_file(store, kept).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="nothing was freed.*holds other bytes"):
        store.gc()
    assert store.has(loose) and store.stat().blocks == 3
    block_file(store, kept).unlink()
    with pytest.raises(StoreError, match="nothing was freed.*is not in the store"):
        store.gc()
    store.put_directory({"a": b"1"})
    assert store.gc().freed_blocks == 1


def test_a_strange_file_among_the_pins_stops_garbage_collection(store: BlockStore) -> None:
    store.put(b"x")
    (store.path / "pins" / DEFAULT_PIN / "note.txt").write_text("")
    with pytest.raises(StoreError, match=r"note\.txt does not belong there"):
        store.gc()
    assert store.stat is not None and len(block_files(store)) == 1


def test_strange_files_beside_the_blocks_are_left_alone(store: BlockStore) -> None:
    store.put(b"x", pin=None)
    (store.path / "blocks" / "_README").write_text("of Kubo")
    (store.path / "blocks" / "diskUsage.cache").write_text("{}")
    assert store.gc().freed_blocks == 1
    assert (store.path / "blocks" / "_README").exists()


def test_garbage_collection_and_writers_wait_for_each_other(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Paused(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reached.set()
            assert go_on.wait(10)
            return super().read(size)

    found: list[Cid] = []
    writer = threading.Thread(target=lambda: found.append(store.put(Paused(b"paused"))))
    writer.start()
    assert reached.wait(10)
    with pytest.raises(TimeLimitError, match="waiting for other users"):
        store.gc(timeout_s=0.1)
    go_on.set()
    writer.join(10)
    assert store.gc().freed_blocks == 0
    assert store.read(found[0]) == b"paused"
    with store._locked(2, 1):  # LOCK_EX, as garbage collection holds it
        monkeypatch.setattr("ipfs.store.DEFAULT_TIMEOUT_S", 0.1)
        with pytest.raises(TimeLimitError, match="waiting for other users"):
            store.put(b"x")


def test_many_threads_write_and_collect_at_once(store: BlockStore) -> None:
    kept: list[tuple[Cid, bytes]] = []
    stop = threading.Event()

    def write(number: int) -> None:
        for turn in range(15):
            content = b"%d-%d" % (number % 2, turn)  # two threads write the same
            kept.append((store.put(content), content))
            store.put_directory({"x": content}, pin=None)

    def collect() -> None:
        while not stop.is_set():
            store.gc()
            time.sleep(0.005)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    collector = threading.Thread(target=collect)
    for thread in (*threads, collector):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    collector.join()
    assert len(kept) == 60
    for cid, content in kept:
        assert store.read(cid) == content


@pytest.fixture
def limited_files() -> Iterator[None]:
    """Let the process have few open files, as some systems do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Other tests may have left some open; a descriptor's number must stay below the limit.
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("limited_files")
def test_a_file_of_many_blocks_needs_few_open_files(
    store: BlockStore, naive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs.unixfs.CHUNK_BYTES", 8)
    content = os.urandom(8 * 700)
    cid = store.put(content)
    assert str(cid) == str(naive.file(content, 8)[0])
    assert store.read(cid) == content
    assert cid.codec == DAG_PB
