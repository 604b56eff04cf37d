"""Weigh a round's updates by the rules of the literature, from their Gram matrix alone.

G is f64[n, n] with G_ij = <u_i, u_j>; a rule returns weights f64[n], and the aggregate is
Σ w_i u_i. Whatever d is, a rule costs what n rows cost. Rules that need one more vector (a root
trainer's update, the last aggregate) take it as row 0 of G. `f` is how many updates may be hostile.

Covered: what can be proved from G. Not provable, and here only for comparison: `coordinate_median`
and `trimmed_mean`, which take the updates themselves.
Not here: the rules that settle (`marketplace.scoring`) and the peel (`aggregator.peel`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "centered_clipping",
    "clipping_factors",
    "coordinate_median",
    "cosines",
    "fed_avg",
    "fl_trust",
    "fools_gold",
    "geometric_median",
    "krum",
    "krum_scores",
    "mix_nearest",
    "mixed",
    "multi_krum",
    "norm_clipping",
    "spectral_filter",
    "squared_distances",
    "trimmed_mean",
]

Matrix = NDArray[np.float64]
Weights = NDArray[np.float64]


def squared_distances(gram: Matrix) -> Matrix:
    """Return ‖u_i - u_j‖², never below 0."""
    squares = np.diag(gram)
    apart = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(apart, 0.0)
    return apart


def cosines(gram: Matrix) -> Matrix:
    """Return the cosines between updates; those of a zero update are 0, with itself 1."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    found = gram * inverse[:, None] * inverse[None, :]
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)


def fed_avg(gram: Matrix) -> Weights:
    """Weigh all updates alike (McMahan et al. 2017, with clients of equal size)."""
    return np.full(len(gram), 1 / len(gram))


def clipping_factors(gram: Matrix, bound: float | None = None) -> Weights:
    """Return what each update is multiplied by to be no longer than `bound`, the median norm."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    limit = float(np.median(norms)) if bound is None else bound
    return np.divide(limit, norms, out=np.ones_like(norms), where=norms > limit)


def norm_clipping(gram: Matrix, bound: float | None = None) -> Weights:
    """Average updates shortened to `bound` (Sun et al. 2019, arXiv:1911.07963, section 4)."""
    return clipping_factors(gram, bound) / len(gram)


def krum_scores(gram: Matrix, f: int) -> NDArray[np.float64]:
    """Return each update's summed squared distance to its n - f - 2 nearest others."""
    apart = squared_distances(gram)
    np.fill_diagonal(apart, np.inf)
    nearest = max(1, len(gram) - f - 2)
    found: NDArray[np.float64] = np.sort(apart, axis=1)[:, :nearest].sum(axis=1)
    return found


def krum(gram: Matrix, f: int) -> Weights:
    """Choose the update with the least Krum score (Blanchard et al. 2017, section 4)."""
    return multi_krum(gram, f, 1)


def multi_krum(gram: Matrix, f: int, keep: int | None = None) -> Weights:
    """Average the `keep` (n - f) updates with the least Krum scores; the first wins a tie."""
    chosen = np.argsort(krum_scores(gram, f), kind="stable")
    chosen = chosen[: len(gram) - f if keep is None else keep]
    weights = np.zeros(len(gram))
    weights[chosen] = 1 / len(chosen)
    return weights


def mix_nearest(gram: Matrix, f: int) -> Matrix:
    """Return the matrix f64[n, n] that replaces each update by the mean of its n - f nearest.

    An update is its own nearest (Allouah et al. 2023, arXiv:2302.01772, algorithm 2). The mixed
    updates' Gram matrix is N G Nᵀ, and weights w of mixed updates are weights Nᵀ w of updates.
    """
    n = len(gram)
    nearest = np.argsort(squared_distances(gram) - np.eye(n), axis=1, kind="stable")[:, : n - f]
    mixing = np.zeros((n, n))
    np.put_along_axis(mixing, nearest, 1 / (n - f), axis=1)
    return mixing


def mixed(rule: Callable[[Matrix], Weights], gram: Matrix, f: int) -> Weights:
    """Apply a rule after nearest-neighbour mixing."""
    mixing = mix_nearest(gram, f)
    return mixing.T @ rule(mixing @ gram @ mixing.T)


def geometric_median(gram: Matrix, steps: int = 50, smoothing: float = 1e-6) -> Weights:
    """Approach the geometric median by smoothed Weiszfeld weights.

    Pillutla et al. 2022 (arXiv:1912.13445), algorithm 2; `smoothing` is a part of the median norm.
    """
    floor = smoothing * float(np.sqrt(np.median(np.abs(np.diag(gram)))))
    weights = fed_avg(gram)
    for _ in range(steps):
        distances = np.sqrt(_from_centre(gram, weights))
        inverse = 1 / np.maximum(distances, floor if floor > 0 else 1.0)
        weights = inverse / inverse.sum()
    return weights


