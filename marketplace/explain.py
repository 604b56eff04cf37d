"""Say step by step why an update was paid what it was: "why was I paid this".

Pure: a settlement's matrix and records in, numbers and words out. The numbers are computed again
from the matrix by the project's rule, and must be those that the chain recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketplace.codec import ONE, unpack_gram
from marketplace.errors import NotFoundError, ProofError
from marketplace.payout import Record
from marketplace.peel import peel
from marketplace.scoring import RULES, MultiKrumParams, Scores, counted, rank
from marketplace.types import Exclusion, Params

__all__ = ["Explanation", "Line", "explain"]


@dataclass(frozen=True)
class Line:
    """Hold one step: its exact value as text, as people read it, and the formula in words."""

    name: str
    value: str
    shown: str
    formula: str


@dataclass(frozen=True)
class Explanation:
    """Say why a trainer was paid what it was for a round.

    `products` are the inner products of its update with each scored one, by trainer, in steps²;
    `distance_rank` is 1 for the update that is closest to the others, None where the rule measures
    no distance.
    """

    trainer: str
    verdict: str
    lines: tuple[Line, ...]
    products: Mapping[str, int]
    distance_rank: int | None
    record: Record


@dataclass(frozen=True)
class _Scored:
    """Hold what a rule is explained from, without the root's row; `k` is the row of the update.

    `along` has the products with the root's update, None where no root is believed.
    """

    params: Params
    matrix: NDArray[np.int64]
    scores: Scores
    k: int
    along: Sequence[int] | None


def explain(
    params: Params,
    rule: str | None,
    trainers: Sequence[str],
    records: Sequence[Record],
    gram: bytes,
    trainer: str,
    stake: int | None = None,
) -> Explanation:
    """Explain what a settled round brought a trainer.

    `trainers` and `records` are those of the round's reveals in their order; `stake` is what the
    trainer had left after it, if known; `rule` is the name of the project's scoring rule, None
    where it is not known here. Raises NotFoundError where the trainer revealed nothing in the
    round, ProofError where the rule gives other scores than the chain recorded.
    """
    if trainer not in trainers:
        raise NotFoundError(
            f"{trainer} revealed no update in this round; these did: {', '.join(trainers)}"
        )
    record = records[list(trainers).index(trainer)]
    if record.reason:
        return _left_out(trainer, record)
    scored = [
        (who, entry) for who, entry in zip(trainers, records, strict=True) if not entry.reason
    ]
    names = [who for who, _ in scored]
    matrix = unpack_gram(gram, len(scored))
    root = params.root_row(names)
    recorded = Scores(
        tuple(entry.weight for _, entry in scored),
        tuple(entry.share for _, entry in scored),
        tuple(entry.outlier for _, entry in scored),
    )
    score = RULES.get(rule or "")
    if score is not None and score(params.rule_params, matrix, params.reward, root) != recorded:
        raise ProofError(
            f"{rule} scores this matrix otherwise than the chain recorded; the deployment's file "
            "may name another contract by that name"
        )
    row = names.index(trainer)
    lines, distance_rank = _geometry(params, int(matrix[row, row])), None
    others = [i for i in range(len(names)) if i != root]
    products: list[int] = [] if root is None else matrix[root, others].tolist()
    if row == root:
        if score is not None:
            plain = score(params.rule_params, matrix[np.ix_(others, others)], params.reward)
            lines += _root_lines(plain, products)
        verdict = _ROOT_ASIDE if record.outlier else _ROOT_BELIEVED
    else:
        believed = root is not None and not recorded.outliers[root]
        case = _Scored(
            params,
            matrix[np.ix_(others, others)],
            _only(recorded, others),
            others.index(row),
            products if believed else None,
        )
        more = _RULES.get(rule or "")
        if more is not None:
            its_lines, distance_rank = more(case)
            lines += its_lines
        if params.root_trainer is not None:
            lines += _along_root(root is not None, case)
        lines += [*_money(case, rule in _OTHERS_ONLY), *_standing(params, record, stake)]
        verdict = _verdict(params, record)
    return Explanation(
        trainer,
        verdict,
        tuple(lines),
        dict(zip(names, matrix[row].tolist(), strict=True)),
        distance_rank,
        record,
    )


def _only(scores: Scores, rows: Sequence[int]) -> Scores:
    return Scores(
        tuple(scores.weights[i] for i in rows),
        tuple(scores.shares[i] for i in rows),
        tuple(scores.outliers[i] for i in rows),
    )


def _left_out(trainer: str, record: Record) -> Explanation:
    meaning = _REASONS.get(record.reason, "the aggregator gave a reason of its own")
    line = Line(
        "exclusion",
        str(record.reason),
        meaning,
        "the aggregator left the update out; who the project names as such may, with a reason",
    )
    verdict = f"The update was left out ({meaning}): no pay, and no stake lost."
    return Explanation(trainer, verdict, (line,), {}, None, record)


_REASONS: Mapping[int, str] = {
    Exclusion.UNAVAILABLE: "its content could not be fetched",
    Exclusion.MALFORMED: "its content is no update",
    Exclusion.MISMATCH: "its content is not what was committed to",
    Exclusion.BAD_POINT: "its commitment is no point of the curve's group",
    Exclusion.DUPLICATE: "its commitment repeats an earlier one",
    Exclusion.OUT_OF_RANGE: "it is longer than the project's clip norm",
}


def _verdict(params: Params, record: Record) -> str:
    if record.outlier:
        gone = " The stake is used up, so the trainer is inactive." if record.deactivated else ""
        return (
            f"The update is an outlier: no pay, strike {record.strikes}, and "
            f"{record.slashed} of {params.stake} units of stake lost.{gone}"
        )
    if not record.weight:
        return "The rule set the update aside: no weight in the model, no pay, and no stake lost."
    percent = 100 * record.share / params.reward if params.reward else 0.0
    return f"The update counted and earned {percent:.2f} % of the round's pot."


def _geometry(params: Params, square: int) -> list[Line]:
    length = max(0, square) ** 0.5
    return [
        Line(
            "squared norm",
            str(square),
            f"{square:,} steps²",
            "inner product of the update with itself",
        ),
        Line(
            "norm",
            f"{length:.3f}",
            f"{length * 2.0**-params.step_bits:.6g}",
            f"square root of the squared norm; one step is 2^-{params.step_bits}",
        ),
    ]


_ROOT_BELIEVED = (
    "This is the root trainer's update: the pot was divided by the inner products with it. It has "
    "no weight in the model and no pay of its own."
)
_ROOT_ASIDE = (
    "This is the root trainer's update, which was set aside, because it contradicts the majority: "
    "the pot was divided as in a project without a root."
)


def _root_lines(plain: Scores, products: Sequence[int]) -> list[Line]:
    """Say how many updates agree with the root's; `plain` are their scores without it."""
    kept = [product for w, product in zip(plain.weights, products, strict=True) if w]
    along = sum(product > 0 for product in kept)
    return [
        Line(
            "updates along the root's",
            str(along),
            f"{along} of {len(kept)}",
            "updates that the rule keeps and whose inner product with the root's is positive; with "
            "fewer than half of them the root is set aside",
        )
    ]


