"""Play a market with the released bytecode, in an EVM of this process or on anvil."""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import requests
from eth_abi.abi import decode, encode
from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)
from eth_utils.crypto import keccak
from numpy.typing import NDArray
from pyrevm import EVM, BlockEnv

from deploy.compile import artefact, artefacts
from marketplace.codec import pack_gram
from marketplace.errors import ContractError
from marketplace.interface import commit_digest
from marketplace.scoring import MultiKrumParams
from marketplace.signer import sign_commit
from marketplace.types import NOBODY, Account, Deployment, Params, Reveal, State

START = 1_800_000_000
TRANSACTION_CAP = 1 << 24
"""Gas that a transaction may use from the fork Osaka on (EIP-7825)."""

ACCEPTS_ALL = bytes.fromhex("6760015f5260205ff35f5260086018f3")
"""Creates a verifier that says yes to everything: what a settlement costs without any proof."""

GRAM_TYPE = [
    {"name": "marketplace", "type": "address"},
    {"name": "project", "type": "bytes32"},
    {"name": "round", "type": "uint32"},
    {"name": "pointsHash", "type": "bytes32"},
    {"name": "gramHash", "type": "bytes32"},
]


def actor(name: str) -> LocalAccount:
    """Return the account of a named person."""
    account: LocalAccount = EthAccount.from_key(keccak(text=name))
    return account


def noise(text: str, size: int) -> bytes:
    """Return bytes that follow from a text."""
    return hashlib.shake_256(text.encode()).digest(size)


SPONSOR, AGGREGATOR, SINK = actor("sponsor"), actor("aggregator"), actor("sink")

TERMS = Params(
    token="",
    aggregator=AGGREGATOR.address,
    rule="",
    verifier="",
    slash_sink=SINK.address,
    rounds=3,
    capacity=10,
    min_updates=2,
    patience=3,
    max_failures=3,
    step_bits=14,
    dimension=1000,
    epsilon_milli=0,
    clip_norm=1 << 18,
    root=NOBODY,
    reward=100 * 10**18,
    fee=5 * 10**18,
    stake=50 * 10**18,
    bond=100 * 10**18,
    bond_penalty=20 * 10**18,
    join_window=600,
    commit_window=3600,
    reveal_window=3600,
    settle_window=3600,
    exclusive_window=600,
    unbonding_delay=10800,
    rule_params=MultiKrumParams().pack(),
    slash_bps=bytes.fromhex("03e8") * 16,
    description_cid=noise("description", 32),
    initial_commitment=noise("initial", 96),
)


def refusal(data: bytes) -> ContractError:
    """Return the error that a revert says."""
    if data[:4] == bytes.fromhex("4e487b71"):
        return ContractError("Panic", decode(["uint256"], data[4:]))
    entry = _errors().get(data[:4])
    if entry is None:
        return ContractError("UnknownRevert", [data])
    return ContractError(entry["name"], decode(get_abi_input_types(entry), data[4:]))


@functools.cache
def _errors() -> dict[bytes, Any]:
    return {
        bytes(function_abi_to_4byte_selector(cast(Any, entry))): entry
        for found in artefacts().values()
        for entry in found.abi
        if entry["type"] == "error"
    }


class Evm:
    """Run an EVM in this process: quick, but blind to what a cold slot costs."""

    chain_id = 1

    def __init__(self) -> None:
        self._evm = EVM(spec_id="OSAKA")
        self.now = START
        self.gas = 0
        self.logs: list[tuple[list[bytes], bytes]] = []
        self.wait(0)

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds
        self._evm.set_block_env(BlockEnv(number=1, timestamp=self.now))

    def deploy(self, code: bytes) -> str:
        """Create a contract and return its address."""
        return str(self._evm.deploy(SPONSOR.address, code))

    def send(self, sender: str, to: str, data: bytes) -> bytes:
        """Run a transaction and return what it returned; ContractError where it is refused."""
        try:
            returned = bytes(self._evm.message_call(sender, to, data))
        except RuntimeError as error:
            revert = re.search(r"output: 0x([0-9a-f]*)", str(error))
            if revert is None:
                raise
            raise refusal(bytes.fromhex(revert[1])) from None
        self.gas = int(self._evm.result.gas_used)
        self.logs = [
            ([bytes.fromhex(t.removeprefix("0x")) for t in log.topics], bytes(log.data[1]))
            for log in self._evm.result.logs
        ]
        return returned

    read = send

    def set_storage(self, address: str, slot: int, value: int) -> None:
        """Write a slot."""
        self._evm.insert_account_storage(address, slot, value)


