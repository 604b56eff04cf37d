"""Decide a round: which updates count, their Gram matrix, the scores, and the next model.

Pure: the same round gives the same bytes on every machine. What is decided here is what the
contract decides again from the matrix; the contract's word counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketplace.codec import Model, Update, apply_updates, gram, pack_gram
from marketplace.errors import ProofError
from marketplace.proof.commitment import bad_openings, check_point
from marketplace.proof.field import R
from marketplace.proof.srs import Srs
from marketplace.scoring import RULES, Scores
from marketplace.types import Exclusion, Params, Reveal

__all__ = ["Outcome", "aggregate", "exclusions_of"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Hold what settles a round of n reveals, m of which are included.

    `exclusions` is one reason a reveal, or empty where none is excluded; `gram` is the packed
    triangle of the m updates' matrix. With fewer updates than the project asks for the round fails,
    and `gram`, `scores` and `model` are None.
    """

    exclusions: bytes
    points: tuple[bytes, ...]
    updates: NDArray[np.int16]
    blindings: tuple[int, ...]
    gram: bytes | None
    scores: Scores | None
    model: Model | None


def aggregate(
    srs: Srs | None,
    params: Params,
    rule: str,
    reveals: Sequence[Reveal],
    updates: Sequence[Update | Exclusion],
    model: Model,
) -> Outcome:
    """Return the outcome of a round; `updates[i]` is what was found behind `reveals[i]`.

    `rule` is the name of the project's scoring rule in `marketplace.scoring.RULES`. Without a
    reference string it is believed that updates are what was committed to.
    """
    reasons = exclusions_of(srs, params, reveals, updates)
    kept = [i for i, reason in enumerate(reasons) if not reason]
    exclusions = bytes(reasons) if len(kept) < len(reasons) else b""
    rows = [found for i, found in enumerate(updates) if isinstance(found, Update) and i in kept]
    points = tuple(reveals[i].point for i in kept)
    blindings = tuple(row.blinding for row in rows)
    matrix = np.array([row.values for row in rows], dtype=np.int16)
    matrix = matrix.reshape(len(rows), params.dimension)
    if len(kept) < params.min_updates:
        return Outcome(exclusions, points, matrix, blindings, None, None, None)
    products = gram(matrix)
    root = params.root_row([reveals[i].trainer for i in kept])
    scores = RULES[rule](params.rule_params, products, params.reward, root)
    blinding = sum(w * b for w, b in zip(scores.weights, blindings, strict=True))
    moved = apply_updates(model.values, list(matrix), scores.weights)
    return Outcome(
        exclusions,
        points,
        matrix,
        blindings,
        pack_gram(products),
        scores,
        Model(moved, (model.blinding + blinding) % R),
    )


def exclusions_of(
    srs: Srs | None,
    params: Params,
    reveals: Sequence[Reveal],
    updates: Sequence[Update | Exclusion],
) -> list[Exclusion]:
    """Return for each reveal why it is excluded, `NONE` where it is not; `srs` as above."""
    reasons = [found if isinstance(found, Exclusion) else Exclusion.NONE for found in updates]
    first: dict[bytes, int] = {}
    for i, reveal in enumerate(reveals):
        # As in the contract: a point and its negative share this part of x, and count as one.
        duplicate = first.setdefault(reveal.point[16:48], i) != i
        if not _is_point(reveal.point):
            reasons[i] = Exclusion.BAD_POINT
        elif duplicate and not reasons[i]:
            reasons[i] = Exclusion.DUPLICATE
    # Rounding moves each coordinate by less than a step.
    longest = params.clip_norm + math.isqrt(params.dimension) + 1
    opened = [
        (i, found)
        for i, found in enumerate(updates)
        if isinstance(found, Update) and not reasons[i]
    ]
    for i, found in opened:
        values = found.values.astype(np.int64)
        if int(values @ values) > longest**2:
            reasons[i] = Exclusion.OUT_OF_RANGE
    if opened and srs is not None:
        points = [reveals[i].point for i, _ in opened]
        matrix = np.array([found.values for _, found in opened])
        for k in bad_openings(srs, points, matrix, [found.blinding for _, found in opened]):
            reasons[opened[k][0]] = Exclusion.MISMATCH
    return reasons


def _is_point(point: bytes) -> bool:
    try:
        check_point(point)
    except ProofError:
        return False
    return True
