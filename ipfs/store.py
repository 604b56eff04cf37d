"""Keep files and directories on disk, and give them back verified.

Covered: streaming writes that survive a crash at any point, verified reads, pins, and garbage
collection that is safe beside writers in other processes.
Not covered: getting blocks from elsewhere (`ipfs.kubo`, `ipfs.gateway`).

Layout of a store's folder:
    segments/NAME.car      blocks, appended (`ipfs.segments`)
    pins/NAME/CID          an empty file for each root that NAME wants kept
    lock                   held shared by writers, exclusively by garbage collection

A root is pinned only after everything beneath it is durable. So whatever survives a crash is whole,
and what was pinned stays.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.dag import (
    DEFAULT_MAX_BYTES,
    DEFAULT_TIMEOUT_S,
    Clock,
    Deadline,
    Entry,
    FileReader,
    reachable,
)
from ipfs.disk import disk_errors, sync_folder, try_lock, unlock
from ipfs.errors import CorruptError, IpfsError, LimitError, NotFoundError, StoreError
from ipfs.pins import DEFAULT_PIN, Pins, check_pin_name
from ipfs.segments import Batch, Segments
from ipfs.unixfs import MAX_BLOCK_BYTES, Built, build_directory, build_file, chunks

__all__ = ["BlockStore", "Collected", "Stat", "Store"]

_LOCK_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stat:
    """Tell how much a store holds; `size` is in bytes."""

    blocks: int
    size: int
    pins: int


@dataclass(frozen=True, slots=True)
class Collected:
    """Tell what garbage collection freed and kept; sizes are in bytes."""

    freed_blocks: int
    freed_size: int
    kept_blocks: int


class Store(Protocol):
    """Keep and give content, on this disk or elsewhere."""

    def put(self, stream: bytes | BinaryIO, *, pin: str | None = DEFAULT_PIN) -> Cid:
        """Store a file and pin it under a name, unless that is None."""

    def put_directory(
        self, files: Mapping[str, bytes | BinaryIO], *, pin: str | None = DEFAULT_PIN
    ) -> Cid:
        """Store files as one directory and pin it under a name, unless that is None."""

    def open(
        self,
        cid: Cid,
        path: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Iterator[bytes]:
        """Give the verified bytes of a file part by part."""

    def read(
        self,
        cid: Cid,
        name: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> bytes:
        """Return the verified bytes of a file."""

    def ls(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[Entry]:
        """List a directory."""

    def has(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Tell whether content is here as a whole."""

    def pin(
        self,
        cid: Cid,
        name: str = DEFAULT_PIN,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Keep content, all of it, until the name no longer wants it."""

    def unpin(self, cid: Cid, name: str = DEFAULT_PIN) -> None:
        """Stop keeping content for a name."""

    def pins(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins, or of those of one name."""

    def gc(self) -> Collected:
        """Free what no name wants kept."""

    def stat(self) -> Stat:
        """Count blocks, bytes and pins; may take long."""


class BlockStore(FileReader):
    """Keep content in a folder, which is made if it is not there.

    Any number of threads and processes may use one folder at a time.
    """

    def __init__(self, path: str | Path, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self.path = Path(path)
        if (self.path / "blocks").exists():
            raise StoreError(
                f"{self.path / 'blocks'} is of an earlier version, which kept a file a block: move "
                f"{self.path} away and put its content again, or let that version export it "
                "(`tribute ipfs export`) and import it here"
            )
        segments, pins = self.path / "segments", self.path / "pins"
        with disk_errors(self.path):
            if not (segments.is_dir() and pins.is_dir()):
                segments.mkdir(parents=True, exist_ok=True)
                pins.mkdir(exist_ok=True)
                for folder in (self.path, self.path.parent):
                    sync_folder(folder)
        self._segments = Segments(segments)
        self._pins = Pins(pins)

    # ------------------------------------------------------------------ write

    def put(self, stream: bytes | BinaryIO, *, pin: str | None = DEFAULT_PIN) -> Cid:
        """Store a file and pin it under a name, unless that is None.

        When this returns, all of it is durable. Memory is bounded whatever the file's size.
        """
        check_pin_name(pin)
        with self._writing() as writer:
            cid = writer.add_file(stream).cid
            return self._finish(writer, cid, pin)

    def put_directory(
        self, files: Mapping[str, bytes | BinaryIO], *, pin: str | None = DEFAULT_PIN
    ) -> Cid:
        """Store files as one directory and pin it under a name, unless that is None."""
        check_pin_name(pin)
        with self._writing() as writer:
            built = [(name, writer.add_file(stream)) for name, stream in files.items()]
            cid = build_directory(built, writer.add_node).cid
            return self._finish(writer, cid, pin)

    def put_block(self, cid: Cid, block: bytes) -> None:
        """Store one block under its identifier, after checking that it is the block's own."""
        self.put_blocks([(cid, block)])

    def put_blocks(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """Store blocks under their identifiers, after checking that they are the blocks' own."""
        with self._writing() as writer:
            for cid, block in blocks:
                if len(block) > MAX_BLOCK_BYTES:
                    raise LimitError(
                        f"block {cid} has {len(block)} bytes, more than {MAX_BLOCK_BYTES}"
                    )
                if writer.add(block, cid.codec) != cid:
                    cid.verify(block)
            writer.commit()

    def _finish(self, writer: _Writer, cid: Cid, pin: str | None) -> Cid:
        writer.commit()
        if pin is not None:
            self._pins.add(cid, pin)
        return cid

    # ------------------------------------------------------------------- read

    def get(self, cid: Cid, deadline: Deadline | None = None) -> bytes:
        """Return the verified bytes of one block."""
        if deadline is not None:
            deadline.left_s(f"reading {cid}")
        damage: CorruptError | None = None
        with disk_errors(self.path):
            for fresh in (False, True):
                if fresh:
                    self._segments.refresh()
                for where in self._segments.find(cid.digest):
                    try:
                        block = self._segments.read(where)
                        cid.verify(block)
                        return block
                    except FileNotFoundError:
                        pass  # collected by another process since
                    except CorruptError as error:
                        damage = error
        raise damage or NotFoundError(f"block {cid} is not in the store at {self.path}")

    def has_block(self, cid: Cid) -> bool:
        """Tell whether one block is here; its bytes are not looked at."""
        return self._size_of(cid) is not None

    def _size_of(self, cid: Cid) -> int | None:
        for fresh in (False, True):
            if fresh:
                self._segments.refresh()
            for where in self._segments.find(cid.digest):
                return where.size
        return None

    def has(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Tell whether content is here as a whole; raw leaves are not hashed for it."""
        deadline = Deadline.after(timeout_s, self._clock)
        try:
            return all(self.has_block(block) for block in reachable(self.get, [cid], deadline))
        except (NotFoundError, CorruptError):
            return False

    # ------------------------------------------------------------------- keep

    def pin(
        self,
        cid: Cid,
        name: str = DEFAULT_PIN,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Keep content that is here until the name no longer wants it.

        Names are independent: what two of them pin stays until both unpin it. Raises
        `NotFoundError` if a block is missing, `LimitError` if the blocks take over `max_bytes`.
        """
        check_pin_name(name)
        left = max_bytes
        with self._writing():
            for block in reachable(self.get, [cid], Deadline.after(timeout_s, self._clock)):
                size = self._size_of(block)
                if size is None:
                    raise NotFoundError(
                        f"{cid} cannot be pinned: its block {block} is not in the store"
                    )
                left -= size
                if left < 0:
                    raise LimitError(f"{cid} has more than the limit of {max_bytes} bytes")
            self._pins.add(cid, name)

    def unpin(self, cid: Cid, name: str = DEFAULT_PIN) -> None:
        """Stop keeping content for a name; raises `NotFoundError` if the name did not keep it."""
        check_pin_name(name)
        self._pins.remove(cid, name)

    def pins(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins, or of those of one name."""
        check_pin_name(name)
        return self._pins.list(name)

    def gc(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Collected:
        """Free every block that no pin keeps.

        Waits up to `timeout_s` for writers to finish, and new writers wait for it. Frees nothing
        where a pinned DAG has an unreadable inner node, since what is beneath is then unknown.
        May be killed at any time.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        with self._locked(fcntl.LOCK_EX, deadline), disk_errors(self.path):
            self._segments.refresh(deadline)
            roots = [cid for _, cid in self.pins()]
            keep = {cid.digest for cid in self._kept(roots)}
            return Collected(*self._segments.collect(keep))

    def _kept(self, roots: list[Cid]) -> Iterator[Cid]:
        try:
            yield from reachable(self.get, roots, Deadline.after(float("inf"), self._clock))
        except IpfsError as error:
            raise StoreError(
                f"nothing was freed, because pinned content cannot be read: {error}; put it again"
                " or unpin it"
            ) from error

    def stat(self) -> Stat:
        """Count blocks, bytes and pins."""
        self._segments.refresh()
        sizes = self._segments.sizes()
        return Stat(len(sizes), sum(sizes), len(self.pins()))

    # ------------------------------------------------------------------- locks

    @contextmanager
    def _writing(self) -> Iterator[_Writer]:
        with self._locked(fcntl.LOCK_SH, Deadline.after(DEFAULT_TIMEOUT_S, self._clock)):
            self._segments.refresh()
            with Batch(self._segments) as batch:
                yield _Writer(self._segments, batch)

    @contextmanager
    def _locked(self, mode: int, deadline: Deadline) -> Iterator[None]:
        # each entry opens the file anew, so that the lock also holds between threads
        with disk_errors(self.path):
            descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            while not try_lock(descriptor, mode):
                deadline.left_s(f"waiting for other users of the store at {self.path}")
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            unlock(descriptor)


class _Writer:
    """Append the blocks of one `put` that are not here yet."""

    def __init__(self, segments: Segments, batch: Batch) -> None:
        self._segments = segments
        self._batch = batch
        self._added: set[bytes] = set()

    def add_file(self, stream: bytes | BinaryIO) -> Built:
        leaves = ((self.add(chunk, RAW), len(chunk)) for chunk in chunks(stream))
        return build_file(leaves, self.add_node)

    def add_node(self, block: bytes) -> Cid:
        return self.add(block, DAG_PB)

    def add(self, block: bytes | memoryview, codec: int) -> Cid:
        cid = Cid.of(block, codec)
        if cid.digest not in self._added:
            self._added.add(cid.digest)
            if not self._segments.holds(cid.digest, block):
                self._batch.append(cid, block)
        return cid

    def commit(self) -> None:
        self._batch.commit()
