"""Copies are found however few they are, and chance seldom looks like them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rules import cosines
from aggregator.twins import copies, single, twinless_average

seeds = st.integers(0, 2**32 - 1)


def honest(rng, n, d=300):
    """Draw updates with a shared mean and an uneven covariance."""
    shape = np.diag(1 / np.arange(1, d + 1) ** 0.5)
    return rng.standard_normal(d) * 0.2 + rng.standard_normal((n, d)) @ shape


def with_copies(rng, n, count, part):
    """Return honest updates, the last of which are copies with noise of `part` of their length."""
    updates = honest(rng, n)
    noise = rng.standard_normal((count, updates.shape[1]))
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    updates[-count:] = updates[-1] + noise * part * np.linalg.norm(updates[-1]) / lengths
    return updates


@pytest.mark.parametrize("n", [6, 12])
def test_chance_singles_somebody_out_no_more_often_than_the_level_says(n):
    rng = np.random.default_rng(n)
    found = [
        copies(cosines(u @ u.T), 0.05, 1.0).any() for u in (honest(rng, n) for _ in range(600))
    ]
    assert np.mean(found) <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


@pytest.mark.parametrize(("n", "count"), [(6, 2), (10, 2), (10, 4), (20, 3), (20, 8)])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.03])
def test_copies_are_taken_off_but_for_one_at_most(n, count, part):
    updates = with_copies(np.random.default_rng(3), n, count, part)
    stays = single(updates @ updates.T)
    assert stays[: n - count].all()
    assert stays[n - count :].sum() <= 1
    weights = twinless_average(updates @ updates.T)
    assert weights.sum() == pytest.approx(weights[stays].sum())


def test_a_crowd_without_copies_stays_whole():
    rng = np.random.default_rng(4)
    assert all(single(u @ u.T).all() for u in (honest(rng, n) for n in range(5, 25)))


@given(seed=seeds, count=st.integers(2, 9))
def test_more_than_half_of_all_stay(seed, count):
    updates = with_copies(np.random.default_rng(seed), 12, count, 0.01)
    assert single(updates @ updates.T).sum() > 6


@pytest.mark.parametrize("n", [0, 1, 4])
def test_so_few_all_stay(n):
    updates = np.ones((n, 3))
    assert single(updates @ updates.T).all()


def test_updates_of_zeros_do_not_stay():
    updates = honest(np.random.default_rng(5), 9)
    updates[2] = 0
    assert single(updates @ updates.T).tolist() == [i != 2 for i in range(9)]
    assert not twinless_average(np.zeros((3, 3))).any()
