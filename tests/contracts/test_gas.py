"""Compare the gas of a round with the committed snapshot; TRIBUTE_WRITE_GAS=1 writes it anew."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.compile import artefacts
from deploy.devnet import running_anvil
from tests.contracts.local_market import TRANSACTION_CAP, Anvil, Market, actor

SNAPSHOT = Path(__file__).with_name("gas.json")
CODE_LIMIT = 24_576
"""Bytes of code that a contract may have (EIP-170)."""


def matrix(n: int, number: int, outliers: int) -> NDArray[np.int64]:
    """Return the Gram matrix of n updates, the last ones of which point elsewhere."""
    rng = np.random.default_rng(number)
    rows = rng.normal(0, 100, 1000) + rng.normal(0, 60, (n, 1000))
    rows[n - outliers :] *= -1
    whole = rows.astype(np.int64)
    return whole @ whole.T


def play(
    n: int,
    outliers: int,
    relayed: bool = False,
    proven: bool = True,
    rule: str = "MultiKrumShapley",
    rooted: bool = False,
    last: int = 3,
    **terms: int,
) -> dict[str, int]:
    """Return the gas of the last round; by the third of five no slot is fresh any more.

    Each on a chain of its own: anvil takes the longer for a block, the more it holds.
    """
    crowd = [actor(f"trainer {k}") for k in range(n)]
    root = actor("root") if rooted else None
    with running_anvil() as rpc:
        market = Market(Anvil(rpc), crowd, proven, rule, root=root, rounds=5, **terms)
        for number in range(1, last + 1):
            gas = market.play(matrix(n + rooted, number, outliers), relayed=relayed).gas
        assert market.account(market.trainers[0].address).credit > 0
        assert market.account(market.trainers[-1].address).strikes == (last if outliers else 0)
    return gas


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, int]]:
    found = {
        "10 trainers, no proof": play(10, 0, proven=False),
        "10 trainers, 2 slashed, no proof": play(10, 2, proven=False),
        "10 trainers, 2 slashed, attested": play(10, 2),
        "10 trainers and a root, no proof": play(10, 0, proven=False, rooted=True),
        "10 trainers with a privacy budget, no proof": play(
            10, 0, proven=False, epsilon_milli=3000
        ),
        "10 trainers, commits relayed": play(10, 0, relayed=True, proven=False),
        "32 trainers, 6 slashed, attested": play(32, 6),
        "128 trainers, 25 slashed, attested": play(128, 25),
        "127 trainers and a root, attested": play(127, 25, rooted=True, last=1),
        "10 trainers, PeelShapley, no proof": play(10, 0, proven=False, rule="PeelShapley"),
        "64 trainers, PeelShapley, attested": play(64, 12, rule="PeelShapley"),
        "63 trainers and a root, PeelShapley, attested": play(
            63, 12, rule="PeelShapley", rooted=True, last=1
        ),
    }
    if os.environ.get("TRIBUTE_WRITE_GAS"):
        SNAPSHOT.write_text(json.dumps(found, indent=2) + "\n")
    return found


def test_gas_is_what_the_snapshot_says(measured: dict[str, dict[str, int]]) -> None:
    assert measured == json.loads(SNAPSHOT.read_text())


def test_ten_trainers_stay_within_the_targets(measured: dict[str, dict[str, int]]) -> None:
    ten = measured["10 trainers, no proof"]
    assert ten["commit"] <= 32_000
    assert ten["reveal"] <= 40_000
    assert ten["settle"] <= 10 * 25_000


@pytest.mark.parametrize(
    "name",
    [
        "128 trainers, 25 slashed, attested",
        "127 trainers and a root, attested",
        "64 trainers, PeelShapley, attested",
        "63 trainers and a root, PeelShapley, attested",
    ],
)
def test_a_full_round_fits_into_transactions(
    measured: dict[str, dict[str, int]], name: str
) -> None:
    # A Gram proof of as many points takes up to 2.5M more than a signature.
    full = measured[name]
    assert max(full["close commits"], full["settle"]) < TRANSACTION_CAP - 2_500_000


@pytest.mark.parametrize("name", sorted(name for name, a in artefacts().items() if a.bytecode))
def test_code_fits_into_a_contract(name: str) -> None:
    assert 0 < len(artefacts()[name].runtime) <= CODE_LIMIT
