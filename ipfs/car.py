"""Write and read archives of blocks: CAR version 1, as the IPLD specification has it.

Covered: streams of any length in bounded memory; every block that is read is hashed, and nothing
is read past the limits. Not covered: CAR version 2, blocks with other hashes or codecs than
`ipfs.cid` knows; both are refused by name.

Format: varint(length) header, then for each block varint(length) CID bytes. The header is DAG-CBOR
{"roots": [CID, ...], "version": 1}, in which a CID is tag 42 on a byte string that begins with 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ipfs.cid import Cid
from ipfs.errors import CidError, FormatError, LimitError
from ipfs.unixfs import MAX_BLOCK_BYTES, varint

__all__ = ["MAX_ROOTS", "read_car", "section", "write_car"]

MAX_ROOTS = 1024

_HEADER_LIMIT = 1 << 16
_CID_V1, _CID_V0 = 36, 34
_SECTION_LIMIT = MAX_BLOCK_BYTES + _CID_V1
_ROOTS = b"\xa2\x65roots"
_VERSION = b"\x67version\x01"
_V2 = b"\xa1\x67version\x02"


def write_car(roots: Sequence[Cid], blocks: Iterable[tuple[Cid, bytes]]) -> Iterator[bytes]:
    """Give the bytes of an archive part by part, a part a block."""
    if len(roots) > MAX_ROOTS:
        raise LimitError(f"{len(roots)} roots; an archive has at most {MAX_ROOTS}")
    links = b"".join(b"\xd8\x2a\x58\x25\x00" + bytes(root) for root in roots)
    header = _ROOTS + _array_head(len(roots)) + links + _VERSION
    yield varint(len(header)) + header
    for cid, block in blocks:
        yield section(cid, block)


def section(cid: Cid, block: bytes) -> bytes:
    """Return the part of an archive that holds a block."""
    return b"".join((varint(_CID_V1 + len(block)), bytes(cid), block))


def read_car(
    parts: Iterable[bytes], *, max_bytes: int
) -> tuple[tuple[Cid, ...], Iterator[tuple[Cid, bytes]]]:
    """Return an archive's roots at once, and its blocks as they come, each with its hash checked.

    Raises `FormatError` and `CorruptError` for what is no archive, `LimitError` past `max_bytes`
    in all.
    """
    stream = _Stream(parts, max_bytes)
    length = stream.varint(_HEADER_LIMIT, "header")
    if length is None:
        raise FormatError("the archive is empty")
    return _roots(stream.take(length)), _blocks(stream)


def _blocks(stream: _Stream) -> Iterator[tuple[Cid, bytes]]:
    while (length := stream.varint(_SECTION_LIMIT, "block")) is not None:
        data = stream.take(length)
        size = _CID_V0 if data[:2] == b"\x12\x20" else _CID_V1
        try:
            cid = Cid.from_bytes(data[:size])
        except CidError as error:
            raise FormatError(f"archive: {error}") from error
        block = data[size:]
        if len(block) > MAX_BLOCK_BYTES:
            raise LimitError(f"block {cid} has {len(block)} bytes, more than {MAX_BLOCK_BYTES}")
        cid.verify(block)
        yield cid, block


class _Stream:
    """Take exact lengths from parts of any length, at most `max_bytes` in all."""

    def __init__(self, parts: Iterable[bytes], max_bytes: int) -> None:
        self._parts = iter(parts)
        self._part = memoryview(b"")
        self._left = max_bytes
        self._max_bytes = max_bytes

    def _fill(self) -> bool:
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return False
            self._left -= len(part)
            if self._left < 0:
                raise LimitError(f"the archive has more than the limit of {self._max_bytes} bytes")
            self._part = memoryview(part)
        return True

    def take(self, length: int) -> bytes:
        taken = []
        missing = length
        while missing:
            if not self._fill():
                raise FormatError(f"the archive is cut short: {missing} of {length} bytes missing")
            taken.append(self._part[:missing])
            self._part = self._part[missing:]
            missing -= len(taken[-1])
        return b"".join(taken)

    def varint(self, limit: int, what: str) -> int | None:
        """Read a length of 1 to `limit`; None at the end of the stream."""
        if not self._fill():
            return None
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if value > limit:
                raise LimitError(f"the archive has a {what} of over {limit} bytes")
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                raise FormatError("the archive has a length of over five bytes")
        if not value or (byte == 0 and shift):
            raise FormatError(f"the archive has an empty {what}, or a length that is not minimal")
        return value


def _roots(header: bytes) -> tuple[Cid, ...]:
    if header == _V2:
        raise FormatError("the archive is CAR version 2; only version 1 is read here")
    if not header.startswith(_ROOTS):
        raise FormatError(f"the archive's header begins with {header[:16].hex()}, not with roots")
    count, at = _array(header, len(_ROOTS))
    roots = []
    for _ in range(count):
        size = header[at + 3] if len(header) > at + 3 else 0
        if header[at : at + 3] != b"\xd8\x2a\x58" or header[at + 4 : at + 5] != b"\0":
            raise FormatError("the archive's header names a root that is no CID")
        at += 4 + size
        try:
            roots.append(Cid.from_bytes(header[at - size + 1 : at]))
        except CidError as error:
            raise FormatError(f"the archive's root: {error}") from error
    if header[at:] != _VERSION:
        raise FormatError("the archive's header does not end with version 1")
    return tuple(roots)


def _array(header: bytes, at: int) -> tuple[int, int]:
    """Read the head of a CBOR array; return its length and where it ends."""
    head = header[at] if len(header) > at else 0
    for extra in (0, 1, 2):
        end = at + 1 + extra
        count = int.from_bytes(header[at + 1 : end], "big") if extra else head - 0x80
        if 0 <= count <= MAX_ROOTS and header[at:end] == _array_head(count):
            return count, end
    raise FormatError(f"the archive's header has no list of up to {MAX_ROOTS} roots")


def _array_head(count: int) -> bytes:
    if count < 24:
        return bytes([0x80 + count])
    return b"\x98" + bytes([count]) if count < 256 else b"\x99" + count.to_bytes(2, "big")
