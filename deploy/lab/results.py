"""Keep what was measured: one line of JSON a run, written when the run ends.

An experiment that was interrupted goes on where it stopped. `export` writes the same rows as
Parquet, for those who analyse them elsewhere; what is kept in the repository is text, so that a
change of results can be read.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from deploy.lab.experiment import Cell
from deploy.lab.runners import Row, Runner
from marketplace.errors import InputError

__all__ = ["export", "make_writable", "read_lines", "read_rows", "run_all", "write_rows"]

_FIELDS = [field.name for field in fields(Cell)]


def read_lines(path: Path) -> list[Row]:
    """Return the objects of a file, one a line; an interrupted last line is left out."""
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}, is no result: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}, is no result: no object")
        rows.append(row)
    return rows


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of runs."""
    rows = read_lines(path)
    for number, row in enumerate(rows, 1):
        try:
            Cell(**{name: row[name] for name in _FIELDS})
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}, is no result: {error}") from error
    return rows


def run_all(cells: Sequence[Cell], path: Path, runner: Runner) -> Iterator[tuple[int, Row]]:
    """Run the cells that `path` lacks, append each result, and yield how many are left, and it.

    Brings the lines into the order of the cells when all are done, whichever ended first.
    InputError while another process writes to the file.
    """
    make_writable(path)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run writes to {path}; wait, or name other --results"
            ) from None
        _cut_torn_line(path)
        done = {_key(row) for row in read_rows(path)}
        todo = [cell for cell in cells if _key(asdict(cell)) not in done]
        for left, row in zip(range(len(todo) - 1, -1, -1), runner(todo), strict=True):
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield left, row
        place = {_key(asdict(cell)): at for at, cell in enumerate(cells)}
        write_rows(path, sorted(read_rows(path), key=lambda row: place.get(_key(row), len(place))))


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in _FIELDS)


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def make_writable(path: Path) -> None:
    """Find out before anything is measured that a file cannot be written; OSError then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a"):
        pass


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows in place of what the file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    new.replace(path)


def export(rows: Sequence[Row], path: Path) -> None:
    """Write rows as Parquet; needs the extra `lab`."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
