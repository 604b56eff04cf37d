"""Compare every hash of prover, verifiers and contract on random inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from marketplace.errors import ProofError
from marketplace.proof import transcript as module
from marketplace.proof.transcript import Proof, Transcript, round_context
from tests.marketplace.proof import reference
from tests.marketplace.proof.court import Claim, Court, Prover
from tests.marketplace.proof.reference import R, word

scalar = st.integers(0, R - 1)
point = st.binary(min_size=96, max_size=96)


@given(
    srs_id=st.binary(min_size=32, max_size=32),
    context=st.binary(min_size=32, max_size=32),
    points=st.lists(point, min_size=1, max_size=5),
    sent=st.tuples(point, scalar, point, scalar, scalar, scalar, scalar, scalar, point),
    data=st.data(),
)
def test_challenges_are_the_hashes_that_the_text_names(
    srs_id: bytes, context: bytes, points: list[bytes], sent: tuple[Any, ...], data: st.DataObject
) -> None:
    n = len(points)
    gram = data.draw(st.binary(min_size=4 * n * (n + 1), max_size=4 * n * (n + 1)))
    proof = Proof(*sent)
    packed = proof.pack()
    assert Proof.unpack(packed) == proof

    tag = b"TRIBUTE-GRAM-V1" + bytes(17)
    statement = srs_id + context + word(n) + b"".join(points) + gram
    state = keccak(tag + statement + packed[:128])
    transcript = Transcript(srs_id, context, points, gram, proof.mask_point, proof.mask_norm)
    rhos, c = transcript.combination()
    hashes = [int.from_bytes(keccak(state + word(i))) % R for i in range(n + 1)]
    assert [c, *rhos] == hashes
    state = keccak(state + packed[128:224])
    assert transcript.evaluation(proof.shift_point) == int.from_bytes(state) % R
    state = keccak(state + packed[224:352])
    challenge = transcript.opening(proof.a0, proof.a1, proof.s0, proof.s1)
    assert challenge == int.from_bytes(state) % R


@given(
    chain_id=st.integers(0, 2**256 - 1),
    marketplace=st.binary(min_size=20, max_size=20),
    project=st.binary(min_size=32, max_size=32),
    round_=st.integers(0, 2**32 - 1),
)
def test_context_is_four_words(
    chain_id: int, marketplace: bytes, project: bytes, round_: int
) -> None:
    words = chain_id.to_bytes(32) + bytes(12) + marketplace + project + round_.to_bytes(32)
    assert round_context(chain_id, marketplace, project, round_) == keccak(words)


def test_contexts_of_other_lengths_are_refused() -> None:
    with pytest.raises(ProofError, match="address of 21 and a project of 32 bytes"):
        round_context(1, bytes(21), bytes(32), 1)
    with pytest.raises(ProofError, match="address of 20 and a project of 31 bytes"):
        round_context(1, bytes(20), bytes(31), 1)


@pytest.mark.parametrize(("n", "seed"), [(1, 1), (2, 2), (4, 3)])
def test_contract_hashes_the_same_bytes_as_python(
    court: Court, n: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    project, round_ = rng.bytes(32), int(rng.integers(2**32))
    prover = Prover(court, seed, n)
    hashed: list[bytes] = []

    def recorded(data: bytes) -> bytes:
        hashed.append(data)
        return keccak(data)

    monkeypatch.setattr(module, "keccak", recorded)
    prover.context = court.context(project, round_)
    claim = Claim(**{**vars(prover.claim()), "project": project, "round": round_})
    assert court.verdicts([claim]) == [True]
    # one context for the prover, then what the verifier hashed
    assert in_the_contract(court, claim) == hashed[1:]
    assert len(hashed) == 1 + 1 + 1 + (n + 1) + 2


def in_the_contract(court: Court, claim: Claim) -> list[bytes]:
    """Return the input of every KECCAK256 that the contract executes."""
    trace = court.chain.request(
        "debug_traceCall",
        {
            "from": court.chain.marketplace,
            "to": court.verifier,
            "data": "0x" + claim.call_data().hex(),
        },
        "latest",
        {"enableMemory": True, "disableStorage": True},
    )
    found = []
    for step in trace["structLogs"]:
        if step["op"] in ("KECCAK256", "SHA3"):
            memory = bytes.fromhex("".join(part.removeprefix("0x") for part in step["memory"]))
            at, size = (int(value, 16) for value in reversed(step["stack"][-2:]))
            found.append(memory.ljust(at + size, b"\0")[at : at + size])
    return found


def test_reference_makes_the_same_context() -> None:
    arguments = 31337, bytes(range(20)), bytes(range(32)), 9
    assert reference.round_context(*arguments) == round_context(*arguments)
