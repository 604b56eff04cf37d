"""Prove and cheat; GramVerifier.sol and the Python verifier have to agree on everything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.errors import ProofError
from marketplace.proof.commitment import commit, random_blinding
from marketplace.proof.prover import prove
from marketplace.proof.srs import Srs, generate
from marketplace.proof.transcript import round_context
from marketplace.proof.verifier import verify
from tests.marketplace.onchain import OnChain, call_data

PROJECT = bytes(range(32))
ROUND = 7
D = 40


@pytest.fixture(scope="module")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "gram.srs", D + 8, b"gram proof")


@pytest.fixture(scope="module")
def chain(anvil_url: str) -> OnChain:
    return OnChain(anvil_url)


@pytest.fixture(scope="module")
def verifier(chain: OnChain, srs: Srs) -> str:
    return chain.deploy(srs.header)


def triangle(updates: npt.NDArray[np.int16]) -> bytes:
    rows = [[int(x) for x in row] for row in updates]
    return b"".join(
        sum(x * y for x, y in zip(a, b, strict=True)).to_bytes(8, signed=True)
        for i, a in enumerate(rows)
        for b in rows[i:]
    )


@dataclass(frozen=True)
class Claim:
    """Hold a statement and its proof as they go over the wire."""

    points: tuple[bytes, ...]
    gram: bytes
    proof: bytes
    project: bytes = PROJECT
    round: int = ROUND

    def call(self) -> bytes:
        return call_data(self.project, self.round, self.points, self.gram, self.proof)


def context(chain: OnChain, project: bytes = PROJECT, round_: int = ROUND) -> bytes:
    return round_context(chain.chain_id, bytes.fromhex(chain.marketplace[2:]), project, round_)


def claim(srs: Srs, chain: OnChain, updates: npt.NDArray[np.int16]) -> Claim:
    blindings = [random_blinding() for _ in updates]
    points = tuple(commit(srs, u, b) for u, b in zip(updates, blindings, strict=True))
    gram = triangle(updates)
    return Claim(points, gram, prove(srs, context(chain), points, gram, updates, blindings))


def accepted(srs: Srs, chain: OnChain, claim: Claim) -> bool:
    try:
        verify(
            srs.header,
            context(chain, claim.project, claim.round),
            claim.points,
            claim.gram,
            claim.proof,
        )
    except ProofError:
        return False
    return True


limits = st.sampled_from([0, 1, -1, -(2**15), 2**15 - 1])
int16 = st.one_of(st.integers(-(2**15), 2**15 - 1), limits)


@st.composite
def updates(draw: st.DrawFn) -> npt.NDArray[np.int16]:
    n, d = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    row = st.one_of(
        st.lists(int16, min_size=d, max_size=d),
        st.builds(lambda x: [x] * d, limits),
    )
    drawn = draw(st.lists(row, min_size=n, max_size=n))
    if draw(st.booleans()):
        drawn[-1] = drawn[0]
    return np.array(drawn, dtype=np.int16)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(matrix=updates())
def test_true_matrices_are_proven(
    srs: Srs, chain: OnChain, verifier: str, matrix: npt.NDArray[np.int16]
) -> None:
    made = claim(srs, chain, matrix)
    assert len(made.proof) == 480
    assert accepted(srs, chain, made)
    assert chain.verdicts(verifier, [made.call()]) == [True]


@pytest.mark.parametrize("entry", [0, 1, 5])
def test_wrong_matrices_are_neither_proven_nor_accepted(
    srs: Srs, chain: OnChain, verifier: str, entry: int
) -> None:
    made = claim(srs, chain, np.arange(3 * D, dtype=np.int16).reshape(3, D))
    gram = bytearray(made.gram)
    gram[8 * entry + 7] ^= 1
    wrong = replace(made, gram=bytes(gram))
    assert not accepted(srs, chain, wrong)
    assert chain.verdicts(verifier, [made.call(), wrong.call()]) == [True, False]
