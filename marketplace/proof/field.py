"""Calculate with long vectors over the scalar field of BLS12-381.

A vector is kept as bytes or as numpy digits of 16 bits, never as Python integers: at a million
coordinates those are what costs most. Products of digits are summed in float64, which is exact
below 2^53.

Covered: integer combinations of int16 rows, reduction modulo r, conversion to `Scalar`.
Not covered: products of polynomials (`marketplace.proof.prover`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import Scalar

__all__ = ["R", "SCALAR_BYTES", "scalars", "signed_rows"]

R = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
SCALAR_BYTES = 32

_BLOCK = 1 << 15
_DIGIT_BITS = 16
_DIGIT = (1 << _DIGIT_BITS) - 1


def scalars(data: bytes | memoryview) -> list[Scalar]:
    """Return the scalars in `data`, 32 bytes little-endian each, all below r."""
    view = bytes(data)
    make = Scalar.from_le_bytes
    return [make(view[at : at + SCALAR_BYTES]) for at in range(0, len(view), SCALAR_BYTES)]


def _digits(values: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Return the base-2^16 digits of non-negative integers, float64[len(values), count]."""
    raw = b"".join(v.to_bytes(2 * count, "little") for v in values)
    return np.frombuffer(raw, dtype="<u2").reshape(len(values), count).astype(np.float64)


def _carry(digits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bring all digits but the last, which keeps the sign, into [0, 2^16); in place."""
    for k in range(digits.shape[1] - 1):
        digits[:, k + 1] += digits[:, k] >> _DIGIT_BITS
        digits[:, k] &= _DIGIT
    return digits


def signed_rows(
    weights: Sequence[int], rows: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[np.bool_], bytes]:
    """Return sign and size of Σ_i weights[i]·rows[i] for weights in [0, 2^192).

    `rows` is int16[n, d]. Returns (negative: bool[d], sizes: 32 bytes little-endian each).
    """
    count = 16
    weight_digits = _digits(weights, count - 2)
    d = rows.shape[1]
    negative = np.zeros(d, dtype=np.bool_)
    sizes = np.empty((d, count), dtype="<u2")
    for start in range(0, d, _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        raw = np.zeros((block.shape[1], count), dtype=np.int64)
        raw[:, : count - 2] = block.T @ weight_digits
        below = _carry(raw.copy())[:, -1] < 0
        raw[below] *= -1
        negative[start : start + _BLOCK] = below
        sizes[start : start + _BLOCK] = _carry(raw)
    return negative, sizes.tobytes()
