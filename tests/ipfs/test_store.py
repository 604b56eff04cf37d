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
from multiformats import varint

from ipfs import Store
from ipfs.car import read_car, section
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
from ipfs.pins import DEFAULT_PIN
from ipfs.store import BlockStore, Collected, Stat
from tests.ipfs.segment_files import blocks, files, overwrite, put_without, sections

MIB = 1 << 20
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

many_examples_in_one_folder = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# ---------------------------------------------------------------------- put and get back


def test_the_embedded_store_has_the_shape_that_every_store_has(store: BlockStore) -> None:
    checked_by_mypy: Store = store
    assert checked_by_mypy is store


def test_blocks_lie_in_archives_that_others_can_read(store: BlockStore) -> None:
    cid = store.put(b"hello world")
    other = store.put_directory({"a": b"x" * 3_000_000})
    assert str(cid) == HELLO
    found = {str(section.cid): section.block for section in blocks(store)}
    assert found[HELLO] == b"hello world"
    assert str(other) in found and len(found) == 5
    (file,) = files(store)
    assert all(section.whole for section in sections(file))
    roots, read = read_car([file.read_bytes()], max_bytes=1 << 30)
    assert roots == ()
    assert {str(c): block for c, block in read}.items() >= found.items()


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
    assert sum(file.stat().st_size for file in files(store)) < 100


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
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = BlockStore(tmp_path_factory.mktemp("damaged"))
    puts = [{"a": b"small", "b": b"xyz" * 500_000}, {"c": b"later"}, {"d": b"last"}]
    roots = [store.put_directory(files) for files in puts]
    (file,) = files(store)
    damaged = bytearray(file.read_bytes())
    # half of the time among the few bytes that say where blocks are, and not in the large block
    large = max(sections(file), key=lambda section: len(section.block))
    at = data.draw(
        st.integers(0, len(damaged) - 1)
        | st.integers(0, large.at)
        | st.integers(large.at + len(large.block), len(damaged) - 1)
    )
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    for reader in (store, BlockStore(store.path)):
        for root, content in zip(roots, puts, strict=True):
            for name in content:
                try:  # either what was put, or an error
                    assert reader.read(root, name) == content[name]
                except (CorruptError, NotFoundError):
                    pass
    for content in puts:
        BlockStore(store.path).put_directory(content)
    for reader in (store, BlockStore(store.path)):
        for root, content in zip(roots, puts, strict=True):
            assert {name: reader.read(root, name) for name in content} == content
    store.gc()
    assert store.stat().blocks == 9


def test_a_segment_cut_anywhere_keeps_what_comes_before(store: BlockStore) -> None:
    contents = [b"%d" % number * 40 for number in range(4)]
    cids = [store.put(content) for content in contents]
    (file,) = files(store)
    whole = file.read_bytes()
    ends = [s.at + len(s.block) for s in blocks(store)]
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        for reader in (BlockStore(store.path), store):
            for cid, content, end in zip(cids, contents, ends, strict=True):
                if size >= end:
                    assert reader.read(cid) == content
                else:
                    with pytest.raises((NotFoundError, CorruptError)):
                        reader.read(cid)
        assert [s.block for s in blocks(store)] == contents[: sum(size >= end for end in ends)]
        file.unlink()


def test_a_section_too_large_for_a_block_is_not_read_at_all(store: BlockStore) -> None:
    before = store.put(b"before")
    (file,) = files(store)
    with file.open("ab") as stream:
        stream.write(varint.encode(36 + 2 * MIB + 1) + bytes(Cid.of(b"", RAW)))
        stream.truncate(1 << 27)
    fresh = BlockStore(store.path)
    assert fresh.read(before) == b"before"
    assert fresh.stat().blocks == 1
    assert file.stat().st_size < 300


def test_damage_loses_only_what_was_put_with_it(store: BlockStore) -> None:
    contents = [b"%d" % number * 40 for number in range(4)]
    cids = [store.put(content) for content in contents]
    second = blocks(store)[1]
    with second.file.open("r+b") as file:
        file.seek(second.at - 37)  # where the length of its section is
        file.write(b"\x7f")
    fresh = BlockStore(store.path)
    assert [fresh.has(cid) for cid in cids] == [True, False, True, True]
    assert fresh.put(contents[1]) == cids[1]
    assert [fresh.read(cid) for cid in cids] == contents


def test_a_stranger_cannot_mark_what_is_damaged(store: BlockStore) -> None:
    first = store.put(b"first")
    loose = Cid.of(b"loose", RAW)
    inner = varint.encode(36 + 5) + bytes(loose) + b"loose"
    made_up = section(Cid.of(b"0" * 32 + b" %016x" % 0, RAW), b"0" * 32 + b" %016x" % 0)
    cid = store.put(inner + made_up)
    (_, outer) = blocks(store)
    with outer.file.open("r+b") as file:
        file.seek(outer.at - 38)
        file.write(b"\x01")
    fresh = BlockStore(store.path)
    assert fresh.has(first)
    assert not fresh.has(cid) and not fresh.has_block(loose)


