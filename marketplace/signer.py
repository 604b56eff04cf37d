"""Act as an account: sign transactions and messages, one after the other.

Covered: one counter of nonces and one lock an account; local signing; several processes that act
for one account. Not covered: where keys come from (`marketplace.wallet`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eth_utils.crypto import keccak

from marketplace.chain import Chain, Receipt
from marketplace.errors import ChainError, InputError
from marketplace.interface import MARKETPLACE, TOKEN
from marketplace.types import Deployment, Params, Reveal
from marketplace.wallet import LOCAL_CHAINS

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage
    from eth_account.signers.local import LocalAccount

__all__ = ["Signer", "attested_claim", "commit_message", "sign_commit"]

_NONCE_TAKEN = ("nonce too low", "replacement transaction underpriced")
_NONCE_TRIES = 16


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
    from eth_account.messages import encode_typed_data

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
    from eth_account.messages import encode_typed_data

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
            "pointsHash": keccak(b"".join(points)),
            "gramHash": keccak(gram),
        },
    )


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
            self, MARKETPLACE, self.chain.deployment.marketplace, function, *arguments
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
            self.chain.send(self, TOKEN, token, "approve", spender, amount)
        return action()

    def mint(self, token: str, address: str, amount: int) -> Receipt:
        """Make devnet tokens for an address."""
        return self.chain.send(self, TOKEN, token, "mint", address, amount)

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
