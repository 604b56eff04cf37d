"""Add up the events of a project: its rounds, its trainers, and the model that the chain implies.

`History` is a fold over events, without I/O. `ProjectView` keeps one up to date with the chain,
and starts over when the chain was reorganised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marketplace.aggregate import aggregate
from marketplace.chain import Block, Chain
from marketplace.codec import (
    MODEL_FILE,
    Model,
    Update,
    apply_updates,
    decode_model,
    file_limit,
)
from marketplace.errors import ChainError, CodecError, InputError, NotFoundError, ProofError
from marketplace.interface import Event
from marketplace.payout import Record, decode_records
from marketplace.proof.commitment import combine, commit
from marketplace.proof.field import R
from marketplace.proof.srs import Srs
from marketplace.sealing import Opener
from marketplace.types import Params, Reveal, State, Status
from marketplace.wallet import LOCAL_CHAINS
from marketplace.wire import unpack

__all__ = [
    "History",
    "ProjectView",
    "Read",
    "Round",
    "Settlement",
    "fetch_model",
    "fetch_update",
    "opens_to",
]

_AHEAD_S = 5.0
"""How long a node's answers for its newest block may be those of a later one."""

Read = Callable[[bytes, str, int], bytes]
"""Read a file from IPFS: digest of a directory's root, name in it, most bytes."""


@dataclass(frozen=True)
class Settlement:
    """Say how a round was settled: a record a reveal, in the order of the reveals."""

    settler: str
    model_cid: bytes
    records: Sequence[Record]
    gram: bytes
    block: int
    transaction: str

    @property
    def included(self) -> tuple[int, ...]:
        """Return the reveals that the matrix has a row for."""
        return tuple(i for i, record in enumerate(self.records) if not record.reason)


@dataclass
class Round:
    """Collect what happened in a round; `failed` holds the reasons for exclusion, if any.

    `spent_milli` is the privacy that trainers said to have spent, in thousandths of ε.
    """

    number: int
    committed: list[str] = field(default_factory=list)
    spent_milli: dict[str, int] = field(default_factory=dict)
    reveals: list[Reveal] = field(default_factory=list)
    settlement: Settlement | None = None
    failed: bytes | None = None
    bond_lost: int = 0

    @property
    def revealed(self) -> set[str]:
        """Return who revealed."""
        return {reveal.trainer for reveal in self.reveals}


class History:
    """Hold what a project's events add up to."""

    def __init__(self) -> None:
        self.rounds: dict[int, Round] = {}
        self.active: list[str] = []
        self.joined: dict[str, bytes] = {}
        self.left: set[str] = set()
        self.withdrawn: dict[str, int] = {}
        self._points: list[bytes] = []

    def round(self, number: int) -> Round:
        """Return a round, empty if nothing happened in it yet."""
        return self.rounds.setdefault(number, Round(number))

    @property
    def member_keys(self) -> dict[str, bytes]:
        """Return the encryption keys that the active trainers joined with."""
        return {trainer: self.joined[trainer] for trainer in self.active}

    @property
    def settled(self) -> list[Round]:
        """Return the settled rounds, oldest first."""
        return [r for _, r in sorted(self.rounds.items()) if r.settlement is not None]

    def add(self, event: Event) -> None:
        """Take in the project's next event."""
        values = event.values
        trainer = str(values.get("trainer", ""))
        match event.name:
            case "Joined":
                self.active.append(trainer)
                self.joined[trainer] = values["encryptionKey"]
                self.left.discard(trainer)
            case "Deactivated":
                self.active.remove(trainer)
            case "LeaveRequested":
                self.left.add(trainer)
            case "Committed":
                self.round(values["round"]).committed.append(trainer)
            case "PrivacySpent":
                self.round(values["round"]).spent_milli[trainer] = values["epsilonMilli"]
            case "Revealed":
                point, found = b"".join(values["point"]), self.round(values["round"])
                spent = found.spent_milli.get(trainer, 0)
                found.reveals.append(Reveal(trainer, point, values["cid"], spent))
            case "Settled":
                self.round(values["round"]).settlement = Settlement(
                    values["settler"],
                    values["modelCid"],
                    decode_records(values["records"]),
                    values["gram"],
                    event.block,
                    event.transaction,
                )
            case "RoundFailed":
                found = self.round(values["round"])
                found.failed = values["exclusions"]
                found.bond_lost = values["bondLost"]
            case "Withdrawn":
                account = values["account"]
                self.withdrawn[account] = self.withdrawn.get(account, 0) + values["amount"]

    def model_point(self, params: Params, settled: int | None = None) -> bytes:
        """Return the commitment that the chain implies for the model after `settled` paid rounds.

        C_M + Σ w_i C_i over all of them; all rounds so far if `settled` is not given.
        """
        rounds = self.settled
        count = len(rounds) if settled is None else settled
        known = self._points or [params.initial_commitment]
        for found in rounds[len(known) - 1 : count]:
            assert found.settlement is not None
            points, weights = [known[-1]], [1]
            for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
                if record.weight:
                    points.append(reveal.point)
                    weights.append(record.weight)
            known.append(combine(points, weights))
        self._points = known
        return known[count]


