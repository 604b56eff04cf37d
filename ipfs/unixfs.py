"""Lay files and directories out as dag-pb blocks, and read such blocks.

Covered: what profile `unixfs-v1-2025` of IPIP-499 writes (CIDv1, sha2-256, raw leaves, chunks of
1 MiB, 1,024 links a node, balanced; plain directories sorted by name), and on reading also file
nodes with inline data and other widths, as older nodes write them.
Not covered: sharded directories (HAMT), symbolic links, metadata; they are refused by name.

Formats: dag-pb (ipld.io/specs/codecs/dag-pb) is the protobuf message PBNode {repeated PBLink
Links = 2; bytes Data = 1}, PBLink {bytes Hash = 1; string Name = 2; uint64 Tsize = 3}. Data is the
protobuf message of UnixFS {Type = 1; Data = 2; filesize = 3; repeated blocksizes = 4}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import CidError, FormatError, LimitError

__all__ = [
    "CHUNK_BYTES",
    "MAX_BLOCK_BYTES",
    "MAX_DIRECTORY_BYTES",
    "MAX_LINKS",
    "Built",
    "Directory",
    "File",
    "Link",
    "build_directory",
    "build_file",
    "check_name",
    "chunks",
    "decode_links",
    "decode_unixfs",
    "file_cid",
    "varint",
]

CHUNK_BYTES = 1 << 20
MAX_LINKS = 1024
MAX_BLOCK_BYTES = 1 << 21
"""Largest block that IPFS nodes exchange: 2 MiB."""
MAX_DIRECTORY_BYTES = 1 << 18
"""Largest plain directory of the profile; a larger one would have to be sharded."""

_MAX_NAME_BYTES = 255
_RAW_FILE, _DIRECTORY, _FILE = 0, 1, 2
_OTHER_TYPES = {3: "metadata", 4: "symbolic link", 5: "sharded directory (HAMT)"}
_VARINT, _BYTES = 0, 2
_DIRECTORY_DATA = b"\x08\x01"


class Link(NamedTuple):
    """Point from a node to a block; `tsize` is what its writer says of the bytes of its DAG."""

    cid: Cid
    name: str
    tsize: int


class Built(NamedTuple):
    """Tell of a DAG: its root, the bytes of all its blocks, the bytes of the file it holds."""

    cid: Cid
    dag_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class File:
    """Hold a file's node: its own bytes, then those of its children, (identifier, size) each."""

    inline: bytes
    children: tuple[tuple[Cid, int], ...]

    @property
    def size(self) -> int:
        """Return the bytes of the file, as the node has it."""
        return len(self.inline) + sum(size for _, size in self.children)


@dataclass(frozen=True, slots=True)
class Directory:
    """Hold a directory's entries in the order of the block."""

    entries: tuple[Link, ...]


# ---------------------------------------------------------------------- write


def build_file(leaves: Iterable[tuple[Cid, int]], put: Callable[[bytes], Cid]) -> Built:
    """Build the balanced tree over a file's raw leaves, (identifier, size) each, at least one.

    `put` is given every inner node as soon as it is full, children first. Memory is bounded by
    `MAX_LINKS` links a level, whatever the size of the file.
    """
    levels: list[list[Built]] = [[]]

    def add(child: Built, level: int) -> None:
        if level == len(levels):
            levels.append([])
        if len(levels[level]) == MAX_LINKS:
            add(close(level), level + 1)
        levels[level].append(child)

    def close(level: int) -> Built:
        children, levels[level] = levels[level], []
        return _file_node(children, put)

    for cid, size in leaves:
        add(Built(cid, size, size), 0)
    level = 0
    while level + 1 < len(levels) or len(levels[level]) > 1:
        add(close(level), level + 1)
        level += 1
    return levels[level][0]


