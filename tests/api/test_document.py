"""Hold the server to its OpenAPI document with generated requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import Settings
from api.server import running_server
from deploy.devnet import running_anvil
from tests.api.bazaar import Bazaar

EXAMPLES = 12
ENDLESS = ("/v1/events",)
"""Streams do not end, so that no generated request can read one."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home: Path = tmp_path_factory.mktemp("document")
    with running_anvil() as rpc:
        bazaar = Bazaar(rpc, home)
        project = bazaar.start(range(10, 15))
        bazaar.play(project, range(10, 15), hostile=[12])
        with running_server(home, bazaar.chain, None, "127.0.0.1", 0, Settings(rate=0)) as server:
            yield server.url


def check(operation: Any) -> None:
    """Send generated requests of one route, and judge the answers by the document."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        # A cursor or a CID may fit its pattern and still be none.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    send()


def test_the_server_answers_as_its_document_says(url: str) -> None:
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    finite = [operation for operation in operations if operation.path not in ENDLESS]
    assert len(finite) > 25
    for operation in finite:
        check(operation)