def test_a_missing_block_is_named_and_the_content_is_not_had(store: BlockStore, naive: Any) -> None:
    content = os.urandom(3 * MIB)
    cid = Cid.parse(str(naive.file(content)[0]))
    gone = Cid.of(content[MIB : 2 * MIB], RAW)
    put_without(store, naive.blocks, gone)
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


def test_a_folder_of_the_earlier_layout_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    with pytest.raises(StoreError, match=r"earlier version.*move .* away and put its content"):
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
    overwrite(store, store.get(kept), b"damaged")
    with pytest.raises(StoreError, match="nothing was freed.*holds other bytes"):
        store.gc()
    assert store.has(loose) and store.stat().blocks == 3
    store.put_directory({"a": b"1"})
    absent = store.path / "pins" / DEFAULT_PIN / str(Cid.of(b"absent", DAG_PB))
    absent.touch()
    with pytest.raises(StoreError, match="nothing was freed.*is not in the store"):
        store.gc()
    absent.unlink()
    assert store.gc().freed_blocks == 1
    assert store.read(kept, "a") == b"1"


def test_a_strange_file_among_the_pins_stops_garbage_collection(store: BlockStore) -> None:
    store.put(b"x")
    (store.path / "pins" / DEFAULT_PIN / "note.txt").write_text("")
    with pytest.raises(StoreError, match=r"note\.txt does not belong there"):
        store.gc()
    assert len(blocks(store)) == 1


def test_strange_files_beside_the_segments_are_left_alone(store: BlockStore) -> None:
    store.put(b"x", pin=None)
    strange = store.path / "segments" / "note.car"
    strange.write_text("mine")
    assert store.gc().freed_blocks == 1
    assert files(store) == [strange]


def test_collection_rewrites_only_segments_that_hold_something_to_free(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs.segments.SEGMENT_BYTES", 4000)
    contents = [bytes([number]) * 1000 for number in range(12)]
    cids = [store.put(content) for content in contents]
    assert len(files(store)) == 3
    before = {file: file.read_bytes() for file in files(store)}
    other = BlockStore(store.path)
    assert other.stat().blocks == 12
    at = next(s.file for s in blocks(store) if s.block == contents[5])
    store.unpin(cids[5])
    assert store.gc() == Collected(1, 1000, 11)
    after = {file: file.read_bytes() for file in files(store)}
    assert len(after) == 3 and at not in after
    assert {f: data for f, data in before.items() if f != at}.items() <= after.items()
    # one that looked before finds what was moved, and misses what was freed
    assert not other.has(cids[5])
    for cid, content in zip(cids, contents, strict=True):
        if cid != cids[5]:
            assert other.read(cid) == content


def test_a_repaired_block_is_kept_once(store: BlockStore) -> None:
    cid = store.put(b"will be damaged")
    overwrite(store, b"will be damaged", b"WILL")
    assert store.put(b"will be damaged") == cid
    assert len(blocks(store)) == 2
    assert store.gc() == Collected(0, 0, 1)
    assert [section.block for section in blocks(store)] == [b"will be damaged"]


def test_a_write_into_a_segment_that_is_there_takes_one_sync(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"first")
    synced: list[str] = []

    def noted(name: str) -> None:
        original = getattr(os, name)

        def stand_in(descriptor: int) -> None:
            synced.append(f"{name} {os.readlink(f'/proc/self/fd/{descriptor}')}")
            original(descriptor)

        monkeypatch.setattr(os, name, stand_in)

    noted("fsync")
    noted("fdatasync")
    store.put(os.urandom(5_000_000), pin=None)
    (file,) = files(store)
    assert synced == [f"fdatasync {file}"]
    store.put(os.urandom(5_000_000))
    assert synced[1:] == [f"fdatasync {file}", f"fsync {store.path / 'pins' / DEFAULT_PIN}"]
    synced.clear()
    store.put(b"first", pin=None)
    assert synced == []


def test_a_slow_writer_holds_up_no_other(store: BlockStore) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= MIB:
                among.append(store.put(b"meanwhile"))
            return super().read(size)

    among: list[Cid] = []
    cid = store.put(Slow(bytes(MIB) + b"end"))
    assert store.read(cid) == bytes(MIB) + b"end"
    assert store.read(among[0]) == b"meanwhile"
    assert len(files(store)) == 2
    store.put(b"after")
    assert len(files(store)) == 2


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
