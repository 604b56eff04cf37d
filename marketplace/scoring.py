"""Score a round from its Gram matrix: who is an outlier, who weighs what, who is paid what.

Mirrors the contracts in `contracts/rules/` bit for bit, in integers: what is computed here is what
the chain decides. Matrices are int64[n, n]; on the wire they are upper triangles, row by row,
big-endian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketplace.codec import ONE
from marketplace.errors import CodecError, ContractError

__all__ = [
    "RULES",
    "Details",
    "MultiKrumParams",
    "Scores",
    "multi_krum_shapley",
    "pack_gram",
    "rank",
    "unpack_gram",
]

_FULL_BPS = 10_000


def pack_gram(matrix: NDArray[np.int64]) -> bytes:
    """Write the upper triangle of int64[n, n], n(n+1)/2 words of 8 bytes."""
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns].astype(">i8").tobytes()


def unpack_gram(data: bytes, n: int) -> NDArray[np.int64]:
    """Read the symmetric matrix int64[n, n] of a triangle; CodecError for another size."""
    if len(data) != 4 * n * (n + 1):
        raise CodecError(f"a matrix of {len(data)} bytes; {n} updates take {4 * n * (n + 1)}")
    matrix = np.zeros((n, n), dtype=np.int64)
    rows, columns = np.triu_indices(n)
    matrix[rows, columns] = matrix[columns, rows] = np.frombuffer(data, dtype=">i8")
    return matrix


@dataclass(frozen=True)
class MultiKrumParams:
    """Tune `MultiKrumShapley`.

    At most `max_outliers_bps` of 10,000 updates are outliers, and only those whose Krum score is
    above the median score times `tolerance_bps` / 10,000.
    """

    max_outliers_bps: int = 4000
    tolerance_bps: int = 15000

    def pack(self) -> bytes:
        """Return the parameters as the contract takes them, 32 bytes."""
        return self.max_outliers_bps.to_bytes(2) + self.tolerance_bps.to_bytes(2) + bytes(28)

    @classmethod
    def unpack(cls, data: bytes) -> MultiKrumParams:
        """Read the parameters; ContractError for what the contract refuses."""
        found = cls(int.from_bytes(data[:2]), int.from_bytes(data[2:4]))
        if (
            found.pack() != data
            or found.max_outliers_bps > _FULL_BPS // 2
            or found.tolerance_bps < _FULL_BPS
        ):
            raise ContractError("BadRuleParams", [data])
        return found


@dataclass(frozen=True)
class Scores:
    """Hold a round's scores: weights sum to 2^16, shares to the pot, outliers have neither."""

    weights: tuple[int, ...]
    shares: tuple[int, ...]
    outliers: tuple[bool, ...]


@dataclass(frozen=True)
class Details:
    """Hold what leads to a round's scores, one entry an update.

    `norms` in steps; `factors` of 2^16 by which updates are shortened to the median norm;
    `distances` are the Krum scores, sums of squared distances to the nearest other updates, in
    units of 2^-32 steps²; `limit` what a score may be (times 10,000) before it can be an outlier;
    `candidates` how many may be outliers.
    """

    norms: tuple[int, ...]
    factors: tuple[int, ...]
    distances: tuple[int, ...]
    limit: int
    candidates: int
    outliers: tuple[bool, ...]


def rank(matrix: NDArray[np.int64], params: MultiKrumParams) -> Details:
    """Find the outliers: multi-Krum (Blanchard et al. 2017) on norms clipped to the median."""
    n = len(matrix)
    rows: list[list[int]] = matrix.tolist()
    for i in range(n):
        if rows[i][i] < 0:
            raise ContractError("NotAGramMatrix", [i])
    norms = [math.isqrt(rows[i][i]) for i in range(n)]
    median = _lower_median(norms)
    factors = [ONE if norm <= median else median * ONE // norm for norm in norms]
    clipped = [[factors[i] * factors[j] * rows[i][j] for j in range(n)] for i in range(n)]
    candidates = 0 if n < 3 else min(n * params.max_outliers_bps // _FULL_BPS, (n - 3) // 2)
    nearest = max(1, n - candidates - 2)
    scores = []
    for i in range(n):
        apart = sorted(
            max(0, clipped[i][i] + clipped[j][j] - 2 * clipped[i][j]) for j in range(n) if j != i
        )
        scores.append(sum(apart[:nearest]))
    limit = _lower_median(scores) * params.tolerance_bps
    last = sorted(range(n), key=lambda i: (scores[i], i))[n - candidates :]
    outliers = tuple(i in last and scores[i] * _FULL_BPS > limit for i in range(n))
    return Details(tuple(norms), tuple(factors), tuple(scores), limit, candidates, outliers)


def multi_krum_shapley(matrix: NDArray[np.int64], params: MultiKrumParams, pot: int) -> Scores:
    """Score a round as `MultiKrumShapley.sol` does.

    Shares are the Shapley values of v(S) = ‖Σ_{i∈S} w_i u_i‖² over the accepted updates,
    φ_i = w_i Σ_j w_j G_ij, negative ones counted as 0.
    """
    n = len(matrix)
    details = rank(matrix, params)
    accepted = [i for i in range(n) if not details.outliers[i]]
    weights = _split(ONE, [details.factors[i] for i in accepted])
    rows: list[list[int]] = matrix.tolist()
    values = []
    for i, weight in zip(accepted, weights, strict=True):
        along = sum(w * rows[i][j] for j, w in zip(accepted, weights, strict=True))
        values.append(max(0, weight * along))
    shares = _shares(pot, values)
    all_weights, all_shares = [0] * n, [0] * n
    for i, weight, share in zip(accepted, weights, shares, strict=True):
        all_weights[i], all_shares[i] = weight, share
    return Scores(tuple(all_weights), tuple(all_shares), details.outliers)


def _lower_median(values: Sequence[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]


def _split(total: int, parts: Sequence[int]) -> list[int]:
    """Divide in proportion, in whole units; what is left goes to the first ones, one each."""
    # Not zero: half the updates are no longer than the median, and fewer than half are outliers.
    whole = sum(parts)
    found = [total * part // whole for part in parts]
    for i in range(total - sum(found)):
        found[i] += 1
    return found


def _shares(pot: int, values: Sequence[int]) -> list[int]:
    """Divide the pot in proportion; what is left goes to the largest value, the first on ties."""
    whole = sum(values)
    if whole == 0:
        found = [pot // len(values)] * len(values)
    else:
        found = [pot * value // whole for value in values]
    found[values.index(max(values))] += pot - sum(found)
    return found


def _score_multi_krum(params: bytes, matrix: NDArray[np.int64], pot: int) -> Scores:
    return multi_krum_shapley(matrix, MultiKrumParams.unpack(params), pot)


RULES: Mapping[str, Callable[[bytes, NDArray[np.int64], int], Scores]] = {
    "MultiKrumShapley": _score_multi_krum,
}
"""Rules that settle, by the name of their contract: (parameters, matrix, pot) to scores."""