class Anvil:
    """Run transactions on anvil, which knows what each costs: `gas` is what the last one used."""

    chain_id = 31337

    def __init__(self, rpc: str) -> None:
        self._rpc = rpc
        self._session = requests.Session()
        self._request("anvil_autoImpersonateAccount", [True])
        self._rich: set[str] = set()
        self.gas = 0
        self.logs: list[tuple[list[bytes], bytes]] = []

    def _request(self, method: str, params: list[Any]) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._session.post(self._rpc, json=body, timeout=60).json()
        if "error" in answer:
            raise refusal(bytes.fromhex(str(answer["error"].get("data") or "0x")[2:]))
        return answer["result"]

    @property
    def now(self) -> int:
        """Return the newest block's time."""
        return int(self._request("eth_getBlockByNumber", ["latest", False])["timestamp"], 16)

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self._request("evm_increaseTime", [seconds])
        self._request("evm_mine", [])

    def deploy(self, code: bytes) -> str:
        """Create a contract and return its address."""
        return str(self._run(SPONSOR.address, {"data": "0x" + code.hex()})["contractAddress"])

    def send(self, sender: str, to: str, data: bytes) -> bytes:
        """Run a transaction; it returns nothing that a caller could see."""
        self._run(sender, {"to": to, "data": "0x" + data.hex()})
        return b""

    def read(self, sender: str, to: str, data: bytes) -> bytes:
        """Return what a view returns."""
        call = {"from": sender, "to": to, "data": "0x" + data.hex()}
        return bytes.fromhex(self._request("eth_call", [call, "latest"])[2:])

    def _run(self, sender: str, call: dict[str, str]) -> Any:
        if sender not in self._rich:
            self._request("anvil_setBalance", [sender, hex(10**24)])
            self._rich.add(sender)
        plan = {"from": sender, "gas": hex(TRANSACTION_CAP), **call}
        sent = self._request("eth_sendTransaction", [plan])
        while (receipt := self._request("eth_getTransactionReceipt", [sent])) is None:
            time.sleep(0.002)
        assert int(receipt["status"], 16) == 1, receipt
        self.gas = int(receipt["gasUsed"], 16)
        self.logs = [
            ([bytes.fromhex(t[2:]) for t in log["topics"]], bytes.fromhex(log["data"][2:]))
            for log in receipt["logs"]
        ]
        return receipt


class Contract:
    """Call one contract; refusals are `ContractError` by the name of the Solidity error."""

    def __init__(self, chain: Evm | Anvil, name: str, arguments: bytes = b"") -> None:
        self.chain = chain
        self.abi = artefact(name).abi
        self.functions = {e["name"]: e for e in self.abi if e["type"] == "function"}
        self.address = chain.deploy(artefact(name).bytecode + arguments)

    def __call__(self, sender: str, function: str, *arguments: Any) -> Any:
        entry: Any = self.functions[function]
        data = bytes(function_abi_to_4byte_selector(entry))
        data += encode(get_abi_input_types(entry), arguments)
        if entry["stateMutability"] in ("view", "pure"):
            values = decode(
                get_abi_output_types(entry), self.chain.read(sender, self.address, data)
            )
            return values[0] if len(values) == 1 else values
        return self.chain.send(sender, self.address, data)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the last transaction's events of a name."""
        entry: Any = next(e for e in self.abi if e["type"] == "event" and e["name"] == name)
        fields = list(zip(entry["inputs"], get_abi_input_types(entry), strict=True))
        plain = [(field["name"], kind) for field, kind in fields if not field["indexed"]]
        indexed = [(field["name"], kind) for field, kind in fields if field["indexed"]]
        found = []
        for topics, data in self.chain.logs:
            if topics[0] != bytes(event_abi_to_log_topic(entry)):
                continue
            values = dict(
                zip([n for n, _ in plain], decode([k for _, k in plain], data), strict=True)
            )
            for (field, kind), topic in zip(indexed, topics[1:], strict=True):
                (values[field],) = decode([kind], topic)
            found.append(values)
        return found


@dataclass(frozen=True)
class Played:
    """Say what a settlement gave: its records' bytes and the gas of each kind of action."""

    records: bytes
    gas: dict[str, int]


