"""Hold a market that was played on a real chain, and a real server that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from api.app import Settings
from api.server import Server, running_server
from deploy.devnet import running_anvil
from ipfs import BlockStore
from marketplace.codec import DESCRIPTION_FILE, Description, encode_description
from marketplace.wallet import dev_account
from tests.api.bazaar import FIRST_TRAINER, Bazaar
from tests.api.listener import wait_for

CROWD = range(FIRST_TRAINER, FIRST_TRAINER + 7)
HOSTILE, LEFT_OUT = 10, 13


class Site:
    """Hold a market that was played, and the server that shows it."""

    def __init__(self, bazaar: Bazaar, server: Server) -> None:
        self.bazaar = bazaar
        self.url = server.url
        self.project, self.other = bazaar.projects[:2]

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=20, **options)

    def json(self, path: str, status: int = 200) -> Any:
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, action: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = requests.post(f"{self.url}/v1/transactions/{action}", json=body, timeout=20)
        assert answer.status_code == status, answer.text
        return answer.json()

    @property
    def path(self) -> str:
        return f"/v1/projects/0x{self.project.hex()}"

    def pages(self, path: str, limit: int) -> list[Any]:
        """Return all items of a list, page by page."""
        found, cursor = [], None
        for _ in range(100):
            mark = "&" if "?" in path else "?"
            after = f"&cursor={cursor}" if cursor else ""
            page = self.json(f"{path}{mark}limit={limit}{after}")
            assert len(page["items"]) <= limit + (1 if path.endswith("/models") else 0)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                return found
        raise AssertionError(f"{path} does not end")

    def wait_indexed(self) -> None:
        head = self.bazaar.chain.head().number
        wait_for(lambda: self.json("/v1/status")["indexed_block"] >= head)


def address(number: int) -> str:
    return dev_account(number).address


@contextmanager
def played_site(home: Path) -> Iterator[Site]:
    """Play two projects: one of three rounds with an outlier and an exclusion, one that began."""
    with running_anvil() as rpc, pytest.MonkeyPatch.context() as patch:
        # So that those who listen notice soon when a test hangs up.
        patch.setattr("api.service.STATUS_EVERY_S", 0.3)
        bazaar = Bazaar(rpc, home)
        store = BlockStore(home / "ipfs")
        words = Description(title="Heart sounds", summary="Murmurs, 100 % of them", model="mlp")
        root = store.put_directory({DESCRIPTION_FILE: encode_description(words)})
        project = bazaar.start(CROWD, description_cid=root.digest, rounds=4)
        bazaar.play(project, CROWD, hostile=[HOSTILE])
        reasons = bytes(3 if number == LEFT_OUT else 0 for number in CROWD)
        bazaar.play(project, CROWD, hostile=[HOSTILE], exclusions=reasons)
        bazaar.play(project, [n for n in CROWD if n != HOSTILE])
        bazaar.play(project, [11, 12], outcome="nothing")
        bazaar.start([11, 12], reward=500)
        settings = Settings(origins=["http://localhost:5173"], rate=0)
        with running_server(home, bazaar.chain, None, "127.0.0.1", 0, settings) as server:
            found = Site(bazaar, server)
            found.wait_indexed()
            wait_for(lambda: found.json(found.path)["title"])
            yield found
