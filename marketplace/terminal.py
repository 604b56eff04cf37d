"""Give every `tribute` command the same options, output and exit codes.

Covered: options shared by the commands, output for people or as JSON, errors to exit codes.
Not covered: what commands do; keys are loaded by `marketplace.wallet`.

Exit codes: 0 done, 1 unexpected failure, 2 wrong input, 3 refused by a contract, 4 not found,
5 chain or store out of reach, 6 unacceptable bytes or proof, 130 interrupted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text

from marketplace.errors import unusable_path

if TYPE_CHECKING:
    from marketplace.chain import Chain
    from marketplace.signer import Signer

__all__ = [
    "DEFAULT_HOME",
    "DevOption",
    "HomeOption",
    "IpfsOption",
    "JsonOption",
    "KeyEnvOption",
    "KeystoreOption",
    "Money",
    "Output",
    "ProjectArgument",
    "RpcOption",
    "open_chain",
    "open_signer",
    "run",
]

_INTERRUPTED = 130

DEFAULT_HOME = Path(".tribute")
"""Where a run keeps its files unless told otherwise."""

ProjectArgument = Annotated[str, typer.Argument(help="Project id, or its first digits.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout, nothing else.")
]
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="TRIBUTE_HOME",
        help="Folder with the deployment, the block store and journals.",
        file_okay=False,
    ),
]
RpcOption = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        envvar="TRIBUTE_RPC",
        help="JSON-RPC address; the deployment's own if not given.",
        show_default=False,
    ),
]
IpfsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ipfs",
        envvar="TRIBUTE_IPFS",
        help="Where content is, besides this home: http://HOST of a trustless gateway to read "
        "from, several if need be, or kubo:http://127.0.0.1:5001, a node of yours to use instead.",
        show_default=False,
    ),
]
KeystoreOption = Annotated[
    Path | None,
    typer.Option(
        "--keystore",
        envvar="TRIBUTE_KEYSTORE",
        help="Encrypted keystore file; its password comes from TRIBUTE_PASSWORD or a prompt.",
        dir_okay=False,
        show_default=False,
    ),
]
KeyEnvOption = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        help="Name of an environment variable that holds the private key.",
        show_default=False,
    ),
]
DevOption = Annotated[
    int | None,
    typer.Option(
        "--dev",
        help="Number of a well-known devnet account; local chains only.",
        min=0,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Output:
    """Print for people, or for programs when `as_json` is set.

    Results go to stdout; notes and progress go to stderr, so that a pipe sees results alone.
    """

    as_json: bool = False

    @property
    def notes(self) -> Console:
        """Return the console for progress and notes, silent in JSON mode."""
        return Console(stderr=True, quiet=self.as_json, highlight=False, emoji=False)

    def note(self, text: str) -> None:
        """Tell a person what is going on."""
        self.notes.print(text, soft_wrap=True)

    @contextmanager
    def bar(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar with an estimate; give a function of (done, of), to be called from within."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
        )
        console = self.notes
        hidden = not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
            task = bars.add_task(text, total=None)
            yield lambda done, of: bars.update(task, completed=done, total=of)

    def result(self, data: Mapping[str, Any] | Sequence[Any], shown: RenderableType) -> None:
        """Print a command's result: `data` as JSON, or `shown` for people."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, indent=2, default=_plain) + "\n")
        else:
            # the terminal breaks long lines, and a pipe wants them whole
            Console(highlight=False, emoji=False).print(
                shown, soft_wrap=isinstance(shown, str | Text)
            )


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@dataclass(frozen=True)
class Money:
    """Write amounts of a token for people; in JSON they are whole numbers of its smallest unit."""

    decimals: int
    symbol: str

    @classmethod
    def of(cls, chain: Chain, token: str) -> Money:
        """Return how a token wants to be written."""
        # Anybody can deploy a token with any name.
        symbol = re.sub(r"[^\w.$€-]", "", chain.token_symbol(token))[:12]
        return cls(chain.token_decimals(token), symbol)

    def number(self, units: int) -> str:
        """Write an amount in whole tokens, to four decimals."""
        text = f"{Decimal(units).scaleb(-self.decimals):,.4f}"
        return text.rstrip("0").rstrip(".")

    def text(self, units: int) -> str:
        """Write an amount with the token's symbol."""
        return f"{self.number(units)} {self.symbol}"


def open_chain(home: Path, rpc: str | None, patience_s: float = 20.0) -> Chain:
    """Return the chain of the home's deployment, at another address if `rpc` names one."""
    from marketplace.chain import Chain
    from marketplace.types import Deployment

    return Chain.open(Deployment.load(home), rpc, patience_s)


def open_signer(
    chain: Chain, dev: int | None, keystore: Path | None, key_env: str | None
) -> Signer:
    """Return the account that a command's options name."""
    from marketplace.signer import Signer
    from marketplace.wallet import load_account

    return Signer(chain, load_account(chain.deployment.chain_id, dev, keystore, key_env))


def run(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run a typer application and return the exit code of the shell.

    Any exception with an `exit_code` is an error that its message explains, and so is a path that
    the system refuses; others are defects and keep their traceback.
    """
    try:
        code = app(args=list(arguments), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as raised:
        error = raised
        if isinstance(raised, OSError) and isinstance(raised.filename, str):
            error = unusable_path(raised)
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        format_message = getattr(error, "format_message", None)
        message = format_message() if callable(format_message) else str(error)
        if not message:
            # A group without a command has printed its help.
            return code
        return _fail(type(error).__name__, message, code, arguments)
    # Typer turns Ctrl-C into this code, without a word.
    if code == _INTERRUPTED:
        return _fail("Interrupted", "interrupted", code, arguments)
    return code if isinstance(code, int) else 0


def _fail(name: str, message: str, code: int, arguments: Sequence[str]) -> int:
    if "--json" in arguments:
        document = {"error": {"name": name, "message": message, "exit_code": code}}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        Console(stderr=True, highlight=False, emoji=False).print(
            f"[bold red]error[/]: {escape(message)}", soft_wrap=True
        )
    return code
