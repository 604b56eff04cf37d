"""MultiKrumShapley.sol, its mirror in Python and a plain reference decide alike."""

from fractions import Fraction
from itertools import combinations
from math import factorial, isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marketplace.codec import pack_gram
from marketplace.errors import ContractError
from marketplace.scoring import MultiKrumParams, Scores, multi_krum_shapley
from tests.contracts.local_market import SPONSOR, Contract, Evm

POT = 100 * 10**18
EXTREME = (-(2**63), 2**63 - 1, -1, 0, 1, 2**62, -(2**32), 2**31)


@pytest.fixture(scope="module")
def rule() -> Contract:
    return Contract(Evm(), "MultiKrumShapley")


def on_chain(
    rule: Contract, matrix: NDArray[np.int64], params: bytes, pot: int = POT
) -> Scores | ContractError:
    try:
        n = len(matrix)
        words = rule(SPONSOR.address, "score", params, n, n, pack_gram(matrix), pot)
    except ContractError as error:
        return error
    return Scores(
        tuple(word >> 192 & 0xFFFFFFFF for word in words),
        tuple(word & (1 << 96) - 1 for word in words),
        tuple(word >> 240 == 1 for word in words),
    )


def in_python(matrix: NDArray[np.int64], params: bytes, pot: int = POT) -> Scores | ContractError:
    try:
        return multi_krum_shapley(matrix, MultiKrumParams.unpack(params), pot)
    except ContractError as error:
        return error


def alike(
    rule: Contract, matrix: NDArray[np.int64], params: bytes, pot: int = POT
) -> Scores | None:
    """Assert that contract and Python say the same, and return the scores."""
    theirs, ours = on_chain(rule, matrix, params, pot), in_python(matrix, params, pot)
    if isinstance(ours, ContractError):
        assert isinstance(theirs, ContractError)
        assert (theirs.name, theirs.values) == (ours.name, ours.values)
        return None
    assert theirs == ours
    assert sum(ours.weights) == 1 << 16
    assert sum(ours.shares) == pot
    return ours


