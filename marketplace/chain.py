"""Talk to the marketplace over JSON-RPC: read, sign, send, wait, and explain refusals.

Covered: one counter of nonces and one lock an account; local signing; receipts within a time
limit; reverts as `ContractError` by the name of the Solidity error; retries while the endpoint is
down or slow. Not covered: what the events of a project add up to (`marketplace.history`).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import requests
from eth_abi.abi import encode
from eth_abi.codec import ABIDecoder
from eth_abi.decoding import AddressDecoder
from eth_abi.exceptions import DecodingError
from eth_abi.registry import BaseEquals, registry
from eth_account.messages import SignableMessage, encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)
from eth_utils.address import to_checksum_address
from web3 import HTTPProvider, Web3
from web3.types import RPCEndpoint

from contracts import abi
from marketplace.errors import ChainError, ContractError, InputError, LostError, NotFoundError
from marketplace.types import Account, Deployment, Params, Reveal, State, Status
from marketplace.wallet import LOCAL_CHAINS

__all__ = [
    "Block",
    "Chain",
    "Event",
    "Receipt",
    "SettleCall",
    "Signer",
    "attested_claim",
    "commit_digest",
    "commit_message",
    "encode_call",
    "project_id",
    "sign_commit",
]

HINTS: dict[str, str | Callable[[Sequence[Any]], str]] = {
    "UnknownProject": "no project has this id; see `tribute project list`",
    "WrongStatus": lambda v: f"the project is {Status(v[0]).name.lower()}, which does not allow it",
    "TooEarly": lambda v: f"the window opens in {v[1] - v[0]:,} s",
    "TooLate": lambda v: f"the window closed {v[0] - v[1]:,} s ago",
    "WrongRound": lambda v: f"round {v[0]} was asked for, the current one is {v[1]}",
    "AlreadyCommitted": "a trainer commits once a round",
    "AlreadyRevealed": "a trainer reveals once a round",
    "RevealMismatch": "point and CID must be those that were committed to",
    "SpendingMissing": lambda v: (
        f"the project's privacy budget is ε = {v[0] / 1000:g}: a commit says what is spent with "
        "it; `tribute trainer run --noise` counts"
    ),
    "BudgetExceeded": lambda v: (
        f"ε = {v[0] / 1000:g} would be spent of {v[1] / 1000:g}; leave the project, or take part "
        "with more noise from the start"
    ),
    "SpendingShrinks": lambda v: (
        f"ε = {v[1] / 1000:g} were spent with the last commit already; what is spent stays so"
    ),
    "NothingCommitted": "only who committed in this round can reveal",
    "NotTrainer": "the account is no active trainer of the project; `tribute trainer join`",
    "NotAggregator": "only the project's aggregator may, for now",
    "NotSponsor": "only the project's sponsor may",
    "AlreadyJoined": "the account takes part already",
    "ProjectFull": "the project has this many active trainers, its capacity",
    "NothingToWithdraw": "the account has no credit in this project",
    "GramRejected": "the verifier does not accept the matrix with this proof",
    "DuplicatePoint": "two reveals carry the same commitment; exclude one",
    "RevealListMismatch": "give all reveals of the round in their order",
    "StillUnbonding": lambda v: f"the stake is free in {v[1] - v[0]:,} s",
    "TooFewMissed": "the trainer missed fewer rounds in a row than the project's patience",
    "TokenTookFee": "tokens that take a fee on transfer cannot be used",
    "SafeERC20FailedOperation": "the token refused the transfer",
    "ERC20InsufficientBalance": "account, balance, needed: the account holds too few tokens",
    "ERC20InsufficientAllowance": "the marketplace may not take so many tokens",
}

_LOG_SPAN = 5_000
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0
_RECEIPT_PAUSE_S = 0.5
_NONCE_TAKEN = ("nonce too low", "replacement transaction underpriced")
_NONCE_TRIES = 16


@dataclass(frozen=True)
class Block:
    """Name a block; `timestamp` is the chain's clock, in unix seconds."""

    number: int
    hash: str
    timestamp: int


@dataclass(frozen=True)
class Event:
    """Hold a decoded event and where it is in the chain."""

    name: str
    values: Mapping[str, Any]
    block: int
    transaction: str
    index: int


