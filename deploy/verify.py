"""Check a whole project without trusting anybody: `tribute verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.compile import artefact
from deploy.deployment import creation_code
from marketplace.audit import BAD, GOOD, UNKNOWN, Finding, Report, audit
from marketplace.chain import Chain
from marketplace.errors import MarketplaceError, NotFoundError
from marketplace.proof.srs import Srs
from marketplace.sealing import Opener, encryption_key
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
)
from marketplace.types import Params
from marketplace.wallet import load_account

__all__ = ["check_contracts", "on_trust", "verify_command"]


def verify_command(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    ipfs: IpfsOption = None,
    round_number: Annotated[
        int | None,
        typer.Option(
            "--round",
            help="Check the content of one round only, and explain it step by step.",
            min=1,
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every settlement, score, payment and model from chain and IPFS alone.

    Exit code 6 if anything is wrong; what could not be checked is listed. An account is needed
    only where updates are sealed, and to it.
    """
    from ipfs.reader import reader
    from ipfs.select import open_store

    out, chain = Output(as_json), open_chain(home, rpc)
    found = chain.find_project(project)
    params = chain.params(found)
    if round_number is not None:
        _check_round(chain, found, round_number)
    srs = Srs.open(chain.deployment.srs_path(home))
    read = reader(open_store(home / "ipfs", ipfs or ()))
    rounds = None if round_number is None else {round_number}
    opener = None
    if (dev, keystore, key_env) != (None, None, None):
        account = load_account(chain.deployment.chain_id, dev, keystore, key_env)
        private = encryption_key(account, chain.deployment)
        opener = Opener(chain.deployment.chain_id, found, private)
    with out.bar("checking rounds") as progress:
        report = audit(chain, found, read, srs, rounds, progress, opener)
    out.note("comparing contracts with their sources (compiling takes half a minute, once)")
    report.findings += check_contracts(chain, params, srs)
    trust = on_trust(chain, srs)
    data = {
        "project": f"0x{found.hex()}",
        "block": report.block,
        "good": not report.of(BAD),
        "complete": not report.of(UNKNOWN),
        "counts": {verdict: len(report.of(verdict)) for verdict in (GOOD, BAD, UNKNOWN)},
        "findings": [asdict(entry) for entry in report.findings],
        "outcomes": [asdict(entry) for entry in report.outcomes],
        "on_trust": trust,
    }
    money = Money.of(chain, params.token)
    out.result(data, _shown(data, report, money, in_full=round_number is not None))
    if report.of(BAD):
        raise typer.Exit(6)


def _check_round(chain: Chain, project: bytes, number: int) -> None:
    last = chain.head().number
    names = ["Settled", "RoundFailed"]
    ended = [
        int(event.values["round"])
        for event in chain.events(project, chain.deployment.block, last, names)
    ]
    if number not in ended:
        known = ", ".join(map(str, ended)) or "none"
        raise NotFoundError(f"round {number} has not ended in this project; these have: {known}")


def check_contracts(chain: Chain, params: Params, srs: Srs) -> list[Finding]:
    """Compare the contracts' code on the chain with what their sources compile to."""
    deployment = chain.deployment
    places = {"marketplace": ("Marketplace", deployment.marketplace)}
    for what, address, names in (
        ("rule", params.rule, deployment.rules),
        ("verifier", params.verifier, deployment.verifiers),
    ):
        name = next((n for n, known in names.items() if known.lower() == address.lower()), "")
        places[what] = (name, address)
    found = []
    for what, (name, address) in places.items():
        code = bytes.fromhex(chain.request("eth_getCode", [address, "latest"])[2:])
        try:
            if name == "GramVerifier":
                # Its immutables are the reference string: let the chain construct it once more.
                creation = {"data": "0x" + creation_code(name, srs).hex()}
                good = code == bytes.fromhex(chain.request("eth_call", [creation, "latest"])[2:])
            else:
                good = artefact(name).runs_as(code)
        except MarketplaceError as error:
            text = f"the {what} at {address} cannot be compared with its source: {error}"
            found.append(Finding(0, "contracts", UNKNOWN, text))
            continue
        text = f"the {what} at {address} " + ("runs" if good else "does NOT run") + f" {name}.sol"
        found.append(Finding(0, "contracts", GOOD if good else BAD, text))
    return found


def on_trust(chain: Chain, srs: Srs) -> list[str]:
    """Say what a check of a project cannot look behind."""
    found = [f"what {chain.rpc} says of the chain; ask an endpoint of your own with --rpc"]
    if srs.insecure:
        found.append(
            "everybody: the reference string is a devnet's, so that anything can be proven"
        )
    else:
        found.append(
            "that one of those who made the reference string forgot its secret: `tribute srs info`"
        )
    return found


def _counted(findings: Sequence[Finding]) -> Table:
    """Return a table of how often each check held, failed, or could not be made."""
    table = Table("check", GOOD, "wrong", "could not be checked", box=None)
    for check in dict.fromkeys(found.check for found in findings):
        row = [found.verdict for found in findings if found.check == check]
        table.add_row(
            check,
            f"[green]{row.count(GOOD)}[/]" if GOOD in row else "",
            f"[bold red]{row.count(BAD)}[/]" if BAD in row else "",
            f"[yellow]{row.count(UNKNOWN)}[/]" if UNKNOWN in row else "",
        )
    return table


def _listed(findings: Sequence[Finding]) -> list[Text]:
    return [
        Text(
            f"  {f'round {found.round}' if found.round else 'project'}, {found.check}: {found.text}"
        )
        for found in findings
    ]


def _shown(data: Mapping[str, Any], report: Report, money: Money, in_full: bool) -> Group:
    parts: list[Any] = [Text(f"project {data['project']}, block {report.block}")]
    why = Table("round", "trainer", "paid", "slashed", "why", box=None, padding=(0, 2, 0, 0))
    for row in report.outcomes:
        why.add_row(
            str(row.round),
            row.trainer[:12] + "…",
            money.text(row.share),
            money.text(row.slashed),
            row.why,
        )
    if why.row_count:
        parts += [why, ""]
    for row in report.outcomes if in_full else ():
        steps = Table(title=Text(f"{row.trainer}, step by step"), title_justify="left", box=None)
        for line in row.steps:
            steps.add_row(line.name, line.shown, line.formula)
        parts += [steps, ""]
    parts += [_counted(report.findings), ""]
    if report.of(UNKNOWN):
        parts += [Text("Could not be checked", style="yellow"), *_listed(report.of(UNKNOWN))]
    if report.of(BAD):
        parts += [Text("Wrong", style="bold red"), *_listed(report.of(BAD))]
    parts += [Text("Taken on trust"), *(Text(f"  {line}") for line in data["on_trust"]), ""]
    if report.of(BAD):
        parts.append(f"[bold red]{len(report.of(BAD))} checks FAILED.[/]")
    elif report.of(UNKNOWN):
        parts.append("[yellow]Nothing is wrong, as far as could be checked.[/]")
    else:
        parts.append("[green]Everything checks.[/]")
    return Group(*parts)
