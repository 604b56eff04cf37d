"""The lab's comparison of pay with exact Shapley values."""

from dataclasses import replace

import numpy as np
import pytest

from deploy.lab.contribution import (
    SETTINGS,
    cosine_distance,
    measure,
    rank_correlation,
    split_gain,
)
from deploy.lab.experiment import Cell
from marketplace.errors import InputError

CELL = Cell(clients=4, samples=60, model="dense:16", rounds=2, epochs=3)


def rows_of(setting):
    return {row["way"]: row for row in measure(CELL, setting)}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_way_is_compared_and_the_exact_one_agrees_with_itself(setting):
    rows = rows_of(setting)
    assert rows["exact"]["spearman"] == pytest.approx(1)
    assert rows["exact"]["distance"] == pytest.approx(0)
    assert rows["exact"]["relative"] == 1
    for row in rows.values():
        assert len(row["paid"]) == 4
        # Nothing, where a way finds that all of them harm.
        assert sum(row["paid"]) == pytest.approx(1) or max(row["paid"]) == 0


def test_the_closed_form_ranks_clients_with_ever_noisier_features_as_the_exact_value_does():
    rows = rows_of("noisy-feature")
    assert rows["agreement"]["spearman"] > 0.7
    assert rows["agreement"]["relative"] < 0.5


def test_who_flips_the_sign_is_paid_nothing():
    assert rows_of("adversarial")["agreement"]["paid"][3] == 0


def test_values_are_told_after_as_many_rounds_as_wished():
    rows = list(measure(CELL, "noisy-label", (1,)))
    assert [row["rounds"] for row in rows] == sorted(row["rounds"] for row in rows)
    early = {row["way"]: row for row in rows if row["rounds"] == 1}
    late = {row["way"]: row for row in rows if row["rounds"] == 2}
    alone = {row["way"]: row for row in measure(replace(CELL, rounds=1), "noisy-label")}
    assert early.keys() == late.keys()
    assert early["agreement"]["paid"] == alone["agreement"]["paid"] != late["agreement"]["paid"]


def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match="no setting 'noise'; there are adversarial"):
        next(measure(CELL, "noise"))


def test_distances_are_one_minus_the_cosine():
    assert cosine_distance(np.array([1.0, 0]), np.array([3.0, 3])) == pytest.approx(1 - 0.5**0.5)
    assert cosine_distance(np.zeros(2), np.ones(2)) == 1


def test_what_is_paid_by_the_root_ranks_as_the_exact_value_does():
    paid = rows_of("noisy-label")["PeelShapley+root"]
    assert paid["spearman"] > 0.7
    assert paid["distance"] < 0.1


def test_who_ranks_nobody_correlates_with_nothing():
    assert rank_correlation(np.array([1.0, 3, 2]), np.array([10.0, 30, 20])) == 1
    assert rank_correlation(np.array([1.0, 3, 2]), np.ones(3)) == 0


def test_a_trainer_split_into_one_gains_nothing():
    for longer in (False, True):
        found = split_gain(CELL, 1, longer)
        assert found["gain"] == pytest.approx(1) and found["rooted"] == pytest.approx(1)


def test_a_trainer_split_into_two_that_train_as_long_as_one_is_paid_about_twice():
    found = split_gain(CELL, 2, longer=True)
    assert 1.3 < found["gain"] < 3 and 1.3 < found["rooted"] < 3
