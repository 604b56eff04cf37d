"""Rules in Gram space agree with the vectors' own naive arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregator import rules


def updates_of(n, d):
    """Draw n updates of d coordinates without the tiny numbers that rounding swallows."""
    return arrays(np.float64, (n, d), elements=st.integers(-50, 50).map(float))


seeds = st.integers(0, 2**32 - 1)


def draw(seed, n=9, d=30):
    """Return updates that share a direction, no two alike."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) + rng.standard_normal(d)


@given(updates_of(5, 4))
def test_distances_and_cosines_are_those_of_the_vectors(updates):
    gram = updates @ updates.T
    naive = [[float(((a - b) ** 2).sum()) for b in updates] for a in updates]
    np.testing.assert_allclose(rules.squared_distances(gram), naive)
    alike = rules.cosines(gram)
    for i, a in enumerate(updates):
        for j, b in enumerate(updates):
            size = np.linalg.norm(a) * np.linalg.norm(b)
            expected = 1.0 if i == j else (a @ b / size if size else 0.0)
            assert alike[i, j] == pytest.approx(expected, abs=1e-12)


def naive_multi_krum(updates, f, keep):
    """Score by a sorted list of distances to the others, as the paper says it."""
    n = len(updates)
    scores = []
    for i in range(n):
        others = [float(((updates[i] - updates[j]) ** 2).sum()) for j in range(n) if j != i]
        scores.append(sum(sorted(others)[: n - f - 2]))
    best = sorted(range(n), key=lambda i: scores[i])[:keep]
    return updates[best].mean(axis=0), scores


@given(seeds, st.integers(0, 3))
def test_krum_and_multi_krum_choose_as_the_paper_does(seed, f):
    updates = draw(seed)
    gram = updates @ updates.T
    expected, scores = naive_multi_krum(updates, f, 1)
    np.testing.assert_allclose(rules.krum_scores(gram, f), scores)
    np.testing.assert_allclose(rules.krum(gram, f) @ updates, expected)
    expected, _ = naive_multi_krum(updates, f, len(updates) - f)
    np.testing.assert_allclose(rules.multi_krum(gram, f) @ updates, expected)


@given(seeds, st.integers(0, 4))
def test_mixing_averages_each_update_with_its_nearest(seed, f):
    updates = draw(seed)
    n = len(updates)
    mixed = rules.mix_nearest(updates @ updates.T, f) @ updates
    for i in range(n):
        order = sorted(range(n), key=lambda j: float(((updates[i] - updates[j]) ** 2).sum()))
        assert order[0] == i
        np.testing.assert_allclose(mixed[i], updates[order[: n - f]].mean(axis=0))


@given(seeds)
def test_a_rule_after_mixing_is_the_rule_on_the_mixed_updates(seed):
    updates = draw(seed)
    mixed = rules.mix_nearest(updates @ updates.T, 2) @ updates
    weights = rules.mixed(lambda gram: rules.multi_krum(gram, 2), updates @ updates.T, 2)
    expected, _ = naive_multi_krum(mixed, 2, len(updates) - 2)
    np.testing.assert_allclose(weights @ updates, expected)


@given(seeds)
def test_the_geometric_median_leaves_no_direction_in_which_distances_shrink(seed):
    updates = draw(seed)
    weights = rules.geometric_median(updates @ updates.T, steps=500)
    centre = weights @ updates
    assert weights.sum() == pytest.approx(1)
    # The optimum's condition: unit vectors to the updates sum to zero.
    towards = updates - centre
    pull = (towards / np.linalg.norm(towards, axis=1, keepdims=True)).sum(axis=0)
    assert np.linalg.norm(pull) < 1e-3


def test_the_geometric_median_on_a_line_is_the_median():
    points = np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
    weights = rules.geometric_median(points @ points.T, steps=2000)
    assert (weights @ points)[0] == pytest.approx(2.0, abs=1e-3)


@given(seeds, st.floats(0.1, 10.0))
def test_centered_clipping_moves_as_its_vectors_would(seed, radius):
    updates = draw(seed)
    before = np.random.default_rng(seed + 1).standard_normal(updates.shape[1])
    rows = np.vstack([before, updates])
    centre = before.copy()
    for _ in range(3):
        away = updates - centre
        lengths = np.linalg.norm(away, axis=1)
        centre = centre + (away * np.minimum(1, radius / lengths)[:, None]).mean(axis=0)
    weights = rules.centered_clipping(rows @ rows.T, radius)
    np.testing.assert_allclose(weights @ rows, centre)


