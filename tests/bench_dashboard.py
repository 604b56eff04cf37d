"""Measure what the dashboard costs its visitors, in Chromium against a server on loopback.

First view: what crosses the wire, headers included, until the list of projects is there.
Interactive: from the navigation to a list that can be clicked, best of five in fresh profiles.
Event: from before a transaction is sent until the page shows what it did, the slowest of five, so
that signing, sending and mining count too.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from api.app import Settings
from api.server import running_server
from deploy.devnet import running_anvil
from marketplace.errors import NotFoundError
from tests.api.visit import FLAGS
from tests.bench import Row
from tests.market import FIRST_TRAINER, Stage, Town

__all__ = ["rows"]

_TIMES = 5


def rows() -> list[Row]:
    """Return the sizes and times that the dashboard promises."""
    program = shutil.which("chromium")
    if program is None:
        raise NotFoundError("no chromium on PATH; install Debian's package chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_anvil() as rpc,
        sync_playwright() as playwright,
    ):
        town = Town(rpc, Path(folder))
        stage = town.open(["honest"] * _TIMES)
        settings = Settings(rate=0)
        with running_server(town.home, town.chain, None, "127.0.0.1", 0, settings) as server:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
            views = [_first_view(browser, server.url) for _ in range(_TIMES)]
            size, ready = zip(*views, strict=True)
            slowest = max(_events(browser, server.url, stage))
            browser.close()
    return [
        Row("first view", round(max(size) / 1000, 1), "kB", "≤ 200", "compressed"),
        Row("interactive", round(min(ready), 2), "s", "≤ 1", f"best of {_TIMES}"),
        Row("event visible in the page", round(slowest, 2), "s", "≤ 2", f"slowest of {_TIMES}"),
    ]


def _first_view(browser: Browser, url: str) -> tuple[int, float]:
    """Return the bytes that a first visit takes, and the seconds until it can be used."""
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []

    def count(request: object) -> None:
        found = request.sizes()  # type: ignore[attr-defined]
        sizes.append(found["responseBodySize"] + found["responseHeadersSize"])

    page.on("requestfinished", count)
    page.goto(url)
    page.get_by_role("link", name=re.compile("Digits")).first.wait_for()
    ready = page.evaluate("performance.now()") / 1000
    page.wait_for_timeout(300)
    context.close()
    return sum(sizes), ready


def _events(browser: Browser, url: str, stage: Stage) -> list[float]:
    """Let trainers join one by one; return how long the page took to show each."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/#/projects/0x{stage.project.hex()}")
    expect(page.locator(".live")).to_have_text("Live")
    found = []
    for k in range(_TIMES):
        signer = stage.town.signer(FIRST_TRAINER + k)
        begun = time.monotonic()
        signer.join(stage.project, stage.view.params)
        place = page.get_by_text(f"{k + 1} of {_TIMES} places taken")
        place.wait_for(timeout=20_000)
        found.append(time.monotonic() - begun)
    context.close()
    return found
