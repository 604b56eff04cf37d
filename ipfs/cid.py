"""Name content by its hash: CIDv1 with sha2-256, of raw or dag-pb blocks.

Covered: the binary form (multiformats' CID specification), base32 lower case, reading of CIDv0.
Not covered: other hashes, codecs and multibases; they are refused by name.

A CIDv0 is read as the CIDv1 of the same block, so that equal content has one identifier here.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from ipfs.errors import CidError, CorruptError

__all__ = ["DAG_PB", "DIGEST_BYTES", "RAW", "Cid"]

RAW = 0x55
DAG_PB = 0x70
DIGEST_BYTES = 32

_CODEC_NAMES = {RAW: "raw", DAG_PB: "dag-pb"}
_SHA2_256 = b"\x12\x20"
_BINARY_BYTES = 4 + DIGEST_BYTES
_TEXT_CHARS = 59
_V0_CHARS = 46
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """Hold a block's sha2-256 digest (32 bytes) and its codec, `RAW` or `DAG_PB`."""

    digest: bytes
    codec: int = DAG_PB

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise CidError(f"a sha2-256 digest has {DIGEST_BYTES} bytes, not {len(self.digest)}")
        if self.codec not in _CODEC_NAMES:
            raise CidError(f"codec {self.codec:#x} is neither raw (0x55) nor dag-pb (0x70)")

    @classmethod
    def from_digest(cls, digest: bytes) -> Cid:
        """Return the dag-pb identifier of a root that a chain knows by its 32-byte digest."""
        return cls(bytes(digest), DAG_PB)

    @classmethod
    def of(cls, block: bytes | memoryview, codec: int) -> Cid:
        """Compute the identifier of a block."""
        return cls(hashlib.sha256(block).digest(), codec)

    @classmethod
    def from_bytes(cls, data: bytes) -> Cid:
        """Read the binary form: 36 bytes of a CIDv1, or the 34-byte multihash of a CIDv0."""
        if len(data) == _BINARY_BYTES - 2 and data[:2] == _SHA2_256:
            return cls(data[2:], DAG_PB)
        if len(data) == _BINARY_BYTES and data[0] == 1 and data[2:4] == _SHA2_256:
            return cls(data[4:], data[1])
        raise CidError(
            f"bytes {data[:8].hex()}… ({len(data)}) are no CIDv1 of a raw or dag-pb block"
            " with sha2-256"
        )

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Read the text form: `b` and base32 in lower case, or a CIDv0 (`Qm…`)."""
        if len(text) == _V0_CHARS and text.startswith("Qm"):
            return cls.from_bytes(_base58_decode(text))
        if len(text) != _TEXT_CHARS or not text.startswith("b") or text != text.lower():
            raise CidError(
                f"{text[:80]!r} is no CIDv1 in lower-case base32 ({_TEXT_CHARS} characters that"
                " begin with b) and no CIDv0"
            )
        try:
            data = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
        except ValueError as error:
            raise CidError(f"{text!r} is no base32: {error}") from error
        cid = cls.from_bytes(data)
        if str(cid) != text:
            raise CidError(f"{text!r} is not the canonical form of {cid}")
        return cid

    @property
    def multihash(self) -> bytes:
        """Return the 34 bytes of the multihash, which name a block whatever its codec."""
        return _SHA2_256 + self.digest

    def __bytes__(self) -> bytes:
        return bytes((1, self.codec)) + self.multihash

    def __str__(self) -> str:
        return "b" + base64.b32encode(bytes(self)).decode("ascii").rstrip("=").lower()

    def __repr__(self) -> str:
        return f"Cid({str(self)!r})"

    def verify(self, block: bytes | memoryview) -> None:
        """Raise `CorruptError` unless these bytes are the block that is named."""
        digest = hashlib.sha256(block).digest()
        if digest != self.digest:
            raise CorruptError(
                f"block {self} holds other bytes: {len(block)} bytes with sha2-256 {digest.hex()}"
            )


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        value = _BASE58.find(character)
        if value < 0:
            raise CidError(f"{text!r} is no base58: {character!r}")
        number = number * 58 + value
    # 58^46 < 2^272, so that 34 bytes always hold it
    return number.to_bytes(_BINARY_BYTES - 2, "big")
