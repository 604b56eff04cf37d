"""Find descriptions in this home, at gateways and in nodes, and let nobody wait for lost ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from api.app import Settings
from api.describe import Describer
from api.follow import Follower
from api.index import Index
from api.server import running_server
from ipfs import BlockStore
from ipfs.reader import reader
from ipfs.select import open_store
from ipfs.serve import running_gateway
from marketplace.codec import DESCRIPTION_FILE, Description, encode_description
from tests.api.bazaar import FIRST_TRAINER, Bazaar
from tests.api.listener import Listener, wait_for
from tests.ipfs.http_server import listening
from tests.ipfs.rpc_node import running_node


def described(folder: Path, title: str) -> bytes:
    """Publish a description in a store and return its digest."""
    words = Description(title=title, model="mlp")
    return BlockStore(folder).put_directory({DESCRIPTION_FILE: encode_description(words)}).digest


def titles(url: str) -> list[str | None]:
    items = requests.get(f"{url}/v1/projects?sort=oldest", timeout=20).json()["items"]
    return [item["title"] for item in items]


@contextmanager
def gateway_of(folder: Path) -> Iterator[str]:
    with running_gateway(BlockStore(folder)) as url:
        yield url


@contextmanager
def node_of(folder: Path) -> Iterator[str]:
    with running_node(folder) as url:
        yield f"kubo:{url}"


@pytest.mark.parametrize("elsewhere", [gateway_of, node_of], ids=["gateway", "Kubo's RPC"])
def test_what_others_hold_is_shown_too(bazaar: Bazaar, tmp_path: Path, elsewhere: Any) -> None:
    bazaar.open(description_cid=described(tmp_path / "other", "Heart sounds"))
    with elsewhere(tmp_path / "other") as address:
        store = open_store(bazaar.home / "ipfs", [address])
        serving = running_server(
            bazaar.home, bazaar.chain, None, "127.0.0.1", 0, Settings(rate=0), store=store
        )
        with serving as server:
            wait_for(lambda: titles(server.url) == ["Heart sounds"])


def test_a_stream_says_when_a_description_was_found(bazaar: Bazaar, tmp_path: Path) -> None:
    bazaar.open(description_cid=described(tmp_path / "other", "Heart sounds"))
    settings = Settings(rate=0)
    with running_server(bazaar.home, bazaar.chain, None, "127.0.0.1", 0, settings) as server:
        wait_for(lambda: titles(server.url) == [None])
        listener = Listener(f"{server.url}/v1/events")
        wait_for(lambda: listener.named("status"))
        described(bazaar.home / "ipfs", "Heart sounds")
        wait_for(lambda: listener.named("described"))
        listener.close()
        (told,) = listener.named("described")
        assert told["data"] == {"descriptions": 1} and titles(server.url) == ["Heart sounds"]


class _Silent(BaseHTTPRequestHandler):
    """Take requests and answer none of them."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.over.wait(60)


def test_content_that_nobody_finds_keeps_nobody_waiting(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Silent, "over", threading.Event())
    for _ in range(20):
        bazaar.open(rounds=1)  # Nobody has what their random CIDs name.
    with listening(_Silent) as silent:
        store = open_store(bazaar.home / "ipfs", [silent])
        serving = running_server(
            bazaar.home, bazaar.chain, None, "127.0.0.1", 0, Settings(rate=0), store=store
        )
        with serving as server:
            wait_for(lambda: titles(server.url) == [None] * 20)
            project = bazaar.open(description_cid=described(bazaar.home / "ipfs", "Found"))
            begun = time.monotonic()
            wait_for(lambda: len(titles(server.url)) == 21)
            assert time.monotonic() - begun < 2
            begun = time.monotonic()
            page = requests.get(f"{server.url}/v1/projects/0x{project.hex()}", timeout=20)
            assert page.status_code == 200 and time.monotonic() - begun < 1
            # A place among those that are looked for comes free within the time for one.
            wait_for(lambda: titles(server.url)[-1] == "Found")
            begun = time.monotonic()
        assert time.monotonic() - begun < 6  # Stopping waits for no more than what is under way.
        _Silent.over.set()


def test_what_was_not_found_is_looked_for_again_less_and_less_often(
    bazaar: Bazaar, tmp_path: Path
) -> None:
    late = described(tmp_path / "other", "Late")
    bazaar.start([FIRST_TRAINER], description_cid=late)
    index = Index(f"sqlite:///{tmp_path}/index.db", bazaar.deployment)
    Follower(index, bazaar.chain).catch_up()
    asked: list[float] = []
    now = 0.0
    read_here = reader(BlockStore(tmp_path / "here"))
    read_there = reader(BlockStore(tmp_path / "other"))

    def read(digest: bytes, name: str, most: int) -> bytes:
        asked.append(now)
        return (read_there if now > 2_000 else read_here)(digest, name, most)

    describer = Describer(index, read, lambda: now)
    for second in range(2_500):
        now = float(second)
        assert not describer.look()
    # 5 s after the first time, then twice as long each time, 600 s at most.
    assert asked == [0, 5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435]
    assert index.unknown_descriptions() == []
    index.close()


def test_a_defect_that_one_description_meets_stops_no_other(
    bazaar: Bazaar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = (described(tmp_path / "here", title) for title in ("Good", "Bad"))
    for digest in (good, bad):
        bazaar.open(description_cid=digest)
    index = Index(f"sqlite:///{tmp_path}/index.db", bazaar.deployment)
    Follower(index, bazaar.chain).catch_up()
    read_here = reader(BlockStore(tmp_path / "here"))

    def read(digest: bytes, name: str, most: int) -> bytes:
        if digest == bad:
            raise ZeroDivisionError
        return read_here(digest, name, most)

    assert not Describer(index, read).look()
    assert index.unknown_descriptions() == [bad]
    assert f"0x{bad.hex()} met a defect" in caplog.text
    index.close()
