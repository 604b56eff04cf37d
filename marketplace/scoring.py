"""Score a round from its Gram matrix: who is an outlier, who weighs what, who is paid what.

Mirrors the contracts in `contracts/rules/` bit for bit, in integers: what is computed here is what
the chain decides. Matrices are int64[n, n]; on the wire they are upper triangles, row by row,
big-endian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol

import numpy as np
from eth_utils.crypto import keccak
from numpy.typing import NDArray

from marketplace.codec import ONE
from marketplace.errors import CodecError, ContractError

__all__ = [
    "RULES",
    "BOUNDS",
    "DEFAULT_PARAMS",
    "FEWEST",
    "MOST",
    "Details",
    "MultiKrumParams",
    "Peeled",
    "Rule",
    "Scores",
    "by_root",
    "multi_krum_shapley",
    "pack_gram",
    "peel",
    "peel_shapley",
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
    """Hold a round's scores: weights sum to 2^16, shares to the pot, outliers have neither.

    The root's row, where there is one, has neither either; there an outlier is a root set aside.
    """

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


# ------------------------------------------------------------------------------------ the peel

FEWEST = 5
MOST = 128
"""Updates that `PeelShapley` tests, and that it takes."""

GROUPS = 4
"""Groups that it peels off at most, or attackers could make a round too dear to settle."""

STEPS = 10
"""Products of matrix and vector by which the leading eigenvector is approached."""

_BOUNDS_HEX = (
    "005bb28e0000eacf015e9e52000b18dd030d44cd00315fb40530c14d00852e830791194d010dee8d"
    "0a05600f01c9b1c80c738c7d02b12eed0ecc7bd703bb2bc91108318404de861c1323216706132839"
    "151c67870752595716f4a82e0896ba9a18ad5e4409dc20431a486f580b1f5ffa1bc7eaf90c5e1ff6"
    "1d2de4d00d96abcb1e7c5f230ec7d03e1fb53f6d0ff0bdee20da49071110f1f421ed1b7d12282380"
    "22ef32fb1336358323e1e9f3143b2b8b24c67b5b1537212b259e0525162a435a26698ad31714cb5c"
    "2729f7e617f6fadd27e0223118d118fb288ccc0219a370022930a6131a6e4bbb29cc514d1b31f825"
    "2a60606a1beec0842aed59581ca4eeb22b73b6861d54caa02bf3e80a1dfe9a002c6e54a31ea2a00d"
    "2ce35aa01f411d652d5350b81fda4ffb2dbe86ba206e73112e25463820fdbf3d2e87d31d21886a76"
    "2ee66c2d220ea8222f414b7d2290a9312f98a6e3230e9c2f2fecb04c2388ad5e303d961e23ff06d2"
    "308b837b2471d08630d6a08e24e1307a311f12c8254d4aca3164fd1625b641c831a8801c261c3610"
    "31e9ba5d267f46a43228c86826df91003265c502273d312d32a0c943279841d732d9ecbb27f0dc60"
    "3311458c284718ef3346e888289b0e87337ae94828ecd31033ad5a41293c7b6c33de4cda298a1b82"
    "340dd17e29d5c64b343bf7af2a1f8de43468ce142a678392349462892aadb7d534bec22b2af23a6c"
    "34e7f9652b351a65351013fd2b76662135371d1d2bb62b63355d1f5c2bf47751358224cb2c315684"
    "35a636f72c6cd50735c95ef82ca6fe6535eba5722cdfddad360d12a12d177d76362dae5b2d4de7eb"
    "364d80192d8326c8366c8efa2db74367368ae1ca2dea46c036a87f042e1c397036c56cdb2e4d23bd"
    "36e1b13a2e7d0d9a36fd51c92eabfeab371853f12ed9fe473732bce02f071380374c918b2f334521"
    "3765d6b12f5e99b5377e90de2f8917883796c46f2fb2c4a937ae75922fdba6f237c5a84a3003c403"
    "37dc6071302b214937f2a1b93051c40038086faf3077b134381dcdbd309cedc33832bf2a30c17e60"
    "3847471e30e56795385b68a23108adc3386f26a1312b5526388283eb314d61d238958336316ed7bd"
    "38a8271c318fbab838ba722131b00e7438cc66b231cfd68338de072431ef165b38ef55b9320dd152"
    "3900549c322c0aa7391105e83249c57a39216ba3326704d5393187c13283cba839415c2832a01ccc"
    "3950eaab32bbfb043960350d32d768fd396f3d0432f2694e397e0436330cfe7c398c8c3d33272af7"
    "399ad6a43340f11e39a8e4eb335a533b39b6b8833373538a39c452d4338bf43539d1b53b33a43755"
    "39dee10733bc1ef639ebd78033d3ad1339f899e233eae3993a0529603401c467"
)
BOUNDS = tuple(
    (int(_BOUNDS_HEX[at : at + 8], 16), int(_BOUNDS_HEX[at + 8 : at + 16], 16))
    for at in range(0, len(_BOUNDS_HEX), 16)
)
"""For 5, 6, ... updates how far below 1 a T, in 2^-32, may lie to be significant at 10^-3, and at
10^-6: 1 - critical(n, level / 3), rounded down (`aggregator.peel`)."""
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
    norms = [math.isqrt(rows[i][i]) for i in range(n)]
    alive = [i for i in range(n) if norms[i]]
    alike = {
        (i, j): max(-_UNIT, min(_UNIT, _quotient(rows[i][j] * _UNIT, norms[i] * norms[j])))
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
        most, group = _stand_out([rows[i][i] for i in alive], kernel, seed)
        aside, slashed = BOUNDS[len(alive) - FEWEST]
        if most <= _WHOLE - aside or 2 * (len(alive) - len(group)) <= whole:
            break
        if most > _WHOLE - slashed:
            outliers |= {alive[k] for k in group}
        alive = [i for k, i in enumerate(alive) if k not in group]
    kept = set(alive) or set(range(n))
    return Peeled(
        tuple(i in kept for i in range(n)), tuple(i in outliers and i not in kept for i in range(n))
    )


def _stand_out(squares: list[int], kernel: list[list[int]], seed: bytes) -> tuple[int, set[int]]:
    """Return the largest T, in 2^-32, of the three vectors, and the group that it splits off."""
    k = len(kernel)
    sums = [sum(row) for row in kernel]
    total = sum(sums)
    away = [
        [k * k * kernel[i][j] - k * (sums[i] + sums[j]) + total for j in range(k)] for i in range(k)
    ]
    apart = [max(1, away[i][i]) for i in range(k)]
    return max(
        _split_off([_log2(square) for square in squares], longer=True),
        _split_off(_leading(away, seed), longer=False),
        _split_off([_log2(square) for square in apart], longer=True),
        key=lambda found: found[0],
    )


def _leading(matrix: list[list[int]], seed: bytes) -> list[int]:
    """Approach the leading eigenvector, entries up to 2^32, from a start that the seed decides.

    From an independent start in no particular direction, what is reached without attackers is in no
    particular direction either, converged or not. The matrix is nearly a multiple of the identity
    where honest updates are noise, and then a start along one row would stay there.
    """
    k = len(matrix)
    bytes_ = b"".join(keccak(seed + block.to_bytes(32)) for block in range((k + 7) // 8))
    # Sums of four uniform bytes, less their mean: nearly normal.
    vector = [sum(bytes_[4 * i : 4 * i + 4]) - 510 for i in range(k)]
    for _ in range(STEPS):
        product = [sum(map(mul, row, vector)) for row in matrix]
        largest = max(abs(x) for x in product)
        if largest == 0:
            return product
        vector = [_quotient(x * _WHOLE, largest) for x in product]
    return vector


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


def peel_shapley(matrix: NDArray[np.int64], pot: int) -> Scores:
    """Score a round as `PeelShapley.sol` does.

    What is kept is shortened to the lower median norm times the fourth power of the lower median
    fold change from it. Shares are the Shapley values of v(S) = Σ_{i≠j∈S} w_i w_j G_ij over the
    kept updates, φ_i = w_i Σ_{j≠i} w_j G_ij, negative ones counted as 0.
    """
    n = len(matrix)
    found = peel(matrix)
    kept = [i for i in range(n) if found.kept[i]]
    rows: list[list[int]] = matrix.tolist()
    weights = _split(ONE, _shortened([math.isqrt(rows[i][i]) for i in kept]))
    values = []
    for i, weight in zip(kept, weights, strict=True):
        along = sum(w * rows[i][j] for j, w in zip(kept, weights, strict=True) if j != i)
        values.append(max(0, weight * along))
    shares = _shares(pot, values)
    all_weights, all_shares = [0] * n, [0] * n
    for i, weight, share in zip(kept, weights, shares, strict=True):
        all_weights[i], all_shares[i] = weight, share
    return Scores(tuple(all_weights), tuple(all_shares), found.outliers)


def _shortened(norms: list[int]) -> list[int]:
    """Return the factors of 2^16 that bring norms to the bound."""
    middle = _lower_median(norms)
    if middle == 0:
        return [ONE] * len(norms)
    fold = _lower_median([max(norm * ONE // middle, middle * ONE // norm) for norm in norms])
    bound = middle * fold**4 >> 64
    return [ONE if norm <= bound else bound * ONE // norm for norm in norms]


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


# ------------------------------------------------------------------------------------ the root


class Rule(Protocol):
    """Score a round by a rule's parameters, matrix and pot.

    `root` is the row of the root trainer's update, None where there is none.
    """

    def __call__(
        self, params: bytes, matrix: NDArray[np.int64], pot: int, root: int | None = None
    ) -> Scores:
        """Return the scores; ContractError where the contract refuses."""


def by_root(scores: Scores, products: Sequence[int], pot: int) -> Scores | None:
    """Split weight and pot as `RootedRule.sol` does; None where the root is set aside.

    `products` are those of the root's update with each scored one, `scores` what they are without
    the root. Who is kept, but does not move along with the root, loses weight and share, as by the
    ReLU of FLTrust (Cao et al. 2021); shares of the others are the first-order Shapley values of
    the root's loss, w_i <u_i, u_root>. The root is set aside unless more than half of those with
    weight move along with it.
    """
    kept = [i for i, weight in enumerate(scores.weights) if weight]
    along = [i for i in kept if products[i] > 0]
    if 2 * len(along) <= len(kept):
        return None
    weights = _split(ONE, [scores.weights[i] for i in along])
    shares = _shares(pot, [w * products[i] for i, w in zip(along, weights, strict=True)])
    all_weights, all_shares = [0] * len(products), [0] * len(products)
    for i, weight, share in zip(along, weights, shares, strict=True):
        all_weights[i], all_shares[i] = weight, share
    return Scores(tuple(all_weights), tuple(all_shares), scores.outliers)


def _rooted(score: Callable[[bytes, NDArray[np.int64], int], Scores]) -> Rule:
    """Return the rule that decides as `score` does without the root's row, and pays by that row."""

    def rooted(
        params: bytes, matrix: NDArray[np.int64], pot: int, root: int | None = None
    ) -> Scores:
        if root is None:
            return score(params, matrix, pot)
        others = [i for i in range(len(matrix)) if i != root]
        plain = score(params, matrix[np.ix_(others, others)], pot)
        paid = by_root(plain, matrix[root, others].tolist(), pot)
        found = paid or plain
        return Scores(
            (*found.weights[:root], 0, *found.weights[root:]),
            (*found.shares[:root], 0, *found.shares[root:]),
            (*found.outliers[:root], paid is None, *found.outliers[root:]),
        )

    return rooted


# --------------------------------------------------------------------------------------- rules


def _score_multi_krum(params: bytes, matrix: NDArray[np.int64], pot: int) -> Scores:
    return multi_krum_shapley(matrix, MultiKrumParams.unpack(params), pot)


def _score_peel(params: bytes, matrix: NDArray[np.int64], pot: int) -> Scores:
    if params != bytes(32):
        raise ContractError("BadRuleParams", [params])
    return peel_shapley(matrix, pot)


RULES: Mapping[str, Rule] = {
    "MultiKrumShapley": _rooted(_score_multi_krum),
    "PeelShapley": _rooted(_score_peel),
}
"""Rules that settle, by the name of their contract."""

DEFAULT_PARAMS: Mapping[str, bytes] = {
    "MultiKrumShapley": MultiKrumParams().pack(),
    "PeelShapley": bytes(32),
}
"""Parameters of a rule for a sponsor who has no wish of their own."""