def test_norms_are_clipped_to_the_median_norm():
    updates = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 20.0]])  # norms 5, 1, 20
    factors = rules.clipping_factors(updates @ updates.T)
    np.testing.assert_allclose(factors, [1, 1, 0.25])
    np.testing.assert_allclose(
        rules.norm_clipping(updates @ updates.T, 2.5), [1 / 6, 1 / 3, 1 / 24]
    )


def test_fools_gold_silences_the_two_that_are_alike():
    sums = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 2.0]])
    weights = rules.fools_gold(sums @ sums.T)
    np.testing.assert_allclose(weights, [0.5, 0.5, 0, 0])


def test_fools_gold_pardons_by_the_ratio_of_largest_similarities():
    # Cosines 0.8 between 0 and 1, 0.6 between 1 and 2, 0 between 0 and 2. Largest: .8, .8, .6.
    # For row 2 the entry .6 is pardoned by .6/.8 to .45; rates .2, .2, .55, over the largest
    # 4/11, 4/11, 1 (cut to .99); logits ln(4/7) + .5 = -.0596 (cut to 0) twice, and above 1.
    gram = np.array([[1, 0.8, 0], [0.8, 1, 0.6], [0, 0.6, 1]])
    np.testing.assert_allclose(rules.fools_gold(gram), [0, 0, 1])


def test_fl_trust_scales_to_the_root_and_ignores_who_disagrees():
    root = np.array([2.0, 0.0])
    updates = np.array([[1.0, 0.0], [3.0, 3.0], [-5.0, 0.0]])
    rows = np.vstack([root, updates])
    weights = rules.fl_trust(rows @ rows.T)
    trust = np.array([1.0, 0.5**0.5, 0.0])
    scaled = 2 * updates / np.linalg.norm(updates, axis=1, keepdims=True)
    np.testing.assert_allclose(weights @ rows, trust @ scaled / trust.sum())


def test_fl_trust_moves_with_the_root_where_nobody_agrees():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(rules.fl_trust(rows @ rows.T), [1, 0, 0])


@given(seeds)
def test_the_spectral_filter_drops_the_largest_projections_on_the_first_component(seed):
    updates = draw(seed)
    away = updates - updates.mean(axis=0)
    direction = np.linalg.svd(away)[2][0]
    order = np.argsort((away @ direction) ** 2)
    weights = rules.spectral_filter(updates @ updates.T, 3)
    assert set(np.flatnonzero(weights)) == set(order[:6])
    np.testing.assert_allclose(weights[weights > 0], 1 / 6)


WEIGHTS_THAT_SUM_TO_ONE = {
    "fed_avg": rules.fed_avg,
    "krum": lambda gram: rules.krum(gram, 3),
    "multi_krum": lambda gram: rules.multi_krum(gram, 3),
    "geometric_median": rules.geometric_median,
    "centered_clipping": rules.centered_clipping,
    "fools_gold": rules.fools_gold,
    "spectral_filter": lambda gram: rules.spectral_filter(gram, 3),
    "mixed": lambda gram: rules.mixed(rules.geometric_median, gram, 3),
}


@pytest.mark.parametrize("name", WEIGHTS_THAT_SUM_TO_ONE)
@given(seed=seeds)
def test_weights_sum_to_one_and_follow_the_updates_when_those_change_places(name, seed):
    rule = WEIGHTS_THAT_SUM_TO_ONE[name]
    updates = draw(seed)
    weights = rule(updates @ updates.T)
    assert weights.sum() == pytest.approx(1)
    order = np.random.default_rng(seed).permutation(len(updates))
    if name == "centered_clipping":  # row 0 is the last aggregate and keeps its place
        order = np.concatenate([[0], 1 + np.argsort(order[order > 0])])
    moved = rule(updates[order] @ updates[order].T)
    np.testing.assert_allclose(moved, weights[order], atol=1e-9)


@pytest.mark.parametrize("name", [*WEIGHTS_THAT_SUM_TO_ONE, "norm_clipping"])
def test_a_round_of_zero_updates_gives_finite_weights(name):
    rule = WEIGHTS_THAT_SUM_TO_ONE.get(name, rules.norm_clipping)
    assert np.isfinite(rule(np.zeros((6, 6)))).all()


def test_coordinates_are_trimmed_and_halved_by_hand():
    updates = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, -7.0], [4.0, 6.0], [90.0, 5.0]])
    np.testing.assert_allclose(rules.coordinate_median(updates), [3, 6])
    np.testing.assert_allclose(rules.trimmed_mean(updates, 1), [3, 19 / 3])
    with pytest.raises(ValueError, match="leaves none of 5"):
        rules.trimmed_mean(updates, 3)
