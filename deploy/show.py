"""Show projects to anybody: their terms, their rounds, and whether the model's file is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ipfs import Cid, IpfsError
from ipfs.reader import reader
from ipfs.select import open_store
from ipfs.store import Store
from marketplace.codec import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    Description,
    decode_description,
    decode_model,
    file_limit,
)
from marketplace.errors import CodecError, NotFoundError
from marketplace.history import ProjectView, Round
from marketplace.proof.commitment import commit
from marketplace.proof.srs import Srs
from marketplace.terminal import (
    DEFAULT_HOME,
    HomeOption,
    IpfsOption,
    JsonOption,
    Money,
    Output,
    ProjectArgument,
    RpcOption,
    open_chain,
)
from marketplace.types import Params, State, Status

__all__ = ["list_command", "root_word", "show_command", "verify_model"]


@dataclass(frozen=True)
class ModelCheck:
    """Say whether the current model's file is the one that the chain implies."""

    settled_rounds: int
    implied: str
    found: str
    cid: str
    good: bool


def verify_model(view: ProjectView, store: Store, srs: Srs) -> ModelCheck:
    """Recompute the current model's commitment from chain data and compare it with the file."""
    settled, params = view.state.settled_rounds, view.params
    implied = view.history.model_point(params, settled)
    digest = params.description_cid
    if settled:
        settlement = view.history.settled[-1].settlement
        assert settlement is not None
        digest = settlement.model_cid
    try:
        data = reader(store)(digest, MODEL_FILE, file_limit(params.dimension, 8))
        model = decode_model(data, params.dimension)
        found = commit(srs, model.values, model.blinding).hex()
    except (IpfsError, CodecError) as error:
        found = str(error)
    cid = str(Cid.from_digest(digest))
    return ModelCheck(settled, implied.hex(), found, cid, found == implied.hex())


# -------------------------------------------------------------------- commands