@dataclass(frozen=True)
class Receipt:
    """Hold what came of a transaction."""

    transaction: str
    block: int
    gas_used: int
    events: Sequence[Event]
    contract: str | None = None


@dataclass(frozen=True)
class SettleCall:
    """Hold the arguments of `settle`, in its order."""

    project: bytes
    round: int
    trainers: Sequence[str]
    points: bytes
    exclusions: bytes
    gram: bytes
    proof: bytes
    model_cid: bytes


def commit_digest(project: bytes, round_number: int, reveal: Reveal) -> bytes:
    """Return what a trainer commits to, 28 bytes; mirrors `IMarketplace.commitDigest`."""
    words = [reveal.point[i : i + 32] for i in range(0, 96, 32)]
    types = ["bytes32", "uint32", "address", "bytes32[3]", "bytes32"]
    packed = encode(types, [project, round_number, reveal.trainer, words, reveal.cid])
    return bytes(Web3.keccak(packed)[:28])


def project_id(deployment: Deployment, sponsor: str, nonce: int, params: Params) -> bytes:
    """Return the id of a project that the sponsor opens after `nonce` others.

    Mirrors `IMarketplace.openProject`.
    """
    (terms,) = get_abi_input_types(_MARKETPLACE.functions["openProject"])
    types = ["uint256", "address", "address", "uint256", terms]
    values = [deployment.chain_id, deployment.marketplace, sponsor, nonce, params.abi()]
    return bytes(Web3.keccak(encode(types, values)))


def sign_commit(
    account: LocalAccount,
    deployment: Deployment,
    project: bytes,
    round_number: int,
    digest: bytes,
    spent_milli: int = 0,
) -> bytes:
    """Sign a commit for a relayer, who then pays its gas (EIP-712, `commitFor`).

    With `spent_milli`, in a project with a privacy budget, it is for `commitSpending`.
    """
    domain, types, message = commit_message(
        deployment, project, round_number, account.address, digest, spent_milli
    )
    signed = account.sign_message(encode_typed_data(domain, types, message))
    return bytes(signed.signature)


def commit_message(
    deployment: Deployment,
    project: bytes,
    round_number: int,
    trainer: str,
    digest: bytes,
    spent_milli: int = 0,
) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]], dict[str, Any]]:
    """Return domain, types and message that a trainer signs for a relayed commit (EIP-712)."""
    domain = {
        "name": "Tribute",
        "version": "1",
        "chainId": deployment.chain_id,
        "verifyingContract": deployment.marketplace,
    }
    types = {
        "Commit": [
            {"name": "project", "type": "bytes32"},
            {"name": "round", "type": "uint32"},
            {"name": "trainer", "type": "address"},
            {"name": "digest", "type": "bytes28"},
        ]
    }
    message: dict[str, Any] = {
        "project": project,
        "round": round_number,
        "trainer": trainer,
        "digest": digest,
    }
    if spent_milli:
        types = {"CommitSpending": [*types["Commit"], {"name": "epsilonMilli", "type": "uint32"}]}
        message["epsilonMilli"] = spent_milli
    return domain, types, message


def attested_claim(
    deployment: Deployment,
    project: bytes,
    round_number: int,
    points: Sequence[bytes],
    gram: bytes,
) -> SignableMessage:
    """Return what an aggregator signs for `AttestedGram` (EIP-712), and answers for by its name."""
    return encode_typed_data(
        {
            "name": "Tribute AttestedGram",
            "version": "1",
            "chainId": deployment.chain_id,
            "verifyingContract": deployment.verifiers["AttestedGram"],
        },
        {
            "Gram": [
                {"name": "marketplace", "type": "address"},
                {"name": "project", "type": "bytes32"},
                {"name": "round", "type": "uint32"},
                {"name": "pointsHash", "type": "bytes32"},
                {"name": "gramHash", "type": "bytes32"},
            ]
        },
        {
            "marketplace": deployment.marketplace,
            "project": project,
            "round": round_number,
            "pointsHash": Web3.keccak(b"".join(points)),
            "gramHash": Web3.keccak(gram),
        },
    )


class _ChecksumDecoder(AddressDecoder):
    """Decode addresses as they are written everywhere else here."""

    decoder_fn = staticmethod(to_checksum_address)


