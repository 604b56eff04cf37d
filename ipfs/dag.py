"""Read files and directories block by block from anything that gives blocks.

Covered: limits on bytes, depth, width and time, which hold against hostile content: sizes that lie,
deep chains, and small DAGs that unfold to endless files. A DAG of hashes cannot be cyclic.
Not covered: where blocks come from; whoever gives one has verified its hash.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ipfs.cid import RAW, Cid
from ipfs.errors import FormatError, LimitError, NotFoundError, TimeLimitError
from ipfs.unixfs import Directory, File, Link, check_name, decode_links, decode_unixfs

__all__ = [
    "DEFAULT_MAX_BYTES",
    "DEFAULT_TIMEOUT_S",
    "MAX_DEPTH",
    "Deadline",
    "Entry",
    "FileReader",
    "GetBlock",
    "file_cost",
    "in_order",
    "list_directory",
    "open_file",
    "reachable",
    "resolve",
]

DEFAULT_MAX_BYTES = 1 << 30
DEFAULT_TIMEOUT_S = 60.0
MAX_DEPTH = 16
"""Deepest file tree and longest path; 1,024 links a node make 1 EiB of four levels."""

# what blocks may cost beyond a file's own bytes: honest leaves have 16 KiB and more, and honest
# inner nodes a thousandth of what is beneath them; the spare room is for small files
_BYTES_A_BLOCK = 1024
_SPARE_BLOCKS = 1024
_SPARE_BYTES = 1 << 22

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Deadline:
    """Keep the moment until which something may take, in seconds of `clock`."""

    timeout_s: float
    at: float
    clock: Clock

    @classmethod
    def after(cls, timeout_s: float, clock: Clock = time.monotonic) -> Deadline:
        """Start to count now."""
        return cls(timeout_s, clock() + timeout_s, clock)

    def left_s(self, what: object) -> float:
        """Return the seconds that are left for `what`; raises `TimeLimitError` if none are."""
        left = self.at - self.clock()
        if left <= 0:
            raise TimeLimitError(f"{what} took longer than {self.timeout_s:g} s")
        return left


GetBlock = Callable[[Cid, Deadline], bytes]
"""Gives the verified bytes of a block, or raises `NotFoundError`, `CorruptError` or others."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Tell of an entry of a directory; `size` is the bytes of a file, None of a directory."""

    name: str
    cid: Cid
    size: int | None


def resolve(get: GetBlock, cid: Cid, path: str, deadline: Deadline) -> Cid:
    """Follow a path (`a/b`, or empty for the root itself) and return what it names."""
    names = path.split("/") if path else []
    if len(names) > MAX_DEPTH:
        raise LimitError(f"path {path[:80]!r} has {len(names)} parts, more than {MAX_DEPTH}")
    for name in names:
        check_name(name)
        node = decode_unixfs(cid, get(cid, deadline))
        if not isinstance(node, Directory):
            raise NotFoundError(f"{cid} is a file, so there is no {name!r} in it")
        found = next((link.cid for link in node.entries if link.name == name), None)
        if found is None:
            raise NotFoundError(f"directory {cid} has no entry {name!r}")
        cid = found
    return cid


def open_file(
    get: GetBlock, cid: Cid, *, max_bytes: int, deadline: Deadline, ahead: int = 0
) -> Iterator[bytes]:
    """Check a file's root at once, then give its bytes part by part.

    At most `ahead` blocks a level are got in advance, by as many threads. Raises `LimitError` where
    the file holds more than `max_bytes`, before any byte is given, or where its blocks are too many
    or too large for its size, and `FormatError` where a part has not the size that its parent says.
    """
    root = _file_node(cid, get(cid, deadline))
    if root.size > max_bytes:
        raise LimitError(f"file {cid} has {root.size} bytes, more than the limit of {max_bytes}")
    return _parts(get, cid, root, deadline, ahead if len(root.children) > 1 else 0)


def file_cost(size: int) -> int:
    """Return the most bytes that the blocks of a file of `size` bytes may take."""
    return _SPARE_BYTES + size // 4 * 5


Child = tuple[Cid, int, bytes]


