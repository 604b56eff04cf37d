"""Take part in a project's rounds: load the model, train, publish, commit, reveal.

The client is a state machine over the chain: `step` looks and does at most one thing. What it
must not forget is in its journal before it commits: the update it committed to, and what rounding
left over. A client that was interrupted goes on where it stopped, and one whose chain forgot a few
rounds does them again with the same updates.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ipfs.cid import Cid
from ipfs.reader import reader
from ipfs.store import Store
from marketplace.codec import (
    DESCRIPTION_FILE,
    Description,
    Model,
    Update,
    decode_description,
    quantise,
    to_float,
)
from marketplace.errors import ContractError, InputError, LostError
from marketplace.history import ProjectView
from marketplace.interface import commit_digest
from marketplace.keeping import pin_name
from marketplace.proof.commitment import commit, random_blinding
from marketplace.proof.srs import Srs
from marketplace.sealing import Opener, encryption_key, public_bytes, recipients, sealing_info
from marketplace.signer import Signer
from marketplace.types import Membership, Reveal, Status
from marketplace.wire import Encoding, pack, to_blocks
from trainer.attacks import BEHAVIOURS, Sight
from trainer.data import Dataset
from trainer.errors import BudgetError
from trainer.journal import Entry, Journal
from trainer.models import build
from trainer.privacy import Privacy, spent, train_private
from trainer.training import check_fits, prepare_update, train_local

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TrainerClient", "read_description"]

DESCRIPTION_LIMIT = 1 << 16
_SOON_S = 5.0
_OUTDATED = {
    "AlreadyCommitted",
    "AlreadyJoined",
    "AlreadyRevealed",
    "TooEarly",
    "TooLate",
    "WrongRound",
    "WrongStatus",
}
"""Refusals that show that the last look is out of date; the next one shows what is due."""

_Memory = tuple[tuple[NDArray[np.float32], ...], tuple[NDArray[np.float64], ...]]

Notify = Callable[[str, int, str], None]
"""Hear what the client does: stage, round, words for people."""


def read_description(store: Store, digest: bytes) -> Description:
    """Read a project's description from IPFS."""
    return decode_description(reader(store)(digest, DESCRIPTION_FILE, DESCRIPTION_LIMIT))


@dataclass(frozen=True, eq=False)
class _Work:
    """Hold what training for a round gave, not yet published, and the model int64[d] it is from."""

    round: int
    model: NDArray[np.int64]
    update: Update
    point: bytes
    remainder: NDArray[np.float64]


