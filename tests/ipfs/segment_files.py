"""Read a store's segments by the words of CAR's specification, and damage what is in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dag_cbor
from multiformats import CID, multihash, varint

from ipfs.cid import Cid
from ipfs.store import BlockStore


class Section(NamedTuple):
    """Hold a block and where its bytes begin in which file."""

    cid: CID
    block: bytes
    file: Path
    at: int

    @property
    def whole(self) -> bool:
        return multihash.digest(self.block, "sha2-256") == self.cid.digest


def files(store: BlockStore) -> list[Path]:
    return sorted((store.path / "segments").iterdir())


def sections(file: Path) -> Iterator[Section]:
    """Give what follows the header of an archive; ValueError where it is none."""
    data = memoryview(file.read_bytes())
    length, size, data = varint.decode_raw(data)
    assert dag_cbor.decode(bytes(data[:length])) == {"roots": [], "version": 1}
    at, data = size + length, data[length:]
    while data:
        length, size, data = varint.decode_raw(data)
        if length > len(data):
            raise ValueError(f"{file} is cut short")
        # version, codec, and two bytes that say sha2-256 before 32 of digest: one byte each
        cid = CID.decode(bytes(data[:36])).set(base="base32")
        yield Section(cid, bytes(data[36:length]), file, at + size + 36)
        at, data = at + size + length, data[length:]


def is_mark(section: Section) -> bool:
    begin = section.at - 37
    return section.block == f"{section.file.stem} {begin:016x}".encode()


def blocks(store: BlockStore) -> list[Section]:
    """Return all blocks that are marked as durable, in the order of their files."""
    found: list[Section] = []
    for file in files(store):
        batch = []
        for section in sections(file):
            if is_mark(section):
                found += batch
                batch = []
            else:
                batch.append(section)
    return found


def overwrite(store: BlockStore, block: bytes, other: bytes) -> None:
    """Put other bytes over the beginning of a block, wherever it is."""
    places = [section for section in blocks(store) if section.block == block]
    assert places
    for place in places:
        with place.file.open("r+b") as file:
            file.seek(place.at)
            file.write(other)


def put_without(store: BlockStore, built: dict[str, bytes], gone: Cid) -> None:
    """Store all blocks of a naive builder but one."""
    kept = {Cid.parse(text): block for text, block in built.items()}
    assert kept.pop(gone, None) is not None
    store.put_blocks(kept.items())
