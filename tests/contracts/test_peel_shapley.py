"""PeelShapley.sol and its mirror in Python decide alike, bit for bit."""

import numpy as np
import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from pyrevm import EVM

from deploy.compile import artefact
from marketplace.codec import gram, pack_gram
from marketplace.errors import ContractError
from marketplace.scoring import RULES

CALLER = "0x" + "11" * 20
SCORE = keccak(text="score(bytes32,uint256,uint256,bytes,uint256)")[:4]


class Rule:
    """Call the contract in an EVM of this process; `gas` is what the last call used."""

    def __init__(self):
        self.evm = EVM(gas_limit=2**40)
        self.evm.set_balance(CALLER, 10**30)
        self.address = self.evm.deploy(CALLER, artefact("PeelShapley").bytecode)

    def score(self, matrix, pot, params=bytes(32)):
        arguments = [params, len(matrix), len(matrix), pack_gram(matrix), pot]
        data = SCORE + encode(["bytes32", "uint256", "uint256", "bytes", "uint256"], arguments)
        output = self.evm.message_call(CALLER, self.address, data)
        self.gas = self.evm.result.gas_used
        (scores,) = decode(["uint256[]"], output)
        weights = tuple(score >> 192 & 0xFFFFFFFF for score in scores)
        shares = tuple(score & (1 << 96) - 1 for score in scores)
        return weights, shares, tuple(bool(score >> 240) for score in scores)


@pytest.fixture(scope="module")
def rule():
    return Rule()


def alike(rule, matrix, pot):
    """Assert that both sides give the same scores, and return them."""
    scores = RULES["PeelShapley"](bytes(32), matrix, pot)
    assert rule.score(matrix, pot) == (scores.weights, scores.shares, scores.outliers)
    return scores


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 14),
    part=st.floats(0, 0.5),
    size=st.integers(0, 14),
    pot=st.integers(0, 2**96 - 1),
)
def test_rounds_with_hostile_groups_are_scored_alike(rule, seed, n, part, size, pot):
    rng = np.random.default_rng(seed)
    updates = rng.normal(0, 2.0**size, (n, 40)) + rng.normal(0, 2.0**size, 40)
    hostile = int(n * part)
    updates[:hostile] *= rng.choice([-3, -0.5, 0, 4, 20])
    updates[: hostile // 2] = updates[0]
    alike(rule, gram(np.clip(updates, -32768, 32767).astype(np.int16)), pot)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 8),
    data=st.data(),
    pot=st.integers(0, 2**96 - 1),
)
def test_any_symmetric_matrix_of_64_bits_is_scored_alike(rule, n, data, pot):
    # The verifier rules such matrices out; the rule must not depend on it.
    words = st.integers(-(2**63), 2**63 - 1)
    matrix = np.zeros((n, n), dtype=np.int64)
    for i in range(n):
        matrix[i, i] = data.draw(st.integers(0, 2**63 - 1))
        for j in range(i):
            matrix[i, j] = matrix[j, i] = data.draw(words)
    alike(rule, matrix, pot)


@pytest.mark.parametrize("n", [5, 6, 20, 40, 128])
def test_large_rounds_are_scored_alike(rule, n):
    rng = np.random.default_rng(n)
    updates = rng.normal(0, 300, (n, 60)) + rng.normal(0, 250, 60)
    hostile = int(0.4 * n)
    updates[-hostile:] = -0.5 * updates[:-hostile].mean(axis=0)
    scores = alike(rule, gram(updates.astype(np.int16)), 10**20 + 7)
    assert sum(scores.outliers) == (hostile if n > 5 else 0)


def with_copies(rng, n, count, part, size=300, d=400):
    """Draw updates, the last of which are copies of one with noise of `part` of its length."""
    updates = rng.normal(0, size, (n, d)) + rng.normal(0, size / 2, d)
    updates[-count:] = updates[-1] + rng.normal(0, part * size, (count, d))
    return np.clip(np.rint(updates), -32768, 32767).astype(np.int16)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(4, 33),
    count=st.integers(2, 12),
    part=st.sampled_from([0, 0.001, 0.01, 0.1, 0.3, 0.6]),
    size=st.sampled_from([1, 30, 5000]),
)
def test_rounds_with_copies_are_scored_alike(rule, seed, n, count, part, size):
    updates = with_copies(np.random.default_rng(seed), n, min(count, n), part, size)
    alike(rule, gram(updates), 10**20 + 7)


