"""Talk to a chain that answers, that does not, and that forgets."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from eth_abi.abi import encode

from deploy.devnet import running_anvil
from marketplace.chain import Chain
from marketplace.errors import ChainError, ContractError, InputError, LostError, NotFoundError
from marketplace.history import ProjectView
from marketplace.interface import commit_digest, decode_refusal
from marketplace.signer import Signer, sign_commit
from marketplace.types import Reveal
from marketplace.wallet import dev_account
from tests.market import FIRST_TRAINER, STRANGER, Town
from trainer.privacy import Privacy


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


class Wire:
    """Stand between a client and the chain, and spoil what passes.

    `spoil(method)` returns None to let a request through, or "lose" to forward it and break off
    before the answer, "refuse" to answer 503, "garble" to answer rubbish, or seconds to wait.
    """

    def __init__(self, rpc: str) -> None:
        self.spoil = lambda _method: None
        self.seen: list[str] = []
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                method = json.loads(body)["method"]
                wire.seen.append(method)
                fault = wire.spoil(method)
                if isinstance(fault, float):
                    time.sleep(fault)
                if fault == "refuse":
                    return self.answer(503, b"busy")
                if fault == "garble":
                    return self.answer(200, b"<html>")
                request = urllib.request.Request(rpc, body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as found:
                    data = found.read()
                if fault == "lose":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return None
                return self.answer(200, data)

            def answer(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing: clients that give up break connections off."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def wire(town) -> Iterator[Wire]:
    found = Wire(town.deployment.rpc)
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def once(*faults):
    """Return a spoiler that spoils each method once, by what `faults` pair it with."""
    left = dict(faults)
    return lambda method: left.pop(method, None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# ----------------------------------------------------------------- the endpoint


def test_an_endpoint_that_is_down_is_an_error_that_says_what_to_look_at(town):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    chain = Chain(town.deployment, url, patience_s=0.3)
    message = rf"{url} did not answer eth_blockNumber for 0 s; is it running\? `tribute devnet"
    with within(5), pytest.raises(ChainError, match=message):
        chain.request("eth_blockNumber", [])


def test_an_endpoint_that_never_answers_is_given_up(town, wire):
    wire.spoil = lambda _: 2.0
    chain = Chain(town.deployment, wire.url, patience_s=0.5)
    with within(1.9), pytest.raises(ChainError, match="did not answer eth_blockNumber"):
        chain.request("eth_blockNumber", [])


@pytest.mark.parametrize("fault", ["refuse", "garble", "lose"])
def test_an_endpoint_that_stumbles_once_is_asked_again(town, wire, fault):
    wire.spoil = once(("eth_getBlockByNumber", fault))
    chain = Chain(town.deployment, wire.url)
    assert chain.head().number >= 3
    assert wire.seen == ["eth_getBlockByNumber"] * 2


@pytest.mark.parametrize("fault", ["refuse", "garble", "lose"])
def test_an_endpoint_that_stumbles_always_is_an_error(town, wire, fault):
    wire.spoil = lambda _: fault
    with pytest.raises(ChainError, match="did not answer"):
        Chain(town.deployment, wire.url, patience_s=0.2).head()


def test_an_endpoint_that_comes_back_is_waited_for(town, wire):
    until = time.monotonic() + 0.5
    wire.spoil = lambda _: "refuse" if time.monotonic() < until else None
    assert Chain(town.deployment, wire.url, patience_s=10).head().number >= 3


def test_another_chain_than_the_deployments_is_refused(town):
    with pytest.raises(InputError, match="is chain 31337, the deployment is on 5"):
        Chain.open(replace(town.deployment, chain_id=5))


def test_a_chain_that_was_started_anew_is_told_apart(town):
    with running_anvil() as rpc, pytest.raises(NotFoundError, match="the chain was started anew"):
        Chain.open(town.deployment, rpc)


def test_blocks_that_do_not_exist_are_not_found(town):
    with pytest.raises(NotFoundError, match="the chain has no block 1000000"):
        town.chain.block(10**6)


def test_methods_that_do_not_exist_are_errors_of_the_chain(town):
    with pytest.raises(ChainError, match=r"eth_nothing: .*not found"):
        town.chain.request("eth_nothing", [])


# ------------------------------------------------------------------------ sends


def mint(signer, town, amount):
    return signer.mint(town.deployment.token, town.signer(STRANGER).address, amount)


def held(town):
    return town.chain.token_balance(town.deployment.token, town.signer(STRANGER).address)


def transactions(town, signer):
    return int(town.chain.request("eth_getTransactionCount", [signer.address, "latest"]), 16)


@pytest.mark.parametrize("method", ["eth_sendRawTransaction", "eth_getTransactionReceipt"])
def test_a_lost_answer_does_not_send_twice(town, wire, method):
    signer = Signer(Chain(town.deployment, wire.url), dev_account(40))
    before, sent = held(town), transactions(town, signer)
    wire.spoil = once((method, "lose"))
    mint(signer, town, 5)
    # The chain mines at once, so the second attempt meets "nonce too low".
    assert held(town) == before + 5
    mint(signer, town, 2)
    assert held(town) == before + 7
    assert transactions(town, signer) == sent + 2


def test_two_signers_of_one_account_take_turns(town):
    one, two = (Signer(town.chain, dev_account(41)) for _ in range(2))
    before = held(town)
    for signer in (one, two, two, one, one, two):
        mint(signer, town, 1)
    assert held(town) == before + 6


@pytest.fixture
def slow_town(tmp_path) -> Iterator[Town]:
    """Return a town whose transactions wait for the next second's block."""
    with running_anvil() as rpc:
        town = Town(rpc, tmp_path)
        town.chain.request("evm_setAutomine", [False])
        town.chain.request("evm_setIntervalMining", [1])
        yield town


