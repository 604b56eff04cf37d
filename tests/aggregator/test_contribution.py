"""Closed forms and audits agree with the definition of the Shapley value."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contribution import (
    agreement,
    along_root,
    energy,
    exact_shapley,
    gtg_shapley,
    leave_one_out,
    truncated_monte_carlo,
)

seeds = st.integers(0, 2**32 - 1)


def members_of(bitmap, n):
    return [i for i in range(n) if bitmap >> i & 1]


def by_all_orders(n, value):
    """Average what each player adds over all orders of joining."""
    values = np.zeros(n)
    orders = list(permutations(range(n)))
    for order in orders:
        members = 0
        for i in order:
            values[i] += value(members | 1 << i) - value(members)
            members |= 1 << i
    return values / len(orders)


@settings(max_examples=30)
@given(seed=seeds, n=st.integers(1, 5))
def test_exact_values_are_the_mean_over_all_orders(seed, n):
    worth = np.random.default_rng(seed).standard_normal(1 << n)
    found = exact_shapley(n, worth.__getitem__)
    np.testing.assert_allclose(found, by_all_orders(n, worth.__getitem__), atol=1e-12)


@settings(max_examples=30)
@given(seed=seeds, n=st.integers(1, 6))
def test_closed_forms_are_the_shapley_values_of_their_games(seed, n):
    rng = np.random.default_rng(seed)
    rows, weights = rng.standard_normal((n + 1, 7)), rng.random(n)
    root, updates = rows[0], rows[1:]
    gram = updates @ updates.T

    def total(bitmap):
        return sum((weights[i] * updates[i] for i in members_of(bitmap, n)), np.zeros(7))

    def length(bitmap):
        return float(total(bitmap) @ total(bitmap))

    def mutual(bitmap):
        own = sum(weights[i] ** 2 * updates[i] @ updates[i] for i in members_of(bitmap, n))
        return length(bitmap) - own

    np.testing.assert_allclose(energy(gram, weights), exact_shapley(n, length), atol=1e-9)
    np.testing.assert_allclose(agreement(gram, weights), exact_shapley(n, mutual), atol=1e-9)
    np.testing.assert_allclose(
        along_root(rows @ rows.T, weights),
        exact_shapley(n, lambda bitmap: float(total(bitmap) @ root)),
        atol=1e-9,
    )


def test_noise_is_paid_for_its_length_but_not_for_agreement():
    updates = np.array([[4.0, 0, 0], [4.0, 0, 0], [0, 0, 5.0]])
    weights = np.ones(3)
    np.testing.assert_allclose(energy(updates @ updates.T, weights), [32, 32, 25])
    np.testing.assert_allclose(agreement(updates @ updates.T, weights), [16, 16, 0])


GLOVES = [0, 0, 0, 1, 0, 1, 0, 1]
"""Player 0 has a left glove, 1 and 2 right ones; a pair is worth 1: values 2/3, 1/6, 1/6."""


def test_the_glove_game_is_valued_as_in_the_textbook():
    np.testing.assert_allclose(exact_shapley(3, GLOVES.__getitem__), [2 / 3, 1 / 6, 1 / 6])
    np.testing.assert_allclose(leave_one_out(3, GLOVES.__getitem__), [1, 0, 0])


def test_sampled_values_approach_the_exact_ones_and_never_ask_twice():
    for sample in (truncated_monte_carlo, gtg_shapley):
        asked = []

        def value(bitmap, asked=asked):
            asked.append(bitmap)
            return GLOVES[bitmap]

        options = {"orders": 3000} if sample is truncated_monte_carlo else {"converged": 1e-4}
        found = sample(3, value, np.random.default_rng(0), **options)
        np.testing.assert_allclose(found, [2 / 3, 1 / 6, 1 / 6], atol=0.05)
        assert len(asked) == len(set(asked))


def test_truncation_spares_the_sets_that_add_nothing():
    asked = set()

    def value(bitmap):
        asked.add(bitmap)
        return float(bitmap != 0)

    found = truncated_monte_carlo(10, value, np.random.default_rng(1), orders=500)
    assert asked == {0, (1 << 10) - 1, *(1 << i for i in range(10))}
    assert found.sum() == pytest.approx(1)


def test_a_round_that_changes_nothing_is_skipped():
    assert not gtg_shapley(4, lambda _: 5.0, np.random.default_rng(0)).any()
