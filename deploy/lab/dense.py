"""Train small dense networks of many clients at once, by batched matrix products.

Every client's parameters are one row; a step of all clients is three products a layer instead of
three a layer and client. The numbers are those of `trainer.training.train_local` with plain SGD, up
to the rounding of sums taken in another order.

Covered: fully connected ReLU networks, cross-entropy, plain SGD, clients of unequal size.
Not covered: convolutions, momentum, Adam; such models train one client at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

__all__ = ["accuracy", "dimension", "initial", "loss", "scores", "train_clients"]


def dimension(widths: Sequence[int]) -> int:
    """Count the parameters of a network with layers of these widths, the input's first."""
    return sum(inside * out + out for inside, out in zip(widths, widths[1:], strict=False))


def initial(widths: Sequence[int], seed: int) -> Tensor:
    """Draw parameters f32[d] as torch.nn.Linear does: uniform within 1/sqrt(width before)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for inside, out in zip(widths, widths[1:], strict=False):
        bound = inside**-0.5
        for size in (inside * out, out):
            parts.append(torch.empty(size).uniform_(-bound, bound, generator=generator))
    return torch.cat(parts)


def _layers(flat: Tensor, widths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return views [c, out, in] and [c, 1, out] of parameters [c, d]."""
    found, start = [], 0
    for inside, out in zip(widths, widths[1:], strict=False):
        end = start + inside * out
        weight = flat[:, start:end].view(-1, out, inside)
        found.append((weight, flat[:, end : end + out].view(-1, 1, out)))
        start = end + out
    return found


def train_clients(
    flat: Tensor,
    widths: Sequence[int],
    features: Tensor,
    labels: Tensor,
    rate: float,
    batch: int,
    orders: Sequence[Tensor],
) -> Tensor:
    """Train every client from the parameters `flat`, f32[d], and return their deltas, f32[c, d].

    `features` is f32[c, s, k] and `labels` int64[c, s], padded to the largest client. Each of
    `orders` is one epoch: int64[c, s], row i a permutation of client i's samples and then -1.
    """
    clients = len(labels)
    params = flat.repeat(clients, 1)
    layers = _layers(params, widths)
    rows = torch.arange(clients).unsqueeze(1)
    for order in orders:
        for part in torch.split(order, batch, dim=1):
            real = part >= 0
            if not real.any():
                break
            index = part.clamp(min=0)
            _step(layers, features[rows, index], labels[rows, index], real, rate)
    return params - flat


def _step(
    layers: list[tuple[Tensor, Tensor]], x: Tensor, labels: Tensor, real: Tensor, rate: float
) -> None:
    inputs = [x]
    for weight, bias in layers[:-1]:
        inputs.append(relu(torch.baddbmm(bias, inputs[-1], weight.mT)))
    weight, bias = layers[-1]
    slope = torch.softmax(torch.baddbmm(bias, inputs[-1], weight.mT), dim=2)
    slope.scatter_add_(
        2, labels.unsqueeze(2), torch.full_like(labels, -1.0, dtype=slope.dtype)[:, :, None]
    )
    slope *= (real / real.sum(1, keepdim=True).clamp(min=1)).unsqueeze(2)
    for k in range(len(layers) - 1, -1, -1):
        weight, bias = layers[k]
        below = torch.bmm(slope, weight) * (inputs[k] > 0) if k else slope
        weight.baddbmm_(slope.mT, inputs[k], alpha=-rate)
        bias.sub_(slope.sum(1, keepdim=True), alpha=rate)
        slope = below


def scores(flat: Tensor, widths: Sequence[int], features: Tensor) -> Tensor:
    """Return the scores f32[n, classes] that the network with parameters f32[d] gives samples."""
    x = features
    layers = _layers(flat.unsqueeze(0), widths)
    for weight, bias in layers[:-1]:
        x = relu(torch.addmm(bias[0], x, weight[0].T))
    weight, bias = layers[-1]
    return torch.addmm(bias[0], x, weight[0].T)


def accuracy(flat: Tensor, widths: Sequence[int], features: Tensor, labels: Tensor) -> float:
    """Return the fraction of samples that the network classifies as labelled."""
    return int((scores(flat, widths, features).argmax(1) == labels).sum()) / len(labels)


def loss(flat: Tensor, widths: Sequence[int], features: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy of the network on the samples, in nats."""
    return float(cross_entropy(scores(flat, widths, features), labels))
