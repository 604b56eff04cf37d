"""Put every rule on trial under one name: a round's updates in, the movement and a verdict out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator import rules
from aggregator.peel import peeled_average
from marketplace.codec import INT16_MAX, ONE, gram
from marketplace.errors import InputError
from marketplace.scoring import DEFAULT_PARAMS, RULES

__all__ = ["PANEL", "POT", "STEP_BITS", "Round", "Rule", "Verdict", "find_rule"]

STEP_BITS = 14
POT = 10**9

Vectors = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Round:
    """Hold what a rule may look at.

    `updates` f64[n, d]; `past` f64[n, n] the Gram matrix of each client's sum of updates so far,
    this round included; `memory` f64[n, n] what `aggregator.peel.remember` keeps, likewise;
    `moved` f64[d] the last aggregate; `root` f64[d] a root trainer's update; `hostile` how many
    attackers a rule that must be told expects (all that there are); `honest` bool[n] is for the
    oracle alone. `past`, `memory` and `root` are None unless the rule `NEEDS` them.
    """

    updates: Vectors
    past: Matrix | None
    memory: Matrix | None
    moved: NDArray[np.float64]
    root: NDArray[np.float64] | None
    hostile: int
    honest: NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Hold the movement f64[d], who counts for nothing, who is slashed, and shares that sum to 1.

    Only rules that settle slash; bool[n] both. `seconds` of CPU took the rule from its Gram matrix
    (which is not counted) to weights, verdicts and shares.
    """

    movement: NDArray[np.float64]
    rejected: NDArray[np.bool_]
    slashed: NDArray[np.bool_]
    shares: NDArray[np.float64]
    seconds: float


Rule = Callable[[Round], Verdict]


def _on_rows(
    rows: Callable[[Round], Vectors], weigh: Callable[[Matrix, Round], NDArray[np.float64]]
) -> Rule:
    """Weigh rows, of which the last n are the updates, by their Gram matrix.

    Pays Shapley shares of ‖Σ w_i u_i‖²; who weighs next to nothing is rejected.
    """

    def decide(round_: Round) -> Verdict:
        seen, n = rows(round_), len(round_.updates)
        matrix = seen @ seen.T
        started = time.process_time()
        weights = weigh(matrix, round_)
        own = weights[-n:]
        values = np.maximum(own * (matrix[-n:, -n:] @ own), 0.0)
        total = values.sum()
        shares = values / total if total > 0 else np.full(n, 1 / n)
        rejected = own < 1e-3 / n
        spent = time.process_time() - started
        return Verdict(weights @ seen, rejected, np.zeros_like(rejected), shares, spent)

    return decide


def _on_gram(rule: Callable[[Matrix, int], NDArray[np.float64]]) -> Rule:
    return _on_rows(lambda r: r.updates, lambda matrix, r: rule(matrix, r.hostile))


def _given(what: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if what is None:
        raise InputError("the rule looks at something that the round was not given; see NEEDS")
    return what


def _on_vectors(rule: Callable[[Vectors, int], NDArray[np.float64]], mix: bool) -> Rule:
    def decide(round_: Round) -> Verdict:
        updates, n = round_.updates, len(round_.updates)
        started = time.process_time()
        if mix:
            updates = rules.mix_nearest(updates @ updates.T, round_.hostile) @ updates
        moved, nobody = rule(updates, round_.hostile), np.zeros(n, bool)
        spent = time.process_time() - started
        return Verdict(moved, nobody, nobody, np.full(n, 1 / n), spent)

    return decide


def _settled(name: str, rooted: bool = False) -> Rule:
    """Decide as the chain would: from int16 updates, in integers; a root's row comes last."""

    def decide(round_: Round) -> Verdict:
        n = len(round_.updates)
        rows = np.vstack([round_.updates, _given(round_.root)]) if rooted else round_.updates
        steps = np.clip(np.rint(rows * 2.0**STEP_BITS), -INT16_MAX - 1, INT16_MAX)
        matrix = gram(steps.astype(np.int16))
        started = time.process_time()
        scores = RULES[name](DEFAULT_PARAMS[name], matrix, POT, n if rooted else None)
        spent = time.process_time() - started
        weights = np.array(scores.weights[:n]) / ONE
        return Verdict(
            weights @ steps[:n] * 2.0**-STEP_BITS,
            weights == 0,
            np.array(scores.outliers[:n]),
            np.array(scores.shares[:n], dtype=np.float64) / POT,
            spent,
        )

    return decide


PANEL: dict[str, Rule] = {
    "oracle": _on_rows(lambda r: r.updates, lambda _, r: r.honest / r.honest.sum()),
    "fed-avg": _on_gram(lambda gram, _: rules.fed_avg(gram)),
    "norm-clipping": _on_gram(lambda gram, _: rules.norm_clipping(gram)),
    "krum": _on_gram(rules.krum),
    "multi-krum": _on_gram(rules.multi_krum),
    "nnm-multi-krum": _on_gram(
        lambda gram, f: rules.mixed(lambda mixed: rules.multi_krum(mixed, f), gram, f)
    ),
    "geometric-median": _on_gram(lambda gram, _: rules.geometric_median(gram)),
    "centered-clipping": _on_rows(
        lambda r: np.vstack([r.moved, r.updates]), lambda matrix, _: rules.centered_clipping(matrix)
    ),
    "fools-gold": _on_rows(lambda r: r.updates, lambda _, r: rules.fools_gold(_given(r.past))),
    "fl-trust": _on_rows(
        lambda r: np.vstack([_given(r.root), r.updates]), lambda matrix, _: rules.fl_trust(matrix)
    ),
    "spectral-filter": _on_gram(rules.spectral_filter),
    "median": _on_vectors(lambda updates, _: rules.coordinate_median(updates), mix=False),
    "trimmed-mean": _on_vectors(rules.trimmed_mean, mix=False),
    "nnm-trimmed-mean": _on_vectors(rules.trimmed_mean, mix=True),
    "peel": _on_gram(lambda gram, _: peeled_average(gram)),
    "peel-memory": _on_rows(
        lambda r: r.updates, lambda matrix, r: peeled_average(matrix, _given(r.memory))
    ),
    "MultiKrumShapley": _settled("MultiKrumShapley"),
    "PeelShapley": _settled("PeelShapley"),
    "MultiKrumShapley+root": _settled("MultiKrumShapley", rooted=True),
    "PeelShapley+root": _settled("PeelShapley", rooted=True),
}
"""Rules by name; those that settle bear the name of their contract."""


NEEDS = {
    "fl-trust": "root",
    "MultiKrumShapley+root": "root",
    "PeelShapley+root": "root",
    "fools-gold": "past",
    "peel-memory": "memory",
}
"""What a rule looks at beyond the round's updates; it is made for no other."""

ROOT_SAMPLES = 100


def find_rule(text: str) -> tuple[Rule, str | None, int]:
    """Return a rule, what it `NEEDS`, and how many samples its root trainer has.

    Rules are written NAME, those with a root NAME:SAMPLES, too; InputError where there is none.
    """
    name, _, samples = text.partition(":")
    if name not in PANEL:
        raise InputError(f"no rule {name!r}; there are {', '.join(PANEL)}")
    needs = NEEDS.get(name)
    if samples and (needs != "root" or not samples.isdecimal() or int(samples) < 1):
        raise InputError(f"rule {text!r}: a number says how many samples a root trainer has")
    return PANEL[name], needs, int(samples or ROOT_SAMPLES)
