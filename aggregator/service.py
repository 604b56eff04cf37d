"""Run an aggregator: post the bond, close windows, fetch updates, settle, expire.

The service is a state machine over the chain: `step` looks and does at most one thing. It keeps
nothing of its own: all that it needs after a restart is on the chain and in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from ipfs import Cid
from ipfs.errors import IpfsError
from ipfs.reader import reader
from ipfs.store import Store
from marketplace.aggregate import Outcome, aggregate
from marketplace.codec import MODEL_FILE, Update, encode_model, file_limit
from marketplace.errors import CodecError, ContractError, InputError, LostError
from marketplace.history import ProjectView, fetch_update
from marketplace.keeping import pin_name
from marketplace.payout import decode_records
from marketplace.proof.prover import prove
from marketplace.proof.shards import Shards
from marketplace.proof.srs import Progress, Srs
from marketplace.proof.transcript import MASK_COEFFICIENTS, round_context
from marketplace.sealing import Opener, encryption_key
from marketplace.signer import Signer, attested_claim
from marketplace.types import Exclusion, Reveal, Status

__all__ = ["AggregatorService"]

_MANIFEST_ROOM = 1 << 18
"""Bytes of an update's manifest, its folder and the inner nodes of its file, with some to spare."""

Notify = Callable[[str, int, str], None]
"""Hear what the service does: stage, round, words for people."""

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Show how far something long is, from entering to leaving; its argument says what it is."""


@dataclass
class _Fetched:
    """Hold the updates of one round as they come in; a reorganisation may order them anew."""

    round: int
    found: dict[Reveal, Update | Exclusion] = field(default_factory=dict)
    asked_s: dict[Reveal, float] = field(default_factory=dict)


class AggregatorService:
    """Settle the rounds of one project.

    An update that cannot be fetched `grace_s` after it was first asked for is excluded, if the
    account is the project's named aggregator. Anybody else settles after the exclusive window, and
    earns the fee, where every update can be used. `shards` has the processes that proofs are made
    with.
    """

    def __init__(
        self,
        view: ProjectView,
        signer: Signer,
        store: Store,
        srs: Srs,
        grace_s: float = 30.0,
        notify: Notify | None = None,
        shards: Shards | None = None,
        bar: Bar | None = None,
    ) -> None:
        deployment = view.chain.deployment
        private = encryption_key(signer.account, deployment)
        view.opener = Opener(deployment.chain_id, view.project, private)
        self.view = view
        self.signer = signer
        self.store = store
        self.srs = srs
        self.grace_s = grace_s
        self._notify = notify
        self._shards = shards or Shards(srs)
        self._bar = bar
        self._waiting = (0, "")
        self.rule = deployment.rule_name(view.params.rule)
        self.verifier = deployment.verifier_name(view.params.verifier)
        self.named = signer.address == view.params.aggregator
        self._read = reader(store, timeout_s=grace_s)
        self._fetched = _Fetched(0)
        if srs.size < view.params.dimension + MASK_COEFFICIENTS:
            raise InputError(
                f"the reference string has {srs.size} powers; a model of "
                f"{view.params.dimension} parameters takes "
                f"{view.params.dimension + MASK_COEFFICIENTS}"
            )
        view.check_srs(srs)
        if not self.named and self.verifier == "AttestedGram":
            raise InputError(
                f"the verifier AttestedGram takes the signature of {view.params.aggregator} alone; "
                "nobody else can settle this project"
            )

    def step(self) -> bool:
        """Look at the chain, do what is due, and return whether anything was."""
        fresh = self.view.refresh()
        state = self.view.state
        try:
            if state.status == Status.BONDING and self.named:
                self.signer.post_bond(self.view.project, self.view.params)
                self._say("bonded", 0, "bond posted")
                return True
            return state.status == Status.RUNNING and self._step_round(fresh)
        except LostError:
            # What is due is due again; the next look shows what.
            return False
        except ContractError as error:
            # Somebody else was faster, or a block moved the clock; the next look shows.
            if error.name in ("WrongRound", "TooLate", "TooEarly", "CommitsMissing", "WrongStatus"):
                return False
            raise

    def _step_round(self, fresh: bool) -> bool:
        view, state = self.view, self.view.state
        now, found = view.block.timestamp, view.round
        if now < state.opens_at:
            return False
        if not state.commits:
            root = view.params.root_trainer
            awaited = set(view.history.active) | ({root} if root else set())
            everybody = set(found.committed) >= awaited != set()
            if everybody or (found.committed and now >= state.commit_end):
                self.signer.close_commits(view.project, found.number)
                self._say("commits closed", found.number, f"{len(found.committed)} commits")
                return True
            if now < state.commit_end:
                return fresh and self._deactivate_absent()
        complete = state.commits != 0 and state.reveals == state.commits
        if state.reveals >= view.params.min_updates and now < state.settle_end:
            fetched = self._fetch()
            mine = self.named or now >= state.reveal_end + view.params.exclusive_window
            if not fetched or not (complete or now >= state.reveal_end):
                return False
            if mine:
                return self._settle()
            alone = state.reveal_end + view.params.exclusive_window - now
            self._wait(f"only the aggregator may settle, for {alone} s")
            return False
        if now >= (
            state.settle_end if state.reveals >= view.params.min_updates else state.reveal_end
        ):
            self.signer.expire_round(view.project, found.number, found.reveals)
            self._say("expired", found.number, "round closed without pay")
            return True
        return False

    def _deactivate_absent(self) -> bool:
        view = self.view
        number = view.state.round
        for trainer in view.history.active:
            if trainer in view.round.committed:
                continue
            last = self.view.chain.account(view.project, trainer).last_commit
            if number - 1 - last > view.params.patience:
                self.signer.deactivate(view.project, trainer)
                self._say("deactivated", number, trainer)
                return True
        return False

    # ------------------------------------------------------------------- round

    def _fetch(self) -> bool:
        """Read what was revealed so far; return whether nothing is outstanding."""
        found = self.view.round
        if self._fetched.round != found.number:
            self._fetched = _Fetched(found.number)
        for reveal in found.reveals:
            if reveal not in self._fetched.found:
                update = self._fetch_one(reveal)
                if update is not None:
                    self._fetched.found[reveal] = update
                    self._say("fetched", found.number, f"{len(self._fetched.found)} updates")
        return all(reveal in self._fetched.found for reveal in found.reveals)

    def _fetch_one(self, reveal: Reveal) -> Update | Exclusion | None:
        asked = self._fetched.asked_s.setdefault(reveal, time.monotonic())
        try:
            number, view = self.view.round.number, self.view
            update = fetch_update(self._read, reveal, view.params.dimension, number, view.opener)
            self._keep(reveal, number)
            return update
        except CodecError:
            return Exclusion.MALFORMED
        except IpfsError as error:
            if error.exit_code == 6:
                return Exclusion.MALFORMED
            return Exclusion.UNAVAILABLE if time.monotonic() - asked >= self.grace_s else None

    def _keep(self, reveal: Reveal, number: int) -> None:
        """Keep an update for whoever checks the round; nothing else that its folder may hold."""
        limit = 2 * file_limit(self.view.params.dimension, 2) + _MANIFEST_ROOM
        name = pin_name(self.view.project, number)
        try:
            self.store.pin(
                Cid.from_digest(reveal.cid), name, timeout_s=self.grace_s, max_bytes=limit
            )
        except IpfsError as error:
            self._say("not kept", number, f"update of {reveal.trainer}: {error}")

    def _settle(self) -> bool:
        view, found = self.view, self.view.round
        updates = [self._fetched.found[reveal] for reveal in found.reveals]
        model = view.model(self._read, self.srs)
        outcome = aggregate(self.srs, view.params, self.rule, found.reveals, updates, model)
        if outcome.exclusions and not self.named:
            # Without the named aggregator, who alone may leave updates out, the round expires.
            self._wait("only the aggregator may leave out updates, and some cannot be used")
            return False
        self._say("aggregated", found.number, f"{len(outcome.points)} updates count")
        cid, proof = bytes(32), b""
        if outcome.model is not None:
            cid = self._publish(outcome)
            proof = self._prove(found.number, outcome)
            self._say("proved", found.number, f"proof of {len(proof)} bytes")
        receipt = self.signer.settle(
            view.project,
            found.number,
            found.reveals,
            outcome.exclusions,
            outcome.gram or b"",
            proof,
            cid,
        )
        self._say("settled", found.number, f"{receipt.gas_used} gas")
        if outcome.model is not None and outcome.scores is not None:
            settled = next(event for event in receipt.events if event.name == "Settled")
            records = decode_records(settled.values["records"])
            # Opened updates and the contract's own weights leave nothing to check in their sum.
            if outcome.scores.weights == tuple(r.weight for r in records if not r.reason):
                view.know(view.state.settled_rounds + 1, outcome.model)
        return True

    def _wait(self, why: str) -> None:
        """Say once a round, and once for each reason, what this account waits for."""
        number, reason = self.view.state.round, why.partition(",")[0]
        if self._waiting != (number, reason):
            self._waiting = number, reason
            self._say("waiting", number, why)

    def _publish(self, outcome: Outcome) -> bytes:
        assert outcome.model is not None
        name = pin_name(self.view.project, self.view.round.number)
        root: Cid = self.store.put_directory({MODEL_FILE: encode_model(outcome.model)}, pin=name)
        return root.digest

    def _prove(self, round_number: int, outcome: Outcome) -> bytes:
        if self.verifier == "AttestedGram":
            assert outcome.gram is not None
            claim = attested_claim(
                self.view.chain.deployment,
                self.view.project,
                round_number,
                outcome.points,
                outcome.gram,
            )
            return bytes(self.signer.account.sign_message(claim).signature)
        if self.verifier != "GramVerifier":
            raise InputError(f"this aggregator cannot prove for the verifier {self.verifier}")
        deployment = self.view.chain.deployment
        context = round_context(
            deployment.chain_id,
            bytes.fromhex(deployment.marketplace[2:]),
            self.view.project,
            round_number,
        )
        assert outcome.gram is not None
        bar = self._bar(f"round {round_number}  proving") if self._bar else nullcontext()
        with bar as progress:
            return prove(
                self.srs,
                context,
                outcome.points,
                outcome.gram,
                outcome.updates,
                outcome.blindings,
                self._shards,
                progress=progress,
            )

    def _say(self, stage: str, round_number: int, text: str) -> None:
        if self._notify is not None:
            self._notify(stage, round_number, text)
