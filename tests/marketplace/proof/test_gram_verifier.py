"""Check what GramVerifier.sol does besides verifying: its constructor, and its gas."""

from __future__ import annotations

import numpy as np
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from py_ecc.bls.point_compression import modular_squareroot_in_FQ2
from py_ecc.optimized_bls12_381 import FQ2, is_inf, is_on_curve, multiply
from py_ecc.optimized_bls12_381 import b2 as B2
from pyrevm import EVM

from deploy.compile import artefact
from marketplace.proof.srs import SrsHeader, generate
from tests.marketplace.proof.court import Court
from tests.marketplace.proof.reference import R, coordinates


def creation(tau_g1: bytes, tau_g2: bytes, tau2_g2: bytes) -> bytes:
    arguments = encode(["bytes"] * 3, [tau_g1, tau_g2, tau2_g2])
    return artefact("GramVerifier").bytecode + arguments


def is_created(court: Court, tau_g1: bytes, tau_g2: bytes, tau2_g2: bytes) -> bool:
    code = "0x" + creation(tau_g1, tau_g2, tau2_g2).hex()
    try:
        court.chain.request("eth_call", {"data": code, "gas": hex(10_000_000)}, "latest")
    except RuntimeError as error:
        # BadReferenceString()
        assert "0x28181f81" in str(error)
        return False
    return True


def outside_the_subgroup() -> bytes:
    """Return a point of the curve over F_p² that is not in G2."""
    for i in range(1, 100):
        x = FQ2([i, 0])
        y = modular_squareroot_in_FQ2(x * x * x + B2)
        if y is not None:
            point = (x, y, FQ2.one())
            assert is_on_curve(point, B2)
            assert not is_inf(multiply(point, R))
            return coordinates(point)
    raise AssertionError("none found")


def test_only_powers_of_one_secret_are_taken(court: Court, tmp_path: object) -> None:
    h = court.srs.header
    other = generate(f"{tmp_path}/other.srs", 2, b"other").header
    good = (h.tau_g1, h.tau_g2, h.tau2_g2)
    assert is_created(court, *good)
    bad = [
        (other.tau_g1, h.tau_g2, h.tau2_g2),
        (h.tau_g1, other.tau_g2, h.tau2_g2),
        (h.tau_g1, h.tau_g2, other.tau2_g2),
        (h.tau_g1, h.tau2_g2, h.tau_g2),
        (h.tau_g1, h.tau_g2, h.tau_g2),
        # τ = 0, and its likes
        (bytes(96), bytes(192), bytes(192)),
        (bytes(96), h.tau_g2, h.tau2_g2),
        (h.tau_g1, bytes(192), bytes(192)),
        # lengths
        (h.tau_g1[1:], h.tau_g2, h.tau2_g2),
        (h.tau_g1 + b"\0", h.tau_g2, h.tau2_g2),
        (h.tau_g1, h.tau_g2[:-96], h.tau2_g2),
        (h.tau_g1, h.tau_g2, b""),
        # off the curve, outside the subgroup
        (h.tau_g1[:-1] + b"\0", h.tau_g2, h.tau2_g2),
        (bytes(95) + b"\x02", h.tau_g2, h.tau2_g2),
        (h.tau_g1, h.tau_g2, h.tau2_g2[:-1] + b"\0"),
        (h.tau_g1, outside_the_subgroup(), h.tau2_g2),
        (h.tau_g1, h.tau_g2, outside_the_subgroup()),
    ]
    assert [points for points in bad if is_created(court, *points)] == []


def test_string_is_named_as_python_names_it(court: Court) -> None:
    call = {"to": court.verifier, "data": "0x" + keccak(b"srsId()")[:4].hex()}
    answer = court.chain.request("eth_call", call, "latest")
    assert bytes.fromhex(answer[2:]) == court.srs.id


def test_chain_without_the_precompiles_is_refused(court: Court) -> None:
    # this EVM ends with Cancun
    h: SrsHeader = court.srs.header
    evm = EVM()
    deployer = "0x" + "11" * 20
    evm.set_balance(deployer, 10**20)
    with pytest.raises(RuntimeError, match="0x28181f81"):
        evm.deploy(deployer, creation(h.tau_g1, h.tau_g2, h.tau2_g2))


@pytest.mark.parametrize(("n", "limit"), [(10, 370_000), (32, 750_000), (64, 2_000_000)])
def test_whole_transaction_stays_below_its_limit(court: Court, n: int, limit: int) -> None:
    drawn = np.random.default_rng(n).integers(-(2**15), 2**15, (n, 1000))
    claim = court.claim(drawn.astype(np.int16))
    assert court.verdicts([claim]) == [True]
    assert int(court.chain.receipt(court.verifier, claim.call_data())["gasUsed"], 16) <= limit


def test_gas_does_not_depend_on_the_dimension(court: Court) -> None:
    used = []
    for d in (10, 1000):
        rows = np.full((10, d), 100, dtype=np.int16)
        rows[:, 0] = range(10)
        claim = court.claim(rows)
        receipt = court.chain.receipt(court.verifier, claim.call_data())
        used.append(int(receipt["gasUsed"], 16))
    # the bytes of the matrix and of points differ in how many are zero
    assert abs(used[0] - used[1]) < 0.01 * used[0]
