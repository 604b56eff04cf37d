"""The scoring rule against the definitions of Krum and of the Shapley value."""

from fractions import Fraction
from itertools import combinations
from math import factorial, isqrt
from statistics import median_low

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from marketplace.codec import ONE, gram
from marketplace.errors import ContractError
from marketplace.peel import peel
from marketplace.scoring import (
    DEFAULT_PARAMS,
    RULES,
    MultiKrumParams,
    Scores,
    by_root,
    counted,
    default_rule,
    multi_krum_shapley,
    peel_shapley,
    rank,
)

PARAMS = MultiKrumParams()
POT = 10**20

rounds = st.integers(1, 9).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda d: st.lists(
            st.lists(st.integers(-40, 40), min_size=d, max_size=d), min_size=n, max_size=n
        )
    )
)
all_params = st.builds(MultiKrumParams, st.integers(0, 5000), st.integers(10_000, 65_535))


def matrix_of(updates):
    return gram(np.array(updates, dtype=np.int16))


def median(values):
    """Return the lower median."""
    return sorted(values)[(len(values) - 1) // 2]


def krum_by_definition(updates, params):
    """Find the outliers from the vectors themselves (Blanchard et al. 2017, section 4).

    Returns the factors, the scores and the outliers.
    """
    n = len(updates)
    norms = [isqrt(sum(x * x for x in u)) for u in updates]
    factors = [ONE if m <= median(norms) else median(norms) * ONE // m for m in norms]
    clipped = [[f * x for x in u] for f, u in zip(factors, updates, strict=True)]
    most = max(0, min(n * params.max_outliers_bps // 10_000, (n - 3) // 2))
    closest = max(1, n - most - 2)
    scores = []
    for i in range(n):
        distances = [
            sum((x - y) ** 2 for x, y in zip(clipped[i], clipped[j], strict=True))
            for j in range(n)
            if j != i
        ]
        scores.append(sum(sorted(distances)[:closest]))
    worst_first = sorted(range(n), key=lambda i: (-scores[i], -i))
    limit = Fraction(median(scores) * params.tolerance_bps, 10_000)
    outliers = {i for i in worst_first[:most] if scores[i] > limit}
    return factors, scores, [i in outliers for i in range(n)]


def shapley_by_definition(updates, weights, players):
    """Return the Shapley value of v(S) = ‖Σ_{i∈S} w_i u_i‖² by all orders of joining."""

    def worth(members):
        total = [sum(weights[i] * updates[i][k] for i in members) for k in range(len(updates[0]))]
        return sum(x * x for x in total)

    m = len(players)
    values = {}
    for i in players:
        others = [j for j in players if j != i]
        values[i] = sum(
            Fraction(factorial(size) * factorial(m - size - 1), factorial(m))
            * (worth((*members, i)) - worth(members))
            for size in range(m)
            for members in combinations(others, size)
        )
    return values


@settings(max_examples=200)
@given(updates=rounds, params=all_params)
def test_outliers_are_those_of_krum_on_the_clipped_vectors(updates, params):
    details = rank(matrix_of(updates), params)
    factors, scores, outliers = krum_by_definition(updates, params)
    assert list(details.factors) == factors
    assert list(details.distances) == scores
    assert list(details.outliers) == outliers


@settings(max_examples=60)
@given(updates=rounds, params=all_params, pot=st.integers(0, 2**96 - 1))
def test_shares_follow_the_shapley_value_by_its_definition(updates, params, pot):
    scores = multi_krum_shapley(matrix_of(updates), params, pot)
    accepted = [i for i in range(len(updates)) if not scores.outliers[i]]
    values = shapley_by_definition(updates, scores.weights, accepted)
    positive = {i: max(Fraction(0), value) for i, value in values.items()}
    whole = sum(positive.values())
    assume(whole > 0)
    exact = {i: pot * value / whole for i, value in positive.items()}
    # Everybody gets the exact share rounded down, the largest one also what is left.
    largest = next(i for i in accepted if positive[i] == max(positive.values()))
    for i in accepted:
        if i != largest:
            assert scores.shares[i] == exact[i].__floor__()
    assert exact[largest] <= scores.shares[largest] + 1
    assert sum(scores.shares) == pot


@given(updates=rounds, params=all_params, pot=st.integers(0, 2**96 - 1))
def test_shares_are_the_pot_and_weights_are_one_and_outliers_have_neither(updates, params, pot):
    scores = multi_krum_shapley(matrix_of(updates), params, pot)
    assert sum(scores.shares) == pot
    assert min(scores.shares) >= 0
    assert sum(scores.weights) == ONE
    assert min(scores.weights) >= 0
    for weight, share, outlier in zip(*vars(scores).values(), strict=True):
        assert not outlier or (weight, share) == (0, 0)
    allowed = min(len(updates) * params.max_outliers_bps // 10_000, max(0, len(updates) - 3) // 2)
    assert sum(scores.outliers) <= allowed


@given(updates=rounds, params=all_params)
def test_weights_differ_from_proportional_ones_by_a_unit_at_most(updates, params):
    scores = multi_krum_shapley(matrix_of(updates), params, POT)
    factors, _, _ = krum_by_definition(updates, params)
    accepted = [i for i in range(len(updates)) if not scores.outliers[i]]
    whole = sum(factors[i] for i in accepted)
    for i in accepted:
        exact = Fraction(ONE * factors[i], whole) if whole else Fraction(ONE, len(accepted))
        assert abs(scores.weights[i] - exact) <= 1


def test_a_round_counted_by_hand():
    # Norms 5, 5, 5, 5 and 10: the last is halved. Three close together, two apart.
    updates = [[3, 4], [3, 4], [4, 3], [-4, -3], [-6, -8]]
    params = MultiKrumParams(max_outliers_bps=2000, tolerance_bps=10_000)
    details = rank(matrix_of(updates), params)
    assert details.norms == (5, 5, 5, 5, 10)
    assert details.factors == (ONE, ONE, ONE, ONE, ONE // 2)
    # At most (5 · 20 %) = 1 outlier, so the 5 - 1 - 2 = 2 nearest count. In units of ONE²:
    # d(0,1) = 0, d(0,2) = d(1,2) = 2, d(3, halved 4) = 2, d(0,3) = 98, d(0,4) = 100, d(2,3) = 100.
    assert [d // ONE**2 for d in details.distances] == [2, 2, 4, 100, 100]
    # d(3,4) + d(3,0) = 2 + 98; d(4,3) + d(4,2) = 2 + 98: the later one of equals goes.
    assert details.outliers == (False, False, False, False, True)
    scores = multi_krum_shapley(matrix_of(updates), params, 1000)
    assert scores.weights == (ONE // 4,) * 4 + (0,)
    # The sum of the four is (6, 8): its products with them are 50, 50, 48, -48; the last counts 0.
    # 1000 · 50/148 = 337.8, 1000 · 48/148 = 324.3; two units are left for the first.
    assert scores.shares == (339, 337, 324, 0, 0)


def test_scores_do_not_depend_on_the_order_of_different_updates():
    rng = np.random.default_rng(5)
    updates = rng.integers(-3000, 3000, (9, 40))
    updates[0] *= -4
    scores = multi_krum_shapley(matrix_of(updates), PARAMS, POT)
    order = rng.permutation(9)
    moved = multi_krum_shapley(matrix_of(updates[order]), PARAMS, POT)
    assert [scores.outliers[i] for i in order] == list(moved.outliers)
    for place, i in enumerate(order):
        assert abs(scores.weights[i] - moved.weights[place]) <= 1
        assert moved.shares[place] == pytest.approx(scores.shares[i], rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_so_few_updates_have_no_outliers(n):
    updates = [[1, 0]] * (n - 1) + [[-30_000, 5]]
    assert rank(matrix_of(updates), MultiKrumParams(5000, 10_000)).candidates == 0
    assert not any(multi_krum_shapley(matrix_of(updates), PARAMS, POT).outliers)


def test_updates_of_zeros_share_equally():
    scores = multi_krum_shapley(np.zeros((3, 3), dtype=np.int64), PARAMS, 100)
    assert scores.shares == (34, 33, 33)
    assert scores.weights == (21846, 21845, 21845)
    assert scores.outliers == (False, False, False)


def test_updates_among_zeros_weigh_nothing():
    scores = multi_krum_shapley(matrix_of([[0], [0], [0], [9], [9]]), PARAMS, 100)
    # The median norm is 0, so the two are shortened to nothing, and no value is positive.
    assert scores.weights == (21846, 21845, 21845, 0, 0)
    assert scores.shares == (20, 20, 20, 20, 20)


def test_updates_that_cancel_out_share_equally():
    scores = multi_krum_shapley(matrix_of([[5, 1], [-5, -1]]), PARAMS, 7)
    assert scores.shares == (4, 3)


def test_honest_majorities_outvote_a_flipped_sign():
    rng = np.random.default_rng(0)
    honest = rng.normal(1000, 300, (6, 500))
    updates = np.vstack([honest, -honest[:2]]).round().astype(np.int16)
    scores = multi_krum_shapley(matrix_of(updates), PARAMS, POT)
    assert scores.outliers == (False,) * 6 + (True,) * 2


def test_a_matrix_with_a_negative_square_is_none():
    with pytest.raises(ContractError, match=r"NotAGramMatrix\(1\)"):
        rank(np.array([[1, 0], [0, -1]]), PARAMS)


def test_the_largest_entries_do_not_overflow():
    # int64's limits: no matrix of updates has them, but a liar may send them.
    big = np.full((5, 5), 2**63 - 1, dtype=np.int64)
    scores = multi_krum_shapley(big, PARAMS, 2**96 - 1)
    assert sum(scores.shares) == 2**96 - 1
    big[0, 1:] = big[1:, 0] = -(2**63)
    assert sum(multi_krum_shapley(big, PARAMS, 2**96 - 1).weights) == ONE


@given(params=all_params)
def test_parameters_survive_their_word(params):
    word = params.pack()
    assert len(word) == 32
    assert int.from_bytes(word) >> 240 == params.max_outliers_bps
    assert (int.from_bytes(word) >> 224) & 0xFFFF == params.tolerance_bps
    assert MultiKrumParams.unpack(word) == params


@pytest.mark.parametrize(
    "word",
    [
        MultiKrumParams(5001, 10_000).pack(),
        MultiKrumParams(0, 9_999).pack(),
        PARAMS.pack()[:-1] + b"\x01",
        PARAMS.pack()[:-1],
        b"",
    ],
)
def test_parameters_that_the_contract_refuses_are_refused_here(word):
    with pytest.raises(ContractError, match="BadRuleParams"):
        MultiKrumParams.unpack(word)


def test_rules_are_called_by_the_name_of_their_contract():
    matrix = matrix_of([[1, 2], [3, 4], [5, 6]])
    found = RULES["MultiKrumShapley"](PARAMS.pack(), matrix, 99)
    assert found == multi_krum_shapley(matrix, PARAMS, 99)


# ------------------------------------------------------------------------------------ the peel


@settings(max_examples=60)
@given(updates=rounds, pot=st.integers(0, 2**96 - 1))
def test_shares_of_the_peel_follow_the_shapley_value_of_agreement(updates, pot):
    scores = peel_shapley(matrix_of(updates), pot)
    kept = [i for i, weight in enumerate(scores.weights) if weight]

    def agreement(members):
        return sum(
            scores.weights[i] * scores.weights[j] * int(np.dot(updates[i], updates[j]))
            for i in members
            for j in members
            if i != j
        )

    m = len(kept)
    values = {
        i: sum(
            Fraction(factorial(size) * factorial(m - size - 1), factorial(m))
            * (agreement((*members, i)) - agreement(members))
            for size in range(m)
            for members in combinations([j for j in kept if j != i], size)
        )
        for i in kept
    }
    # Shapley values of integers; what counts is their power 3/2, with the root rounded down, up to
    # that of twice the median; of an even number the lower one.
    above = [int(value) for value in values.values() if value > 0]
    assume(above and 2 * len(above) >= m)
    most = 2 * median_low(above)
    clipped = {i: min(max(0, int(value)), most) for i, value in values.items()}
    counted = {i: value * isqrt(value) for i, value in clipped.items()}
    whole = sum(counted.values())
    largest = next(i for i in kept if counted[i] == max(counted.values()))
    for i in kept:
        exact = Fraction(pot * counted[i], whole)
        assert scores.shares[i] == exact.__floor__() or i == largest
    assert sum(scores.shares) == pot


def test_a_contribution_counts_up_to_twice_the_median():
    # 8 · √8 and 27 · √27, with roots rounded down; the median of 4, 9, 30 is 9, so that 18 counts.
    assert counted([4, 9, 30]) == [8, 27, 18 * 4]
    assert counted([4, 9, 30, 0, -50]) == [8, 27, 18 * 4, 0, 0]
    assert counted([4, 9, 10, 30]) == [8, 27, 30, 18 * 4]


def test_where_more_than_half_contribute_nothing_the_better_half_share_alike():
    assert counted([5, -1]) == [10, 0]
    assert counted([5, -2, -1]) == [1, 0, 1]
    assert counted([5, 0, 0]) == [1, 1, 1]
    assert counted([-3, -2, -2, -5]) == [1, 1, 1, 0]
    # The first two agree by 1, the last two disagree by 100; weights are a third, or a little more.
    assert peel_shapley(matrix_of([[1, 0], [1, 10], [0, -10]]), 101).shares == (51, 50, 0)


@given(updates=rounds, pot=st.integers(0, 2**96 - 1))
def test_the_peel_gives_away_the_pot_and_whole_weights_and_keeps_more_than_half(updates, pot):
    scores = peel_shapley(matrix_of(updates), pot)
    assert sum(scores.shares) == pot
    assert sum(scores.weights) == ONE
    moving = sum(any(update) for update in updates)
    assert 2 * sum(map(bool, scores.weights)) > moving
    for weight, share, outlier in zip(*vars(scores).values(), strict=True):
        assert min(weight, share) >= 0
        assert not outlier or (weight, share) == (0, 0)


def test_overlong_updates_are_shortened_to_the_fourth_power_of_the_fold_change():
    # Norms 100, 200, 400: the lower median fold is 2, so that 200 · 2^4 = 3,200 would be allowed.
    updates = [[100, 0, 0, 0], [0, 200, 0, 0], [0, 0, 400, 0]]
    assert peel_shapley(matrix_of(updates), POT).weights == (21846, 21845, 21845)
    # Norms 200, 200, 400: nobody may exceed 200, so that factors are 1, 1, 1/2.
    updates = [[200, 0, 0, 0], [0, 200, 0, 0], [0, 0, 400, 0]]
    assert peel_shapley(matrix_of(updates), POT).weights == (26215, 26214, 13107)


def test_a_round_of_zeros_is_shared_equally_by_all():
    scores = peel_shapley(np.zeros((7, 7), dtype=np.int64), 70)
    assert scores.shares == (10,) * 7
    assert sum(scores.weights) == ONE
    assert not any(scores.outliers)


def test_updates_of_zeros_have_no_share_and_are_no_outliers():
    scores = peel_shapley(matrix_of([[3, 4], [0, 0], [4, 3]]), 100)
    assert scores.shares == (50, 0, 50)
    assert scores.weights == (ONE // 2, 0, ONE // 2)
    assert scores.outliers == (False, False, False)


def test_the_peel_refuses_what_its_contract_refuses():
    with pytest.raises(ContractError, match="TooManyUpdates"):
        peel(np.eye(129, dtype=np.int64))
    with pytest.raises(ContractError, match="NotAGramMatrix"):
        peel(-np.eye(3, dtype=np.int64))
    with pytest.raises(ContractError, match="BadRuleParams"):
        RULES["PeelShapley"](b"\x01" + bytes(31), np.eye(3, dtype=np.int64), 5)
    assert RULES["PeelShapley"](bytes(32), np.eye(3, dtype=np.int64), 6).shares == (2, 2, 2)


def test_a_believed_root_takes_weight_from_who_goes_against_it():
    # Weights without the root are 21846, 21845, 21845; 3 : 3 of the first two split 65,536, the
    # odd units going to the first: 21846/43691 and 21845/43691 of it are 32768.7 and 32767.2.
    matrix = matrix_of([[3, 0], [3, 0], [-3, 0], [1, 0]])
    scores = RULES["MultiKrumShapley"](PARAMS.pack(), matrix, 1000, 3)
    assert scores.weights == (32769, 32767, 0, 0)
    assert scores.shares == (501, 499, 0, 0)
    assert scores.outliers == (False, False, False, False)


def test_a_root_is_not_believed_against_more_than_half():
    plain = Scores((16384, 16384, 16384, 16384), (25, 25, 25, 25), (False,) * 4)
    assert by_root(plain, [7, -1, 0, -1], 100) is None
    assert by_root(plain, [0, 0, 0, 0], 100) is None
    half = Scores((32768, 32768, 0, 0), (50, 50, 0, 0), (False,) * 4)
    assert by_root(plain, [7, 7, 0, -1], 100) == half
    # Values 152922, 152915, 21845 with roots 391, 391, 147: 48.7, 48.7 and 2.6 of 100.
    assert by_root(plain, [7, 7, 1, -1], 100) == Scores(
        (21846, 21845, 21845, 0), (50, 48, 2, 0), (False,) * 4
    )
    # Who has no weight has no voice either.
    some = Scores((32768, 0, 0, 32768), (50, 0, 0, 50), (False, True, False, False))
    assert by_root(some, [-1, 5, 5, -1], 100) is None


@pytest.mark.parametrize(
    ("updates", "capacity", "rule"),
    [(4, 8, "MultiKrumShapley"), (7, 64, "MultiKrumShapley"), (8, 8, "PeelShapley"),
     (40, 64, "PeelShapley"), (40, 65, "MultiKrumShapley")],
)  # fmt: skip
def test_the_rule_that_nobody_names_follows_from_the_projects_size(updates, capacity, rule):
    assert default_rule(updates, capacity) == rule
    # A root's update is no voice and one more row.
    assert default_rule(updates + 1, capacity - 1, rooted=True) == rule


@pytest.mark.parametrize("name", RULES)
def test_no_root_can_keep_the_pot_from_the_trainers(name):
    rng = np.random.default_rng(8)
    for _ in range(200):
        updates = rng.normal(20, 30, (7, 9))
        root = rng.normal(rng.choice([-20, 0, 20]), 30, 9)
        matrix = matrix_of(np.vstack([updates, root]).astype(np.int64).tolist())
        scores = RULES[name](DEFAULT_PARAMS[name], matrix, POT, 7)
        assert sum(scores.shares) == POT and sum(scores.weights) == ONE
        assert scores.shares[7] == scores.weights[7] == 0
        if scores.outliers[7]:
            plain = RULES[name](DEFAULT_PARAMS[name], matrix[:7, :7], POT)
            assert scores.shares[:7] == plain.shares and scores.weights[:7] == plain.weights