def _from_centre(gram: Matrix, centre: Weights) -> NDArray[np.float64]:
    """Return squared distances of the rows to Σ c_j row_j."""
    along = gram @ centre
    return np.maximum(np.diag(gram) - 2 * along + centre @ along, 0.0)


def centered_clipping(gram: Matrix, radius: float | None = None, steps: int = 3) -> Weights:
    """Clip updates around the last aggregate, row 0 (Karimireddy et al. 2021, arXiv:2012.10333).

    v ← v + 1/n Σ (u_i - v) min(1, radius / ‖u_i - v‖), from v = row 0. The radius is the median
    distance to v unless given. Returns weights of all n + 1 rows.
    """
    centre = np.zeros(len(gram))
    centre[0] = 1.0
    n = len(gram) - 1
    for _ in range(steps):
        distances = np.sqrt(_from_centre(gram, centre)[1:])
        limit = float(np.median(distances)) if radius is None else radius
        factors = np.divide(limit, distances, out=np.ones(n), where=distances > limit)
        centre = centre * (1 - factors.mean())
        centre[1:] += factors / n
    return centre


def fools_gold(gram: Matrix, confidence: float = 1.0) -> Weights:
    """Weigh down updates that resemble each other (Fung et al. 2020, algorithm 1).

    `gram` is that of the sums of each trainer's updates so far. Weights sum to 1, unless all
    updates are alike, where they are equal.
    """
    n = len(gram)
    if n < 2:
        return fed_avg(gram)
    alike = cosines(gram)
    np.fill_diagonal(alike, -np.inf)
    most = alike.max(axis=1)
    # Pardoning: the one whose own largest similarity is smaller is the honest one of a pair.
    pardon = (most[None, :] > most[:, None]) & (most[None, :] > 0)
    ratio = np.divide(
        most[:, None], most[None, :], out=np.ones((n, n)), where=pardon & (most[None, :] != 0)
    )
    pardoned = np.where(pardon, alike * ratio, alike)
    np.fill_diagonal(pardoned, -np.inf)
    rates = np.clip(1 - pardoned.max(axis=1), 0.0, 1.0)
    if rates.max() == 0:
        return fed_avg(gram)
    rates = np.clip(rates / rates.max(), 0.0, 0.99)
    with np.errstate(divide="ignore"):
        weights = np.clip(confidence * (np.log(rates / (1 - rates)) + 0.5), 0.0, 1.0)
    total = weights.sum()
    return weights / total if total > 0 else fed_avg(gram)


def fl_trust(gram: Matrix) -> Weights:
    """Trust updates as far as they agree with a root update, row 0 (Cao et al. 2021, section 4).

    Returns weights of the n + 1 rows; the root's own is 0 unless nobody agrees with it.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    trust = np.maximum(cosines(gram)[0, 1:], 0.0)
    weights = np.zeros(len(gram))
    if trust.sum() == 0:
        weights[0] = 1.0
        return weights
    trust = trust / trust.sum()
    lengths = norms[1:]
    weights[1:] = np.divide(trust * norms[0], lengths, out=np.zeros_like(trust), where=lengths > 0)
    return weights


def spectral_filter(gram: Matrix, f: int) -> Weights:
    """Drop the f updates that stand out most along the direction of largest spread.

    DnC (Shejwalkar and Houmansadr 2021, algorithm 2) on all coordinates, once.
    """
    n = len(gram)
    middle = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(middle @ gram @ middle)
    scores = vectors[:, -1] ** 2 * max(values[-1], 0.0)
    chosen = np.argsort(scores, kind="stable")[: n - f]
    weights = np.zeros(n)
    weights[chosen] = 1 / len(chosen)
    return weights


def coordinate_median(updates: Matrix) -> NDArray[np.float64]:
    """Return the median of each coordinate, f64[d] of f64[n, d] (not provable from G)."""
    found: NDArray[np.float64] = np.median(updates, axis=0)
    return found


def trimmed_mean(updates: Matrix, f: int) -> NDArray[np.float64]:
    """Return each coordinate's mean without its f least and f largest (not provable from G)."""
    n = len(updates)
    if 2 * f >= n:
        raise ValueError(f"trimming {f} at both ends leaves none of {n} updates")
    found: NDArray[np.float64] = np.sort(updates, axis=0)[f : n - f].mean(axis=0)
    return found
