"""Find updates that are copies of one another, by a test of the trailing eigenvector.

Research; no contract does it. Under the null model of `aggregator.peel` every eigenvector v of the
centred Gram matrix is uniform on the unit sphere orthogonal to 1, the last one like the first.
Copies of one update that differ a little make small eigenvalues whose eigenvectors live on the
copies alone, however few they are, where the leading one shows groups of some size only.

Test: the leak of v = min over |S| = g of Σ_{i∉S} v_i². For one S and uniform v it exceeds a
variable of law Beta((n - 1 - g)/2, g/2): orthogonal to 1 the form has the eigenvalue 1 for
n - g - 1 directions, 0 for g - 1, and g/n for one, which the bound takes as 0. There are C(n, g)
sets S.

The null fails where clients cluster by class: with two-class shards and n = 20, honest updates of
the same classes leak 0.002, far beyond chance. Copies leak 10^-4 and less, so that besides the
level the leak has to be below `LEAK`, the one constant here that follows from data.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from aggregator.peel import FEWEST, GROUPS, peeled_average
from aggregator.rules import cosines

__all__ = ["LEAK", "LEVEL", "copies", "single", "twinless_average"]

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEVEL = 1e-5

LEAK = 1e-3


def copies(kernel: Matrix, level: float = LEVEL, leak: float = LEAK) -> Mask:
    """Return the minority that the trailing eigenvector of cosines f64[n, n] singles out.

    None of them where it is not significant.
    """
    n = len(kernel)
    none = np.zeros(n, dtype=bool)
    if n < FEWEST:
        return none
    middle = kernel.mean(axis=0)
    away = kernel - middle[:, None] - middle[None, :] + middle.mean()
    # The direction of ones has eigenvalue 0, too; this takes it to the other end.
    _, vectors = np.linalg.eigh(away + n)
    squares = vectors[:, 0] ** 2
    order = np.argsort(-squares, kind="stable")
    inside = np.cumsum(squares[order])
    sizes = range(2, (n - 1) // 2 + 1)
    found = []
    for size in sizes:
        outside = max(0.0, 1 - float(inside[size - 1]))
        chance = comb(n, size) * float(betainc((n - 1 - size) / 2, size / 2, outside))
        found.append((chance, outside, size))
    chance, outside, size = min(found)
    if chance * len(sizes) > level or outside > leak:
        return none
    none[order[:size]] = True
    return none


def single(gram: Matrix, level: float = LEVEL) -> Mask:
    """Return who stays, bool[n], when groups of copies are taken off while more than half stay."""
    alive: Mask = np.diag(gram) > 0
    whole = int(alive.sum())
    kernel = cosines(gram)
    for _ in range(GROUPS):
        index = np.flatnonzero(alive)
        group = copies(kernel[np.ix_(index, index)], level)
        if not group.any() or 2 * (len(index) - group.sum()) <= whole:
            break
        alive[index[group]] = False
    return alive


def twinless_average(gram: Matrix) -> NDArray[np.float64]:
    """Return the weights of `aggregator.peel.peeled_average` after copies are taken off."""
    kept = np.flatnonzero(single(gram))
    weights = np.zeros(len(gram))
    if len(kept):
        weights[kept] = peeled_average(gram[np.ix_(kept, kept)])
    return weights
