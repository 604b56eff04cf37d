"""Make a reference string in turn: each participant multiplies τ by a secret and proves it.

Nobody knows τ as long as one participant forgot its secret. A contribution x to τ is a Schnorr
proof of knowledge of x to the base [τ]_1, bound to all that came before it (Nikolaenko, Ragsdale,
Bonneau and Boneh, "Powers-of-Tau to the People", 2022). That the string holds the powers of the
last τ is checked by pairing, so that earlier strings need not be kept.

The chain stands in the file's trailer, numbers big-endian, points as everywhere (96 bytes):
magic (16), beginning, then contributions.
  beginning     kind (1), [τ]_1 (96), SHA-256 of the file it was read from (32), participants
                before (4), note (1 + length)
  contribution  name (1 + length), [xτ]_1 (96), commitment A = k[τ]_1 (96), response k + cx (32)
h_0 = keccak256(magic ‖ beginning), h_i = keccak256(h_(i-1) ‖ contribution i), and the challenge is
c = keccak256(h_(i-1) ‖ contribution i without its response) mod r.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from eth_utils.crypto import keccak
from py_arkworks_bls12381 import G1Point, G2Point, Scalar

from marketplace.errors import InputError, ProofError
from marketplace.proof.commitment import check_point, random_blinding
from marketplace.proof.field import R
from marketplace.proof.powers_of_tau import PublicSetup
from marketplace.proof.srs import MAX_SIZE, Progress, Srs, SrsHeader, write
from marketplace.proof.srs import check as check_powers

__all__ = [
    "Beginning",
    "Chain",
    "Contribution",
    "Origin",
    "adopt",
    "check",
    "check_name",
    "contribute",
    "read_chain",
    "start",
]

_MAGIC = b"TRIBUTE-CHAIN-1\0"
_TEXT_LIMIT = 64
_TRAILER_LIMIT = 1 << 22
_PART = 1 << 12
_BEGINNING = struct.Struct(">B96s32sI")
_PROOF = struct.Struct(">96s96s32s")


class Origin(IntEnum):
    """Say where the first τ comes from."""

    ONE = 0
    """τ = 1, which everybody knows"""
    SEED = 1
    """a seed, for devnets"""
    PUBLIC = 2
    """a public ceremony's file"""


@dataclass(frozen=True)
class Beginning:
    """Say what a chain begins with; `source` and `participants` are those of a public ceremony."""

    origin: Origin
    tau: bytes
    source: bytes = bytes(32)
    participants: int = 0
    note: str = ""

    def pack(self) -> bytes:
        """Return the bytes that h_0 covers."""
        head = _BEGINNING.pack(self.origin, self.tau, self.source, self.participants)
        return head + _pack_text(self.note)


@dataclass(frozen=True)
class Contribution:
    """Hold what one participant leaves behind: the new [τ]_1, and the proof that it knows x."""

    name: str
    tau: bytes
    commitment: bytes
    response: int

    def pack(self) -> bytes:
        """Return the bytes that the chain's hash covers."""
        return _pack_text(self.name) + _PROOF.pack(
            self.tau, self.commitment, self.response.to_bytes(32)
        )

    def challenge(self, before: bytes) -> int:
        """Return c; `before` is the hash of the chain so far."""
        return int.from_bytes(keccak(before + self.pack()[:-32])) % R


@dataclass(frozen=True)
class Chain:
    """List who contributed to a reference string, oldest first."""

    beginning: Beginning
    contributions: tuple[Contribution, ...] = ()

    @property
    def insecure(self) -> bool:
        """Return whether τ is known for want of anybody's secret."""
        return self.beginning.origin != Origin.PUBLIC and not self.contributions

    def hashes(self) -> list[bytes]:
        """Return h_0, then a hash a contribution: what participants publish to be sure of it."""
        found = [keccak(_MAGIC + self.beginning.pack())]
        for contribution in self.contributions:
            found.append(keccak(found[-1] + contribution.pack()))
        return found

    def pack(self) -> bytes:
        """Return the chain as it stands in a file's trailer."""
        return b"".join(
            (_MAGIC, self.beginning.pack(), *(entry.pack() for entry in self.contributions))
        )

    @classmethod
    def unpack(cls, data: bytes) -> Chain:
        """Read a trailer; ProofError for what is none."""
        if len(data) > _TRAILER_LIMIT:
            raise ProofError(f"a trailer of {len(data)} bytes; {_TRAILER_LIMIT} are possible")
        if data[:16] != _MAGIC:
            raise ProofError("the trailer is no chain of contributions")
        try:
            kind, tau, source, participants = _BEGINNING.unpack_from(data, 16)
            note, at = _read_text(data, 16 + _BEGINNING.size)
            beginning = Beginning(Origin(kind), tau, source, participants, note)
            contributions = []
            while at < len(data):
                name, at = _read_text(data, at)
                tau, commitment, response = _PROOF.unpack_from(data, at)
                at += _PROOF.size
                contributions.append(Contribution(name, tau, commitment, int.from_bytes(response)))
        except (struct.error, ValueError) as error:
            raise ProofError(f"the chain of contributions cannot be read: {error}") from error
        return cls(beginning, tuple(contributions))

    def check(self, header: SrsHeader) -> None:
        """Raise ProofError unless each contribution built on the last, up to the τ of `header`."""
        begins = check_point(self.beginning.tau)
        if self.beginning.origin == Origin.ONE and begins != G1Point():
            raise ProofError("the chain says that it begins with τ = 1, but it does not")
        before = begins
        hashes = self.hashes()
        for i, entry in enumerate(self.contributions):
            after = check_point(entry.tau)
            if entry.response >= R:
                raise ProofError(f"the response of contribution {i + 1} is not below r")
            challenge = entry.challenge(hashes[i])
            left = before * Scalar(entry.response)
            if left != check_point(entry.commitment) + after * Scalar(challenge):
                raise ProofError(
                    f"contribution {i + 1} ({entry.name!r}) does not build on the one before it"
                )
            before = after
        if before.to_xy_bytes_be() != header.tau_g1:
            raise ProofError("the chain of contributions ends with another τ than the string's")
        if header.insecure != self.insecure:
            said, found = ("insecure", "not") if header.insecure else ("secure", "insecure")
            raise ProofError(f"the string is marked {said}, but by its chain it is {found}")


