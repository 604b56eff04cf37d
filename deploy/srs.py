"""Make, check and import reference strings: `tribute srs`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from marketplace.errors import InputError
from marketplace.proof import ceremony
from marketplace.proof.ceremony import Chain, Origin
from marketplace.proof.powers_of_tau import read_setup
from marketplace.proof.srs import MAX_SIZE, Srs, generate
from marketplace.proof.transcript import MASK_COEFFICIENTS
from marketplace.terminal import DEFAULT_HOME, HomeOption, JsonOption, Output

__all__ = ["srs_app"]

_BEGINNINGS = {
    Origin.ONE: "τ = 1",
    Origin.SEED: "a devnet's seed, which everybody knows",
    Origin.PUBLIC: "a public ceremony",
}

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Reference string; the home's if not given.", dir_okay=False, show_default=False
    ),
]
ForceOption = Annotated[bool, typer.Option(help="Replace the file that is there.")]

srs_app = typer.Typer(
    no_args_is_help=True, help="Make, check and import the powers of τ that proofs rest on."
)


@srs_app.command("new")
def new_command(
    file: FileArgument = None,
    size: Annotated[
        int, typer.Option(help="Powers: the model's parameters and 8 more.", min=2, max=MAX_SIZE)
    ] = 1 << 16,
    seed: Annotated[
        str | None,
        typer.Option(
            help="Derive τ from a text: for devnets only. If not given, the file is the start of "
            "a ceremony and useless before the first contribution.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Begin a ceremony, or make a devnet's string from a seed."""
    out, path = Output(as_json), _target(file, home, force)
    with out.bar("powers") as progress:
        if seed is None:
            srs = ceremony.start(path, size, progress)
        else:
            srs = generate(path, size, seed.encode(), progress)
    _show(out, srs, ceremony.read_chain(srs), checked=False)


@srs_app.command("contribute")
def contribute_command(
    name: Annotated[str, typer.Option(help="What people will find your contribution by.")],
    file: FileArgument = None,
    to: Annotated[
        Path | None,
        typer.Option(help="File to write; the same one if not given.", show_default=False),
    ] = None,
    force: ForceOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check a string and multiply its τ by a secret that is forgotten at once. Ctrl-C is safe."""
    out, srs = Output(as_json), Srs.open(_file(file, home))
    ceremony.check_name(name)
    path = srs.path if to is None else _target(to, home, force)
    with out.bar("checking what came before") as progress:
        ceremony.check(srs, progress)
    with out.bar("contributing") as progress:
        ceremony.contribute(srs, path, name, progress)
    found = Srs.open(path)
    chain = ceremony.read_chain(found)
    _show(out, found, chain, checked=False)
    out.note(
        "Publish your contribution's hash, so that everybody can see that it is in the final "
        f"file:\n{chain.hashes()[-1].hex()}"
    )


@srs_app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="trusted_setup.txt or .json, transcript.json of Ethereum's ceremony, or a "
            "challenge or response file.",
            dir_okay=False,
        ),
    ],
    file: FileArgument = None,
    size: Annotated[
        int | None,
        typer.Option(help="Take the first powers only.", min=2, max=MAX_SIZE, show_default=False),
    ] = None,
    force: ForceOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Take over a public ceremony's powers of τ, after checking every one of them."""
    out, path = Output(as_json), _target(file, home, force)
    with out.bar("checking participants") as progress:
        setup = read_setup(source, size, progress)
    with out.bar("reading and checking powers") as progress:
        srs = ceremony.adopt(path, setup, progress)
    _show(out, srs, ceremony.read_chain(srs), checked=True)


@srs_app.command("check")
def check_command(
    file: FileArgument = None, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Check every power by pairing, and that each contribution built on the last."""
    out, srs = Output(as_json), Srs.open(_file(file, home))
    with out.bar("checking") as progress:
        chain = ceremony.check(srs, progress)
    _show(out, srs, chain, checked=True)


@srs_app.command("info")
def info_command(
    file: FileArgument = None, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show what a string is good for and who contributed; checks nothing but its header."""
    srs = Srs.open(_file(file, home))
    _show(Output(as_json), srs, ceremony.read_chain(srs), checked=False)


def _file(file: Path | None, home: Path) -> Path:
    return home / "srs.bin" if file is None else file


def _target(file: Path | None, home: Path, force: bool) -> Path:
    path = _file(file, home)
    if os.path.exists(path) and not force:  # unlike its method, never raises
        raise InputError(f"{path} is there already; choose another file, or replace it by --force")
    return path


def _show(out: Output, srs: Srs, chain: Chain, checked: bool) -> None:
    begins, hashes = chain.beginning, chain.hashes()
    data = {
        "file": str(srs.path),
        "powers": srs.size,
        "largest_model": srs.size - MASK_COEFFICIENTS,
        "id": f"0x{srs.id.hex()}",
        "insecure": srs.insecure,
        "checked": checked,
        "beginning": {
            "origin": begins.origin.name.lower(),
            "note": begins.note,
            "source_sha256": begins.source.hex() if any(begins.source) else None,
            "participants": begins.participants,
        },
        "contributions": [
            {"name": entry.name, "hash": found.hex()}
            for entry, found in zip(chain.contributions, hashes[1:], strict=True)
        ],
    }
    out.result(data, _shown(data, chain))


def _shown(data: Mapping[str, Any], chain: Chain) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("file", Text(data["file"]))
    room = f"models of up to {max(0, data['largest_model'])} parameters"
    table.add_row("powers", f"{data['powers']}: {room}")
    table.add_row("id", data["id"])
    begins = data["beginning"]
    table.add_row("begins with", _BEGINNINGS[chain.beginning.origin])
    if begins["note"]:
        table.add_row("read from", Text(begins["note"]))
        table.add_row("its sha256", str(begins["source_sha256"]))
    if chain.beginning.origin == Origin.PUBLIC:
        table.add_row("participants before", str(begins["participants"] or "not in the file"))
    for i, entry in enumerate(data["contributions"], 1):
        table.add_row(f"contribution {i}", Text(f"{entry['name']}  {entry['hash']}"))
    if data["insecure"]:
        word = "[bold red]INSECURE: τ is known. For devnets only, or to be contributed to.[/]"
    else:
        word = "secure as long as one of those who contributed forgot its secret"
    table.add_row("security", word)
    word = "[green]every power and every contribution[/]" if data["checked"] else "header only"
    table.add_row("checked", word)
    return table
