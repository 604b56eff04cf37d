"""Use the dashboard in a real browser, on a real market.

Screenshots go to build/screenshots. The market is played step by step in this process; the browser
and the server run beside it.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from api.app import Settings
from api.server import Server, running_server
from deploy.devnet import running_anvil
from deploy.evaluate import stated
from ipfs import Cid
from marketplace.accuracy import publish
from marketplace.scoring import unpack_gram
from marketplace.types import Membership, Status
from marketplace.wallet import dev_account
from tests.api.visit import FLAGS, WEB, Visit
from tests.conftest import ROOT, missing
from tests.market import FIRST_TRAINER, SPONSOR, STRANGER, Stage, Town

DESKTOP, PHONE = (1280, 900), (390, 844)
NEWCOMER, BONDED = 5, 8
ATTACKER = 5
"""Place of the attacker among the trainers of the market that ended."""


# ------------------------------------------------------------------ the market


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def server(town: Town) -> Iterator[Server]:
    if not (WEB / "dist" / "index.html").exists():
        missing("dashboard", "the pages are not built; run `make dashboard`")
    settings = Settings(rate=0)
    with running_server(town.home, town.chain, None, "127.0.0.1", 0, settings) as running:
        yield running


@pytest.fixture(scope="module")
def ended(town: Town) -> Stage:
    """Play a market with one attacker to its end."""
    stage = town.open(["honest"] * ATTACKER + ["sign-flip"], min_updates=4)
    stage.play(lambda view: view.ended)
    return stage


# ----------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium", "no chromium on PATH; install Debian's package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: Browser, server: Server, town: Town) -> Iterator[Visit]:
    width, height = DESKTOP
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(8000)
    found = Visit(context.new_page(), server.url)
    yield found
    context.close()
    assert not found.complaints
    elsewhere = [
        address
        for address in found.addresses
        if not address.startswith((f"{server.url}/", town.chain.rpc))
    ]
    assert not elsewhere


def path(stage: Stage, rest: str = "") -> str:
    return f"#/projects/0x{stage.project.hex()}{rest}"


def trainer(k: int) -> str:
    return dev_account(FIRST_TRAINER + k).address


def tokens(units: int) -> str:
    """Write an amount as people should read it: four decimals, rounded down."""
    value = (Decimal(units) / 10**18).quantize(Decimal("0.0001"), rounding=ROUND_DOWN)
    return f"{value:,f}".rstrip("0").rstrip(".")


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
    records = [record for found in ended.view.history.settled for record in _records(found)]
    paid = sum(record.share for record in records)
    slashed = sum(record.slashed for record in records)
    assert slashed
    fees = ended.view.params.fee * len(ended.view.history.settled)
    expect(visit.figure("In escrow")).to_have_text("0 TRT")
    expect(visit.figure("Spent")).to_have_text(f"{tokens(paid + fees)} TRT")
    expect(visit.figure("Slashed")).to_have_text(f"{tokens(slashed)} TRT")
    expect(visit.figure("Rounds paid")).to_have_text("2 of 2")
    row = visit.page.get_by_role("row", name=re.compile(_short(trainer(0))))
    share = sum(_record_of(found, trainer(0)).share for found in ended.view.history.settled)
    expect(row.first).to_contain_text(tokens(share))
    expect(visit.page.locator("canvas")).to_have_count(1)
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


def _records(found: Any) -> Any:
    return found.settlement.records


def _record_of(found: Any, address: str) -> Any:
    place = [reveal.trainer for reveal in found.reveals].index(address)
    return found.settlement.records[place]


def _short(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"


def test_the_matrix_in_the_page_is_the_one_that_the_chain_settled_by(
    visit: Visit, ended: Stage
) -> None:
    found = ended.view.history.settled[0]
    assert found.settlement is not None
    matrix = unpack_gram(found.settlement.gram, len(found.reveals))
    visit.go(path(ended))
    visit.page.get_by_role("link", name="Round 1", exact=True).click()
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
    honest, liar = _record_of(found, trainer(0)), _record_of(found, trainer(ATTACKER))
    assert liar.outlier
    visit.go(path(ended, "/rounds/1"))
    visit.page.get_by_role("row", name=re.compile(_short(trainer(0)))).first.get_by_role(
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
    settings = Settings(rate=1, burst=7)  # The files of the page take most of these.
    database = f"sqlite:///{tmp_path}/index.db"
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
        visit.page.goto(f"{slow.url}/{path(ended)}")
        visit.see("Too many requests", within_s=15)
        visit.see("more than 1 requests a second")
        visit.see("The page asks again by itself")
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


# ---------------------------------------------------------------------- sponsors


def test_a_sponsor_watches_a_round_live(visit: Visit, town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=1)
    visit.go(path(stage))
    expect(visit.figure("Rounds paid")).to_have_text("0 of 1")
    stage.play_until_revealed()
    visit.see("3 of 3 trainers", within_s=2)
    visit.see("3 of 3 commits", within_s=2)
    visit.shoot("project-live")
    stage.play(lambda view: view.ended)
    begun = time.monotonic()
    expect(visit.figure("Rounds paid")).to_have_text("1 of 1", timeout=2000)
    expect(visit.figure("In escrow")).to_have_text("0 TRT", timeout=2000)
    visit.see("settled round 1", within_s=2)
    assert time.monotonic() - begun < 2
    accuracy = stated(stage.view, 1, 0.875, 359, "digits#test", 1_795_600_000)
    publish(town.home, accuracy, town.deployment, dev_account(SPONSOR))
    visit.see("87.5\u202f% on 359 samples of digits#test after 1 round", within_s=15)
    expect(visit.page.locator("canvas")).to_have_count(2)
    visit.shoot("project-accuracy")


def test_a_sponsor_opens_a_project_from_the_page(visit: Visit, town: Town, ended: Stage) -> None:
    visit.go("#/open")
    visit.connect(SPONSOR)
    visit.see("test account")
    visit.page.get_by_label("Rounds to pay").fill("3")
    visit.page.get_by_label("Reward a round").fill("12.5")
    visit.page.get_by_label("Fee a round").fill("two")
    visit.see("This must be an amount of tokens")
    opening = visit.page.get_by_role("button", name="Open the project")
    expect(opening).to_be_disabled()
    visit.page.get_by_label("Fee a round").fill("0.5")
    visit.see("39 TRT")  # 3 × (12.5 + 0.5)
    visit.page.get_by_label("Address").fill(dev_account(BONDED).address)
    visit.shoot("open")
    opening.click()
    visit.done()
    visit.see("The project is open")
    visit.page.get_by_role("main").get_by_role("link", name="0x").click()
    visit.see("needs bond")
    project = town.chain.projects()[-1]
    params = town.chain.params(project)
    assert (params.rounds, params.reward, params.fee) == (3, 125 * 10**17, 5 * 10**17)
    assert params.description_cid == ended.view.params.description_cid
    state = town.chain.state(project)
    assert state.status == Status.BONDING
    assert (state.sponsor, state.escrow) == (dev_account(SPONSOR).address, 39 * 10**18)
    visit.page.get_by_role("button", name="Disconnect").click()
    visit.connect(BONDED)
    visit.page.get_by_role("button", name="Post the bond of 100 TRT").click()
    visit.see("until the first round", within_s=15)
    assert town.chain.state(project).status == Status.RUNNING


def test_a_round_that_nobody_settled_says_so(visit: Visit, town: Town) -> None:
    stage = town.open(["honest"] * 2)
    stage.play_until_revealed()
    state = stage.view.state
    town.wait(state.settle_end - town.chain.head().timestamp)
    visit.go(path(stage))
    visit.see("anybody may expire the round, and the bond pays 10 TRT to each of the 2 trainers")
    visit.shoot("overdue")
    visit.connect(STRANGER)
    visit.page.get_by_role("button", name="Expire the round").click()
    visit.done()
    visit.page.get_by_role("link", name="Round 1", exact=True).click()
    visit.see("Nobody settled in time")
    lost = visit.page.locator("dt", has_text="Bond lost").locator("+ dd")
    expect(lost).to_have_text("20 TRT")  # the bond penalty of the terms
    visit.see("the 2 trainers who had revealed, in equal parts")
    visit.shoot("failed")


def test_a_sponsor_closes_a_halted_project_and_takes_back_what_is_left(
    visit: Visit, town: Town
) -> None:
    stage = town.open(["honest"] * 2, rounds=3, max_failures=1)
    left = stage.view.params.escrow
    visit.go(path(stage))
    visit.connect(SPONSOR)
    part = visit.page.get_by_role("region", name="Your part")
    expect(part).to_contain_text(f"{tokens(left)} TRT of yours are in escrow for 3 more rounds")
    expect(part.get_by_role("button")).to_have_count(0)
    stage.view.refresh()
    town.wait(stage.view.state.reveal_end - town.chain.head().timestamp)
    town.signer(STRANGER).expire_round(stage.project, 1, [])
    close = part.get_by_role("button", name=f"Close and take back {tokens(left)} TRT")
    expect(close).to_be_visible(timeout=15_000)
    visit.shoot("sponsor-closing")
    close.click()
    visit.done()
    assert town.chain.state(stage.project).status == Status.CLOSED
    before = town.chain.token_balance(town.deployment.token, dev_account(SPONSOR).address)
    part.get_by_role("button", name=f"Withdraw {tokens(left)} TRT").click()
    expect(part).to_have_count(0, timeout=15_000)
    after = town.chain.token_balance(town.deployment.token, dev_account(SPONSOR).address)
    assert after - before == left


# ----------------------------------------------------------------------- trainers


def test_a_newcomer_joins_and_leaves_from_the_page(visit: Visit, town: Town) -> None:
    stage = town.open(["honest"] * 2, capacity=3)
    account = dev_account(NEWCOMER).address
    visit.go(path(stage))
    visit.page.get_by_role("button", name="Join for 50 TRT").click()
    visit.shoot("connect")
    visit.page.get_by_label("Test account", exact=True).select_option(index=NEWCOMER)
    visit.page.get_by_role("button", name="Use this test account").click()
    visit.page.get_by_role("button", name="Join for 50 TRT").click()
    visit.done()
    found = town.chain.account(stage.project, account)
    assert (found.membership, found.stake) == (Membership.ACTIVE, 50 * 10**18)
    expect(visit.page.get_by_role("button", name="Join for 50 TRT")).to_have_count(0)
    visit.shoot("joined")
    visit.page.get_by_role("link", name="Your place").click()
    visit.see("Your place")
    expect(visit.figure("Stake")).to_have_text("50 TRT")
    visit.shoot("trainer-own")
    visit.page.get_by_role("button", name="Leave the project").click()
    visit.see("Your stake is free after the unbonding delay")
    visit.see("50 TRT can be released then, or as soon as the project has ended")
    assert town.chain.account(stage.project, account).membership == Membership.LEAVING
    expect(visit.page.get_by_role("button", name="Release")).to_have_count(0)
    town.wait(stage.view.params.unbonding_delay)
    # Events tell of nothing here; the page counts down by itself and asks again.
    visit.page.get_by_role("button", name="Release 50 TRT").click(timeout=15_000)
    visit.done()
    found = town.chain.account(stage.project, account)
    assert (found.membership, found.stake, found.credit) == (Membership.NONE, 0, 50 * 10**18)
    visit.page.get_by_role("button", name="Withdraw 50 TRT").click()
    expect(visit.figure("To withdraw")).to_have_text("0 TRT")
    visit.shoot("trainer-released")


def test_a_trainer_sees_its_earnings_and_withdraws_them(
    visit: Visit, town: Town, ended: Stage
) -> None:
    records = [_record_of(found, trainer(1)) for found in ended.view.history.settled]
    earned = sum(record.share for record in records)
    before = town.chain.token_balance(town.deployment.token, trainer(1))
    visit.go("")
    visit.connect(FIRST_TRAINER + 1)
    visit.page.get_by_title(trainer(1)).first.click()
    visit.page.locator(f"a[href^='{path(ended)}/trainers/']").click()
    expect(visit.figure("Earned")).to_have_text(f"{tokens(earned)} TRT")
    expect(visit.figure("Strikes")).to_have_text("0")
    rows = visit.page.get_by_role("table", name="The trainer's updates, newest first")
    for found, record in zip(ended.view.history.settled, records, strict=True):
        row = rows.get_by_role("row", name=re.compile(f"Round {found.number}"))
        expect(row).to_contain_text(tokens(record.share))
    visit.shoot("trainer")
    visit.page.get_by_role("button", name="Withdraw").click()
    visit.done()
    assert town.chain.token_balance(town.deployment.token, trainer(1)) - before == earned
    expect(visit.figure("To withdraw")).to_have_text("0 TRT")


def test_earnings_are_downloaded_to_the_last_unit(visit: Visit, ended: Stage) -> None:
    visit.go(path(ended, f"/trainers/{trainer(1)}"))
    with visit.page.expect_download() as waiting:
        visit.page.get_by_role("button", name=re.compile("Download earnings")).click()
    with waiting.value.path().open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        str(found.number): Decimal(_record_of(found, trainer(1)).share) / 10**18
        for found in ended.view.history.settled
    }
    assert {row["round"]: Decimal(row["share TRT"]) for row in rows} == expected
    visit.go(path(ended))
    for name in ("trainers", "rounds"):
        with visit.page.expect_download() as waiting:
            visit.page.get_by_role("button", name=f"Download {name} as CSV").click()
        with waiting.value.path().open(newline="") as file:
            rows = list(csv.DictReader(file))
        column = "earned TRT" if name == "trainers" else "paid TRT"
        assert sum(Decimal(row[column]) for row in rows) == sum(
            Decimal(record.share) / 10**18
            for found in ended.view.history.settled
            for record in _records(found)
        )


# ----------------------------------------------------------------------- wallets

PROVIDER = """
window.asked = [];
const provider = {
  on(event, listener) { if (event === "accountsChanged") window.switchTo = listener; },
  async request({ method, params = [] }) {
    window.asked.push(method);
    if (method === "eth_requestAccounts" || method === "eth_accounts") {
      return window.locked ? [] : [ACCOUNT];
    }
    if (method === "eth_sendTransaction" && window.declines) {
      throw { code: 4001, message: "User rejected the request." };
    }
    const response = await fetch(RPC, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    const answer = await response.json();
    if (answer.error) throw answer.error;
    return answer.result;
  },
};
"""
"""A browser wallet by EIP-1193 that asks nobody; the devnet signs for it."""

INJECTED = "window.ethereum = provider;"
ANNOUNCED = """
addEventListener("eip6963:requestProvider", () => {
  const info = { uuid: crypto.randomUUID(), rdns: "example.fox", name: "Fox Wallet" };
  dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: { info, provider } }));
});
"""


@pytest.mark.parametrize(
    ("shown", "name", "number"),
    [(INJECTED, "Browser wallet", NEWCOMER + 1), (ANNOUNCED, "Fox Wallet", NEWCOMER + 2)],
    ids=["EIP-1193", "EIP-6963"],
)
def test_a_browser_wallet_signs_and_may_decline(
    visit: Visit, town: Town, shown: str, name: str, number: int
) -> None:
    stage = town.open(["honest"] * 2, capacity=3)
    account = dev_account(number).address
    visit.page.add_init_script(
        f"const ACCOUNT = {account!r}, RPC = {town.chain.rpc!r};\n{PROVIDER}{shown}"
    )
    visit.go(path(stage))
    visit.page.get_by_role("button", name="Connect", exact=True).click()
    visit.page.get_by_role("button", name=name).click()
    expect(visit.page.get_by_role("banner")).not_to_contain_text("test account")
    visit.page.evaluate("window.declines = true")
    joining = visit.page.get_by_role("button", name="Join for 50 TRT")
    joining.click()
    visit.see("You declined in the wallet")
    assert town.chain.account(stage.project, account).membership == Membership.NONE
    visit.page.evaluate("window.declines = false")
    joining.click()
    visit.done()
    assert town.chain.account(stage.project, account).membership == Membership.ACTIVE
    assert "eth_sendTransaction" in visit.page.evaluate("window.asked")
    # Another visit finds the account again, and the wallet prompts nobody.
    visit.page.reload()
    expect(visit.page.get_by_role("banner").get_by_title(account)).to_be_visible()
    assert "eth_requestAccounts" not in visit.page.evaluate("window.asked")
    other = dev_account(NEWCOMER).address
    visit.page.evaluate(f"window.switchTo([{other!r}])")
    expect(visit.page.get_by_role("banner").get_by_title(other)).to_be_visible()
    visit.page.evaluate("window.switchTo([])")
    expect(visit.page.get_by_role("button", name="Connect", exact=True)).to_be_visible()
    visit.page.reload()
    expect(visit.page.get_by_role("button", name="Connect", exact=True)).to_be_visible()


def test_a_test_account_stays_until_it_is_disconnected(visit: Visit) -> None:
    visit.go("")
    visit.connect(NEWCOMER)
    banner = visit.page.get_by_role("banner")
    account = banner.get_by_title(dev_account(NEWCOMER).address)
    expect(account).to_be_visible()
    visit.page.reload()
    expect(account).to_be_visible()
    visit.page.get_by_role("button", name="Disconnect").click()
    visit.page.reload()
    expect(banner.get_by_role("button", name="Connect")).to_be_visible()
    visit.page.evaluate("localStorage.setItem('tribute-account', '[1')")
    visit.page.reload()
    expect(banner.get_by_role("button", name="Connect")).to_be_visible()


def test_a_wallet_that_is_locked_meanwhile_is_not_used(visit: Visit, town: Town) -> None:
    account = dev_account(NEWCOMER).address
    script = f"const ACCOUNT = {account!r}, RPC = {town.chain.rpc!r};\n{PROVIDER}{INJECTED}"
    visit.page.add_init_script(script)
    visit.go("")
    visit.page.get_by_role("button", name="Connect", exact=True).click()
    visit.page.get_by_role("button", name="Browser wallet").click()
    expect(visit.page.get_by_role("banner").get_by_title(account)).to_be_visible()
    visit.page.add_init_script("window.locked = true")
    visit.page.reload()
    expect(visit.page.get_by_role("button", name="Connect", exact=True)).to_be_visible()
    assert visit.page.evaluate("window.asked") == ["eth_accounts"]


@pytest.mark.parametrize("change", [{"devnet": False}, {"chain_id": 1}, {"rpc": None}])
def test_test_accounts_are_offered_on_a_devnet_only(visit: Visit, change: dict[str, Any]) -> None:
    status = {**visit.page.request.get(f"{visit.url}/v1/status").json(), **change}
    visit.page.route("**/v1/status", lambda route: route.fulfill(json=status))
    visit.go("")
    visit.page.get_by_role("button", name="Connect", exact=True).click()
    visit.see("No browser wallet announced itself")
    expect(visit.page.get_by_text("Test account")).to_have_count(0)


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
