"""Calculate with long vectors over the scalar field of BLS12-381.

A vector is kept as bytes (32 a coordinate, little-endian, below r) or as digits of 16 bits, one row
of a numpy array for each digit; Python integers would cost most of a large proof's time. Products
of digits are summed in float64, which is exact below 2^53.

Covered: integer combinations of int16 rows, reduction modulo r, division by X² - sX + 1,
conversion to `Scalar`. Not covered: products of polynomials (`marketplace.proof.correlation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import Scalar

__all__ = [
    "R",
    "SCALAR_BYTES",
    "combine_rows",
    "divide",
    "fold",
    "scalars",
    "signed_rows",
]

R = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
SCALAR_BYTES = 32

Digits = npt.NDArray[np.int64]

_BLOCK = 1 << 14
_BITS = 16
_MASK = (1 << _BITS) - 1
_COUNT = 16
"""Digits of a reduced scalar."""


def scalars(data: bytes | memoryview) -> list[Scalar]:
    """Return the scalars in `data`, 32 bytes little-endian each, all below r."""
    view = bytes(data)
    make = Scalar.from_le_bytes
    return [make(view[at : at + SCALAR_BYTES]) for at in range(0, len(view), SCALAR_BYTES)]


def _digits(values: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Return the base-2^16 digits of non-negative integers, float64[count, len(values)]."""
    raw = b"".join(v.to_bytes(2 * count, "little") for v in values)
    return np.frombuffer(raw, dtype="<u2").reshape(len(values), count).T.astype(np.float64)


def _carry(digits: Digits) -> Digits:
    """Bring all digits but the last, which keeps the sign, into [0, 2^16); in place."""
    for low, high in zip(digits[:-1], digits[1:], strict=True):
        high += low >> _BITS
        low &= _MASK
    return digits


def _packed(digits: Digits) -> bytes:
    return digits.T.astype("<u2").tobytes()


_R_DIGITS = _digits([R], _COUNT + 1).astype(np.int64)


def _reduce(digits: Digits) -> bytes:
    """Reduce 17 carried digits, less than 2^40·r in all, modulo r; in place."""
    # 53 bits of the quotient are right, and rounding down by 2^-10 keeps the rest in [0, 2r)
    high = digits[_COUNT] * 2.0**32 + digits[_COUNT - 1] * 2.0**16 + digits[_COUNT - 2]
    quotient = np.floor(high * (2.0**224 / R) - 2.0**-10).clip(0).astype(np.int64)
    digits -= quotient * _R_DIGITS
    rest = _carry(digits)
    less = _carry(rest - _R_DIGITS)
    return _packed(np.where(less[_COUNT] >= 0, less, rest)[:_COUNT])


def signed_rows(
    weights: Sequence[int], rows: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[np.bool_], bytes]:
    """Return sign and size of Σ_i weights[i]·rows[i] for weights in [0, 2^192).

    `rows` is int16[n, d]. Returns (negative: bool[d], sizes: 32 bytes little-endian each).
    """
    weight_digits = _digits(weights, 12)
    negative, sizes = [], []
    for start in range(0, rows.shape[1], _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        raw = np.zeros((_COUNT, block.shape[1]), dtype=np.int64)
        raw[:12] = weight_digits @ block
        below = _carry(raw.copy())[-1] < 0
        raw[:, below] *= -1
        negative.append(below)
        sizes.append(_packed(_carry(raw)))
    return np.concatenate(negative), b"".join(sizes)


def combine_rows(weights: Sequence[int], rows: npt.NDArray[np.int16]) -> bytes:
    """Return Σ_i weights[i]·rows[i] modulo r for weights in [0, r), 32 bytes a coordinate.

    `rows` is int16[n, d] with n up to 2^16.
    """
    weight_digits = _digits(weights, _COUNT)
    # a multiple of r that makes every sum positive
    offset = _digits([len(weights) * R << 15], _COUNT + 3).astype(np.int64)
    parts = []
    for start in range(0, rows.shape[1], _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        raw = np.repeat(offset, block.shape[1], axis=1)
        raw[:_COUNT] += (weight_digits @ block).astype(np.int64)
        parts.append(_reduce(_topped(_carry(raw))))
    return b"".join(parts)


def _topped(digits: Digits) -> Digits:
    """Put everything from the 17th carried digit on into that one."""
    for k in range(len(digits) - 1, _COUNT, -1):
        digits[k - 1] += digits[k] << _BITS
    return digits[: _COUNT + 1]


def fold(digits: npt.NDArray[np.float64], bits: int) -> bytes:
    """Return Σ_k digits[k]·2^(bits·k) modulo r for digits in [0, 2^16), float64[count, d]."""
    table = _digits([pow(2, bits * k, R) for k in range(len(digits))], _COUNT)
    raw = np.zeros((_COUNT + 3, digits.shape[1]), dtype=np.int64)
    raw[:_COUNT] = table @ digits
    return _reduce(_topped(_carry(raw)))


def divide(data: bytes, s: int) -> tuple[list[Scalar], int, int]:
    """Divide the polynomial with these coefficients by X² - sX + 1.

    Returns the quotient's coefficients from the highest down, and c0, c1 of the rest c0 + c1·X.
    """
    factor = Scalar(s)
    make = Scalar.from_le_bytes
    one = two = Scalar(0)
    quotient: list[Scalar] = []
    keep = quotient.append
    for at in range(len(data) - SCALAR_BYTES, -SCALAR_BYTES, -SCALAR_BYTES):
        one, two = make(data[at : at + SCALAR_BYTES]) + factor * one - two, one
        keep(one)
    constant, linear = quotient.pop(), quotient.pop()
    return quotient, int(constant - factor * linear), int(linear)
