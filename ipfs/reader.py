"""Read files by what the chain holds: the digest of a directory's root, and a name in it."""

from __future__ import annotations

from collections.abc import Callable

from ipfs.cid import Cid
from ipfs.store import Store

__all__ = ["reader"]


def reader(store: Store, timeout_s: float = 30.0) -> Callable[[bytes, str, int], bytes]:
    """Return a function of digest, name and most bytes that reads a file within `timeout_s`."""

    def read(digest: bytes, name: str, max_bytes: int) -> bytes:
        cid = Cid.from_digest(digest)
        return store.read(cid, name, timeout_s=timeout_s, max_bytes=max_bytes)

    return read
