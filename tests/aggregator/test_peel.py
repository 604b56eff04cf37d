"""The peel keeps its level, finds groups, and leaves a majority."""

from itertools import combinations
from math import comb, cos, pi

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from aggregator.peel import (
    best_split,
    copies,
    critical,
    norm_bound,
    peel,
    peeled_average,
    remember,
)
from marketplace.peel import COPIES_FROM, COPIES_TO, LEAK, LEAK_SLASHED

seeds = st.integers(0, 2**32 - 1)


def honest(rng, n, d=300, scale=0.4):
    """Draw updates with a shared mean, an uneven covariance and different lengths."""
    shape = np.diag(1 / np.arange(1, d + 1) ** 0.5)
    rows = rng.standard_normal(d) * 0.2 + rng.standard_normal((n, d)) @ shape
    return rows * np.exp(scale / 4 * rng.standard_normal((n, 1)))


def stays(updates, **options):
    return peel(updates @ updates.T, **options)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
def test_the_best_split_is_the_best_of_all_subsets(values):
    v = np.array(values, dtype=float) - np.mean(values)
    n = len(v)
    explained = [
        (v[list(chosen)].sum() ** 2) * n / (size * (n - size))
        for size in range(1, n)
        for chosen in combinations(range(n), size)
    ]
    found, group, upper = best_split(np.array(values, dtype=float))
    if not v.any():
        assert found == 0
        return
    assert found == pytest.approx(max(explained) / (v @ v))
    assert 1 <= group.sum() <= n / 2
    assert upper == (v[group].mean() > v[~group].mean())


@pytest.mark.parametrize("level", [0.5, 0.1, 0.001])
def test_the_critical_value_of_three_entries_is_the_angle_on_a_circle(level):
    # Uniform v on a circle, and three lines at 60 degrees: the angle to the nearest one is uniform
    # up to 30 degrees, and the three events are disjoint, so the bound is exact.
    assert critical(3, level) == pytest.approx(cos(level * pi / 6) ** 2)


@pytest.mark.parametrize("n", [6, 10, 20])
def test_uniform_vectors_exceed_the_critical_value_as_often_as_the_level_says(n):
    rng = np.random.default_rng(n)
    values = [best_split(rng.standard_normal(n))[0] for _ in range(4000)]
    often = np.mean(np.array(values) > critical(n, 0.05))
    assert 0.02 < often <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_honest_rounds_lose_somebody_no_more_often_than_the_level_says():
    rng = np.random.default_rng(1)
    lost = [not stays(honest(rng, 12), level=0.05).all() for _ in range(400)]
    assert np.mean(lost) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


