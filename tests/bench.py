"""Measure what the project promises, and write build/bench.json and build/bench.md.

`python -m tests.bench [NAME ...]` runs `tests/bench_NAME.py` for each name, or all of them. Such a
module has a function `rows() -> list[Row]` and says in its docstring how it measures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Row", "main", "names", "write"]

FOLDER = Path(__file__).parent
BUILD = FOLDER.parent / "build"

_TARGET = re.compile(r"[≤≥] [0-9.]+")


@dataclass(frozen=True)
class Row:
    """Hold one figure; `target` is empty, or a limit like "≤ 1.25" or "≥ 100" in the same unit."""

    name: str
    value: float
    unit: str
    target: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.target and not _TARGET.fullmatch(self.target):
            raise ValueError(f"target {self.target!r} is not of the form '≤ NUMBER' or '≥ NUMBER'")

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met; None where there is none."""
        if not self.target:
            return None
        limit = float(self.target[2:])
        return self.value <= limit if self.target[0] == "≤" else self.value >= limit


def names() -> list[str]:
    """Return the names of all measurements."""
    return sorted(file.stem.removeprefix("bench_") for file in FOLDER.glob("bench_*.py"))


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def write(folder: Path, measured: dict[str, list[Row]], where: dict[str, Any]) -> None:
    """Write the figures as bench.json and as a Markdown table, bench.md."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": where,
        "measurements": {
            name: [{**asdict(row), "met": row.met} for row in rows]
            for name, rows in measured.items()
        },
    }
    (folder / "bench.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    lines = [
        f"{where['cores']} cores of {where['cpu']}, load {where['load']}, "
        f"Python {where['python']}, {where['date']}.",
        "",
        "| | figure | unit | target | met | note |",
        "|---|---:|---|---|---|---|",
    ]
    lines += [
        f"| {' | '.join(cell.replace('|', '/') for cell in _cells(name, row))} |"
        for name, rows in measured.items()
        for row in rows
    ]
    (folder / "bench.md").write_text("\n".join(lines) + "\n")


def _cells(name: str, row: Row) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[row.met]
    return f"{name}: {row.name}", _shown(row.value), row.unit, row.target, met, row.note


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def main(arguments: Sequence[str]) -> int:
    """Measure what the arguments name and return the exit code of the shell."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    chosen = parser.parse_args(arguments).names or names()
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(names())}")
    where = machine()
    measured: dict[str, list[Row]] = {}
    console = Console(highlight=False)
    for name in chosen:
        began = time.monotonic()
        console.print(f"[bold]{name}[/]")
        measured[name] = importlib.import_module(f"tests.bench_{name}").rows()
        # After each, so that an interrupted run leaves what it has.
        write(BUILD, measured, where)
        table = Table("", "figure", "unit", "target", "met", "note", box=None)
        for row in measured[name]:
            table.add_row(*_cells(name, row))
        console.print(table)
        console.print(f"  {time.monotonic() - began:.0f} s\n")
    console.print(f"written to {BUILD.name}/bench.json and {BUILD.name}/bench.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
