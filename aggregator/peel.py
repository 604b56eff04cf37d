"""Peel off the updates that form a group of their own, by a test that needs no tuning.

No root data, no guess of the number of attackers, no constant but the level: the probability that
a round without attackers loses anybody.

Null model: the honest updates, brought to length 1, are independent vectors x_i ~ N(m, Σ) with any
mean and any covariance, so that non-iid data are part of it. Let X have these rows. For any
orthogonal Q that keeps the vector of ones, Q X has the law of X. The eigenvectors of the centred
Gram matrix H X Xᵀ H (H = I - 11ᵀ/n) are therefore distributed uniformly on the unit sphere of the
space orthogonal to 1, whatever Σ is: nothing has to be estimated. (A gap between eigenvalues, say,
has no such law: it depends on Σ.)

Test: T(v) = max over subsets S of cos²(v, 1_S - |S|/n), the part of v that the best split into two
groups explains; for sorted entries only the n - 1 splits into a low and a high part matter. For one
S and uniform v, cos² is Beta(1/2, (n - 2)/2) distributed; there are 2^(n-1) - 1 splits. Hence

    P(T > t) <= (2^(n-1) - 1) · P(Beta(1/2, (n - 2)/2) > t),

which equals level at t = `critical(n, level)`. Simulation of uniform v puts the 99.9 % quantile at
0.942 for n = 10 and at 0.872 for n = 20; the bound says 0.949 and 0.871 (the Monte Carlo error is
0.001). The largest T of several vectors is tested at level / their number.

The vectors: the leading eigenvector of the centred matrix of cosines; the logarithms of the norms,
and those of the distances from the mean direction (normal for log-normal ones), where only a group
that is longer or farther counts. A memory of earlier rounds, `remember`, gives two more vectors;
what one round hides shows over several.

What stands out most is peeled off if it is a minority and leaves more than half of all updates;
then the rest is tested again, until nothing is significant or `GROUPS` are gone. So more than half
must be honest. A group of trainers who hold the same data is a group, too.

Copies of one update that differ a little come first. However few they are, they make small
eigenvalues whose eigenvectors lie on the copies alone. The trailing eigenvector is uniform under
the null model like the leading one, so that all of it but a part x lies on some g of n entries with
probability C(n, g) · P(Beta((n-1-g)/2, g/2) < x) at most (of the form's eigenvalues the bound takes
the one between 0 and 1 as 0). For 6 to 32 updates and all minorities together that is less than
3 · 10^-5 for x = 2^-14, and less than 2 · 10^-6 for 2^-17. But clients who cluster by class break
that null: with two-class shards honest updates of the same classes left 10^-4 outside. So x follows
from data, not from a level; copies with noise of a tenth of their length left 10^-6 there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from aggregator.rules import clipping_factors, cosines
from marketplace.peel import COPIES_FROM, COPIES_TO, FEWEST, GROUPS, LEAK, NEARER, PART

__all__ = [
    "DECAY",
    "LEVEL",
    "best_split",
    "copies",
    "critical",
    "norm_bound",
    "peel",
    "peeled_average",
    "remember",
]

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEVEL = 1e-3
"""Probability that a round without attackers loses anybody: once in 1,000 rounds."""

DECAY = 0.9


@lru_cache(maxsize=4096)
def critical(n: int, level: float) -> float:
    """Return the T that n entries exceed with probability `level` at most."""
    splits = 2.0 ** (n - 1) - 1
    # P(Beta(1/2, b) > t) = P(Beta(b, 1/2) < 1 - t); the small tail keeps its precision.
    return float(1 - betaincinv((n - 2) / 2, 0.5, level / splits))


def best_split(values: NDArray[np.float64]) -> tuple[float, Mask, bool]:
    """Return T, the smaller group of the best split, and whether it is the one of larger values.

    Of equal halves the lower one is returned. T of equal values is 0.
    """
    n = len(values)
    order = np.argsort(values, kind="stable")
    away = values - values.mean()
    spread = float(away @ away)
    group = np.zeros(n, dtype=bool)
    if spread <= 1e-24 * n * float(values @ values):
        return 0.0, group, False
    sizes = np.arange(1, n)
    explained = np.cumsum(away[order])[:-1] ** 2 * n / (sizes * (n - sizes))
    at = int(explained.argmax()) + 1
    upper = at > n - at
    group[order[at:] if upper else order[:at]] = True
    return float(explained[at - 1]) / spread, group, upper


def remember(memory: Matrix | None, gram: Matrix) -> Matrix:
    """Return the memory K ← 0.9 K + cosines of this round; None is that before the first."""
    alike = cosines(gram)
    return alike if memory is None else DECAY * memory + alike


def copies(kernel: Matrix) -> Mask:
    """Return which of the updates with cosines f64[n, n] are copies of one another, bool[n].

    Looks at the squares of the trailing eigenvectors: of all of them, each weighted by the tenth
    power of how small its eigenvalue is, since copies make several that are alike.
    """
    n = len(kernel)
    none = np.zeros(n, dtype=bool)
    if not COPIES_FROM <= n <= COPIES_TO:
        return none
    apart = 1.0 - kernel[np.triu_indices(n, 1)]
    if NEARER * apart.min() > apart.mean():
        return none
    values, vectors = np.linalg.eigh(_centred(kernel) + 1.0)
    parts = vectors**2 @ (np.maximum(values, 0.0) + 2.0**-16) ** -10
    group = parts * PART >= parts.sum()
    leaks = parts[~group].sum() * LEAK >= parts.sum()
    return none if leaks or 2 * group.sum() >= n else group


def peel(gram: Matrix, memory: Matrix | None = None, level: float = LEVEL) -> Mask:
    """Return which updates stay, bool[n]; `memory` includes this round.

    Updates of zeros do not stay.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    alive: Mask = norms > 0
    whole = int(alive.sum())
    kernels = [cosines(gram)] + ([] if memory is None else [memory])
    for _ in range(GROUPS):
        if (n := int(alive.sum())) < FEWEST:
            break
        index = np.flatnonzero(alive)
        group = copies(kernels[0][np.ix_(index, index)])
        if not group.any():
            found = [_longer(np.log(norms[index]))]
            for kernel in kernels:
                found += _spread(kernel[np.ix_(index, index)])
            most, group = max(found, key=lambda pair: pair[0])
            if most <= critical(n, level / len(found)):
                break
        if 2 * (n - group.sum()) <= whole:
            break
        alive[index[group]] = False
    return alive


