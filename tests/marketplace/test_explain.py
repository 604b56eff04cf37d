"""Explain payments, and check each number against what it should be by hand or by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import factorial, isqrt

import numpy as np
import pytest

from marketplace.codec import pack_gram
from marketplace.errors import NotFoundError, ProofError
from marketplace.explain import Explanation, explain
from marketplace.payout import Record, Standing, pay
from marketplace.scoring import RULES, MultiKrumParams, multi_krum_shapley, peel_shapley
from marketplace.types import NOBODY, Params

POT = 1_000
STAKE = 90


@pytest.fixture
def params() -> Params:
    zero = "0x" + "00" * 20
    plain = dict.fromkeys(Params.__dataclass_fields__, 1)
    return Params(
        **{
            **plain,
            "token": zero,
            "aggregator": zero,
            "rule": zero,
            "verifier": zero,
            "slash_sink": zero,
            "root": NOBODY,
            "reward": POT,
            "stake": STAKE,
            "step_bits": 4,
            "rule_params": MultiKrumParams().pack(),
            "slash_bps": (2_500).to_bytes(2, "big") * 16,
            "description_cid": bytes(32),
            "initial_commitment": bytes(96),
        }
    )


def settled(params: Params, vectors: list[list[int]], reasons: bytes = b"") -> list[Record]:
    kept = [v for v, r in zip(vectors, reasons or bytes(len(vectors)), strict=True) if not r]
    scores = multi_krum_shapley(gram(kept), MultiKrumParams(), POT)
    standings = [Standing(STAKE, 0, True)] * len(vectors)
    records, _ = pay(standings, reasons, scores, STAKE, params.slash_schedule)
    return records


def gram(vectors: list[list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    matrix = np.array(vectors, dtype=np.int64)
    return matrix @ matrix.T


def told(params: Params, vectors: list[list[int]], k: int, reasons: bytes = b"") -> Explanation:
    records = settled(params, vectors, reasons)
    kept = [v for v, r in zip(vectors, reasons or bytes(len(vectors)), strict=True) if not r]
    names = [f"t{i}" for i in range(len(vectors))]
    packed = pack_gram(gram(kept))
    return explain(params, "MultiKrumShapley", names, records, packed, f"t{k}", STAKE)


def values(found: Explanation) -> dict[str, str]:
    return {line.name: line.value for line in found.lines}


def shapley(vectors: list[list[int]], weights: list[int], k: int) -> Fraction:
    """Return the Shapley value of |Σ w u|² by going through all coalitions."""

    def value(members: tuple[int, ...]) -> int:
        columns = range(len(vectors[0]))
        total = [sum(weights[i] * vectors[i][c] for i in members) for c in columns]
        return sum(part * part for part in total)

    return shapley_of(value, len(vectors), k)


def shapley_of(value: Callable[[tuple[int, ...]], int], n: int, k: int) -> Fraction:
    others = [i for i in range(n) if i != k]
    found = Fraction(0)
    for size in range(n):
        chance = Fraction(factorial(size) * factorial(n - size - 1), factorial(n))
        for members in combinations(others, size):
            found += chance * (value((*members, k)) - value(members))
    return found


def test_two_updates_are_explained_as_by_hand(params: Params) -> None:
    found = values(told(params, [[2, 0, 0], [1, 2, 2]], 1))
    assert found["squared norm"] == "9" and float(found["norm"]) == 3.0
    # the lower median norm is 2, so the longer update is shortened to 2/3, rounded down
    assert found["clipping factor"] == str(2 * 65536 // 3)
    # weights in the proportion 1 : 2/3 of 65,536, and what rounding leaves to the first
    assert found["weight"] == "26214"
    assert told(params, [[2, 0, 0], [1, 2, 2]], 1).products == {"t0": 2, "t1": 9}


@pytest.mark.parametrize("k", range(4))
def test_a_contribution_is_the_shapley_value_by_enumeration(params: Params, k: int) -> None:
    vectors = [[5, 1, 0], [4, -2, 1], [6, 0, 3], [3, 2, 2]]
    weights = [int(values(told(params, vectors, i))["weight"]) for i in range(4)]
    found = values(told(params, vectors, k))
    expected = shapley(vectors, weights, k)
    assert expected > 0 and int(found["contribution"]) == expected
    every = sum(shapley(vectors, weights, i) for i in range(4))
    assert int(found["counts"]) == expected and int(found["all count"]) == every
    assert -1 < int(found["share"]) - POT * expected / every < 4


def test_an_outlier_is_farthest_and_beyond_what_is_allowed(params: Params) -> None:
    vectors = [[10, 0], [10, 1], [11, 0], [9, 1], [10, -1], [-30, 5]]
    found = told(params, vectors, 5)
    numbers = values(found)
    assert found.distance_rank == 6 and found.record.outlier
    assert int(numbers["distance"]) > int(numbers["distance allowed"])
    assert (numbers["weight"], numbers["share"]) == ("0", "0")
    assert numbers["slashed"] == str(STAKE * 25 // 100)
    assert "strike 1" in found.verdict
    honest = values(told(params, vectors, 0))
    assert int(honest["distance"]) <= int(honest["distance allowed"])
    ranks = [told(params, vectors, i).distance_rank for i in range(6)]
    assert sorted(rank for rank in ranks if rank) == [1, 2, 3, 4, 5, 6]


def test_an_update_that_was_left_out_has_its_reason(params: Params) -> None:
    vectors = [[10, 0], [10, 1], [11, 0]]
    found = told(params, vectors, 1, bytes([0, 3, 0]))
    assert found.products == {} and found.distance_rank is None
    assert "not what was committed to" in found.verdict
    assert told(params, vectors, 2, bytes([0, 3, 0])).products == {"t0": 110, "t2": 121}
    assert "reason of its own" in told(params, vectors, 0, bytes([99, 0, 0])).verdict


def test_records_that_the_rule_does_not_give_are_refused(params: Params) -> None:
    vectors = [[2, 0, 0], [1, 2, 2]]
    first, second = settled(params, vectors)
    forged = [replace(first, share=first.share + 1), replace(second, share=second.share - 1)]
    with pytest.raises(ProofError, match="MultiKrumShapley"):
        explain(
            params, "MultiKrumShapley", ["a", "b"], forged, pack_gram(gram(vectors)), "a", STAKE
        )


def test_the_peel_pays_for_agreement_with_others_alone(params: Params) -> None:
    vectors = [[5, 1, 0, 2], [4, -2, 1, 1], [6, 0, 3, 0], [3, 2, 2, 1], [5, 0, 1, 1], [4, 1, 1, 2]]
    peeling = replace(params, rule_params=bytes(32))
    scores = peel_shapley(gram(vectors), POT)
    standings = [Standing(STAKE, 0, True)] * len(vectors)
    records, _ = pay(standings, b"", scores, STAKE, params.slash_schedule)
    names = [f"t{i}" for i in range(len(vectors))]

    def agreement(members: tuple[int, ...]) -> int:
        products = gram(vectors).tolist()
        return sum(
            scores.weights[i] * scores.weights[j] * products[i][j]
            for i in members
            for j in members
            if i != j
        )

    for k, name in enumerate(names):
        found = explain(peeling, "PeelShapley", names, records, pack_gram(gram(vectors)), name)
        numbers = values(found)
        expected = max(0, int(shapley_of(agreement, len(vectors), k)))
        assert int(numbers["contribution"]) == expected
        assert int(numbers["counts"]) == expected * isqrt(expected)
        assert int(numbers["share"]) == records[k].share and numbers["standing"] == "kept"


def test_where_agreement_is_chance_the_better_half_share_alike(params: Params) -> None:
    # The first two agree by 1, the last two disagree by 100.
    vectors = [[1, 0], [1, 10], [0, -10]]
    scores = peel_shapley(gram(vectors), POT)
    records, _ = pay([Standing(STAKE, 0, True)] * 3, b"", scores, STAKE, params.slash_schedule)
    peeling = replace(params, rule_params=bytes(32))
    found = [
        explain(peeling, "PeelShapley", list("abc"), records, pack_gram(gram(vectors)), name)
        for name in "abc"
    ]
    numbers = [values(one) for one in found]
    assert [one["counts"] for one in numbers] == ["1", "1", "0"]
    assert {one["all count"] for one in numbers} == {"2"}
    assert int(numbers[1]["contribution"]) < 0 < int(numbers[1]["share"])
    told_so = [line for line in found[2].lines if line.name == "counts"]
    assert "1 for the better half, 0 for the others" in told_so[0].formula


def test_what_the_peel_sets_aside_is_said_so(params: Params) -> None:
    chance = np.random.default_rng(1)
    honest = (100 + chance.integers(-30, 30, (12, 8))).tolist()
    vectors = [*honest, [-3000, 9000, 0, 0, 0, 0, 0, 0]]
    scores = peel_shapley(gram(vectors), POT)
    assert scores.weights[-1] == 0
    standings = [Standing(STAKE, 0, True)] * len(vectors)
    records, _ = pay(standings, b"", scores, STAKE, params.slash_schedule)
    names = [f"t{i}" for i in range(len(vectors))]
    peeling = replace(params, rule_params=bytes(32))
    found = explain(peeling, "PeelShapley", names, records, pack_gram(gram(vectors)), names[-1])
    assert values(found)["standing"] == ("outlier" if records[-1].outlier else "set aside")
    aside = replace(records[-1], outlier=False, slashed=0, strikes=0)
    told_aside = explain(
        params, None, names, [*records[:-1], aside], pack_gram(gram(vectors)), names[-1]
    )
    assert "set the update aside" in told_aside.verdict


ROOTED = [[3, 0], [1, 0], [3, 1], [3, -1], [-2, 3]]


def told_with_root(
    params: Params, vectors: list[list[int]], k: int, rule: str | None = "MultiKrumShapley"
) -> Explanation:
    """Explain a round in which t1 is the root."""
    terms = replace(params, root="t1")
    scores = RULES["MultiKrumShapley"](terms.rule_params, gram(vectors), POT, 1)
    names = [f"t{i}" for i in range(len(vectors))]
    standings = [Standing(0 if name == "t1" else STAKE, 0, name != "t1") for name in names]
    records, _ = pay(standings, b"", scores, STAKE, terms.slash_schedule, 1)
    return explain(terms, rule, names, records, pack_gram(gram(vectors)), f"t{k}")


def test_a_believed_root_says_what_each_update_is_worth(params: Params) -> None:
    found = [told_with_root(params, ROOTED, k) for k in range(5)]
    numbers = [values(one) for one in found]
    # Products with (1, 0) are the first coordinates; norms of the others are 3, 3.16, 3.16, 3.6.
    for k, product in ((0, 3), (2, 3), (3, 3), (4, -2)):
        assert numbers[k]["root trainer"] == "believed"
        assert numbers[k]["along the root's"] == str(product)
        expected = max(0, product) * int(numbers[k]["weight"])
        assert int(numbers[k]["contribution"]) == expected
        assert int(numbers[k]["counts"]) == expected * isqrt(expected)
        assert found[k].products["t1"] == product
    assert sum(int(numbers[k]["share"]) for k in (0, 2, 3)) == POT
    assert numbers[4]["weight"] == numbers[4]["share"] == "0"
    assert "set the update aside" in found[4].verdict
    assert "divided by the inner products with it" in found[1].verdict
    assert numbers[1]["updates along the root's"] == "3" and found[1].record.share == 0


def test_a_root_set_aside_is_said_so_and_changes_nothing_else(params: Params) -> None:
    against = [row if k != 1 else [-1, 0] for k, row in enumerate(ROOTED)]
    assert "contradicts the majority" in told_with_root(params, against, 1).verdict
    assert values(told_with_root(params, against, 1))["updates along the root's"] == "1"
    alone = values(told(params, [row for k, row in enumerate(ROOTED) if k != 1], 0))
    found = values(told_with_root(params, against, 0))
    assert found.pop("root trainer") == "set aside"
    alone.pop("stake")
    assert found == alone


def test_a_root_that_stayed_away_is_said_so(params: Params) -> None:
    records = settled(params, ROOTED)
    names = [f"t{i}" for i in range(5)]
    packed = pack_gram(gram(ROOTED))
    elsewhere = replace(params, root="0xaway")
    found = values(explain(elsewhere, "MultiKrumShapley", names, records, packed, "t0"))
    assert found["root trainer"] == "absent"


def test_a_root_under_an_unknown_rule_is_explained_by_its_record(params: Params) -> None:
    found = told_with_root(params, ROOTED, 1, None)
    assert [line.name for line in found.lines] == ["squared norm", "norm"]


def test_an_unknown_rule_is_explained_by_what_all_rules_share(params: Params) -> None:
    vectors = [[2, 0, 0], [1, 2, 2]]
    records = settled(params, vectors)
    found = explain(params, None, ["a", "b"], records, pack_gram(gram(vectors)), "b", STAKE)
    names = [line.name for line in found.lines]
    assert "clipping factor" not in names and "share" in names and "norm" in names


def test_who_revealed_nothing_is_not_found(params: Params) -> None:
    records = settled(params, [[1], [2]])
    with pytest.raises(NotFoundError, match="a, b"):
        explain(params, None, ["a", "b"], records, pack_gram(gram([[1], [2]])), "c", STAKE)
