"""Hold prover and verifiers to tests/vectors/gram_proof.json, which the reference wrote."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from marketplace.errors import ProofError
from marketplace.proof.commitment import BLINDING_TAG, H, commit
from marketplace.proof.prover import prove
from marketplace.proof.srs import Srs, SrsHeader, check, write
from marketplace.proof.transcript import TAG, Proof, Transcript, round_context
from marketplace.proof.verifier import claimed_norm, verify
from tests.marketplace.proof import make_vectors
from tests.marketplace.proof.onchain import OnChain, call_data

VECTORS: dict[str, Any] = json.loads(make_vectors.FILE.read_text())
CASES = VECTORS["accepted"]
ROUND = VECTORS["round"]
NAMES = [case["name"] for case in CASES]


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def number(text: str) -> int:
    return int(text, 16)


@pytest.fixture(scope="module")
def string(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    data = VECTORS["referenceString"]
    points = [raw(power) for power in data["powers"]]
    header = SrsHeader(
        len(points), True, raw(data["tauG1"]), raw(data["tauG2"]), raw(data["tau2G2"])
    )
    made = write(tmp_path_factory.mktemp("srs") / "vectors.srs", header, iter(points))
    check(made)
    return made


@pytest.fixture(scope="module")
def verifier(anvil_url: str, string: Srs) -> tuple[OnChain, str]:
    chain = OnChain(anvil_url)
    assert chain.chain_id == ROUND["chainId"]
    return chain, chain.deploy(string.header)


def on_chain(verifier: tuple[OnChain, str], case: dict[str, Any]) -> bool:
    points = b"".join(raw(point) for point in case["points"])
    call = call_data(
        raw(ROUND["project"]), ROUND["round"], points, raw(case["gram"]), raw(case["proof"])
    )
    chain, address = verifier
    return chain.verdicts(address, [call], ROUND["marketplace"])[0]


def in_python(string: Srs, case: dict[str, Any]) -> bool:
    points = [raw(point) for point in case["points"]]
    try:
        verify(string.header, raw(ROUND["context"]), points, raw(case["gram"]), raw(case["proof"]))
    except ProofError:
        return False
    return True


def test_constants_are_those_of_the_vectors(string: Srs) -> None:
    curve = VECTORS["curve"]
    assert raw(curve["tag"]) == TAG
    assert curve["blindingTag"].encode() == BLINDING_TAG
    assert raw(curve["H"]) == H.to_xy_bytes_be()
    assert raw(VECTORS["referenceString"]["srsId"]) == string.id
    assert raw(ROUND["context"]) == round_context(
        ROUND["chainId"], raw(ROUND["marketplace"]), raw(ROUND["project"]), ROUND["round"]
    )


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_both_verifiers_accept(
    string: Srs, verifier: tuple[OnChain, str], case: dict[str, Any]
) -> None:
    assert in_python(string, case)
    assert on_chain(verifier, case)


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_both_verifiers_refuse(
    string: Srs, verifier: tuple[OnChain, str], case: dict[str, Any]
) -> None:
    assert not in_python(string, case)
    assert not on_chain(verifier, case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_prover_reproduces_points_challenges_and_proof(string: Srs, case: dict[str, Any]) -> None:
    updates = np.array(case["updates"], dtype=np.int16)
    blindings = [number(x) for x in case["blindings"]]
    points = [commit(string, u, b) for u, b in zip(updates, blindings, strict=True)]
    assert points == [raw(point) for point in case["points"]]
    draws = [*case["mask"], case["maskBlinding"], case["shiftBlinding"]]
    secrets = iter([number(x) for x in draws])
    context, gram = raw(ROUND["context"]), raw(case["gram"])
    proof = prove(string, context, points, gram, updates, blindings, secret=lambda: next(secrets))
    assert proof == raw(case["proof"])

    sent = Proof.unpack(proof)
    transcript = Transcript(string.id, context, points, gram, sent.mask_point, sent.mask_norm)
    rhos, c = transcript.combination()
    assert (rhos, c) == ([number(x) for x in case["rho"]], number(case["c"]))
    assert claimed_norm(rhos, c, gram, sent.mask_norm) == number(case["t"])
    assert transcript.evaluation(sent.shift_point) == number(case["s"])
    assert transcript.opening(sent.a0, sent.a1, sent.s0, sent.s1) == number(case["gamma"])


def test_file_is_what_its_maker_writes() -> None:
    assert make_vectors.vectors() == VECTORS
