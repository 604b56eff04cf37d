"""Train on a trainer's own samples, and turn what was learned into an update.

Pure: the same arguments give the same bytes on one machine, whatever ran before, and the global
random state stays as it was. Bytes depend on the number of torch threads; a trainer process calls
`torch.set_num_threads(1)` when it starts, which is also fastest where processes share cores.

Covered: local SGD or Adam (FederatedAveraging's client, McMahan et al. 2017, algorithm 1),
error feedback, clipping, quantisation, evaluation.
Not covered: training under differential privacy; see `trainer.privacy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from marketplace.codec import Training, clip, quantise
from trainer.data import Dataset
from trainer.errors import ModelError, TrainingError
from trainer.models import flatten, load_flat

__all__ = ["Evaluation", "check_fits", "evaluate", "optimiser_of", "prepare_update", "train_local"]

_EVALUATION_BATCH = 512

Quantise = Callable[
    [NDArray[np.float64], int, np.random.Generator], tuple[NDArray[np.int16], NDArray[np.float64]]
]
"""Rounds a delta f64[d] to steps of 2^-bits, and returns also what was lost."""


@dataclass(frozen=True)
class Evaluation:
    """State how a model does: mean cross-entropy in nats, fraction of samples classified right."""

    loss: float
    accuracy: float


def train_local(
    module: nn.Module,
    flat: NDArray[np.float32],
    dataset: Dataset,
    training: Training,
    seed: int,
) -> NDArray[np.float64]:
    """Train from the parameters `flat`, f32[d], and return by how much they moved, f64[d].

    `module` gives the architecture and is left with the trained parameters. Each epoch visits all
    samples once in a new random order; its last batch may be smaller. Raises ModelError where
    model and data do not fit, TrainingError where the parameters leave the finite numbers.
    """
    check_fits(module, dataset)
    load_flat(module, flat)
    plain = training.optimizer == "sgd" and training.momentum == 0
    optimiser = _Descent(module, training) if plain else optimiser_of(module, training)
    generator = torch.Generator().manual_seed(seed)
    module.train()
    # Layers such as dropout draw from the global generator and know no other.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(training.epochs):
            order = torch.randperm(len(dataset), generator=generator)
            for batch in torch.split(order, training.batch_size):
                scores = module(dataset.features.index_select(0, batch))
                loss = cross_entropy(scores, dataset.labels.index_select(0, batch))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    delta = flatten(module).astype(np.float64) - flat
    if not np.isfinite(delta).all():
        raise TrainingError(
            f"training diverged: parameters are not finite after {training.epochs} epochs with "
            f"learning rate {training.learning_rate}; scale the features or lower the rate"
        )
    return delta


def prepare_update(
    delta: NDArray[np.float64],
    carry: NDArray[np.float64],
    clip_norm: int,
    step_bits: int,
    rng: np.random.Generator,
    rounded: Quantise = quantise,
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Return the update int16[d] for a delta and the remainder f64[d] to carry to the next round.

    Adds the last round's remainder (error feedback, Karimireddy et al. 2019, arXiv:1901.09847),
    clips to `clip_norm` steps and rounds at random to steps of 2^-step_bits. What clipping cuts
    off is not carried, since it would come back every round.
    """
    return rounded(clip(delta + carry, clip_norm, step_bits), step_bits, rng)


def evaluate(module: nn.Module, flat: NDArray[np.float32], dataset: Dataset) -> Evaluation:
    """Measure the model with parameters `flat`, f32[d], on a data set."""
    check_fits(module, dataset)
    load_flat(module, flat)
    module.eval()
    loss, right = 0.0, 0
    with torch.inference_mode():
        for features, labels in zip(
            torch.split(dataset.features, _EVALUATION_BATCH),
            torch.split(dataset.labels, _EVALUATION_BATCH),
            strict=True,
        ):
            scores = module(features)
            loss += float(cross_entropy(scores, labels, reduction="sum"))
            right += int((scores.argmax(dim=1) == labels).sum())
    return Evaluation(loss / len(dataset), right / len(dataset))


def check_fits(module: nn.Module, dataset: Dataset) -> None:
    """Raise ModelError unless the model takes the data set's samples and knows its classes."""
    if not len(dataset):
        raise ModelError("the data set holds no samples")
    shape = tuple(dataset.features.shape[1:])
    module.eval()
    try:
        with torch.inference_mode():
            scores = module(dataset.features[:1])
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the model does not take samples of shape {shape}; give them another with ?shape=... "
            f"or the model other options ({error})"
        ) from error
    if scores.ndim != 2 or len(scores) != 1:
        raise ModelError(
            f"the model returns shape {tuple(scores.shape)} for one sample of shape {shape}, "
            "not one score a class"
        )
    if scores.shape[1] < dataset.classes:
        raise ModelError(
            f"the model tells {scores.shape[1]} classes apart but the data set has "
            f"{dataset.classes}; set the model's option classes"
        )


class _Descent:
    """Step by w ← w - rate · gradient, to the bit as torch.optim.SGD does.

    The first of torch.optim's optimisers imports torch's compiler: a second and 80 MB a trainer.
    """

    def __init__(self, module: nn.Module, training: Training) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._rate = training.learning_rate

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=self._rate)


def optimiser_of(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return what turns gradients into steps."""
    rate = training.learning_rate
    if training.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), lr=rate, fused=True)
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=training.momentum, fused=True)
