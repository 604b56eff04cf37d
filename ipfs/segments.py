"""Keep blocks in files that only grow, each an archive of blocks: CAR version 1 without roots.

Covered: one sync a batch, several writers at once, crashes at any write, damage.
Not covered: which blocks are wanted, and keeping writers away while some are freed (`ipfs.store`).

A segment is NAME.car, where NAME is 32 random hexadecimal digits. A batch of blocks is appended to
one that nobody else has locked, and synced; then a mark follows, which is not synced itself: a raw
block whose text is NAME and the place of the mark in the file. So everything before a mark is
durable, and content from strangers, who do not know NAME, cannot hold one.

What no mark follows is of a writer at work, or of one that was stopped or lost its mark to a
crash. Whoever locks the segment next keeps what is whole of it, by the hashes, up to the first
block that is not, and cuts off the rest. Where a section before a mark cannot be read, the disk has
damaged it: what was put with it is missing from there on, until it is put again.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ipfs.car import section, write_car
from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.dag import Deadline
from ipfs.disk import disk_errors, sync_folder, try_lock, unlock
from ipfs.unixfs import MAX_BLOCK_BYTES, varint

__all__ = ["SEGMENT_BYTES", "Batch", "Segments", "Where"]

SEGMENT_BYTES = 1 << 28
"""Size from which a segment is not appended to any more."""

_HEADER = b"".join(write_car([], []))
_CIDS = tuple(bytes(Cid(bytes(32), codec))[:4] for codec in (RAW, DAG_PB))
_CID_BYTES = 36
_LENGTH_BYTES = 4
_NAME = re.compile(r"([0-9a-f]{32})\.car")
_SEARCH_BYTES = 1 << 20
_LOCK_POLL_S = 0.02


class Where(NamedTuple):
    """Tell where the bytes of a block are; its CID is right before them."""

    segment: str
    at: int
    size: int

    @property
    def after(self) -> int:
        """Return where the next section begins."""
        return self.at + self.size


class Segments:
    """Find, read and append the blocks in the segments of a folder, which must be there.

    What other processes append or free is seen by `refresh`, and in part before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = threading.RLock()
        self._index: dict[bytes, tuple[Where, ...]] = {}
        self._ends: dict[str, int] = {}
        self._listed_ns = 0

    # -------------------------------------------------------------------- find

    def find(self, digest: bytes) -> tuple[Where, ...]:
        """Return where a block is, the newest place first: more than one after a repair."""
        with self._mutex, disk_errors(self.folder):
            if os.stat(self.folder).st_mtime_ns != self._listed_ns:
                self.refresh()
            return self._index.get(digest, ())

    def read(self, where: Where) -> bytes:
        """Return the bytes at a place, unverified; FileNotFoundError if they were freed since."""
        descriptor = os.open(self._path(where.segment), os.O_RDONLY)
        try:
            return os.pread(descriptor, where.size, where.at)
        finally:
            os.close(descriptor)

    def holds(self, digest: bytes, block: bytes | memoryview) -> bool:
        """Tell whether a block is here and undamaged, for a caller that keeps `collect` away."""
        with self._mutex:
            places = self._index.get(digest, ())
        with disk_errors(self.folder):
            return any(w.size == len(block) and self.read(w) == block for w in places)

    def sizes(self) -> list[int]:
        """Return the sizes of all blocks."""
        with self._mutex:
            return [places[0].size for places in self._index.values()]

    def refresh(self, wait: Deadline | None = None) -> None:
        """Look at what changed on disk, and clean up after writers that were stopped.

        `wait` is how long to wait for others who are doing so, for a caller that keeps writers
        away.
        """
        with self._mutex, disk_errors(self.folder):
            self._listed_ns = os.stat(self.folder).st_mtime_ns
            names = {
                found[1] for file in os.listdir(self.folder) if (found := _NAME.fullmatch(file))
            }
            self._forget(self._ends.keys() - names)
            for name in names:
                with suppress(FileNotFoundError):
                    self._follow(name, wait)

    def _forget(self, names: set[str]) -> None:
        if not names:
            return
        for name in names:
            self._ends.pop(name, None)
        kept = {
            digest: tuple(where for where in places if where.segment not in names)
            for digest, places in self._index.items()
        }
        self._index = {digest: places for digest, places in kept.items() if places}

    def _follow(self, name: str, wait: Deadline | None) -> None:
        size = os.stat(self._path(name)).st_size
        if size < self._ends.get(name, 0):
            self._forget({name})
        if size == self._ends.setdefault(name, len(_HEADER)):
            return
        descriptor = os.open(self._path(name), os.O_RDWR)
        try:
            while self._scan(name, descriptor) != size and not self._locked(name, descriptor):
                if wait is None:
                    return
                wait.left_s(f"waiting for other users of {self._path(name)}")
                time.sleep(_LOCK_POLL_S)
        finally:
            unlock(descriptor)

    def _scan(self, name: str, descriptor: int) -> int:
        """Take up what was marked since the last look, and return where it ends."""
        at = before = end = self._ends[name]
        size = os.fstat(descriptor).st_size
        batch: list[tuple[bytes, Where]] = []
        while at < size:
            found = _section(name, descriptor, at, size)
            if found is None:
                # the length of the section before may be what is wrong
                mark = _next_mark(name, descriptor, before)
                if mark is None:
                    break
                batch = [entry for entry in batch if entry[1].after <= mark]
                at = mark
            elif found[1].after - at == _MARK_BYTES and _is_mark(name, descriptor, at):
                at = before = end = found[1].after
                self._add(name, batch, end)
                batch = []
            else:
                batch.append(found)
                before, at = at, found[1].after
        return end

    def _add(self, name: str, batch: list[tuple[bytes, Where]], end: int) -> None:
        with self._mutex:
            for digest, where in batch:
                self._index[digest] = (where, *self._index.get(digest, ()))
            self._ends[name] = end

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.car"

    # ------------------------------------------------------------------ append

    def take(self) -> _Appender:
        """Lock a segment that has room and that nobody else writes to, or else a new one."""
        with self._mutex:
            free = [name for name, end in self._ends.items() if end < SEGMENT_BYTES]
            for name in free:
                with suppress(FileNotFoundError):
                    descriptor = os.open(self._path(name), os.O_RDWR)
                    with _unlocked_on_error(descriptor):
                        if self._locked(name, descriptor):
                            return _Appender(self, name, descriptor, self._ends[name])
                    os.close(descriptor)
            return self.make()

    def make(self) -> _Appender:
        """Lock a new segment."""
        name = secrets.token_hex(16)
        descriptor = os.open(self._path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with _unlocked_on_error(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _write(descriptor, 0, _HEADER)
            sync_folder(self.folder)
        self._add(name, [], len(_HEADER))
        return _Appender(self, name, descriptor, len(_HEADER))

    def _locked(self, name: str, descriptor: int) -> bool:
        """Lock a segment if nobody else has it, and bring its end in order."""
        if not try_lock(descriptor, fcntl.LOCK_EX):
            return False
        end = self._scan(name, descriptor)
        size = os.fstat(descriptor).st_size
        if size == end:
            return True
        if size < len(_HEADER):
            _write(descriptor, 0, _HEADER)
            self._add(name, [], len(_HEADER))
            return True
        batch: list[tuple[bytes, Where]] = []
        at = end
        while found := _section(name, descriptor, at, size):
            digest, where = found
            if sha256(os.pread(descriptor, where.size, where.at)).digest() != digest:
                break
            batch.append(found)
            at = where.after
        os.ftruncate(descriptor, at)
        if batch:
            os.fdatasync(descriptor)
            _write(descriptor, at, _mark(name, at))
            at += _MARK_BYTES
        self._add(name, batch, at)
        return True

    # -------------------------------------------------------------------- free

    def collect(self, keep: set[bytes]) -> tuple[int, int, int]:
        """Free all blocks but those of these digests, for a caller that keeps writers away.

        Returns how many were freed, their bytes, and how many are left. A segment that holds
        something to be freed is removed as soon as the rest of it is durable elsewhere.
        """
        wanted: dict[str, list[Where]] = defaultdict(list)
        held: dict[str, int] = defaultdict(int)
        freed = size = kept = 0
        with self._mutex:
            names, blocks = list(self._ends), list(self._index.items())
        for digest, places in blocks:
            for where in places:
                held[where.segment] += 1
            if digest in keep:
                kept += 1
                best = self._best(digest, places)
                wanted[best.segment].append(best)
            else:
                freed += 1
                size += places[0].size
        with Batch(self, new=True) as batch:
            for name in names:
                if wanted[name] and len(wanted[name]) == held[name]:
                    continue
                for where in wanted[name]:
                    cid = self.read(Where(name, where.at - _CID_BYTES, _CID_BYTES))
                    batch.append(Cid.from_bytes(cid), self.read(where))
                batch.commit()
                os.unlink(self._path(name))
        self.refresh()
        return freed, size, kept

    def _best(self, digest: bytes, places: tuple[Where, ...]) -> Where:
        if len(places) > 1:
            for where in places:
                if sha256(self.read(where)).digest() == digest:
                    return where
        return places[0]


class _Appender:
    """Append to one locked segment; what was not committed is cut off on closing."""

    def __init__(self, segments: Segments, name: str, descriptor: int, end: int) -> None:
        self._segments = segments
        self._name = name
        self._descriptor = descriptor
        self._start = self.end = end
        self._batch: list[tuple[bytes, Where]] = []

    def append(self, cid: Cid, block: bytes | memoryview) -> None:
        head = varint(_CID_BYTES + len(block)) + bytes(cid)
        self._batch.append((cid.digest, Where(self._name, self.end + len(head), len(block))))
        _write(self._descriptor, self.end, head, block)
        self.end += len(head) + len(block)

    def commit(self) -> None:
        if not self._batch:
            return
        os.fdatasync(self._descriptor)
        _write(self._descriptor, self.end, _mark(self._name, self.end))
        self.end += _MARK_BYTES
        self._segments._add(self._name, self._batch, self.end)
        self._start, self._batch = self.end, []

    def close(self) -> None:
        if self._batch:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._start)
        unlock(self._descriptor)


class Batch:
    """Append blocks that become durable, and visible, together with `commit`.

    Those that fill a segment do so before. `new` is for blocks that must not go where others are.
    """

    def __init__(self, segments: Segments, *, new: bool = False) -> None:
        self._segments = segments
        self._take = segments.make if new else segments.take
        self._appender: _Appender | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, cid: Cid, block: bytes | memoryview) -> None:
        """Write a block that is the identifier's own."""
        with disk_errors(self._segments.folder):
            if self._appender is None:
                self._appender = self._take()
            self._appender.append(cid, block)
            if self._appender.end >= SEGMENT_BYTES:
                self.commit()
                self._close()

    def commit(self) -> None:
        """Make durable what was appended."""
        with disk_errors(self._segments.folder):
            if self._appender is not None:
                self._appender.commit()

    def _close(self) -> None:
        if self._appender is not None:
            self._appender.close()
            self._appender = None


