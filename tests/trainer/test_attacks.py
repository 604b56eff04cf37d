"""Attacks do to a delta what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer.attacks import (
    BEHAVIOURS,
    Sight,
    flip_labels,
    noise_of_honest_size,
    random_values,
    scale,
    sign_flip,
)
from trainer.data import Dataset

DELTA = np.array([3.0, -4.0, 0.0])
DATA = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 2, 2]), 3)


def sight(models, sent=()):
    """Return what a trainer sees whose training counts the labels of its samples."""
    return Sight(
        dataset=DATA,
        models=tuple(np.array(model, dtype=np.float32) for model in models),
        train=lambda data: torch.bincount(data.labels, minlength=3).double().numpy(),
        rng=np.random.default_rng(0),
        sent=sent,
    )


HONEST = np.array([1.0, 1.0, 2.0])


def test_a_flipped_sign_points_the_other_way():
    np.testing.assert_array_equal(sign_flip(DELTA), [-3, 4, 0])
    np.testing.assert_array_equal(sign_flip(DELTA, 2.5), [-7.5, 10, 0])


def test_scaling_lengthens():
    np.testing.assert_array_equal(scale(DELTA, 10), [30, -40, 0])


vectors = arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e6, 1e6))


@given(delta=vectors, seed=st.integers(0, 2**32))
def test_noise_of_honest_size_has_the_norm_it_imitates(delta, seed):
    noise = noise_of_honest_size(delta, np.random.default_rng(seed))
    assert noise.shape == delta.shape
    assert np.linalg.norm(noise) == pytest.approx(np.linalg.norm(delta))


def test_noise_of_honest_size_is_not_the_honest_direction():
    delta = np.random.default_rng(1).standard_normal(10_000)
    noise = noise_of_honest_size(delta, np.random.default_rng(2))
    cosine = delta @ noise / np.linalg.norm(delta) / np.linalg.norm(noise)
    assert abs(cosine) < 0.05  # five standard deviations of 1 / sqrt(10,000)


def test_random_values_have_the_deviation_asked_for():
    values = random_values(100_000, 3.0, np.random.default_rng(0))
    assert values.std() == pytest.approx(3.0, rel=0.02)
    assert values.mean() == pytest.approx(0.0, abs=0.05)


def test_flipped_labels_count_from_the_other_end_and_leave_the_original_alone():
    flipped = flip_labels(DATA)
    assert flipped.labels.tolist() == [2, 1, 0, 0]
    assert DATA.labels.tolist() == [0, 1, 2, 2]
    assert flip_labels(flipped).labels.tolist() == DATA.labels.tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("honest", HONEST),
        ("sign-flip", -HONEST),
        ("scale", 10 * HONEST),
        ("label-flip", [2.0, 1.0, 1.0]),
        ("zero", [0.0, 0.0, 0.0]),
        ("replay", HONEST),
    ],
)
def test_a_behaviour_submits_what_its_name_says(name, expected):
    np.testing.assert_array_equal(BEHAVIOURS[name](sight([[0, 0, 0]])), expected)


def test_a_replay_sends_what_it_sent_last():
    sent = (np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    np.testing.assert_array_equal(BEHAVIOURS["replay"](sight([[0, 0, 0]], sent)), [4, 5, 6])


def test_a_free_rider_makes_noise_as_long_as_the_model_last_moved_and_trains_nothing():
    idle = Sight(
        DATA, sight([[9, 9, 9], [1, 1, 1], [4, 5, 1]]).models, None, np.random.default_rng(0)
    )
    assert np.linalg.norm(BEHAVIOURS["free-ride"](idle)) == pytest.approx(5.0)  # (3, 4, 0)


def test_a_free_rider_guesses_a_tenth_of_the_model_in_the_first_round():
    idle = Sight(DATA, sight([[30, 40, 0]]).models, None, np.random.default_rng(0))
    assert np.linalg.norm(BEHAVIOURS["free-ride"](idle)) == pytest.approx(5.0)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_every_behaviour_is_repeatable_and_returns_one_number_a_parameter(name):
    first, second = (BEHAVIOURS[name](sight([[1, 2, 3]])) for _ in range(2))
    assert first.shape == (3,)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, second)
