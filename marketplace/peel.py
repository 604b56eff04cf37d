"""Peel off groups of updates that stand out, in integers, bit for bit as `PeelShapley.sol` does.

`aggregator.peel` derives the test. Matrices are int64[n, n].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul

import numpy as np
from eth_utils.crypto import keccak
from numpy.typing import NDArray

from marketplace.codec import pack_gram
from marketplace.errors import ContractError

__all__ = [
    "BOUNDS",
    "COPIES_FROM",
    "COPIES_TO",
    "FEWEST",
    "GROUPS",
    "LEAK",
    "MOST",
    "NEARER",
    "PART",
    "Peeled",
    "peel",
]

FEWEST = 5
MOST = 128
"""Updates that `PeelShapley` tests, and that it takes."""

GROUPS = 4
"""Groups that it peels off at most, or attackers could make a round too dear to settle."""

COPIES_FROM, COPIES_TO = 6, 32
"""Updates among which it looks for copies: fewer prove nothing, more would cost too much gas."""

NEARER = 3
"""Some two updates must be so many times nearer than two are on average before it looks."""

PART, LEAK, LEAK_SLASHED = 1 << 10, 1 << 14, 1 << 17
"""Of the trailing eigenvector a copy has one part in so many at least, and all who are none have
together less than one in so many, or the group is not set aside; or not slashed."""

STEPS = 10
"""Products of matrix and vector by which the leading eigenvector is approached."""

SOLVES = 5
"""Systems that are solved to approach the trailing one, from each of two starts."""

_BOUNDS_HEX = (
    "005bb28e000441e2015e9e520023170d030d44cd007c00540530c14d011ed8d10791194d0208ef16"
    "0a05600f032d76980c738c7d047ce29f0ecc7bd705e8c0d7110831840765231f1323216708e8ce50"
    "151c67870a6ce9b216f4a82e0bec8b6e18ad5e440d6448da1a486f580ed1d7fb1bc7eaf91033c471"
    "1d2de4d0118935ca1e7c5f2312d1c4081fb53f6d140d574720da4907153c0fd221ed1b7d165e3493"
    "22ef32fb1774263323e1e9f3187e55bf24c67b5b197d3de2259e05251a715e0026698ad31b5b36be"
    "2729f7e61c3b479027e022311d120d09288ccc021ddfffbd2930a6131ea5938429cc514d1f633713"
    "2a60606a201953bf2aed595820c84d762b73b686217082c92bf3e80a22124d092c6e54a322ae007d"
    "2ce35aa02343ec902d5350b823d45c0d2dbe86ba245f95612e25463824e5dad32e87d31d25676ac3"
    "2ee66c2d25e47fe52f414b7d265d517c2f98a6e326d2138f2fecb04c2742f71d303d961e27b02a51"
    "308b837b2819d8ac30d6a08e28802b34311f12c828e3489f3164fd162943557231a8801c29a0742b"
    "31e9ba5d29fac5623228c8682a5267e43265c5022aa778d632a0c9432afa13c832d9ecbb2b4a52d8"
    "3311458c2b984ec03346e8882be41ef3337ae9482c2dd9ae33ad5a412c75940933de4cda2cbb620d"
    "340dd17e2cff56c3343bf7af2d4184423468ce142d81fbbc349462892dc0cd9134bec22b2dfe0955"
    "34e7f9652e39bddf351013fd2e73f95435371d1d2eacc92f355d1f5c2ee43a4c358224cb2f1a58f2"
    "35a636f72f4f30da35c95ef82f82cd3335eba5722fb538b2360d12a12fe67d91362dae5b3016a598"
    "364d80193045ba25366c8efa3073c42e368ae1ca30a0cc4936a87f0430ccdab036c56cdb30f7f745"
    "36e1b13a3122299936fd51c9314b78ed371853f13173ec373732bce0319b8a26374c918b31c25925"
    "3765d6b131e85f61377e90de320da2c73796c46f3232290a37ae75923255f7a637c5a84a327913e2"
    "37dc6071329b82d137f2a1b932bd495938086faf32de6c2d381dcdbd32feefd93832bf2a331ed8bc"
    "3847471e333e2b0c385b68a2335ceadc386f26a1337b1c17388283eb3398c2863895833633b5e1d2"
    "38a8271c33d27d8138ba722133ee98fb38cc66b2340a378c38de072434255c6238ef55b934400a91"
    "3900549c345a4511391105e834740ec339216ba3348d6a70393187c134a65ac939415c2834bee269"
    "3950eaab34d703d53960350d34eec181396f3d0435061dc9397e0436351d1af8398c8c3d3533bb49"
    "399ad6a4354a00e239a8e4eb355fedda39b6b8833575843839c452d4358ac5f239d1b53b359fb4f2"
    "39dee10735b4531039ebd78035c8a21839f899e235dca3ca3a05296035f059d5"
)
BOUNDS = tuple(
    (int(_BOUNDS_HEX[at : at + 8], 16), int(_BOUNDS_HEX[at + 8 : at + 16], 16))
    for at in range(0, len(_BOUNDS_HEX), 16)
)
"""For 5, 6, ... updates how far below 1 a T, in 2^-32, may lie to be significant at 10^-3, and at
10^-5: 1 - critical(n, level / 3), rounded down (`aggregator.peel`)."""
_UNIT = 1 << 24
_WHOLE = 1 << 32


@dataclass(frozen=True)
class Peeled:
    """Say which updates count, and which of the others are outliers; one entry an update."""

    kept: tuple[bool, ...]
    outliers: tuple[bool, ...]


def peel(matrix: NDArray[np.int64]) -> Peeled:
    """Peel off groups that stand out; `aggregator.peel` derives the test."""
    n = len(matrix)
    rows: list[list[int]] = matrix.tolist()
    if n > MOST:
        raise ContractError("TooManyUpdates", [n, MOST])
    for i in range(n):
        if rows[i][i] < 0:
            raise ContractError("NotAGramMatrix", [i])
    # In 2^-16 steps, or rounding would hide that a short update is the copy of another one.
    norms = [math.isqrt(rows[i][i] << 32) for i in range(n)]
    alive = [i for i in range(n) if norms[i]]
    alike = {
        (i, j): max(-_UNIT, min(_UNIT, _quotient(rows[i][j] * _UNIT << 32, norms[i] * norms[j])))
        for i in alive
        for j in alive
    }
    whole, outliers = len(alive), set[int]()
    # Nobody knows it before all have committed, so that nobody can hide from the start.
    seed = keccak(pack_gram(matrix))
    for _ in range(GROUPS):
        if len(alive) < FEWEST:
            break
        kernel = [[alike[i, j] for j in alive] for i in alive]
        away = _centred(kernel)
        group, slashed = _copies(kernel, away, seed)
        if not slashed:
            other, theirs = _stand_out([rows[i][i] for i in alive], away, seed)
            if group in (set(), other):
                group, slashed = other, theirs
        if not group or 2 * (len(alive) - len(group)) <= whole:
            break
        if slashed:
            outliers |= {alive[k] for k in group}
        alive = [i for k, i in enumerate(alive) if k not in group]
    kept = set(alive) or set(range(n))
    return Peeled(
        tuple(i in kept for i in range(n)), tuple(i in outliers and i not in kept for i in range(n))
    )


def _centred(kernel: list[list[int]]) -> list[list[int]]:
    """Return H K H, times k²."""
    k = len(kernel)
    sums = [sum(row) for row in kernel]
    total = sum(sums)
    return [
        [k * k * kernel[i][j] - k * (sums[i] + sums[j]) + total for j in range(k)] for i in range(k)
    ]


def _distances(away: list[list[int]]) -> list[int]:
    """Return the squared distances from the mean direction, times k², and never less than 1."""
    return [max(1, away[i][i]) for i in range(len(away))]


def _stand_out(squares: list[int], away: list[list[int]], seed: bytes) -> tuple[set[int], bool]:
    """Return the group that stands out most by the three vectors, and whether it is slashed.

    None of them where that is not significant.
    """
    k = len(away)
    most, group = max(
        _split_off([_log2(square) for square in squares], longer=True),
        _split_off(_leading(away, seed), longer=False),
        _split_off([_log2(distance) for distance in _distances(away)], longer=True),
        key=lambda found: found[0],
    )
    aside, slashed = BOUNDS[k - FEWEST]
    return (group if most > _WHOLE - aside else set()), most > _WHOLE - slashed


def _start(seed: bytes, k: int) -> list[int]:
    """Return sums of four uniform bytes, less their mean: nearly normal, so in any direction."""
    drawn = b"".join(keccak(seed + block.to_bytes(32)) for block in range((k + 7) // 8))
    return [sum(drawn[4 * i : 4 * i + 4]) - 510 for i in range(k)]


def _leading(matrix: list[list[int]], seed: bytes) -> list[int]:
    """Approach the leading eigenvector, entries up to 2^32, from a start that the seed decides.

    From an independent start in no particular direction, what is reached without attackers is in no
    particular direction either, converged or not. The matrix is nearly a multiple of the identity
    where honest updates are noise, and then a start along one row would stay there.
    """
    vector = _start(seed, len(matrix))
    for _ in range(STEPS):
        vector = _scaled([sum(map(mul, row, vector)) for row in matrix])
    return vector


def _scaled(vector: list[int]) -> list[int]:
    """Bring the largest entry to 2^32; zeros stay zeros."""
    largest = max(abs(x) for x in vector)
    return [_quotient(x * _WHOLE, largest) for x in vector] if largest else vector


def _copies(kernel: list[list[int]], away: list[list[int]], seed: bytes) -> tuple[set[int], bool]:
    """Return the group that nearly all of the trailing eigenvector is in, and if it is slashed.

    None where too much of it leaks out, or the group is no minority. Where copies make several such
    eigenvectors, two starts find two mixtures of them: what one misses of a copy the other shows.
    """
    k = len(kernel)
    if not COPIES_FROM <= k <= COPIES_TO:
        return set(), False
    nearest = _UNIT - max(kernel[i][j] for i in range(k) for j in range(i))
    # The distances from the mean are, on average, half of what any two are apart, itself included.
    if NEARER * nearest * k * k * (k - 1) > sum(_distances(away)):
        return set(), False
    factors = _factorised(_raised(away))
    if not factors:
        return set(), False
    vectors = (_trailing(factors, start) for start in (seed, keccak(seed)))
    parts = [x * x + y * y for x, y in zip(*vectors, strict=True)]
    whole = sum(parts)
    group = {i for i in range(k) if parts[i] * PART >= whole}
    outside = whole - sum(parts[i] for i in group)
    if 2 * len(group) >= k or outside * LEAK >= whole:
        return set(), False
    return group, outside * LEAK_SLASHED < whole


def _raised(away: list[list[int]]) -> list[list[int]]:
    """Make 1 a leading eigenvector, and let all eigenvalues below 2^-16 count as equal."""
    k = len(away)
    raised = [[x + (k * k << 24) for x in row] for row in away]
    for i in range(k):
        raised[i][i] += k * k << 8
    return raised


def _trailing(factors: list[list[int]], seed: bytes) -> list[int]:
    """Approach the trailing eigenvector, orthogonal to 1, by inverse iteration."""
    start = _start(seed, len(factors))
    vector = [len(start) * x - sum(start) for x in start]
    for _ in range(SOLVES):
        vector = _scaled(_solved(factors, vector))
    return vector


def _factorised(matrix: list[list[int]]) -> list[list[int]]:
    """Return D and the upper triangle of Lᵀ, in 2^-32, with L D Lᵀ the matrix; each row from D on.

    Nothing where an entry of D would not be positive.
    """
    rows = [row[i:] for i, row in enumerate(matrix)]
    if rows[0][0] < 1:
        return []
    for j, (pivot, *right) in enumerate(rows):
        factors = [_quotient(x << 32, pivot) for x in right]
        for at, factor in enumerate(factors):
            row = [
                x - (factor * y >> 32) for x, y in zip(rows[j + 1 + at], right[at:], strict=True)
            ]
            if row[0] < 1:
                return []
            rows[j + 1 + at] = row
        rows[j] = [pivot, *factors]
    return rows


def _solved(rows: list[list[int]], vector: list[int]) -> list[int]:
    """Return 2^40 times the solution of L D Lᵀ x = vector."""
    found = list(vector)
    for j, (_, *factors) in enumerate(rows):
        for i, factor in enumerate(factors, j + 1):
            found[i] -= factor * found[j] >> 32
    found = [_quotient(x << 40, row[0]) for x, row in zip(found, rows, strict=True)]
    for j in reversed(range(len(rows))):
        found[j] -= sum(map(mul, rows[j][1:], found[j + 1 :])) >> 32
    return found


def _split_off(values: list[int], longer: bool) -> tuple[int, set[int]]:
    """Return T of the best split, in 2^-32, and its smaller group, of equal ones the lower.

    With `longer` only a group of larger values counts.
    """
    k = len(values)
    total = sum(values)
    away = [k * value - total for value in values]
    spread = sum(x * x for x in away)
    if spread == 0:
        return 0, set()
    order = sorted(range(k), key=lambda i: (away[i], i))
    best, at, below = -1, 0, 0
    for size in range(1, k):
        below += away[order[size - 1]]
        explained = below * below * k // (size * (k - size))
        if explained > best:
            best, at = explained, size
    upper = at > k - at
    if longer and not upper:
        return 0, set()
    return best * _WHOLE // spread, set(order[at:] if upper else order[:at])


def _log2(value: int) -> int:
    """Return the logarithm of a number from 1 to 2^128, in 2^-12, rounded down."""
    whole = value.bit_length() - 1
    mantissa, found = value << (127 - whole), whole << 12
    for bit in range(11, -1, -1):
        mantissa = mantissa * mantissa >> 127
        if mantissa >> 128:
            mantissa >>= 1
            found |= 1 << bit
    return found


def _quotient(a: int, b: int) -> int:
    """Divide towards zero, as the EVM does; b is positive."""
    return a // b if a >= 0 else -(-a // b)
