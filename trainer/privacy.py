"""Train so that no sample of a trainer shows, and say how much privacy that spent.

Covered: DP-SGD (Abadi et al. 2016, arXiv:1607.00133, algorithm 1) for any model that trainers
build, and its budget by Rényi accounting (Mironov et al. 2019, arXiv:1908.10530) with Opacus.
What is protected is one sample: whoever sees all updates of all rounds learns little about whether
it was there. Everything downstream (clipping, quantising, the Gram matrix, the model) is
post-processing and spends nothing.
Not covered: noise that floating point cannot betray (Mironov 2012); protection of a whole data set
at once, which at the dimension of a network would take more noise than an update survives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from marketplace.codec import Training
from trainer.data import Dataset
from trainer.errors import TrainingError
from trainer.models import flatten, load_flat
from trainer.training import check_fits, optimiser_of

__all__ = ["Privacy", "spent", "steps_of", "train_private"]

_ORDERS = [1 + step / 10 for step in range(1, 100)] + list(range(12, 64))


@dataclass(frozen=True)
class Privacy:
    """State how gradients are blurred.

    Each sample's gradient is shortened to an L2 norm of `clip_norm`; their sum gets Gaussian noise
    of standard deviation `noise` · `clip_norm`. `delta` is the probability that ε does not hold.
    """

    noise: float
    clip_norm: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("noise", "clip_norm", "delta"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise TrainingError(f"{name} = {value} must be a positive finite number")
        if self.delta >= 1:
            raise TrainingError(f"delta = {self.delta} is a probability well below 1 / samples")


def steps_of(samples: int, training: Training) -> int:
    """Return the number of noisy steps in a round."""
    return training.epochs * ceil(samples / training.batch_size)


@lru_cache(maxsize=256)
def spent(privacy: Privacy, samples: int, training: Training, rounds: int) -> float:
    """Return the ε that so many rounds spend, at `privacy.delta`; 0 for no round."""
    if rounds == 0:
        return 0.0
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    rate = min(1.0, training.batch_size / samples)
    moments = compute_rdp(
        q=rate,
        noise_multiplier=privacy.noise,
        steps=rounds * steps_of(samples, training),
        orders=_ORDERS,
    )
    epsilon, _ = get_privacy_spent(orders=_ORDERS, rdp=moments, delta=privacy.delta)
    return float(epsilon)


def train_private(
    module: nn.Module,
    flat: NDArray[np.float32],
    dataset: Dataset,
    training: Training,
    privacy: Privacy,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Train from the parameters `flat`, f32[d], and return by how much they moved, f64[d].

    Each step takes every sample with probability batch size / samples. `generator` must be seeded
    with what nobody else knows, or the noise can be taken away again. Raises as `train_local` does.
    """
    check_fits(module, dataset)
    load_flat(module, flat)
    optimiser = optimiser_of(module, training)
    parameters = dict(module.named_parameters())
    module.train()

    def loss(values: dict[str, Tensor], features: Tensor, label: Tensor) -> Tensor:
        scores = functional_call(module, values, (features.unsqueeze(0),))
        return cross_entropy(scores, label.unsqueeze(0))

    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    rate = min(1.0, training.batch_size / len(dataset))
    for _ in range(steps_of(len(dataset), training)):
        chosen = torch.rand(len(dataset), generator=generator) < rate
        sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
        if chosen.any():
            values = {name: value.detach() for name, value in parameters.items()}
            gradients = each(values, dataset.features[chosen], dataset.labels[chosen])
            squares = sum(part.flatten(1).square().sum(1) for part in gradients.values())
            factors = (privacy.clip_norm / squares.sqrt().clamp(min=1e-12)).clamp(max=1.0)
            for name, part in gradients.items():
                sums[name] = torch.einsum("n,n...->...", factors, part)
        for name, value in parameters.items():
            noise = torch.randn(value.shape, generator=generator)
            blurred = sums[name] + privacy.noise * privacy.clip_norm * noise
            value.grad = (blurred / training.batch_size).to(value.dtype)
        optimiser.step()
    delta = flatten(module).astype(np.float64) - flat
    if not np.isfinite(delta).all():
        raise TrainingError("training diverged under noise: lower the learning rate or the noise")
    return delta
