"""Lay out a Gram proof and derive its challenges, byte for byte as `GramVerifier.sol` does.

All numbers are big-endian words of 32 bytes, points are 96 bytes (x before y).

    context = keccak256(chain id ‖ marketplace ‖ project ‖ round)
    T0 = keccak256(tag ‖ srs id ‖ context ‖ n ‖ C_1 ‖ … ‖ C_n ‖ gram ‖ M ‖ v)
    c = keccak256(T0 ‖ 0) mod r,  ρ_i = keccak256(T0 ‖ i) mod r for i = 1 … n
    T1 = keccak256(T0 ‖ S),  s = T1 mod r
    T2 = keccak256(T1 ‖ a0 ‖ a1 ‖ s0 ‖ s1),  γ = T2 mod r

The proof is M ‖ v ‖ S ‖ a0 ‖ a1 ‖ s0 ‖ s1 ‖ β ‖ W, 480 bytes whatever n and d are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from eth_utils.crypto import keccak

from marketplace.errors import ProofError
from marketplace.proof.field import R

__all__ = ["MASK_COEFFICIENTS", "PROOF_BYTES", "TAG", "Proof", "Transcript", "round_context"]

TAG = b"TRIBUTE-GRAM-V1".ljust(32, b"\0")
PROOF_BYTES = 480
MASK_COEFFICIENTS = 8
"""Coefficients of the mask, at degrees d to d + 7."""

_LAYOUT = struct.Struct("96s32s96s32s32s32s32s32s96s")


def round_context(chain_id: int, marketplace: bytes, project: bytes, round_: int) -> bytes:
    """Return the 32 bytes that bind a proof to a round; `marketplace` is the address's 20 bytes."""
    if len(marketplace) != 20 or len(project) != 32:
        raise ProofError(
            f"an address of {len(marketplace)} and a project of {len(project)} bytes; "
            "20 and 32 are needed"
        )
    return keccak(
        chain_id.to_bytes(32) + marketplace.rjust(32, b"\0") + project + round_.to_bytes(32)
    )


@dataclass(frozen=True)
class Proof:
    """Hold what a prover sends: three points of 96 bytes and six scalars below r."""

    mask_point: bytes
    mask_norm: int
    shift_point: bytes
    a0: int
    a1: int
    s0: int
    s1: int
    blinding: int
    quotient_point: bytes

    def pack(self) -> bytes:
        """Return the proof's 480 bytes."""
        return _LAYOUT.pack(
            self.mask_point,
            self.mask_norm.to_bytes(32),
            self.shift_point,
            *(x.to_bytes(32) for x in (self.a0, self.a1, self.s0, self.s1, self.blinding)),
            self.quotient_point,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Proof:
        """Read a proof; raises `ProofError` unless it has 480 bytes and scalars below r."""
        if len(data) != PROOF_BYTES:
            raise ProofError(f"a proof has {PROOF_BYTES} bytes, not {len(data)}")
        mask, norm, shift, a0, a1, s0, s1, blinding, quotient = _LAYOUT.unpack(data)
        return cls(
            mask,
            _scalar(norm),
            shift,
            _scalar(a0),
            _scalar(a1),
            _scalar(s0),
            _scalar(s1),
            _scalar(blinding),
            quotient,
        )


def _scalar(data: bytes) -> int:
    value = int.from_bytes(data)
    if value >= R:
        raise ProofError(f"scalar {value:#x} of the proof is not below r")
    return value


class Transcript:
    """Derive the challenges in the order in which prover and verifier need them."""

    def __init__(
        self,
        srs_id: bytes,
        context: bytes,
        points: Sequence[bytes],
        gram: bytes,
        mask_point: bytes,
        mask_norm: int,
    ) -> None:
        self._state = keccak(
            b"".join(
                (
                    TAG,
                    srs_id,
                    context,
                    len(points).to_bytes(32),
                    *points,
                    gram,
                    mask_point,
                    mask_norm.to_bytes(32),
                )
            )
        )
        self._count = len(points)

    def combination(self) -> tuple[list[int], int]:
        """Return ρ_1 … ρ_n and c; to be called before the others."""
        c, *rhos = (
            int.from_bytes(keccak(self._state + i.to_bytes(32))) % R for i in range(self._count + 1)
        )
        return rhos, c

    def evaluation(self, shift_point: bytes) -> int:
        """Return s, after [S]."""
        self._state = keccak(self._state + shift_point)
        return int.from_bytes(self._state) % R

    def opening(self, a0: int, a1: int, s0: int, s1: int) -> int:
        """Return γ, after the rests of A and S."""
        self._state = keccak(self._state + b"".join(x.to_bytes(32) for x in (a0, a1, s0, s1)))
        return int.from_bytes(self._state) % R
