"""Clients that train together learn what each would learn alone."""

import numpy as np
import pytest
import torch

from deploy.lab import dense
from marketplace.codec import Training
from trainer.data import Dataset
from trainer.models import build
from trainer.training import evaluate, train_local

WIDTHS = (6, 5, 3)


def clients(sizes, seed=0):
    """Return data sets of the given sizes with labels that depend on the features."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        features = torch.randn(size, 6, generator=generator)
        found.append(Dataset(features, features[:, :3].argmax(1), 3))
    return found


def together(flat, sets, training, seeds):
    """Train the clients in one batch, in the sample order that `train_local` draws."""
    most = max(len(data) for data in sets)
    features, labels = torch.zeros(len(sets), most, 6), torch.zeros(len(sets), most).long()
    orders = torch.full((training.epochs, len(sets), most), -1)
    for i, (data, seed) in enumerate(zip(sets, seeds, strict=True)):
        features[i, : len(data)], labels[i, : len(data)] = data.features, data.labels
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(training.epochs):
            orders[epoch, i, : len(data)] = torch.randperm(len(data), generator=generator)
    rate, batch = training.learning_rate, training.batch_size
    return dense.train_clients(flat, WIDTHS, features, labels, rate, batch, list(orders))


def test_deltas_are_those_of_one_client_at_a_time_also_for_unequal_sizes():
    training = Training("sgd", 0.3, 4, 3, 0.0)
    module = build("mlp", {"features": 6, "hidden": 5, "classes": 3}, 0)
    flat = dense.initial(WIDTHS, 1)
    sets, seeds = clients([20, 9, 4]), [7, 8, 9]
    found = together(flat, sets, training, seeds).numpy()
    for i, data in enumerate(sets):
        alone = train_local(module, flat.numpy(), data, training, seeds[i])
        np.testing.assert_allclose(found[i], alone, atol=2e-6)
        assert np.abs(alone).max() > 0.1


def test_accuracy_and_loss_are_those_of_the_module():
    module = build("mlp", {"features": 6, "hidden": 5, "classes": 3}, 0)
    flat, (data,) = dense.initial(WIDTHS, 2), clients([50])
    expected = evaluate(module, flat.numpy(), data)
    assert dense.accuracy(flat, WIDTHS, data.features, data.labels) == expected.accuracy
    found = dense.loss(flat, WIDTHS, data.features, data.labels)
    assert found == pytest.approx(expected.loss, rel=1e-6)


def test_the_first_parameters_lie_within_the_bound_of_each_layer():
    flat = dense.initial((100, 400, 2), 3)
    assert flat.shape == (dense.dimension((100, 400, 2)),) == (41_202,)
    assert flat[:40_400].abs().max() <= 0.1  # 1/sqrt(100)
    assert flat[40_400:].abs().max() <= 0.05  # 1/sqrt(400)
    assert flat[:40_000].std().item() > 0.05  # uniform within 0.1: 0.0577
