"""Run experiments on simulated trainers, and report what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from deploy.paths import ROOT
from marketplace.terminal import JsonOption, Output

__all__ = ["lab_app"]

EXPERIMENTS = Path(__file__).parent / "experiments"

lab_app = typer.Typer(no_args_is_help=True, help="Try rules, attacks and payments in simulation.")

DataOption = Annotated[
    Path,
    typer.Option(
        envvar="TRIBUTE_DATA",
        help="Folder that $TRIBUTE_DATA in an experiment's data stands for.",
        file_okay=False,
    ),
]
DEFAULT_DATA = ROOT.parent / "shared" / "data"


@lab_app.command("run")
def run_command(
    file: Annotated[Path, typer.Argument(help="Experiment, in TOML.")],
    results: Annotated[
        Path | None, typer.Option(help="Lines of JSON to add to; docs/lab/NAME.jsonl by default.")
    ] = None,
    data: DataOption = DEFAULT_DATA,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    parquet: Annotated[
        Path | None, typer.Option(help="Write all rows as Parquet, too (extra `lab`).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do the runs of an experiment that are not in its results yet. Ctrl-C is safe."""
    from deploy.lab.experiment import read_experiment
    from deploy.lab.results import export, read_rows, run_all

    os.environ["TRIBUTE_DATA"] = str(data)
    out = Output(as_json)
    cells = read_experiment(file)
    path = results or ROOT / "docs" / "lab" / f"{file.stem}.jsonl"
    count = 0
    for left, row in run_all(cells, path, processes):
        count += 1
        out.note(
            f"{left:5} left  {row['split']}  {row['attack']} {row['attackers']:.0%}  {row['rule']}"
            f"  seed {row['seed']}: accuracy {row['accuracy']:.3f}, {row['seconds']:.1f} s"
        )
    if parquet is not None:
        export(read_rows(path), parquet)
    out.result({"done": count, "results": path}, f"{count} runs done; results in {path}")