@pytest.mark.parametrize("where", ["town", "slow_town"])
def test_processes_that_share_an_account_lose_and_repeat_nothing(request, where):
    town, failures = request.getfixturevalue(where), []
    before = held(town)

    def act():
        signer = Signer(Chain(town.deployment, town.chain.rpc), dev_account(41))
        left = 6
        try:
            while left:
                # another transaction under the same nonce paid more: told, and done again
                with suppress(LostError):
                    mint(signer, town, 1)
                    left -= 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=act) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(town) == before + 18


def test_threads_share_a_signer(town):
    signer = Signer(town.chain, dev_account(42))
    before, failures = held(town), []

    def act():
        try:
            for _ in range(5):
                mint(signer, town, 1)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(town) == before + 20


def test_a_transaction_that_the_chain_lost_is_told_and_the_next_one_goes_on(town, wire):
    chain = Chain(town.deployment, wire.url)
    signer = Signer(chain, dev_account(43))
    mint(signer, town, 1)
    before = held(town)
    snapshot = town.chain.request("evm_snapshot", [])
    state = {"reverted": False}

    def revert_after_send(method):
        if method == "eth_getTransactionReceipt" and not state["reverted"]:
            state["reverted"] = True
            assert town.chain.request("evm_revert", [snapshot])
        return None

    wire.spoil = revert_after_send
    with within(20), pytest.raises(LostError, match="the chain has lost 0x"):
        mint(signer, town, 1)
    assert held(town) == before
    mint(signer, town, 1)
    assert held(town) == before + 1


def test_a_receipt_that_does_not_come_is_given_up(slow_town):
    slow_town.signer(STRANGER)
    slow_town.chain.request("evm_setIntervalMining", [0])
    chain = Chain(slow_town.deployment)
    chain.receipt_s = 0.5
    with pytest.raises(ChainError, match=r"no receipt for 0x\w+ within 0 s"):
        mint(Signer(chain, dev_account(44)), slow_town, 1)


def test_a_transaction_that_fails_in_its_block_is_explained_by_the_error_it_met(town):
    stage = town.open(["honest"])
    signer = town.signer(STRANGER)

    def estimate_is_stale(method, params):
        if method == "eth_estimateGas":
            return hex(200_000)
        return request(method, params)

    request = town.chain.request
    town.chain.request = estimate_is_stale
    try:
        with pytest.raises(ContractError, match=r"NothingToWithdraw\(0x"):
            signer.withdraw(stage.project)
    finally:
        del town.chain.request


# --------------------------------------------------------------------- refusals


