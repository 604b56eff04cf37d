"""Sign and send what the API prepares, as a wallet does, on a real chain."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import requests
from eth_account.messages import encode_typed_data

from api.app import Settings
from api.server import running_server
from marketplace.chain import Chain
from marketplace.interface import commit_digest
from marketplace.scoring import DEFAULT_PARAMS
from marketplace.types import Membership, Status
from marketplace.wallet import dev_account
from tests.api.bazaar import AGGREGATOR, SPONSOR, STRANGER, Bazaar
from tests.api.site import Site, address


def send(site: Site, number: int, prepared: Any) -> list[Any]:
    """Sign and send transactions as a wallet would, and return the receipts."""
    receipts = []
    for plan in prepared["transactions"]:
        chain = site.bazaar.chain
        transaction = {
            "type": 2,
            "chainId": int(plan["chainId"], 16),
            "nonce": int(plan["nonce"], 16),
            "to": plan["to"],
            "data": plan["data"],
            "value": int(plan["value"], 16),
            "gas": int(plan["gas"] or "0x100000", 16),
            "maxFeePerGas": int(plan["maxFeePerGas"], 16),
            "maxPriorityFeePerGas": int(plan["maxPriorityFeePerGas"], 16),
        }
        assert plan["from"] == address(number)
        signed = dev_account(number).sign_transaction(transaction)
        hashed = chain.request("eth_sendRawTransaction", ["0x" + signed.raw_transaction.hex()])
        receipts.append(chain._receipt(hashed))
    assert all(int(receipt["status"], 16) == 1 for receipt in receipts)
    return receipts


def like_the_first(site: Site, **changes: Any) -> dict[str, Any]:
    """Return the terms of the first project with some changes."""
    like = site.json(site.path)
    names = ("rounds", "capacity", "min_updates", "dimension", "clip_norm", "reward", "fee")
    terms = {name: like[name] for name in (*names, "stake", "bond", "bond_penalty")}
    terms |= {name: like[name] for name in ("description_cid", "initial_commitment")}
    terms |= {"aggregator": address(AGGREGATOR), "slash_sink": address(33)}
    return {**terms, **changes}


def test_prepared_transactions_open_bond_join_leave_and_withdraw(site: Site) -> None:
    sponsor, aggregator, trainer = 30, 31, 32
    terms = like_the_first(site, sender=address(sponsor), aggregator=address(aggregator))
    prepared = site.post("open", terms)
    assert [plan["purpose"] for plan in prepared["transactions"]] == [
        "mint",
        "approve",
        "openProject",
    ]
    send(site, sponsor, prepared)
    chain = site.bazaar.chain
    project = chain.projects()[-1]
    assert prepared["project"] == "0x" + project.hex()
    assert chain.state(project).sponsor == address(sponsor)
    assert chain.params(project).reward == 1_000_003
    who = {"project": "0x" + project.hex()}
    refused = site.post("join", {**who, "sender": address(trainer)}, 409)
    assert "WrongStatus" in refused["detail"]
    send(site, aggregator, site.post("bond", {**who, "sender": address(aggregator)}))
    assert chain.state(project).status == Status.RUNNING
    send(site, trainer, site.post("join", {**who, "sender": address(trainer)}))
    assert chain.trainers(project) == (address(trainer),)
    send(site, trainer, site.post("leave", {**who, "sender": address(trainer)}))
    assert chain.account(project, address(trainer)).membership == Membership.LEAVING
    refused = site.post("withdraw", {**who, "sender": address(trainer)}, 409)
    assert "NothingToWithdraw" in refused["detail"]
    paid = site.post("withdraw", {"project": "0x" + site.project.hex(), "sender": address(12)})
    held = chain.token_balance(site.bazaar.deployment.token, address(12))
    credit = chain.account(site.project, address(12)).credit
    send(site, 12, paid)
    token = site.bazaar.deployment.token
    assert chain.token_balance(token, address(12)) == held + credit > held


def test_the_id_of_a_project_that_follows_others_is_foretold(site: Site) -> None:
    terms = like_the_first(site, sender=address(34), rounds=2)
    known = []
    for _ in range(2):
        site.wait_indexed()
        prepared = site.post("open", terms)
        send(site, 34, prepared)
        known.append(prepared["project"])
    assert known == ["0x" + project.hex() for project in site.bazaar.chain.projects()[-2:]]


def test_prepared_transactions_release_a_stake_and_close_a_project(bazaar: Bazaar) -> None:
    chain, sponsor, trainer = bazaar.chain, address(SPONSOR), address(14)
    project = bazaar.start([14, 15], max_failures=1)
    bazaar.open()
    settings, who = Settings(rate=0), {"project": "0x" + project.hex()}
    with running_server(bazaar.home, chain, None, "127.0.0.1", 0, settings) as server:
        site = Site(bazaar, server)

        def refusal(action: str, sender: str) -> str:
            return str(site.post(action, {**who, "sender": sender}, 409)["detail"])

        assert "NotTrainer" in refusal("release", trainer)
        bazaar.signer(14).leave(project)
        assert "StillUnbonding" in refusal("release", trainer)
        assert "WrongStatus" in refusal("close", sponsor)
        bazaar.wait(1_000)  # the unbonding delay; the windows of the round pass with it
        send(site, 14, site.post("release", {**who, "sender": trainer}))
        account = chain.account(project, trainer)
        assert (account.stake, account.credit) == (0, 10_001)
        assert account.membership == Membership.NONE
        bazaar.wait(100)
        bazaar.signer(STRANGER).expire_round(project, 1, [])
        assert chain.state(project).status == Status.HALTED
        assert "NotSponsor" in refusal("close", trainer)
        send(site, SPONSOR, site.post("close", {**who, "sender": sponsor}))
        assert chain.state(project).status == Status.CLOSED
        assert chain.account(project, sponsor).credit == 3 * (1_000_003 + 777)


def test_anybody_may_expire_a_round_that_nobody_settled(bazaar: Bazaar) -> None:
    chain, stranger = bazaar.chain, address(STRANGER)
    project = bazaar.start([14, 15, 16], capacity=3)
    bazaar.play(project, [14, 15, 16], outcome="nothing")
    bazaar.open()
    settings, who = Settings(rate=0), {"project": "0x" + project.hex(), "sender": stranger}
    with running_server(bazaar.home, chain, None, "127.0.0.1", 0, settings) as server:
        site = Site(bazaar, server)
        site.wait_indexed()
        assert "TooEarly" in site.post("expire", who, 409)["detail"]
        bazaar.wait(chain.state(project).settle_end - chain.head().timestamp)
        send(site, STRANGER, site.post("expire", who))
    assert chain.state(project).failures == 1 and chain.state(project).round == 2
    # Each of the three who revealed gets a third of the penalty of 1,999.
    assert [chain.account(project, address(n)).credit for n in (14, 15, 16)] == [666] * 3


def test_a_relayer_may_send_the_commit_that_the_message_is_for(site: Site) -> None:
    bazaar, trainer = site.bazaar, 11
    state = bazaar.chain.state(site.other)
    bazaar.wait(max(0, state.opens_at - bazaar.chain.head().timestamp))
    digest = commit_digest(site.other, state.round, bazaar.update(trainer).reveal)
    message = site.post(
        "commit",
        {
            "project": "0x" + site.other.hex(),
            "round": 1,
            "trainer": address(trainer),
            "digest": "0x" + digest.hex(),
        },
    )
    signed = dev_account(trainer).sign_message(encode_typed_data(full_message=message))
    bazaar.signer(STRANGER).commit_for(
        site.other, 1, [address(trainer)], [digest], [bytes(signed.signature)]
    )
    assert bazaar.chain.account(site.other, address(trainer)).last_commit == 1


def test_a_project_that_names_no_rule_gets_the_one_that_suits_its_size(site: Site) -> None:
    chain = site.bazaar.chain
    for updates, rule in ((4, "MultiKrumShapley"), (8, "PeelShapley")):
        terms = like_the_first(site, sender=address(35), min_updates=updates, capacity=8)
        site.wait_indexed()
        send(site, 35, site.post("open", terms))
        params = chain.params(chain.projects()[-1])
        assert params.rule == chain.deployment.rules[rule]
        assert params.rule_params == DEFAULT_PARAMS[rule]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"description_cid": "bafy"}, 400, "description_cid"),
        ({"rule": "Nobody"}, 400, "MultiKrumShapley"),
        ({"reward": "9" * 29}, 400, "2^96"),
        ({"min_updates": 8, "capacity": 7}, 409, "minUpdates"),
        ({"sender": "0x1"}, 422, "sender"),
    ],
)
def test_terms_that_cannot_be_are_refused(
    site: Site, change: dict[str, Any], status: int, words: str
) -> None:
    terms = like_the_first(site, **{"sender": address(SPONSOR), **change})
    assert words in json.dumps(site.post("open", terms, status))


def test_a_chain_that_is_silent_stops_no_page(site: Site) -> None:
    silent = Chain(site.bazaar.deployment, "http://127.0.0.1:9", patience_s=4.0)
    settings, home = Settings(rate=0), site.bazaar.home
    with running_server(home, silent, None, "127.0.0.1", 0, settings, follow=False) as server:
        answers: list[requests.Response] = []
        body = {"project": "0x" + site.project.hex(), "sender": address(12)}

        def ask() -> None:
            url = f"{server.url}/v1/transactions/withdraw"
            answers.append(requests.post(url, json=body, timeout=60))

        waiting = [threading.Thread(target=ask) for _ in range(3)]
        for thread in waiting:
            thread.start()
        page = requests.get(f"{server.url}/v1/projects", timeout=20)
        assert page.status_code == 200 and page.elapsed.total_seconds() < 3.5 and not answers
        for thread in waiting:
            thread.join()
        assert [answer.status_code for answer in answers] == [503] * 3
        detail = answers[0].json()["detail"]
        assert "/v1/status" in detail and "127.0.0.1" not in detail