def plain(matrix: NDArray[np.int64], params: MultiKrumParams, pot: int) -> Scores:
    """Score as the papers say, in fractions: Krum by sorting, Shapley by all coalitions."""
    n = len(matrix)
    g = [[int(entry) for entry in row] for row in matrix]
    norms = [isqrt(g[i][i]) for i in range(n)]
    median = sorted(norms)[(n - 1) // 2]
    clip = [1 << 16 if norm <= median else (median << 16) // norm for norm in norms]

    def distance(i: int, j: int) -> int:
        # |f_i u_i − f_j u_j|², written out
        return clip[i] ** 2 * g[i][i] + clip[j] ** 2 * g[j][j] - 2 * clip[i] * clip[j] * g[i][j]

    most = 0 if n < 3 else min(n * params.max_outliers_bps // 10_000, (n - 3) // 2)
    krum = [
        sum(sorted(distance(i, j) for j in range(n) if j != i)[: n - most - 2]) for i in range(n)
    ]
    bound = Fraction(sorted(krum)[(n - 1) // 2] * params.tolerance_bps, 10_000)
    worst = sorted(range(n), key=lambda i: (krum[i], i))[n - most :]
    outliers = [i in worst and krum[i] > bound for i in range(n)]
    accepted = [i for i in range(n) if not outliers[i]]

    weights = dict.fromkeys(range(n), 0)
    whole = sum(clip[i] for i in accepted)
    for i in accepted:
        weights[i] = (clip[i] << 16) // whole
    for i in accepted[: (1 << 16) - sum(weights.values())]:
        weights[i] += 1

    def worth(coalition: tuple[int, ...]) -> int:
        return sum(weights[i] * weights[j] * g[i][j] for i in coalition for j in coalition)

    count = len(accepted)
    values = {}
    for i in accepted:
        others = [j for j in accepted if j != i]
        values[i] = sum(
            Fraction(factorial(size) * factorial(count - 1 - size), factorial(count))
            * (worth((*group, i)) - worth(group))
            for size in range(count)
            for group in combinations(others, size)
        )
    paid = {i: max(Fraction(0), value) for i, value in values.items()}
    total = sum(paid.values())
    shares = dict.fromkeys(range(n), 0)
    for i in accepted:
        shares[i] = int(pot * paid[i] / total) if total else pot // count
    shares[max(accepted, key=lambda i: (paid[i], -i))] += pot - sum(shares.values())
    return Scores(
        tuple(weights[i] for i in range(n)), tuple(shares[i] for i in range(n)), tuple(outliers)
    )


def crowd(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Return updates int64[n, 20] with a common part, of which up to half are hostile."""
    rows = rng.normal(0, 300, (n, 20)) + rng.normal(0, 400, 20) * rng.random()
    hostile = rng.integers(0, n // 2 + 1)
    rows[:hostile] *= rng.choice([-2.0, 0.0, 0.3, 5.0, 60.0])
    rows[: hostile // 2] = rows[0]
    return np.asarray(rng.permutation(rows), dtype=np.int64)


def test_thousands_of_rounds_are_scored_alike(rule: Contract) -> None:
    rng = np.random.default_rng(1)
    slashed = 0
    for _ in range(3000):
        rows = crowd(rng, int(rng.integers(1, 25)))
        params = MultiKrumParams(int(rng.integers(0, 5001)), int(rng.integers(10_000, 30_000)))
        pot = int(rng.integers(0, 2**62)) * int(rng.integers(1, 2**33))
        scores = alike(rule, rows @ rows.T, params.pack(), pot)
        assert scores is not None
        slashed += sum(scores.outliers)
    assert slashed > 500


def test_thousands_of_words_that_are_no_gram_matrix_are_scored_alike(rule: Contract) -> None:
    # A verifier rules them out; whatever it lets through must not make the two differ.
    rng = np.random.default_rng(2)
    refused = 0
    for number in range(3000):
        n = int(rng.integers(1, 12))
        if number % 2:
            half = rng.choice(np.array(EXTREME, dtype=np.int64), (n, n))
        else:
            half = rng.integers(-(2**63), 2**63 - 1, (n, n), dtype=np.int64)
        matrix = np.triu(half) + np.triu(half, 1).T
        if number % 3:
            diagonal = np.abs(np.maximum(np.diag(matrix), -(2**63) + 1))
            np.fill_diagonal(matrix, diagonal)
        refused += alike(rule, matrix, MultiKrumParams(5000, 10_000).pack()) is None
    assert refused > 500


@pytest.mark.parametrize("n", [16, 17, 18, 19, 31, 33, 64, 100, 127, 128])
def test_large_rounds_are_scored_alike(rule: Contract, n: int) -> None:
    for seed in range(3):
        rows = crowd(np.random.default_rng([n, seed]), n)
        alike(rule, rows @ rows.T, MultiKrumParams(5000, 10_000).pack())


@pytest.mark.parametrize("value", [0, 1, -32768])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 20, 128])
def test_equal_updates_are_scored_alike(rule: Contract, n: int, value: int) -> None:
    matrix = np.full((n, n), value * value * 50, dtype=np.int64)
    scores = alike(rule, matrix, MultiKrumParams(5000, 10_000).pack())
    assert scores is not None and not any(scores.outliers)


def test_zero_updates_among_others_are_scored_alike(rule: Contract) -> None:
    rng = np.random.default_rng(3)
    for n in range(1, 21):
        for zeros in range(n + 1):
            rows = rng.integers(-9, 9, (n, 6))
            rows[:zeros] = 0
            alike(rule, rows @ rows.T, MultiKrumParams(4000, 10_000).pack())


@given(
    params=st.binary(min_size=32, max_size=32)
    | st.integers(0, 2**32 - 1).map(lambda head: head.to_bytes(4) + bytes(28))
)
@settings(max_examples=200, deadline=None)
def test_parameters_are_read_alike(rule: Contract, params: bytes) -> None:
    alike(rule, np.eye(5, dtype=np.int64) * 100, params)


def test_a_negative_diagonal_is_refused_by_its_row(rule: Contract) -> None:
    matrix = np.eye(4, dtype=np.int64)
    matrix[2, 2] = -1
    error = on_chain(rule, matrix, MultiKrumParams().pack())
    assert isinstance(error, ContractError)
    assert (error.name, error.values) == ("NotAGramMatrix", (2,))


def test_both_give_what_the_papers_say(rule: Contract) -> None:
    rng = np.random.default_rng(4)
    slashed = 0
    for _ in range(150):
        rows = crowd(rng, int(rng.integers(1, 9)))
        rows[0, 0] += 7
        params = MultiKrumParams(5000, int(rng.integers(10_000, 20_000)))
        matrix = rows @ rows.T
        expected = plain(matrix, params, POT)
        assert alike(rule, matrix, params.pack()) == expected
        slashed += sum(expected.outliers)
    assert slashed > 30


def test_a_round_worked_out_by_hand(rule: Contract) -> None:
    # (3, 0), (3, 0), (3, 0), (3, 1), (-30, 0): the last is cut to length 3. Norms 3, so are the
    # squares 9, 9, 9, 10, 900; the lower median norm is 3. Of five at most one is an outlier, and a
    # Krum score sums two distances: about 0 for the first four, 72 for the last.
    rows = np.array([[3, 0], [3, 0], [3, 0], [3, 1], [-30, 0]])
    scores = alike(rule, rows @ rows.T, MultiKrumParams(4000, 15_000).pack(), 1000)
    assert scores is not None
    assert scores.outliers == (False, False, False, False, True)
    # Four weights of 2^14; values are w² (3·12, 3·12, 3·12, 3·12 + 1) = 36, 36, 36, 37 of 145.
    assert scores.weights == (16384, 16384, 16384, 16384, 0)
    assert scores.shares == (248, 248, 248, 256, 0)
