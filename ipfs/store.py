"""Keep blocks on disk, in the layout of Kubo's flatfs, and files and directories made of them.

Covered: streaming writes that survive a crash at any point, verified reads, pins, and garbage
collection that is safe beside writers in other processes.
Not covered: getting blocks from elsewhere (`ipfs.kubo`, `ipfs.gateway`).

Layout of a store's folder:
    blocks/SHARDING        flatfs' own description, next-to-last/2
    blocks/XX/KEY.data     a block; KEY is its multihash in upper-case base32, XX are the two
                           characters before KEY's last one
    blocks/.temp/          blocks that are being written
    pins/NAME/CID          an empty file for each root that NAME wants kept
    lock                   held shared by writers, exclusively by garbage collection

A block is written to .temp, synced, renamed, and its folder synced; a root is pinned only after
everything beneath it is durable. So whatever survives a crash is whole, and what was pinned stays.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

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
from ipfs.errors import (
    CidError,
    CorruptError,
    InputError,
    IpfsError,
    LimitError,
    NotFoundError,
    StoreError,
)
from ipfs.unixfs import (
    MAX_BLOCK_BYTES,
    Built,
    build_directory,
    build_file,
    chunks,
)

__all__ = ["DEFAULT_PIN", "BlockStore", "Collected", "Stat", "Store", "check_pin_name"]

DEFAULT_PIN = "kept"
"""Name under which content is pinned that nobody gave another name to."""

_SHARDING = b"/repo/flatfs/shard/v1/next-to-last/2\n"
_TEMP = ".temp"
_SUFFIX = ".data"
_PIN_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
_KEY = re.compile(r"[A-Z2-7]{55}\.data")
_BATCH = 64
_SYNC_THREADS = 16
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
        self._blocks = self.path / "blocks"
        self._temp = self._blocks / _TEMP
        self._pins = self.path / "pins"
        with _disk_errors(self.path):
            self._temp.mkdir(parents=True, exist_ok=True)
            self._pins.mkdir(exist_ok=True)
            self._check_sharding()

    def _check_sharding(self) -> None:
        target = self._blocks / "SHARDING"
        if not target.exists():
            temp = self._temp / f"SHARDING-{secrets.token_hex(8)}"
            with temp.open("xb") as file:
                file.write(_SHARDING)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(target)
            for folder in (self._blocks, self.path, self.path.parent):
                _sync_folder(folder)
        found = target.read_bytes()
        if found != _SHARDING:
            raise StoreError(f"{target} says {found[:80]!r}; only next-to-last/2 can be used")

    # ------------------------------------------------------------------ write

    def put(self, stream: bytes | BinaryIO, *, pin: str | None = DEFAULT_PIN) -> Cid:
        """Store a file and pin it under a name, unless that is None.

        When this returns, all of it is durable. Memory is bounded whatever the file's size.
        """
        check_pin_name(pin)
        with self._writing(), _Writer(self) as writer:
            cid = writer.add_file(stream).cid
            return self._finish(writer, cid, pin)

    def put_directory(
        self, files: Mapping[str, bytes | BinaryIO], *, pin: str | None = DEFAULT_PIN
    ) -> Cid:
        """Store files as one directory and pin it under a name, unless that is None."""
        check_pin_name(pin)
        with self._writing(), _Writer(self) as writer:
            built = [(name, writer.add_file(stream)) for name, stream in files.items()]
            cid = build_directory(built, writer.add_node).cid
            return self._finish(writer, cid, pin)

    def put_block(self, cid: Cid, block: bytes) -> None:
        """Store one block under its identifier, after checking that it is the block's own."""
        self.put_blocks([(cid, block)])

    def put_blocks(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """Store blocks under their identifiers, after checking that they are the blocks' own."""
        with self._writing(), _Writer(self) as writer:
            for cid, block in blocks:
                if len(block) > MAX_BLOCK_BYTES:
                    raise LimitError(
                        f"block {cid} has {len(block)} bytes, more than {MAX_BLOCK_BYTES}"
                    )
                if writer.add(block, cid.codec) != cid:
                    cid.verify(block)
            writer.settle()

    def _finish(self, writer: _Writer, cid: Cid, pin: str | None) -> Cid:
        writer.settle()
        if pin is not None:
            self._write_pin(cid, pin)
        return cid

    # ------------------------------------------------------------------- read

    def get(self, cid: Cid, deadline: Deadline | None = None) -> bytes:
        """Return the verified bytes of one block."""
        if deadline is not None:
            deadline.left_s(f"reading {cid}")
        target = self._file_of(cid)
        with _disk_errors(target):
            try:
                with target.open("rb", buffering=0) as file:
                    size = os.fstat(file.fileno()).st_size
                    if size > MAX_BLOCK_BYTES:
                        raise LimitError(f"block {cid} has {size} bytes, over {MAX_BLOCK_BYTES}")
                    block = file.read()
            except FileNotFoundError:
                raise NotFoundError(f"block {cid} is not in the store at {self.path}") from None
        cid.verify(block)
        return block

    def has_block(self, cid: Cid) -> bool:
        """Tell whether one block is here; its bytes are not looked at."""
        return self._file_of(cid).is_file()

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
                try:
                    left -= self._file_of(block).stat().st_size
                except FileNotFoundError:
                    raise NotFoundError(
                        f"{cid} cannot be pinned: its block {block} is not in the store"
                    ) from None
                if left < 0:
                    raise LimitError(f"{cid} has more than the limit of {max_bytes} bytes")
            self._write_pin(cid, name)

    def unpin(self, cid: Cid, name: str = DEFAULT_PIN) -> None:
        """Stop keeping content for a name; raises `NotFoundError` if the name did not keep it."""
        check_pin_name(name)
        folder = self._pins / name
        with _disk_errors(folder):
            try:
                (folder / str(cid)).unlink()
            except FileNotFoundError:
                raise NotFoundError(f"{cid} is not pinned under the name {name!r}") from None
            _sync_folder(folder)

    def pins(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins, or of those of one name."""
        check_pin_name(name)
        with _disk_errors(self._pins):
            names = sorted(p.name for p in self._pins.iterdir()) if name is None else [name]
            return [(each, cid) for each in names for cid in sorted(self._pinned(each))]

    def _pinned(self, name: str) -> Iterator[Cid]:
        with suppress(FileNotFoundError):
            for file in (self._pins / name).iterdir():
                try:
                    yield Cid.parse(file.name)
                except CidError as error:
                    raise StoreError(f"{file} does not belong there: {error}") from error

    def _write_pin(self, cid: Cid, name: str) -> None:
        folder = self._pins / name
        with _disk_errors(folder):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                _sync_folder(folder.parent)
            os.close(os.open(folder / str(cid), os.O_CREAT | os.O_WRONLY, 0o644))
            _sync_folder(folder)

    def gc(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Collected:
        """Free every block that no pin keeps.

        Waits up to `timeout_s` for writers to finish, and new writers wait for it. Frees nothing
        where a pinned DAG has an unreadable inner node, since what is beneath is then unknown.
        May be killed at any time.
        """
        with self._locked(fcntl.LOCK_EX, timeout_s), _disk_errors(self.path):
            roots = [cid for _, cid in self.pins()]
            keep = {cid.digest for cid in self._kept(roots)}
            keys = {_key(digest) + _SUFFIX for digest in keep}
            for stale in self._temp.iterdir():
                stale.unlink()
            freed = size = kept = 0
            for file in self._files():
                if file.name in keys:
                    kept += 1
                    continue
                size += file.stat().st_size
                file.unlink()
                freed += 1
        return Collected(freed, size, kept)

    def _kept(self, roots: list[Cid]) -> Iterator[Cid]:
        try:
            yield from reachable(self.get, roots, Deadline.after(float("inf"), self._clock))
        except IpfsError as error:
            raise StoreError(
                f"nothing was freed, because pinned content cannot be read: {error}; put it again"
                " or unpin it"
            ) from error

    def stat(self) -> Stat:
        """Count blocks, bytes and pins by walking the folder."""
        with _disk_errors(self.path):
            sizes = [file.stat().st_size for file in self._files()]
            return Stat(len(sizes), sum(sizes), len(self.pins()))

    # ------------------------------------------------------------------- disk

    def _file_of(self, cid: Cid) -> Path:
        key = _key(cid.digest)
        return self._blocks / key[-3:-1] / (key + _SUFFIX)

    def _files(self) -> Iterator[Path]:
        for folder in self._blocks.iterdir():
            if len(folder.name) == 2:
                yield from (file for file in folder.iterdir() if _KEY.fullmatch(file.name))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH, DEFAULT_TIMEOUT_S):
            yield

    @contextmanager
    def _locked(self, mode: int, timeout_s: float) -> Iterator[None]:
        # each entry opens the file anew, so that the lock also holds between threads; the system
        # releases it with the process, so that a killed one leaves nothing behind
        with _disk_errors(self.path):
            descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            deadline = Deadline.after(timeout_s, self._clock)
            while not _try_lock(descriptor, mode):
                deadline.left_s(f"waiting for other users of the store at {self.path}")
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            with suppress(OSError):
                # by name, since a process forked meanwhile shares the descriptor
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Writer:
    """Write the blocks of one `put`: staged in .temp first, then synced and renamed together.

    Syncing waits for the disk to flush its cache, and one flush serves all who wait for it: the
    files of a batch are synced by many threads at once.
    """

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._staged: list[tuple[int, Path, Path]] = []
        self._digests: set[bytes] = set()
        self._folders: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor, temp, _ in self._staged:
            with suppress(OSError):
                os.close(descriptor)
            with suppress(OSError):
                temp.unlink()

    def add_file(self, stream: bytes | BinaryIO) -> Built:
        leaves = ((self.add(chunk, RAW), len(chunk)) for chunk in chunks(stream))
        return build_file(leaves, self.add_node)

    def add_node(self, block: bytes) -> Cid:
        return self.add(block, DAG_PB)

    def add(self, block: bytes | memoryview, codec: int) -> Cid:
        cid = Cid.of(block, codec)
        if cid.digest not in self._digests:
            self._digests.add(cid.digest)
            self._stage(cid, block)
            if len(self._digests) == _BATCH:
                self.settle()
        return cid

    def _stage(self, cid: Cid, block: bytes | memoryview) -> None:
        target = self._store._file_of(cid)
        with _disk_errors(target):
            if _holds(target, block):
                # another writer may have renamed it without having synced the folder yet
                self._folders |= {target.parent, target.parent.parent}
                return
            self._folders.add(target.parent)
            temp = self._store._temp / f"{os.getpid()}-{secrets.token_hex(8)}"
            descriptor = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            self._staged.append((descriptor, temp, target))
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def settle(self) -> None:
        """Make everything durable that was added so far."""
        with _disk_errors(self._store.path):
            self._sync(os.fsync, [descriptor for descriptor, _, _ in self._staged])
            while self._staged:
                descriptor, temp, target = self._staged[-1]
                if not target.parent.is_dir():
                    target.parent.mkdir(exist_ok=True)
                    self._folders.add(target.parent.parent)
                os.rename(temp, target)
                self._staged.pop()
                os.close(descriptor)
            self._sync(_sync_folder, list(self._folders))
        self._digests.clear()
        self._folders.clear()

    def _sync(self, sync: Callable[[Any], None], things: list[Any]) -> None:
        if len(things) < 3:
            for thing in things:
                sync(thing)
            return
        with ThreadPoolExecutor(min(_SYNC_THREADS, len(things))) as pool:
            for done in [pool.submit(sync, thing) for thing in things]:
                done.result()


def _holds(file: Path, block: bytes | memoryview) -> bool:
    try:
        return file.stat().st_size == len(block) and file.read_bytes() == block
    except FileNotFoundError:
        return False


def _key(digest: bytes) -> str:
    return base64.b32encode(b"\x12\x20" + digest).decode("ascii").rstrip("=")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_pin_name(name: str | None) -> None:
    """Raise `InputError` unless pins can have this name, or none."""
    if name is not None and not _PIN_NAME.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} cannot name pins: up to 128 letters, digits, dots, dashes and"
            " underscores, the first a letter or digit"
        )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror or error}") from error
