"""Remember what a trainer committed to, in files that outlive its process.

A chain can forget: one that is killed goes on from an older state, and blocks are reorganised. A
trainer commits to and reveals the same updates again in the rounds that come back.
"""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketplace.types import Reveal
from trainer.errors import JournalError

__all__ = ["KEPT_ROUNDS", "Entry", "Journal"]

# A damaged archive may ask for a method, a version or a password that there is not: RuntimeError.
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError),
    *(RuntimeError, zlib.error, zipfile.BadZipFile),
)

KEPT_ROUNDS = 3
"""How many rounds are remembered: the current one, and two that a chain may forget."""


@dataclass(frozen=True, eq=False)
class Entry:
    """Remember the update of a round: what was committed to, and the remainder f64[d].

    `model` is the commitment to the model that it was trained from.
    """

    round: int
    reveal: Reveal
    model: bytes
    remainder: NDArray[np.float64]


class Journal:
    """Keep the last rounds' entries, each in a file that is replaced as a whole, for one process.

    A round's number modulo `KEPT_ROUNDS` names its file, so that a new round takes the oldest's.
    Raises JournalError where another process holds the journal, or an entry is no such thing.
    """

    def __init__(self, folder: Path, name: str, dimension: int) -> None:
        self.folder = folder
        self._name = name
        self._dimension = dimension
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise JournalError(
                f"another process trains for this account and project: it holds {folder / name}. "
                "Two would commit to one update and reveal another"
            ) from None
        try:
            # Earlier versions kept one round, in a file without a number.
            single = folder / f"{name}.npz"
            if single.exists():
                single.replace(self._file(self._read(single).round))
            files = [self._file(k) for k in range(KEPT_ROUNDS)]
            found = [self._read(file) for file in files if file.exists()]
        except JournalError:
            self.close()
            raise
        self._entries = {entry.round: entry for entry in found}

    def close(self) -> None:
        """Let another process have the journal."""
        os.close(self._lock)

    def get(self, round_number: int) -> Entry | None:
        """Return a round's entry, if it is remembered."""
        return self._entries.get(round_number)

    def before(self, round_number: int) -> Entry | None:
        """Return the last entry before a round, if one is remembered."""
        earlier = [number for number in self._entries if number < round_number]
        return self._entries[max(earlier)] if earlier else None

    def count_from(self, round_number: int) -> int:
        """Return how many entries there are of a round and those after it."""
        return sum(number >= round_number for number in self._entries)

    def write(self, entry: Entry) -> None:
        """Put an entry in the place of its round's or an older one, on disk when this returns."""
        head = {
            "round": entry.round,
            "trainer": entry.reveal.trainer,
            "point": entry.reveal.point.hex(),
            "cid": entry.reveal.cid.hex(),
            "spent_milli": entry.reveal.spent_milli,
            "model": entry.model.hex(),
        }
        new = self.folder / f"{self._name}.new"
        with new.open("wb") as stream:
            text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
            np.savez(stream, head=text, remainder=entry.remainder)
            stream.flush()
            os.fsync(stream.fileno())
        file = self._file(entry.round)
        new.replace(file)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        kept = {n: e for n, e in self._entries.items() if self._file(n) != file}
        self._entries = {**kept, entry.round: entry}

    def _file(self, round_number: int) -> Path:
        return self.folder / f"{self._name}.{round_number % KEPT_ROUNDS}.npz"

    def _read(self, file: Path) -> Entry:
        try:
            # `np.load` keeps a damaged file open, and takes a text for a pickle.
            with zipfile.ZipFile(file) as archive:
                head = json.loads(_member(archive, "head").tobytes())
                remainder = _member(archive, "remainder")
            point, cid = bytes.fromhex(head["point"]), bytes.fromhex(head["cid"])
            reveal = Reveal(head["trainer"], point, cid, int(head["spent_milli"]))
            model = bytes.fromhex(head.get("model", ""))
            entry = Entry(int(head["round"]), reveal, model, remainder)
        except _DAMAGED as error:
            raise JournalError(
                f"the journal {file} cannot be read ({error}); move it away, and what was "
                "committed to in its round but not yet revealed is lost"
            ) from error
        if remainder.shape != (self._dimension,) or remainder.dtype != np.float64:
            raise JournalError(
                f"the journal {file} holds {remainder.dtype}{list(remainder.shape)}, the "
                f"project has {self._dimension} parameters; move it away"
            )
        return entry


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