def _parts(
    get: GetBlock, root_cid: Cid, root: File, deadline: Deadline, ahead: int
) -> Iterator[bytes]:
    blocks_left = _SPARE_BLOCKS + root.size // _BYTES_A_BLOCK
    bytes_left = file_cost(root.size)
    pool = ThreadPoolExecutor(ahead) if ahead else None
    try:
        if root.inline:
            yield root.inline
        stack = [_got(get, root, deadline, pool, ahead)]
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
                continue
            cid, size, block = child
            blocks_left -= 1
            bytes_left -= len(block)
            if blocks_left < 0 or bytes_left < 0:
                raise LimitError(
                    f"file {root_cid} of {root.size} bytes is spread over too many blocks"
                )
            node = _file_node(cid, block)
            if node.size != size:
                raise FormatError(f"part {cid} has {node.size} bytes, but its parent says {size}")
            if node.inline:
                yield node.inline
            if node.children:
                if len(stack) == MAX_DEPTH:
                    raise LimitError(f"file {root_cid} is more than {MAX_DEPTH} levels deep")
                stack.append(_got(get, node, deadline, pool, ahead))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _got(
    get: GetBlock, node: File, deadline: Deadline, pool: ThreadPoolExecutor | None, ahead: int
) -> Iterator[Child]:
    """Give a node's children with their blocks."""
    cids = (cid for cid, _ in node.children)
    blocks = in_order(get, cids, deadline, pool, ahead)
    for (cid, size), block in zip(node.children, blocks, strict=True):
        yield cid, size, block


def in_order(
    get: GetBlock,
    cids: Iterable[Cid],
    deadline: Deadline,
    pool: ThreadPoolExecutor | None,
    ahead: int,
) -> Iterator[bytes]:
    """Give blocks in the order of their identifiers, while the pool gets up to `ahead` more."""
    if pool is None:
        for cid in cids:
            yield get(cid, deadline)
        return
    asked: deque[Future[bytes]] = deque()
    for cid in cids:
        asked.append(pool.submit(get, cid, deadline))
        if len(asked) > ahead:
            yield asked.popleft().result()
    for block in asked:
        yield block.result()


def _file_node(cid: Cid, block: bytes) -> File:
    node = decode_unixfs(cid, block)
    if not isinstance(node, File):
        raise FormatError(f"{cid} is a directory; name a file in it")
    return node


def list_directory(get: GetBlock, cid: Cid, deadline: Deadline) -> list[Entry]:
    """List a directory, with the size that each file's root says of itself."""
    node = decode_unixfs(cid, get(cid, deadline))
    if not isinstance(node, Directory):
        raise FormatError(f"{cid} is a file, not a directory")
    return [_entry(get, link, deadline) for link in node.entries]


def _entry(get: GetBlock, link: Link, deadline: Deadline) -> Entry:
    node = decode_unixfs(link.cid, get(link.cid, deadline))
    return Entry(link.name, link.cid, node.size if isinstance(node, File) else None)


def reachable(get: GetBlock, roots: Iterable[Cid], deadline: Deadline) -> Iterator[Cid]:
    """Give every block beneath some roots once, parents first; raw leaves are not fetched."""
    seen: set[Cid] = set()
    stack = list(roots)
    while stack:
        cid = stack.pop()
        if cid in seen:
            continue
        seen.add(cid)
        yield cid
        if cid.codec != RAW:
            stack.extend(link.cid for link in reversed(decode_links(cid, get(cid, deadline))))


class FileReader:
    """Give files and directories by `get`, which gives verified blocks.

    `_ahead` is how many blocks are worth getting in advance.
    """

    _ahead = 0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def get(self, cid: Cid, deadline: Deadline) -> bytes:
        """Return the verified bytes of one block."""
        raise NotImplementedError

    def open(
        self,
        cid: Cid,
        path: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Iterator[bytes]:
        """Give the bytes of a file, or of the file at `path` in a directory, part by part.

        Each part is verified before it is given. `max_bytes` limits the whole file, `timeout_s`
        the time until its last byte.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        file = resolve(self.get, cid, path, deadline)
        self._expect(file, max_bytes, deadline)
        return open_file(self.get, file, max_bytes=max_bytes, deadline=deadline, ahead=self._ahead)

    def _expect(self, file: Cid, max_bytes: int, deadline: Deadline) -> None:
        """Prepare for a file that is read next."""

    def read(
        self,
        cid: Cid,
        name: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> bytes:
        """Return the bytes of a file, or of the file at path `name` in a directory."""
        return b"".join(self.open(cid, name, timeout_s=timeout_s, max_bytes=max_bytes))

    def ls(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[Entry]:
        """List a directory."""
        return list_directory(self.get, cid, Deadline.after(timeout_s, self._clock))
