"""Read from the embedded store first, then from gateways, and keep what was fetched.

Covered: an interrupted transfer goes on where it stopped, block by block, since every block is
kept as it comes; blocks that were damaged on disk are fetched again.
Not covered: publishing; what is put stays on this machine until a gateway here serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from ipfs.cid import RAW, Cid
from ipfs.dag import (
    DEFAULT_MAX_BYTES,
    DEFAULT_TIMEOUT_S,
    Deadline,
    FileReader,
    file_cost,
    in_order,
    reachable,
)
from ipfs.errors import CorruptError, IpfsError, LimitError, NotFoundError
from ipfs.gateway import Gateways
from ipfs.pins import DEFAULT_PIN
from ipfs.store import BlockStore, Collected, Stat
from ipfs.unixfs import File, decode_unixfs

__all__ = ["LayeredStore"]

_BATCH_BYTES = 1 << 24
_CAR_FROM = 8
"""Children of a file from which one archive is worth more than single blocks."""


class LayeredStore(FileReader):
    """Keep content in `local`, and fetch what is not there from `gateways`."""

    _ahead = 8

    def __init__(
        self,
        local: BlockStore,
        gateways: Gateways,
        *,
        notify: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(local._clock)
        self.local = local
        self.gateways = gateways
        self._notify = notify

    def get(self, cid: Cid, deadline: Deadline) -> bytes:
        """Return the verified bytes of one block, and keep it if it was fetched."""
        try:
            return self.local.get(cid, deadline)
        except (NotFoundError, CorruptError):
            block = self.gateways.get(cid, deadline)
        self._keep([(cid, block)])
        return block

    def _keep(self, blocks: list[tuple[Cid, bytes]]) -> None:
        self.local.put_blocks(blocks)
        if self._notify is not None:
            self._notify(sum(len(block) for _, block in blocks))

    def _expect(self, file: Cid, max_bytes: int, deadline: Deadline) -> None:
        """Fetch a large file of which nothing is here as one archive.

        Whatever the gateways leave out of it is fetched later, block by block.
        """
        if file.codec == RAW:
            return
        node = decode_unixfs(file, self.get(file, deadline))
        if not isinstance(node, File) or node.size > max_bytes or len(node.children) < _CAR_FROM:
            return
        if any(self.local.has_block(cid) for cid, _ in node.children):
            return
        batch: list[tuple[Cid, bytes]] = []
        size = 0
        try:
            for found in self.gateways.dag(file, max_bytes=file_cost(node.size), deadline=deadline):
                batch.append(found)
                size += len(found[1])
                if size >= _BATCH_BYTES:
                    self._keep(batch)
                    batch, size = [], 0
        except IpfsError:
            deadline.left_s(f"fetching {file}")
        finally:
            self._keep(batch)

    # ------------------------------------------------------------------- keep

    def put(self, stream: bytes | BinaryIO, *, pin: str | None = DEFAULT_PIN) -> Cid:
        """Store a file here and pin it under a name, unless that is None."""
        return self.local.put(stream, pin=pin)

    def put_directory(
        self, files: Mapping[str, bytes | BinaryIO], *, pin: str | None = DEFAULT_PIN
    ) -> Cid:
        """Store files here as one directory and pin it under a name, unless that is None."""
        return self.local.put_directory(files, pin=pin)

    def has(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Tell whether content is here as a whole."""
        return self.local.has(cid, timeout_s=timeout_s)

    def pin(
        self,
        cid: Cid,
        name: str = DEFAULT_PIN,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Fetch what is missing of content, and keep it until the name no longer wants it."""
        deadline = Deadline.after(timeout_s, self._clock)
        left = max_bytes

        def spend(block: bytes) -> bytes:
            nonlocal left
            left -= len(block)
            if left < 0:
                raise LimitError(f"{cid} has more than the limit of {max_bytes} bytes")
            return block

        def inner(node: Cid, deadline: Deadline) -> bytes:
            return spend(self.get(node, deadline))

        missing = (
            block
            for block in reachable(inner, [cid], deadline)
            if block.codec == RAW and not self.local.has_block(block)
        )
        pool = ThreadPoolExecutor(self._ahead)
        try:
            for block in in_order(self.get, missing, deadline, pool, self._ahead):
                spend(block)
        finally:
            pool.shutdown(cancel_futures=True)
        left_s = deadline.left_s(f"pinning {cid}")
        self.local.pin(cid, name, timeout_s=left_s, max_bytes=max_bytes)

    def unpin(self, cid: Cid, name: str = DEFAULT_PIN) -> None:
        """Stop keeping content for a name."""
        self.local.unpin(cid, name)

    def pins(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins here, or of those of one name."""
        return self.local.pins(name)

    def gc(self) -> Collected:
        """Free what no name wants kept here."""
        return self.local.gc()

    def stat(self) -> Stat:
        """Count blocks, bytes and pins here."""
        return self.local.stat()
