"""Ask a real server about a market that was played on a real chain."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import requests
from eth_account.messages import encode_typed_data

from api.app import Settings
from api.guard import Buckets
from api.server import Server, running_server
from deploy.devnet import running_anvil
from ipfs import BlockStore, Cid
from marketplace.accuracy import Accuracy, folder_of, publish
from marketplace.chain import Chain, commit_digest
from marketplace.codec import DESCRIPTION_FILE, Description, encode_description
from marketplace.history import ProjectView
from marketplace.scoring import unpack_gram
from marketplace.types import Membership, Status
from marketplace.wallet import dev_account
from tests.api.bazaar import AGGREGATOR, FIRST_TRAINER, SPONSOR, STRANGER, Bazaar
from tests.api.listener import Listener, wait_for

CROWD = range(FIRST_TRAINER, FIRST_TRAINER + 7)
HOSTILE, LEFT_OUT = 10, 13


class Site:
    """Hold a market that was played, and the server that shows it."""

    def __init__(self, bazaar: Bazaar, server: Server) -> None:
        self.bazaar = bazaar
        self.url = server.url
        self.project, self.other = bazaar.projects

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
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


def test_the_status_names_the_deployment(site: Site) -> None:
    found = site.json("/v1/status")
    deployment = site.bazaar.deployment
    assert (found["chain_id"], found["marketplace"]) == (31337, deployment.marketplace)
    assert found["devnet"] and found["srs_insecure"] and found["rpc"] == site.bazaar.rpc
    assert found["rules"] == deployment.rules and found["verifiers"] == deployment.verifiers
    assert found["projects"] == 2 and found["failure"] is None


def test_a_project_is_shown_as_the_contract_holds_it(site: Site) -> None:
    found = site.json(site.path)
    params = site.bazaar.chain.params(site.project)
    state = site.bazaar.chain.state(site.project)
    assert found["title"] == "Heart sounds" and found["model"] == "mlp"
    assert found["status"] == "running" and found["sponsor"] == state.sponsor
    assert int(found["escrow"]) == state.escrow
    assert int(found["spent"]) == params.escrow - state.escrow
    assert (found["settled_rounds"], found["round"], found["active"]) == (3, 4, state.active)
    assert found["windows"] == {
        "opens_at": state.opens_at,
        "commit_end": state.commit_end,
        "reveal_end": state.reveal_end,
        "settle_end": state.settle_end,
    }
    assert (found["rule"], found["verifier"]) == ("MultiKrumShapley", "AttestedGram")
    assert found["proof"] == "attested" and found["phase"] == "settle"
    assert found["token"] == {"address": params.token, "symbol": "TRT", "decimals": 18}
    assert found["slash_schedule"] == [5000] + [10000] * 15
    assert found["description_cid"] == str(Cid.from_digest(params.description_cid))


def test_a_project_is_found_by_the_first_digits_of_its_id(site: Site) -> None:
    assert site.json(site.path[: -64 + 8])["id"] == "0x" + site.project.hex()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("search=heart", ["project"]),
        ("search=HEART murmurs", ["project"]),
        ("search=100 %25", ["project"]),
        ("search=hea_t", []),
        ("status=running", ["other", "project"]),
        ("status=finished", []),
        ("sort=oldest", ["project", "other"]),
        ("sort=reward", ["project", "other"]),
        ("sort=activity", ["other", "project"]),
        (f"trainer={address(11)}", ["other", "project"]),
        (f"trainer={address(14).lower()}", ["project"]),
        (f"sponsor={address(SPONSOR)}", ["other", "project"]),
        (f"sponsor={address(STRANGER)}", []),
    ],
)
def test_projects_are_searched_filtered_and_sorted(
    site: Site, query: str, found: list[str]
) -> None:
    expected = ["0x" + getattr(site, name).hex() for name in found]
    assert [item["id"] for item in site.json(f"/v1/projects?{query}")["items"]] == expected
    assert [item["id"] for item in site.pages(f"/v1/projects?{query}", 1)] == expected


def test_a_round_shows_its_records_and_its_matrix(site: Site) -> None:
    found = site.json(f"{site.path}/rounds/2")
    settled = ProjectView(site.bazaar.chain, site.project).history.round(2)
    assert settled.settlement is not None
    records = settled.settlement.records
    assert [update["trainer"] for update in found["updates"]] == [
        reveal.trainer for reveal in settled.reveals
    ]
    assert [update["point"] for update in found["updates"]] == [
        "0x" + reveal.point.hex() for reveal in settled.reveals
    ]
    assert [int(update["share"]) for update in found["updates"]] == [r.share for r in records]
    assert [update["reason"] for update in found["updates"]] == [
        "mismatch" if number == LEFT_OUT else None for number in CROWD
    ]
    assert (found["outliers"], found["excluded"], found["counted"]) == (1, 1, 5)
    matrix = unpack_gram(settled.settlement.gram, 6)
    assert found["gram"]["matrix"] == [[str(x) for x in row] for row in matrix.tolist()]
    assert found["gram"]["trainers"] == [address(n) for n in CROWD if n != LEFT_OUT]
    length = np.sqrt(np.diagonal(matrix))
    assert np.allclose(found["gram"]["cosines"], matrix / np.outer(length, length), atol=1e-4)
    assert found["transaction"] == settled.settlement.transaction
    assert found["settler"] == address(AGGREGATOR) and found["proof"] == "attested"


def test_an_open_round_shows_who_committed(site: Site) -> None:
    found = site.json(f"{site.path}/rounds/4")
    assert found["status"] == "open" and found["gram"] is None and found["transaction"] is None
    assert {update["status"] for update in found["updates"]} == {"revealed"}
    assert {update["trainer"] for update in found["updates"]} == {address(11), address(12)}


@pytest.mark.parametrize("number", [10, 11, 13])
def test_a_trainer_is_shown_with_what_it_has(site: Site, number: int) -> None:
    found = site.json(f"{site.path}/trainers/{address(number)}")
    account = site.bazaar.chain.account(site.project, address(number))
    assert (int(found["stake"]), int(found["credit"])) == (account.stake, account.credit)
    assert found["strikes"] == account.strikes
    assert Membership[found["membership"].upper()] == account.membership


def test_a_trainer_is_told_what_to_do_next(site: Site) -> None:
    def actions(number: int) -> list[str]:
        found = site.json(f"{site.path}/trainers/{address(number)}")
        return [action["name"] for action in found["next"]]

    assert actions(11) == ["wait", "withdraw"]  # revealed; paid in earlier rounds
    assert actions(14) == ["wait", "withdraw"]  # did not commit
    assert actions(HOSTILE) == ["leave"]  # lost its stake


def test_a_trainer_is_shown_across_projects(site: Site) -> None:
    found = site.json(f"/v1/trainers/{address(11)}")
    assert [entry["project"] for entry in found["projects"]] == [
        "0x" + site.other.hex(),
        "0x" + site.project.hex(),
    ]
    chain = site.bazaar.chain
    accounts = [chain.account(p, address(11)) for p in (site.project, site.other)]
    assert int(found["totals"][0]["stake"]) == sum(account.stake for account in accounts)
    assert int(found["totals"][0]["credit"]) == sum(account.credit for account in accounts)


def test_balances_name_roles_and_what_is_in_the_wallet(site: Site) -> None:
    found = site.json(f"/v1/accounts/{address(AGGREGATOR)}/balances")
    chain, token = site.bazaar.chain, site.bazaar.deployment.token
    assert int(found["balances"][0]["wallet"]) == chain.token_balance(token, address(AGGREGATOR))
    assert int(found["balances"][0]["credit"]) == 3 * 777  # the fees of three settlements
    assert [entry["roles"] for entry in found["projects"]] == [["aggregator"]] * 2
    assert int(found["balances"][0]["bond"]) == 2 * 5_000
    sponsor = site.json(f"/v1/accounts/{address(SPONSOR)}/balances")
    assert [entry["roles"] for entry in sponsor["projects"]] == [["sponsor"]] * 2


def test_lists_agree_with_the_settlements(site: Site) -> None:
    history = ProjectView(site.bazaar.chain, site.project).history
    expected: dict[str, list[tuple[int, str, int]]] = {"rewards": [], "penalties": []}
    for found in history.settled:
        assert found.settlement is not None
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
            if record.outlier:
                expected["penalties"].append((found.number, reveal.trainer, record.slashed))
            elif not record.reason:
                expected["rewards"].append((found.number, reveal.trainer, record.share))
    for name, who in (("rewards", "trainer"), ("penalties", "account")):
        items = site.pages(f"/v1/{name}", 3)
        listed = [(item["round"], item[who], int(item["amount"])) for item in items]
        assert sorted(listed) == sorted(expected[name]) and listed
    assert len(site.pages("/v1/updates", 5)) == 7 + 7 + 6 + 2
    assert len(site.pages("/v1/scores", 200)) == 7 + 6 + 6
    outliers = site.pages("/v1/outliers", 1)
    assert [item["trainer"] for item in outliers] == [item["account"] for item in items]
    hostile = [item for item in outliers if item["trainer"] == address(HOSTILE)]
    assert [(item["round"], item["deactivated"]) for item in hostile] == [(2, True), (1, False)]
    settlements = site.pages("/v1/settlements", 2)
    assert [item["round"] for item in settlements] == [3, 2, 1]
    models = site.pages(f"{site.path}/models", 2)
    assert [item["settled_rounds"] for item in models] == [3, 2, 1, 0]
    rounds = site.pages(f"{site.path}/rounds", 3)
    assert [item["number"] for item in rounds] == [4, 3, 2, 1]


def test_lists_are_filtered_by_project_round_and_trainer(site: Site) -> None:
    query = f"project=0x{site.project.hex()[:10]}&round=2&trainer={address(11)}"
    (found,) = site.json(f"/v1/updates?{query}")["items"]
    assert (found["round"], found["trainer"]) == (2, address(11))
    assert site.json(f"/v1/settlements?{query}")["items"][0]["round"] == 2
    assert site.json(f"/v1/rewards?trainer={address(HOSTILE)}")["items"] == []
    assert site.json(f"/v1/updates?project=0x{site.other.hex()}")["items"] == []


def test_an_explanation_ends_in_what_the_chain_paid(site: Site) -> None:
    found = site.json(f"{site.path}/rounds/1/explain/{address(11)}")
    settled = ProjectView(site.bazaar.chain, site.project).history.round(1).settlement
    assert settled is not None
    steps = {step["name"]: step["value"] for step in found["steps"]}
    assert int(steps["share"]) == int(found["share"]) == settled.records[1].share
    assert int(found["pot"]) == 1_000_003 and found["rule"] == "MultiKrumShapley"
    hostile = site.json(f"{site.path}/rounds/1/explain/{address(HOSTILE)}")
    assert hostile["status"] == "outlier" and hostile["distance_rank"] == 7
    assert int(hostile["slashed"]) == 10_001 * 5_000 // 10_000
    left_out = site.json(f"{site.path}/rounds/2/explain/{address(LEFT_OUT)}")
    assert left_out["status"] == "excluded" and left_out["products"] == {}
    assert "settled" in site.json(f"{site.path}/rounds/4/explain/{address(11)}", 404)["detail"]


def test_only_what_the_sponsor_signed_is_shown_as_accuracy(site: Site) -> None:
    chain, home, deployment = site.bazaar.chain, site.bazaar.home, site.bazaar.deployment
    settled = ProjectView(chain, site.project).history.settled
    first, second = (found.settlement for found in settled[:2])
    assert first is not None and second is not None
    good = Accuracy(site.project, 1, 910_000, 100, "set", first.model_cid)
    other_model = Accuracy(site.project, 2, 990_000, 100, "set", first.model_cid)
    forged = Accuracy(site.project, 3, 990_000, 100, "set", second.model_cid)
    publish(home, good, deployment, dev_account(SPONSOR))
    publish(home, other_model, deployment, dev_account(SPONSOR))
    publish(home, forged, deployment, dev_account(STRANGER))
    (folder_of(home, site.project) / "junk.json").write_bytes(b"{}")
    found = site.pages(f"{site.path}/evaluations", 1)
    assert [(entry["settled_rounds"], entry["accuracy"]) for entry in found] == [
        (1, 0.91),
        (2, 0.99),
    ]
    assert {entry["signer"] for entry in found} == {address(SPONSOR)}
    rounds = {item["number"]: item["accuracy"] for item in site.pages(f"{site.path}/rounds", 9)}
    assert rounds == {1: 0.91, 2: None, 3: None, 4: None}
    publish(home, replace(good, millionths=920_000), deployment, dev_account(SPONSOR))
    assert site.json(f"{site.path}/rounds/1")["accuracy"] == 0.92


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/projects/0xfe", 404, "/v1/projects"),
        ("/v1/projects/zz", 422, "zz"),
        ("/v1/projects?limit=1000", 422, "200"),
        ("/v1/projects?cursor=ab", 400, "next"),
        ("/v1/projects?cursor=WyJhIl0&sort=reward", 400, "next"),
        ("/v1/projects?cursor=W10", 400, "next"),
        ("/v1/updates?trainer=0x12", 422, "trainer"),
        ("/v1/trainers/0x" + "0" * 40, 404, "never joined"),
        ("/v1/nothing", 404, "/openapi.json"),
        ("/v1/events?project=0xfe", 404, "no project"),
    ],
)
def test_errors_are_problems_that_name_the_next_step(
    site: Site, path: str, status: int, words: str
) -> None:
    answer = site.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status and words in json.dumps(found)


def test_a_round_that_is_not_there_is_not_found(site: Site) -> None:
    assert "round 4" in site.json(f"{site.path}/rounds/9", 404)["detail"]
    assert "reveal" in site.json(f"{site.path}/rounds/3/explain/{address(HOSTILE)}", 404)["detail"]


# --------------------------------------------------------------------- headers


def test_an_answer_that_is_known_is_not_sent_again(site: Site) -> None:
    first = site.get(site.path)
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = site.get(site.path, headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    other = site.get(site.path, headers={"If-None-Match": '"other"'})
    assert other.status_code == 200 and other.content == first.content
    assert "etag" not in site.get("/v1/projects/0xfe").headers


def test_only_pages_that_are_named_may_read(site: Site) -> None:
    allowed = site.get("/v1/projects", headers={"Origin": "http://localhost:5173"})
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:5173"
    refused = site.get("/v1/projects", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_a_client_that_asks_too_often_is_told_to_wait(site: Site) -> None:
    chain = site.bazaar.chain
    settings = Settings(rate=0.5, burst=3)
    home = site.bazaar.home
    with running_server(home, chain, None, "127.0.0.1", 0, settings, follow=False) as server:
        codes = [requests.get(f"{server.url}/v1/projects?limit=1", timeout=20) for _ in range(5)]
        assert [answer.status_code for answer in codes] == [200, 200, 200, 429, 429]
        assert int(codes[-1].headers["retry-after"]) in (1, 2)
        assert "0.5 requests a second" in codes[-1].json()["detail"]
        assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 200


def test_a_bucket_fills_with_time_and_no_further_than_its_rim() -> None:
    now = 0.0
    buckets = Buckets(rate=2.0, burst=2, clock=lambda: now)
    assert [buckets.wait("a"), buckets.wait("a"), buckets.wait("a")] == [0.0, 0.0, 0.5]
    assert buckets.wait("b") == 0.0
    now = 0.25
    assert buckets.wait("a") == 0.25
    now = 100.0
    assert [buckets.wait("a") for _ in range(3)] == [0.0, 0.0, 0.5]


def test_health_and_readiness_and_metrics_answer(site: Site) -> None:
    assert site.json("/healthz") == {"status": "ok"}
    assert site.json("/readyz")["ready"] is True
    site.json(site.path)
    text = site.get("/metrics").text
    assert 'route="/v1/projects/{project}",status="200"' in text
    head = site.json("/v1/status")["indexed_block"]
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert abs(float(lines["tribute_index_block"]) - head) <= 5
    assert float(lines["tribute_index_events_total"]) > 50


# ---------------------------------------------------------------- transactions


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


def test_prepared_transactions_open_bond_join_leave_and_withdraw(site: Site) -> None:
    sponsor, aggregator, trainer = 30, 31, 32
    like = site.json(site.path)
    names = ("rounds", "capacity", "min_updates", "dimension", "clip_norm", "reward", "fee")
    terms = {name: like[name] for name in (*names, "stake", "bond", "bond_penalty")}
    terms |= {name: like[name] for name in ("description_cid", "initial_commitment")}
    terms["sender"], terms["aggregator"] = address(sponsor), address(aggregator)
    terms["slash_sink"] = address(33)
    prepared = site.post("open", terms)
    assert [plan["purpose"] for plan in prepared["transactions"]] == [
        "mint",
        "approve",
        "openProject",
    ]
    send(site, sponsor, prepared)
    chain = site.bazaar.chain
    project = chain.projects()[-1]
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
    like = site.json(site.path)
    names = ("rounds", "capacity", "min_updates", "dimension", "clip_norm", "reward", "fee")
    terms = {name: like[name] for name in (*names, "stake", "bond", "bond_penalty")}
    terms |= {name: like[name] for name in ("description_cid", "initial_commitment")}
    terms["sender"], terms["aggregator"] = address(SPONSOR), address(AGGREGATOR)
    terms["slash_sink"] = address(33)
    assert words in json.dumps(site.post("open", {**terms, **change}, status))


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


# --------------------------------------------------------------------- streams


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


# -------------------------------------------------------------------- document


def test_every_route_says_what_it_answers(site: Site) -> None:
    document = site.json("/openapi.json")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description" if "description" in operation else "summary"], path
            if path.startswith("/v1") and path != "/v1/events":
                content = operation["responses"]["200"]["content"]["application/json"]
                assert content["schema"], (method, path)
    text = json.dumps(document["components"]["schemas"])
    assert text.count('"examples"') > 50
