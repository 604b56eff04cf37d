"""Compare ways of saying who contributed what with the exact Shapley value on a validation set.

In every round the clients train from the same model; the worth of a set of them is by how much
their updates, each weighed 1/n as in the round, lower the validation loss (`exact-mean`: their
mean, so that a set that lacks somebody moves as far). Values are summed over the rounds. What comes
from the Gram matrix never sees the validation set; `root` sees one update that was trained on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
from deploy.lab.simulate import Network, World, network_of, seeds_of, world_of
from marketplace.codec import INT16_MAX, ONE, gram
from marketplace.errors import InputError
from marketplace.scoring import DEFAULT_PARAMS, RULES
from trainer.attacks import sign_flip
from trainer.data import Dataset

__all__ = ["SETTINGS", "cosine_distance", "measure", "rank_correlation", "split_gain"]

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
"""What is wrong with some clients. In `adversarial` the last third flip their update's sign, and
the data are divided by Dirichlet 0.5, so that there is something to rank the others by."""


@dataclass(frozen=True)
class _Round:
    """Hold one round: the model before it f32[d], updates f64[n, d], a root trainer's f64[d].

    `sent` int16[n + 1, d] are all of them in steps, the root's last.
    """

    flat: Tensor
    updates: NDArray[np.float64]
    root: Vector
    sent: NDArray[np.int16]
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


def _settled(name: str, rooted: bool = False) -> Callable[[_Round], Vector]:
    """Return what the rule pays of each pot, by the root's row or without one."""

    def paid(round_: _Round) -> Vector:
        n = len(round_.updates)
        matrix = gram(round_.sent if rooted else round_.sent[:n])
        scores = RULES[name](DEFAULT_PARAMS[name], matrix, POT, n if rooted else None)
        return np.array(scores.shares[:n]) / POT

    return paid


def _in_steps(updates: NDArray[np.float64]) -> NDArray[np.int16]:
    """Return updates as trainers send them."""
    steps = np.clip(np.rint(updates * 2.0**STEP_BITS), -INT16_MAX - 1, INT16_MAX)
    return steps.astype(np.int16)


def _along_root(round_: _Round) -> Vector:
    rows = np.vstack([round_.root, round_.updates])
    return ways.along_root(rows @ rows.T, round_.weights)


_PAID = {
    "PeelShapley": _settled("PeelShapley"),
    "PeelShapley+root": _settled("PeelShapley", rooted=True),
    "MultiKrumShapley": _settled("MultiKrumShapley"),
    "MultiKrumShapley+root": _settled("MultiKrumShapley", rooted=True),
}
"""What trainers are paid. Nobody pays in, so that less than nothing counts as nothing."""

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
    "root": lambda r, _: _along_root(r),
}


