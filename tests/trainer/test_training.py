"""Local training against gradients written out, and updates against what they came from."""

import random
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn.functional import cross_entropy

from marketplace.codec import Training
from trainer.data import Dataset
from trainer.errors import ModelError, TrainingError
from trainer.models import build, flatten
from trainer.training import check_fits, evaluate, prepare_update, train_local

FEATURES, CLASSES, N = 3, 4, 10
OPTIONS = {"features": FEATURES, "classes": CLASSES}


def dataset(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    return Dataset(
        torch.randn(n, FEATURES, generator=generator),
        torch.randint(0, CLASSES, (n,), generator=generator),
        CLASSES,
    )


def gradient(flat, data):
    """Return the gradient of logistic regression's mean cross-entropy, by its formula."""
    x = data.features.numpy().astype(np.float64)
    weight, bias = flat[: FEATURES * CLASSES].reshape(CLASSES, FEATURES), flat[-CLASSES:]
    scores = np.exp(x @ weight.T + bias)
    error = scores / scores.sum(axis=1, keepdims=True) - np.eye(CLASSES)[data.labels]
    return np.concatenate([(error.T @ x).ravel(), error.sum(axis=0)]) / len(x)


def train(training, seed=0, data=None, name="logistic", options=None):
    module = build(name, options or OPTIONS, 1)
    return train_local(module, flatten(module), data or dataset(), training, seed)


def start():
    return flatten(build("logistic", OPTIONS, 1)).astype(np.float64)


def test_one_full_batch_moves_against_the_gradient():
    delta = train(Training(learning_rate=0.5, batch_size=N))
    np.testing.assert_allclose(delta, -0.5 * gradient(start(), dataset()), atol=1e-6)
    assert delta.dtype == np.float64


def test_plain_steps_are_those_of_torchs_own_optimiser_to_the_bit():
    module, data = build("mlp", OPTIONS, 1), dataset(n=40)
    # What nothing uses has no gradient.
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    first = flatten(module)
    found = train_local(module, first, data, Training("sgd", 0.3, 7, 3), 5)
    for parameter, values in zip(
        module.parameters(), torch.split(torch.from_numpy(first), sizes(module)), strict=True
    ):
        parameter.data.copy_(values.view_as(parameter))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.3, fused=True)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for batch in torch.split(torch.randperm(40, generator=generator), 7):
            optimiser.zero_grad()
            cross_entropy(module(data.features[batch]), data.labels[batch]).backward()
            optimiser.step()
    np.testing.assert_array_equal(found, flatten(module).astype(np.float64) - first)


def sizes(module):
    return [parameter.numel() for parameter in module.parameters()]


