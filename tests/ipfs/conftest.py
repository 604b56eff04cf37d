"""A naive builder of IPFS blocks, written apart from the code under test.

It follows the specifications of dag-pb and UnixFS with the varints and CIDs of `multiformats`,
holds everything in memory, and also builds blocks that no honest writer makes.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from multiformats import CID, varint

from ipfs.cid import Cid
from ipfs.store import BlockStore

MIB = 1 << 20
FILE, DIRECTORY = 2, 1


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint.encode(number << 3) + varint.encode(value)
    return varint.encode(number << 3 | 2) + varint.encode(len(value)) + value


class NaiveBuilder:
    """Collects blocks by the text of their CID; nodes are (CID, bytes of the DAG, file size)."""

    Node = tuple[CID, int, int]

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}

    def block(self, codec: str, data: bytes) -> CID:
        cid = CID("base32", 1, codec, ("sha2-256", hashlib.sha256(data).digest()))
        self.blocks[str(cid)] = data
        return cid

    def leaf(self, data: bytes) -> Node:
        return self.block("raw", data), len(data), len(data)

    def node(self, links: Sequence[tuple[str, CID, int]], data: bytes | None) -> tuple[CID, int]:
        message = b""
        for name, cid, tsize in links:
            link = field(1, bytes(cid)) + field(2, name.encode()) + field(3, tsize)
            message += field(2, link)
        if data is not None:
            message += field(1, data)
        return self.block("dag-pb", message), len(message) + sum(tsize for *_, tsize in links)

    def file_node(self, children: Sequence[Node], *, claims: Sequence[int] | None = None) -> Node:
        sizes = list(claims) if claims is not None else [size for *_, size in children]
        data = field(1, FILE) + field(3, sum(sizes)) + b"".join(field(4, size) for size in sizes)
        cid, tsize = self.node([("", child, tsize) for child, tsize, _ in children], data)
        return cid, tsize, sum(sizes)

    def tree(self, leaves: Sequence[Node], width: int = 1024) -> Node:
        level = list(leaves)
        while len(level) > 1:
            level = [self.file_node(level[at : at + width]) for at in range(0, len(level), width)]
        return level[0]

    def file(self, content: bytes, chunk: int = MIB, width: int = 1024) -> Node:
        cuts = range(0, len(content), chunk) if content else [0]
        return self.tree([self.leaf(content[at : at + chunk]) for at in cuts], width)

    def directory(self, entries: dict[str, Node]) -> Node:
        links = [(name, *entries[name][:2]) for name in sorted(entries, key=str.encode)]
        cid, tsize = self.node(links, field(1, DIRECTORY))
        return cid, tsize, 0

    def store_in(self, store: BlockStore) -> None:
        for text, data in self.blocks.items():
            store.put_block(Cid.parse(text), data)


@pytest.fixture
def naive() -> NaiveBuilder:
    return NaiveBuilder()


@pytest.fixture(scope="session")
def naive_builder() -> type[NaiveBuilder]:
    """Return the class, for tests that need a new builder for each example."""
    return NaiveBuilder


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "store")


@pytest.fixture(scope="session")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the RPC address of the node that TRIBUTE_KUBO says, or of a small one of our own.

    TRIBUTE_KUBO is an address, or `js-ipfs` for one that is started here.
    """
    from tests.ipfs.real.nodes import running_js_ipfs
    from tests.ipfs.rpc_node import running_node

    named = os.environ.get("TRIBUTE_KUBO")
    if named and named != "js-ipfs":
        yield named
        return
    run = running_js_ipfs if named else running_node
    with run(tmp_path_factory.mktemp("node")) as url:
        yield url