def _decoder() -> ABIDecoder:
    known = registry.copy()  # type: ignore[no-untyped-call]
    known.unregister_decoder("address")
    address = BaseEquals("address")  # type: ignore[no-untyped-call]
    known.register_decoder(address, _ChecksumDecoder, label="address")
    return ABIDecoder(known)


decode = _decoder().decode


class _Interface:
    """Encode calls, and decode events and errors, of a contract's ABI."""

    def __init__(self, name: str) -> None:
        self.functions: dict[str, Any] = {}
        self.events: dict[bytes, Any] = {}
        self.errors: dict[bytes, Any] = {}
        for entry in abi(name):
            item = cast(Any, entry)
            if entry["type"] == "function":
                self.functions[entry["name"]] = item
            elif entry["type"] == "event":
                self.events[bytes(event_abi_to_log_topic(item))] = item
            elif entry["type"] == "error":
                self.errors[bytes(function_abi_to_4byte_selector(item))] = item

    def encode(self, function: str, arguments: Sequence[Any]) -> str:
        entry = self.functions[function]
        data = encode(get_abi_input_types(entry), arguments)
        return "0x" + bytes(function_abi_to_4byte_selector(entry)).hex() + data.hex()

    def decode(self, function: str, data: bytes) -> Any:
        values = decode(get_abi_output_types(self.functions[function]), data)
        return values[0] if len(values) == 1 else values

    def event(self, log: Mapping[str, Any]) -> Event | None:
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        entry = self.events.get(topics[0]) if topics else None
        if entry is None:
            return None
        types = get_abi_input_types(entry)
        inputs = list(zip(entry["inputs"], types, strict=True))
        plain = [(field["name"], kind) for field, kind in inputs if not field["indexed"]]
        indexed = [(field["name"], kind) for field, kind in inputs if field["indexed"]]
        data = decode([kind for _, kind in plain], bytes.fromhex(log["data"][2:]))
        values = dict(zip([name for name, _ in plain], data, strict=True))
        for (name, kind), topic in zip(indexed, topics[1:], strict=True):
            values[name] = decode([kind], topic)[0]
        return Event(
            entry["name"],
            values,
            int(log["blockNumber"], 16),
            log["transactionHash"],
            int(log["logIndex"], 16),
        )


_MARKETPLACE = _Interface("Marketplace")
_TOKEN = _Interface("TestToken")
_VERIFIER = _Interface("IGramVerifier")
_ERRORS: dict[bytes, Any] = {
    **_Interface("IScoringRule").errors,
    **_TOKEN.errors,
    **_MARKETPLACE.errors,
}
_PANICS = {0x11: "arithmetic overflow", 0x12: "division by zero", 0x32: "index out of bounds"}


def encode_call(function: str, *arguments: Any) -> str:
    """Return the data of a call of the marketplace, or of its token where only that has it."""
    interface = _MARKETPLACE if function in _MARKETPLACE.functions else _TOKEN
    return interface.encode(function, arguments)


def decode_refusal(data: bytes, message: str) -> ContractError:
    """Return the error that a revert's data says, by the name of its Solidity error."""
    selector, rest = data[:4], data[4:]
    entry = _ERRORS.get(selector)
    try:
        if entry is not None:
            values = decode(get_abi_input_types(entry), rest)
            hint = HINTS.get(entry["name"], "")
            return ContractError(
                entry["name"], values, hint if isinstance(hint, str) else hint(values)
            )
        if selector == bytes.fromhex("08c379a0"):
            return ContractError("Error", decode(["string"], rest))
        if selector == bytes.fromhex("4e487b71"):
            (code,) = decode(["uint256"], rest)
            return ContractError("Panic", [code], _PANICS.get(code, ""))
    except (DecodingError, ValueError):
        pass
    return ContractError("UnknownRevert", [data] if data else [], message)


