"""Both rules and their mirrors in Python pay by the root's row alike, and as the text says."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marketplace.codec import pack_gram
from marketplace.scoring import DEFAULT_PARAMS, RULES, Scores
from tests.contracts.local_market import SPONSOR, Contract, Evm

POT = 100 * 10**18 + 7
ONE = 1 << 16
NAMES = ("MultiKrumShapley", "PeelShapley")


@pytest.fixture(scope="module", params=NAMES)
def rule(request: pytest.FixtureRequest) -> tuple[str, Contract]:
    return request.param, Contract(Evm(), request.param)


def on_chain(
    rule: tuple[str, Contract], matrix: NDArray[np.int64], root: int, pot: int = POT
) -> Scores:
    name, contract = rule
    arguments = (DEFAULT_PARAMS[name], len(matrix), root, pack_gram(matrix), pot)
    words = contract(SPONSOR.address, "score", *arguments)
    assert all(word >> 241 == 0 and word >> 224 & 0xFFFF == 0 for word in words)
    return Scores(
        tuple(word >> 192 & 0xFFFFFFFF for word in words),
        tuple(word & (1 << 96) - 1 for word in words),
        tuple(word >> 240 == 1 for word in words),
    )


def alike(
    rule: tuple[str, Contract], matrix: NDArray[np.int64], root: int, pot: int = POT
) -> Scores:
    """Assert that contract, mirror and the plain reference say the same; return the scores."""
    theirs = on_chain(rule, matrix, root, pot)
    assert theirs == RULES[rule[0]](DEFAULT_PARAMS[rule[0]], matrix, pot, root)
    rows = np.delete(np.arange(len(matrix)), root)
    before = on_chain(rule, matrix[np.ix_(rows, rows)], len(rows), pot)
    assert theirs == plain(before, [int(p) for p in matrix[root, rows]], root, pot)
    assert sum(theirs.weights) == ONE
    assert sum(theirs.shares) == pot
    return theirs


def plain(before: Scores, products: list[int], root: int, pot: int) -> Scores:
    """Say in fractions what the root's row makes of the scores `before` it."""
    n = len(products)
    keepers = {k for k in range(n) if before.weights[k] > 0}
    friends = {k for k in keepers if products[k] > 0}
    weights, shares = dict(enumerate(before.weights)), dict(enumerate(before.shares))
    believed = Fraction(len(friends), len(keepers)) >= Fraction(1, 2)
    if believed:
        whole = sum(before.weights[k] for k in friends)
        weights = {
            k: int(Fraction(ONE * before.weights[k], whole)) if k in friends else 0
            for k in range(n)
        }
        for k in sorted(friends)[: ONE - sum(weights.values())]:
            weights[k] += 1
        loss = {k: weights[k] * products[k] for k in friends}
        median = sorted(loss.values())[(len(loss) - 1) // 2]
        loss = {k: min(value, 2 * median) for k, value in loss.items()}
        loss = {k: value * isqrt(value) for k, value in loss.items()}
        shares = {
            k: int(Fraction(pot * loss[k], sum(loss.values()))) if k in friends else 0
            for k in range(n)
        }
        shares[max(loss, key=lambda k: (loss[k], -k))] += pot - sum(shares.values())
    outliers = list(before.outliers)
    outliers.insert(root, not believed)
    found = [[part[k] for k in range(n)] for part in (weights, shares)]
    for part in found:
        part.insert(root, 0)
    return Scores(tuple(found[0]), tuple(found[1]), tuple(outliers))


def crowd(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Return updates int64[n, 30] with a common part, of which up to half are hostile."""
    common = rng.normal(0, 300, 30)
    rows = rng.normal(0, 250, (n, 30)) + common * rng.random()
    hostile = int(rng.integers(0, n // 2 + 1))
    rows[:hostile] *= rng.choice([-2.0, -0.5, 0.0, 0.3, 5.0])
    rows[: hostile // 2] = rows[0]
    root = rng.choice([-1.0, 0.0, 0.1, 1.0, 3.0]) * common + rng.normal(0, 100, 30)
    return np.vstack([rng.permutation(rows), root]).astype(np.int64)


def test_rounds_with_a_root_are_scored_alike(rule: tuple[str, Contract]) -> None:
    rng = np.random.default_rng(11)
    aside = cut = 0
    for _ in range(400):
        rows = crowd(rng, int(rng.integers(1, 20)))
        at = int(rng.integers(0, len(rows)))
        rows = np.insert(rows[:-1], at, rows[-1], axis=0)
        pot = int(rng.integers(0, 2**62)) * int(rng.integers(1, 2**33))
        scores = alike(rule, rows @ rows.T, at, pot)
        aside += scores.outliers[at]
        cut += not scores.outliers[at] and sum(w > 0 for w in scores.weights) < len(rows) - 1
    # Not by chance: roots are set aside, and believed roots set others aside.
    assert aside > 50 and cut > 50


@settings(max_examples=80, deadline=None)
@given(n=st.integers(2, 8), data=st.data(), pot=st.integers(0, 2**96 - 1))
def test_any_matrix_of_64_bits_is_scored_alike(
    rule: tuple[str, Contract], n: int, data: st.DataObject, pot: int
) -> None:
    words = st.integers(-(2**63), 2**63 - 1)
    matrix = np.zeros((n, n), dtype=np.int64)
    for i in range(n):
        matrix[i, i] = data.draw(st.integers(0, 2**63 - 1))
        for j in range(i):
            matrix[i, j] = matrix[j, i] = data.draw(words)
    alike(rule, matrix, data.draw(st.integers(0, n - 1)), pot)


@pytest.mark.parametrize("at", [0, 31, 63])
def test_a_full_round_is_scored_alike(rule: tuple[str, Contract], at: int) -> None:
    rows = crowd(np.random.default_rng(at), 63)
    rows = np.insert(rows[:-1], at, rows[-1], axis=0)
    alike(rule, rows @ rows.T, at)


def test_a_row_beyond_the_last_is_no_root(rule: tuple[str, Contract]) -> None:
    rows = crowd(np.random.default_rng(5), 9)
    matrix = rows @ rows.T
    expected = RULES[rule[0]](DEFAULT_PARAMS[rule[0]], matrix, POT)
    assert on_chain(rule, matrix, len(matrix)) == expected
    assert on_chain(rule, matrix, 2**256 - 1) == expected


def test_what_the_roots_own_length_is_does_not_matter(rule: tuple[str, Contract]) -> None:
    rows = crowd(np.random.default_rng(6), 9)
    matrix = rows @ rows.T
    longer = matrix.copy()
    longer[9, 9] = 2**62
    assert on_chain(rule, matrix, 9) == on_chain(rule, longer, 9)


def test_a_round_worked_out_by_hand() -> None:
    # Three updates of one length: weights 21846, 21845, 21845, no outliers. The root's products
    # with them are 3, 3 and -3: two of three move along. Weights 65536 * 21846 / 43691 = 32768.7
    # and 32767.2, and one over for the first; values 98307 and 98301, which count 313 times as
    # much, so that shares of 1000 are 500.02 and 499.98, and one over for the larger.
    rule = ("MultiKrumShapley", Contract(Evm(), "MultiKrumShapley"))
    rows = np.array([[3, 0], [1, 0], [3, 0], [-3, 0]])
    scores = alike(rule, rows @ rows.T, 1, 1000)
    assert scores == Scores((32769, 0, 32767, 0), (501, 0, 499, 0), (False,) * 4)
    # The other way round the root stands alone with one of three: nothing changes but its own bit.
    rows[1] = -rows[1]
    scores = alike(rule, rows @ rows.T, 1, 1000)
    assert scores == Scores((21846, 0, 21845, 21845), (501, 0, 499, 0), (False, True, False, False))


def test_who_follows_the_root_counts_twice_the_median_at_most() -> None:
    # Three updates of length 3, of which one is the root's own direction: products 9, 3 and 3 would
    # pay it more. Weights 21846, 21845, 21845; values 196614, 65535 and 65535, of which the first
    # is cut to 131070 and counts 362, its square root, times that, 47447340; the others count 65535
    # times 255, which is 16711425: 586.7 and 206.6 of 1000, and what is left over for the first.
    rule = ("PeelShapley", Contract(Evm(), "PeelShapley"))
    rows = np.array([[3, 0, 0, 0], [1, 2, 2, 0], [1, -2, 0, 2], [3, 0, 0, 0]])
    scores = alike(rule, rows @ rows.T, 3, 1000)
    assert scores == Scores((21846, 21845, 21845, 0), (588, 206, 206, 0), (False,) * 4)
