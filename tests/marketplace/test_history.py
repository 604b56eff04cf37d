"""What a project's events add up to, and the model that they imply."""

import hashlib
from dataclasses import fields

import numpy as np
import pytest

from marketplace.codec import (
    MODEL_FILE,
    ONE,
    Model,
    Update,
    encode_model,
)
from marketplace.errors import CodecError, ProofError
from marketplace.history import History, Round, fetch_model, fetch_update, opens_to
from marketplace.interface import Event
from marketplace.payout import Record, encode_records
from marketplace.proof.commitment import combine, commit
from marketplace.proof.field import R
from marketplace.proof.srs import Srs, generate
from marketplace.types import Params, Reveal
from marketplace.wire import CONTENT_FILE, pack

D = 6
ANN, BOB, CYD = "0xA", "0xB", "0xC"
START = np.array([2**40, -(2**41), 0, 5, -7, 2**50], dtype=np.int64)
UPDATES = {
    ANN: Update(np.array([1, -2, 3, 0, 32767, -32768], dtype=np.int16), 11),
    BOB: Update(np.array([5, 5, 5, 5, 5, 5], dtype=np.int16), R - 2),
    CYD: Update(np.array([9, 0, 0, 0, 0, 9], dtype=np.int16), 13),
}
WEIGHTS = {ANN: 40_000, BOB: 25_536, CYD: 0}
NEXT = Model(
    START + 40_000 * UPDATES[ANN].values.astype(int) + 25_536 * UPDATES[BOB].values.astype(int),
    (40_000 * 11 + 25_536 * (R - 2)) % R,
)


@pytest.fixture(scope="module")
def srs(tmp_path_factory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "srs", D + 8, b"history")


class Files(dict):
    """Keep files by a digest, and read them as a store does."""

    def put(self, name, data):
        digest = hashlib.sha256(name.encode() + data).digest()
        self[digest, name] = data
        return digest

    def put_update(self, update):
        packed = pack(update)
        digest = hashlib.sha256(b"".join(packed.values())).digest()
        self.update({(digest, name): data for name, data in packed.items()})
        return digest

    def read(self, digest, name, max_bytes):
        if (digest, name) not in self:
            raise MissingError(f"no {name}")
        if len(self[digest, name]) > max_bytes:
            raise MissingError(f"{name} is larger than {max_bytes}")
        return self[digest, name]


class MissingError(Exception):
    exit_code = 4


def params_of(srs, files):
    values = {field.name: 0 for field in fields(Params)}
    values["dimension"] = D
    values["description_cid"] = files.put(MODEL_FILE, encode_model(Model(START, 0)))
    values["initial_commitment"] = commit(srs, START, 0)
    return Params(**values)


def event(name, **values):
    return Event(name, values, 7, "0xhash", 0)


def revealed(number, reveal):
    words = [reveal.point[i : i + 32] for i in (0, 32, 64)]
    return event("Revealed", round=number, trainer=reveal.trainer, point=words, cid=reveal.cid)


def settled(number, records, model_cid=bytes(32)):
    return event(
        "Settled",
        round=number,
        settler=ANN,
        modelCid=model_cid,
        records=encode_records(records),
        gram=b"",
    )


def weighing(weight):
    return Record(0, 0, weight, 0, 0, weight == 0, False)


@pytest.fixture
def files():
    return Files()


@pytest.fixture
def history(srs, files):
    """Return a history with one failed and one settled round, whose model file is in place."""
    found = History()
    for number in (1, 2):
        for trainer, update in UPDATES.items():
            cid = files.put_update(update)
            point = commit(srs, update.values, update.blinding)
            found.add(revealed(number, Reveal(trainer, point, cid)))
        if number == 1:
            found.add(event("RoundFailed", round=1, exclusions=b"\x01\x01\x00", bondLost=30))
    model = files.put(MODEL_FILE, encode_model(NEXT))
    found.add(settled(2, [weighing(WEIGHTS[t]) for t in UPDATES], model))
    return found


# ------------------------------------------------------------------------ fold


def test_trainers_come_and_go():
    history = History()
    for trainer in (ANN, BOB, CYD):
        history.add(event("Joined", trainer=trainer, index=0, encryptionKey=trainer.encode()))
    history.add(event("Deactivated", trainer=ANN))
    history.add(event("LeaveRequested", trainer=ANN, exitAt=9))
    history.add(event("Deactivated", trainer=CYD))
    assert history.active == [BOB]
    assert history.left == {ANN}
    history.add(event("Joined", trainer=ANN, index=1, encryptionKey=b"new"))
    assert history.active == [BOB, ANN]
    assert history.left == set()
    assert history.joined == {ANN: b"new", BOB: b"0xB", CYD: b"0xC"}


def test_rounds_keep_commits_and_reveals_in_their_order():
    history = History()
    for trainer in (BOB, ANN):
        history.add(event("Committed", trainer=trainer, round=3))
    reveal = Reveal(BOB, bytes(range(96)), b"c" * 32)
    history.add(revealed(3, reveal))
    history.add(event("CommitsClosed", round=3, commits=2))
    assert history.round(3).committed == [BOB, ANN]
    assert history.round(3).reveals == [reveal]
    assert history.round(3).revealed == {BOB}
    assert history.round(4) == Round(4)
    assert history.settled == []