def cosine_distance(a: Vector, b: Vector) -> float:
    """Return 1 - cos(a, b), or 1 where one of them is zero."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 - float(a @ b) / size if size else 1.0


def rank_correlation(a: Vector, b: Vector) -> float:
    """Return Spearman's coefficient, or 0 where one of them ranks nobody."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def measure(cell: Cell, setting: str, stops: Collection[int] = ()) -> Iterator[dict[str, Any]]:
    """Yield one row for each way of counting: rank correlation, distance and cost.

    After the last round, and after as many rounds as `stops` name, with all until then summed up.
    `spearman` and `distance` compare the sums over the rounds with those of the exact values, what
    is paid with their positive part; `seconds` is CPU time a round, `relative` that of the exact
    values. `paid` holds each client's part, negative ones counted as 0.
    """
    if setting not in SETTINGS:
        raise InputError(f"no setting {setting!r}; there are {', '.join(SETTINGS)}")
    n = cell.clients
    if setting == "adversarial":
        cell = replace(cell, split="dirichlet:0.5")
    world = world_of(replace(cell, attack="none"))
    network = network_of(cell, world.test)
    rng = np.random.default_rng([cell.seed, 3])
    sets = SETTINGS[setting](list(world.clients), rng)
    validation = world.test.subset(rng.permutation(len(world.test))[:VALIDATION])
    flat = network.initial(cell.seed)
    sums: dict[str, Vector] = {}
    spent: dict[str, float] = {}

    for number in range(cell.rounds):
        seeds = seeds_of(cell, number)
        updates = network.train(flat, sets, seeds[:n])
        if setting == "adversarial":
            for i in range(n - n // 3, n):
                updates[i] = sign_flip(updates[i])
        root = network.train(flat, [world.root], seeds[n:])[0]
        sent = _in_steps(np.vstack([updates, root]))
        round_ = _Round(flat, updates, root, sent, network, validation)
        for way in (*_WAYS, *_PAID):
            started = time.process_time()
            found = _PAID[way](round_) if way in _PAID else _WAYS[way](round_, rng)
            spent[way] = spent.get(way, 0.0) + time.process_time() - started
            sums[way] = sums.get(way, np.zeros(n)) + found
        flat = flat + torch.from_numpy(updates.mean(axis=0)).float()
        if number + 1 in {*stops, cell.rounds}:
            yield from _compared(replace(cell, rounds=number + 1), setting, sums, spent)


def _compared(
    cell: Cell, setting: str, sums: Mapping[str, Vector], spent: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way, from what it found in all of the cell's rounds and how long."""
    exact = sums["exact"]
    for way, found in sums.items():
        positive = np.maximum(found, 0.0)
        truth = np.maximum(exact, 0.0) if way in _PAID else exact
        yield {
            "setting": setting,
            "clients": cell.clients,
            "rounds": cell.rounds,
            "seed": cell.seed,
            "way": way,
            "spearman": rank_correlation(found, truth),
            "distance": cosine_distance(found, truth),
            "seconds": spent[way] / cell.rounds,
            "relative": spent[way] / spent["exact"],
            "paid": (positive / (positive.sum() or 1.0)).tolist(),
        }


def split_gain(cell: Cell, parts: int, longer: bool = False) -> dict[str, Any]:
    """Return what a trainer gains by dividing its data over `parts` identities, by rule.

    `gain` is the pay of all its identities together, over what it is paid as one, under PeelShapley
    and, as `rooted`, with a root trainer. With `longer` each identity passes over its part as often
    as makes up for its size.
    """
    world = world_of(replace(cell, attack="none"))
    network = network_of(cell, world.test)
    pieces = np.array_split(np.arange(cell.samples), parts)
    if longer:
        pieces = [np.tile(piece, parts) for piece in pieces]
    split = [*world.clients[1:], *(world.clients[0].subset(piece) for piece in pieces)]
    whole = [*world.clients[1:], world.clients[0]]
    gains = {}
    for name, rooted in (("gain", False), ("rooted", True)):
        paid = [_paid_last(cell, network, world, sets, rooted) for sets in (split, whole)]
        gains[name] = paid[0] / paid[1]
    return {
        "clients": cell.clients,
        "split": cell.split,
        "rounds": cell.rounds,
        "seed": cell.seed,
        "parts": parts,
        "longer": longer,
        **gains,
    }


def _paid_last(
    cell: Cell, network: Network, world: World, sets: list[Dataset], rooted: bool
) -> float:
    """Return the pots that PeelShapley pays in all to those after the first `clients` - 1."""
    flat, paid, n = network.initial(cell.seed), 0.0, len(sets)
    for number in range(cell.rounds):
        seeds = seeds_of(replace(cell, clients=n), number)
        updates = network.train(flat, [*sets, world.root], seeds)
        matrix = gram(_in_steps(updates if rooted else updates[:n]))
        scores = RULES["PeelShapley"](
            DEFAULT_PARAMS["PeelShapley"], matrix, POT, n if rooted else None
        )
        paid += sum(scores.shares[cell.clients - 1 : n]) / POT
        moved = np.array(scores.weights[:n]) @ updates[:n] / ONE
        flat = flat + torch.from_numpy(moved).float()
    return paid