class TrainerClient:
    """Train for one project as one account.

    `behaviour` is a name in `trainer.attacks.BEHAVIOURS`. `seed` fixes the order of samples and
    the rounding, so that a run can be repeated; blindings always come from the system's randomness.
    With `ahead` it trains for the next round while the current one is proven and settled, from the
    model that the revealed updates give; if another one is settled, it trains anew. With `privacy`
    gradients are blurred, and training stops with BudgetError at the project's ε budget.
    The project's root trainer takes part without joining.
    Raises JournalError where another process does the same, InputError where the account has left.
    """

    def __init__(
        self,
        view: ProjectView,
        signer: Signer,
        store: Store,
        srs: Srs,
        dataset: Dataset,
        folder: Path,
        behaviour: str = "honest",
        seed: int = 0,
        allow_code: bool = False,
        notify: Notify | None = None,
        encoding: Encoding = "int16",
        ahead: bool = True,
        privacy: Privacy | None = None,
    ) -> None:
        self.view = view
        self.signer = signer
        self.store = store
        self.srs = srs
        self.dataset = dataset
        self.behaviour = BEHAVIOURS[behaviour]
        self.seed = seed
        self.encoding = encoding
        self._notify = notify
        self._read = reader(store)
        view.check_srs(srs)
        self.description = read_description(store, view.params.description_cid)
        self.module: nn.Module = build(
            self.description.model, self.description.model_options, seed, allow_code=allow_code
        )
        check_fits(self.module, dataset)
        if self.description.readers == "members":
            deployment = view.chain.deployment
            private = encryption_key(signer.account, deployment)
            view.opener = Opener(deployment.chain_id, view.project, private)
        self.is_root = signer.address == view.params.root_trainer
        """Whether the account is the project's root trainer."""
        self.privacy = privacy
        if view.params.epsilon_milli and privacy is None:
            raise InputError(
                f"a trainer may spend ε = {view.params.epsilon_milli / 1000:g} in this project: "
                "train with noise, `--noise 1`, which `trainer.privacy` counts"
            )
        name = f"{view.project.hex()[:16]}-{signer.address}"
        self._journal = Journal(folder, name, view.params.dimension)
        self.out = False
        """Whether the account took part and does no more: it left or was deactivated."""
        self._looked = -1
        self._ahead = ahead
        self._next: _Work | None = None
        self._tried = 0
        self._read_soon = reader(store, timeout_s=_SOON_S)
        # What attackers remember: the last models f32[d], and what was last sent f64[d].
        self._memory: _Memory = ((), ())
        self._memory_before: _Memory = ((), ())
        self._unknown = 0
        membership = view.chain.account(view.project, signer.address).membership
        if membership in (Membership.LEAVING, Membership.INACTIVE):
            self.close()
            word = "left" if membership == Membership.LEAVING else "was deactivated in"
            raise InputError(
                f"{signer.address} {word} the project; take the stake out with `tribute trainer "
                "leave` before joining again"
            )

    def close(self) -> None:
        """Let another process train for this account."""
        self._journal.close()

    def step(self) -> bool:
        """Look at the chain, do what is due, and return whether anything was."""
        self.view.refresh()
        state = self.view.state
        if state.status != Status.RUNNING:
            return False
        try:
            if self.is_root or self.signer.address in self.view.history.active:
                return self._step_round()
            return self._stand_outside()
        except LostError:
            # What is due is due again; the next look shows what.
            return False
        except ContractError as error:
            if error.name in _OUTDATED:
                return False
            raise

    def _stand_outside(self) -> bool:
        """Join, or find that the account is out; return whether it joined."""
        view = self.view
        if self.out or self._looked == view.block.number:
            return False
        self._looked = view.block.number
        membership = view.chain.account(view.project, self.signer.address).membership
        self.out = membership in (Membership.LEAVING, Membership.INACTIVE)
        if membership != Membership.NONE:
            return False
        private = encryption_key(self.signer.account, view.chain.deployment)
        self.signer.join(view.project, view.params, public_bytes(private))
        self._say("joined", view.state.round, "stake deposited")
        return True

    def _step_round(self) -> bool:
        view, me = self.view, self.signer.address
        state, now, found = view.state, view.block.timestamp, view.round
        entry = self._journal.get(found.number)
        if me in found.committed:
            due = state.commit_end <= now < state.reveal_end and me not in found.revealed
            if due and entry is not None:
                self.signer.reveal(view.project, entry.reveal)
                self._say("revealed", found.number, "commitment opened")
                return True
            if due and self._unknown != found.number:
                self._unknown = found.number
                where = self._journal.folder
                self._say("unknown", found.number, f"the journal in {where} has no such commitment")
            return not due and self._train_ahead()
        if state.opens_at <= now < state.commit_end:
            if entry is None or not self._still_fits(entry):
                entry = self._train(found.number)
                self._journal.write(entry)
            digest = commit_digest(view.project, found.number, entry.reveal)
            # Without a budget what is spent stands in the update's manifest alone.
            spent = entry.reveal.spent_milli if view.params.epsilon_milli else 0
            self.signer.commit(view.project, found.number, digest, spent)
            self._say("committed", found.number, "update committed")
            return True
        return False

    def _still_fits(self, entry: Entry) -> bool:
        """Tell whether an entry is from the current model; rounds may end otherwise when repeated.

        And whether the chain takes what it says to be spent, which never shrinks.
        """
        implied = self.view.history.model_point(self.view.params)
        return entry.model == implied and entry.reveal.spent_milli >= self._said()

    def _train(self, round_number: int) -> Entry:
        work = self._work_for(round_number)
        root = self._publish(round_number, work.update)
        reveal = Reveal(self.signer.address, work.point, root.digest, work.update.spent_milli)
        implied = self.view.history.model_point(self.view.params)
        return Entry(round_number, reveal, implied, work.remainder)

    def _work_for(self, round_number: int) -> _Work:
        """Return what was trained ahead if it is from the right model, else train now."""
        model = self.view.model(self._read, self.srs)
        work, self._next = self._next, None
        if work is not None:
            if work.round == round_number and np.array_equal(work.model, model.values):
                return work
            self._memory = self._memory_before
            self._say("discarded", round_number, "another model was settled than expected")
        return self._work(round_number, model)

    def _train_ahead(self) -> bool:
        """Train for the next round as soon as this one's updates are all revealed, once."""
        view, state = self.view, self.view.state
        last = state.settled_rounds + 1 == view.params.rounds
        if not self._ahead or last or self._tried == state.round or not view.revealed:
            return False
        if self._journal.get(state.round + 1) is not None:
            # The chain forgot the next round, and will take the same update again.
            return False
        self._tried = state.round
        model = view.expected_model(self._read_soon, self.srs)
        if model is None:
            return False
        self._memory_before = self._memory
        self._next = self._work(state.round + 1, model)
        return True

    def _work(self, round_number: int, model: Model) -> _Work:
        params = self.view.params
        flat = to_float(model.values, params.step_bits)
        models, sent = self._memory
        if not models or not np.array_equal(models[-1], flat):
            models = (*models[-1:], flat)
        seeds = np.random.SeedSequence([self.seed, round_number])
        order, behaviour, rounding = seeds.spawn(3)
        training = self.description.training
        spent_milli = self._spend(round_number)

        def train(dataset: Dataset) -> NDArray[np.float64]:
            if self.privacy is not None:
                # Noise that follows from a known seed protects nothing.
                secret = torch.Generator().manual_seed(secrets.randbits(63))
                return train_private(self.module, flat, dataset, training, self.privacy, secret)
            seed = int(order.generate_state(1)[0])
            return train_local(self.module, flat, dataset, training, seed)

        self._say("training", round_number, f"{len(self.dataset)} samples")
        sight = Sight(self.dataset, models, train, np.random.default_rng(behaviour), sent)
        delta = self.behaviour(sight)
        self._memory = models, (delta,)
        last = self._journal.before(round_number)
        carry = np.zeros(params.dimension) if last is None else last.remainder
        values, remainder = prepare_update(
            delta,
            carry,
            params.clip_norm,
            params.step_bits,
            np.random.default_rng(rounding),
            to_blocks if self.encoding == "int8" else quantise,
        )
        blinding = random_blinding()
        self._say("committing", round_number, "commitment to the update")
        point = commit(self.srs, values, blinding)
        update = Update(values, blinding, spent_milli)
        return _Work(round_number, model.values, update, point, remainder)

    def _spend(self, round_number: int) -> int:
        """Return the privacy that this round will have spent, in thousandths of ε; 0 without noise.

        BudgetError if that is too much. Only what is committed to is ever published: other updates
        spend nothing. What a commit once said to be spent stays so. Updates of rounds that the
        chain forgot were published all the same.
        """
        if self.privacy is None:
            return 0
        me, rounds = self.signer.address, self.view.history.rounds.values()
        before = sum(me in found.committed for found in rounds if found.number != round_number)
        before += self._journal.count_from(round_number)
        epsilon = spent(self.privacy, len(self.dataset), self.description.training, before + 1)
        milli = max(self._said(), ceil(1000 * epsilon))
        budget = self.view.params.epsilon_milli / 1000
        if budget and milli > self.view.params.epsilon_milli:
            raise BudgetError(
                f"round {round_number} would bring the privacy spent to ε = {epsilon:.3f}, and the "
                f"project allows {budget:g}: leave it, or take part with more noise from the start"
            )
        self._say(
            "privacy",
            round_number,
            f"ε = {epsilon:.3f} spent at δ = {self.privacy.delta:g}"
            + (f" of {budget:g}" if budget else ""),
        )
        return milli

    def _said(self) -> int:
        """Return what the account's commits say to be spent, in thousandths of ε."""
        me, rounds = self.signer.address, self.view.history.rounds.values()
        return max((found.spent_milli.get(me, 0) for found in rounds), default=0)

    def _publish(self, round_number: int, update: Update) -> Cid:
        view, deployment = self.view, self.view.chain.deployment
        readers = recipients(
            self.description, deployment, view.params.aggregator, view.history.member_keys
        )
        info = sealing_info(deployment.chain_id, view.project, round_number, self.signer.address)
        files = pack(update, self.encoding, readers, info)
        size, floats = sum(map(len, files.values())), 4 * len(update.values)
        self._say(
            "published",
            round_number,
            f"{size:,} bytes as {self.encoding}, {floats / size:.1f} times less than floats, "
            + (f"sealed to {len(readers)} keys" if readers else "open to everybody"),
        )
        return self.store.put_directory(files, pin=pin_name(view.project, round_number))

    def _say(self, stage: str, round_number: int, text: str) -> None:
        if self._notify is not None:
            self._notify(stage, round_number, text)
