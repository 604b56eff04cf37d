"""Use the dashboard in a real browser, on a real market.

Screenshots go to build/screenshots. The market is played step by step in this process; the browser
and the server run beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, expect

from api.app import Settings
from api.server import Server, running_server
from ipfs import Cid
from marketplace.codec import unpack_gram
from marketplace.types import Status
from marketplace.wallet import dev_account
from tests.api.visit import (
    ATTACKER,
    PHONE,
    WEB,
    Visit,
    path,
    record_of,
    records_of,
    short,
    tokens,
    trainer,
)
from tests.conftest import ROOT, missing
from tests.market import Stage, Town

NEWCOMER = 5


# -------------------------------------------------------------------- visitors


def test_an_empty_market_says_how_to_begin(visit: Visit) -> None:
    visit.go("")
    visit.see("No projects yet")
    visit.see("Insecure devnet")
    visit.shoot("empty")


def test_a_visitor_finds_a_project_and_sees_where_its_money_went(
    visit: Visit, ended: Stage
) -> None:
    visit.go("")
    visit.page.get_by_role("searchbox").fill("no such words")
    visit.see("Nothing found")
    visit.page.get_by_role("searchbox").fill("dig")
    visit.page.get_by_role("button", name="running").click()
    visit.see("Nothing found")
    visit.page.get_by_role("button", name="finished").click()
    visit.page.get_by_role("link", name=re.compile("Digits")).click()
    records = [record for found in ended.view.history.settled for record in records_of(found)]
    paid = sum(record.share for record in records)
    slashed = sum(record.slashed for record in records)
    assert slashed
    fees = ended.view.params.fee * len(ended.view.history.settled)
    expect(visit.figure("In escrow")).to_have_text("0 TRT")
    expect(visit.figure("Spent")).to_have_text(f"{tokens(paid + fees)} TRT")
    expect(visit.figure("Slashed")).to_have_text(f"{tokens(slashed)} TRT")
    expect(visit.figure("Rounds paid")).to_have_text("2 of 2")
    row = visit.page.get_by_role("row", name=re.compile(short(trainer(0))))
    share = sum(record_of(found, trainer(0)).share for found in ended.view.history.settled)
    expect(row.first).to_contain_text(tokens(share))
    expect(visit.page.locator("canvas")).to_have_count(1)
    penalties = visit.page.get_by_role("table", name="Penalties in the project").get_by_role("row")
    first = next(iter(ended.view.history.settled))
    lost = record_of(first, trainer(ATTACKER)).slashed
    row = penalties.filter(has_text="Round 1").filter(has_text=short(trainer(ATTACKER)))
    expect(row).to_contain_text(f"{tokens(lost)}stakeupdate rejected as an outlier, strike 1")
    expect(row).to_contain_text(short(ended.view.params.slash_sink))
    visit.shoot("project")


@pytest.mark.usefixtures("ended")
def test_the_front_page_adds_the_market_up(visit: Visit, town: Town) -> None:
    chain = town.chain
    visit.go("")
    states = [chain.state(project) for project in chain.projects()]
    running = sum(state.status == Status.RUNNING for state in states)
    expect(visit.figure("Running now")).to_have_text(
        re.compile(rf"^{running} of {len(states)} projects?$")
    )
    escrow = sum(state.escrow for state in states)
    expect(visit.figure("In escrow")).to_have_text(f"{tokens(escrow)} TRT")
    visit.page.get_by_role("button", name="Earlier events").click()
    expect(visit.page.locator(".activity > li").nth(8)).to_be_visible()
    visit.shoot("market")


def test_the_search_finds_ids_and_addresses(visit: Visit, ended: Stage) -> None:
    visit.go("")
    search = visit.page.get_by_role("searchbox")
    search.fill(f"0x{ended.project.hex()[:10]}")
    named = visit.page.get_by_role("list", name="Project with this id")
    expect(named.get_by_role("link", name=re.compile("Digits"))).to_be_visible()
    search.fill("0x" + "fe" * 32)
    visit.see("no project begins with")
    search.fill(trainer(0).lower())
    visit.page.get_by_role("link", name="See what").click()
    expect(visit.page.locator("h1")).to_contain_text("Account")


def test_the_latest_model_can_be_fetched_by_the_command_that_is_shown(
    visit: Visit, ended: Stage, town: Town
) -> None:
    visit.go(path(ended))
    model = visit.page.get_by_role("region", name="Model")
    expect(model).to_contain_text("after 2 paid rounds")
    command = model.locator(".command code").inner_text().split()
    assert command[:3] == ["tribute", "ipfs", "cat"]
    cid, _, name = command[3].partition("/")
    settlement = ended.view.history.settled[-1].settlement
    assert settlement is not None and Cid.parse(cid).digest == settlement.model_cid
    assert town.store.read(Cid.parse(cid), name, timeout_s=5)


def test_the_matrix_in_the_page_is_the_one_that_the_chain_settled_by(
    visit: Visit, ended: Stage
) -> None:
    found = ended.view.history.settled[0]
    assert found.settlement is not None
    matrix = unpack_gram(found.settlement.gram, len(found.reveals))
    visit.go(path(ended))
    visit.open_round(1)
    visit.see("proof verified")
    visit.see(found.settlement.transaction[:6])
    cells = visit.page.locator(".gram tbody td")
    expect(cells).to_have_count(len(matrix) ** 2)
    lengths = matrix.diagonal() ** 0.5
    shown = [float(text.replace("−", "-")) for text in cells.all_inner_texts()]
    angles = (matrix / lengths[:, None] / lengths[None, :]).flatten()
    assert shown == pytest.approx(angles.tolist(), abs=0.0051)
    visit.shoot("round")
    visit.page.get_by_role("button", name="Inner product").click()
    exact = [int(text.replace("−", "-").replace(",", "")) for text in cells.all_inner_texts()]
    assert exact == matrix.flatten().tolist()


def test_a_payment_is_explained_number_by_number(visit: Visit, ended: Stage) -> None:
    found = ended.view.history.settled[0]
    honest, liar = record_of(found, trainer(0)), record_of(found, trainer(ATTACKER))
    assert liar.outlier
    visit.go(path(ended, "/rounds/1"))
    visit.page.get_by_role("row", name=re.compile(short(trainer(0)))).first.get_by_role(
        "link", name="Why"
    ).click()
    expect(visit.figure("Share")).to_have_text(f"{tokens(honest.share)} TRT")
    expect(visit.figure("Weight")).to_contain_text(f"{honest.weight:,}")
    steps = visit.page.locator(".steps > li")
    expect(steps.filter(has_text="Shapley").first).to_be_visible()
    expect(steps.filter(has_text=str(honest.share)).first).to_be_visible()
    visit.shoot("explain")
    visit.go(path(ended, f"/rounds/1/why/{trainer(ATTACKER)}"))
    expect(visit.figure("Share")).to_have_text("0 TRT")
    expect(visit.figure("Slashed")).to_have_text(f"{tokens(liar.slashed)} TRT")
    visit.shoot("explain-outlier")


def test_the_api_is_described_without_another_host(visit: Visit) -> None:
    visit.page.goto(f"{visit.url}/docs")
    visit.page.locator("h1", has_text="API").wait_for()
    visit.page.get_by_text("/v1/transactions/join", exact=True).click()
    visit.see("Prepare the transactions that make an account a trainer")
    expect(visit.page.get_by_role("table", name="Fields of Approval")).to_be_visible()
    visit.shoot("api")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_page_fits_a_phone(
    browser: Browser, server: Server, ended: Stage, colours: Any
) -> None:
    width, height = PHONE
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=colours, has_touch=True
    )
    visit = Visit(context.new_page(), server.url)
    pages = {
        "projects": "",
        "project": path(ended),
        "round": path(ended, "/rounds/1"),
        "explain": path(ended, f"/rounds/1/why/{trainer(0)}"),
        "trainer": path(ended, f"/trainers/{trainer(0)}"),
        "account": f"#/accounts/{trainer(0)}",
        "open": "#/open",
        "api": "#/api",
    }
    for name, address in pages.items():
        visit.go(address)
        visit.shoot(f"phone-{colours}-{name}")
    context.close()
    assert not visit.complaints


def test_what_does_not_exist_is_not_found(visit: Visit, ended: Stage) -> None:
    for address in (
        f"#/projects/0x{'fe' * 32}",
        path(ended, "/rounds/99"),
        path(ended, "/rounds/zero"),
        path(ended, f"/rounds/1/why/{dev_account(NEWCOMER).address}"),
        "#/accounts/0x12",
        "#/nowhere",
    ):
        visit.go(address)
        expect(visit.page.locator("h1")).to_contain_text("No such")
    visit.shoot("not-found")


def test_the_pages_work_by_keyboard_and_keep_the_chosen_colours(visit: Visit, ended: Stage) -> None:
    visit.go("")
    visit.page.keyboard.press("Tab")
    expect(visit.page.locator(":focus")).to_have_text("Skip to content")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("h1")).to_be_focused()
    visit.page.get_by_role("button", name="Use dark colours").focus()
    visit.page.keyboard.press("Enter")
    visit.go(path(ended))
    expect(visit.page.get_by_role("button", name="Use light colours")).to_be_visible()
    ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", ground)) < 64
    visit.shoot("project-dark")


def test_a_server_that_is_away_is_told_and_its_return_noticed(visit: Visit, ended: Stage) -> None:
    visit.go(path(ended))
    expect(visit.page.locator(".live")).to_have_text("Live")
    down = lambda route: route.abort()  # noqa: E731
    visit.page.route("**/v1/**", down)
    visit.page.goto("about:blank")
    visit.page.goto(f"{visit.url}/{path(ended)}")
    visit.see("could not be loaded")
    visit.shoot("away")
    visit.page.unroute("**/v1/**", down)
    # The pages ask again by themselves; nobody has to press a button.
    visit.page.locator("h1", has_text="Digits").wait_for(timeout=15_000)
    expect(visit.page.locator(".live")).to_have_text("Live")


def test_a_visitor_who_asks_too_often_is_told_and_answered_later(
    browser: Browser, town: Town, ended: Stage, tmp_path: Path
) -> None:
    settings = Settings(rate=1, burst=40)  # The files of the page take most of these.
    database = f"sqlite:///{tmp_path}/index.db"
    refused, over = threading.Event(), threading.Event()

    def ask_too_often(url: str) -> None:
        while not over.wait(0.02):
            if requests.get(url, timeout=10).status_code == 429:
                refused.set()

    with running_server(town.home, town.chain, database, "127.0.0.1", 0, settings) as slow:
        context = browser.new_context()
        visit = Visit(context.new_page(), slow.url)
        waits: list[int] = []
        visit.page.on(
            "response",
            lambda answer: (
                answer.status == 429 and waits.append(int(answer.headers["retry-after"]))
            ),
        )
        visit.go("")
        # Another program of the same visitor leaves nothing of what the address may ask.
        other = threading.Thread(target=ask_too_often, args=(f"{slow.url}/v1/status",))
        other.start()
        try:
            assert refused.wait(20)
            visit.page.goto(f"{slow.url}/{path(ended)}")
            visit.see("Too many requests", within_s=15)
            visit.see("more than 1 requests a second")
            visit.see("The page asks again by itself")
        finally:
            over.set()
            other.join()
        visit.page.locator("h1", has_text="Digits").wait_for(timeout=60_000)
        context.close()
    assert waits and min(waits) >= 1
    assert not visit.complaints


def test_what_must_not_be_overlooked_stands_on_every_page(visit: Visit) -> None:
    known = visit.page.request.get(f"{visit.url}/v1/status").json()
    told = {**known, "devnet": False, "srs_insecure": True, "failure": "the chain is away"}
    visit.page.route("**/v1/events", lambda route: route.abort())
    visit.page.route("**/v1/status", lambda route: route.fulfill(json=told))
    visit.go("#/open")
    warning = visit.page.get_by_role("complementary", name="Warning")
    expect(warning).to_contain_text("Insecure reference string")
    expect(warning).to_contain_text(f"block {known['indexed_block']:,}: the chain is away")
    expect(warning).not_to_contain_text("devnet")
    visit.shoot("warnings")


# ------------------------------------------------------------------------ limits


@pytest.mark.usefixtures("ended")
def test_the_first_view_is_small(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(_transferred(request.sizes())))
    page.goto(f"{server.url}/")
    page.get_by_role("link", name=re.compile("Digits")).first.wait_for()
    page.wait_for_timeout(300)
    context.close()
    assert 5 < len(sizes)
    assert sum(sizes) <= 200_000


def _transferred(sizes: Any) -> int:
    return int(sizes["responseBodySize"] + sizes["responseHeadersSize"])


def test_nothing_else_may_run_in_the_pages(visit: Visit, server: Server) -> None:
    visit.go("")
    answer = visit.page.request.get(server.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    visit.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.head.append(s); }"
    )
    assert visit.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in visit.complaints)
    visit.complaints.clear()


# ------------------------------------------------------------------------- types


def _npm(*command: str) -> str:
    if not (WEB / "node_modules").exists():
        missing("dashboard", "its packages are not installed; run `make dashboard`")
    found = subprocess.run(
        ["npm", "run", "--silent", *command],
        cwd=WEB,
        env={
            **os.environ,
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_pages_agree_with_the_openapi_document() -> None:
    _npm("check")


def test_values_are_formatted_as_people_read_them() -> None:
    assert "fail 0" in _npm("test")
