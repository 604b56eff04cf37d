"""Score a round from its Gram matrix: who is an outlier, who weighs what, who is paid what.

Mirrors the contracts in `contracts/rules/` bit for bit, in integers: what is computed here is what
the chain decides. Matrices are int64[n, n]. Who is peeled off stands in `marketplace.peel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from marketplace.codec import ONE
from marketplace.errors import ContractError
from marketplace.peel import peel

__all__ = [
    "RULES",
    "DEFAULT_PARAMS",
    "Details",
    "MultiKrumParams",
    "Rule",
    "Scores",
    "by_root",
    "counted",
    "default_rule",
    "multi_krum_shapley",
    "peel_shapley",
    "rank",
]

_FULL_BPS = 10_000


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


def peel_shapley(matrix: NDArray[np.int64], pot: int) -> Scores:
    """Score a round as `PeelShapley.sol` does.

    What is kept is shortened to the lower median norm times the fourth power of the lower median
    fold change from it. Shares follow the Shapley values of v(S) = Σ_{i≠j∈S} w_i w_j G_ij over the
    kept updates, φ_i = w_i Σ_{j≠i} w_j G_ij, as far as they are `counted`.
    """
    n = len(matrix)
    found = peel(matrix)
    kept = [i for i in range(n) if found.kept[i]]
    rows: list[list[int]] = matrix.tolist()
    weights = _split(ONE, _shortened([math.isqrt(rows[i][i] << 32) for i in kept]))
    values = []
    for i, weight in zip(kept, weights, strict=True):
        along = sum(w * rows[i][j] for j, w in zip(kept, weights, strict=True) if j != i)
        values.append(weight * along)
    shares = _shares(pot, counted(values))
    all_weights, all_shares = [0] * n, [0] * n
    for i, weight, share in zip(kept, weights, shares, strict=True):
        all_weights[i], all_shares[i] = weight, share
    return Scores(tuple(all_weights), tuple(all_shares), found.outliers)


def counted(values: Sequence[int]) -> list[int]:
    """Return what contributions count for pay: those below 0 nothing, others their power 3/2.

    Up to twice the lower median of those above 0: a free-rider who replays how the model moved
    agrees with the others better than any of them does, and whoever knows a root's update could
    follow it. The power, since half of the data make more than half of a contribution, so that
    dividing them among names would pay otherwise. If more than half are not above 0, how far the
    others are tells chance: then all from the lower median on count alike.
    """
    above = [value for value in values if value > 0]
    if 2 * len(above) < len(values):
        middle = _lower_median(values)
        return [int(value >= middle) for value in values]
    most = 2 * _lower_median(above)
    capped = [min(max(0, value), most) for value in values]
    return [value * math.isqrt(value) for value in capped]


def _shortened(norms: list[int]) -> list[int]:
    """Return the factors of 2^16 that bring norms, in 2^-16 steps, to the bound."""
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
    ReLU of FLTrust (Cao et al. 2021); shares of the others follow the first-order Shapley values of
    the root's loss, w_i <u_i, u_root>, as far as they are `counted`. The root is set aside if more
    than half of those with weight do not move along with it.
    """
    kept = [i for i, weight in enumerate(scores.weights) if weight]
    along = [i for i in kept if products[i] > 0]
    if 2 * len(along) < len(kept):
        return None
    weights = _split(ONE, [scores.weights[i] for i in along])
    values = [w * products[i] for i, w in zip(along, weights, strict=True)]
    shares = _shares(pot, counted(values))
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
