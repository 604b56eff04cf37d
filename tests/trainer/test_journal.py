"""What trainers remember: the last rounds, whatever happened to the process and the files."""

import json
from pathlib import Path

import numpy as np
import pytest

from marketplace.types import Reveal
from trainer.errors import JournalError
from trainer.journal import Entry, Journal

NAME = "project-trainer"
DIMENSION = 5


def entry(number: int, mark: int = 0) -> Entry:
    """Return an entry of a round that `mark` tells from others of the same round."""
    reveal = Reveal("0xa", bytes([number, mark]) * 48, bytes([number]) * 32, 10 * number)
    return Entry(number, reveal, bytes([mark]) * 96, np.full(DIMENSION, number + mark / 256))


def opened(folder: Path) -> Journal:
    """Return the journal as a new process finds it."""
    journal = Journal(folder, NAME, DIMENSION)
    journal.close()
    return journal


def remembers(journal: Journal, number: int, mark: int = 0) -> bool:
    found, wanted = journal.get(number), entry(number, mark)
    if found is None:
        return False
    assert found.remainder.tolist() == wanted.remainder.tolist()
    return (found.reveal, found.model) == (wanted.reveal, wanted.model)


def test_the_last_three_rounds_are_kept_and_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    for number in range(1, 8):
        journal.write(entry(number))
    journal.close()
    for found in (journal, opened(tmp_path)):
        assert [number for number in range(1, 9) if remembers(found, number)] == [5, 6, 7]
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_a_round_that_comes_back_takes_the_place_of_the_one_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    for number in (4, 5, 6):
        journal.write(entry(number))
    journal.write(entry(5, mark=1))
    journal.close()
    found = opened(tmp_path)
    assert remembers(found, 4) and remembers(found, 5, mark=1) and remembers(found, 6)
    assert [found.count_from(number) for number in (4, 5, 6, 7)] == [3, 2, 1, 0]


def test_what_rounding_left_over_is_taken_from_the_round_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    assert journal.before(1) is None
    for number in (4, 5, 6):
        journal.write(entry(number))
    before = [journal.before(number) for number in (4, 5, 6, 7, 9)]
    assert [found and found.round for found in before] == [None, 4, 5, 6, 6]
    # The chain forgot more than is remembered: what is of later rounds is of no use.
    journal.write(entry(2))
    last = journal.before(3)
    assert last is not None and last.round == 2
    journal.close()


def test_a_half_written_entry_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    journal.write(entry(1))
    journal.close()
    whole = (tmp_path / f"{NAME}.1.npz").read_bytes()
    (tmp_path / f"{NAME}.new").write_bytes(whole[: len(whole) // 2])
    again = Journal(tmp_path, NAME, DIMENSION)
    assert remembers(again, 1) and again.get(2) is None
    again.write(entry(2))
    again.close()
    assert remembers(opened(tmp_path), 2)


def test_the_only_entry_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    head = {"round": 7, "trainer": "0xa", "point": "07" * 96, "cid": "08" * 32, "spent_milli": 9}
    text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(tmp_path / f"{NAME}.npz", head=text, remainder=np.arange(5.0))
    for _ in range(2):
        found = opened(tmp_path).get(7)
        assert found is not None
        assert found.reveal == Reveal("0xa", b"\x07" * 96, b"\x08" * 32, 9)
        assert found.remainder.tolist() == [0, 1, 2, 3, 4]
        assert found.model == b"", "which is no model's commitment"
        assert not (tmp_path / f"{NAME}.npz").exists()


@pytest.mark.parametrize("name", [f"{NAME}.2.npz", f"{NAME}.npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder", "keys"])
def test_a_damaged_entry_is_refused_by_the_name_of_its_file(
    tmp_path: Path, name: str, damage: str
) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    journal.write(entry(2))
    journal.close()
    whole = (tmp_path / f"{NAME}.2.npz").read_bytes()
    file = tmp_path / name
    file.unlink(missing_ok=True)
    if damage == "folder":
        file.mkdir()
    elif damage == "keys":
        np.savez(file, head=np.frombuffer(b"{}", dtype=np.uint8), remainder=np.zeros(DIMENSION))
    else:
        file.write_bytes({"cut": whole[:-30], "empty": b"", "text": b"round = 2\n"}[damage])
    with pytest.raises(JournalError, match=rf"{name} cannot be read .*; move it away"):
        opened(tmp_path)
    file.rename(tmp_path / "away")
    opened(tmp_path).get(2)


def test_any_wrong_byte_is_refused_by_name_or_does_not_matter(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    journal.write(entry(2))
    journal.close()
    file = tmp_path / f"{NAME}.2.npz"
    whole = file.read_bytes()
    refused = 0
    for at in range(len(whole)):
        for flip in (1, 8, 255):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                opened(tmp_path)
            except JournalError:
                refused += 1
    assert refused > len(whole)


def test_an_entry_of_another_model_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, NAME, DIMENSION)
    journal.write(entry(1))
    journal.close()
    with pytest.raises(JournalError, match=r"holds float64\[5\], the project has 6 parameters"):
        Journal(tmp_path, NAME, 6)
