"""Show the whole market: `tribute demo`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from marketplace.errors import InputError, NotFoundError
from marketplace.terminal import JsonOption, Money, Output
from marketplace.types import Exclusion

if TYPE_CHECKING:
    from torch import nn

    from api.server import Server
    from deploy.scenario import Balance, Market
    from marketplace.audit import Report
    from marketplace.history import Round
    from trainer.data import Dataset

__all__ = ["demo"]

DEMO_HOME = Path(".tribute/demo")
_LARGE = 1 << 15
_ROOT_SAMPLES = 100
_INDEX = ("index.db", "index.db-shm", "index.db-wal")
_MARKS = "Scores: a trainer's part of the pot in %; x outlier, - left out, · absent."
_STAGES = {
    "training": "train",
    "committed": "commit",
    "revealed": "reveal",
    "fetched": "fetch",
    "proving": "prove",
    "settled": "settle",
}


def demo(
    trainers: Annotated[int, typer.Option(help="Honest trainers.", min=1, max=128)] = 6,
    attackers: Annotated[int, typer.Option(help="Attackers.", min=0, max=64)] = 2,
    attacks: Annotated[
        str, typer.Option(help="What attackers do, in turn: see trainer/attacks.py.")
    ] = "sign-flip,free-ride",
    root: Annotated[
        bool,
        typer.Option(
            "--root",
            help="Let the sponsor take part as the root trainer: with 100 clean samples it says "
            "what the others' updates are worth.",
        ),
    ] = False,
    rounds: Annotated[int, typer.Option(help="Rounds to pay.", min=1)] = 5,
    data: Annotated[
        str, typer.Option(help="Data set to divide among the trainers, e.g. idx:FOLDER.")
    ] = "digits",
    model: Annotated[
        str | None,
        typer.Option(
            help="Built-in model; one that fits the data if not given.", show_default=False
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Local epochs a round.", min=1)] = 2,
    batch_size: Annotated[int, typer.Option(help="Samples a local step.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Local learning rate.")] = 0.1,
    workers: Annotated[
        int | None,
        typer.Option(help="Trainer processes; one a core if not given.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of models and training.")] = 0,
    home: Annotated[
        Path, typer.Option(help="Folder of the demo; emptied when one starts.", file_okay=False)
    ] = DEMO_HOME,
    serve: Annotated[
        bool | None,
        typer.Option(
            "--serve/--no-serve",
            help="Show it all in a dashboard until Ctrl-C; the default in a terminal.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole market on a local chain: fund, train, attack, settle, pay, slash, withdraw."""
    from deploy.deployment import DEFAULT_SRS_SIZE, ensure_srs
    from deploy.devnet import down, pick_port, up
    from deploy.scenario import running_market
    from ipfs.reader import reader
    from marketplace.audit import audit

    out = Output(as_json)
    _clear(home)
    out.note(f"[bold]Tribute[/]: {trainers} honest trainers, {attackers} attackers, {data}")
    scenario, module, test = _scenario(
        trainers,
        attackers,
        attacks.split(","),
        root,
        rounds,
        data,
        model,
        seed,
        workers or _cores(),
        {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
    )
    with _bars(out.notes) as bars:
        setup = bars.add_task("reference string", total=DEFAULT_SRS_SIZE)
        size = max(DEFAULT_SRS_SIZE, _size(module) + 8)
        srs = ensure_srs(home, size, lambda done, of: bars.update(setup, completed=done, total=of))
    devnet = up(home, pick_port())
    showing = ExitStack()
    if serve is None:
        serve = sys.stdout.isatty() and not as_json
    try:
        out.note(f"anvil answers at {devnet.rpc}; deploying (compiling takes half a minute, once)")
        with running_market(devnet.rpc, home, srs, scenario) as market:
            out.note(f"project 0x{market.view.project.hex()} is funded")
            server = showing.enter_context(_dashboard(market, home)) if serve else None
            if server is not None:
                out.note(f"watch it live at [bold]{server.url}[/]")
            accuracies = _watch(market, module, test, out)
            balances = market.settle_up()
            read = reader(market.store)
            check = audit(market.view.chain, market.view.project, read, srs)
            left = market.view.chain.token_balance(
                market.view.params.token, market.view.chain.deployment.marketplace
            )
        data_out = {
            "project": f"0x{market.view.project.hex()}",
            "status": market.view.state.status.name.lower(),
            "accuracy": accuracies,
            "rounds": [_round_row(market, found) for found in market.view.history.settled],
            "balances": [{**asdict(balance), "good": balance.good} for balance in balances],
            "left_in_contract": left,
            "verified": {verdict: len(check.of(verdict)) for verdict in ("good", "bad", "unknown")},
            "home": str(home),
        }
        out.result(data_out, _report(market, balances, left, check, home))
        if server is not None:
            with suppress(KeyboardInterrupt):
                out.note(f"\nThe dashboard shows this run at [bold]{server.url}[/] until Ctrl-C.")
                server.wait()
    finally:
        showing.close()
        down(home)
    if server is not None:
        out.note("stopped")
    if left or not all(balance.good for balance in balances) or not _is_clean(check):
        raise typer.Exit(1)


def _dashboard(market: Market, home: Path) -> AbstractContextManager[Server]:
    """Serve the dashboard at its usual port if that is free, else at another one."""
    from api.app import Settings
    from api.cli import PORT
    from api.server import running_server
    from deploy.devnet import is_taken

    port = 0 if is_taken(PORT) else PORT
    chain = market.view.chain
    return running_server(home, chain, None, "127.0.0.1", port, Settings())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _clear(home: Path) -> None:
    """Empty the folder of the last demo; only its reference string, which is dear, stays."""
    from deploy.devnet import down

    try:
        down(home)
    except NotFoundError:
        pass
    for entry in ("accuracy", "ipfs", "journal"):
        shutil.rmtree(home / entry, ignore_errors=True)
    for entry in ("deployment.json", "devnet-state.json", *_INDEX):
        (home / entry).unlink(missing_ok=True)


def _scenario(
    trainers: int,
    attackers: int,
    attacks: list[str],
    root: bool,
    rounds: int,
    data: str,
    model: str | None,
    seed: int,
    workers: int,
    training: dict[str, Any],
) -> tuple[Any, nn.Module, Dataset]:
    from deploy.opening import Terms
    from deploy.scenario import Scenario
    from marketplace.codec import Description, Training
    from trainer.attacks import BEHAVIOURS
    from trainer.data import load
    from trainer.models import build
    from trainer.training import check_fits

    unknown = [attack for attack in attacks if attack not in BEHAVIOURS]
    if unknown:
        raise InputError(f"no attack {unknown[0]!r}; there are {', '.join(BEHAVIOURS)}")
    if "#" in data or "@" in data:
        raise InputError(f"name a whole data set, not a part or shard of one: {data!r}")
    count = trainers + attackers
    test = load(f"{data}#test")
    name, options = _model_for(model, test)
    module = build(name, options, seed)
    check_fits(module, test)
    terms = Terms(
        description=Description(
            title=f"Demo: {data}",
            model=name,
            summary="A market that runs by itself on one machine.",
            model_options=options,
            training=Training(**training),
        ),
        aggregator="",
        slash_sink="",
        rounds=rounds,
        capacity=count,
        min_updates=max(2 if root else 1, count // 2),
        seed=seed,
    )
    behaviours = ["honest"] * trainers + [attacks[k % len(attacks)] for k in range(attackers)]
    parts = count + root
    shards = [f"{data}@{k}/{parts}" for k in range(count)]
    few = f"{data}{'&' if '?' in data else '?'}most={_ROOT_SAMPLES}@{count}/{parts}"
    # Starting processes takes longer than small proofs.
    provers = workers if _size(module) > _LARGE else 1
    scenario = Scenario(
        terms, shards, behaviours, workers, provers, seed, root=few if root else None
    )
    return scenario, module, test


def _model_for(model: str | None, test: Dataset) -> tuple[str, dict[str, int | float | str]]:
    shape = tuple(test.features.shape[1:])
    image = len(shape) == 3 and shape[1] == shape[2] == 28
    name = model or ("lenet5" if image else "mlp")
    if name in ("lenet5", "cnn"):
        return name, {"channels": shape[0], "size": shape[-1], "classes": test.classes}
    features = 1
    for side in shape:
        features *= side
    return name, {"features": features, "classes": test.classes}


def _size(module: nn.Module) -> int:
    from trainer.models import dimension

    return dimension(module)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:<22}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


def _watch(market: Market, module: nn.Module, test: Dataset, out: Output) -> list[float]:
    """Show bars for the stages of the current round and a line a settled one."""
    total = len(market.trainers)
    accuracies = [_accuracy(market, module, test, 0)]
    out.note(f"accuracy of the initial model {accuracies[0]:.1%}\n")
    out.note(f"  {_MARKS}")
    out.note(
        f"  {'round':>5}  {'accuracy':<17}  "
        + "".join(f"{k:>{_wide(total)}}" for k in range(total))
        + "  paid, slashed"
    )
    with _bars(out.notes) as bars:
        tasks = {
            stage: bars.add_task(
                text, total=1 if stage in ("proving", "settled") else len(market.actors)
            )
            for stage, text in _STAGES.items()
        }
        shown, seen = 0, Counter[tuple[str, int]]()
        for notice in market.follow():
            if notice.of:
                bars.update(tasks[notice.stage], completed=notice.done, total=notice.of)
            elif notice.stage in tasks:
                # Trainers begin the next round while this one is proven.
                seen[notice.stage, notice.round] += 1
                done = seen[notice.stage, market.view.state.round]
                bars.update(tasks[notice.stage], completed=done)
            if notice.stage == "settled" or len(market.view.history.settled) > shown:
                shown = _show_settled(market, module, test, bars, accuracies, shown)
                for stage, task in tasks.items():
                    bars.reset(task, completed=seen[stage, market.view.state.round])
        _show_settled(market, module, test, bars, accuracies, shown)
    return accuracies


def _show_settled(
    market: Market,
    module: nn.Module,
    test: Dataset,
    bars: Progress,
    accuracies: list[float],
    shown: int,
) -> int:
    market.view.refresh()
    settled = market.view.history.settled
    for found in settled[shown:]:
        accuracies.append(_accuracy(market, module, test, len(accuracies)))
        row = _round_row(market, found)
        bar = "█" * round(10 * accuracies[-1])
        total = len(market.trainers)
        scores = "".join(_score(row["trainers"].get(k), total) for k in range(total))
        root = f", root {row['root']}" if row["root"] else ""
        bars.console.print(
            f"  {row['round']:>5}  [green]{bar:<10}[/] {accuracies[-1]:>6.1%}  {scores}  "
            f"{_tokens(market, row['paid'])}, {_tokens(market, row['slashed'])}{root}",
            soft_wrap=True,
        )
    return len(settled)


def _wide(trainers: int) -> int:
    """Return the width of a trainer's column: eight fit a line of 80."""
    return 4 if trainers <= 8 else 3


def _score(row: dict[str, Any] | None, trainers: int) -> str:
    width = _wide(trainers)
    if row is None:
        return f"[dim]{'·':>{width}}[/]"
    if row["outlier"]:
        return f"[bold red]{'x':>{width}}[/]"
    return f"{'-':>{width}}" if row["reason"] else f"{round(100 * row['part']):>{width}}"


def _accuracy(market: Market, module: nn.Module, test: Dataset, settled: int) -> float:
    """Measure a model, and publish its accuracy as the sponsor."""
    from deploy.evaluate import stated
    from deploy.scenario import SPONSOR
    from ipfs.reader import reader
    from marketplace.accuracy import publish
    from marketplace.codec import to_float
    from marketplace.wallet import dev_account
    from trainer.training import evaluate

    view = market.view
    model = view.model(reader(market.store), market.srs, settled)
    right = evaluate(module, to_float(model.values, view.params.step_bits), test).accuracy
    name = f"{market.scenario.data[0].partition('@')[0]}#test"
    publish(
        market.home,
        stated(view, settled, right, len(test), name, int(time.time())),
        view.chain.deployment,
        dev_account(SPONSOR),
    )
    return right


def _round_row(market: Market, found: Round) -> dict[str, Any]:
    """Return what a round brought; `trainers` are counted from 0, `part` is a share of the pot."""
    from deploy.show import root_word
    from marketplace.wallet import dev_account

    assert found.settlement is not None
    numbers = {str(dev_account(number).address): k for k, number in enumerate(market.trainers)}
    records = found.settlement.records
    trainers = {
        numbers[reveal.trainer]: {
            "part": record.share / market.view.params.reward,
            "share": record.share,
            "slashed": record.slashed,
            "outlier": record.outlier,
            "reason": Exclusion.word(record.reason),
        }
        for reveal, record in zip(found.reveals, records, strict=True)
        if reveal.trainer != market.view.params.root
    }
    return {
        "round": found.number,
        "root": root_word(market.view.params, found),
        "trainers": dict(sorted(trainers.items())),
        "outliers": sorted(k for k, row in trainers.items() if row["outlier"]),
        "paid": sum(record.share for record in records),
        "slashed": sum(record.slashed for record in records),
        "transaction": found.settlement.transaction,
    }


def _tokens(market: Market, units: int) -> str:
    return Money.of(market.view.chain, market.view.params.token).number(units)


def _is_clean(check: Report) -> bool:
    return not check.of("bad") and not check.of("unknown")


def _signed(market: Market, units: int) -> str:
    colour = "green" if units > 0 else "red" if units < 0 else "dim"
    return f"[{colour}]{'+' if units > 0 else ''}{_tokens(market, units)}[/]"


def _report(market: Market, balances: list[Balance], left: int, check: Report, home: Path) -> Group:
    from deploy.scenario import FIRST_TRAINER, SPONSOR

    table = Table("", "behaviour", "before", "after", "won or lost", "records say")
    for balance in balances:
        k = balance.who - FIRST_TRAINER
        behaviour = market.scenario.behaviours[k] if k >= 0 else ""
        if balance.who == SPONSOR and market.scenario.root:
            behaviour = "root trainer"
        gain = balance.after - balance.before
        table.add_row(
            balance.role,
            behaviour,
            *(_tokens(market, units) for units in (balance.before, balance.after)),
            _signed(market, gain),
            "same" if balance.good else f"[bold red]{_tokens(market, balance.expected)}[/]",
        )
    total = sum(balance.after - balance.before for balance in balances)
    table.add_section()
    table.add_row("all of them", "", "", "", _tokens(market, total), "")
    table.add_row("in the contract", "", "", "", _tokens(market, left), "")
    good = not left and not total and all(balance.good for balance in balances)
    project = f"0x{market.view.project.hex()[:10]}"
    proofs = sum(found.check == "proof" for found in check.of("good"))
    lines = [
        f"[green]All {proofs} rounds were proven, and all {len(check.of('good'))} checks of every "
        "settlement, score, payment and model hold.[/]"
        if _is_clean(check)
        else "[bold red]Something does NOT check; see `tribute verify`.[/]",
        "[green]The balance sheet reconciles to the last unit.[/]"
        if good
        else "[bold red]The balance sheet does NOT reconcile.[/]",
        "",
        "Look up each figure in the saved chain:",
        f"  tribute devnet up --home {home}",
        f"  tribute rewards {project} --home {home}       # pay and stakes",
        f"  tribute project show {project} --home {home}  # every round",
        f"  tribute verify {project} --home {home}        # every proof",
        f"  tribute devnet down --home {home}",
    ]
    return Group(table, *lines)