def _centred(kernel: Matrix) -> Matrix:
    middle = kernel.mean(axis=0)
    away: Matrix = kernel - middle[:, None] - middle[None, :] + middle.mean()
    return away


def _longer(values: NDArray[np.float64]) -> tuple[float, Mask]:
    """Return T and group of a split whose smaller group has the larger values, or T = 0."""
    most, group, upper = best_split(values)
    return (most if upper else 0.0), group


def _spread(kernel: Matrix) -> list[tuple[float, Mask]]:
    """Return T and group by the leading eigenvector, and by the distances from the mean."""
    away = _centred(kernel)
    _, vectors = np.linalg.eigh(away)
    most, group, _ = best_split(vectors[:, -1])
    return [(most, group), _longer(np.log(np.maximum(np.diag(away), 1e-12)))]


def peeled_average(
    gram: Matrix, memory: Matrix | None = None, level: float = LEVEL
) -> NDArray[np.float64]:
    """Average what is left after peeling, shortened to `norm_bound`."""
    kept = np.flatnonzero(peel(gram, memory, level))
    weights = np.zeros(len(gram))
    if len(kept):
        left = gram[np.ix_(kept, kept)]
        weights[kept] = clipping_factors(left, norm_bound(np.sqrt(np.diag(left)))) / len(kept)
    return weights


def norm_bound(norms: NDArray[np.float64]) -> float:
    """Return the median norm times the fourth power of the median fold change from it.

    For log-normal norms that is 4 · 0.674 = 2.7 standard deviations above the median, which one
    honest update in 290 exceeds; half of the norms must be distorted to move it at will.
    """
    middle = float(np.median(norms))
    return middle * float(np.median(np.maximum(norms / middle, middle / norms))) ** 4