def list_command(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    ipfs: IpfsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all projects of the marketplace."""
    chain = open_chain(home, rpc)
    store = open_store(home / "ipfs", ipfs or ())
    table = Table("project", "title", "status", "round", "trainers", "left to pay")
    rows = []
    for project in chain.projects():
        params, state = chain.params(project), chain.state(project)
        title = _title(_description(store, params))
        rows.append({"project": f"0x{project.hex()}", "title": title, **_plain(state)})
        table.add_row(
            f"0x{project.hex()[:12]}…",
            Text(title),
            state.status.name.lower(),
            f"{state.settled_rounds} of {params.rounds} paid",
            f"{state.active} of {params.capacity}",
            Money.of(chain, params.token).text(state.escrow),
        )
    Output(as_json).result(rows, table if rows else "no projects yet; see `tribute project open`")


def _description(store: Store, params: Params) -> Description | None:
    try:
        data = reader(store, timeout_s=5)(params.description_cid, DESCRIPTION_FILE, 1 << 16)
        return decode_description(data)
    except (IpfsError, CodecError):
        return None


def _title(description: Description | None) -> str:
    return "(description not available here)" if description is None else description.title


def _readers(description: Description | None) -> str:
    if description is None:
        return "(description not available here)"
    accounts = ", ".join(card.account for card in description.keys)
    return {
        "open": "open to everybody",
        "sealed": f"sealed to {accounts}",
        "members": f"sealed to the active trainers and {accounts}",
    }[description.readers]


def _plain(value: State | Params) -> dict[str, Any]:
    return {
        name: entry.name.lower() if isinstance(entry, Status) else entry
        for name, entry in asdict(value).items()
    }


def show_command(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    ipfs: IpfsOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the model's file against the chain.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a project's terms, where it stands, and its rounds."""
    chain = open_chain(home, rpc)
    view = ProjectView(chain, chain.find_project(project))
    store = open_store(home / "ipfs", ipfs or ())
    description = _description(store, view.params)
    check = None
    if verify:
        check = verify_model(view, store, Srs.open(chain.deployment.srs_path(home)))
    rounds = [
        {
            "round": found.number,
            "reveals": len(found.reveals),
            "outliers": sum(
                record.outlier
                for reveal, record in zip(found.reveals, found.settlement.records, strict=True)
                if reveal.trainer != view.params.root
            ),
            "root": root_word(view.params, found),
            "excluded": sum(record.reason != 0 for record in found.settlement.records),
            "paid": sum(record.share for record in found.settlement.records),
            "slashed": sum(record.slashed for record in found.settlement.records),
            "model": str(Cid.from_digest(found.settlement.model_cid)),
            "transaction": found.settlement.transaction,
        }
        for found in view.history.settled
        if found.settlement is not None
    ]
    data = {
        "project": f"0x{view.project.hex()}",
        "title": _title(description),
        "updates": _readers(description),
        "params": _plain(view.params),
        "state": _plain(view.state),
        "rounds": rounds,
        "model_check": asdict(check) if check else None,
    }
    Output(as_json).result(data, _shown(view, data, rounds, check))
    if check is not None and not check.good:
        raise typer.Exit(6)


def _shown(
    view: ProjectView,
    data: Mapping[str, Any],
    rounds: list[dict[str, Any]],
    check: ModelCheck | None,
) -> Group:
    params, state = view.params, view.state
    tokens = Money.of(view.chain, params.token)
    money = tokens.text
    facts = Table(box=None, show_header=False, title_justify="left")
    facts.add_row("project", data["project"])
    facts.add_row("title", Text(data["title"]))
    facts.add_row("updates", Text(data["updates"]))
    facts.add_row("status", state.status.name.lower())
    facts.add_row("rounds", f"{state.settled_rounds} of {params.rounds} paid, now {state.round}")
    facts.add_row("trainers", f"{state.active} active, room for {params.capacity}")
    facts.add_row("model", f"{params.dimension} parameters")
    facts.add_row("pot and fee of a round", f"{money(params.reward)}, {money(params.fee)}")
    facts.add_row("stake, bond", f"{money(params.stake)}, {money(params.bond)}")
    facts.add_row("escrow left", money(state.escrow))
    facts.add_row("sponsor", state.sponsor)
    facts.add_row("aggregator", params.aggregator)
    if params.epsilon_milli:
        facts.add_row("privacy budget of a trainer", f"ε = {params.epsilon_milli / 1000:g}")
    if params.root_trainer:
        facts.add_row("root trainer", params.root)
    facts.add_row("matrix of a round", _assurance(view))
    parts: list[Any] = [facts]
    if rounds:
        heads = ["round", "updates", "outliers", "excluded", "paid", "slashed", "transaction"]
        if params.root_trainer:
            heads.insert(4, "root")
        table = Table(*heads)
        for row in rounds:
            cells = [
                str(row["round"]),
                str(row["reveals"]),
                str(row["outliers"]),
                str(row["excluded"]),
                tokens.number(row["paid"]),
                tokens.number(row["slashed"]),
                row["transaction"][:14] + "…",
            ]
            if params.root_trainer:
                cells.insert(4, row["root"])
            table.add_row(*cells)
        parts.append(table)
    if check is not None:
        word = "[green]is the one[/]" if check.good else "[bold red]is NOT the one[/]"
        parts.append(
            f"the model after {check.settled_rounds} paid rounds {word} that the chain implies\n"
            f"  chain  {check.implied[:48]}…\n  file   {check.found[:48]}…\n  CID    {check.cid}"
        )
    return Group(*parts)


def root_word(params: Params, found: Round) -> str | None:
    """Say what came of the root trainer's update in a settled round; None without a root."""
    if params.root_trainer is None:
        return None
    assert found.settlement is not None
    row = params.root_row([reveal.trainer for reveal in found.reveals])
    if row is None or found.settlement.records[row].reason:
        return "absent"
    return "set aside" if found.settlement.records[row].outlier else "believed"


def _assurance(view: ProjectView) -> str:
    """Say in words what a project's verifier asks for."""
    try:
        name = view.chain.deployment.verifier_name(view.params.verifier)
    except NotFoundError:
        return f"[bold red]accepted by {view.params.verifier}, which is not known here[/]"
    words = {
        "GramVerifier": "proven: nobody is trusted, and anybody may settle in the end",
        "AttestedGram": "[yellow]signed: the aggregator is trusted[/]",
    }
    return f"{words.get(name, 'accepted')} ({name})"