def test_plain_training_does_not_import_torchs_compiler():
    script = (
        "import sys\n"
        "from marketplace.codec import Training\n"
        "from trainer.data import load\n"
        "from trainer.models import build, flatten\n"
        "from trainer.training import train_local\n"
        "module = build('logistic', {}, 0)\n"
        "train_local(module, flatten(module), load('digits@0/20'), Training(), 0)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_momentum_adds_the_last_step():
    delta = train(Training(learning_rate=0.5, batch_size=N, epochs=2, momentum=0.9))
    first = gradient(start(), dataset())
    second = gradient(start() - 0.5 * first, dataset())
    np.testing.assert_allclose(delta, -0.5 * (first + (0.9 * first + second)), atol=1e-6)


def test_adams_first_step_has_the_length_of_the_rate_in_each_coordinate():
    # Kingma and Ba 2015, section 2: the first step is rate · g / (|g| + ε').
    delta = train(Training("adam", 0.01, N))
    expected = -0.01 * np.sign(gradient(start(), dataset()))
    np.testing.assert_allclose(delta, expected, rtol=1e-3)


class Witness(nn.Module):
    """Remember which samples, told by their first feature, it saw in training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x[:, 0].tolist())
        return self.linear(x)


def test_each_epoch_visits_every_sample_once_in_a_new_order_and_keeps_the_last_small_batch():
    module = Witness()
    data = dataset()
    train_local(module, flatten(module), data, Training(batch_size=4, epochs=2), 3)
    assert [len(batch) for batch in module.seen] == [4, 4, 2, 4, 4, 2]
    epochs = [sum(module.seen[:3], []), sum(module.seen[3:], [])]
    assert [sorted(epoch) for epoch in epochs] == [sorted(data.features[:, 0].tolist())] * 2
    assert epochs[0] != epochs[1]


def dropping():
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("make", [dropping, lambda: build("logistic", OPTIONS, 1)])
def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(make):
    def once(seed):
        torch.manual_seed(1)
        module = make()
        flat = flatten(module)
        torch.randn(random.randrange(1, 9))
        return train_local(module, flat, dataset(), Training(batch_size=3, epochs=2), seed)

    assert once(5).tobytes() == once(5).tobytes()
    assert once(5).tobytes() != once(6).tobytes()


def test_global_random_states_stay_as_they_were():
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    module = dropping()
    torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))
    delta = train_local(module, flatten(module), dataset(), Training(batch_size=3), 5)
    prepare_update(delta, np.zeros_like(delta), 2**14, 14, np.random.default_rng(0))
    evaluate(module, flatten(module), dataset())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before


@pytest.mark.parametrize("training", [Training(learning_rate=1000.0, epochs=200, batch_size=1)])
def test_training_that_diverges_is_an_error_that_says_so(training):
    data = dataset()
    wild = Dataset(data.features * 1e30, data.labels, CLASSES)
    with pytest.raises(TrainingError, match="diverged: .* 200 epochs with learning rate 1000"):
        train(training, data=wild)


def test_a_model_learns_what_a_table_teaches():
    data = Dataset(torch.eye(4), torch.tensor([0, 1, 2, 3]), 4)
    module = build("logistic", {"features": 4, "classes": 4}, 1)
    flat = flatten(module)
    delta = train_local(module, flat, data, Training(learning_rate=1.0, epochs=50), 0)
    trained = (flat + delta).astype(np.float32)
    assert evaluate(module, flat, data).accuracy < 1.0
    assert evaluate(module, trained, data).accuracy == 1.0


# -------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("n", [1, 512, 513, 1100])
def test_loss_and_accuracy_are_means_over_all_samples(n):
    data = dataset(7, n)
    module = build("logistic", OPTIONS, 1)
    flat = flatten(module)
    weight, bias = flat[:-CLASSES].reshape(CLASSES, FEATURES), flat[-CLASSES:]
    scores = (data.features.numpy() @ weight.T + bias).astype(np.float64)
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = data.labels.numpy()
    found = evaluate(module, flat, data)
    assert found.loss == pytest.approx(-np.log(probability[np.arange(n), labels]).mean(), rel=1e-5)
    assert found.accuracy == pytest.approx((scores.argmax(axis=1) == labels).mean(), abs=1e-12)


def test_evaluation_does_not_drop_out():
    module = dropping()
    flat = flatten(module)
    assert evaluate(module, flat, dataset()) == evaluate(module, flat, dataset())


# ------------------------------------------------------------------ check_fits


SQUARE = nn.Sequential(nn.Linear(FEATURES, 4), nn.Unflatten(1, (2, 2)))


class Flat(nn.Module):
    """Return one number a sample, which is no score a class."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(FEATURES, 1)

    def forward(self, x):
        return self.linear(x)[:, 0]


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (nn.Linear(FEATURES, CLASSES), dataset(n=0), "holds no samples"),
        (nn.Linear(FEATURES + 1, CLASSES), dataset(), r"does not take samples of shape \(3,\)"),
        (build("lenet5", {}, 0), dataset(), r"does not take samples of shape \(3,\)"),
        (nn.Linear(FEATURES, CLASSES - 1), dataset(), "tells 3 classes apart but .* has 4"),
        (Flat(), dataset(), r"returns shape \(1,\) for one sample"),
        (
            nn.Sequential(nn.Linear(FEATURES, 4), nn.Unflatten(1, (2, 2))),
            dataset(),
            "returns shape",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(module, data, message):
    with pytest.raises(ModelError, match=message):
        check_fits(module, data)


def test_a_model_may_know_more_classes_than_the_data_shows():
    check_fits(nn.Linear(FEATURES, CLASSES + 5), dataset())


# -------------------------------------------------------------- prepare_update


@settings(max_examples=50)
@given(
    deltas=st.lists(arrays(np.float64, 4, elements=st.floats(-0.5, 0.5)), min_size=1, max_size=6),
    step_bits=st.integers(4, 14),
    seed=st.integers(0, 99),
)
def test_what_rounding_loses_comes_back_in_later_rounds(deltas, step_bits, seed):
    carry = np.zeros(4)
    sent = [Fraction(0)] * 4
    for number, delta in enumerate(deltas):
        rng = np.random.default_rng([seed, number])
        update, carry = prepare_update(delta, carry, 2**20, step_bits, rng)
        sent = [s + Fraction(int(u), 2**step_bits) for s, u in zip(sent, update, strict=True)]
        # A remainder is less than a step, however many rounds went before.
        assert (np.abs(carry) <= 2.0**-step_bits).all()
    for k in range(4):
        whole = sum(Fraction(float(delta[k])) for delta in deltas)
        # float64 rounds each sum by at most 2^-53 of a number below 1.
        assert abs(sent[k] + Fraction(float(carry[k])) - whole) <= len(deltas) * Fraction(2, 2**53)


def test_what_clipping_cuts_off_does_not_come_back():
    delta = np.array([3.0, 4.0])
    update, carry = prepare_update(delta, np.zeros(2), 2**4, 4, np.random.default_rng(0))
    # Clipped to a norm of 1: (.6, .8), in steps of 1/16 (9.6, 12.8).
    assert np.abs(update - [9.6, 12.8]).max() < 1
    np.testing.assert_allclose(update / 16 + carry, [0.6, 0.8], atol=1e-15)


def test_the_same_generator_gives_the_same_update():
    delta = np.linspace(-1, 1, 9)
    one, two = (
        prepare_update(delta, np.zeros(9), 2**20, 3, np.random.default_rng(8)) for _ in range(2)
    )
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1].tobytes() == two[1].tobytes()
