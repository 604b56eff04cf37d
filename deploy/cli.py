"""Put the commands of all packages together as `tribute`."""

from __future__ import annotations

import signal
import sys

import typer

from aggregator.cli import aggregator_app
from api.cli import index_app, serve
from deploy.demo import demo
from deploy.deployment import deploy_command
from deploy.devnet import devnet_app
from deploy.evaluate import evaluate_command
from deploy.ipfs import ipfs_app
from deploy.lab.cli import lab_app
from deploy.project import key, project_app
from deploy.show import list_command, show_command
from deploy.srs import srs_app
from deploy.verify import verify_command
from marketplace.terminal import run
from trainer.cli import rewards, trainer_app, withdraw

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A market for federated learning. Sponsors fund models, trainers are paid for what they "
    "contribute, the chain decides.",
)
app.command("demo")(demo)
app.add_typer(devnet_app, name="devnet")
app.command("deploy")(deploy_command)
app.add_typer(srs_app, name="srs")
project_app.command("list")(list_command)
project_app.command("show")(show_command)
project_app.command("evaluate")(evaluate_command)
app.add_typer(project_app, name="project")
app.add_typer(trainer_app, name="trainer")
app.add_typer(aggregator_app, name="aggregator")
app.command("serve")(serve)
app.add_typer(index_app, name="index")
app.add_typer(ipfs_app, name="ipfs")
app.command("key")(key)
app.command("verify")(verify_command)
app.add_typer(lab_app, name="lab")
app.command("withdraw")(withdraw)
app.command("rewards")(rewards)


def main() -> None:
    """Run `tribute` and leave with its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(run(app, sys.argv[1:]))
