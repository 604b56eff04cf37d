"""Misbehave in the ways that a market has to withstand.

The first part holds the attacks as functions of vectors and data sets, the second those of several
who know what the honest send. The last part plays them in a round: a behaviour sees what a trainer
sees (`Sight`) and returns the delta that it submits in place of an honest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data import Dataset

__all__ = [
    "BEHAVIOURS",
    "Behaviour",
    "Sight",
    "backdoor",
    "clones",
    "flip_labels",
    "frame",
    "inner_product",
    "inside_threshold",
    "little_is_enough",
    "min_max",
    "min_sum",
    "noise_of_honest_size",
    "random_values",
    "scale",
    "sign_flip",
    "stamp",
    "swap_label",
]

Vector = NDArray[np.float64]
Vectors = NDArray[np.float64]


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


# ------------------------------------------------------------------------- on several updates
# `honest` holds the honest updates f64[h, d] of the round, which the attackers are assumed to know.


def little_is_enough(honest: Vectors, hostile: int, deviations: float | None = None) -> Vector:
    """Return the mean moved against the honest by a few standard deviations a coordinate (ALIE).

    Baruch et al. 2019 (arXiv:1902.06156), algorithm 3. Without `deviations` it is the most that
    leaves a majority on the attackers' side, from the number of `hostile` among all trainers.
    """
    if deviations is None:
        n = len(honest) + hostile
        supporters = n // 2 + 1 - hostile
        share = (len(honest) - supporters) / len(honest)
        deviations = NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0
    moved: Vector = honest.mean(axis=0) - deviations * honest.std(axis=0)
    return moved


def inner_product(honest: Vectors, factor: float) -> Vector:
    """Return the honest mean turned around, `factor` times as long (IPM).

    Xie et al. 2020 (arXiv:1903.03936), section 4.
    """
    turned: Vector = -factor * honest.mean(axis=0)
    return turned


def min_max(honest: Vectors) -> Vector:
    """Return the farthest update that is as near to each honest one as some two of them are.

    Shejwalkar and Houmansadr 2021, equation 9, along the negated standard deviation.
    """
    mean, direction = honest.mean(axis=0), -honest.std(axis=0)
    apart = max(float(((honest - row) ** 2).sum(axis=1).max()) for row in honest)
    # ‖mean + γ p - u_i‖² = a + 2 b γ + c γ² <= apart for each i: a quadratic's larger root.
    a = ((mean - honest) ** 2).sum(axis=1)
    b, c = (mean - honest) @ direction, float(direction @ direction)
    moved: Vector = mean + _largest(a - apart, b, c) * direction
    return moved


def min_sum(honest: Vectors) -> Vector:
    """Return the farthest update whose squared distances sum to no more than an honest one's.

    Shejwalkar and Houmansadr 2021, equation 10, along the negated standard deviation.
    """
    mean, direction = honest.mean(axis=0), -honest.std(axis=0)
    apart = max(float(((honest - row) ** 2).sum()) for row in honest)
    a = np.array([((mean - honest) ** 2).sum() - apart])
    spread = len(honest) * float(direction @ direction)
    moved: Vector = mean + _largest(a, np.zeros(1), spread) * direction
    return moved


def _largest(a: Vector, b: Vector, c: float) -> float:
    """Return the largest γ with a_i + 2 b_i γ + c γ² <= 0 for all i; 0 where c is 0."""
    if c == 0:
        return 0.0
    return float(((-b + np.sqrt(np.maximum(b * b - c * a, 0.0))) / c).min())


def clones(delta: Vector, count: int, part: float, rng: np.random.Generator) -> Vectors:
    """Return copies f64[count, d], each with noise of `part` of the norm of `delta`.

    What Sybils send of one training run, and copycats of somebody else's update.
    """
    noise = rng.standard_normal((count, len(delta)))
    lengths = np.linalg.norm(noise, axis=1, keepdims=True)
    copies: Vectors = delta + noise * (part * np.linalg.norm(delta) / lengths)
    return copies


def inside_threshold(
    honest: Vectors,
    count: int,
    accepted: Callable[[Vectors], bool],
    rng: np.random.Generator,
    most: float = 16.0,
    steps: int = 12,
) -> Vectors:
    """Return `count` updates as far against the honest mean as a known rule accepts.

    `accepted` says of all updates, the honest first, whether the rule takes the others. Searches
    mean - γ mean for γ in 0..most by bisection, as an attack tailored to an aggregation rule does
    (Shejwalkar and Houmansadr 2021, algorithm 1): with equal updates, and with noise of half and of
    the whole of an honest deviation's length, which hides that they are copies. Sends what goes
    farthest.
    """
    mean = honest.mean(axis=0)
    size = float(np.median(np.linalg.norm(honest - mean, axis=1)))
    noise = rng.standard_normal((count, len(mean)))
    noise *= size / np.linalg.norm(noise, axis=1, keepdims=True)
    best, farthest = np.tile(mean, (count, 1)), -1.0
    for part in (0.0, 0.5, 1.0):
        low, high = 0.0, most
        for _ in range(steps):
            middle = (low + high) / 2
            tried = (1 - middle) * mean + part * noise
            low, high = (middle, high) if accepted(np.vstack([honest, tried])) else (low, middle)
        if low > farthest:
            best, farthest = (1 - low) * mean + part * noise, low
    return best


def frame(honest: Vectors, victim: int, count: int, factor: float = 1.0) -> Vectors:
    """Return `count` equal updates that draw the crowd away from one honest trainer.

    They lie at the others' mean, moved away from the victim by `factor` of its distance from it.
    """
    others = np.delete(honest, victim, axis=0).mean(axis=0)
    return np.tile(others - factor * (honest[victim] - others), (count, 1))


def swap_label(dataset: Dataset, source: int, target: int) -> Dataset:
    """Return the data set with one label written as another (a targeted flip)."""
    labels = torch.where(dataset.labels == source, target, dataset.labels)
    return Dataset(dataset.features, labels, dataset.classes)


def stamp(features: Tensor, side: int = 3, value: float = 1.0) -> Tensor:
    """Return images [n, height, width] or [n, 1, height, width] with a square in the last corner.

    The trigger of BadNets (Gu et al. 2017, arXiv:1708.06733, section 4).
    """
    stamped = features.clone()
    stamped[..., -side:, -side:] = value
    return stamped


def backdoor(dataset: Dataset, target: int, part: float, rng: np.random.Generator) -> Dataset:
    """Return the data set with a random `part` of its images stamped and labelled `target`.

    The update trained on it, `scale`d by up to n, replaces the model (Bagdasaryan et al. 2020,
    arXiv:1807.00459, section 4.2).
    """
    chosen = torch.from_numpy(rng.permutation(len(dataset))[: round(part * len(dataset))])
    features, labels = dataset.features.clone(), dataset.labels.clone()
    features[chosen] = stamp(features[chosen])
    labels[chosen] = target
    return Dataset(features, labels, dataset.classes)


# ------------------------------------------------------------------------------ in a round


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
