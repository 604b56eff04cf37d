"""Prove that a matrix holds the inner products of committed updates, and reveal nothing else.

Notation, statement and argument are in `docs/gram-proof.md`. The two multi-exponentiations over all
coordinates, [S] and W, take most of the time; everything else stays in numpy or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import G1Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof.commitment import H, random_blinding
from marketplace.proof.correlation import autocorrelation
from marketplace.proof.field import R, combine_rows, divide
from marketplace.proof.shards import Shards
from marketplace.proof.srs import Progress, Srs
from marketplace.proof.transcript import MASK_COEFFICIENTS, Proof, Transcript
from marketplace.proof.verifier import claimed_norm, norm_holds, verify

__all__ = ["prove"]


def prove(
    srs: Srs,
    context: bytes,
    points: Sequence[bytes],
    gram: bytes,
    updates: npt.NDArray[np.int16],
    blindings: Sequence[int],
    shards: Shards | None = None,
    secret: Callable[[], int] = random_blinding,
    progress: Progress | None = None,
) -> bytes:
    """Return a proof, 480 bytes, that `gram` belongs to `points`.

    `points[i]` commits to `updates[i]`, int16[n, d], under `blindings[i]`; `context` and `gram` are
    as in `verify`. The string needs d + 8 powers. `secret` draws uniform scalars: two proofs must
    never share a draw. `progress` counts the terms of the two long sums. Raises `ProofError` if
    the statement is not true.
    """
    n, d = updates.shape
    if not n == len(points) == len(blindings) or not d:
        raise ProofError(
            f"{len(points)} points, updates of shape {updates.shape}, {len(blindings)} blindings"
        )
    size = d + MASK_COEFFICIENTS
    powers = srs.points(d, size)
    shards = shards or Shards(srs)

    def after(terms: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, _: progress(terms + done, 2 * size - 3)

    mask = [secret() for _ in range(MASK_COEFFICIENTS)]
    mask_blinding, shift_blinding = secret(), secret()
    mask_norm = sum(m * m for m in mask) % R
    mask_sum = G1Point.multiexp_unchecked(powers, [Scalar(m) for m in mask])
    mask_point = (mask_sum + H * Scalar(mask_blinding)).to_xy_bytes_be()
    transcript = Transcript(srs.id, context, points, gram, mask_point, mask_norm)
    rhos, c = transcript.combination()
    claim = claimed_norm(rhos, c, gram, mask_norm)

    a = combine_rows(rhos, updates) + b"".join((c * m % R).to_bytes(32, "little") for m in mask)
    shift = autocorrelation(a, shards.processes)
    shift_sum = shards.sum(shift, after(0))
    shift_point = (shift_sum + H * Scalar(shift_blinding)).to_xy_bytes_be()

    s = transcript.evaluation(shift_point)
    a_quotient, a0, a1 = divide(a, s)
    s_quotient, s0, s1 = divide(shift, s)
    if not norm_holds(s, claim, a0, a1, s0, s1):
        raise ProofError("the matrix does not hold the inner products of these updates")
    gamma = transcript.opening(a0, a1, s0, s1)
    blinding = sum(rho * b for rho, b in zip(rhos, blindings, strict=True))
    blinding = (blinding + c * mask_blinding + gamma * shift_blinding) % R

    del a, shift
    quotient = _quotient(a_quotient, Scalar(gamma), s_quotient)
    del a_quotient, s_quotient
    quotient_point = shards.sum(quotient, after(size - 1)).to_xy_bytes_be()

    proof = Proof(mask_point, mask_norm, shift_point, a0, a1, s0, s1, blinding, quotient_point)
    packed = proof.pack()
    verify(srs.header, context, points, gram, packed)
    return packed


def _quotient(first: list[Scalar], gamma: Scalar, second: list[Scalar]) -> bytes:
    """Return first + γ·second, both from the highest degree down, first one degree higher."""
    lower = reversed(first[1:])
    both = [(a + gamma * b).to_le_bytes() for a, b in zip(lower, reversed(second), strict=True)]
    return b"".join(both) + first[0].to_le_bytes()
