"""Act from the dashboard in a real browser: as a sponsor, a trainer, and with wallets."""

from __future__ import annotations

import csv
import re
import time
from decimal import Decimal
from typing import Any

import pytest
from playwright.sync_api import expect

from deploy.evaluate import stated
from marketplace.accuracy import publish
from marketplace.types import Membership, Status
from marketplace.wallet import dev_account
from tests.api.visit import Visit, path, record_of, records_of, tokens, trainer
from tests.market import FIRST_TRAINER, SPONSOR, STRANGER, Stage, Town

NEWCOMER, BONDED = 5, 8


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
    visit.page.get_by_label("Root trainer").fill("0x12")
    visit.see("This must be an address")
    visit.page.get_by_label("Root trainer").fill(dev_account(SPONSOR).address)
    visit.shoot("open")
    opening.click()
    visit.done()
    visit.see("The project is open")
    visit.page.get_by_role("main").get_by_role("link", name="0x").click()
    visit.see("needs bond")
    project = town.chain.projects()[-1]
    params = town.chain.params(project)
    assert (params.rounds, params.reward, params.fee) == (3, 125 * 10**17, 5 * 10**17)
    assert params.root == dev_account(SPONSOR).address
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
    visit.open_round(1)
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
    town.wait(stage.view.params.join_window)
    visit.page.get_by_role("banner").get_by_title(account).click()
    visit.page.locator("h1", has_text="Your account").wait_for()
    expect(visit.page.get_by_role("region", name="What to do next")).to_contain_text(
        "Train and commit an update for round 1", timeout=15_000
    )
    visit.shoot("account-own")
    visit.page.get_by_role("link", name="Your place in").click()
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
    records = [record_of(found, trainer(1)) for found in ended.view.history.settled]
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
        str(found.number): Decimal(record_of(found, trainer(1)).share) / 10**18
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
            for record in records_of(found)
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
    deadline = time.monotonic() + 20
    # By hand: the page's policy forbids what `wait_for_function` evaluates.
    while not visit.page.evaluate("window.asked") and time.monotonic() < deadline:
        visit.page.wait_for_timeout(20)
    expect(visit.page.get_by_role("button", name="Connect", exact=True)).to_be_visible()
    assert visit.page.evaluate("window.asked") == ["eth_accounts"]


@pytest.mark.parametrize("change", [{"devnet": False}, {"chain_id": 1}, {"rpc": None}])
def test_test_accounts_are_offered_on_a_devnet_only(visit: Visit, change: dict[str, Any]) -> None:
    status = {**visit.page.request.get(f"{visit.url}/v1/status").json(), **change}
    visit.page.route("**/v1/events", lambda route: route.abort())  # They tell of the status, too.
    visit.page.route("**/v1/status", lambda route: route.fulfill(json=status))
    visit.go("")
    visit.page.get_by_role("button", name="Connect", exact=True).click()
    visit.see("No browser wallet announced itself")
    expect(visit.page.get_by_text("Test account")).to_have_count(0)