ATTACKS = {
    "inner products turned": lambda mean, own, _: np.tile(-0.5 * mean, (len(own), 1)),
    "signs flipped": lambda _, own, __: -3 * own,
    "a little is enough": lambda mean, own, deviation: np.tile(
        mean - 2.5 * deviation, (len(own), 1)
    ),
    "far too long": lambda _, own, __: 20 * own,
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("hostile", [4, 8])
def test_a_hostile_group_is_peeled_off_and_nobody_else(name, hostile):
    rng = np.random.default_rng(hostile)
    updates = honest(rng, 20, scale=0.2) + 0.3 * rng.standard_normal(300)
    good, own = updates[:-hostile], updates[-hostile:]
    updates[-hostile:] = ATTACKS[name](good.mean(axis=0), own, good.std(axis=0))
    assert stays(updates).tolist() == [True] * (20 - hostile) + [False] * hostile


@given(seed=seeds, hostile=st.integers(0, 6))
def test_more_than_half_of_all_stay(seed, hostile):
    rng = np.random.default_rng(seed)
    updates = honest(rng, 12)
    updates[:hostile] = updates[0]
    assert stays(updates, level=0.9).sum() > 6


@given(seed=seeds)
def test_who_stays_does_not_depend_on_places_or_on_a_common_scale(seed):
    rng = np.random.default_rng(seed)
    updates = honest(rng, 12)
    updates[:4] = updates[4:].mean(axis=0) * -0.3 + 0.01 * rng.standard_normal((4, 300))
    order = rng.permutation(12)
    before = stays(updates)
    assert stays(7.5 * updates[order]).tolist() == before[order].tolist()
    assert not before[:4].any()


def test_updates_of_zeros_have_no_weight_and_disturb_nobody():
    updates = honest(np.random.default_rng(3), 12)
    updates[5:9] = 0
    assert stays(updates).tolist() == [True] * 5 + [False] * 4 + [True] * 3
    assert not peel(np.zeros((6, 6))).any()
    assert not peeled_average(np.zeros((6, 6))).any()


def with_copies(rng, n, count, part):
    """Return honest updates, the last of which are copies with noise of `part` of their length."""
    updates = honest(rng, n, d=3000, scale=0.2)
    noise = rng.standard_normal((count, updates.shape[1]))
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    updates[-count:] = updates[-1] + noise * part * np.linalg.norm(updates[-1]) / lengths
    return updates


@pytest.mark.parametrize(("n", "count"), [(6, 2), (10, 2), (10, 4), (20, 2), (20, 8), (32, 3)])
@pytest.mark.parametrize("part", [0.0, 0.003, 0.02])
def test_copies_are_found_however_few_they_are(n, count, part):
    updates = with_copies(np.random.default_rng(3), n, count, part)
    assert stays(updates).tolist() == [True] * (n - count) + [False] * count


def test_pairs_of_copies_are_found_one_after_the_other():
    updates = with_copies(np.random.default_rng(6), 16, 2, 0.01)
    updates[:2] = updates[0] + 1e-4 * np.random.default_rng(7).standard_normal((2, 3000))
    assert stays(updates).tolist() == [False] * 2 + [True] * 12 + [False] * 2


def test_chance_looks_like_copies_no_more_often_than_the_docstring_says():
    def chance(n, part):
        sizes = range(2, (n - 1) // 2 + 1)
        return sum(comb(n, g) * betainc((n - 1 - g) / 2, g / 2, part) for g in sizes)

    sizes = range(COPIES_FROM, COPIES_TO + 1)
    assert max(chance(n, 1 / LEAK) for n in sizes) < 3e-5
    assert max(chance(n, 1 / LEAK_SLASHED) for n in sizes) < 2e-6
    # The bound itself, where chance can be seen: of uniform vectors those that lie on some two or
    # three of seven entries but for a hundredth.
    v = np.random.default_rng(8).standard_normal((20_000, 7))
    v -= v.mean(axis=1, keepdims=True)
    squares = np.sort(v**2, axis=1)
    outside = squares[:, :4].sum(axis=1) / squares.sum(axis=1)
    assert 0 < np.mean(outside < 0.01) <= chance(7, 0.01)


def test_a_crowd_without_copies_has_none():
    rng = np.random.default_rng(4)
    crowds = (honest(rng, n) for n in range(5, 34))
    assert not any(copies(updates @ updates.T / 300).any() for updates in crowds)


def test_no_more_than_four_groups_are_peeled_off():
    # At right angles, each of the first five ever longer: of the logarithms the largest stands out.
    lengths = 2.0 ** (6 + np.array([24, 7, 2, 0.55, 0.15, *[0.0] * 15]))
    assert peel(np.diag(lengths**2)).tolist() == [False] * 4 + [True] * 16


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_so_few_updates_all_stay(n):
    updates = honest(np.random.default_rng(4), n)
    updates[-1] *= -1000
    assert stays(updates).all()


def test_memory_finds_what_hides_in_the_noise_of_one_round():
    rng = np.random.default_rng(5)
    mean, sign = rng.standard_normal(300), np.where(np.arange(14) < 9, 1, -1)[:, None]
    memory, alone = None, []
    for _ in range(12):
        updates = sign * mean * 0.17 + rng.standard_normal((14, 300))
        memory = remember(memory, updates @ updates.T)
        alone.append(stays(updates).all())
    assert all(alone)
    assert stays(updates, memory=memory).tolist() == [True] * 9 + [False] * 5


def test_memory_fades_by_a_tenth_a_round():
    first, second = np.array([[4.0, 0], [0, 1]]), np.array([[1.0, 1], [1, 4]])
    memory = remember(remember(None, first), second)
    np.testing.assert_allclose(memory, [[1.9, 0.5], [0.5, 1.9]])  # cosine of the second: 1/2


def test_norms_are_bounded_by_the_fourth_power_of_the_median_fold_change():
    assert norm_bound(np.array([1.0, 2.0, 4.0, 2.0, 8.0])) == 2 * 2.0**4  # folds 2, 1, 2, 1, 4
    assert norm_bound(np.array([3.0, 3.0, 3.0])) == 3


def test_what_is_left_is_averaged_and_overlong_updates_are_shortened():
    updates = np.eye(4) * [1.0, 1.0, 1.0, 10.0]
    np.testing.assert_allclose(peeled_average(updates @ updates.T), [0.25, 0.25, 0.25, 0.025])
