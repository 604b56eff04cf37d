"""Read an experiment from one plain file, and spell out the runs that it asks for.

A file is TOML. Each key is a field of `Cell`; where a list stands instead of one value, every
combination is run, except `only`, a list of tables each of which replaces some keys and adds the
runs that follow from them. A run is repeatable from its `Cell` alone.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from marketplace.errors import InputError, unusable_path

__all__ = ["Cell", "check", "read_experiment"]


@dataclass(frozen=True)
class Cell:
    """Describe one run.

    `data` names a data set as trainers name theirs, without part or shard; `samples` is what each
    of `clients` holds; `split` is iid, shards or dirichlet:ALPHA. `model` is `dense:64,64` (hidden
    widths) or one of the trainer's built-in models. `attackers` is the part of the clients that
    plays `attack`, which is written NAME or NAME:STRENGTH. `noise` is
    the multiplier of DP-SGD's noise; 0 trains without.
    """

    data: str = "digits"
    split: str = "iid"
    clients: int = 20
    samples: int = 600
    model: str = "dense:64,64"
    rounds: int = 10
    learning_rate: float = 0.1
    batch_size: int = 10
    epochs: int = 1
    attack: str = "none"
    attackers: float = 0.4
    rule: str = "fed-avg"
    seed: int = 0
    noise: float = 0.0

    @property
    def hostile(self) -> int:
        """Return how many of the clients attack."""
        return 0 if self.attack == "none" else round(self.clients * self.attackers)


_KINDS: dict[str, type] = {field.name: type(field.default) for field in fields(Cell)}


def read_experiment(path: Path) -> list[Cell]:
    """Return the runs of an experiment's file, each once; InputError says what is wrong in it."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        wanted = "an experiment in TOML, such as deploy/lab/experiments/attacks.toml"
        raise unusable_path(error, wanted) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no experiment in TOML: {error}") from error
    only = table.pop("only", [{}])
    if not isinstance(only, list) or not all(isinstance(part, dict) for part in only):
        raise InputError(f"{path}: `only` is a list of tables, written [[only]]")
    cells = [cell for part in only for cell in _spell_out(path, {**table, **part})]
    return list(dict.fromkeys(cells))


def _spell_out(path: Path, table: Mapping[str, Any]) -> list[Cell]:
    choices: list[list[tuple[str, Any]]] = []
    for key, value in table.items():
        kind = _KINDS.get(key)
        if kind is None:
            raise InputError(f"{path}: no key {key!r}; there are {', '.join(_KINDS)} and only")
        options = value if isinstance(value, list) else [value]
        if kind is float:
            options = [float(item) if type(item) is int else item for item in options]
        if not options or any(type(item) is not kind for item in options):
            raise InputError(f"{path}: {key} = {value!r} must be {kind.__name__} or a list of it")
        choices.append([(key, item) for item in options])
    cells = []
    for chosen in itertools.product(*choices):
        cell = Cell(**dict(chosen))
        check(path, cell)
        # Without attackers their number makes no difference.
        cells.append(cell if cell.attack != "none" else _without_attackers(cell))
    return cells


def _without_attackers(cell: Cell) -> Cell:
    return Cell(**{**cell.__dict__, "attackers": 0.0})


def check(where: object, cell: Cell) -> None:
    """Raise InputError, which names `where`, unless the cell's numbers make sense."""
    for name in ("clients", "samples", "rounds", "batch_size", "epochs"):
        if getattr(cell, name) < 1:
            raise InputError(f"{where}: {name} = {getattr(cell, name)} must be at least 1")
    if not 0 <= cell.attackers < 1:
        raise InputError(f"{where}: attackers = {cell.attackers} is a part of the clients, below 1")
    if cell.learning_rate <= 0 or cell.noise < 0:
        raise InputError(f"{where}: learning_rate must be positive and noise not negative")
