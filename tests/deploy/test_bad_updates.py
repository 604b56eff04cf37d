"""Rounds with every kind of unusable update: each is left out by its reason, nothing is lost."""

import secrets
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import safetensors.numpy

from deploy.devnet import running_anvil
from ipfs import Cid
from marketplace.codec import Update, encode_update
from marketplace.proof.commitment import commit
from marketplace.types import Exclusion, Reveal, Status
from marketplace.wire import CONTENT_FILE, CONTENT_TYPES, MANIFEST_FILE, pack
from tests.market import AGGREGATOR, FIRST_TRAINER, PARAMETERS, Stage, Town
from trainer.client import TrainerClient
from trainer.journal import Entry

Files = dict[str, bytes]

D = PARAMETERS
GRACE_S = 0.3


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def plain(content: bytes) -> Files:
    """Return an update's files whose content is to be read as safetensors."""
    manifest = b'{"content": "%s", "keys": {}}' % CONTENT_TYPES["plain"].encode()
    return {MANIFEST_FILE: manifest, CONTENT_FILE: content}


def good(k: int) -> Update:
    rng = np.random.default_rng(k)
    return Update(rng.integers(-500, 500, D).astype(np.int16), secrets.randbelow(2**200))


def with_not_a_number() -> Files:
    values = np.full(D, np.nan, dtype=np.float16)
    tensors = {"update": values, "blinding": np.zeros(32, dtype=np.uint8)}
    return plain(safetensors.numpy.save(tensors))


CONTENTS: dict[str, tuple[Callable[[Update], Files], Exclusion]] = {
    "rubbish": (lambda _: plain(b"rubbish"), Exclusion.MALFORMED),
    "empty": (lambda _: plain(b""), Exclusion.MALFORMED),
    "truncated": (lambda u: plain(encode_update(u)[:-5]), Exclusion.MALFORMED),
    "of one value less": (
        lambda u: plain(encode_update(Update(u.values[1:], u.blinding))),
        Exclusion.MALFORMED,
    ),
    "not a number": (lambda _: with_not_a_number(), Exclusion.MALFORMED),
    "oversized": (lambda _: plain(bytes(10**6)), Exclusion.MALFORMED),
    "of an unknown kind": (
        lambda u: {**pack(u), MANIFEST_FILE: b'{"content": "text/plain", "keys": {}}'},
        Exclusion.MALFORMED,
    ),
    "decompressed without end": (
        lambda u: {**pack(u), CONTENT_FILE: pack(Update(np.tile(u.values, 50), 1))[CONTENT_FILE]},
        Exclusion.MALFORMED,
    ),
    "without manifest": (lambda u: {"other": encode_update(u)}, Exclusion.UNAVAILABLE),
    "of another update": (lambda u: pack(Update(-u.values, u.blinding)), Exclusion.MISMATCH),
    "of another blinding": (lambda u: pack(Update(u.values, u.blinding + 1)), Exclusion.MISMATCH),
}
POINTS: dict[str, bytes] = {
    "off the curve": b"\x01" * 96,
    # (0, 2) is on y² = x³ + 4 and has order 3.
    "outside the subgroup": bytes(95) + b"\x02",
    "at infinity": bytes(96),
}


class Saboteur:
    """Make a trainer client publish and commit to what it is told, in place of what it learned."""

    def __init__(self, town: Town, client: TrainerClient, k: int) -> None:
        self.town = town
        self.client = client
        self.update = good(k)
        self.point = commit(town.srs, self.update.values, self.update.blinding)
        self.cid: Cid | None = None
        self.files = pack(self.update)
        client._train = self.entry  # type: ignore[method-assign]

    def entry(self, number: int) -> Entry:
        cid = self.cid or self.town.store.put_directory(self.files)
        reveal = Reveal(self.client.signer.address, self.point, cid.digest)
        view = self.client.view
        return Entry(number, reveal, view.history.model_point(view.params), np.zeros(D))


def corrupt(town: Town, cid: Cid) -> None:
    """Change a byte of a block on the disk."""
    segments = town.store._segments
    (where,) = segments.find(cid.digest)
    with segments._path(where.segment).open("r+b") as file:
        file.seek(where.after - 1)
        last = file.read(1)
        file.seek(where.after - 1)
        file.write(bytes([last[0] ^ 1]))


def balanced(stage: Stage) -> bool:
    """Tell whether the contract holds escrow, bond, stakes and credits, and not a unit more."""
    chain, project = stage.town.chain, stage.project
    stage.view.refresh()
    numbers = [0, AGGREGATOR, 2, *range(FIRST_TRAINER, FIRST_TRAINER + len(stage.trainers))]
    accounts = [chain.account(project, stage.town.signer(number).address) for number in numbers]
    owned = sum(account.stake + account.credit for account in accounts)
    marketplace = stage.town.deployment.marketplace
    held = chain.token_balance(stage.view.params.token, marketplace) - stage.held_before
    return bool(held == stage.view.state.escrow + stage.view.state.bond + owned)


def opened(town: Town, trainers: int, **terms: object) -> Stage:
    marketplace = town.deployment.marketplace
    before = town.chain.token_balance(town.deployment.token, marketplace)
    stage = town.open(["honest"] * trainers, **terms)
    stage.held_before = before  # type: ignore[attr-defined]
    stage.aggregator = stage.service(AGGREGATOR, grace_s=GRACE_S)
    return stage