def test_settled_rounds_are_listed_oldest_first_without_failed_ones(history):
    records = [Record(5, 0, ONE, 0, 0, False, False), Record(0, 0, 0, 2, 4, False, False)]
    history.add(settled(10, records, b"m" * 32))
    assert [found.number for found in history.settled] == [2, 10]
    last = history.settled[-1].settlement
    assert last.records == records
    assert last.included == (0,)
    assert (last.settler, last.model_cid, last.block) == (ANN, b"m" * 32, 7)
    failed = history.round(1)
    assert (failed.settlement, failed.failed, failed.bond_lost) == (None, b"\x01\x01\x00", 30)


def test_withdrawals_add_up_by_account():
    history = History()
    for account, amount in ((ANN, 5), (BOB, 1), (ANN, 2**80)):
        history.add(event("Withdrawn", account=account, amount=amount))
    assert history.withdrawn == {ANN: 5 + 2**80, BOB: 1}


def test_other_events_change_nothing():
    history = History()
    history.add(event("Bonded", amount=1, opensAt=2))
    assert history.rounds == {}


# ----------------------------------------------------------------------- model


def test_the_implied_commitment_is_that_of_the_next_model(srs, files, history):
    params = params_of(srs, files)
    assert history.model_point(params, 0) == commit(srs, START, 0)
    assert history.model_point(params) == commit(srs, NEXT.values, NEXT.blinding)
    # Later rounds go on from what is known.
    history.add(revealed(3, history.round(2).reveals[2]))
    history.add(settled(3, [weighing(ONE)]))
    point = commit(srs, NEXT.values + ONE * UPDATES[CYD].values.astype(int), NEXT.blinding)
    blinding = combine([commit(srs, np.zeros(1, dtype=np.int16), 13)], [ONE])
    assert history.model_point(params, 2) == combine([point, blinding], [1, 1])
    assert history.model_point(params, 1) == commit(srs, NEXT.values, NEXT.blinding)


def test_a_model_opens_by_itself_and_by_the_step_from_the_one_before(srs):
    before = Model(START, 0)
    point, base = commit(srs, NEXT.values, NEXT.blinding), commit(srs, START, 0)
    wrong = Model(NEXT.values + np.eye(D, dtype=np.int64)[3], NEXT.blinding)
    blinded = Model(NEXT.values, (NEXT.blinding + 1) % R)
    for known in (None, before):
        assert opens_to(srs, NEXT, known, point, base)
        assert not opens_to(srs, wrong, known, point, base)
        assert not opens_to(srs, blinded, known, point, base)


def test_models_are_read_from_their_files_with_a_limit_on_their_size(srs, files, history):
    params = params_of(srs, files)
    for before in (None, Model(START, 0)):
        found = fetch_model(files.read, srs, params, history, 1, before)
        assert found.values.tolist() == NEXT.values.tolist()
        assert found.blinding == NEXT.blinding
    assert fetch_model(files.read, srs, params, history, 0).values.tolist() == START.tolist()


@pytest.mark.parametrize(
    "spoilt", [None, b"rubbish", encode_model(Model(NEXT.values, 1)), bytes(10**6)]
)
@pytest.mark.parametrize("known", [True, False])
def test_a_missing_or_wrong_model_file_is_computed_again(srs, files, history, spoilt, known):
    params = params_of(srs, files)
    key = history.settled[0].settlement.model_cid, MODEL_FILE
    files.pop(key)
    if spoilt is not None:
        files[key] = spoilt
    before = Model(START, 0) if known else None
    found = fetch_model(files.read, srs, params, history, 1, before)
    assert found.values.tolist() == NEXT.values.tolist()
    assert found.blinding == NEXT.blinding


def test_without_file_and_updates_the_error_names_both(srs, files, history):
    params = params_of(srs, files)
    files.pop((history.settled[0].settlement.model_cid, MODEL_FILE))
    files.pop((history.round(2).reveals[1].cid, CONTENT_FILE))
    match = r"after 1 paid rounds .* file: no model\.safetensors; .* updates: no update"
    with pytest.raises(ProofError, match=match):
        fetch_model(files.read, srs, params, history, 1)


def test_updates_that_do_not_give_the_implied_model_are_refused(srs, files, history):
    params = params_of(srs, files)
    files.pop((history.settled[0].settlement.model_cid, MODEL_FILE))
    files[history.round(2).reveals[0].cid, CONTENT_FILE] = pack(UPDATES[CYD])[CONTENT_FILE]
    with pytest.raises(ProofError, match="updates: it is another one than the chain implies"):
        fetch_model(files.read, srs, params, history, 1)


def test_without_the_initial_model_nothing_can_be_had(srs, files, history):
    params = params_of(srs, files)
    files.clear()
    with pytest.raises(ProofError, match="the initial model cannot be had: no model"):
        fetch_model(files.read, srs, params, history, 0)
    files[params.description_cid, MODEL_FILE] = encode_model(NEXT)
    with pytest.raises(ProofError, match="initial model cannot be had: it is another one"):
        fetch_model(files.read, srs, params, history, 0)


def test_defects_of_the_reader_are_not_hidden(srs, files, history):
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch_model(broken, srs, params_of(srs, files), history, 1)


def test_an_update_is_read_as_one_of_the_projects_length(files, history):
    reveal = history.round(2).reveals[0]
    assert fetch_update(files.read, reveal, D, 2).blinding == 11
    with pytest.raises(CodecError, match="to 44 bytes, not 46"):
        fetch_update(files.read, reveal, D + 1, 2)
    with pytest.raises(MissingError, match="larger than"):
        files[reveal.cid, CONTENT_FILE] = bytes(10**5)
        fetch_update(files.read, reveal, D, 2)
