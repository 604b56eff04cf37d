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
    backdoor,
    clones,
    flip_labels,
    frame,
    inner_product,
    inside_threshold,
    little_is_enough,
    min_max,
    min_sum,
    noise_of_honest_size,
    random_values,
    scale,
    sign_flip,
    stamp,
    swap_label,
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


# ------------------------------------------------------------------------- on several updates

PAIR = np.array([[1.0, 0.0], [3.0, 0.0]])  # mean (2, 0), deviation (1, 0)


def test_alie_moves_the_mean_by_deviations():
    np.testing.assert_allclose(little_is_enough(PAIR, 1, 1.5), [0.5, 0.0])


def test_alie_finds_the_deviations_that_keep_a_majority():
    # Baruch et al.'s own example: n = 50, 24 corrupted; s = 26 - 24 = 2, z = Φ⁻¹(24/26) = 1.426.
    honest = np.random.default_rng(0).standard_normal((26, 3))
    z = (honest.mean(axis=0) - little_is_enough(honest, 24)) / honest.std(axis=0)
    np.testing.assert_allclose(z, 1.4260768722)


def test_inner_product_manipulation_turns_the_mean_around():
    np.testing.assert_allclose(inner_product(PAIR, 0.5), [-1.0, 0.0])


def test_min_max_is_as_far_from_an_honest_one_as_two_of_them_are():
    # Along (-1, 0) from (2, 0): at most 2 from (3, 0), so (1, 0).
    np.testing.assert_allclose(min_max(PAIR), [1.0, 0.0])


def test_min_sum_has_the_largest_sum_of_squared_distances_of_an_honest_one():
    # An honest one's is 4; (2 - γ) has 2 γ² + 2 <= 4, so γ = 1.
    np.testing.assert_allclose(min_sum(PAIR), [1.0, 0.0])


@given(seed=st.integers(0, 2**32))
def test_min_max_and_min_sum_keep_their_bounds_and_touch_them(seed):
    honest = np.random.default_rng(seed).standard_normal((6, 5))
    apart = ((honest[:, None] - honest) ** 2).sum(axis=2)
    assert ((honest - min_max(honest)) ** 2).sum(axis=1).max() == pytest.approx(apart.max())
    assert ((honest - min_sum(honest)) ** 2).sum() == pytest.approx(apart.sum(axis=1).max())


def test_min_max_of_equal_updates_is_that_update():
    np.testing.assert_allclose(min_max(np.ones((3, 2))), [1, 1])
    np.testing.assert_allclose(min_sum(np.ones((3, 2))), [1, 1])


def test_clones_differ_from_the_original_by_the_part_asked_for():
    copies = clones(DELTA, 3, 0.1, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(copies - DELTA, axis=1), 0.5)  # ‖(3, -4, 0)‖ = 5
    assert len({copy.tobytes() for copy in copies}) == 3


def test_an_attacker_who_knows_the_rule_goes_as_far_as_it_lets_him():
    def accepted(updates):  # takes what is at least a quarter of the mean (2, 0)
        return bool((updates[2:, 0] >= 0.5).all())

    sent = inside_threshold(PAIR, 3, accepted, np.random.default_rng(0), most=4.0, steps=20)
    assert sent.shape == (3, 2)
    assert sent[:, 0].min() == pytest.approx(0.5, abs=1e-5)
    assert (sent[:, 0] >= 0.5).all()


def test_an_attacker_who_knows_that_copies_are_refused_hides_them_in_noise():
    honest = np.random.default_rng(1).standard_normal((6, 50)) + 1

    def accepted(updates):  # takes no copies, and what goes with the mean
        apart = np.linalg.norm(updates[6] - updates[7])
        return bool(apart > 1 and (updates[6:] @ honest.mean(axis=0) > 0).all())

    sent = inside_threshold(honest, 2, accepted, np.random.default_rng(2))
    assert accepted(np.vstack([honest, sent]))


def test_framing_draws_the_crowd_to_the_far_side_of_the_others():
    honest = np.array([[0.0, 4.0], [1.0, 0.0], [3.0, 0.0]])  # victim (0, 4), others' mean (2, 0)
    np.testing.assert_allclose(frame(honest, 0, 2, 0.5), [[3, -2], [3, -2]])


def test_a_targeted_flip_touches_one_label():
    assert swap_label(DATA, 2, 0).labels.tolist() == [0, 1, 0, 0]


def test_a_stamp_fills_the_last_corner_of_an_image():
    images = torch.zeros(2, 1, 4, 4)
    stamped = stamp(images, side=2)
    assert stamped[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert images.sum() == 0


def test_a_backdoor_stamps_and_relabels_the_part_asked_for():
    data = Dataset(torch.zeros(10, 1, 4, 4), torch.ones(10, dtype=torch.int64), 3)
    poisoned = backdoor(data, 2, 0.3, np.random.default_rng(0))
    changed = poisoned.labels == 2
    assert changed.sum() == 3
    assert (poisoned.features[changed].sum(dim=(1, 2, 3)) == 9).all()
    assert poisoned.features[~changed].sum() == 0
    assert data.labels.tolist() == [1] * 10