def settle(stage: Stage, rounds: int) -> None:
    stage.play(lambda view: len(view.history.settled) == rounds or view.ended)


def test_a_round_full_of_bad_updates_pays_the_good_ones_and_nothing_is_lost(town: Town) -> None:
    faults = [*CONTENTS, *POINTS, "missing", "corrupt", "too long", "copied", "negated"]
    stage = opened(town, 3 + len(faults), min_updates=3, rounds=2, clip_norm=2.0)
    saboteurs, expected = {}, {}
    for k, fault in enumerate(faults):
        saboteur = Saboteur(town, stage.trainers[3 + k], k)
        saboteurs[fault] = saboteur
        if fault in CONTENTS:
            make, expected[fault] = CONTENTS[fault]
            saboteur.files = make(saboteur.update)
        elif fault in POINTS:
            saboteur.point, expected[fault] = POINTS[fault], Exclusion.BAD_POINT
    saboteurs["missing"].cid = Cid.from_digest(b"\x07" * 32)
    expected["missing"] = Exclusion.UNAVAILABLE
    broken = saboteurs["corrupt"]
    broken.cid = town.store.put_directory(broken.files)
    corrupt(town, broken.cid)
    expected["corrupt"] = Exclusion.MALFORMED
    # 2 · 2^14 steps are allowed, and sqrt(650) + 1 more for rounding.
    long = saboteurs["too long"]
    long.update = Update(np.array([32767, 4000, *[0] * (D - 2)], dtype=np.int16), 5)
    long.point = commit(town.srs, long.update.values, 5)
    long.files = pack(long.update)
    expected["too long"] = Exclusion.OUT_OF_RANGE
    # Whoever reveals first has the point; trainers act in their order here.
    original, copy = saboteurs["copied"], saboteurs["negated"]
    copy.update = Update(-original.update.values, 2**255 - 19)
    copy.point = original.point
    copy.files = pack(original.update)
    expected["copied"], expected["negated"] = Exclusion.NONE, Exclusion.DUPLICATE

    settle(stage, 1)
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    by_trainer = {
        reveal.trainer: record
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True)
    }
    for fault, saboteur in saboteurs.items():
        record = by_trainer[saboteur.client.signer.address]
        assert record.reason == expected[fault], fault
        if record.reason:
            assert (record.share, record.slashed, record.weight) == (0, 0, 0), fault
    assert sum(record.share for record in by_trainer.values()) == stage.view.params.reward
    assert balanced(stage)

    # Everybody still takes part, and in the next round whoever behaves is paid.
    for saboteur in saboteurs.values():
        del saboteur.client._train
    settle(stage, 2)
    last = stage.view.history.settled[-1].settlement
    assert last is not None
    assert [record.reason for record in last.records] == [0] * len(stage.trainers)
    assert stage.view.state.status == Status.FINISHED
    assert balanced(stage)


def test_a_round_without_enough_good_updates_fails_and_opens_again(town: Town) -> None:
    stage = opened(town, 3, min_updates=2, rounds=1)
    saboteurs = [Saboteur(town, client, k) for k, client in enumerate(stage.trainers[:2])]
    for saboteur in saboteurs:
        saboteur.files = plain(b"rubbish")
    stage.play(lambda view: view.state.round == 2)
    failed = stage.view.history.round(1)
    assert failed.failed is not None
    assert sorted(failed.failed) == [Exclusion.NONE, Exclusion.MALFORMED, Exclusion.MALFORMED]
    # Whoever shuts out so many that a round fails pays for it, and the sink gets it.
    assert failed.bond_lost == stage.view.params.bond_penalty
    sink = town.chain.account(stage.view.project, stage.view.params.slash_sink)
    assert sink.credit == stage.view.params.bond_penalty
    assert stage.view.state.escrow == stage.view.params.escrow
    assert balanced(stage)
    for saboteur in saboteurs:
        del saboteur.client._train
    settle(stage, 1)
    assert stage.view.state.status == Status.FINISHED
    assert stage.view.history.settled[0].number == 2
    assert balanced(stage)


def test_missing_updates_are_waited_for_together_and_taken_when_they_come(town: Town) -> None:
    stage = opened(town, 4, min_updates=1, rounds=1)
    late = Saboteur(town, stage.trainers[0], 0)
    late.cid = Cid.from_digest(_digest_of(town, late.files))
    for k in (1, 2, 3):
        Saboteur(town, stage.trainers[k], k).cid = Cid.from_digest(bytes([k]) * 32)
    stage.play_until_revealed()
    service = stage.service(AGGREGATOR, grace_s=1.0)
    began = time.monotonic()
    assert not service.step()
    town.store.put_directory(late.files)
    while not service.step():
        time.sleep(0.05)
        # One grace for all of them, not one after another.
        assert time.monotonic() - began < 2.5
    stage.view.refresh()
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    reasons = {
        reveal.trainer: record.reason
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True)
    }
    assert reasons.pop(late.client.signer.address) == Exclusion.NONE
    assert set(reasons.values()) == {Exclusion.UNAVAILABLE}


def _digest_of(town: Town, files: Files) -> bytes:
    """Return the digest of a directory that the store does not have."""
    from ipfs import BlockStore

    other = BlockStore(town.home / "elsewhere")
    return other.put_directory(files).digest