def check_name(name: str) -> None:
    """Raise InputError for a name that cannot stand in a chain."""
    if not name:
        raise InputError("a contribution needs a name that people can look for")
    _pack_text(name)


def _pack_text(text: str) -> bytes:
    data = text.encode()
    if len(data) > _TEXT_LIMIT or not text.isprintable():
        raise InputError(
            f"{text[:80]!r} cannot stand in a chain: give at most {_TEXT_LIMIT} bytes of "
            "printable text"
        )
    return bytes([len(data)]) + data


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    if at >= len(data):
        raise ValueError("it is cut short")
    end = at + 1 + data[at]
    text = data[at + 1 : end].decode()
    if end > len(data) or end - at - 1 > _TEXT_LIMIT or not text.isprintable():
        raise ValueError(f"text at byte {at} is not acceptable")
    return text, end


def read_chain(srs: Srs) -> Chain:
    """Return a string's chain, unchecked; a devnet's string begins and ends with its seed."""
    if srs.trailer:
        return Chain.unpack(srs.trailer)
    return Chain(Beginning(Origin.SEED, srs.header.tau_g1))


def start(path: str | os.PathLike[str], size: int, progress: Progress | None = None) -> Srs:
    """Write the string of τ = 1, for the first participant of a ceremony."""
    one, one_2 = G1Point().to_xy_bytes_be(), G2Point().to_xy_bytes_be()
    if not 2 <= size <= MAX_SIZE:
        raise ProofError(f"reference string of {size} points; 2 to {MAX_SIZE} are possible")
    header = SrsHeader(size, True, one, one_2, one_2)
    parts = (one * min(_PART, size - at) for at in range(0, size, _PART))
    return write(path, header, parts, Chain(Beginning(Origin.ONE, one)).pack(), progress)


def contribute(
    srs: Srs,
    path: str | os.PathLike[str],
    name: str,
    progress: Progress | None = None,
    secret: Callable[[], int] = random_blinding,
) -> Contribution:
    """Write to `path` what becomes of a string when its τ is multiplied by a fresh secret.

    `srs` should have passed `check`. The secret is never written; Python cannot wipe it from
    memory, so end the process soon. Takes some 0.1 ms a point.
    """
    check_name(name)
    chain = read_chain(srs)
    chain.check(srs.header)
    x, k = secret(), secret()
    tau = G1Point.from_xy_bytes_be(srs.header.tau_g1)
    entry = Contribution(
        name, (tau * Scalar(x)).to_xy_bytes_be(), (tau * Scalar(k)).to_xy_bytes_be(), 0
    )
    entry = replace(entry, response=(k + entry.challenge(chain.hashes()[-1]) * x) % R)
    chain = Chain(chain.beginning, (*chain.contributions, entry))
    tau_2 = G2Point.from_xy_bytes_be(srs.header.tau_g2)
    tau2_2 = G2Point.from_xy_bytes_be(srs.header.tau2_g2)
    header = SrsHeader(
        srs.size,
        False,
        entry.tau,
        (tau_2 * Scalar(x)).to_xy_bytes_be(),
        (tau2_2 * Scalar(x * x % R)).to_xy_bytes_be(),
    )

    def parts() -> Iterator[bytes]:
        power = 1
        for at in range(0, srs.size, _PART):
            out = []
            for point in srs.points(at, min(at + _PART, srs.size)):
                out.append((point * Scalar(power)).to_xy_bytes_be())
                power = power * x % R
            yield b"".join(out)

    write(path, header, parts(), chain.pack(), progress)
    return entry


def adopt(
    path: str | os.PathLike[str], setup: PublicSetup, progress: Progress | None = None
) -> Srs:
    """Write a public ceremony's powers as a string, once all of them have passed the check.

    Raises ProofError, and leaves what stands at `path`, if they do not.
    """
    path = Path(path)
    header = SrsHeader(
        setup.size,
        False,
        setup.point(1).to_xy_bytes_be(),
        setup.tau_2.to_xy_bytes_be(),
        setup.tau2_2.to_xy_bytes_be(),
    )
    beginning = Beginning(
        Origin.PUBLIC, header.tau_g1, setup.digest, setup.participants, setup.form
    )
    parts = (
        b"".join(setup.point(k).to_xy_bytes_be() for k in range(at, min(at + _PART, setup.size)))
        for at in range(0, setup.size, _PART)
    )

    def half(second: bool) -> Progress | None:
        if progress is None:
            return None
        return lambda done, of: progress(done + of * second, 2 * of)

    with _folder_beside(path) as folder:
        srs = write(folder / "unchecked", header, parts, Chain(beginning).pack(), half(False))
        check(srs, half(True))
        os.replace(srs.path, path)
    return Srs.open(path)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Give a folder for a while, on the same disk as `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name + ".")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; name another file"
        ) from error
    with folder as name:
        yield Path(name)


def check(srs: Srs, progress: Progress | None = None) -> Chain:
    """Return the chain of a string after checking it, and every power; ProofError if not good."""
    chain = read_chain(srs)
    chain.check(srs.header)
    check_powers(srs, progress)
    return chain
