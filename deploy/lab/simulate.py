"""Run one cell of an experiment: train, attack, weigh, move, round by round, and measure.

Pure apart from reading the data set: the same cell gives the same result on one machine, whatever
ran before. Everything that a seed decides (data, order, initial model) is the same for every rule
and attack.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aggregator.peel import remember
from deploy.lab import dense
from deploy.lab.experiment import Cell
from deploy.lab.panel import Round, find_rule
from deploy.lab.plays import TARGET, Scene, find_play
from deploy.lab.workers import Train, TrainSome, workers
from marketplace.codec import Training
from marketplace.errors import InputError
from trainer.attacks import stamp
from trainer.data import Dataset, load, split_shards
from trainer.models import BUILT_IN, build, flatten
from trainer.privacy import Privacy, spent, train_private
from trainer.training import evaluate, train_local

__all__ = ["Network", "divide", "network_of", "run", "seeds_of", "world_of"]


@dataclass(frozen=True)
class Network:
    """Train and measure one kind of model; parameters are vectors f32[d].

    `together` says that clients train in one batch, which several processes would not do faster.
    """

    initial: Callable[[int], Tensor]
    train: Train
    accuracy: Callable[[Tensor, Dataset], float]
    loss: Callable[[Tensor, Dataset], float]
    together: bool


def network_of(cell: Cell, sample: Dataset) -> Network:
    """Return the cell's kind of model for samples like those given.

    Dense models train all clients together, others one client at a time; each of the seeds that
    `train` takes fixes the order of one client's samples.
    """
    name, _, text = cell.model.partition(":")
    if name == "dense":
        if cell.noise:
            raise InputError(
                f"model {cell.model!r} trains without noise; name another, such as mlp"
            )
        try:
            hidden = [int(part) for part in text.split(",")] if text else []
        except ValueError:
            raise InputError(f"model {cell.model!r}: write dense:64,64 for two layers") from None
        widths = (sample.features[0].numel(), *hidden, sample.classes)
        return _dense(cell, widths)
    return _module(cell, name, sample)


def _dense(cell: Cell, widths: tuple[int, ...]) -> Network:
    def train(flat: Tensor, sets: Sequence[Dataset], seeds: Sequence[int]) -> NDArray[np.float64]:
        most = max(len(data) for data in sets)
        features = torch.zeros(len(sets), most, widths[0])
        labels = torch.zeros(len(sets), most, dtype=torch.int64)
        orders = torch.full((cell.epochs, len(sets), most), -1)
        for i, (data, seed) in enumerate(zip(sets, seeds, strict=True)):
            size = len(data)
            features[i, :size] = data.features.reshape(size, -1)
            labels[i, :size] = data.labels
            generator = torch.Generator().manual_seed(seed)
            for epoch in range(cell.epochs):
                orders[epoch, i, :size] = torch.randperm(size, generator=generator)
        deltas = dense.train_clients(
            flat, widths, features, labels, cell.learning_rate, cell.batch_size, list(orders)
        )
        return deltas.double().numpy()

    return Network(
        lambda seed: dense.initial(widths, seed),
        train,
        lambda flat, data: dense.accuracy(
            flat, widths, data.features.reshape(len(data), -1), data.labels
        ),
        lambda flat, data: dense.loss(
            flat, widths, data.features.reshape(len(data), -1), data.labels
        ),
        together=True,
    )


def _training_of(cell: Cell) -> Training:
    return Training("sgd", cell.learning_rate, cell.batch_size, cell.epochs, 0.0)


def _module(cell: Cell, name: str, sample: Dataset) -> Network:
    shape = sample.features.shape[1:]
    sizes = {
        "features": shape.numel(),
        "channels": shape[0],
        "size": shape[-1],
        "classes": sample.classes,
    }
    known = inspect.signature(BUILT_IN[name]).parameters if name in BUILT_IN else {}
    options = {option: value for option, value in sizes.items() if option in known}
    module = build(name, options, 0)
    training = _training_of(cell)

    def train(flat: Tensor, sets: Sequence[Dataset], seeds: Sequence[int]) -> NDArray[np.float64]:
        start = flat.numpy()
        if cell.noise:
            return np.array(
                [
                    train_private(
                        module,
                        start,
                        data,
                        training,
                        Privacy(cell.noise),
                        torch.Generator().manual_seed(seed),
                    )
                    for data, seed in zip(sets, seeds, strict=True)
                ]
            )
        return np.array(
            [
                train_local(module, start, data, training, seed)
                for data, seed in zip(sets, seeds, strict=True)
            ]
        )

    return Network(
        lambda seed: torch.from_numpy(flatten(build(name, options, seed))),
        train,
        lambda flat, data: evaluate(module, flat.numpy(), data).accuracy,
        lambda flat, data: evaluate(module, flat.numpy(), data).loss,
        together=False,
    )


def divide(
    labels: NDArray[np.int64], clients: int, samples: int, split: str, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return which samples each client holds: `samples` each, none twice.

    `dirichlet:ALPHA` draws each client's label distribution (Hsu et al. 2019, arXiv:1909.06335,
    section 3), `shards` deals two label-sorted shards to each (McMahan et al. 2017, section 3).
    """
    if clients * samples > len(labels):
        raise InputError(
            f"{clients} clients of {samples} samples need {clients * samples:,}; "
            f"the data set has {len(labels):,}"
        )
    order = rng.permutation(len(labels))
    if split == "iid":
        return list(order[: clients * samples].reshape(clients, samples))
    if split == "shards":
        chosen = order[: clients * samples]
        return [chosen[part] for part in split_shards(labels[chosen], clients, rng)]
    kind, _, text = split.partition(":")
    try:
        alpha = float(text)
    except ValueError:
        alpha = 0.0
    if kind != "dirichlet" or not 0 < alpha < float("inf"):
        raise InputError(f"split {split!r} is none of iid, shards, dirichlet:ALPHA")
    classes = np.unique(labels)
    pools = [order[labels[order] == label].tolist() for label in classes]
    held = []
    for _ in range(clients):
        wishes = rng.choice(len(classes), samples, p=rng.dirichlet(np.full(len(classes), alpha)))
        hand = []
        for wish in wishes:
            # A class that ran out is replaced by the one of which most is left.
            pool = pools[wish] or max(pools, key=len)
            hand.append(pool.pop())
        held.append(np.array(hand))
    return held


