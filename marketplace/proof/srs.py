"""Keep a structured reference string: the powers of a secret τ in the groups of BLS12-381.

Covered: the file, its identity, a devnet's generation from a seed, the check by pairing.
Not covered: contributing in turn and importing transcripts (`marketplace.proof.ceremony`).

File: a header of 1,024 bytes, then D points [τ^k]_1 for k = 0..D-1, 96 bytes each (x before y, 48
bytes big-endian), then whatever proves where the powers come from. The header is, little-endian:
magic (16 bytes), version (4), flags (4, bit 0: insecure), D (8), [τ]_1 (96), [τ]_2 (192),
[τ²]_2 (192), zeros. Points of G2 are x.c0, x.c1, y.c0, y.c1, 48 bytes big-endian each.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import secrets
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import BinaryIO

from eth_utils.crypto import keccak
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from marketplace.errors import InputError, NotFoundError, ProofError, unusable_path
from marketplace.proof.field import R

__all__ = [
    "G1_BYTES",
    "G2_BYTES",
    "MAX_SIZE",
    "Progress",
    "Srs",
    "SrsHeader",
    "check",
    "generate",
    "write",
]

G1_BYTES = 96
G2_BYTES = 192

Progress = Callable[[int, int], None]
"""Called with (points done, points in all)."""

_MAGIC = b"TRIBUTE-SRS\0\0\0\0\0"
_VERSION = 1
_INSECURE = 1
_LAYOUT = struct.Struct("<16sIIQ96s192s192s")
_HEADER_BYTES = 1024
MAX_SIZE = 1 << 28
_CACHED_POINTS = 1 << 18
_PART = 1 << 13


@dataclass(frozen=True)
class SrsHeader:
    """Hold what identifies a reference string, all that a verifier needs of it."""

    size: int
    insecure: bool
    tau_g1: bytes
    tau_g2: bytes
    tau2_g2: bytes

    @cached_property
    def id(self) -> bytes:
        """Return the 32 bytes that `IGramVerifier.srsId` gives for this τ."""
        return keccak(self.tau_g1 + self.tau_g2 + self.tau2_g2)

    def check(self) -> None:
        """Raise `ProofError` unless the three points are in their groups and belong to one τ."""
        try:
            tau = G1Point.from_xy_bytes_be(self.tau_g1)
            tau_2 = G2Point.from_xy_bytes_be(self.tau_g2)
            tau2_2 = G2Point.from_xy_bytes_be(self.tau2_g2)
        except ValueError as error:
            raise ProofError(f"reference string holds a bad point: {error}") from error
        if tau == G1Point.identity():
            raise ProofError("reference string holds τ = 0")
        if not GT.pairing_check([tau, -G1Point()], [G2Point(), tau_2]):
            raise ProofError("[τ]_1 and [τ]_2 of the reference string do not belong together")
        if not GT.pairing_check([tau, -G1Point()], [tau_2, tau2_2]):
            raise ProofError("[τ]_2 and [τ²]_2 of the reference string do not belong together")

    def pack(self) -> bytes:
        """Return the header as it stands in a file."""
        flags = _INSECURE if self.insecure else 0
        packed = _LAYOUT.pack(
            _MAGIC, _VERSION, flags, self.size, self.tau_g1, self.tau_g2, self.tau2_g2
        )
        return packed.ljust(_HEADER_BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> SrsHeader:
        """Read a header; raises `ProofError` if it is none of this version."""
        if len(data) < _HEADER_BYTES:
            raise ProofError(f"reference string of {len(data)} bytes is cut short")
        magic, version, flags, size, tau_g1, tau_g2, tau2_g2 = _LAYOUT.unpack_from(data)
        if magic != _MAGIC:
            raise ProofError("this is no reference string; `tribute srs new` makes one")
        if version != _VERSION or flags & ~_INSECURE:
            raise ProofError(f"reference string of version {version}, flags {flags} is not known")
        if not 2 <= size <= MAX_SIZE:
            raise ProofError(f"reference string of {size} points; 2 to {MAX_SIZE} are possible")
        return cls(size, bool(flags & _INSECURE), tau_g1, tau_g2, tau2_g2)


class Srs:
    """Read a reference string from a memory-mapped file.

    The first 2^18 points are kept as objects once used (45 MB); others are read anew each time.
    """

    def __init__(self, path: Path, header: SrsHeader, data: mmap.mmap) -> None:
        self.path = path
        self.header = header
        self._data = data
        self._cache: list[G1Point] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Srs:
        """Map a file and check its header; raises `ProofError`, or `NotFoundError`."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise NotFoundError(
                f"no reference string at {path}; make one with `tribute srs new`"
            ) from None
        except ValueError:
            raise ProofError(f"{path} is empty; `tribute srs new` makes one") from None
        except OSError as error:
            raise unusable_path(error, "a reference string") from error
        try:
            header = SrsHeader.unpack(data[:_HEADER_BYTES])
        except ProofError as error:
            raise ProofError(f"{path}: {error}") from None
        if len(data) < _HEADER_BYTES + G1_BYTES * header.size:
            raise ProofError(f"{path} is cut short: it announces {header.size} points")
        header.check()
        return cls(path, header, data)

    @property
    def id(self) -> bytes:
        """Return the 32 bytes that `IGramVerifier.srsId` gives for this τ."""
        return self.header.id

    @property
    def size(self) -> int:
        """Return the number of powers, D."""
        return self.header.size

    @property
    def insecure(self) -> bool:
        """Return whether somebody knows τ."""
        return self.header.insecure

    @property
    def trailer(self) -> bytes:
        """Return what stands behind the points."""
        return self._data[_HEADER_BYTES + G1_BYTES * self.size :]

    def raw(self, start: int, stop: int) -> bytes:
        """Return [τ^k]_1 for k in [start, stop), 96 bytes each."""
        self._need(stop)
        return self._data[_HEADER_BYTES + G1_BYTES * start : _HEADER_BYTES + G1_BYTES * stop]

    def points(self, start: int, stop: int) -> list[G1Point]:
        """Return [τ^k]_1 for k in [start, stop); raises `ProofError` beyond the last."""
        self._need(stop)
        if stop > _CACHED_POINTS:
            return self._load(start, stop)
        if len(self._cache) < stop:
            self._cache += self._load(len(self._cache), stop)
        return self._cache[start:stop]

    def _load(self, start: int, stop: int) -> list[G1Point]:
        data, load = self.raw(start, stop), G1Point.from_xy_bytes_unchecked_be
        try:
            return [load(data[at : at + G1_BYTES]) for at in range(0, len(data), G1_BYTES)]
        except ValueError as error:
            raise ProofError(f"{self.path} holds a point off the curve: {error}") from error

    def _need(self, stop: int) -> None:
        if stop > self.size:
            raise ProofError(f"{stop} powers needed, but {self.path} holds {self.size}")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once all is written."""
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # public, and to be read by whoever proves here
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; name another file"
        ) from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def write(
    path: str | os.PathLike[str],
    header: SrsHeader,
    parts: Iterator[bytes],
    trailer: bytes = b"",
    progress: Progress | None = None,
) -> Srs:
    """Write a file whole or not at all and open it; `parts` hold the points in order."""
    path = Path(path)
    written = 0
    with _replacing(path) as file:
        file.write(header.pack())
        for part in parts:
            file.write(part)
            written += len(part)
            if progress:
                progress(written // G1_BYTES, header.size)
        if written != G1_BYTES * header.size:
            raise ProofError(f"{written} bytes of points for a string of {header.size}")
        file.write(trailer)
    return Srs.open(path)


def generate(
    path: str | os.PathLike[str],
    size: int,
    seed: bytes,
    progress: Progress | None = None,
) -> Srs:
    """Write the powers of a τ that follows from `seed`: for devnets, and marked insecure.

    `size` is D, the model's dimension and 8 more at least. Takes some 45 µs a point.
    """
    if not 2 <= size <= MAX_SIZE:
        raise ProofError(f"reference string of {size} points; 2 to {MAX_SIZE} are possible")
    tau = int.from_bytes(hashlib.sha512(b"TRIBUTE-DEVNET-TAU" + seed).digest()) % (R - 1) + 1
    header = SrsHeader(
        size,
        True,
        (G1Point() * Scalar(tau)).to_xy_bytes_be(),
        (G2Point() * Scalar(tau)).to_xy_bytes_be(),
        (G2Point() * Scalar(tau * tau % R)).to_xy_bytes_be(),
    )
    parts = (_powers(tau, size, start) for start in range(0, size, _PART))
    return write(path, header, parts, progress=progress)


_WINDOWS: dict[int, list[list[G1Point]]] = {}


def _windows(bits: int) -> list[list[G1Point]]:
    """Return the multiples of the generator by j·2^(bits·i), j < 2^bits, one list for each i."""
    if bits not in _WINDOWS:
        tables, base = [], G1Point()
        for _ in range(math.ceil(R.bit_length() / bits)):
            table = [G1Point.identity()]
            for _ in range((1 << bits) - 1):
                table.append(table[-1] + base)
            base = table[-1] + base
            tables.append(table)
        _WINDOWS[bits] = tables
    return _WINDOWS[bits]


def _powers(tau: int, size: int, start: int) -> bytes:
    """Return [τ^k]_1 for the part that begins at `start`, by a table of the generator."""
    bits = min(range(4, 17), key=lambda b: math.ceil(255 / b) * ((1 << b) + size))
    tables, mask = _windows(bits), (1 << bits) - 1
    power, out = pow(tau, start, R), []
    for _ in range(min(_PART, size - start)):
        point = reduce(add, (table[power >> (bits * i) & mask] for i, table in enumerate(tables)))
        out.append(point.to_xy_bytes_be())
        power = power * tau % R
    return b"".join(out)


def check(srs: Srs, progress: Progress | None = None) -> None:
    """Raise `ProofError` unless the file holds the powers of one τ, all in the subgroup.

    Batched: e(Σ c_k [τ^{k+1}]_1, [1]_2) = e(Σ c_k [τ^k]_1, [τ]_2) for random c_k of 128 bits; a
    wrong point passes with probability 2^-128. Takes some 0.1 ms a point.
    """
    srs.header.check()
    if srs.raw(0, 2) != G1Point().to_xy_bytes_be() + srs.header.tau_g1:
        raise ProofError("the powers do not begin with the generator and [τ]_1")
    low = high = G1Point.identity()
    for start in range(0, srs.size - 1, _PART):
        stop = min(start + _PART, srs.size - 1)
        data = srs.raw(start, stop + 1)
        try:
            points = [
                G1Point.from_xy_bytes_be(data[at : at + G1_BYTES])
                for at in range(0, len(data), G1_BYTES)
            ]
        except ValueError as error:
            raise ProofError(f"bad point among powers {start} to {stop}: {error}") from error
        weights = [Scalar(secrets.randbits(128)) for _ in range(stop - start)]
        low += G1Point.multiexp_unchecked(points[:-1], weights)
        high += G1Point.multiexp_unchecked(points[1:], weights)
        if progress:
            progress(stop + 1, srs.size)
    tau_2 = G2Point.from_xy_bytes_be(srs.header.tau_g2)
    if not GT.pairing_check([high, -low], [G2Point(), tau_2]):
        raise ProofError(f"{srs.path} does not hold the powers of its τ")
