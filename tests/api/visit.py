"""Hold an open page of the dashboard as a visitor sees it."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, Decimal
from typing import Any

from playwright.sync_api import Locator, Page, expect

from marketplace.wallet import dev_account
from tests.conftest import ROOT
from tests.market import FIRST_TRAINER, Stage

WEB = ROOT / "api" / "web"
DESKTOP, PHONE = (1280, 900), (390, 844)
ATTACKER = 5
"""Place of the attacker among the trainers of the market that ended."""
SCREENSHOTS = ROOT / "build" / "screenshots"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


class Visit:
    """Hold an open page, what it complained of, and where else it went."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.addresses: set[str] = set()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.addresses.add(request.url))

    def _listen(self, message: Any) -> None:
        # The browser itself reports answers that the page handles, such as a 404.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def go(self, path: str) -> None:
        self.page.goto(f"{self.url}/{path}")
        self.page.locator("h1").wait_for()

    def see(self, text: str | re.Pattern[str], within_s: float = 5.0) -> None:
        expect(self.page.locator("body")).to_contain_text(text, timeout=1000 * within_s)

    def figure(self, label: str) -> Locator:
        """Return the figure that stands under a label."""
        named = self.page.locator("dt", has_text=re.compile(f"^{label}$"))
        return self.page.locator(".stats > div", has=named).locator("dd").first

    def shoot(self, name: str) -> None:
        """Look for barriers with axe and for what is wider than the page, and keep a picture."""
        self.page.evaluate((WEB / "node_modules/axe-core/axe.min.js").read_text())
        found = self.page.evaluate("axe.run(document).then((result) => result.violations)")
        told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert not told, f"{self.page.url}: {told}"
        wide, shown = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= shown, f"{self.page.url} is {wide} pixels wide on a screen of {shown}"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def open_round(self, number: int) -> None:
        """Go from a project's page to one of its rounds."""
        rounds = self.page.get_by_role("table", name="Rounds of the project")
        rounds.get_by_role("link", name=f"Round {number}", exact=True).click()

    def connect(self, number: int) -> None:
        """Act as a devnet account."""
        self.page.get_by_role("button", name="Connect", exact=True).click()
        self.page.get_by_label("Test account", exact=True).select_option(index=number)
        self.page.get_by_role("button", name="Use this test account").click()

    def done(self) -> None:
        """Wait until the chain has taken what was sent."""
        expect(self.page.get_by_text("Done:").first).to_be_visible(timeout=15_000)


def path(stage: Stage, rest: str = "") -> str:
    return f"#/projects/0x{stage.project.hex()}{rest}"


def trainer(k: int) -> str:
    return dev_account(FIRST_TRAINER + k).address


def tokens(units: int) -> str:
    """Write an amount as people should read it: four decimals, rounded down."""
    value = (Decimal(units) / 10**18).quantize(Decimal("0.0001"), rounding=ROUND_DOWN)
    return f"{value:,f}".rstrip("0").rstrip(".")


def records_of(found: Any) -> Any:
    return found.settlement.records


def record_of(found: Any, address: str) -> Any:
    place = [reveal.trainer for reveal in found.reveals].index(address)
    return found.settlement.records[place]


def short(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"
