"""Compute the ranks that the argument in docs/gram-proof.md (section 5) rests on.

The mask's coefficients m enter v, s1 and F(τ) by quadratic forms. Restricted to masks that leave
A mod q alone, every combination of these forms must have a rank of at least 3, nearly all of 6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.marketplace.proof.reference import R, rest, scalar, shifted

HALF = pow(2, -1, R)


def rank(matrix: list[list[int]]) -> int:
    rows, found = [list(row) for row in matrix], 0
    for column in range(len(matrix)):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column] % R), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, R)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * inverse
            rows[i] = [(x - factor * y) % R for x, y in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


def combination(s: int, tau: int, alpha: int, beta: int, delta: int) -> Callable[[list[int]], int]:
    """Return m ↦ α·v + β·s1 + δ·S(τ), quadratic in the mask m."""

    def value(m: list[int]) -> int:
        shift = shifted(m)
        at_tau = sum(x * pow(tau, j, R) for j, x in enumerate(shift))
        return (alpha * sum(x * x for x in m) + beta * rest(shift, s)[1] + delta * at_tau) % R

    return value


def restricted(s: int, form: Callable[[list[int]], int]) -> list[list[int]]:
    """Return the 6 × 6 matrix of a quadratic form on the multiples of X² - sX + 1."""
    basis = []
    for i in range(6):
        vector = [0] * 8
        vector[i : i + 3] = [1, -s % R, 1]
        assert rest(vector, s) == (0, 0)
        basis.append(vector)
    return [
        [
            (form([a + b for a, b in zip(x, y, strict=True)]) - form(x) - form(y)) * HALF % R
            for y in basis
        ]
        for x in basis
    ]


@pytest.fixture(scope="module", params=range(4))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def draws(rng: np.random.Generator, count: int) -> list[int]:
    return [scalar(rng.bytes(32)) for _ in range(count)]


def test_forms_are_toeplitz_with_the_symbol_that_the_text_names(rng: np.random.Generator) -> None:
    s, tau, alpha, beta, delta = draws(rng, 5)
    powers = [rest([0] * j + [1], s)[1] for j in range(8)]  # e_j
    t = {0: alpha}
    for k in range(1, 8):
        t[k] = (beta * powers[k - 1] + delta * pow(tau, k - 1, R)) * HALF
    # (Y - s)² = X² - 2sX + (s² + 2) - 2s/X + 1/X²
    taps = {-2: 1, -1: -2 * s, 0: s * s + 2, 1: -2 * s, 2: 1}
    f = [sum(tap * t[abs(k - j)] for j, tap in taps.items()) % R for k in range(6)]
    found = restricted(s, combination(s, tau, alpha, beta, delta))
    assert found == [[f[abs(i - k)] for k in range(6)] for i in range(6)]


def test_mask_norm_alone_has_full_rank(rng: np.random.Generator) -> None:
    s, tau = draws(rng, 2)
    assert rank(restricted(s, combination(s, tau, 1, 0, 0))) == 6


def test_combinations_without_the_opening_have_rank_four(rng: np.random.Generator) -> None:
    s, tau, *pairs = draws(rng, 20)
    for alpha, beta in zip(pairs[::2], pairs[1::2], strict=True):
        assert rank(restricted(s, combination(s, tau, alpha, beta, 0))) >= 4
        assert rank(restricted(s, combination(s, tau, alpha, -2 * alpha, 0))) >= 5
    assert rank(restricted(s, combination(s, tau, 0, 1, 0))) >= 4


def test_combinations_with_the_opening_have_rank_three(rng: np.random.Generator) -> None:
    s, tau, *triples = draws(rng, 23)
    for i in range(0, 21, 3):
        alpha, beta, delta = triples[i : i + 3]
        assert rank(restricted(s, combination(s, tau, alpha, beta, delta))) >= 3
        # the case in which h_3 vanishes
        alpha = (delta * pow(2 * tau, -1, R) - beta * HALF) % R
        assert rank(restricted(s, combination(s, tau, alpha, beta, delta))) >= 4
    assert rank(restricted(s, combination(s, tau, 0, 0, 1))) >= 3