def _file_node(children: list[Built], put: Callable[[bytes], Cid]) -> Built:
    size = sum(child.file_bytes for child in children)
    data = b"\x08\x02\x18" + varint(size)
    data += b"".join(b"\x20" + varint(child.file_bytes) for child in children)
    block = _encode_node([Link(child.cid, "", child.dag_bytes) for child in children], data)
    dag_bytes = len(block) + sum(child.dag_bytes for child in children)
    return Built(put(block), dag_bytes, size)


def build_directory(entries: Iterable[tuple[str, Built]], put: Callable[[bytes], Cid]) -> Built:
    """Build a plain directory of entries with distinct names; `put` is given its block."""
    ordered = sorted(entries, key=lambda entry: entry[0].encode())
    for name, _ in ordered:
        check_name(name)
    for (name, _), (following, _) in zip(ordered, ordered[1:], strict=False):
        if name == following:
            raise FormatError(f"a directory cannot hold two entries named {name!r}")
    links = [Link(built.cid, name, built.dag_bytes) for name, built in ordered]
    block = _encode_node(links, _DIRECTORY_DATA)
    if len(block) > MAX_DIRECTORY_BYTES:
        raise LimitError(
            f"a directory of {len(links)} entries takes {len(block)} bytes, more than"
            f" {MAX_DIRECTORY_BYTES}; use several directories"
        )
    dag_bytes = len(block) + sum(built.dag_bytes for _, built in ordered)
    return Built(put(block), dag_bytes, 0)


def file_cid(content: bytes) -> Cid:
    """Compute the identifier of a file without storing anything."""
    leaves = ((Cid.of(chunk, RAW), len(chunk)) for chunk in chunks(content))
    return build_file(leaves, lambda block: Cid.of(block, DAG_PB)).cid