# ------------------------------------------------------------------------ model


def opens_to(srs: Srs, model: Model, before: Model | None, point: bytes, base: bytes) -> bool:
    """Tell whether `point` commits to `model`, given that `base` commits to `before`.

    The difference of the two has short coordinates, which is several times faster to commit to.
    """
    if before is None:
        return commit(srs, model.values, model.blinding) == point
    moved = model.values - before.values
    step = commit(srs, moved, (model.blinding - before.blinding) % R)
    return combine([base, step], [1, 1]) == point


def fetch_update(
    read: Read,
    reveal: Reveal,
    dimension: int,
    round_number: int = 0,
    opener: Opener | None = None,
) -> Update:
    """Read the update behind a reveal; whether its commitment opens to it is not checked.

    CodecError for what is none, and where its manifest says otherwise of the privacy spent than its
    commit did.

    The number of its round matters where there is an opener. Raises SealedError where the update
    is sealed to others than the opener.
    """

    def read_file(name: str, max_bytes: int) -> bytes:
        return read(reveal.cid, name, max_bytes)

    update = unpack(read_file, dimension, opener, round_number, reveal.trainer)
    if reveal.spent_milli and update.spent_milli != reveal.spent_milli:
        raise CodecError(
            f"the manifest of {reveal.trainer} says that {update.spent_milli} thousandths of ε are "
            f"spent; its commit said {reveal.spent_milli}"
        )
    return update


def fetch_model(
    read: Read,
    srs: Srs,
    params: Params,
    history: History,
    settled: int,
    before: Model | None = None,
    opener: Opener | None = None,
) -> Model:
    """Return the model after `settled` paid rounds, checked against the chain's commitment.

    `before` is the checked model of one round less, if the caller has it. Where the file is missing
    or another one, the model is computed again from the updates, from as far back as needed.
    Raises ProofError where even that does not give what the chain implies.
    """
    point = history.model_point(params, settled)

    def attempt(make: Callable[[], Model]) -> Model | str:
        """Return what `make` gives if the chain implies it, else what is wrong."""
        try:
            model = make()
        except Exception as error:
            # Errors of the store are not known here; those that a user should see have a code.
            if not hasattr(error, "exit_code"):
                raise
            return str(error)
        base = b"" if before is None else history.model_point(params, settled - 1)
        good = opens_to(srs, model, before, point, base)
        return model if good else "it is another one than the chain implies"

    def stored() -> Model:
        cid = params.description_cid if not settled else _settlement(history, settled).model_cid
        limit = file_limit(params.dimension, 8)
        return decode_model(read(cid, MODEL_FILE, limit), params.dimension)

    found = attempt(stored)
    if isinstance(found, Model):
        return found
    if not settled:
        raise ProofError(f"the initial model cannot be had: {found}")
    if before is None:
        before = fetch_model(read, srs, params, history, settled - 1, None, opener)
    last, round_ = before, history.settled[settled - 1]
    computed = attempt(lambda: _computed(read, params, round_, last, opener))
    if isinstance(computed, Model):
        return computed
    raise ProofError(
        f"the model after {settled} paid rounds cannot be had: its file: {found}; computed from "
        f"the round's updates: {computed}"
    )


def _settlement(history: History, settled: int) -> Settlement:
    found = history.settled[settled - 1].settlement
    assert found is not None
    return found


def _computed(
    read: Read, params: Params, found: Round, before: Model, opener: Opener | None
) -> Model:
    assert found.settlement is not None
    updates: list[NDArray[np.int16]] = []
    weights: list[int] = []
    blinding = before.blinding
    for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
        if record.weight:
            update = fetch_update(read, reveal, params.dimension, found.number, opener)
            updates.append(update.values)
            weights.append(record.weight)
            blinding = (blinding + record.weight * update.blinding) % R
    return Model(apply_updates(before.values, updates, weights), blinding)


# ------------------------------------------------------------------------- view


