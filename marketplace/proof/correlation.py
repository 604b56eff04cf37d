"""Multiply a polynomial over F by its own reverse, by Fourier transforms in floating point.

A(X)·A(1/X) = <a, a> + X·S(X) + X⁻¹·S(1/X), and S is what the Gram proof commits to. Write the
coefficients of A in balanced digits of b bits, A = Σ_i 2^(bi) A_i. The products of the A_i are
small integers: float64 holds them exactly once rounded.

A(X)·A(1/X) is even, so its values on the unit circle are real, and half of them say everything.
With N ≥ len(a) and w = exp(-πi/2N), the values at w^(4g+1), g < N, are one complex transform of
length N of the twisted sequence a_k·w^k, and

    S_(l-1) = Re(w^l·F_l) / N,   F_l = Σ_g G_g·exp(-2πi·gl/N),   G_g = |A(w^(4g+1))|²,  0 < l < N,

because Σ_g cos(θ_g·l)·cos(θ_g·l') = N/2 for l = l' and 0 otherwise (l + l' = N gives Re(i) = 0).
That is half the work of the transforms of length 2N that a general product takes.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from marketplace.errors import ProofError
from marketplace.proof.field import SCALAR_BYTES, R, fold

__all__ = ["autocorrelation"]

Real = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_BLOCK = 1 << 12
_FOLD_BLOCK = 1 << 14
_MAX_ERROR = 0.25


def autocorrelation(data: bytes, threads: int = 1) -> bytes:
    """Return Σ_k a[k]·a[k + 1 + j] modulo r for j = 0 .. len(a) - 2.

    `data` and the result are scalars of 32 bytes little-endian, all below r. Takes some 500 bytes
    of memory a coefficient. Raises `ProofError` where rounding comes near to ambiguity; a wrong
    result could only make the prover's own check fail.
    """
    size = len(data) // SCALAR_BYTES
    if size < 2:
        return b""
    bits = _digit_bits(size)
    length = _smooth(size)
    twist = np.exp(np.arange(length) * (-0.5j * math.pi / length))
    spectra = _spectra(data, bits, twist)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_transform, spectra))
    _multiply(spectra)
    return _collect(spectra, bits, size, twist, threads)


def _transform(row: Complex) -> None:
    np.fft.fft(row, out=row)


def _smooth(size: int) -> int:
    """Return the smallest number from `size` on without prime factors above 5."""
    odd: list[int] = [3**i * 5**j for i in range(21) for j in range(14)]
    return min(m << (-(-size // m) - 1).bit_length() for m in odd)


def _digit_bits(size: int) -> int:
    """Return the largest b for which sums of products stay four units of rounding below 1/10.

    Balanced digits of b bits are at most 2^(b-1); up to 256/b products of digits meet in a place.
    """
    fitting = (
        bits for bits in range(15, 3, -1) if 4 * size * 4 ** (bits - 1) * 256 / bits < 0.1 * 2**53
    )
    return next(fitting, 4)


def _spectra(data: bytes, bits: int, twist: Complex) -> Complex:
    """Return the digits of every coefficient, twisted, complex128[digits, length]."""
    words = np.frombuffer(data, dtype="<u2").reshape(-1, SCALAR_BYTES // 2).T.copy()
    size = words.shape[1]
    count = -(-(R.bit_length() + 1) // bits)
    spectra = np.zeros((count, len(twist)), dtype=np.complex128)
    carry = np.zeros(size, dtype=np.int32)
    for i in range(count):
        word, shift = divmod(bits * i, 16)
        digit = words[word].astype(np.int32)
        if word + 1 < len(words):
            digit |= words[word + 1].astype(np.int32) << 16
        digit >>= shift
        digit &= (1 << bits) - 1
        digit += carry
        carry = digit >> (bits - 1)
        carry += 1
        carry >>= 1
        digit -= carry << bits
        np.multiply(digit, twist[:size], out=spectra[i, :size])
    return spectra


def _multiply(spectra: Complex) -> None:
    """Replace the digits' values by those of Σ_{i+j=m} A_i(X)·A_j(1/X), m = 0 .. 2·digits - 2.

    These are real: m = 2k and m = 2k + 1 take the real and the imaginary part of row k.
    """
    count = len(spectra)
    for start in range(0, spectra.shape[1], _BLOCK):
        part = spectra[:, start : start + _BLOCK]
        # values of one digit: its real parts, then its imaginary parts
        rows = np.stack([part.real, part.imag], axis=1)
        for m in range(2 * count):
            low, high = max(0, m - count + 1), min(m, count - 1)
            pairs = (high - low + 1) // 2
            total = (
                2 * np.einsum("icf,icf->f", rows[low : low + pairs], rows[high : high - pairs : -1])
                if pairs > 0
                else np.zeros(part.shape[1])
            )
            if m % 2 == 0:
                total += np.einsum("cf,cf->f", rows[m // 2], rows[m // 2])
                part[m // 2].real = total
            else:
                part[m // 2].imag = total


def _collect(spectra: Complex, bits: int, size: int, twist: Complex, threads: int) -> bytes:
    """Transform back what `_multiply` left, carry, and reduce modulo r."""
    sums = 2 * len(spectra) - 1
    count = max(sums, -(-(2 * R.bit_length() + size.bit_length()) // bits)) + 1
    digits = np.empty((count, size - 1), dtype=np.uint16)
    carry = np.zeros(size - 1, dtype=np.int64)
    worst = 0.0

    def rounded(m: int) -> tuple[npt.NDArray[np.int64], float]:
        row = spectra[m // 2].imag if m % 2 else spectra[m // 2].real
        exact = _at(np.fft.rfft(row), twist, size)
        whole = np.rint(exact)
        exact -= whole
        return whole.astype(np.int64), max(exact.max(), -exact.min())

    with ThreadPoolExecutor(threads) as pool:
        for m in range(count):
            if m < sums:
                if m % threads == 0:
                    group = list(pool.map(rounded, range(m, min(m + threads, sums))))
                whole, error = group[m % threads]
                carry += whole
                worst = max(worst, error)
            np.bitwise_and(carry, (1 << bits) - 1, out=digits[m], casting="unsafe")
            carry >>= bits
    if worst > _MAX_ERROR:
        raise ProofError(f"rounding errors reached {worst:.2f} at {size} coefficients")
    return b"".join(
        fold(digits[:, at : at + _FOLD_BLOCK].astype(np.float64), bits)
        for at in range(0, size - 1, _FOLD_BLOCK)
    )


def _at(half: Complex, twist: Complex, size: int) -> Real:
    """Return Re(w^l·F_l)/N for l = 1 .. size - 1; `half` is the first half of F."""
    length = len(twist)
    out = np.empty(size - 1)
    low = min(len(half), size)
    np.multiply(half.real[1:low], twist.real[1:low], out=out[: low - 1])
    out[: low - 1] -= half.imag[1:low] * twist.imag[1:low]
    mirrored = half[length - size + 1 : length - low + 1][::-1]
    np.multiply(mirrored.real, twist.real[low:size], out=out[low - 1 :])
    out[low - 1 :] += mirrored.imag * twist.imag[low:size]
    out /= length
    return out
