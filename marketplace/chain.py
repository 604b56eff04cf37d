"""Talk to the marketplace over JSON-RPC: read, send, wait, and explain refusals.

Covered: receipts within a time limit; reverts as `ContractError` by the name of the Solidity
error; retries while the endpoint is down or slow. Not covered: keys and nonces
(`marketplace.signer`), what the events of a project add up to (`marketplace.history`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import requests

from marketplace.errors import ChainError, ContractError, InputError, LostError, NotFoundError
from marketplace.interface import MARKETPLACE, TOKEN, VERIFIER, Event, Interface, decode_refusal
from marketplace.types import Account, Deployment, Params, State

if TYPE_CHECKING:
    from marketplace.signer import Signer

__all__ = ["Block", "Chain", "Receipt", "SettleCall"]

_LOG_SPAN = 5_000
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0
_RECEIPT_PAUSE_S = 0.5


@dataclass(frozen=True)
class Block:
    """Name a block; `timestamp` is the chain's clock, in unix seconds."""

    number: int
    hash: str
    timestamp: int


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
        # Half a second, which commands that ask no chain need not spend.
        from web3 import HTTPProvider

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
                answer = self._provider.make_request(cast(Any, method), params)
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
        self, interface: Interface, to: str, function: str, *arguments: Any, block: str = "latest"
    ) -> Any:
        data = interface.encode(function, arguments)
        result = self.request("eth_call", [{"to": to, "data": data}, block])
        return interface.decode(function, bytes.fromhex(result[2:]))

    def _view(self, function: str, *arguments: Any, block: int | None = None) -> Any:
        tag = "latest" if block is None else hex(block)
        return self._call(MARKETPLACE, self.deployment.marketplace, function, *arguments, block=tag)

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
        arguments = MARKETPLACE.arguments("settle", data)
        return None if arguments is None else SettleCall(*arguments)

    def trainers(self, project: bytes) -> tuple[str, ...]:
        """Return a project's active trainers."""
        return tuple(self._view("trainers", project))

    def srs_id(self, verifier: str) -> bytes:
        """Return the identity of the reference string that a verifier takes proofs under."""
        return bytes(self._call(VERIFIER, verifier, "srsId"))

    def token_balance(self, token: str, address: str) -> int:
        """Return an address's tokens, in the smallest unit."""
        return int(self._call(TOKEN, token, "balanceOf", address))

    def token_allowance(self, token: str, owner: str, spender: str) -> int:
        """Return how many of the owner's tokens the spender may take."""
        return int(self._call(TOKEN, token, "allowance", owner, spender))

    def token_decimals(self, token: str) -> int:
        """Return how many decimals a token is shown with."""
        return int(self._call(TOKEN, token, "decimals"))

    def token_symbol(self, token: str) -> str:
        """Return what a token calls itself."""
        return str(self._call(TOKEN, token, "symbol"))

    def events(
        self, project: bytes | None, first: int, last: int, names: Sequence[str] = ()
    ) -> Iterator[Event]:
        """Give the marketplace's events from block `first` to `last`, of one project or all.

        `names` limits them to some kinds.
        """
        kinds = [
            "0x" + topic.hex()
            for topic, entry in MARKETPLACE.events.items()
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
                event = MARKETPLACE.event(log)
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
        self, signer: Signer, interface: Interface, to: str, function: str, *arguments: Any
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
        events = [MARKETPLACE.event(log) for log in found["logs"]]
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
