"""Check a Gram proof: bytes in, an exception or nothing out. Accepts what `GramVerifier.sol` does.

The statement, the argument why this suffices, and the notation are in `docs/gram-proof.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof.commitment import H, check_point
from marketplace.proof.field import R
from marketplace.proof.srs import SrsHeader
from marketplace.proof.transcript import Proof, Transcript

__all__ = ["claimed_norm", "norm_holds", "verify"]


def verify(
    srs: SrsHeader, context: bytes, points: Sequence[bytes], gram: bytes, proof: bytes
) -> None:
    """Raise `ProofError` unless `gram` is proven to belong to `points`.

    `context` is the round's (`round_context`), `points` are n commitments of 96 bytes, `gram` is
    the upper triangle row by row, n(n+1)/2 big-endian int64. Takes milliseconds, whatever the
    dimension; `srs` must have passed its own check, as it has in every open `Srs`.
    """
    commitments = [check_point(point) for point in points]
    sent = Proof.unpack(proof)
    mask, shift, quotient = map(
        check_point, (sent.mask_point, sent.shift_point, sent.quotient_point)
    )
    transcript = Transcript(srs.id, context, points, gram, sent.mask_point, sent.mask_norm)
    rhos, c = transcript.combination()
    claim = claimed_norm(rhos, c, gram, sent.mask_norm)
    s = transcript.evaluation(sent.shift_point)
    if not norm_holds(s, claim, sent.a0, sent.a1, sent.s0, sent.s1):
        raise ProofError("the matrix is not proven: the norm's equation does not hold")
    gamma = transcript.opening(sent.a0, sent.a1, sent.s0, sent.s1)
    opened = G1Point.multiexp_unchecked(
        [*commitments, mask, shift, H, G1Point(), G1Point.from_xy_bytes_be(srs.tau_g1)],
        [
            Scalar(x % R)
            for x in (
                *rhos,
                c,
                gamma,
                -sent.blinding,
                -sent.a0 - gamma * sent.s0,
                -sent.a1 - gamma * sent.s1,
            )
        ],
    )
    divisor = (
        G2Point.from_xy_bytes_be(srs.tau2_g2)
        - G2Point.from_xy_bytes_be(srs.tau_g2) * Scalar(s)
        + G2Point()
    )
    if not GT.pairing_check([opened, -quotient], [G2Point(), divisor]):
        raise ProofError("the matrix is not proven: the opening does not hold")


def claimed_norm(rhos: Sequence[int], c: int, gram: bytes, mask_norm: int) -> int:
    """Return t = Σ_ij ρ_i ρ_j G_ij + c² v modulo r for a packed triangle.

    Raises `ProofError` if the triangle has another size or there is nothing to prove.
    """
    n = len(rhos)
    if not n or len(gram) != 4 * n * (n + 1):
        raise ProofError(f"a matrix of {len(gram)} bytes for {n} updates")
    entries = iter(np.frombuffer(gram, dtype=">i8").tolist())
    total = c * c * mask_norm
    for i, rho in enumerate(rhos):
        row = rho * next(entries)
        row += 2 * sum(other * next(entries) for other in rhos[i + 1 :])
        total += rho * row
    return total % R


def norm_holds(s: int, claim: int, a0: int, a1: int, s0: int, s1: int) -> bool:
    """Return whether A(X)·A(1/X) = t + X·S(X) + X⁻¹·S(1/X) modulo X² - sX + 1.

    There X + 1/X = s and X² + 1/X² = s² - 2, so that both sides are numbers.
    """
    return (a0 * a0 + a1 * a1 + a0 * a1 * s - claim - s0 * s - s1 * (s * s - 2)) % R == 0