def test_every_error_of_the_contracts_is_decoded_by_name_and_values():
    selector = bytes.fromhex("1425ea42")  # FailedCall(), of no ABI here
    assert decode_refusal(selector, "reverted").name == "UnknownRevert"
    from contracts import abi

    for entry in abi("Marketplace"):
        if entry["type"] != "error":
            continue
        from eth_utils.abi import function_abi_to_4byte_selector

        types = [part["type"] for part in entry["inputs"]]
        values = [_example(kind) for kind in types]
        data = bytes(function_abi_to_4byte_selector(entry)) + encode(types, values)
        found = decode_refusal(data, "")
        assert found.name == entry["name"]
        assert len(found.values) == len(values)


def _example(kind):
    if kind == "address":
        return "0x" + "11" * 20
    if kind == "string":
        return "reward"
    return bytes(int(kind[5:])) if kind.startswith("bytes") else 1


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (bytes.fromhex("08c379a0") + encode(["string"], ["no gas"]), r"Error\(no gas\)"),
        (bytes.fromhex("4e487b71") + encode(["uint256"], [0x11]), r"Panic\(17\): arithmetic"),
        (bytes.fromhex("4e487b71") + encode(["uint256"], [0x99]), r"Panic\(153\)"),
        (bytes.fromhex("4e487b71"), r"UnknownRevert\(0x4e487b71\): why"),
        (b"\x01\x02", r"UnknownRevert\(0x0102\): why"),
        (b"", r"UnknownRevert\(\): why"),
    ],
)
def test_reverts_that_are_not_ours_are_shown_as_far_as_they_say_something(data, shown):
    with pytest.raises(ContractError, match=shown):
        raise decode_refusal(data, "why")


# ---------------------------------------------------------------------- reading


def test_projects_are_found_by_the_first_digits_of_their_id(town, monkeypatch):
    project = town.open(["honest"]).project
    assert project in town.chain.projects()
    for text in (project.hex(), "0x" + project.hex(), project.hex()[:20].upper()):
        assert town.chain.find_project(text) == project
    with pytest.raises(NotFoundError, match="no project begins with 0x00000000; see `tribute"):
        town.chain.find_project("0x00000000")
    for text in ("", "0x", "zebra"):
        with pytest.raises(InputError, match="is no project id"):
            town.chain.find_project(text)
    monkeypatch.setattr(town.chain, "projects", lambda: [b"\xab" * 32, b"\xac" * 32])
    assert town.chain.find_project("0xab") == b"\xab" * 32
    with pytest.raises(InputError, match="2 projects begin with a; give more digits"):
        town.chain.find_project("a")


def test_events_come_in_spans_and_by_name(town, monkeypatch):
    stage = town.open(["honest"] * 2)
    stage.play(lambda view: len(view.history.active) == 2)
    last = town.chain.head().number
    whole = list(town.chain.events(stage.project, 0, last))
    assert [event.name for event in whole[:3]] == ["ProjectOpened", "Bonded", "Joined"]
    monkeypatch.setattr("marketplace.chain._LOG_SPAN", 2)
    assert list(town.chain.events(stage.project, 0, last)) == whole
    joined = list(town.chain.events(stage.project, 0, last, ["Joined"]))
    assert [event.values["index"] for event in joined] == [0, 1]
    assert joined[0].values["trainer"] == town.signer(FIRST_TRAINER).address


def test_digests_and_points_are_hashed_as_the_contract_hashes_them(town):
    project = town.open(["honest"]).project
    reveal = Reveal(town.signer(STRANGER).address, bytes(range(96)), b"\x07" * 32)
    words = [reveal.point[i : i + 32] for i in (0, 32, 64)]
    arguments = (project, 3, reveal.trainer, words, reveal.cid)
    assert commit_digest(project, 3, reveal) == town.chain._view("commitDigest", *arguments)


def test_a_signed_commit_is_relayed_by_somebody_else(town):
    stage = town.open(["honest"] * 2)
    stage.play(lambda view: len(view.history.active) == 2)
    trainer = town.signer(FIRST_TRAINER)
    while town.chain.head().timestamp < stage.view.state.opens_at:
        town.wait(1)
    gas = town.chain.request("eth_getBalance", [trainer.address, "latest"])
    digest = b"\x05" * 28
    signature = sign_commit(trainer.account, town.deployment, stage.project, 1, digest)
    relayer = town.signer(STRANGER)
    receipt = relayer.commit_for(stage.project, 1, [trainer.address], [digest], [signature])
    assert [event.values["trainer"] for event in receipt.events] == [trainer.address]
    assert town.chain.account(stage.project, trainer.address).last_commit == 1
    assert town.chain.request("eth_getBalance", [trainer.address, "latest"]) == gas
    other = town.signer(FIRST_TRAINER + 1)
    with pytest.raises(ContractError, match=r"BadSignature\(0\)"):
        relayer.commit_for(stage.project, 1, [other.address], [digest], [signature])


