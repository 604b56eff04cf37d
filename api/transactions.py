"""Prepare what a wallet must sign: unsigned transactions and messages. No key is here.

Every transaction is tried against the chain first, so that a refusal is told before anybody pays
for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eth_utils.address import to_checksum_address

from api.errors import BadRequestError, ChainDownError, RefusedError
from api.queries import hexed
from api.terms import CommitTerms, OpenTerms, Transactions, TypedData, UnsignedTransaction
from ipfs import Cid, IpfsError
from marketplace.chain import Chain
from marketplace.errors import ChainError, ContractError
from marketplace.interface import encode_call, project_id
from marketplace.scoring import DEFAULT_PARAMS, default_rule
from marketplace.signer import commit_message
from marketplace.types import NOBODY, Deployment, Params
from marketplace.wallet import LOCAL_CHAINS

__all__ = [
    "bond",
    "close",
    "commit_typed_data",
    "expire",
    "join",
    "leave",
    "open_project",
    "release",
    "withdraw",
]

log = logging.getLogger(__name__)

_TIP = 10**9


@dataclass(frozen=True)
class _Call:
    purpose: str
    to: str
    data: str


def join(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what makes an account a trainer: the approval where it is missing, then `join`."""
    found, params = _params(chain, project)
    call = _marketplace(chain, "join", found, bytes(32))
    return _paid(chain, sender, params.token, params.stake, call, project)