@contextmanager
def _unlocked_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        unlock(descriptor)
        raise


def _section(name: str, descriptor: int, at: int, size: int) -> tuple[bytes, Where] | None:
    """Return digest and place of the block whose section begins at `at`, if one does."""
    head = os.pread(descriptor, _LENGTH_BYTES + _CID_BYTES, at)
    length = shift = start = 0
    for byte in head[:_LENGTH_BYTES]:
        length |= (byte & 0x7F) << shift
        shift += 7
        start += 1
        if byte < 0x80:
            break
    cid = head[start : start + _CID_BYTES]
    after = at + start + length
    if (
        cid[:4] not in _CIDS
        or not _CID_BYTES <= length <= _CID_BYTES + MAX_BLOCK_BYTES
        or after > size
    ):
        return None
    return cid[4:], Where(name, at + start + _CID_BYTES, length - _CID_BYTES)


def _mark(name: str, at: int) -> bytes:
    text = _mark_text(name, at)
    return section(Cid.of(text, RAW), text)


def _mark_text(name: str, at: int) -> bytes:
    return f"{name} {at:016x}".encode()


_MARK_BYTES = len(_mark("0" * 32, 0))


def _is_mark(name: str, descriptor: int, at: int) -> bool:
    return os.pread(descriptor, _MARK_BYTES, at) == _mark(name, at)


def _next_mark(name: str, descriptor: int, start: int) -> int | None:
    """Return where the first mark from `start` on begins."""
    needle = name.encode()
    before = _MARK_BYTES - len(_mark_text(name, 0))
    at = start
    while part := os.pread(descriptor, _SEARCH_BYTES, at):
        found = part.find(needle)
        if found < 0:
            if len(part) < _SEARCH_BYTES:
                break
            at += len(part) - len(needle) + 1
            continue
        mark = at + found - before
        if mark >= start and _is_mark(name, descriptor, mark):
            return mark
        at += found + 1
    return None


def _write(descriptor: int, at: int, *parts: bytes | memoryview) -> None:
    left = [memoryview(part) for part in parts]
    while left:
        written = os.pwritev(descriptor, left, at)
        at += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
