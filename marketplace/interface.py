"""Speak the contracts' language: encode calls, decode events and refusals, hash as they do. Pure.

Covered: the ABI of the marketplace, its token and verifiers; the names of Solidity's errors with
what to do about them. Not covered: asking a chain (`marketplace.chain`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from eth_abi.abi import encode
from eth_abi.codec import ABIDecoder
from eth_abi.decoding import AddressDecoder
from eth_abi.exceptions import DecodingError
from eth_abi.registry import BaseEquals, registry
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from contracts import abi
from marketplace.errors import ContractError
from marketplace.types import Deployment, Params, Reveal, Status

__all__ = [
    "MARKETPLACE",
    "TOKEN",
    "VERIFIER",
    "Event",
    "Interface",
    "commit_digest",
    "decode",
    "decode_refusal",
    "encode_call",
    "project_id",
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


@dataclass(frozen=True)
class Event:
    """Hold a decoded event and where it is in the chain."""

    name: str
    values: Mapping[str, Any]
    block: int
    transaction: str
    index: int


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


class Interface:
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
        """Return a call's data in hexadecimal digits."""
        entry = self.functions[function]
        data = encode(get_abi_input_types(entry), arguments)
        return "0x" + bytes(function_abi_to_4byte_selector(entry)).hex() + data.hex()

    def arguments(self, function: str, data: bytes) -> Sequence[Any] | None:
        """Return the arguments in a call's data; None where it is no call of this function."""
        entry = self.functions[function]
        if data[:4] != bytes(function_abi_to_4byte_selector(entry)):
            return None
        try:
            return decode(get_abi_input_types(entry), data[4:])
        except DecodingError:
            return None

    def decode(self, function: str, data: bytes) -> Any:
        """Return what a function returned: a value, or several."""
        values = decode(get_abi_output_types(self.functions[function]), data)
        return values[0] if len(values) == 1 else values

    def event(self, log: Mapping[str, Any]) -> Event | None:
        """Return what a log says; None where it is no event of this contract."""
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


MARKETPLACE = Interface("Marketplace")
TOKEN = Interface("TestToken")
VERIFIER = Interface("IGramVerifier")
_ERRORS: dict[bytes, Any] = {
    **Interface("IScoringRule").errors,
    **TOKEN.errors,
    **MARKETPLACE.errors,
}
_PANICS = {0x11: "arithmetic overflow", 0x12: "division by zero", 0x32: "index out of bounds"}


def encode_call(function: str, *arguments: Any) -> str:
    """Return the data of a call of the marketplace, or of its token where only that has it."""
    interface = MARKETPLACE if function in MARKETPLACE.functions else TOKEN
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


def commit_digest(project: bytes, round_number: int, reveal: Reveal) -> bytes:
    """Return what a trainer commits to, 28 bytes; mirrors `IMarketplace.commitDigest`."""
    words = [reveal.point[i : i + 32] for i in range(0, 96, 32)]
    types = ["bytes32", "uint32", "address", "bytes32[3]", "bytes32"]
    packed = encode(types, [project, round_number, reveal.trainer, words, reveal.cid])
    return bytes(keccak(packed)[:28])


def project_id(deployment: Deployment, sponsor: str, nonce: int, params: Params) -> bytes:
    """Return the id of a project that the sponsor opens after `nonce` others.

    Mirrors `IMarketplace.openProject`.
    """
    (terms,) = get_abi_input_types(MARKETPLACE.functions["openProject"])
    types = ["uint256", "address", "address", "uint256", terms]
    values = [deployment.chain_id, deployment.marketplace, sponsor, nonce, params.abi()]
    return bytes(keccak(encode(types, values)))
