"""Private training clips, blurs and counts as the papers say."""

import numpy as np
import pytest
import torch

from marketplace.codec import Training
from trainer.data import Dataset
from trainer.errors import TrainingError
from trainer.models import build, flatten
from trainer.privacy import Privacy, spent, steps_of, train_private
from trainer.training import evaluate, train_local

WHOLE = Training("sgd", 0.5, 40, 1, 0.0)
"""One step on all of forty samples."""


def data(samples=40):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(samples, 5, generator=generator)
    return Dataset(features, features[:, :3].argmax(1), 3)


def train(privacy, training=WHOLE, dataset=None, seed=0):
    module = build("logistic", {"features": 5, "classes": 3}, 0)
    flat = flatten(module)
    generator = torch.Generator().manual_seed(seed)
    return train_private(module, flat, dataset or data(), training, privacy, generator)


def test_without_clipping_and_with_hardly_any_noise_a_whole_step_is_plain_sgd():
    module = build("logistic", {"features": 5, "classes": 3}, 0)
    plain = train_local(module, flatten(module), data(), WHOLE, 0)
    found = train(Privacy(noise=1e-9, clip_norm=1e3))
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert np.abs(plain).max() > 0.05


def test_no_sample_moves_the_model_by_more_than_the_clip_norm():
    one = Dataset(100 * torch.ones(1, 5), torch.zeros(1, dtype=torch.int64), 3)
    found = train(Privacy(noise=1e-9, clip_norm=0.3), Training("sgd", 0.5, 1, 1, 0.0), one)
    assert np.linalg.norm(found) == pytest.approx(0.5 * 0.3, rel=1e-4)


def test_noise_has_the_deviation_asked_for():
    module = build("mlp", {"features": 5, "hidden": 900, "classes": 3}, 0)
    sample = Dataset(torch.zeros(40, 5), torch.zeros(40, dtype=torch.int64), 3)
    privacy = Privacy(noise=2.0, clip_norm=0.1)
    generator = torch.Generator().manual_seed(1)
    found = train_private(module, flatten(module), sample, WHOLE, privacy, generator)
    # The input is zero, so the first layer's 4,500 weights have no gradient but noise.
    assert found[:4500].std() == pytest.approx(0.5 * 2.0 * 0.1 / 40, rel=0.05)


def test_the_same_secret_gives_the_same_update_and_another_one_another():
    privacy = Privacy(noise=1.0)
    np.testing.assert_array_equal(train(privacy), train(privacy))
    assert (train(privacy) != train(privacy, seed=1)).all()


def test_a_model_still_learns_with_a_little_noise():
    training = Training("sgd", 1.0, 40, 40, 0.0)
    module = build("logistic", {"features": 5, "classes": 3}, 0)
    flat = flatten(module)
    dataset = data(400)
    moved = train(Privacy(noise=0.5), training, dataset)
    before = evaluate(module, flat, dataset).accuracy
    after = evaluate(module, (flat + moved).astype(np.float32), dataset).accuracy
    assert after > 0.8 > before


def test_a_convolutional_model_trains_privately():
    module = build("lenet5", {"size": 12}, 0)
    images = Dataset(torch.rand(6, 1, 12, 12), torch.arange(6), 10)
    generator = torch.Generator().manual_seed(0)
    training = Training("sgd", 0.1, 3, 1, 0.0)
    found = train_private(module, flatten(module), images, training, Privacy(1.0), generator)
    assert np.isfinite(found).all() and found.any()


def test_the_budget_of_the_tensorflow_privacy_tutorial():
    # N = 60,000, batch 256, noise 1.1, 60 epochs, delta 1e-5: its README states ε = 2.92 by the
    # older conversion from Rényi divergence; the tighter one (Balle et al. 2020) gives a bit less.
    found = spent(Privacy(noise=1.1), 60_000, Training(batch_size=256, epochs=1), 60)
    assert 2.5 < found < 2.92


def test_full_batches_spend_what_the_gaussian_mechanism_does():
    # Rényi divergence of order a: T a / (2 s²); the classical conversion adds ln(1/delta)/(a-1), at
    # its best order T/(2 s²) + sqrt(2 T ln(1/delta))/s in all (Mironov 2017, proposition 3).
    training, privacy = Training(batch_size=40, epochs=1), Privacy(noise=5.0)
    classical = 10 / 50 + (2 * 10 * np.log(1e5)) ** 0.5 / 5
    assert 0.7 * classical < spent(privacy, 40, training, 10) < classical


def test_no_round_spends_nothing_and_more_rounds_spend_more():
    training, privacy = Training(batch_size=10, epochs=2), Privacy(noise=1.0)
    assert spent(privacy, 600, training, 0) == 0
    assert spent(privacy, 600, training, 1) < spent(privacy, 600, training, 2)
    assert steps_of(605, training) == 2 * 61


@pytest.mark.parametrize("field", ["noise", "clip_norm", "delta"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_that_protect_nothing_are_refused(field, value):
    with pytest.raises(TrainingError, match=f"{field} = "):
        Privacy(**{"noise": 1.0, field: value})
    with pytest.raises(TrainingError, match="probability"):
        Privacy(noise=1.0, delta=1.0)
