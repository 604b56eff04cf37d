"""byzfl 0.0.11 aggregates as our rules do, where it is right.

`make setup` installs it without its dependencies: its package imports torchvision and seaborn, its
submodules do not. Its centered clipping is left out: it raises.
"""

import numpy as np
import pytest

from aggregator import rules
from deploy.lab.compare import import_byzfl
from marketplace.errors import InputError
from trainer import attacks


@pytest.fixture
def byzfl(require_missing):
    try:
        import_byzfl("aggregators.aggregators")
    except InputError as error:
        require_missing("byzfl", str(error))
    return import_byzfl


def updates(seed, n=11, d=40):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) + rng.standard_normal(d)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("f", [1, 3])
def test_rules_agree(byzfl, seed, f):
    theirs, rows = byzfl("aggregators.aggregators"), updates(seed)
    gram = rows @ rows.T
    pairs = {
        "Average": (theirs.Average()(rows), rules.fed_avg(gram) @ rows),
        # Theirs sums n - f - 1 distances; Blanchard et al. 2017, section 4, sum n - f - 2.
        "MultiKrum": (
            theirs.MultiKrum(f)(rows),
            rules.multi_krum(gram, f - 1, len(rows) - f) @ rows,
        ),
        "Krum": (theirs.Krum(f)(rows), rules.krum(gram, f - 1) @ rows),
        "Median": (theirs.Median()(rows), rules.coordinate_median(rows)),
        "TrMean": (theirs.TrMean(f)(rows), rules.trimmed_mean(rows, f)),
    }
    for name, (expected, found) in pairs.items():
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_the_geometric_median_agrees(byzfl, seed):
    rows = updates(seed)
    expected = byzfl("aggregators.aggregators").GeometricMedian(nu=1e-6, T=300)(rows)
    found = rules.geometric_median(rows @ rows.T, steps=300) @ rows
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("f", [1, 4])
def test_nearest_neighbour_mixing_agrees(byzfl, f):
    rows = updates(7)
    expected = byzfl("aggregators.preaggregators").NNM(f)(rows)
    np.testing.assert_allclose(rules.mix_nearest(rows @ rows.T, f) @ rows, expected, atol=1e-6)


def test_attacks_agree(byzfl):
    theirs, honest = byzfl("attacks.attacks"), updates(9)
    np.testing.assert_allclose(
        attacks.inner_product(honest, 0.5), theirs.InnerProductManipulation(tau=0.5)(honest)
    )
    # Theirs divides the variance by n - 1, and moves upwards.
    moved = theirs.ALittleIsEnough(tau=1.5)(honest) - honest.mean(axis=0)
    ours = attacks.little_is_enough(honest, 4, 1.5) - honest.mean(axis=0)
    ratio = moved / -ours
    assert np.allclose(ratio, ratio[0])
    assert ratio[0] == pytest.approx(1, abs=0.06)
