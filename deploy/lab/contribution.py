"""Compare ways of saying who contributed what with the exact Shapley value on a validation set.

In every round the clients train from the same model; the worth of a set of them is by how much
their updates, each weighed 1/n as in the round, lower the validation loss (`exact-mean`: their
mean, so that a set that lacks somebody moves as far). Values are summed over the rounds. What comes
from the Gram matrix never sees the validation set; `root` sees one update that was trained on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from aggregator import contribution as ways
from deploy.lab.experiment import Cell
from deploy.lab.panel import POT, STEP_BITS
from deploy.lab.simulate import Network, network_of, seeds_of, world_of
from marketplace.codec import INT16_MAX, ONE, gram
from marketplace.errors import InputError
from marketplace.scoring import peel_shapley
from trainer.attacks import sign_flip
from trainer.data import Dataset

__all__ = ["SETTINGS", "cosine_distance", "measure", "split_gain"]

Vector = NDArray[np.float64]

VALIDATION = 1000


def _noisy_labels(sets: list[Dataset], rng: np.random.Generator) -> list[Dataset]:
    """Give client i random labels for a part of i / n of its samples."""
    found = []
    for i, data in enumerate(sets):
        labels = data.labels.clone()
        chosen = torch.from_numpy(rng.permutation(len(data))[: len(data) * i // len(sets)])
        drawn = rng.integers(0, data.classes, len(chosen))
        labels[chosen] = torch.from_numpy(drawn)
        found.append(Dataset(data.features, labels, data.classes))
    return found


def _noisy_features(sets: list[Dataset], rng: np.random.Generator) -> list[Dataset]:
    """Add noise to client i's features with a standard deviation of 2 i / n."""
    found = []
    for i, data in enumerate(sets):
        noise = rng.normal(0, 2 * i / len(sets), tuple(data.features.shape)).astype(np.float32)
        found.append(Dataset(data.features + torch.from_numpy(noise), data.labels, data.classes))
    return found