def _along_root(present: bool, case: _Scored) -> list[Line]:
    """Say what the root trainer's update meant for another one."""
    if not present:
        word, text = "absent", "its update was not among the round's; all is as without a root"
    elif case.along is None:
        word, text = "set aside", "it contradicts the majority; all is as without a root"
    else:
        word, text = "believed", "no majority of the updates that the rule keeps contradicts it"
    lines = [Line("root trainer", word, word, text)]
    if case.along is not None:
        product = case.along[case.k]
        lines.append(
            Line(
                "along the root's",
                str(product),
                f"{product:,} steps²",
                "inner product with the root trainer's update; where it is not positive, the "
                "update is set aside: no weight and no pay, but no strike either",
            )
        )
    return lines


def _multi_krum(case: _Scored) -> tuple[list[Line], int]:
    rule = MultiKrumParams.unpack(case.params.rule_params)
    details, n, k = rank(case.matrix, rule), len(case.matrix), case.k
    order = sorted(range(n), key=lambda i: (details.distances[i], i))
    place = order.index(k) + 1
    nearest = max(1, n - details.candidates - 2)
    factor, distance = details.factors[k], details.distances[k]
    allowed = details.limit // 10_000
    lines = [
        Line(
            "clipping factor",
            str(factor),
            f"{factor / ONE:.4f}",
            "1 if the norm is at most the (lower) median norm of the round, "
            f"{sorted(details.norms)[(n - 1) // 2]} steps, else median norm ÷ norm; accepted "
            "updates are weighted in proportion to it",
        ),
        Line(
            "distance",
            str(distance),
            f"{distance / 2.0**32:,.0f} steps²",
            f"sum of squared distances to the {nearest} nearest other updates, all of them "
            "shortened by their clipping factors (Krum score)",
        ),
        Line(
            "distance rank",
            str(place),
            f"{place} of {n}",
            "place by distance, the closest to the others first",
        ),
        Line(
            "distance allowed",
            str(allowed),
            f"{allowed / 2.0**32:,.0f} steps²",
            f"(lower) median distance × {rule.tolerance_bps / 10_000:g}; of the "
            f"{details.candidates} farthest updates those beyond it are outliers",
        ),
    ]
    return lines, place


