"""Listen to a real server while a market goes on, and while its chain is reorganised."""

from __future__ import annotations

import time

import pytest
import requests

from api.app import Settings
from api.server import running_server
from tests.api.bazaar import Bazaar
from tests.api.listener import Listener, wait_for
from tests.api.site import Site, address


def test_a_stream_tells_of_events_and_goes_on_after_the_last_one(site: Site) -> None:
    site.wait_indexed()
    listener = Listener(f"{site.url}/v1/events")
    wait_for(lambda: listener.named("status"))
    assert not listener.named("market")
    mined = time.monotonic()
    site.bazaar.signer(13).leave(site.project)
    wait_for(lambda: len(listener.named("market")) >= 2)
    assert time.monotonic() - mined < 4.0
    listener.close()
    names = [event["data"]["name"] for event in listener.named("market")]
    assert names[:2] == ["Deactivated", "LeaveRequested"]
    first = listener.named("market")[0]
    assert first["data"]["account"] == address(13) and first["data"]["title"] == "Heart sounds"
    again = Listener(f"{site.url}/v1/events?project=0x{site.project.hex()}", first["id"])
    wait_for(lambda: again.named("market"))
    again.close()
    assert again.named("market")[0]["id"] == listener.named("market")[1]["id"]
    assert not again.named("reorganised")
    stale = Listener(f"{site.url}/v1/events", first["id"].split("-")[0] + "-deadbeef")
    wait_for(lambda: stale.named("reorganised"))
    stale.close()
    refused = site.get("/v1/events", headers={"Last-Event-ID": "x"})
    assert refused.status_code == 400


@pytest.mark.parametrize("longer_before", [0, 9], ids=["equally long", "shorter"])
def test_a_stream_says_when_the_chain_was_reorganised(bazaar: Bazaar, longer_before: int) -> None:
    chain = bazaar.chain
    project = bazaar.start([11, 12])
    # Without blocks that come by themselves each chain is exactly as long as the test makes it.
    chain.request("evm_setAutomine", [True])
    settings = Settings(rate=0)
    with running_server(bazaar.home, chain, None, "127.0.0.1", 0, settings) as server:
        fork = chain.head().number

        def indexed() -> int:
            return int(requests.get(f"{server.url}/v1/status", timeout=20).json()["indexed_block"])

        wait_for(lambda: indexed() == fork)
        listener = Listener(f"{server.url}/v1/events")
        point = chain.request("evm_snapshot", [])
        bazaar.signer(11).leave(project)
        chain.request("anvil_mine", [hex(longer_before)])
        before = chain.head().number
        wait_for(lambda: listener.named("market")[1:] and indexed() == before)
        assert chain.request("evm_revert", [point])
        bazaar.forget_nonces()
        bazaar.signer(12).leave(project)
        mined = time.monotonic()
        assert chain.head().number == fork + 1 == before - longer_before
        wait_for(lambda: listener.named("reorganised") and listener.named("market")[3:])
        assert time.monotonic() - mined < 2.0
        listener.close()
        (told,) = listener.named("reorganised")
        assert told["data"]["from_block"] == fork + 1
        place = listener.events.index(told)
        accounts = [
            {e["data"]["account"] for e in part if e["event"] == "market"}
            for part in (listener.events[:place], listener.events[place:])
        ]
        assert accounts == [{address(11)}, {address(12)}]