class Chain:
    """Read a marketplace, and send what accounts sign.

    Reads and sends wait up to `patience_s` for an endpoint that is down or slow; a transaction's
    receipt up to `receipt_s`. Threads may share it.
    """

    def __init__(
        self, deployment: Deployment, rpc: str | None = None, patience_s: float = 20.0
    ) -> None:
        self.deployment = deployment
        self.rpc = rpc or deployment.rpc
        self.patience_s = patience_s
        self.receipt_s = 120.0
        # What failed is tried again here, within the caller's patience.
        self._provider = HTTPProvider(
            self.rpc, request_kwargs={"timeout": patience_s}, exception_retry_configuration=None
        )

    @classmethod
    def open(
        cls, deployment: Deployment, rpc: str | None = None, patience_s: float = 20.0
    ) -> Chain:
        """Return the chain of a deployment, after checking that the deployment is there."""
        chain = cls(deployment, rpc, patience_s)
        chain_id = int(chain.request("eth_chainId", []), 16)
        if chain_id != deployment.chain_id:
            raise InputError(
                f"{chain.rpc} is chain {chain_id}, the deployment is on {deployment.chain_id}"
            )
        if chain.request("eth_getCode", [deployment.marketplace, "latest"]) == "0x":
            raise NotFoundError(
                f"no marketplace at {deployment.marketplace} on {chain.rpc}: the chain was started "
                "anew; run `tribute deploy` again"
            )
        return chain

    # ------------------------------------------------------------------- reads

    def request(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of a JSON-RPC request, tried again while nobody answers.

        Raises ChainError when nobody did for `patience_s`, ContractError for a revert.
        """
        deadline = time.monotonic() + self.patience_s
        pause = _RETRY_FIRST_S
        while True:
            try:
                answer = self._provider.make_request(RPCEndpoint(method), params)
                break
            except (requests.RequestException, ValueError) as error:
                if time.monotonic() + pause > deadline:
                    raise ChainError(
                        f"{self.rpc} did not answer {method} for {self.patience_s:.0f} s; is it "
                        f"running? `tribute devnet status` ({type(error).__name__})"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST_S)
        if "error" in answer:
            raise _refused(method, cast(Any, answer["error"]))
        return answer["result"]

    def head(self) -> Block:
        """Return the newest block."""
        return self.block("latest")

    def block(self, number: int | str) -> Block:
        """Return a block by number or tag."""
        tag = number if isinstance(number, str) else hex(number)
        found = self.request("eth_getBlockByNumber", [tag, False])
        if found is None:
            raise NotFoundError(f"the chain has no block {number}")
        return Block(int(found["number"], 16), found["hash"], int(found["timestamp"], 16))

    def _call(
        self, interface: _Interface, to: str, function: str, *arguments: Any, block: str = "latest"
    ) -> Any:
        data = interface.encode(function, arguments)
        result = self.request("eth_call", [{"to": to, "data": data}, block])
        return interface.decode(function, bytes.fromhex(result[2:]))

    def _view(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        tag = "latest" if block is None else hex(block)
        return self._call(
            _MARKETPLACE, self.deployment.marketplace, function, *arguments, block=tag
        )

    def params(self, project: bytes) -> Params:
        """Return a project's terms."""
        return Params.of(self._view("paramsOf", project))

    def state(self, project: bytes, block: int | None = None) -> State:
        """Return where a project stands, at a block or now."""
        return State.of(self._view("stateOf", project, block=block))

    def account(self, project: bytes, address: str, block: int | None = None) -> Account:
        """Return what an address has in a project, at a block or now."""
        return Account.of(self._view("accountOf", project, address, block=block))

    def settle_call(self, transaction: str) -> SettleCall | None:
        """Return what a transaction gave `settle`; None where it did not call it directly."""
        found = self.request("eth_getTransactionByHash", [transaction])
        if found is None or (found["to"] or "").lower() != self.deployment.marketplace.lower():
            return None
        data = bytes.fromhex(found["input"][2:])
        entry = _MARKETPLACE.functions["settle"]
        if data[:4] != bytes(function_abi_to_4byte_selector(entry)):
            return None
        try:
            return SettleCall(*decode(get_abi_input_types(entry), data[4:]))
        except DecodingError:
            return None

    def trainers(self, project: bytes) -> tuple[str, ...]:
        """Return a project's active trainers."""
        return tuple(self._view("trainers", project))

    def srs_id(self, verifier: str) -> bytes:
        """Return the identity of the reference string that a verifier takes proofs under."""
        return bytes(self._call(_VERIFIER, verifier, "srsId"))

    def token_balance(self, token: str, address: str) -> int:
        """Return an address's tokens, in the smallest unit."""
        return int(self._call(_TOKEN, token, "balanceOf", address))

    def token_allowance(self, token: str, owner: str, spender: str) -> int:
        """Return how many of the owner's tokens the spender may take."""
        return int(self._call(_TOKEN, token, "allowance", owner, spender))

    def token_decimals(self, token: str) -> int:
        """Return how many decimals a token is shown with."""
        return int(self._call(_TOKEN, token, "decimals"))

    def token_symbol(self, token: str) -> str:
        """Return what a token calls itself."""
        return str(self._call(_TOKEN, token, "symbol"))

    def events(
        self, project: bytes | None, first: int, last: int, names: Sequence[str] = ()
    ) -> Iterator[Event]:
        """Give the marketplace's events from block `first` to `last`, of one project or all.

        `names` limits them to some kinds.
        """
        kinds = [
            "0x" + topic.hex()
            for topic, entry in _MARKETPLACE.events.items()
            if entry["name"] in names
        ]
        topics: list[Any] = [kinds or None]
        if project is not None:
            topics.append("0x" + project.hex())
        for start in range(first, last + 1, _LOG_SPAN):
            criteria = {
                "address": self.deployment.marketplace,
                "fromBlock": hex(start),
                "toBlock": hex(min(last, start + _LOG_SPAN - 1)),
                "topics": topics,
            }
            for log in self.request("eth_getLogs", [criteria]):
                event = _MARKETPLACE.event(log)
                if event is not None:
                    yield event

    def projects(self) -> list[bytes]:
        """Return the ids of all projects, oldest first."""
        opened = self.events(None, self.deployment.block, self.head().number, ["ProjectOpened"])
        return [event.values["project"] for event in opened]

    def find_project(self, text: str) -> bytes:
        """Return the id that a hexadecimal text is, or is the only one to begin with."""
        digits = text.lower().removeprefix("0x")
        if not digits or any(digit not in "0123456789abcdef" for digit in digits):
            raise InputError(f"{text!r} is no project id: give its hexadecimal digits")
        found = [project for project in self.projects() if project.hex().startswith(digits)]
        if not found:
            raise NotFoundError(f"no project begins with {text}; see `tribute project list`")
        if len(found) > 1:
            raise InputError(f"{len(found)} projects begin with {text}; give more digits")
        return found[0]

    # ------------------------------------------------------------------- sends

    def send(
        self, signer: Signer, interface: _Interface, to: str, function: str, *arguments: Any
    ) -> Receipt:
        """Sign, send and wait for a call; ContractError where the contract refuses it."""
        call = {"from": signer.address, "to": to, "data": interface.encode(function, arguments)}
        return self.transact(signer, call)

    def transact(self, signer: Signer, call: Mapping[str, str]) -> Receipt:
        """Sign, send and wait for a transaction that `call` describes."""
        gas = int(self.request("eth_estimateGas", [call]), 16)
        head = self.request("eth_getBlockByNumber", ["latest", False])
        base, tip = int(head.get("baseFeePerGas", "0x0"), 16), 10**9
        plan = {
            "chainId": self.deployment.chain_id,
            "data": call["data"],
            "value": 0,
            # Others may act between the estimate and the block, and make a slot colder. And no two
            # transactions are equal, so that one that another process sent for the account, under
            # the same nonce, is not taken for this one.
            "gas": gas * 5 // 4 + 10_000 + secrets.randbelow(5_000),
            "maxFeePerGas": 2 * base + tip,
            "maxPriorityFeePerGas": tip,
        }
        if "to" in call:
            plan["to"] = call["to"]
        transaction = signer.submit(plan)
        try:
            found = self._receipt(transaction)
        except ChainError:
            signer.forget_nonce()
            raise
        if int(found["status"], 16) != 1:
            # The same call, on the state it met, says why.
            before = hex(int(found["blockNumber"], 16) - 1)
            self.request("eth_call", [call, before])
            raise ContractError("OutOfGas", [int(found["gasUsed"], 16)], f"in {transaction}")
        events = [_MARKETPLACE.event(log) for log in found["logs"]]
        return Receipt(
            transaction,
            int(found["blockNumber"], 16),
            int(found["gasUsed"], 16),
            [event for event in events if event is not None],
            found.get("contractAddress"),
        )

    def _receipt(self, transaction: str) -> Any:
        deadline = time.monotonic() + self.receipt_s
        pause = 0.01
        while time.monotonic() < deadline:
            found = self.request("eth_getTransactionReceipt", [transaction])
            if found is not None:
                return found
            if pause >= _RECEIPT_PAUSE_S and self._is_lost(transaction):
                raise LostError(
                    f"the chain has lost {transaction}: it was restarted from an older state or "
                    "reorganised; look where the project stands, and do it again"
                )
            time.sleep(pause)
            pause = min(2 * pause, _RECEIPT_PAUSE_S)
        raise ChainError(
            f"no receipt for {transaction} within {self.receipt_s:.0f} s; it may still be mined"
        )

    def _is_lost(self, transaction: str) -> bool:
        """Tell whether the chain dropped a transaction, or one that must come before it."""
        found = self.request("eth_getTransactionByHash", [transaction])
        if found is None:
            return True
        count = self.request("eth_getTransactionCount", [found["from"], "pending"])
        return found["blockHash"] is None and int(found["nonce"], 16) > int(count, 16)

    def knows(self, transaction: str) -> bool:
        """Tell whether the chain has a transaction, mined or waiting."""
        return self.request("eth_getTransactionByHash", [transaction]) is not None


def _refused(method: str, error: Any) -> ChainError:
    if not isinstance(error, dict):
        return ChainError(f"{method}: {error}")
    data = error.get("data")
    message = str(error.get("message", ""))
    if isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, str) and data.startswith("0x"):
        return decode_refusal(bytes.fromhex(data[2:]), message)
    if "revert" in message:
        return decode_refusal(b"", message)
    return ChainError(f"{method}: {message}")


