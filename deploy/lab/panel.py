"""Put every rule on trial under one name: a round's updates in, the movement and a verdict out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator import rules
from aggregator.peel import peeled_average
from marketplace.codec import INT16_MAX, ONE, gram
from marketplace.errors import InputError
from marketplace.scoring import RULES, MultiKrumParams

__all__ = ["PANEL", "POT", "STEP_BITS", "Round", "Verdict", "find_rule"]

STEP_BITS = 14
POT = 10**9

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Round:
    """Hold what a rule may look at.

    `updates` f64[n, d]; `sums` f64[n, d] those of all rounds so far, this one included; `memory`
    f64[n, n] what `aggregator.peel.remember` keeps, this round included; `moved` f64[d] the last
    aggregate; `root` f64[d] a root trainer's update; `hostile` how many attackers a rule that must
    be told expects (all that there are); `honest` bool[n] is for the oracle alone.
    """

    updates: Vectors
    sums: Vectors
    memory: NDArray[np.float64]
    moved: NDArray[np.float64]
    root: NDArray[np.float64] | None
    hostile: int
    honest: NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Hold the movement f64[d], who counts for nothing, who is slashed, and shares that sum to 1.

    Only rules that settle slash; bool[n] both.
    """

    movement: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    slashed: NDArray[np.bool_]
    shares: NDArray[np.float64]


def _by_weights(round_: Round, weights: NDArray[np.float64]) -> Verdict:
    """Pay Shapley shares of ‖Σ w_i u_i‖²; who weighs next to nothing is rejected."""
    updates = round_.updates
    movement = weights @ updates
    values = np.maximum(weights * (updates @ movement), 0.0)
    total = values.sum()
    shares = values / total if total > 0 else np.full(len(values), 1 / len(values))
    rejected = weights < 1e-3 / len(weights)
    return Verdict(movement, rejected, np.zeros_like(rejected), shares)


def _on_gram(rule: Callable[[Vectors, int], NDArray[np.float64]]) -> Callable[[Round], Verdict]:
    def decide(round_: Round) -> Verdict:
        return _by_weights(round_, rule(round_.updates @ round_.updates.T, round_.hostile))

    return decide


def _oracle(round_: Round) -> Verdict:
    return _by_weights(round_, round_.honest / round_.honest.sum())


def _centered_clipping(round_: Round) -> Verdict:
    rows = np.vstack([round_.moved, round_.updates])
    weights = rules.centered_clipping(rows @ rows.T)
    found = _by_weights(round_, weights[1:])
    return Verdict(weights @ rows, found.rejected, found.slashed, found.shares)


def _fools_gold(round_: Round) -> Verdict:
    return _by_weights(round_, rules.fools_gold(round_.sums @ round_.sums.T))


def _fl_trust(round_: Round) -> Verdict:
    if round_.root is None:
        raise InputError("fl-trust needs a root trainer")
    rows = np.vstack([round_.root, round_.updates])
    weights = rules.fl_trust(rows @ rows.T)
    found = _by_weights(round_, weights[1:])
    return Verdict(weights @ rows, found.rejected, found.slashed, found.shares)


def _on_vectors(
    rule: Callable[[Vectors, int], NDArray[np.float64]], mix: bool
) -> Callable[[Round], Verdict]:
    def decide(round_: Round) -> Verdict:
        updates, n = round_.updates, len(round_.updates)
        if mix:
            updates = rules.mix_nearest(updates @ updates.T, round_.hostile) @ updates
        nobody = np.zeros(n, bool)
        return Verdict(rule(updates, round_.hostile), nobody, nobody, np.full(n, 1 / n))

    return decide


def _settled(name: str, params: bytes) -> Callable[[Round], Verdict]:
    """Decide as the chain would: from int16 updates, in integers."""

    def decide(round_: Round) -> Verdict:
        steps = np.clip(np.rint(round_.updates * 2.0**STEP_BITS), -INT16_MAX - 1, INT16_MAX)
        scores = RULES[name](params, gram(steps.astype(np.int16)), POT)
        weights = np.array(scores.weights) / ONE
        return Verdict(
            weights @ steps * 2.0**-STEP_BITS,
            weights == 0,
            np.array(scores.outliers),
            np.array(scores.shares, dtype=np.float64) / POT,
        )

    return decide


PANEL: dict[str, Callable[[Round], Verdict]] = {
    "oracle": _oracle,
    "fed-avg": _on_gram(lambda gram, _: rules.fed_avg(gram)),
    "norm-clipping": _on_gram(lambda gram, _: rules.norm_clipping(gram)),
    "krum": _on_gram(rules.krum),
    "multi-krum": _on_gram(rules.multi_krum),
    "nnm-multi-krum": _on_gram(
        lambda gram, f: rules.mixed(lambda mixed: rules.multi_krum(mixed, f), gram, f)
    ),
    "geometric-median": _on_gram(lambda gram, _: rules.geometric_median(gram)),
    "centered-clipping": _centered_clipping,
    "fools-gold": _fools_gold,
    "fl-trust": _fl_trust,
    "spectral-filter": _on_gram(rules.spectral_filter),
    "median": _on_vectors(lambda updates, _: rules.coordinate_median(updates), mix=False),
    "trimmed-mean": _on_vectors(rules.trimmed_mean, mix=False),
    "nnm-trimmed-mean": _on_vectors(rules.trimmed_mean, mix=True),
    "peel": _on_gram(lambda gram, _: peeled_average(gram)),
    "peel-memory": lambda round_: _by_weights(
        round_, peeled_average(round_.updates @ round_.updates.T, round_.memory)
    ),
    "MultiKrumShapley": _settled("MultiKrumShapley", MultiKrumParams().pack()),
    "PeelShapley": _settled("PeelShapley", bytes(32)),
}
"""Rules by name; those that settle bear the name of their contract."""


def find_rule(name: str) -> Callable[[Round], Verdict]:
    """Return a rule by its name; InputError where there is none."""
    if name not in PANEL:
        raise InputError(f"no rule {name!r}; there are {', '.join(PANEL)}")
    return PANEL[name]
