"""A reference string, and the two verifiers sitting as one court."""

from __future__ import annotations

import pytest

from marketplace.proof.srs import Srs, generate
from tests.marketplace.proof.court import SRS_SEED, Court, D
from tests.marketplace.proof.onchain import OnChain


@pytest.fixture(scope="session")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "proof.srs", D + 8, SRS_SEED)


@pytest.fixture(scope="session")
def court(anvil_url: str, srs: Srs) -> Court:
    return Court(srs, OnChain(anvil_url))