@lru_cache(maxsize=4)
def _load(spec: str) -> Dataset:
    return load(os.path.expandvars(spec))


@dataclass(frozen=True)
class World:
    """Hold what a cell's seed decides: the clients' data, the test set, a root trainer's data."""

    clients: list[Dataset]
    test: Dataset
    root: Dataset


def world_of(cell: Cell) -> World:
    """Return the data of a cell's clients; those of the root trainer belong to none of them."""
    train, test = _load(f"{cell.data}#train"), _load(f"{cell.data}#test")
    rng = np.random.default_rng([cell.seed, 1])
    held = divide(train.labels.numpy(), cell.clients, cell.samples, cell.split, rng)
    free = np.setdiff1d(np.arange(len(train)), np.concatenate(held))
    _, _, samples = find_rule(cell.rule)
    root = rng.permutation(free if len(free) else len(train))[:samples]
    # A root trainer takes as many local steps as the others (Cao et al. 2021, section 4.2).
    root = np.resize(root, cell.samples)
    return World([train.subset(part) for part in held], test, train.subset(root))


def _stamped(test: Dataset) -> Dataset:
    """Return the test images of other classes, stamped, all labelled with the backdoor's."""
    chosen = test.labels != TARGET
    features = stamp(test.features[chosen])
    return Dataset(features, torch.full((len(features),), TARGET), test.classes)


def seeds_of(cell: Cell, number: int) -> list[int]:
    """Return what fixes each client's order of samples in a round, and last the root trainer's."""
    return [cell.seed * 1_000_003 + number * 1009 + i for i in range(cell.clients + 1)]


@contextmanager
def _training(network: Network, sets: Sequence[Dataset], d: int, count: int) -> Iterator[TrainSome]:
    if count == 1 or network.together:
        yield lambda flat, which, seeds: network.train(flat, [sets[i] for i in which], seeds)
        return
    with workers(network.train, sets, d, min(count, len(sets))) as train:
        yield train