class ProjectView:
    """Follow a project on the chain; roles decide from what it shows.

    `opener` opens updates that are sealed to the account that looks.
    """

    def __init__(self, chain: Chain, project: bytes, opener: Opener | None = None) -> None:
        self.chain = chain
        self.opener = opener
        self.project = project
        self.params = chain.params(project)
        self.history = History()
        self.block = Block(-1, "", 0)
        self.state: State
        self._models: dict[int, Model] = {}
        self._expected: tuple[int, Model] | None = None
        self.refresh()

    def check_srs(self, srs: Srs) -> None:
        """Raise InputError unless the project's verifier takes proofs under this string.

        And where they prove nothing: under a devnet's string on any other chain.
        """
        chain_id = self.chain.deployment.chain_id
        if srs.insecure and chain_id not in LOCAL_CHAINS:
            raise InputError(
                f"the τ of {srs.path} is known, so that anything can be proven under it, and chain "
                f"{chain_id} is no devnet: take no part in this project"
            )
        pinned = self.chain.srs_id(self.params.verifier)
        if pinned != srs.id:
            raise InputError(
                f"{srs.path} is the reference string {srs.id.hex()[:16]}…, but the project's "
                f"verifier takes {pinned.hex()[:16]}…; ask the sponsor for the right file"
            )

    def refresh(self) -> bool:
        """Take in new blocks; return whether there were any."""
        deadline = time.monotonic() + _AHEAD_S
        while True:
            head = self.chain.head()
            if head.hash == self.block.hash:
                return False
            try:
                if self._take_in(head):
                    return True
                if time.monotonic() > deadline:
                    raise ChainError(
                        f"the node's state of block {head.number} does not follow from its logs"
                    )
                time.sleep(0.02)
            except ChainError:
                # A chain that went back to an older state meanwhile has no such block to ask of.
                if self._holds(head):
                    raise

    def _take_in(self, head: Block) -> bool:
        """Take in the blocks up to `head`, unless the state that the node gives is a later one."""
        kept = self._holds(self.block)
        first = max(self.block.number + 1 if kept else 0, self.chain.deployment.block)
        # All reads before the first change: one that fails leaves the view as it was.
        events = list(self.chain.events(self.project, first, head.number))
        state = self.chain.state(self.project, head.number)
        if self._is_ahead(state, events, kept):
            return False
        self.state = state
        if not kept:
            self.history = History()
            self._models = {}
            self._expected = None
        for event in events:
            self.history.add(event)
        self.block = head
        return True

    def _is_ahead(self, state: State, events: Sequence[Event], kept: bool) -> bool:
        """Tell whether a state counts what these events and those before do not.

        anvil answers a call at its newest block from the one that it is just executing.
        """
        before = self.history if kept else History()
        settled = sum(event.name == "Settled" for event in events)
        revealed = sum(
            event.name == "Revealed" and event.values["round"] == state.round for event in events
        )
        return (
            len(before.settled) + settled < state.settled_rounds
            or len(before.round(state.round).reveals) + revealed < state.reveals
        )

    def _holds(self, block: Block) -> bool:
        """Tell whether a block that was seen is still part of the chain."""
        if block.number < 0:
            return False
        try:
            return self.chain.block(block.number).hash == block.hash
        except NotFoundError:
            return False

    @property
    def round(self) -> Round:
        """Return the current round."""
        return self.history.round(self.state.round)

    @property
    def revealed(self) -> bool:
        """Tell whether no more reveals can come in the current round."""
        complete = self.state.commits != 0 and self.state.reveals == self.state.commits
        return complete or self.block.timestamp >= self.state.reveal_end

    @property
    def ended(self) -> bool:
        """Tell whether no round will follow."""
        return self.state.status in (Status.FINISHED, Status.HALTED, Status.CLOSED)

    def model(self, read: Read, srs: Srs, settled: int | None = None) -> Model:
        """Return the checked model after `settled` paid rounds; the current one if not given."""
        number = self.state.settled_rounds if settled is None else settled
        if number not in self._models:
            before = self._models.get(number - 1)
            model = self._as_expected(srs, number, before)
            if model is None:
                model = fetch_model(
                    read, srs, self.params, self.history, number, before, self.opener
                )
            self._models[number] = model
            for old in [n for n in self._models if n < number - 1]:
                del self._models[old]
        return self._models[number]

    def know(self, settled: int, model: Model) -> None:
        """Take over the model after `settled` paid rounds from who checked all it is made of."""
        self._models[settled] = model

    def expected_model(self, read: Read, srs: Srs) -> Model | None:
        """Return what settling the current round should make of the model, before it is settled.

        Computed from the updates, all of them revealed, by the project's rule, and believing that
        they are what was committed to: `model` checks it as soon as the round is settled. None
        where the updates cannot all be had or are too few.
        """
        params, found = self.params, self.round
        if self._expected is None or self._expected[0] != found.number:
            try:
                updates = [
                    fetch_update(read, reveal, params.dimension, found.number, self.opener)
                    for reveal in found.reveals
                ]
                rule = self.chain.deployment.rule_name(params.rule)
                model = self.model(read, srs)
                outcome = aggregate(None, params, rule, found.reveals, updates, model)
            except Exception as error:
                # Errors of the store are not known here; those that a user should see have a code.
                if not hasattr(error, "exit_code"):
                    raise
                return None
            if outcome.model is None:
                return None
            self._expected = found.number, outcome.model
        return self._expected[1]

    def _as_expected(self, srs: Srs, number: int, before: Model | None) -> Model | None:
        """Return the expected model if it is the one after `number` paid rounds."""
        if self._expected is None or before is None:
            return None
        round_number, model = self._expected
        if self.history.settled[number - 1].number != round_number:
            return None
        point, base = (self.history.model_point(self.params, k) for k in (number, number - 1))
        return model if opens_to(srs, model, before, point, base) else None
