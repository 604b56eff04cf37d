"""Run experiments on simulated trainers, and report what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.paths import ROOT
from marketplace.errors import InputError
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
        Path | None,
        typer.Option(
            help="Lines of JSON to add to; docs/lab/NAME.jsonl by default.", dir_okay=False
        ),
    ] = None,
    data: DataOption = DEFAULT_DATA,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that train each run's clients (convolutional models)."),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="local|HOST:PORT", help="Run on a Ray cluster instead (extra `ray`)."),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="Write all rows as Parquet, too (extra `lab`).", dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do the runs of an experiment that are not in its results yet. Ctrl-C is safe."""
    from deploy.lab.experiment import read_experiment
    from deploy.lab.results import export, read_rows, run_all
    from deploy.lab.runners import by_processes, by_ray

    if ray is not None and (processes, workers) != (1, 1):
        raise InputError("a cluster decides how many run; leave out --processes and --workers")
    os.environ["TRIBUTE_DATA"] = str(data)
    out = Output(as_json)
    cells = read_experiment(file)
    path = results or ROOT / "docs" / "lab" / f"{file.stem}.jsonl"
    count = 0
    runner = by_processes(processes, workers) if ray is None else by_ray(ray)
    for left, row in run_all(cells, path, runner):
        count += 1
        out.note(
            f"{left:5} left  {row['split']}  {row['attack']} {row['attackers']:.0%}  {row['rule']}"
            f"  seed {row['seed']}: accuracy {row['accuracy']:.3f}, {row['seconds']:.1f} s"
        )
    if parquet is not None:
        export(read_rows(path), parquet)
    out.result({"done": count, "results": path}, f"{count} runs done; results in {path}")


