"""Commit to updates and models: C = Σ_k u[k] [τ^k]_1 + β H, hiding and binding.

H is a point whose logarithm nobody knows, hashed to the curve from a fixed tag (RFC 9380, suite
BLS12381G1_XMD:SHA-256_SSWU_RO_). Points travel as 96 bytes, x before y, 48 bytes big-endian each.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import G1Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof.field import R, scalars, signed_rows
from marketplace.proof.srs import G1_BYTES, Srs

__all__ = [
    "BLINDING_TAG",
    "H",
    "R",
    "bad_openings",
    "check_point",
    "combine",
    "commit",
    "openings_hold",
    "random_blinding",
]

BLINDING_TAG = b"TRIBUTE-KZG-BLINDING-V1"
H = G1Point.hash_to_curve(BLINDING_TAG, BLINDING_TAG)

_CHUNK = 1 << 18
_WEIGHT_BITS = 64


def random_blinding() -> int:
    """Return a uniform non-zero scalar from the system's randomness."""
    return secrets.randbelow(R - 1) + 1


def check_point(point: bytes) -> G1Point:
    """Return the point of 96 bytes.

    Raises `ProofError` unless it is on the curve, in the subgroup of order r, not the identity,
    and written in the one way that the EVM's precompiles take (coordinates below p).
    """
    if len(point) != G1_BYTES:
        raise ProofError(f"a point has {G1_BYTES} bytes, not {len(point)}")
    try:
        found = G1Point.from_xy_bytes_be(point)
    except ValueError as error:
        raise ProofError(f"not a point of the subgroup: {error}") from error
    if found == G1Point.identity():
        raise ProofError("the identity is no commitment")
    return found


def combine(points: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """Return Σ_i weights[i] points[i]; weights may be negative. 96 zero bytes are the identity."""
    if len(points) != len(weights):
        raise ProofError(f"{len(points)} points and {len(weights)} weights")
    found = [
        G1Point.identity() if point == bytes(G1_BYTES) else check_point(point) for point in points
    ]
    total = G1Point.multiexp_unchecked(found, [Scalar(w % R) for w in weights])
    return total.to_xy_bytes_be()


def commit(srs: Srs, values: npt.NDArray[np.int16] | npt.NDArray[np.int64], blinding: int) -> bytes:
    """Commit to an update (int16[d]) or a model (int64[d]) under a blinding in [0, r)."""
    if values.ndim != 1 or not len(values):
        raise ProofError(f"values of shape {values.shape}; a vector is needed")
    _check_blinding(blinding)
    if values.dtype == np.int16:
        total = _commit_small(srs, values)
    elif values.dtype == np.int64:
        total = _commit_large(srs, values)
    else:
        raise ProofError(f"values of type {values.dtype}; int16 or int64 is needed")
    return (total + H * Scalar(blinding)).to_xy_bytes_be()


def openings_hold(
    srs: Srs,
    points: Sequence[bytes],
    updates: npt.NDArray[np.int16],
    blindings: Sequence[int],
) -> bool:
    """Return whether every points[i] commits to updates[i] (int16[n, d]) under blindings[i].

    Batched: Σ w_i C_i against a commitment to Σ w_i u_i, so that one multi-exponentiation serves
    all. The weights are 64 random bits that nobody else sees: a wrong opening passes with
    probability 2^-64, and nothing can be tried out beforehand. Raises `ProofError` on points that
    are none.
    """
    if not len(points) == len(updates) == len(blindings):
        raise ProofError(
            f"{len(points)} points, {len(updates)} updates and {len(blindings)} blindings"
        )
    if not len(points):
        return True
    for blinding in blindings:
        _check_blinding(blinding)
    found = [check_point(point) for point in points]
    weights = [secrets.randbits(_WEIGHT_BITS) for _ in points]
    blinding = sum(w * b for w, b in zip(weights, blindings, strict=True)) % R
    negative, sizes = signed_rows(weights, updates)
    total = H * Scalar(blinding)
    for start in range(0, updates.shape[1], _CHUNK):
        stop = min(start + _CHUNK, updates.shape[1])
        chunk = scalars(sizes[32 * start : 32 * stop])
        total += _signed_sum(srs.points(start, stop), negative[start:stop], chunk)
    return G1Point.multiexp_unchecked(found, [Scalar(w) for w in weights]) == total


def bad_openings(
    srs: Srs,
    points: Sequence[bytes],
    updates: npt.NDArray[np.int16],
    blindings: Sequence[int],
) -> list[int]:
    """Return the indices i for which points[i] does not commit to updates[i] under blindings[i].

    One batched check where all is well; else each opening by itself.
    """
    try:
        if openings_hold(srs, points, updates, blindings):
            return []
    except ProofError:
        pass
    return [
        i
        for i, (point, update, blinding) in enumerate(zip(points, updates, blindings, strict=True))
        if not 0 <= blinding < R or commit(srs, update, blinding) != bytes(point)
    ]


def _check_blinding(blinding: int) -> None:
    if not 0 <= blinding < R:
        raise ProofError(f"blinding {blinding:#x} is not below the group's order")


@cache
def _small_scalars() -> npt.NDArray[np.object_]:
    """Return the scalars 0 to 2^15, so that none is made twice."""
    return np.array([Scalar(v) for v in range((1 << 15) + 1)], dtype=object)


def _signed_sum(
    points: list[G1Point], negative: npt.NDArray[np.bool_], sizes: list[Scalar]
) -> G1Point:
    """Return Σ ±sizes[k] points[k].

    Points change their sign rather than scalars: r - s is a full-size scalar and costs seven
    times as much as a small one.
    """
    signed = [-p if minus else p for p, minus in zip(points, negative.tolist(), strict=True)]
    return G1Point.multiexp_unchecked(signed, sizes)


def _commit_small(srs: Srs, values: npt.NDArray[Any]) -> G1Point:
    total = G1Point.identity()
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK].astype(np.int32)
        used = part != 0
        points = list(compress(srs.points(start, start + len(part)), used.tolist()))
        part = part[used]
        total += _signed_sum(points, part < 0, _small_scalars()[np.abs(part)].tolist())
    return total


def _commit_large(srs: Srs, values: npt.NDArray[Any]) -> G1Point:
    total = G1Point.identity()
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        negative = part < 0
        # as uint64, -2^63 has a size too
        sizes = np.where(negative, -part.view(np.uint64), part.view(np.uint64)).tolist()
        points = srs.points(start, start + len(part))
        total += _signed_sum(points, negative, [Scalar(size) for size in sizes])
    return total