def chunks(stream: bytes | BinaryIO) -> Iterator[bytes | memoryview]:
    """Cut content into chunks of `CHUNK_BYTES`, the last one shorter; at least one."""
    if isinstance(stream, bytes):
        view = memoryview(stream)
        for start in range(0, len(view) or 1, CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
        return
    chunk = _read_full(stream)
    yield chunk
    while len(chunk) == CHUNK_BYTES and (chunk := _read_full(stream)):
        yield chunk


def _read_full(stream: BinaryIO) -> bytes:
    chunk = stream.read(CHUNK_BYTES)
    if 0 < len(chunk) < CHUNK_BYTES:  # pipes and sockets give what they have
        parts = [chunk]
        missing = CHUNK_BYTES - len(chunk)
        while missing and (part := stream.read(missing)):
            parts.append(part)
            missing -= len(part)
        chunk = b"".join(parts)
    return chunk


def check_name(name: str) -> None:
    """Raise `FormatError` unless this can name an entry of a directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise FormatError(f"{name[:80]!r} cannot be the name of an entry in a directory")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise FormatError(f"{name[:80]!r} cannot be written in UTF-8") from error
    if length > _MAX_NAME_BYTES:
        raise FormatError(f"name {name[:80]!r}… has {length} bytes, more than {_MAX_NAME_BYTES}")


def _encode_node(links: Iterable[Link], data: bytes) -> bytes:
    # canonical dag-pb has the links before the data, although their field number is higher
    parts = []
    for cid, name, tsize in links:
        encoded = name.encode()
        link = b"\x0a\x24" + bytes(cid) + b"\x12" + varint(len(encoded)) + encoded
        link += b"\x18" + varint(tsize)
        parts.append(b"\x12" + varint(len(link)) + link)
    return b"".join(parts) + b"\x0a" + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Write a number in as few groups of seven bits as it takes."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ----------------------------------------------------------------------- read


def decode_unixfs(cid: Cid, block: bytes) -> File | Directory:
    """Read a verified block as part of a file or as a directory; raises `FormatError`."""
    if cid.codec == RAW:
        return File(block, ())
    links, data = _decode_node(block)
    if data is None:
        raise FormatError(f"block {cid} has no UnixFS data")
    kind, inline, size, sizes = _decode_unixfs_data(data)
    if kind == _DIRECTORY:
        if inline or sizes:
            raise FormatError(f"directory {cid} holds data of a file")
        return Directory(_checked_entries(links))
    if kind not in (_RAW_FILE, _FILE):
        what = _OTHER_TYPES.get(kind, f"UnixFS type {kind}")
        raise FormatError(f"block {cid} is a {what}, which is not supported")
    if len(links) != len(sizes):
        raise FormatError(f"file {cid} has {len(links)} links and {len(sizes)} sizes for them")
    node = File(inline, tuple((link.cid, s) for link, s in zip(links, sizes, strict=True)))
    if size is not None and size != node.size:
        raise FormatError(f"file {cid} says it has {size} bytes, but its parts have {node.size}")
    if any(s == 0 for s in sizes):
        raise FormatError(f"file {cid} links to a part of 0 bytes")
    return node


def decode_links(cid: Cid, block: bytes) -> tuple[Link, ...]:
    """Read the links of a verified block, whatever else it is; a raw block has none."""
    return () if cid.codec == RAW else _decode_node(block)[0]


def _checked_entries(links: tuple[Link, ...]) -> tuple[Link, ...]:
    names = set()
    for link in links:
        check_name(link.name)
        if link.name in names:
            raise FormatError(f"directory has two entries named {link.name!r}")
        names.add(link.name)
    return links


def _decode_node(block: bytes) -> tuple[tuple[Link, ...], bytes | None]:
    links: list[Link] = []
    data: bytes | None = None
    for field, value in _fields(block):
        if field == 2 and isinstance(value, bytes):
            if data is not None and links:
                raise FormatError("dag-pb node has links on both sides of its data")
            links.append(_decode_link(value))
        elif field == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise FormatError(f"dag-pb node has an unknown or repeated field {field}")
    return tuple(links), data


def _decode_link(message: bytes) -> Link:
    cid: Cid | None = None
    name, tsize, last = "", 0, 0
    for field, value in _fields(message):
        if field <= last:
            raise FormatError(f"dag-pb link has field {field} after field {last}")
        last = field
        if field == 1 and isinstance(value, bytes):
            try:
                cid = Cid.from_bytes(value)
            except CidError as error:
                raise FormatError(f"dag-pb link: {error}") from error
        elif field == 2 and isinstance(value, bytes):
            try:
                name = value.decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"dag-pb link's name {value[:40]!r} is no UTF-8") from error
        elif field == 3 and isinstance(value, int):
            tsize = value
        else:
            raise FormatError(f"dag-pb link has an unknown field {field}")
    if cid is None:
        raise FormatError("dag-pb link points nowhere")
    return Link(cid, name, tsize)


def _decode_unixfs_data(data: bytes) -> tuple[int, bytes, int | None, list[int]]:
    kind: int | None = None
    inline, size = b"", None
    sizes: list[int] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 2 and isinstance(value, bytes):
            inline = value
        elif field == 3 and isinstance(value, int):
            size = value
        elif field == 4 and isinstance(value, int):
            sizes.append(value)
        elif field == 4 and isinstance(value, bytes):
            sizes.extend(_packed(value))
        elif field not in (5, 6, 7, 8):  # hash type and fan-out of shards, mode, time
            raise FormatError(f"UnixFS data has an unknown field {field}")
    if kind is None:
        raise FormatError("UnixFS data has no type")
    return kind, inline, size, sizes


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, wire = key >> 3, key & 7
        value, at = _read_varint(message, at)
        if wire == _VARINT:
            yield field, value
        elif wire == _BYTES and at + value <= len(message):
            yield field, message[at : at + value]
            at += value
        else:
            raise FormatError(f"protobuf field {field} of wire type {wire} cannot be read")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                break
            return value, at
        shift += 7
    raise FormatError("protobuf number is cut short, over 63 bits or not minimal")