def test_a_signed_spending_is_relayed_by_somebody_else_and_refused_beyond_the_budget(town):
    stage = town.open(["honest"] * 2, Privacy(noise=4.0, delta=1e-4), epsilon=2.5)
    stage.play(lambda view: len(view.history.active) == 2)
    town.wait(max(0, stage.view.state.opens_at - town.chain.head().timestamp))
    trainer, relayer, digest = town.signer(FIRST_TRAINER), town.signer(STRANGER), b"\x05" * 28
    with pytest.raises(ContractError, match=r"SpendingMissing\(2500\): .*budget is ε = 2.5"):
        trainer.commit(stage.project, 1, digest)
    with pytest.raises(ContractError, match=r"BudgetExceeded\(2501, 2500\): ε = 2.501 would be"):
        trainer.commit(stage.project, 1, digest, 2501)
    signed = sign_commit(trainer.account, town.deployment, stage.project, 1, digest, 2000)
    call = (stage.project, 1, trainer.address, digest)
    with pytest.raises(ContractError, match="BadSignature"):
        relayer.commit_spending(*call, 1999, signed)
    relayer.commit_spending(*call, 2000, signed)
    account = town.chain.account(stage.project, trainer.address)
    assert (account.last_commit, account.spent_milli) == (1, 2000)


# ------------------------------------------------------------------------- view


def test_a_view_starts_over_when_the_chain_was_reorganised(town):
    stage = town.open(["honest"] * 3)
    joiner = town.signer(FIRST_TRAINER)
    snapshot = town.chain.request("evm_snapshot", [])
    joiner.join(stage.project, stage.view.params)
    stage.view.refresh()
    assert stage.view.history.active == [joiner.address]
    assert town.chain.request("evm_revert", [snapshot])
    joiner.forget_nonce()
    other = town.signer(FIRST_TRAINER + 1)
    other.join(stage.project, stage.view.params)
    town.wait(1)
    assert stage.view.refresh()
    assert stage.view.history.active == [other.address]
    assert stage.view.state.active == 1
    assert not stage.view.refresh() or stage.view.history.active == [other.address]


def test_a_view_on_a_shorter_chain_starts_over_too(town):
    stage = town.open(["honest"] * 3)
    snapshot = town.chain.request("evm_snapshot", [])
    town.signer(FIRST_TRAINER).join(stage.project, stage.view.params)
    for _ in range(5):
        town.wait(1)
    stage.view.refresh()
    town.chain.request("evm_revert", [snapshot])
    town.signer(FIRST_TRAINER).forget_nonce()
    assert stage.view.refresh()
    assert stage.view.history.active == []


@pytest.mark.parametrize("method", ["eth_getBlockByNumber", "eth_getLogs", "eth_call"])
def test_a_read_that_fails_leaves_the_view_as_it_was(town, wire, method):
    stage = town.open(["honest"] * 2)
    view = ProjectView(Chain(town.deployment, wire.url, patience_s=0.2), stage.project)
    block, state = view.block, view.state
    town.signer(FIRST_TRAINER).join(stage.project, view.params)
    wire.spoil = lambda seen: "refuse" if seen == method else None
    for _ in range(2):
        with pytest.raises(ChainError):
            view.refresh()
        assert (view.block, view.state, view.history.active) == (block, state, [])
    wire.spoil = lambda _: None
    view.refresh()
    assert view.history.active == [town.signer(FIRST_TRAINER).address]


def test_accounts_hold_what_they_can_pay(town):
    poor = Signer(town.chain, dev_account(50))
    stage = town.open(["honest"])
    message = f"{poor.address} holds 0 units of the token {town.deployment.token}; .* are needed"
    with pytest.raises(InputError, match=message):
        poor.join(stage.project, stage.view.params)
    with pytest.raises(InputError, match=message):
        poor.open_project(stage.view.params)
    poor.fund_on_devnet(town.deployment.token, 7)
    poor.fund_on_devnet(town.deployment.token, 5)
    assert town.chain.token_balance(town.deployment.token, poor.address) == 7
    assert town.chain.token_symbol(town.deployment.token) == "TRT"
