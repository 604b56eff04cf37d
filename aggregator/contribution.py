"""Say what each update contributed: in closed form from G, or by asking a validation set.

Closed forms are Shapley values of games whose worth is quadratic or linear in the weighted updates,
so no coalition has to be visited; they add up over rounds. The audits visit coalitions: `value`
maps a set of players, as a bitmap, to its worth, and is asked at most once for each set.

Covered: closed forms, exact Shapley values, leave-one-out, truncated Monte Carlo, GTG-Shapley.
Not here: shares in integers, as the chain pays them (`marketplace.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "agreement",
    "along_root",
    "energy",
    "exact_shapley",
    "gtg_shapley",
    "leave_one_out",
    "truncated_monte_carlo",
]

Vector = NDArray[np.float64]
Value = Callable[[int], float]


def energy(gram: NDArray[np.float64], weights: Vector) -> Vector:
    """Return the Shapley values of v(S) = ‖Σ_{i∈S} w_i u_i‖²: w_i Σ_j w_j G_ij."""
    found: Vector = weights * (gram @ weights)
    return found


def agreement(gram: NDArray[np.float64], weights: Vector) -> Vector:
    """Return the Shapley values of v(S) = Σ_{i≠j∈S} w_i w_j G_ij: w_i Σ_{j≠i} w_j G_ij."""
    found: Vector = energy(gram, weights) - weights**2 * np.diag(gram)
    return found


def along_root(gram: NDArray[np.float64], weights: Vector) -> Vector:
    """Return the Shapley values of v(S) = <Σ_{i∈S} w_i u_i, u_0>, with a root update as row 0.

    To first order that is the decrease of the root's loss (Wang et al. 2024, arXiv:2406.11011,
    section 4.1), as far as the root's update goes down its gradient. `weights` has n entries and
    `gram` n + 1 rows.
    """
    found: Vector = weights * gram[0, 1:]
    return found


def exact_shapley(players: int, value: Value) -> Vector:
    """Return the Shapley values by their definition, from the worth of all 2^n sets."""
    worth = [value(members) for members in range(1 << players)]
    orders, values = factorial(players), np.zeros(players)
    for members in range((1 << players) - 1):
        size = members.bit_count()
        part = factorial(size) * factorial(players - size - 1) / orders
        for i in range(players):
            if not members >> i & 1:
                values[i] += part * (worth[members | 1 << i] - worth[members])
    return values


def leave_one_out(players: int, value: Value) -> Vector:
    """Return by how much the worth of all falls when one leaves."""
    everybody = (1 << players) - 1
    whole = value(everybody)
    return np.array([whole - value(everybody ^ 1 << i) for i in range(players)])


def truncated_monte_carlo(
    players: int,
    value: Value,
    rng: np.random.Generator,
    orders: int = 100,
    tolerance: float = 0.01,
) -> Vector:
    """Estimate the Shapley values from random orders of joining.

    Who joins when the worth is within `tolerance` of that of all, relative to it, is taken to add
    nothing (Ghorbani and Zou 2019, arXiv:1904.02868, algorithm 1).
    """
    ask = lru_cache(maxsize=None)(value)
    values = np.zeros(players)
    for _ in range(orders):
        values += _join(rng.permutation(players), ask, tolerance)
    return values / orders


def gtg_shapley(
    players: int,
    value: Value,
    rng: np.random.Generator,
    tolerance: float = 0.01,
    converged: float = 0.05,
    most: int = 50,
) -> Vector:
    """Estimate the Shapley values from orders in which each player comes first in turn.

    A round whose worth is within `tolerance` of nobody's is skipped, orders are truncated as above,
    and sampling ends when the values changed by less than `converged` of their size in the last
    pass (Liu et al. 2022, arXiv:2109.02053, algorithm 1).
    """
    ask = lru_cache(maxsize=None)(value)
    values = np.zeros(players)
    everybody = (1 << players) - 1
    if abs(ask(everybody) - ask(0)) <= tolerance * max(abs(ask(everybody)), abs(ask(0))):
        return values
    total, count = np.zeros(players), 0
    for _ in range(most):
        for first in range(players):
            others = rng.permutation([i for i in range(players) if i != first])
            total += _join(np.array([first, *others], dtype=np.int64), ask, tolerance)
            count += 1
        before, values = values, total / count
        if np.abs(values - before).mean() <= converged * np.abs(values).mean():
            break
    return values


def _join(order: NDArray[np.int64], value: Value, tolerance: float) -> Vector:
    """Return what each player adds when they join in this order."""
    added = np.zeros(len(order))
    whole, members = value((1 << len(order)) - 1), 0
    before = value(0)
    span = abs(whole - before)
    for i in order.tolist():
        if abs(whole - before) <= tolerance * span:
            break
        members |= 1 << i
        after = value(members)
        added[i] = after - before
        before = after
    return added
