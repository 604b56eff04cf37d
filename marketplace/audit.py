"""Check a project from chain and content alone: every settlement, score, payment and model.

Everything is computed again: commitments and matrix from the updates, scores by the mirrored rule,
money by the mirrored payout, the model's commitment from the chain. What cannot be computed,
because content is missing or sealed, is said to be so. Not covered: whether the endpoint tells the
truth about the chain, and whether the contracts' code is that of their sources (`deploy.verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marketplace.aggregate import exclusions_of
from marketplace.chain import Chain, SettleCall
from marketplace.codec import (
    MODEL_FILE,
    Model,
    Update,
    apply_updates,
    decode_model,
    file_limit,
    gram,
    unpack_gram,
)
from marketplace.errors import (
    CodecError,
    MarketplaceError,
    NotFoundError,
    ProofError,
    SealedError,
)
from marketplace.explain import Line, explain
from marketplace.history import History, Read, Round, Settlement, fetch_update, opens_to
from marketplace.interface import Event
from marketplace.ledger import Ledger
from marketplace.proof.field import R
from marketplace.proof.srs import Progress, Srs
from marketplace.proof.transcript import round_context
from marketplace.proof.verifier import verify
from marketplace.scoring import RULES, Scores
from marketplace.sealing import Opener
from marketplace.signer import attested_claim
from marketplace.types import Exclusion, Params, Reveal

__all__ = ["BAD", "GOOD", "UNKNOWN", "Finding", "Outcome", "Report", "audit"]

GOOD, BAD, UNKNOWN = "good", "bad", "unknown"


@dataclass(frozen=True)
class Finding:
    """Say what came of one check; round 0 is the project as a whole."""

    round: int
    check: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """Say what a settled round brought a trainer, in the token's smallest unit, and why.

    `steps` lead from the matrix to the verdict `why`.
    """

    round: int
    trainer: str
    share: int
    slashed: int
    weight: int
    why: str
    steps: Sequence[Line]


@dataclass
class Report:
    """Collect findings, and what each update brought and why."""

    block: int
    findings: list[Finding] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, verdict: str) -> list[Finding]:
        """Return the findings of a verdict."""
        return [found for found in self.findings if found.verdict == verdict]


def audit(
    chain: Chain,
    project: bytes,
    read: Read,
    srs: Srs,
    rounds: Collection[int] | None = None,
    progress: Progress | None = None,
    opener: Opener | None = None,
) -> Report:
    """Check a project, the content of all its rounds or of some; money is checked for all.

    Raises only where chain or reference string cannot be used at all. `progress` counts rounds;
    `opener` opens what is sealed to the account that looks.
    """
    params, head = chain.params(project), chain.head()
    auditor = _Auditor(chain, project, params, read, srs, Report(head.number), opener)
    auditor.check_project()
    events = list(chain.events(project, chain.deployment.block, head.number))
    ends = sum(event.name in ("Settled", "RoundFailed") for event in events)
    done = 0
    for event in events:
        wanted = rounds is None or event.values.get("round") in rounds
        auditor.take(event, wanted)
        if progress and event.name in ("Settled", "RoundFailed"):
            done += 1
            progress(done, ends)
    auditor.check_accounts(head.number)
    return auditor.report


class _Auditor:
    """Go through a project's events in their order."""

    def __init__(
        self,
        chain: Chain,
        project: bytes,
        params: Params,
        read: Read,
        srs: Srs,
        report: Report,
        opener: Opener | None,
    ) -> None:
        self.chain, self.project, self.params = chain, project, params
        self.read, self.srs, self.report = read, srs, report
        self.history, self.ledger = History(), Ledger(params)
        self._opener = opener
        self._model: Model | None = None
        self._rule = _name(chain.deployment.rule_name, params.rule)
        self._verifier = _name(chain.deployment.verifier_name, params.verifier)

    def say(self, number: int, check: str, verdict: str, text: str) -> None:
        self.report.findings.append(Finding(number, check, verdict, text))

    # ------------------------------------------------------------------ project

    def check_project(self) -> None:
        """Check the reference string and the initial model."""
        pinned = self.chain.srs_id(self.params.verifier)
        if pinned != self.srs.id:
            raise ProofError(
                f"{self.srs.path} is the reference string {self.srs.id.hex()[:16]}…, but the "
                f"project's verifier takes {pinned.hex()[:16]}…; nothing can be checked with it"
            )
        self.say(0, "reference string", GOOD, "it is the one that the verifier pins")
        self._model = self._check_model(0, 0, self.params.description_cid, None)

    def check_accounts(self, block: int) -> None:
        """Compare what the events add up to with what the contract holds, and name what is open."""
        for round_ in self.history.rounds.values():
            if round_.reveals and round_.settlement is None and round_.failed is None:
                text = f"{len(round_.reveals)} updates are revealed, but not settled yet"
                self.say(round_.number, "reveals", UNKNOWN, text)
        # A difference counts if it is there twice: anvil answers for its newest block from the one
        # that it is just executing.
        wrong = self._differences(block) and self._differences(block)
        for text in wrong:
            self.say(0, "accounts", BAD, text)
        if not wrong:
            self.say(
                0,
                "accounts",
                GOOD,
                f"escrow, bond and {len(self.ledger.entries)} accounts are what the events add up "
                "to",
            )

    def _differences(self, block: int) -> list[str]:
        """Return what the contract holds otherwise than the ledger says."""
        ledger, state = self.ledger, self.chain.state(self.project, block)
        wrong = []
        for what, said, right in (
            ("escrow", state.escrow, ledger.escrow),
            ("bond", state.bond, ledger.bond),
            ("number of settled rounds", state.settled_rounds, ledger.settled_rounds),
            ("status", state.status.name, ledger.status.name),
        ):
            if said != right:
                wrong.append(f"the {what} is {said}, but should be {right}")
        for address, entry in ledger.entries.items():
            found = self.chain.account(self.project, address, block)
            for what, said, right in (
                ("stake", found.stake, entry.stake),
                ("credit", found.credit, entry.credit),
                ("strikes", found.strikes, entry.strikes),
                ("membership", found.membership.name, entry.membership.name),
            ):
                if said != right:
                    wrong.append(f"{address}: {what} {said}, but should be {right}")
        return wrong

    # ------------------------------------------------------------------- events

    def take(self, event: Event, wanted: bool) -> None:
        """Take in the next event, and check what it ends."""
        number = int(event.values.get("round", 0))
        found = self.history.round(number) if number else Round(0)
        trainers = [reveal.trainer for reveal in found.reveals]
        self.history.add(event)
        scores = None
        if event.name == "Settled":
            scores = self._check_settled(found, event, wanted)
        elif event.name == "RoundFailed" and wanted and found.failed:
            updates = [self._fetch(number, reveal) for reveal in found.reveals]
            self._check_exclusions(found, list(found.failed), updates)
        wrong = self.ledger.add(event, trainers, scores)
        for text in wrong:
            self.say(number, "records" if event.name == "Settled" else "money", BAD, text)
        if event.name == "Settled" and not wrong and scores is not None:
            self.say(number, "records", GOOD, "every share, slash and strike follows from the rule")

    def _check_settled(self, found: Round, event: Event, wanted: bool) -> Scores | None:
        settlement = found.settlement
        assert settlement is not None
        number, records = found.number, settlement.records
        if len(records) != len(found.reveals):
            self.say(
                number, "reveals", BAD, f"{len(records)} records, {len(found.reveals)} reveals"
            )
            return None
        scores = self._score(found, settlement)
        if not wanted:
            self._model = None
            return scores
        self._explain(found, settlement)
        call = self.chain.settle_call(event.transaction)
        self._check_call(found, settlement, call)
        updates = [self._fetch(number, reveal) for reveal in found.reveals]
        right = self._check_exclusions(found, [record.reason for record in records], updates)
        rows = [updates[i] if _is_opened(right[i]) else right[i] for i in settlement.included]
        self._check_matrix(number, settlement.gram, rows)
        self._check_proof(found, settlement, call)
        before = self._model
        settled = len(self.history.settled)
        self._model = self._check_model(number, settled, settlement.model_cid, before)
        if self._model is None and before is not None:
            with suppress(ProofError):
                self._model = self._compute_model(found, settlement, rows, before)
        return scores

    # ------------------------------------------------------------------ updates

    def _fetch(self, number: int, reveal: Reveal) -> Update | Exclusion:
        try:
            return fetch_update(self.read, reveal, self.params.dimension, number, self._opener)
        except SealedError:
            return Exclusion.UNAVAILABLE
        except CodecError:
            return Exclusion.MALFORMED
        except Exception as error:
            # Errors of the store are not known here; those that a user should see have a code.
            code = getattr(error, "exit_code", None)
            if code is None:
                raise
            return Exclusion.MALFORMED if code == 6 else Exclusion.UNAVAILABLE

    def _check_exclusions(
        self, found: Round, reasons: Sequence[int], updates: Sequence[Update | Exclusion]
    ) -> list[Exclusion]:
        """Compare the reasons that the aggregator gave with the right ones, and return these."""
        right = exclusions_of(self.srs, self.params, found.reveals, updates)
        good = 0
        xs = [reveal.point[16:48] for reveal in found.reveals]
        for reveal, given, should in zip(found.reveals, reasons, right, strict=True):
            if xs.count(reveal.point[16:48]) > 1 and Exclusion.DUPLICATE in (given, should):
                # The contract takes one of them, and which one is the aggregator's choice.
                verdict, text = GOOD, ""
            else:
                verdict, text = _judge(given, should)
            if verdict == GOOD:
                good += 1
            else:
                check = "exclusion" if given else "update"
                self.say(found.number, check, verdict, f"{reveal.trainer}: {text}")
        if good:
            self.say(
                found.number,
                "updates",
                GOOD,
                f"{good} of {len(right)} updates are what was committed to, or rightly left out",
            )
        return right

    def _check_matrix(self, number: int, packed: bytes, rows: Sequence[Update | Exclusion]) -> None:
        try:
            matrix = unpack_gram(packed, len(rows))
        except CodecError as error:
            self.say(number, "matrix", BAD, str(error))
            return
        here = [i for i, row in enumerate(rows) if isinstance(row, Update)]
        if not here:
            self.say(number, "matrix", UNKNOWN, "none of the updates can be had, or opened")
            return
        values: NDArray[np.int16] = np.array(
            [row.values for row in rows if isinstance(row, Update)], dtype=np.int16
        )
        right, said = gram(values), matrix[np.ix_(here, here)]
        if not np.array_equal(right, said):
            i, j = (int(k[0]) for k in np.nonzero(right != said))
            self.say(
                number,
                "matrix",
                BAD,
                f"entry ({here[i]}, {here[j]}) is {said[i, j]}, but the updates' inner product is "
                f"{right[i, j]}; {np.count_nonzero(right != said)} entries are wrong",
            )
        elif len(here) < len(rows):
            text = f"right as far as can be seen: {len(rows) - len(here)} updates are not there"
            self.say(number, "matrix", UNKNOWN, text)
        else:
            self.say(number, "matrix", GOOD, f"all inner products of {len(rows)} updates are right")

    # --------------------------------------------------------------- settlement

    def _check_call(self, found: Round, settlement: Settlement, call: SettleCall | None) -> None:
        if call is None:
            text = f"{settlement.transaction} settled through another contract: its call is hidden"
            self.say(found.number, "reveals", UNKNOWN, text)
            return
        reasons = bytes(record.reason for record in settlement.records)
        wrong = [
            name
            for name, said, right in (
                ("trainers", list(call.trainers), [reveal.trainer for reveal in found.reveals]),
                ("points", call.points, b"".join(reveal.point for reveal in found.reveals)),
                ("exclusions", call.exclusions or bytes(len(reasons)), reasons),
                ("matrix", call.gram, settlement.gram),
                ("model", call.model_cid, settlement.model_cid),
                ("round", call.round, found.number),
                ("project", call.project, self.project),
            )
            if said != right
        ]
        if wrong:
            text = f"{', '.join(wrong)} of the call differ from what was revealed and emitted"
            self.say(found.number, "reveals", BAD, text)
        else:
            self.say(
                found.number, "reveals", GOOD, f"the call has the {len(found.reveals)} reveals"
            )

    def _check_proof(self, found: Round, settlement: Settlement, call: SettleCall | None) -> None:
        number, deployment = found.number, self.chain.deployment
        if call is None:
            self.say(number, "proof", UNKNOWN, "the call that carried it is hidden")
            return
        points = [found.reveals[i].point for i in settlement.included]
        if self._verifier == "GramVerifier":
            market = bytes.fromhex(deployment.marketplace[2:])
            context = round_context(deployment.chain_id, market, self.project, number)
            try:
                verify(self.srs.header, context, points, settlement.gram, call.proof)
            except ProofError as error:
                self.say(number, "proof", BAD, str(error))
            else:
                self.say(number, "proof", GOOD, f"{len(call.proof)} bytes prove the matrix")
        elif self._verifier == "AttestedGram":
            from eth_account import Account

            claim = attested_claim(deployment, self.project, number, points, settlement.gram)
            try:
                signer = str(Account.recover_message(claim, signature=call.proof))
            except ValueError:
                signer = "nobody"
            if signer == self.params.aggregator:
                text = f"signed by the aggregator {signer}, not proven"
                self.say(number, "proof", GOOD, text)
            else:
                text = f"signed by {signer}; a contract's signature cannot be checked here"
                self.say(number, "proof", UNKNOWN, text)
        else:
            text = f"the verifier {self.params.verifier} is not known here"
            self.say(number, "proof", UNKNOWN, text)

    def _score(self, found: Round, settlement: Settlement) -> Scores | None:
        rule = RULES.get(self._rule or "")
        if rule is None:
            text = f"the rule {self.params.rule} is not known here; the records are believed"
            self.say(found.number, "records", UNKNOWN, text)
            return None
        try:
            matrix = unpack_gram(settlement.gram, len(settlement.included))
            root = self.params.root_row([found.reveals[i].trainer for i in settlement.included])
            return rule(self.params.rule_params, matrix, self.params.reward, root)
        except MarketplaceError as error:
            self.say(found.number, "records", BAD, f"the matrix cannot be scored: {error}")
            return None

    def _explain(self, found: Round, settlement: Settlement) -> None:
        trainers = [reveal.trainer for reveal in found.reveals]
        for trainer, record in zip(trainers, settlement.records, strict=True):
            steps: Sequence[Line] = ()
            try:
                explained = explain(
                    self.params,
                    self._rule,
                    trainers,
                    settlement.records,
                    settlement.gram,
                    trainer,
                )
                why, steps = explained.verdict, explained.lines
            except MarketplaceError as error:
                why = str(error)
            share, slashed, weight = record.share, record.slashed, record.weight
            self.report.outcomes.append(
                Outcome(found.number, trainer, share, slashed, weight, why, steps)
            )

    # -------------------------------------------------------------------- model

    def _check_model(
        self, number: int, settled: int, cid: bytes, before: Model | None
    ) -> Model | None:
        check = "model file" if number else "initial model"
        try:
            point = self.history.model_point(self.params, settled)
        except ProofError as error:
            # Only a signature can bring such a point in; the chain never looked at it.
            self.say(number, check, BAD, f"the chain implies no model: {error}")
            return None
        base = self.history.model_point(self.params, settled - 1) if before is not None else b""
        limit = file_limit(self.params.dimension, 8)
        try:
            model = decode_model(self.read(cid, MODEL_FILE, limit), self.params.dimension)
        except Exception as error:
            code = getattr(error, "exit_code", None)
            if code is None:
                raise
            verdict = BAD if code == 6 else UNKNOWN
            self.say(number, check, verdict, f"it cannot be had: {error}")
            return None
        if opens_to(self.srs, model, before, point, base):
            self.say(number, check, GOOD, "it is the one that the chain implies")
            return model
        self.say(number, check, BAD, "it is another one than the chain implies")
        return None

    def _compute_model(
        self,
        found: Round,
        settlement: Settlement,
        rows: Sequence[Update | Exclusion],
        before: Model,
    ) -> Model | None:
        """Return the model after a round whose file does not do, from its updates if possible."""
        weights = [settlement.records[i].weight for i in settlement.included]
        counted = [(row, w) for row, w in zip(rows, weights, strict=True) if w]
        updates = [row for row, _ in counted if isinstance(row, Update)]
        if len(updates) < len(counted):
            return None
        used = [w for _, w in counted]
        blinding = sum(w * u.blinding for u, w in zip(updates, used, strict=True))
        try:
            values = apply_updates(before.values, [u.values for u in updates], used)
        except CodecError:
            return None
        model = Model(values, (before.blinding + blinding) % R)
        settled = len(self.history.settled)
        point, base = (self.history.model_point(self.params, k) for k in (settled, settled - 1))
        if not opens_to(self.srs, model, before, point, base):
            return None
        text = "the true model can be computed from the round's updates"
        self.say(found.number, "model", GOOD, text)
        return model


def _name(look_up: Callable[[str], str], address: str) -> str | None:
    try:
        return look_up(address)
    except NotFoundError:
        return None


def _is_opened(reason: Exclusion) -> bool:
    """Tell whether an update with this reason against it is the one that was committed to."""
    return reason in (Exclusion.NONE, Exclusion.OUT_OF_RANGE)


def _judge(given: int, should: Exclusion) -> tuple[str, str]:
    """Return the verdict on a reason that the aggregator gave, and what to say of it."""
    if given == should:
        return GOOD, ""
    if should == Exclusion.UNAVAILABLE:
        doing = "left out as " + _reason(given) if given else "counted"
        return UNKNOWN, f"{doing}, but its content cannot be had, or not be opened"
    if not given:
        return BAD, f"counted, but it is {_reason(should)}"
    if given == Exclusion.UNAVAILABLE:
        return UNKNOWN, "left out as unavailable; its content is here now, and then is not known"
    if should:
        return GOOD, ""
    return BAD, f"left out as {_reason(given)}, but nothing is wrong with it"


def _reason(reason: int) -> str:
    known = [entry.value for entry in Exclusion]
    return Exclusion(reason).name.lower().replace("_", " ") if reason in known else f"{reason}"