def bond(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what deposits the aggregator's bond."""
    found, params = _params(chain, project)
    call = _marketplace(chain, "postBond", found)
    return _paid(chain, sender, params.token, params.bond, call, project)


def withdraw(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what pays an account's credit."""
    call = _marketplace(chain, "withdraw", bytes.fromhex(project[2:]))
    return _prepared(chain, sender, [call], project)


def leave(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what ends an account's part as a trainer."""
    call = _marketplace(chain, "leave", bytes.fromhex(project[2:]))
    return _prepared(chain, sender, [call], project)


def release(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what turns the free stake of a trainer who left into its credit."""
    trainer = to_checksum_address(sender)
    call = _marketplace(chain, "releaseStake", bytes.fromhex(project[2:]), trainer)
    return _prepared(chain, sender, [call], project)


def close(chain: Chain, sender: str, project: str) -> Transactions:
    """Return what closes a project and turns what is left in escrow into the sponsor's credit."""
    call = _marketplace(chain, "closeProject", bytes.fromhex(project[2:]))
    return _prepared(chain, sender, [call], project)


def expire(
    chain: Chain, sender: str, project: str, round_number: int, reveals: Sequence[tuple[str, bytes]]
) -> Transactions:
    """Return what ends a round that nobody settled in time; `reveals` are trainers and points."""
    trainers, points = [trainer for trainer, _ in reveals], b"".join(point for _, point in reveals)
    found = bytes.fromhex(project[2:])
    call = _marketplace(chain, "expireRound", found, round_number, trainers, points)
    return _prepared(chain, sender, [call], project)


def open_project(chain: Chain, terms: OpenTerms, opened: int) -> Transactions:
    """Return what funds and opens a project; the sponsor has `opened` so many before."""
    deployment = chain.deployment
    try:
        description = Cid.parse(terms.description_cid).digest
    except IpfsError as error:
        raise BadRequestError(f"description_cid: {error}") from error
    schedule = terms.slash_schedule + terms.slash_schedule[-1:] * (16 - len(terms.slash_schedule))
    rule = terms.rule or default_rule(terms.min_updates, terms.capacity, terms.root is not None)
    params = Params(
        token=to_checksum_address(terms.token or deployment.token),
        aggregator=to_checksum_address(terms.aggregator),
        rule=_named(deployment.rules, rule, "rule"),
        verifier=_named(deployment.verifiers, terms.verifier, "verifier"),
        slash_sink=to_checksum_address(terms.slash_sink),
        rounds=terms.rounds,
        capacity=terms.capacity,
        min_updates=terms.min_updates,
        patience=terms.patience,
        max_failures=terms.max_failures,
        step_bits=terms.step_bits,
        dimension=terms.dimension,
        epsilon_milli=terms.epsilon_milli,
        clip_norm=terms.clip_norm,
        root=to_checksum_address(terms.root or NOBODY),
        reward=int(terms.reward),
        fee=int(terms.fee),
        stake=int(terms.stake),
        bond=int(terms.bond),
        bond_penalty=int(terms.bond_penalty),
        join_window=terms.join_window,
        commit_window=terms.commit_window,
        reveal_window=terms.reveal_window,
        settle_window=terms.settle_window,
        exclusive_window=terms.exclusive_window,
        unbonding_delay=terms.unbonding_delay,
        rule_params=bytes.fromhex(terms.rule_params[2:])
        if terms.rule_params
        else DEFAULT_PARAMS.get(rule, bytes(32)),
        slash_bps=b"".join(bps.to_bytes(2, "big") for bps in schedule),
        description_cid=description,
        initial_commitment=bytes.fromhex(terms.initial_commitment[2:]),
    )
    limit = (1 << 96) - 1
    for name in ("reward", "fee", "stake", "bond", "bond_penalty"):
        if getattr(params, name) > limit:
            raise BadRequestError(f"{name} {getattr(params, name)} is above 2^96 - 1 units")
    if params.escrow > limit:
        raise BadRequestError(f"rounds × (reward + fee) is {params.escrow}, above 2^96 - 1 units")
    call = _marketplace(chain, "openProject", params.abi())
    project = project_id(deployment, to_checksum_address(terms.sender), opened, params)
    return _paid(chain, terms.sender, params.token, params.escrow, call, hexed(project))


def commit_typed_data(deployment: Deployment, terms: CommitTerms) -> TypedData:
    """Return the message with which a trainer lets a relayer commit for it."""
    domain, types, message = commit_message(
        deployment,
        bytes.fromhex(terms.project[2:]),
        terms.round,
        terms.trainer,
        bytes.fromhex(terms.digest[2:]),
        terms.epsilon_milli,
    )
    (primary,) = types
    shown = {
        name: "0x" + value.hex() if isinstance(value, bytes) else value
        for name, value in message.items()
    }
    head = [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ]
    return TypedData(
        types={"EIP712Domain": head, **types}, primaryType=primary, domain=domain, message=shown
    )


def _named(addresses: Any, name: str, kind: str) -> str:
    if name not in addresses:
        known = ", ".join(sorted(addresses)) or "none"
        raise BadRequestError(f"no {kind} named {name[:64]!r} is deployed here; known: {known}")
    return str(addresses[name])


def _marketplace(chain: Chain, function: str, *arguments: Any) -> _Call:
    data = encode_call(function, *arguments)
    return _Call(function, chain.deployment.marketplace, data)


def _params(chain: Chain, project: str) -> tuple[bytes, Params]:
    found = bytes.fromhex(project[2:])
    return found, _told(lambda: chain.params(found))


def _told(read: Callable[[], Any]) -> Any:
    """Return what the chain says; its refusals and silences as answers of the API."""
    try:
        return read()
    except ContractError as error:
        raise RefusedError(str(error)) from error
    except ChainError as error:
        raise _silent(error) from error


def _silent(error: ChainError) -> ChainDownError:
    # The error's own words name the endpoint, whose address may hold a key.
    log.warning("the chain was asked in vain: %s", error)
    return ChainDownError("the chain did not answer; try again soon, /v1/status says how it is")


def _paid(
    chain: Chain, sender: str, token: str, amount: int, call: _Call, project: str
) -> Transactions:
    """Put an approval in front where the allowance is short, and on a devnet free tokens."""
    sender, spender = to_checksum_address(sender), chain.deployment.marketplace
    _try(chain, sender, call)
    held = _told(lambda: chain.token_balance(token, sender))
    calls = []
    if held < amount:
        local = chain.deployment.chain_id in LOCAL_CHAINS and token == chain.deployment.token
        if not local:
            raise RefusedError(
                f"{sender} holds {held} units of the token {token}; {amount} are needed"
            )
        calls.append(_Call("mint", token, encode_call("mint", sender, amount - held)))
    if _told(lambda: chain.token_allowance(token, sender, spender)) < amount:
        calls.append(_Call("approve", token, encode_call("approve", spender, amount)))
    return _prepared(chain, sender, [*calls, call], project)


def _try(chain: Chain, sender: str, call: _Call) -> None:
    """Raise RefusedError where the marketplace refuses for another reason than missing money.

    The marketplace takes money last, so that whatever the token says comes after its own checks.
    """
    try:
        chain.request("eth_call", [{"from": sender, "to": call.to, "data": call.data}, "latest"])
    except ContractError as error:
        if not error.name.startswith(("ERC20", "SafeERC20", "UnknownRevert", "Error")):
            raise RefusedError(str(error)) from error
    except ChainError as error:
        raise _silent(error) from error


def _prepared(chain: Chain, sender: str, calls: Sequence[_Call], project: str) -> Transactions:
    sender = to_checksum_address(sender)
    head = _told(lambda: chain.request("eth_getBlockByNumber", ["latest", False]))
    count = _told(lambda: chain.request("eth_getTransactionCount", [sender, "pending"]))
    fee = 2 * int(head.get("baseFeePerGas", "0x0"), 16) + _TIP
    found = []
    for k, call in enumerate(calls):
        gas = None
        if k == 0:
            plan = {"from": sender, "to": call.to, "data": call.data}
            estimate = _told(partial(chain.request, "eth_estimateGas", [plan]))
            gas = hex(int(estimate, 16) * 5 // 4 + 10_000)
        found.append(
            UnsignedTransaction(
                purpose=call.purpose,
                type="0x2",
                chainId=hex(chain.deployment.chain_id),
                from_=sender,
                to=call.to,
                value="0x0",
                data=call.data,
                gas=gas,
                nonce=hex(int(count, 16) + k),
                maxFeePerGas=hex(fee),
                maxPriorityFeePerGas=hex(_TIP),
            )
        )
    return Transactions(transactions=found, project=project)