class Market:
    """Hold the deployed contracts and one project that waits for its first round."""

    def __init__(
        self,
        chain: Evm | Anvil,
        trainers: Sequence[LocalAccount],
        proven: bool = True,
        rule: str = "MultiKrumShapley",
        root: LocalAccount | None = None,
        **terms: Any,
    ) -> None:
        self.chain = chain
        self.trainers = list(trainers)
        self.root = root
        self.token = Contract(chain, "TestToken")
        self.rule = Contract(chain, rule)
        self.verifier = Contract(chain, "AttestedGram", bytes(32))
        self.proven = proven
        self.market = Contract(chain, "Marketplace")
        self.deployment = Deployment(
            chain_id=chain.chain_id,
            rpc="",
            block=0,
            marketplace=self.market.address,
            token=self.token.address,
            verifiers={"AttestedGram": self.verifier.address},
        )
        plain = replace(
            TERMS,
            root=root.address if root else NOBODY,
            capacity=max(2, len(trainers)),
            token=self.token.address,
            rule=self.rule.address,
            rule_params=MultiKrumParams().pack() if rule == "MultiKrumShapley" else bytes(32),
            verifier=self.verifier.address if proven else chain.deploy(ACCEPTS_ALL),
        )
        self.params = replace(plain, **terms)
        self.fund(SPONSOR.address, self.params.escrow)
        self.market(SPONSOR.address, "openProject", self.params.abi())
        self.project: bytes = self.market.events("ProjectOpened")[0]["project"]
        self.fund(AGGREGATOR.address, self.params.bond)
        self.market(AGGREGATOR.address, "postBond", self.project)
        for trainer in trainers:
            self.join(trainer)
        chain.wait(max(0, self.state.opens_at - chain.now))

    def fund(self, address: str, amount: int) -> None:
        """Give an address tokens that the marketplace may take."""
        self.token(address, "mint", address, amount)
        self.token(address, "approve", self.market.address, amount)

    def join(self, trainer: LocalAccount) -> None:
        """Deposit a trainer's stake."""
        self.fund(trainer.address, self.params.stake)
        self.market(trainer.address, "join", self.project, bytes(32))

    @property
    def state(self) -> State:
        """Return where the project stands."""
        return State.of(self.market(SPONSOR.address, "stateOf", self.project))

    def account(self, address: str) -> Account:
        """Return what an address has."""
        return Account.of(self.market(SPONSOR.address, "accountOf", self.project, address))

    def attest(self, points: bytes, gram: bytes) -> bytes:
        """Sign a matrix as the aggregator."""
        message = encode_typed_data(
            {
                "name": "Tribute AttestedGram",
                "version": "1",
                "chainId": self.chain.chain_id,
                "verifyingContract": self.verifier.address,
            },
            {"Gram": GRAM_TYPE},
            {
                "marketplace": self.market.address,
                "project": self.project,
                "round": self.state.round,
                "pointsHash": keccak(points),
                "gramHash": keccak(gram),
            },
        )
        return bytes(AGGREGATOR.sign_message(message).signature)

    def play(
        self,
        matrix: NDArray[np.int64],
        exclusions: bytes = b"",
        relayed: bool = False,
        leaving: Sequence[int] = (),
        root_at: int = 0,
    ) -> Played:
        """Play a whole round; `matrix` belongs to the included updates.

        Trainers in `leaving` leave between their reveal and the settlement; the root, if there is
        one, reveals at place `root_at` among them.
        """
        number = self.state.round
        actors = list(self.trainers)
        if self.root is not None:
            actors.insert(root_at, self.root)
        reveals = [
            Reveal(
                trainer.address,
                noise(f"{number} {trainer.address} point", 96),
                noise(f"{number} {trainer.address} cid", 32),
            )
            for trainer in actors
        ]
        digests = [commit_digest(self.project, number, reveal) for reveal in reveals]
        gas: dict[str, int] = {}
        if relayed:
            signed = [
                sign_commit(trainer, self.deployment, self.project, number, digest)
                for trainer, digest in zip(actors, digests, strict=True)
            ]
            names = [reveal.trainer for reveal in reveals]
            call = ("commitFor", self.project, number, names, digests, signed)
            self.market(AGGREGATOR.address, *call)
            gas["relayed commit, a trainer"] = self.chain.gas // len(reveals)
        else:
            for reveal, digest in zip(reveals, digests, strict=True):
                me, target = reveal.trainer, (self.project, number)
                if self.params.epsilon_milli:
                    self.market(me, "commitSpending", *target, me, digest, number, b"")
                else:
                    self.market(me, "commit", *target, digest)
                gas["commit"] = max(self.chain.gas, gas.get("commit", 0))
        self.market(AGGREGATOR.address, "closeCommits", self.project, number)
        gas["close commits"] = self.chain.gas
        for reveal in reveals:
            words = [reveal.point[i : i + 32] for i in range(0, 96, 32)]
            self.market(reveal.trainer, "reveal", self.project, words, reveal.cid)
            gas["reveal"] = max(self.chain.gas, gas.get("reveal", 0))
        for k in leaving:
            self.market(self.trainers[k].address, "leave", self.project)
        kept = [
            r
            for r, reason in zip(reveals, exclusions or bytes(len(reveals)), strict=True)
            if not reason
        ]
        gram = pack_gram(matrix)
        self.market(
            AGGREGATOR.address,
            "settle",
            self.project,
            number,
            [reveal.trainer for reveal in reveals],
            b"".join(reveal.point for reveal in reveals),
            exclusions,
            gram,
            self.attest(b"".join(reveal.point for reveal in kept), gram) if self.proven else b"",
            noise(f"{number} model", 32),
        )
        gas["settle"] = self.chain.gas
        settled = self.market.events("Settled")
        return Played(settled[0]["records"] if settled else b"", gas)
