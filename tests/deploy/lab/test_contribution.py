"""The lab's comparison of pay with exact Shapley values."""

import numpy as np
import pytest

from deploy.lab.contribution import SETTINGS, cosine_distance, measure, split_gain
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
        assert sum(row["paid"]) == pytest.approx(1)


def test_the_closed_form_ranks_clients_with_ever_noisier_features_as_the_exact_value_does():
    rows = rows_of("noisy-feature")
    assert rows["agreement"]["spearman"] > 0.7
    assert rows["agreement"]["relative"] < 0.5


def test_who_flips_the_sign_is_paid_nothing():
    assert rows_of("adversarial")["agreement"]["paid"][3] == 0


def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match="no setting 'noise'; there are adversarial"):
        next(measure(CELL, "noise"))


def test_distances_are_one_minus_the_cosine():
    assert cosine_distance(np.array([1.0, 0]), np.array([3.0, 3])) == pytest.approx(1 - 0.5**0.5)
    assert cosine_distance(np.zeros(2), np.ones(2)) == 1


def test_a_trainer_split_into_one_gains_nothing():
    assert split_gain(CELL, 1)["gain"] == pytest.approx(1)
    assert 0 < split_gain(CELL, 2)["gain"] < 4
