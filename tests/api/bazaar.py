"""Play markets on a real chain quickly: the contract's part is real, the learning is left out.

Updates are short random vectors, points are random bytes (the attested verifier does not look into
them), so that hundreds of transactions take seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from eth_account.messages import encode_typed_data
from numpy.typing import NDArray
from web3 import Web3

from deploy.deployment import deploy, ensure_srs
from marketplace.chain import Chain, Receipt
from marketplace.codec import gram, pack_gram
from marketplace.errors import ContractError
from marketplace.interface import commit_digest
from marketplace.scoring import MultiKrumParams
from marketplace.signer import Signer
from marketplace.types import NOBODY, Deployment, Params, Reveal, Status
from marketplace.wallet import dev_account

SPONSOR, AGGREGATOR, SINK, STRANGER, FIRST_TRAINER = 0, 1, 2, 3, 10
DIMENSION = 8
GONE = (
    "AlreadyJoined",
    "NothingToWithdraw",
    "NotTrainer",
    "ProjectFull",
    "StillUnbonding",
    "TooFewMissed",
    "WrongStatus",
)
"""Refusals that a random walk may meet."""


@dataclass
class Update:
    """Hold what a trainer will reveal."""

    reveal: Reveal
    values: NDArray[np.int16]


class Bazaar:
    """Deploy a marketplace and act in it as anybody."""

    def __init__(self, rpc: str, home: Path, seed: int = 0) -> None:
        self.rpc = rpc
        self.home = home
        self.random = random.Random(seed)
        srs = ensure_srs(home, 64)
        self.deployment: Deployment = deploy(rpc, dev_account(SPONSOR), home, srs)
        self.chain = Chain.open(self.deployment)
        self._signers: dict[int, Signer] = {}
        self.projects: list[bytes] = []

    def signer(self, number: int) -> Signer:
        """Return a devnet account with tokens."""
        if number not in self._signers:
            signer = Signer(self.chain, dev_account(number))
            self._signers[number] = signer
            signer.mint(self.deployment.token, signer.address, 10**24)
        return self._signers[number]

    def forget_nonces(self) -> None:
        """Count nonces anew after the chain went back."""
        self._signers = {
            number: Signer(self.chain, signer.account) for number, signer in self._signers.items()
        }

    def wait(self, seconds: int) -> None:
        """Let the chain's clock run ahead."""
        self.chain.request("evm_increaseTime", [seconds])
        self.chain.request("evm_mine", [])

    # ---------------------------------------------------------------- projects

    def params(self, **changes: object) -> Params:
        """Return terms with strikes that cost 50 % and then all of the stake."""
        address = dev_account
        params = Params(
            token=self.deployment.token,
            aggregator=address(AGGREGATOR).address,
            rule=self.deployment.rules["MultiKrumShapley"],
            verifier=self.deployment.verifiers["AttestedGram"],
            slash_sink=address(SINK).address,
            rounds=3,
            capacity=7,
            min_updates=2,
            patience=1,
            max_failures=2,
            step_bits=14,
            dimension=DIMENSION,
            epsilon_milli=0,
            clip_norm=1 << 20,
            root=NOBODY,
            reward=1_000_003,
            fee=777,
            stake=10_001,
            bond=5_000,
            bond_penalty=1_999,
            join_window=600,
            commit_window=300,
            reveal_window=200,
            settle_window=400,
            exclusive_window=100,
            unbonding_delay=1_000,
            rule_params=MultiKrumParams().pack(),
            slash_bps=(5_000).to_bytes(2, "big") + (10_000).to_bytes(2, "big") * 15,
            description_cid=self.random.randbytes(32),
            initial_commitment=self.random.randbytes(96),
        )
        return replace(params, **changes)  # type: ignore[arg-type]

    def open(self, **changes: object) -> bytes:
        """Open a project."""
        project = self.signer(SPONSOR).open_project(self.params(**changes))
        self.projects.append(project)
        return project

    def start(self, trainers: Iterable[int], **changes: object) -> bytes:
        """Open a project, post the bond and let trainers join."""
        project = self.open(**changes)
        params = self.chain.params(project)
        self.signer(AGGREGATOR).post_bond(project, params)
        for number in trainers:
            self.signer(number).join(project, params)
        return project

    # ------------------------------------------------------------------ rounds

    def update(self, number: int, hostile: bool = False) -> Update:
        """Return an update: a common direction and noise, or far off against it."""
        noise = [self.random.randint(-20, 20) for _ in range(DIMENSION)]
        values = np.array([100 + part for part in noise], dtype=np.int16)
        point, cid = self.random.randbytes(96), self.random.randbytes(32)
        reveal = Reveal(self.signer(number).address, point, cid)
        return Update(reveal, -values if hostile else values)

    def commit(self, project: bytes, number: int, update: Update) -> None:
        """Commit to an update in the current round."""
        round_number = self.chain.state(project).round
        digest = commit_digest(project, round_number, update.reveal)
        self.signer(number).commit(project, round_number, digest)

    def settle(self, project: bytes, updates: Sequence[Update], exclusions: bytes = b"") -> Receipt:
        """Settle the current round with the true matrix, signed by the aggregator."""
        state = self.chain.state(project)
        reasons = exclusions or bytes(len(updates))
        kept = [found for found, reason in zip(updates, reasons, strict=True) if not reason]
        packed = pack_gram(gram(np.array([found.values for found in kept])))
        points = b"".join(found.reveal.point for found in kept)
        return self.signer(AGGREGATOR).settle(
            project,
            state.round,
            [found.reveal for found in updates],
            exclusions,
            packed,
            self._attest(project, state.round, points, packed),
            self.random.randbytes(32),
        )

    def _attest(self, project: bytes, round_number: int, points: bytes, packed: bytes) -> bytes:
        message = encode_typed_data(
            {
                "name": "Tribute AttestedGram",
                "version": "1",
                "chainId": self.deployment.chain_id,
                "verifyingContract": self.deployment.verifiers["AttestedGram"],
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
                "marketplace": self.deployment.marketplace,
                "project": project,
                "round": round_number,
                "pointsHash": Web3.keccak(points),
                "gramHash": Web3.keccak(packed),
            },
        )
        return bytes(self.signer(AGGREGATOR).account.sign_message(message).signature)

    def numbers(self, project: bytes) -> list[int]:
        """Return the account numbers of the active trainers."""
        known = {dev_account(number).address: number for number in self._signers}
        return [known[address] for address in self.chain.trainers(project)]

    def play(
        self,
        project: bytes,
        committing: Iterable[int],
        revealing: Iterable[int] | None = None,
        hostile: Iterable[int] = (),
        exclusions: bytes = b"",
        outcome: str = "settle",
    ) -> None:
        """Play the current round; `outcome` is settle, expire (silently) or nothing."""
        state = self.chain.state(project)
        now = self.chain.head().timestamp
        if now < state.opens_at:
            self.wait(state.opens_at - now)
        committed = {number: self.update(number, number in set(hostile)) for number in committing}
        for number, update in committed.items():
            self.commit(project, number, update)
        awaited = self.chain.state(project).active
        if self.chain.params(project).root_trainer is not None:
            awaited += 1
        everybody = len(committed) == awaited
        if not everybody:
            self.wait(self.chain.params(project).commit_window)
        if committed:
            self.signer(STRANGER).close_commits(project, state.round)
        revealed = [committed[number] for number in (committed if revealing is None else revealing)]
        for update in revealed:
            number = next(n for n, found in committed.items() if found is update)
            self.signer(number).reveal(project, update.reveal)
        if outcome == "settle":
            if len(revealed) < len(committed):
                self.wait(self.chain.params(project).reveal_window)
            self.settle(project, revealed, exclusions)
        elif outcome == "expire":
            late = self.chain.state(project)
            self.wait(late.settle_end - self.chain.head().timestamp)
            reveals = [update.reveal for update in revealed]
            self.signer(STRANGER).expire_round(project, state.round, reveals)

    def roam(self, steps: int) -> None:
        """Act at random: join, leave, release, deactivate, withdraw, close, and whole rounds."""
        crowd = range(FIRST_TRAINER, FIRST_TRAINER + 8)
        for _ in range(steps):
            project = self.random.choice(self.projects)
            number = self.random.choice(crowd)
            try:
                match self.random.randrange(8):
                    case 0:
                        self.signer(number).join(project, self.chain.params(project))
                    case 1:
                        self.signer(number).leave(project)
                    case 2:
                        self.signer(STRANGER).release_stake(project, self.signer(number).address)
                    case 3:
                        self.signer(STRANGER).deactivate(project, self.signer(number).address)
                    case 4:
                        actor = self.random.choice([number, AGGREGATOR, SINK, SPONSOR])
                        self.signer(actor).withdraw(project)
                    case 5:
                        self.wait(self.random.choice([1, 500]))
                    case _:
                        self.play_at_random(project)
            except ContractError as error:
                if error.name not in GONE:
                    raise

    def play_at_random(self, project: bytes) -> None:
        """Play a round in which some are absent, hostile, silent or left out."""
        if self.chain.state(project).status != Status.RUNNING:
            if self.random.random() < 0.3:
                self.signer(SPONSOR).close_project(project)
            return
        state = self.chain.state(project)
        now = self.chain.head().timestamp
        if not state.opens_at <= now < state.commit_end:
            if now < state.opens_at:
                return
            self.wait(max(0, state.reveal_end - now))
            self.signer(STRANGER).expire_round(project, state.round, [])
            return
        active = self.numbers(project)
        committing = [n for n in active if self.random.random() < 0.85]
        revealing = [n for n in committing if self.random.random() < 0.9]
        hostile = [n for n in active[:2] if self.random.random() < 0.6]
        if len(revealing) < self.chain.params(project).min_updates:
            self.play(project, committing, [], outcome="nothing")
            late = self.chain.state(project)
            self.wait(max(0, late.reveal_end - self.chain.head().timestamp))
            self.signer(STRANGER).expire_round(project, state.round, [])
            return
        outcome = "expire" if self.random.random() < 0.15 else "settle"
        exclusions = b""
        if self.random.random() < 0.3:
            exclusions = bytes(self.random.choice([0, 0, 1, 3]) for _ in revealing)
            if not any(exclusions):
                exclusions = b""
        self.play(project, committing, revealing, hostile, exclusions, outcome)