def run(
    cell: Cell, watch: Callable[[int, Round], None] | None = None, processes: int = 1
) -> dict[str, Any]:
    """Run a cell and return its fields with what was measured.

    `accuracy` and `success` (the part of stamped images that the backdoor leads to its class) of
    the final model; `epsilon` that each client spent, 0 without noise; `verdicts` of each client, a
    letter a round: `.` counted, `a` set aside, `s` slashed; `shares` of each client, summed over
    the rounds; `rule_ms` the rule's median CPU time from its Gram matrix; `seconds` of CPU in all.
    `watch` is shown every round as the rule sees it; the next round may overwrite its updates.
    Clients train in as many `processes`, unless their model trains them all in one batch; what is
    measured is the same.
    """
    started = _cpu_seconds()
    world = world_of(cell)
    network = network_of(cell, world.test)
    rule, needs, _ = find_rule(cell.rule)
    n, hostile = cell.clients, cell.hostile
    play, strength = find_play(cell.attack) if hostile else (None, 0.0)
    rng = np.random.default_rng([cell.seed, 2])
    sets = list(world.clients)
    if play is not None and play.poison is not None:
        for i in range(n - hostile, n):
            sets[i] = play.poison(sets[i], strength, rng)
    trained = n if play is None or play.trains else n - hostile
    flat = network.initial(cell.seed)
    d = len(flat)
    model = flat.double().numpy()
    memory: NDArray[np.float64] | None = None
    before: NDArray[np.float64] | None = None
    sums, moved = np.zeros((n, d) if needs == "past" else (n, 0)), np.zeros(d)
    honest = np.arange(n) < n - hostile
    verdicts, shares, times = [""] * n, np.zeros(n), []

    def as_round(updates: NDArray[np.float64], root: NDArray[np.float64] | None) -> Round:
        past = seen = None
        if needs == "past":
            so_far = sums + updates
            past = so_far @ so_far.T
        elif needs == "memory":
            seen = remember(memory, updates @ updates.T)
        return Round(updates, past, seen, moved, root, hostile, honest)

    with _training(network, [*sets, world.root], d, processes) as train:
        for number in range(cell.rounds):
            seeds = seeds_of(cell, number)
            current = torch.from_numpy(model).float()
            root = train(current, [n], seeds[n:])[0].copy() if needs == "root" else None
            deltas = train(current, range(trained), seeds[:trained])
            if play is not None:
                own = np.zeros((hostile, d))
                own[: trained - (n - hostile)] = deltas[n - hostile :]

                def accepted(tried: NDArray[np.float64], root: Any = root) -> bool:
                    return not rule(as_round(tried, root)).rejected[n - hostile :].any()

                scene = Scene(
                    deltas[: n - hostile], before, own, moved, root, number, strength, rng, accepted
                )
                before = scene.honest
                deltas = np.vstack([before, play.send(scene)])
            round_ = as_round(deltas, root)
            if watch is not None:
                watch(number, round_)
            verdict = rule(round_)
            times.append(verdict.seconds)
            if needs == "past":
                sums = sums + deltas
            memory, moved = round_.memory, verdict.movement
            for i in range(n):
                verdicts[i] += "s" if verdict.slashed[i] else "a" if verdict.rejected[i] else "."
            shares += verdict.shares
            model = model + verdict.movement
    flat = torch.from_numpy(model).float()
    epsilon = 0.0
    if cell.noise:
        epsilon = spent(Privacy(cell.noise), cell.samples, _training_of(cell), cell.rounds)
    return {
        **asdict(cell),
        "accuracy": network.accuracy(flat, world.test),
        "success": network.accuracy(flat, _stamped(world.test)),
        "epsilon": epsilon,
        "verdicts": verdicts,
        "shares": [round(share, 6) for share in shares.tolist()],
        "rule_ms": 1000 * float(np.median(times)),
        "seconds": _cpu_seconds() - started,
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it waited for."""
    return sum(os.times()[:4])