def _unequal_sizes(sets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Leave client i a part of (i + 1) / n of its samples."""
    return [data.subset(np.arange(len(data) * (i + 1) // len(sets))) for i, data in enumerate(sets)]


SETTINGS: dict[str, Callable[[list[Dataset], np.random.Generator], list[Dataset]]] = {
    "adversarial": lambda sets, _: sets,
    "noisy-label": _noisy_labels,
    "unequal-size": _unequal_sizes,
    "noisy-feature": _noisy_features,
}
"""What is wrong with some clients; in `adversarial` the last third flip their update's sign."""


@dataclass(frozen=True)
class _Round:
    """Hold one round: the model before it f32[d], updates f64[n, d], a root trainer's f64[d]."""

    flat: Tensor
    updates: NDArray[np.float64]
    root: Vector
    network: Network
    validation: Dataset

    @property
    def weights(self) -> Vector:
        return np.full(len(self.updates), 1 / len(self.updates))

    def worth(self, members: int, mean: bool = False) -> float:
        n = len(self.updates)
        chosen = [i for i in range(n) if members >> i & 1]
        moved = self.updates[chosen].sum(axis=0) / (max(1, len(chosen)) if mean else n)
        return -self.network.loss(self.flat + torch.from_numpy(moved).float(), self.validation)


def _settled(round_: _Round) -> Vector:
    return np.array(peel_shapley(_in_steps(round_.updates), POT).shares) / POT


def _in_steps(updates: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the Gram matrix as a chain gets it."""
    steps = np.clip(np.rint(updates * 2.0**STEP_BITS), -INT16_MAX - 1, INT16_MAX)
    return gram(steps.astype(np.int16))


def _along_root(round_: _Round) -> Vector:
    rows = np.vstack([round_.root, round_.updates])
    return ways.along_root(rows @ rows.T, round_.weights)


_WAYS: dict[str, Callable[[_Round, np.random.Generator], Vector]] = {
    "exact": lambda r, _: ways.exact_shapley(len(r.updates), r.worth),
    "exact-mean": lambda r, _: ways.exact_shapley(
        len(r.updates), lambda members: r.worth(members, mean=True)
    ),
    "leave-one-out": lambda r, _: ways.leave_one_out(len(r.updates), r.worth),
    "truncated-monte-carlo": lambda r, rng: ways.truncated_monte_carlo(
        len(r.updates), r.worth, rng, orders=2 * len(r.updates)
    ),
    "gtg-shapley": lambda r, rng: ways.gtg_shapley(len(r.updates), r.worth, rng),
    "energy": lambda r, _: ways.energy(r.updates @ r.updates.T, r.weights),
    "agreement": lambda r, _: ways.agreement(r.updates @ r.updates.T, r.weights),
    "PeelShapley": lambda r, _: _settled(r),
    "root": lambda r, _: _along_root(r),
}


def cosine_distance(a: Vector, b: Vector) -> float:
    """Return 1 - cos(a, b), or 1 where one of them is zero."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 - float(a @ b) / size if size else 1.0


def measure(cell: Cell, setting: str) -> Iterator[dict[str, Any]]:
    """Yield one row for each way of counting: rank correlation, distance and cost.

    `spearman` and `distance` compare the sums over the rounds with those of the exact values;
    `seconds` is CPU time a round, `relative` that of the exact values. `paid` holds each client's
    part, negative ones counted as 0.
    """
    if setting not in SETTINGS:
        raise InputError(f"no setting {setting!r}; there are {', '.join(SETTINGS)}")
    n = cell.clients
    world = world_of(replace(cell, attack="none"))
    network = network_of(cell, world.test)
    rng = np.random.default_rng([cell.seed, 3])
    sets = SETTINGS[setting](list(world.clients), rng)
    order = rng.permutation(len(world.test))
    validation = world.test.subset(order[:VALIDATION])
    root_set = world.test.subset(order[:VALIDATION][: cell.samples])
    flat = network.initial(cell.seed)
    sums: dict[str, Vector] = {}
    spent: dict[str, float] = {}

    for number in range(cell.rounds):
        seeds = seeds_of(cell, number)
        updates = network.train(flat, sets, seeds[:n])
        if setting == "adversarial":
            for i in range(n - n // 3, n):
                updates[i] = sign_flip(updates[i])
        root = network.train(flat, [root_set], seeds[n:])[0]
        round_ = _Round(flat, updates, root, network, validation)
        for way, work in _WAYS.items():
            started = time.process_time()
            found = work(round_, rng)
            spent[way] = spent.get(way, 0.0) + time.process_time() - started
            sums[way] = sums.get(way, np.zeros(n)) + found
        flat = flat + torch.from_numpy(updates.mean(axis=0)).float()
    exact = sums["exact"]
    for way, found in sums.items():
        positive = np.maximum(found, 0.0)
        yield {
            "setting": setting,
            "clients": n,
            "seed": cell.seed,
            "way": way,
            "spearman": float(spearmanr(found, exact).statistic),
            "distance": cosine_distance(found, exact),
            "seconds": spent[way] / cell.rounds,
            "relative": spent[way] / spent["exact"],
            "paid": (positive / (positive.sum() or 1.0)).tolist(),
        }


def split_gain(cell: Cell, parts: int) -> dict[str, Any]:
    """Return what a trainer gains by dividing its data over `parts` identities, under PeelShapley.

    `gain` is the pay of all its identities together, over what it is paid as one.
    """
    world = world_of(replace(cell, attack="none"))
    network = network_of(cell, world.test)
    pieces = np.array_split(np.arange(cell.samples), parts)
    split = [*world.clients[1:], *(world.clients[0].subset(piece) for piece in pieces)]
    whole = [*world.clients[1:], world.clients[0]]
    paid = {}
    for name, sets in (("whole", whole), ("split", split)):
        flat, paid[name] = network.initial(cell.seed), 0.0
        for number in range(cell.rounds):
            seeds = [cell.seed * 1_000_003 + number * 1009 + i for i in range(len(sets))]
            updates = network.train(flat, sets, seeds)
            scores = peel_shapley(_in_steps(updates), POT)
            paid[name] += sum(scores.shares[cell.clients - 1 :]) / POT
            moved = np.array(scores.weights) @ updates / ONE
            flat = flat + torch.from_numpy(moved).float()
    return {
        "clients": cell.clients,
        "split": cell.split,
        "seed": cell.seed,
        "parts": parts,
        "gain": paid["split"] / paid["whole"],
    }
