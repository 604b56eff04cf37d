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
    "default_rule",
    "multi_krum_shapley",
    "pack_gram",
    "peel",
    "peel_shapley",
    "rank",
    "root_values",
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
    the root's loss, w_i <u_i, u_root>, each counted up to twice the lower median one: trainers of
    the sponsor's own know the root's update and could follow it. The root is set aside if more than
    half of those with weight do not move along with it.
    """
    kept = [i for i, weight in enumerate(scores.weights) if weight]
    along = [i for i in kept if products[i] > 0]
    if 2 * len(along) < len(kept):
        return None
    weights = _split(ONE, [scores.weights[i] for i in along])
    values = root_values([w * products[i] for i, w in zip(along, weights, strict=True)])
    shares = _shares(pot, values)
    all_weights, all_shares = [0] * len(products), [0] * len(products)
    for i, weight, share in zip(along, weights, shares, strict=True):
        all_weights[i], all_shares[i] = weight, share
    return Scores(tuple(all_weights), tuple(all_shares), scores.outliers)


def root_values(values: Sequence[int]) -> list[int]:
    """Return first-order values as they count, up to twice the lower median of those above 0."""
    most = 2 * _lower_median([value for value in values if value > 0])
    return [min(value, most) for value in values]


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

PEEL_FROM, PEEL_TO = 8, 64
"""Updates from which on the peel tells attackers from chance, and what fits a transaction: below 8
its groups have to explain nearly all (docs/lab.md)."""


def default_rule(min_updates: int, capacity: int, rooted: bool = False) -> str:
    """Return the rule of a project whose sponsor names none, from how many updates it asks for.

    A root trainer's update is one of `min_updates` and not of `capacity`; it fills a row and is
    not told from chance.
    """
    peels = min_updates - rooted >= PEEL_FROM and capacity + rooted <= PEEL_TO
    return "PeelShapley" if peels else "MultiKrumShapley"


DEFAULT_PARAMS: Mapping[str, bytes] = {
    "MultiKrumShapley": MultiKrumParams().pack(),
    "PeelShapley": bytes(32),
}
"""Parameters of a rule for a sponsor who has no wish of their own."""