def test_a_matrix_that_no_updates_have_is_scored_alike(rule):
    # Two near ones, but a negative eigenvalue: first as a later pivot, then as the first one.
    triple, star = np.eye(8), -np.ones((8, 8))
    triple[[0, 1, 1, 2], [1, 0, 2, 1]], triple[[0, 2], [2, 0]] = 0.99, -0.99
    star[0], star[:, 0] = 1, 1
    np.fill_diagonal(star, 1)
    for cosines in (triple, star):
        assert np.linalg.eigvalsh(cosines)[0] < 0
        alike(rule, np.rint(cosines * 10_000).astype(np.int64), 10**20)


@pytest.mark.parametrize("n", [6, 10, 20, 32])
def test_two_copies_lose_their_stake(rule, n):
    updates = with_copies(np.random.default_rng(n), n, 2, 0.01, d=4000)
    scores = alike(rule, gram(updates), 10**20)
    assert scores.outliers == (False,) * (n - 2) + (True,) * 2


@pytest.mark.parametrize("value", [0, -32768, 1])
def test_equal_updates_are_scored_alike(rule, value):
    scores = alike(rule, gram(np.full((7, 5), value, dtype=np.int16)), 100)
    assert not any(scores.outliers)


def test_what_python_refuses_the_contract_refuses(rule):
    refused = [
        (np.eye(3, dtype=np.int64), b"\x01" + bytes(31), "BadRuleParams(bytes32)"),
        (np.eye(129, dtype=np.int64), bytes(32), "TooManyUpdates(uint256,uint256)"),
        (-np.eye(3, dtype=np.int64), bytes(32), "NotAGramMatrix(uint256)"),
    ]
    for matrix, params, error in refused:
        with pytest.raises(ContractError, match=error.split("(")[0]):
            RULES["PeelShapley"](params, matrix, 5)
        with pytest.raises(Exception, match=keccak(text=error)[:4].hex()):
            rule.score(matrix, 5, params)


def growing(n, groups):
    """Return the matrix of n updates at right angles, `groups` of them ever longer.

    Lengths are 2^6 but for those. Of 20 logarithms 24, 7, 2, 0.55, 0.15 and zeros the largest alone
    explains 20/19 (24 - 1.685)² / (631.33 - 20 · 1.685²) = 0.91 of the spread, and then the next.
    """
    lengths = np.full(n, 6.0)
    lengths[:groups] += [24, 7, 2, 0.55, 0.15][:groups]
    return np.diag((4.0**lengths).astype(np.int64))


@pytest.mark.parametrize("groups", [1, 4, 5])
def test_no_more_than_four_groups_are_peeled_off(rule, groups):
    scores = alike(rule, growing(20, groups), 10**20)
    out = [weight == 0 for weight in scores.weights]
    assert out == [i < min(groups, 4) for i in range(20)]


def test_gas_stays_within_what_docs_lab_states(rule):
    for n, most in ((10, 260_000), (20, 620_000), (64, 3_950_000)):
        updates = np.random.default_rng(n).normal(0, 300, (n, 60))
        rule.score(gram(updates.astype(np.int16)), 10**20)
        assert rule.gas < most


def test_gas_of_rounds_with_copies_stays_within_what_docs_lab_states(rule):
    for n, most in ((10, 400_000), (20, 1_110_000), (32, 2_600_000)):
        rule.score(gram(with_copies(np.random.default_rng(n), n, int(0.4 * n), 0.01)), 10**20)
        assert rule.gas < most


def test_the_dearest_search_for_copies_leaves_gas_for_the_rest(rule):
    # Four pairs, each with more noise, so that all the others are searched once more each time.
    rng = np.random.default_rng(5)
    updates = rng.normal(0, 300, (32, 20_000))
    for pair, part in enumerate((0.001, 0.01, 0.03, 0.1)):
        at = slice(2 * pair, 2 * pair + 2)
        updates[at] = updates[2 * pair] + rng.normal(0, 300 * part, (2, 20_000))
    scores = alike(rule, gram(np.rint(updates).astype(np.int16)), 10**20)
    assert [weight == 0 for weight in scores.weights] == [True] * 8 + [False] * 24
    assert rule.gas < 7_500_000


def test_the_dearest_round_of_64_leaves_gas_for_its_proof_and_its_payments(rule):
    # Four groups of one each, so that every test is of nearly all.
    rule.score(growing(64, 4), 10**20)
    assert rule.gas < 16_777_216 - 2_500_000 - 64 * 25_000
