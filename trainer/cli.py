"""Take part as a trainer, and look at and take what one has earned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from marketplace.errors import InputError
from marketplace.telemetry import (
    LogOption,
    MetricsPortOption,
    RoleTelemetry,
    configure_logging,
    serving_metrics,
)
from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    IpfsOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Money,
    Output,
    ProjectArgument,
    RpcOption,
    open_chain,
    open_signer,
)

if TYPE_CHECKING:
    from marketplace.history import ProjectView

__all__ = ["rewards", "trainer_app", "withdraw"]

_POLL_S = 0.2

trainer_app = typer.Typer(no_args_is_help=True, help="Join a project, train for it, leave it.")


@trainer_app.command("join")
def join(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deposit the stake, publish the account's encryption key, and become an active trainer."""
    from marketplace.sealing import encryption_key, public_bytes

    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    params = chain.params(found)
    signer.fund_on_devnet(params.token, params.stake)
    key = public_bytes(encryption_key(signer.account, chain.deployment))
    receipt = signer.join(found, params, key)
    index = chain.account(found, signer.address).index
    Output(as_json).result(
        {"trainer": signer.address, "index": index, "transaction": receipt.transaction},
        f"{signer.address} is trainer {index}; go on with `tribute trainer run {project}`",
    )


@trainer_app.command("run")
def run_command(
    project: ProjectArgument,
    data: Annotated[
        str,
        typer.Option(
            help="Data set: digits, npz:FILE, csv:FILE, images:FOLDER, idx:FOLDER or "
            "module:function; #train or #test picks a part, @1/8 a shard."
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    ipfs: IpfsOption = None,
    behaviour: Annotated[
        str, typer.Option(help="honest, or an attack to try the market with.")
    ] = "honest",
    seed: Annotated[int, typer.Option(help="Seed of sample order and rounding.")] = 0,
    encoding: Annotated[
        str,
        typer.Option(
            help="How updates travel: int16; int8, coarser and smaller; plain safetensors."
        ),
    ] = "int16",
    noise: Annotated[
        float,
        typer.Option(
            help="Noise of differential privacy, as a multiple of --sample-clip; 0 for none."
        ),
    ] = 0.0,
    sample_clip: Annotated[
        float, typer.Option(help="Largest L2 norm of one sample's gradient, with --noise.")
    ] = 1.0,
    delta: Annotated[
        float, typer.Option(help="Probability that the ε spent does not hold, with --noise.")
    ] = 1e-5,
    ahead: Annotated[
        bool,
        typer.Option(
            help="Train for the next round while this one is proven; fetches everybody's updates."
        ),
    ] = True,
    allow_code: Annotated[
        bool, typer.Option(help="Run the module that the project names as its model.")
    ] = False,
    metrics_port: MetricsPortOption = None,
    log: LogOption = "text",
    as_json: JsonOption = False,
) -> None:
    """Join if need be, and train round by round until the project ends. Ctrl-C is safe.

    An account that the project names as its root trainer takes part without joining: no stake, no
    pay. Its update says what the others' are worth.
    """
    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    out = Output(as_json)
    configure_logging(log)

    import torch

    from ipfs.select import open_store
    from marketplace.history import ProjectView
    from marketplace.proof.srs import Srs
    from marketplace.types import Membership
    from marketplace.wire import CONTENT_TYPES
    from trainer.attacks import BEHAVIOURS
    from trainer.client import TrainerClient
    from trainer.data import load
    from trainer.privacy import Privacy

    if behaviour not in BEHAVIOURS:
        raise InputError(f"no behaviour {behaviour!r}; there are {', '.join(BEHAVIOURS)}")
    if encoding not in CONTENT_TYPES:
        raise InputError(f"no encoding {encoding!r}; there are {', '.join(CONTENT_TYPES)}")
    torch.set_num_threads(1)
    view = ProjectView(chain, found)
    money = Money.of(chain, view.params.token)
    is_root = signer.address == view.params.root_trainer
    if chain.account(found, signer.address).membership == Membership.NONE and not is_root:
        signer.fund_on_devnet(view.params.token, view.params.stake)
    telemetry = RoleTelemetry(
        "trainer", found, signer.address, lambda text: out.note(escape(text)), log == "json"
    )
    client = TrainerClient(
        view,
        signer,
        open_store(home / "ipfs", ipfs or ()),
        Srs.open(chain.deployment.srs_path(home)),
        load(data),
        home / "journal",
        behaviour=behaviour,
        seed=seed,
        allow_code=allow_code,
        encoding=encoding,  # type: ignore[arg-type]
        ahead=ahead,
        privacy=Privacy(noise, sample_clip, delta) if noise else None,
        notify=telemetry.notify,
    )
    title = escape(client.description.title)
    role = "root trainer" if is_root else "trainer"
    out.note(f"{title}: {len(client.dataset)} samples, {role} {signer.address}")
    told = len(view.history.settled)

    def tell() -> int:
        for settled in view.history.settled[told:]:
            out.note(_told(view, settled.number, signer.address, money))
        return len(view.history.settled)

    with serving_metrics(telemetry.registry, metrics_port):
        while not (view.ended or client.out):
            if not client.step():
                time.sleep(_POLL_S)
            telemetry.looked(view.state.round, view.state.settled_rounds)
            view.refresh()
            told = tell()
    account = chain.account(found, signer.address)
    status = view.state.status.name.lower() if view.ended else account.membership.name.lower()
    if is_root:
        text = f"the project has {status}; as its root trainer you were not paid"
        out.result({"trainer": signer.address, "status": status, "root": True}, text)
        return
    what = f"the project has {status}" if view.ended else f"you are {status} and train no more"
    out.result(
        {
            "trainer": signer.address,
            "status": status,
            "credit": account.credit,
            "stake": account.stake,
            "spent_milli": account.spent_milli,
        },
        f"{what}; {money.text(account.credit)} of credit and {money.text(account.stake)} of stake "
        f"are yours: `tribute trainer leave {project}`, then `tribute withdraw {project}`",
    )


def _told(view: ProjectView, number: int, address: str, money: Money) -> str:
    row = next((row for row in _rows(view, address) if row["round"] == number), None)
    if row is None:
        return f"round {number}  settled without an update of yours"
    if row["reason"]:
        return f"round {number}  settled: your update was left out ({row['reason']})"
    if row["root"] == "set aside":
        return f"round {number}  settled: your root update contradicts the majority, set aside"
    if row["root"]:
        return f"round {number}  settled: your root update divided the pot"
    if row["outlier"]:
        lost, strikes = money.text(row["slashed"]), row["strikes"]
        return f"round {number}  settled: outlier, {lost} of stake lost, strike {strikes}"
    if not row["weight"]:
        return f"round {number}  settled: your update was set aside, without pay or penalty"
    paid, weight = money.text(row["share"]), row["weight"] / 2**16
    return f"round {number}  settled: paid {paid} for a weight of {weight:.3f}"


def _rows(view: ProjectView, address: str | None) -> list[dict[str, Any]]:
    """Return one row a settled update, oldest first; `root` says what came of the root's."""
    from marketplace.types import Exclusion

    rows = []
    for found in view.history.settled:
        assert found.settlement is not None
        for reveal, record in zip(found.reveals, found.settlement.records, strict=True):
            if address is None or reveal.trainer == address:
                is_root = reveal.trainer == view.params.root_trainer and not record.reason
                rows.append(
                    {
                        "round": found.number,
                        "trainer": reveal.trainer,
                        "share": record.share,
                        "weight": record.weight,
                        "outlier": record.outlier and not is_root,
                        "root": ("set aside" if record.outlier else "believed") if is_root else "",
                        "slashed": record.slashed,
                        "strikes": record.strikes,
                        "reason": Exclusion.word(record.reason),
                        "transaction": found.settlement.transaction,
                    }
                )
    return rows


@trainer_app.command("leave")
def leave(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop taking part, or take the stake back once its delay is over."""
    from marketplace.types import Membership

    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    if chain.account(found, signer.address).membership == Membership.LEAVING:
        signer.release_stake(found, signer.address)
    else:
        signer.leave(found)
    account = chain.account(found, signer.address)
    money = Money.of(chain, chain.params(found).token)
    if account.membership == Membership.LEAVING:
        free = datetime.fromtimestamp(account.exit_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        text = (
            f"left; the stake of {money.text(account.stake)} is free at {free} on the chain's "
            f"clock: run `tribute trainer leave {project}` again then"
        )
    else:
        text = f"left; {money.text(account.credit)} are yours: `tribute withdraw {project}`"
    Output(as_json).result(
        {"trainer": signer.address, "credit": account.credit, "exit_at": account.exit_at}, text
    )


def withdraw(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the account's credit in a project, whatever its role."""
    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    amount = signer.withdraw(found)
    shown = Money.of(chain, chain.params(found).token).text(amount)
    Output(as_json).result(
        {"account": signer.address, "amount": amount}, f"{shown} went to {signer.address}"
    )


def rewards(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    trainer: Annotated[
        str | None, typer.Option(help="Address of one trainer; all if not given.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--round", help="One round; all if not given.", min=1)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say step by step how each amount came about.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show who was paid what for which round, and who lost stake."""
    from rich.table import Table
    from web3 import Web3

    from marketplace.history import ProjectView

    chain = open_chain(home, rpc)
    view = ProjectView(chain, chain.find_project(project))
    if trainer is not None and not Web3.is_address(trainer):
        raise InputError(f"{trainer!r} is no address")
    address = None if trainer is None else str(Web3.to_checksum_address(trainer))
    rows = [row for row in _rows(view, address) if number in (None, row["round"])]
    money = Money.of(chain, view.params.token)
    if explain:
        _explain(view, rows, as_json)
        return
    table = Table(
        "round", "trainer", "weight", "paid", "slashed", "strikes", "verdict", caption=money.symbol
    )
    for row in rows:
        counted = "counted" if row["weight"] else "set aside"
        verdict = row["reason"] or ("outlier" if row["outlier"] else counted)
        if row["root"]:
            verdict = f"root, {row['root']}"
        table.add_row(
            str(row["round"]),
            row["trainer"],
            f"{row['weight'] / 2**16:.3f}",
            money.number(row["share"]),
            money.number(row["slashed"]),
            str(row["strikes"]),
            verdict,
            style="red" if row["reason"] or row["outlier"] else "",
        )
    Output(as_json).result(rows, table if rows else "no round has been settled yet")


def _explain(view: ProjectView, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print why each row's trainer was paid what it was."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from marketplace.errors import NotFoundError
    from marketplace.explain import explain

    try:
        rule = view.chain.deployment.rule_name(view.params.rule)
    except NotFoundError:
        rule = None
    told: list[dict[str, Any]] = []
    shown: list[Table | Text] = []
    for row in rows:
        found = view.history.round(row["round"])
        assert found.settlement is not None
        reason = explain(
            view.params,
            rule,
            [reveal.trainer for reveal in found.reveals],
            found.settlement.records,
            found.settlement.gram,
            row["trainer"],
            _stake_at(view, row["trainer"], found.settlement.block),
        )
        told.append(
            {
                **row,
                "rule": rule,
                "verdict": reason.verdict,
                "products": dict(reason.products),
                "distance_rank": reason.distance_rank,
                "steps": [asdict(line) for line in reason.lines],
            }
        )
        table = Table("step", "value", "how", title_justify="left", title_style="bold")
        table.title = f"round {row['round']}, {row['trainer']}"
        for line in reason.lines:
            table.add_row(line.name, line.shown, line.formula)
        table.add_section()
        for who, product in reason.products.items():
            table.add_row("inner product", f"{product:,}", f"with {who}")
        shown += [table, Text(reason.verdict), Text(f"transaction {row['transaction']}\n")]
    Output(as_json).result(told, Group(*shown) if shown else "no round has been settled yet")


def _stake_at(view: ProjectView, trainer: str, block: int) -> int | None:
    """Return a trainer's stake at a block; None from a node that has forgotten it."""
    from marketplace.errors import ChainError

    try:
        return view.chain.account(view.project, trainer, block).stake
    except ChainError:
        return None
