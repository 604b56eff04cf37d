"""Misbehave in the ways that a market has to withstand.

The first part holds the attacks as functions of vectors and data sets. The second part plays them
in a round: a behaviour sees what a trainer sees (`Sight`) and returns the delta that it submits in
place of an honest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data import Dataset

__all__ = [
    "BEHAVIOURS",
    "Behaviour",
    "Sight",
    "flip_labels",
    "noise_of_honest_size",
    "random_values",
    "scale",
    "sign_flip",
]

Vector = NDArray[np.float64]


def sign_flip(delta: Vector, factor: float = 1.0) -> Vector:
    """Return the honest delta f64[d] turned around, `factor` times as long."""
    return -factor * delta


def scale(delta: Vector, factor: float) -> Vector:
    """Return the delta f64[d] `factor` times as long, to outweigh everybody else."""
    return factor * delta


def noise_of_honest_size(delta: Vector, rng: np.random.Generator) -> Vector:
    """Return a random direction f64[d] with the norm of `delta` (a free-rider's update).

    `delta` may be any vector of about an honest update's norm, such as the global model's last
    movement (Lin et al. 2019, "Free-riders in Federated Learning", arXiv:1911.12560).
    """
    noise = rng.standard_normal(len(delta))
    return noise * (np.linalg.norm(delta) / np.linalg.norm(noise))


def random_values(dimension: int, deviation: float, rng: np.random.Generator) -> Vector:
    """Return independent normal values f64[d] of the given standard deviation."""
    return rng.normal(0.0, deviation, dimension)


def flip_labels(dataset: Dataset) -> Dataset:
    """Return the data set with each label l turned into classes - 1 - l.

    The attack of Fang et al. 2020 (arXiv:1911.11815), section 5.1.
    """
    return Dataset(dataset.features, dataset.classes - 1 - dataset.labels, dataset.classes)


@dataclass(frozen=True)
class Sight:
    """Show a behaviour what a trainer knows in a round.

    `models` holds the global models f32[d] seen so far, the current one last; `train` trains from
    it on the samples it is given and returns the delta f64[d]; `sent` holds the deltas that this
    trainer sent in earlier rounds.
    """

    dataset: Dataset
    models: tuple[NDArray[np.float32], ...]
    train: Callable[[Dataset], Vector]
    rng: np.random.Generator
    sent: tuple[Vector, ...] = ()


Behaviour = Callable[[Sight], Vector]

FIRST_NORM = 0.1
"""A free-rider's guess of an honest norm, as a part of the model's, before the model has moved."""


def _honest(sight: Sight) -> Vector:
    return sight.train(sight.dataset)


def _sign_flip(sight: Sight) -> Vector:
    return sign_flip(sight.train(sight.dataset))


def _free_ride(sight: Sight) -> Vector:
    now = sight.models[-1].astype(np.float64)
    movement = now - sight.models[-2] if len(sight.models) > 1 else FIRST_NORM * now
    return noise_of_honest_size(movement, sight.rng)


def _zero(sight: Sight) -> Vector:
    return np.zeros(len(sight.models[-1]))


def _random(sight: Sight) -> Vector:
    return random_values(len(sight.models[-1]), 1.0, sight.rng)


def _scale(sight: Sight) -> Vector:
    return scale(sight.train(sight.dataset), 10.0)


def _flip_labels(sight: Sight) -> Vector:
    return sight.train(flip_labels(sight.dataset))


def _replay(sight: Sight) -> Vector:
    return sight.sent[-1] if sight.sent else sight.train(sight.dataset)


BEHAVIOURS: dict[str, Behaviour] = {
    "honest": _honest,
    "sign-flip": _sign_flip,
    "free-ride": _free_ride,
    "zero": _zero,
    "random": _random,
    "scale": _scale,
    "label-flip": _flip_labels,
    "replay": _replay,
}
"""What a trainer may be told to do, by name."""
