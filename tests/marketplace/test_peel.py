"""The peel in integers against the peel in floats, from which its bounds are derived again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import peel as reference
from aggregator.peel import critical
from marketplace.codec import ONE, gram
from marketplace.peel import BOUNDS, FEWEST, MOST, peel
from marketplace.scoring import peel_shapley

POT = 10**20


def round_of(seed, n, hostile=0, kind="turned", d=60):
    """Draw int16 updates that share a direction, the last ones hostile."""
    rng = np.random.default_rng(seed)
    updates = rng.normal(0, 300, (n, d)) + rng.normal(0, 200, d)
    if hostile:
        good = updates[:-hostile]
        updates[-hostile:] = {
            "turned": np.tile(-0.5 * good.mean(axis=0), (hostile, 1)),
            "long": 20 * updates[-hostile:],
            "zero": 0 * updates[-hostile:],
        }[kind]
    return np.clip(updates, -32768, 32767).astype(np.int16)


def test_the_bounds_are_those_that_the_test_derives():
    assert len(BOUNDS) == MOST - FEWEST + 1
    for n, bounds in enumerate(BOUNDS, FEWEST):
        for bound, level in zip(bounds, (1e-3, 1e-5), strict=True):
            assert bound == int((1 - critical(n, level / 3)) * 2**32) or bound == pytest.approx(
                (1 - critical(n, level / 3)) * 2**32, rel=1e-6, abs=1
            )


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 16),
    part=st.floats(0, 0.5),
    kind=st.sampled_from(["turned", "long", "zero"]),
)
def test_the_peel_in_integers_keeps_whom_the_peel_in_floats_keeps(seed, n, part, kind):
    updates = round_of(seed, n, int(n * part), kind)
    matrix = gram(updates)
    kept = reference.peel(matrix.astype(np.float64))
    assert list(peel(matrix).kept) == (kept.tolist() if kept.any() else [True] * n)


def with_copies(rng, n, count, part, d=4000):
    """Draw int16 updates, the last of which are copies with noise of `part` of the others' own.

    Two directions in which all differ take the leading eigenvectors.
    """
    updates = rng.normal(0, 300, (n, d)) + rng.normal(0, 200, d)
    updates += rng.normal(0, 1, (n, 2)) @ rng.normal(0, 250, (2, d))
    updates[-count:] = updates[-1] + rng.normal(0, 300 * part, (count, d))
    return np.clip(np.rint(updates), -32768, 32767).astype(np.int16)


def test_copies_are_those_that_the_peel_in_floats_finds_but_for_a_few_rounds():
    # The floats see all trailing eigenvectors, the integers two mixtures, which may both miss one.
    differ = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        n, count, part = int(rng.integers(6, 33)), int(rng.integers(2, 6)), seed % 2 / 100
        matrix = gram(with_copies(rng, n, count, part))
        differ += list(peel(matrix).kept) != reference.peel(matrix.astype(np.float64)).tolist()
    assert differ <= 4


@pytest.mark.parametrize(("part", "slashed"), [(0, True), (0.1, True), (0.35, False)])
def test_copies_that_hide_in_noise_are_set_aside_and_not_slashed(part, slashed):
    scores = peel_shapley(gram(with_copies(np.random.default_rng(3), 12, 3, part, 60_000)), POT)
    assert [weight == 0 for weight in scores.weights] == [False] * 9 + [True] * 3
    assert scores.outliers == (False,) * 9 + (slashed,) * 3


@pytest.mark.parametrize("n", [5, 33])
def test_so_few_or_so_many_are_not_searched_for_copies(n):
    assert all(peel(gram(with_copies(np.random.default_rng(4), n, 2, 0))).kept)


def impossible(cosine):
    """Return a matrix with unit lengths and these cosines, as no eight updates have it."""
    matrix = np.array([[cosine(min(i, j), max(i, j)) for j in range(8)] for i in range(8)])
    matrix[np.arange(8), np.arange(8)] = 1
    return np.rint(matrix * 10_000).astype(np.int64)


@pytest.mark.parametrize(
    "cosine",
    [
        lambda i, j: {(0, 1): 0.99, (1, 2): 0.99, (0, 2): -0.99}.get((i, j), 0.0),
        lambda i, _: 1.0 if i == 0 else -1.0,
    ],
)
def test_a_matrix_that_no_updates_have_leaves_a_majority(cosine):
    matrix = impossible(cosine)
    assert np.linalg.eigvalsh(matrix)[0] < 0
    assert sum(peel(matrix).kept) > 4


@pytest.mark.parametrize("mean", [0, 100])
def test_rounds_of_honest_noise_lose_hardly_anybody(mean):
    # The centred matrix is then nearly a multiple of the identity, and has no leading eigenvector.
    rng = np.random.default_rng(7)
    lost = sum(
        not all(peel(gram((rng.normal(0, 300, (10, 400)) + mean).astype(np.int16))).kept)
        for _ in range(300)
    )
    assert lost <= 3  # 0.3 expected


def test_a_round_with_eight_of_twenty_turned_is_settled_by_the_rest():
    scores = peel_shapley(gram(round_of(1, 20, 8)), POT)
    assert scores.outliers == (False,) * 12 + (True,) * 8
    assert all(scores.weights[:12])
    assert scores.weights[12:] == scores.shares[12:] == (0,) * 8


def test_no_more_than_four_groups_are_peeled_off():
    # At right angles, of lengths 2^6 but for five ever longer ones: of the logarithms 24, 7, 2,
    # 0.55, 0.15 and zeros the largest explains 20/19 (24 - 1.685)² / (631.33 - 20 · 1.685²) = 0.91.
    lengths = np.full(20, 6.0)
    lengths[:5] += [24, 7, 2, 0.55, 0.15]
    matrix = np.diag((4.0**lengths).astype(np.int64))
    assert peel(matrix).kept == (False,) * 4 + (True,) * 16


def test_a_group_that_stands_out_less_is_set_aside_and_not_slashed():
    # T lies between the bounds at 10^-3 and 10^-5.
    rng = np.random.default_rng(12)
    updates = rng.normal(0, 300, (12, 400))
    updates[-4:] += rng.normal(0, 190, 400)
    scores = peel_shapley(gram(updates.astype(np.int16)), POT)
    assert scores.weights[8:] == (0,) * 4
    assert scores.outliers == (False,) * 12
    assert sum(scores.shares[:8]) == POT


def test_equal_updates_all_stay():
    scores = peel_shapley(gram(np.full((7, 5), 3, dtype=np.int16)), 70)
    assert min(scores.weights) >= ONE // 7 and min(scores.shares) >= 9
    assert not any(scores.outliers)
