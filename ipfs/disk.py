"""Say what the disk refuses, make names durable, and lock files between threads and processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ipfs.errors import StoreError

__all__ = ["disk_errors", "sync_folder", "try_lock", "unlock"]


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a `StoreError` that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: {error.strerror or error}; see to its permissions and to "
            "free space, or use another folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, mode: int) -> bool:
    """Lock an open file if nobody else's lock forbids it; `mode` is of `fcntl.flock`.

    The system releases a lock with its process, so that a killed one leaves nothing behind.
    """
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release a lock and close its file."""
    with suppress(OSError):
        # by name, since a process forked meanwhile shares the descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