def _peel_shapley(case: _Scored) -> tuple[list[Line], int | None]:
    found, k = peel(case.matrix), case.k
    standing = "kept" if found.kept[k] else "outlier" if found.outliers[k] else "set aside"
    line = Line(
        "standing",
        standing,
        standing,
        "groups of copies, or of updates that differ in length or direction from the others, are "
        "peeled off: set aside where chance does so once in 1,000 rounds, outliers where once in "
        "100,000",
    )
    return [line], None


_RULES: Mapping[str, Callable[[_Scored], tuple[list[Line], int | None]]] = {
    "MultiKrumShapley": _multi_krum,
    "PeelShapley": _peel_shapley,
}
"""What each rule adds to the explanation, and the place by distance where it has one."""

_OTHERS_ONLY = frozenset({"PeelShapley"})
"""Rules that pay for agreement with others alone, not for an update's own length."""


def _money(case: _Scored, others_only: bool) -> list[Line]:
    params, weights = case.params, case.scores.weights
    rows: list[list[int]] = case.matrix.tolist()
    n, unit = len(rows), ONE**2
    values = [
        weights[i] * sum(weights[j] * rows[i][j] for j in range(n) if j != i or not others_only)
        for i in range(n)
    ]
    paid_for = (
        "weight × Σ over the others (weight of the other × inner product with it): the Shapley "
        "value of how far the updates agree"
        if others_only
        else "weight × Σ over all (weight of the other × inner product with it): the Shapley value "
        "of the squared length of the round's step, at least 0"
    )
    if case.along is not None:
        unit = ONE
        values = [w * product for w, product in zip(weights, case.along, strict=True)]
        paid_for = (
            "weight × inner product with the root trainer's update: what the step takes off the "
            "root's loss, to first order (its Shapley value)"
        )
    capped = others_only or case.along is not None
    if not capped:
        values = [max(0, value) for value in values]
    accepted = [i for i in range(n) if weights[i]]
    counts = [values[i] for i in accepted]
    if capped:
        counts = counted(counts)
    own = dict(zip(accepted, counts, strict=True)).get(case.k, 0)
    # The better half count 1 each, which is less than a contribution of one square step does.
    chance = capped and max(counts) == 1
    whole = 1 if chance else unit**1.5 if capped else unit
    lines = [
        Line(
            "weight",
            str(weights[case.k]),
            f"{weights[case.k] / ONE:.4f}",
            "the update's part of the round's step, of 2^16, as the rule says; outliers have none",
        ),
        Line(
            "contribution",
            str(values[case.k]),
            f"{values[case.k] / unit:,.0f} steps²",
            paid_for,
        ),
        Line(
            "counts",
            str(own),
            f"{own / whole:,.0f}",
            "1 for the better half, 0 for the others, since more than half contribute nothing"
            if chance
            else "contribution, at least 0 and up to twice the median one above 0, so that nobody "
            "takes the pot by following the others; times its square root, so that dividing one's "
            "data among names does not pay"
            if capped
            else "as much as the contribution",
        ),
        Line(
            "all count",
            str(sum(counts)),
            f"{sum(counts) / whole:,.0f}",
            "sum of what the contributions of all accepted updates count",
        ),
        Line("pot", str(params.reward), f"{params.reward:,} units", "what a round pays in all"),
        Line(
            "share",
            str(case.scores.shares[case.k]),
            f"{case.scores.shares[case.k]:,} units",
            "pot × what the contribution counts ÷ what all count, rounded down; what is left "
            "over goes to the largest contribution",
        ),
    ]
    return lines


def _standing(params: Params, record: Record, stake: int | None) -> list[Line]:
    lines = [
        Line(
            "strikes",
            str(record.strikes),
            str(record.strikes),
            "one more for an outlier, one less for an update that counts, at least 0",
        )
    ]
    if record.outlier:
        schedule = params.slash_schedule[min(record.strikes, 16) - 1]
        lines.append(
            Line(
                "slashed",
                str(record.slashed),
                f"{record.slashed:,} units",
                f"{schedule / 100:g} % of the project's stake of {params.stake:,} units for "
                f"strike {record.strikes}, at most what is left of it",
            )
        )
    if stake is not None:
        left = "what was left of the stake after the round"
        lines.append(Line("stake", str(stake), f"{stake:,} units", left))
    return lines
