"""Ask a real server about a market that was played on a real chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import requests

from api.app import Settings
from api.guard import Buckets
from api.server import running_server
from ipfs import Cid
from marketplace.accuracy import Accuracy, encode_accuracy, folder_of, publish, sign_accuracy
from marketplace.codec import unpack_gram
from marketplace.history import ProjectView
from marketplace.types import Membership
from marketplace.wallet import dev_account
from tests.api.bazaar import AGGREGATOR, FIRST_TRAINER, SINK, SPONSOR, STRANGER, Bazaar
from tests.api.site import CROWD, HOSTILE, LEFT_OUT, Site, address

NOON = 1_795_600_000
"""When accuracies are said to have been measured."""


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


def test_the_market_is_the_sum_of_its_projects(site: Site) -> None:
    found = site.json("/v1/market")
    states = [site.bazaar.chain.state(project) for project in site.bazaar.chain.projects()]
    (total,) = found["totals"]
    assert int(total["escrow"]) == sum(state.escrow for state in states)
    assert int(total["bond"]) == sum(state.bond for state in states)
    settled = [ProjectView(site.bazaar.chain, p).history.settled for p in site.bazaar.projects]
    records = [
        record
        for rounds in settled
        for one in rounds
        if one.settlement is not None
        for record in one.settlement.records
    ]
    assert int(total["paid"]) == sum(record.share for record in records) > 0
    assert int(total["slashed"]) == sum(record.slashed for record in records) > 0
    assert found["settled_rounds"] == sum(map(len, settled)) == 3
    assert found["projects"] == {"running": 2} and found["trainers"] == len(CROWD)


def test_amounts_above_64_bits_are_added_up_exactly(
    bazaar: Bazaar, new_database: Callable[[], str]
) -> None:
    large = (1 << 94) + 1
    for reward in (large, large - 7, 1):
        bazaar.signer(SPONSOR).mint(bazaar.deployment.token, address(SPONSOR), reward)
        bazaar.open(reward=reward, rounds=1, fee=0)
    settings, url = Settings(rate=0), new_database()
    with running_server(bazaar.home, bazaar.chain, url, "127.0.0.1", 0, settings) as server:
        site = Site(bazaar, server)
        site.wait_indexed()
        found = site.json("/v1/market")
        sponsor = site.json(f"/v1/accounts/{address(SPONSOR)}/balances")
    assert found["totals"][0]["escrow"] == str(2 * large - 6)
    assert found["projects"] == {"bonding": 3}
    assert sponsor["balances"][0]["escrow"] == str(2 * large - 6)
    assert sorted(int(one["escrow"]) for one in sponsor["projects"]) == [1, large - 7, large]


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


def test_penalties_say_who_lost_what_why_and_to_whom_it_went(bazaar: Bazaar) -> None:
    first = bazaar.start([10, 11, 12], capacity=3, max_failures=9)
    bazaar.play(first, [10, 11, 12], [10, 11], outcome="expire")  # silent
    bazaar.play(first, [10, 11, 12], exclusions=bytes([1, 2, 0]))  # shut down
    bazaar.play(first, [10], [10], outcome="nothing")  # too few came, nobody's fault
    bazaar.wait(1_000)
    bazaar.signer(STRANGER).expire_round(first, 3, [])
    crowd = range(FIRST_TRAINER + 3, FIRST_TRAINER + 10)
    second = bazaar.start(crowd)
    bazaar.play(second, crowd, hostile=[14])
    settings = Settings(rate=0)
    with running_server(bazaar.home, bazaar.chain, None, "127.0.0.1", 0, settings) as server:
        site = Site(bazaar, server)
        site.wait_indexed()
        for limit in (1, 2, 50):
            *stakes, shut, silent = site.pages("/v1/penalties", limit)
        own = {
            name: site.pages(f"/v1/penalties?trainer={address(number)}", 9)
            for name, number in (("aggregator", AGGREGATOR), ("trainer", 14))
        }
        of_first = site.pages(f"/v1/penalties?project=0x{first.hex()}&round=2", 9)
    facts = ("project", "round", "kind", "account", "amount", "reason", "strikes")
    sink = address(SINK)
    # Of the bond's 1,999 each of the two who revealed gets 999; the rest stays in the bond.
    assert [silent[name] for name in facts] == [
        "0x" + first.hex(),
        1,
        "bond",
        address(AGGREGATOR),
        "1998",
        "silence",
        None,
    ]
    assert silent["went_to"] == [{"account": address(n), "amount": "999"} for n in (10, 11)]
    assert [shut[name] for name in facts] == [
        "0x" + first.hex(),
        2,
        "bond",
        address(AGGREGATOR),
        "1999",
        "exclusions",
        None,
    ]
    assert shut["went_to"] == [{"account": sink, "amount": "1999"}]
    # The rule may set others aside, too, than the one that is far off.
    (stake,) = [one for one in stakes if one["account"] == address(14)]
    assert {one["kind"] for one in stakes} == {"stake"}
    assert [stake[name] for name in facts] == [
        "0x" + second.hex(),
        1,
        "stake",
        address(14),
        "5000",
        "outlier",
        1,
    ]
    assert stake["went_to"] == [{"account": sink, "amount": "5000"}]
    assert own == {"aggregator": [shut, silent], "trainer": [stake]} and of_first == [shut]


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
    good = Accuracy(site.project, 1, 910_000, 100, "set", first.model_cid, NOON)
    other_model = Accuracy(site.project, 2, 990_000, 100, "set", first.model_cid, NOON)
    forged = Accuracy(site.project, 3, 990_000, 100, "set", second.model_cid, NOON)
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


def test_an_api_takes_what_the_sponsor_signed_and_nothing_else(site: Site) -> None:
    chain, deployment = site.bazaar.chain, site.bazaar.deployment
    settled = ProjectView(chain, site.project).history.settled
    third, fourth = settled[2].settlement, site.other
    assert third is not None
    good = Accuracy(site.project, 3, 700_000, 90, "set", third.model_cid, NOON)
    url = f"{site.url}{site.path}/evaluations"

    def send(accuracy: Accuracy, number: int = SPONSOR, status: int = 200) -> Any:
        signature = sign_accuracy(accuracy, deployment, dev_account(number))
        body, kind = encode_accuracy(accuracy, signature), {"Content-Type": "application/json"}
        answer = requests.post(url, body, headers=kind, timeout=20)
        assert answer.status_code == status, answer.text
        return answer.json()

    assert "is signed by" in send(good, STRANGER, 403)["detail"]
    assert "is about" in send(replace(good, model=bytes(32)), status=409)["detail"]
    assert "has paid 3 rounds" in send(replace(good, settled_rounds=4), status=404)["detail"]
    assert "is about project" in send(replace(good, project=fourth), status=400)["detail"]
    assert site.json(f"{site.path}/rounds/3")["accuracy"] is None
    sent = send(good)
    assert (sent["accuracy"], sent["signer"]) == (0.7, address(SPONSOR))
    assert site.json(f"{site.path}/rounds/3")["accuracy"] == 0.7
    later = replace(good, millionths=800_000, measured_at=NOON + 1)
    send(later)
    send(later)  # Twice is as good as once.
    assert "is known" in send(good, status=409)["detail"]  # Nobody brings back an earlier word.
    assert site.json(f"{site.path}/rounds/3")["accuracy"] == 0.8


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