class Signer:
    """Act in a marketplace as one account.

    There must be one of these an account and process: it counts the account's nonces.
    """

    def __init__(self, chain: Chain, account: LocalAccount) -> None:
        self.chain = chain
        self.account = account
        self.address: str = account.address
        self._lock = threading.Lock()
        self._nonce: int | None = None

    def submit(self, plan: Mapping[str, Any]) -> str:
        """Sign a transaction under the next nonce, send it, and return its hash."""
        with self._lock:
            for _ in range(_NONCE_TRIES - 1):
                try:
                    return self._send(plan)
                except ChainError as error:
                    # Another process acted for the account, and its transaction is in the chain or
                    # waits for it: the chain's count is asked for anew.
                    if not any(words in str(error) for words in _NONCE_TAKEN):
                        raise
            return self._send(plan)

    def _send(self, plan: Mapping[str, Any]) -> str:
        if self._nonce is None:
            count = self.chain.request("eth_getTransactionCount", [self.address, "pending"])
            self._nonce = int(count, 16)
        signed = self.account.sign_transaction({**plan, "nonce": self._nonce})
        transaction = "0x" + bytes(signed.hash).hex()
        try:
            self.chain.request("eth_sendRawTransaction", ["0x" + signed.raw_transaction.hex()])
        except ChainError:
            # An answer that got lost is asked for again, and the second one says "already known"
            # or "nonce too low" of a transaction that is on its way, or mined, all the same.
            self._nonce = None
            if not self.chain.knows(transaction):
                raise
            return transaction
        self._nonce += 1
        return transaction

    def forget_nonce(self) -> None:
        """Ask the chain for the account's next nonce before the next transaction."""
        with self._lock:
            self._nonce = None

    def _do(self, function: str, *arguments: Any) -> Receipt:
        return self.chain.send(
            self, _MARKETPLACE, self.chain.deployment.marketplace, function, *arguments
        )

    def _with_tokens(self, token: str, amount: int, action: Callable[[], Receipt]) -> Receipt:
        """Let the marketplace take `amount` tokens, no more, and act."""
        held = self.chain.token_balance(token, self.address)
        if held < amount:
            raise InputError(
                f"{self.address} holds {held} units of the token {token}; {amount} are needed"
            )
        spender = self.chain.deployment.marketplace
        if int(self.chain.token_allowance(token, self.address, spender)) < amount:
            self.chain.send(self, _TOKEN, token, "approve", spender, amount)
        return action()

    def mint(self, token: str, address: str, amount: int) -> Receipt:
        """Make devnet tokens for an address."""
        return self.chain.send(self, _TOKEN, token, "mint", address, amount)

    def fund_on_devnet(self, token: str, amount: int) -> None:
        """Mint what is missing to `amount` of a devnet's token; elsewhere do nothing."""
        deployment = self.chain.deployment
        if deployment.chain_id in LOCAL_CHAINS and token == deployment.token:
            missing = amount - self.chain.token_balance(token, self.address)
            if missing > 0:
                self.mint(token, self.address, missing)

    def open_project(self, params: Params) -> bytes:
        """Fund a project and return its id."""
        receipt = self._with_tokens(
            params.token, params.escrow, lambda: self._do("openProject", params.abi())
        )
        opened = next(event for event in receipt.events if event.name == "ProjectOpened")
        return bytes(opened.values["project"])

    def close_project(self, project: bytes) -> Receipt:
        """Turn what no round can claim into the sponsor's credit."""
        return self._do("closeProject", project)

    def post_bond(self, project: bytes, params: Params) -> Receipt:
        """Deposit the aggregator's bond."""
        return self._with_tokens(params.token, params.bond, lambda: self._do("postBond", project))

    def join(self, project: bytes, params: Params, encryption_key: bytes = bytes(32)) -> Receipt:
        """Deposit the stake and become an active trainer."""
        return self._with_tokens(
            params.token, params.stake, lambda: self._do("join", project, encryption_key)
        )

    def commit(
        self, project: bytes, round_number: int, digest: bytes, spent_milli: int = 0
    ) -> Receipt:
        """Commit to an update; in a project with a budget say the privacy spent with it."""
        if spent_milli:
            return self.commit_spending(
                project, round_number, self.address, digest, spent_milli, b""
            )
        return self._do("commit", project, round_number, digest)

    def commit_spending(
        self,
        project: bytes,
        round_number: int,
        trainer: str,
        digest: bytes,
        spent_milli: int,
        signature: bytes,
    ) -> Receipt:
        """Commit for a trainer who signed (`sign_commit`), or for oneself without a signature."""
        return self._do(
            "commitSpending", project, round_number, trainer, digest, spent_milli, signature
        )

    def commit_for(
        self,
        project: bytes,
        round_number: int,
        trainers: Sequence[str],
        digests: Sequence[bytes],
        signatures: Sequence[bytes],
    ) -> Receipt:
        """Commit for trainers who signed (`sign_commit`)."""
        return self._do("commitFor", project, round_number, trainers, digests, signatures)

    def reveal(self, project: bytes, reveal: Reveal) -> Receipt:
        """Reveal what was committed to."""
        words = [reveal.point[i : i + 32] for i in range(0, 96, 32)]
        return self._do("reveal", project, words, reveal.cid)

    def close_commits(self, project: bytes, round_number: int) -> Receipt:
        """End the commit window, and count the commits."""
        return self._do("closeCommits", project, round_number)

    def settle(
        self,
        project: bytes,
        round_number: int,
        reveals: Sequence[Reveal],
        exclusions: bytes,
        gram: bytes,
        proof: bytes,
        model_cid: bytes,
    ) -> Receipt:
        """Settle a round."""
        trainers = [reveal.trainer for reveal in reveals]
        points = b"".join(reveal.point for reveal in reveals)
        return self._do(
            "settle", project, round_number, trainers, points, exclusions, gram, proof, model_cid
        )

    def expire_round(self, project: bytes, round_number: int, reveals: Sequence[Reveal]) -> Receipt:
        """End a round that nobody settled."""
        trainers = [reveal.trainer for reveal in reveals]
        points = b"".join(reveal.point for reveal in reveals)
        return self._do("expireRound", project, round_number, trainers, points)

    def deactivate(self, project: bytes, trainer: str) -> Receipt:
        """Deactivate a trainer that missed too many rounds."""
        return self._do("deactivate", project, trainer)

    def leave(self, project: bytes) -> Receipt:
        """Stop taking part."""
        return self._do("leave", project)

    def release_stake(self, project: bytes, trainer: str) -> Receipt:
        """Turn a trainer's free stake into credit."""
        return self._do("releaseStake", project, trainer)

    def withdraw(self, project: bytes) -> int:
        """Take the account's credit and return how much it was."""
        receipt = self._do("withdraw", project)
        withdrawn = next(event for event in receipt.events if event.name == "Withdrawn")
        return int(withdrawn.values["amount"])