@lab_app.command("attack")
def attack_command(
    attack: Annotated[str, typer.Argument(help="NAME or NAME:STRENGTH, such as ipm:0.5.")],
    rule: Annotated[str, typer.Option(help="Rule that decides.")] = "PeelShapley",
    attackers: Annotated[float, typer.Option(help="Part of the clients that attacks.")] = 0.4,
    source: Annotated[
        str, typer.Option(help="Data set of all clients, named as trainers name theirs.")
    ] = "digits",
    split: Annotated[str, typer.Option(help="iid, shards or dirichlet:ALPHA.")] = "dirichlet:0.5",
    clients: Annotated[int, typer.Option(min=1)] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each.")] = 60,
    rounds: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Play one attack against one rule: accuracy, verdicts, and who earns what."""
    from dataclasses import replace

    import torch
    from rich.table import Table

    from deploy.lab.experiment import Cell, check
    from deploy.lab.money import Prices, result_of
    from deploy.lab.plays import find_play
    from deploy.lab.simulate import run

    os.environ["TRIBUTE_DATA"] = str(data)
    torch.set_num_threads(1)
    cell = Cell(
        data=source,
        split=split,
        clients=clients,
        samples=samples,
        rounds=rounds,
        attack=attack,
        attackers=attackers,
        rule=rule,
        seed=seed,
    )
    check("the command", cell)
    find_play(attack)
    table = Table(
        "", "accuracy", "backdoor", "honest out", "others out", "honest net", "others' net"
    )
    rows = []
    for what, played in {
        "nobody": replace(cell, attack="none"),
        attack: cell,
        "averaged": replace(cell, rule="fed-avg"),
        "oracle": replace(cell, rule="oracle"),
    }.items():
        row = run(played)
        honest = clients - played.hostile
        out = [sum(letter != "." for letter in verdicts) for verdicts in row["verdicts"]]
        money = result_of(row, Prices())
        rows.append(row)
        table.add_row(
            what,
            f"{row['accuracy']:.1%}",
            f"{row['success']:.1%}",
            f"{sum(out[:honest])}/{honest * rounds}",
            f"{sum(out[honest:])}/{played.hostile * rounds}",
            f"{money.honest:.2f}",
            "–" if not played.hostile else f"{money.attacker:.2f}",
        )
    Output(as_json).result(rows, table)


@lab_app.command("contribution")
def contribution_command(
    source: Annotated[
        str, typer.Option(help="Data set of all clients; $TRIBUTE_DATA is the folder.")
    ] = "idx:$TRIBUTE_DATA/mnist",
    clients: Annotated[list[int] | None, typer.Option(min=3, help="Clients; 6 and 10.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each.")] = 600,
    rounds: Annotated[
        list[int] | None, typer.Option(min=1, help="Rounds to add up; 3 and 10.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    parts: Annotated[
        list[int] | None, typer.Option(min=2, help="Identities to split a trainer into; 2 and 4.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Lines of JSON to write.", dir_okay=False)] = ROOT
    / "docs"
    / "lab"
    / "contribution.jsonl",
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Compare pay from the Gram matrix, and audits, with exact Shapley values."""
    from itertools import product

    from deploy.lab.contribution import SETTINGS, measure, split_gain
    from deploy.lab.experiment import Cell
    from deploy.lab.results import make_writable, write_rows

    os.environ["TRIBUTE_DATA"] = str(data)
    make_writable(results)
    stops = rounds or [3, 10]
    out, rows, most = Output(as_json), [], max(stops)
    for seed in range(seeds):
        for n in clients or [6, 10]:
            cell = Cell(data=source, clients=n, samples=samples, rounds=most, seed=seed)
            for setting in SETTINGS:
                rows += list(measure(cell, setting, stops))
                out.note(f"{n} clients, seed {seed}, {setting}: done")
        for k, split, longer in product(parts or [2, 4], ["iid", "dirichlet:0.5"], [False, True]):
            cell = Cell(data=source, split=split, samples=samples, rounds=most, seed=seed)
            rows.append(split_gain(cell, k, longer))
            gain, rooted = rows[-1]["gain"], rows[-1]["rooted"]
            out.note(f"split into {k}, seed {seed}, {split}: {gain:.3f}, with a root {rooted:.3f}")
        write_rows(results, rows)
    out.result({"rows": len(rows), "results": results}, f"{len(rows)} rows in {results}")


@lab_app.command("compare")
def compare_command(
    flower: Annotated[
        Path,
        typer.Option(
            help="Python that has Flower 1.42 with its simulation; `make flower` prepares one.",
            exists=True,
            dir_okay=False,
        ),
    ] = ROOT / "build" / "flower" / "bin" / "python",
    turns: Annotated[int, typer.Option(min=1, help="How often each race is run.")] = 3,
    results: Annotated[Path, typer.Option(help="Lines of JSON to write.", dir_okay=False)] = ROOT
    / "docs"
    / "lab"
    / "compare.jsonl",
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Compare rules and simulator with Flower's, and run 1,000 clients."""
    from deploy.lab.compare import CROWDS, MODELS, RACES, crowd_row, race_rows, strategy_rows
    from deploy.lab.results import make_writable, write_rows

    os.environ["TRIBUTE_DATA"] = str(data)
    make_writable(results)
    out = Output(as_json)
    rows: list[dict[str, Any]] = []
    for cell in MODELS:
        rows += ({"part": "strategies", **row} for row in strategy_rows(flower, cell))
        out.note(f"strategies on {cell.model}: done")
    for cell in CROWDS:
        rows.append({"part": "crowd", **crowd_row(cell)})
        out.note(f"{cell.clients:,} clients, {cell.model}: round {rows[-1]['round_s']:.1f} s")
    for turn in range(turns):
        for name, cell in RACES.items():
            for row in race_rows(flower, cell):
                rows.append({"part": "race", "race": name, "turn": turn, **row})
                out.note(
                    f"{name}, {row['racer']}: start {row['start_s']:.1f} s, "
                    f"round {row['round_s']:.3f} s"
                )
            write_rows(results, rows)
    out.result({"rows": len(rows), "results": results}, f"{len(rows)} rows in {results}")


@lab_app.command("report")
def report_command(
    page: Annotated[Path, typer.Argument(help="Page whose tables are made anew.")] = ROOT
    / "docs"
    / "lab.md",
    results: Annotated[Path, typer.Option(help="Folder of the results.", file_okay=False)] = ROOT
    / "docs"
    / "lab",
    plots: Annotated[
        bool, typer.Option(help="Draw the plots, too, as SVG and PNG (extra `lab`).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the tables of docs/lab.md from stored results."""
    from deploy.lab.report import TABLES, fill, plot_accuracy
    from deploy.lab.results import read_lines, read_rows

    files = {path.stem: path for path in sorted(results.glob("*.jsonl"))}
    if not files:
        raise InputError(f"{results} holds no results, *.jsonl; `tribute lab run` makes them")
    found = {name: read_lines(files[name]) if name in files else [] for name in TABLES}
    try:
        before = page.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{page} is no page of text: {error}") from error
    page.write_text(fill(before, found))
    drawn = []
    if plots:
        rows = read_rows(results / "attacks.jsonl")
        chosen = [
            row
            for row in rows
            if row["split"] == "dirichlet:0.5" and row["attackers"] in (0.0, 0.4)
        ]
        for suffix in ("svg", "png"):
            drawn.append(results / f"attacks.{suffix}")
            plot_accuracy(chosen, drawn[-1])
    out = Output(as_json)
    out.result({"page": page, "plots": drawn}, f"{page} has its tables from {len(files)} files")
