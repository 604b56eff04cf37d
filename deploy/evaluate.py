"""Measure a project's models and publish the accuracies: `tribute project evaluate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from marketplace.accuracy import MILLION, Accuracy, folder_of, publish
from marketplace.errors import ChainError, InputError
from marketplace.history import ProjectView
from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    IpfsOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Output,
    ProjectArgument,
    RpcOption,
    open_chain,
    open_signer,
)

__all__ = ["evaluate_command", "stated"]


def stated(
    view: ProjectView, settled: int, right: float, samples: int, data: str, at: int
) -> Accuracy:
    """Return the statement that the model after `settled` paid rounds got `right` of 1 right.

    `at` is when that was measured, in unix seconds.
    """
    digest = view.params.description_cid
    if settled:
        settlement = view.history.settled[settled - 1].settlement
        assert settlement is not None
        digest = settlement.model_cid
    return Accuracy(view.project, settled, round(right * MILLION), samples, data, digest, at)


def _send(address: str, home: Path, view: ProjectView) -> None:
    """Publish at another API what this home holds."""
    import requests

    url = f"{address.rstrip('/')}/v1/projects/0x{view.project.hex()}/evaluations"
    for settled in range(view.state.settled_rounds + 1):
        file = folder_of(home, view.project) / f"{settled}.json"
        try:
            answer = requests.post(
                url,
                file.read_bytes(),
                headers={"Content-Type": "application/json"},
                timeout=30,
                allow_redirects=False,
            )
        except (requests.RequestException, ValueError) as error:
            raise ChainError(
                f"no API answers at {address}: {type(error).__name__}; is `tribute serve` running?"
            ) from error
        if answer.status_code != 200:
            said = answer.text[:300]
            raise InputError(f"{address} answered {answer.status_code} to round {settled}: {said}")


def evaluate_command(
    project: ProjectArgument,
    data: Annotated[str, typer.Option(help="Data set to measure on, e.g. digits#test.")],
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    ipfs: IpfsOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also measure models with a published accuracy.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option(help="Run the module that the project names as its model.")
    ] = False,
    api: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of another API to publish at too, e.g. http://HOST:8600.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the project's models, and publish their accuracies under the sponsor's signature.

    The API of the same home shows them, and each one named by --api: an API takes whatever the
    project's sponsor signed about the model that the chain names. Everybody can measure again.
    """
    from ipfs.reader import reader
    from ipfs.select import open_store
    from marketplace.codec import to_float
    from marketplace.proof.srs import Srs
    from trainer.client import read_description
    from trainer.data import load
    from trainer.models import build
    from trainer.training import evaluate

    chain = open_chain(home, rpc)
    view = ProjectView(chain, chain.find_project(project))
    signer = open_signer(chain, dev, keystore, key_env)
    if signer.address != view.state.sponsor:
        raise InputError(
            f"{signer.address} is not the sponsor {view.state.sponsor}, whose signature counts"
        )
    store = open_store(home / "ipfs", ipfs or ())
    read, srs = reader(store), Srs.open(chain.deployment.srs_path(home))
    description = read_description(store, view.params.description_cid)
    module = build(description.model, description.model_options, seed=0, allow_code=allow_code)
    dataset = load(data)
    published = []
    for settled in range(view.state.settled_rounds + 1):
        if not again and (folder_of(home, view.project) / f"{settled}.json").exists():
            continue
        model = view.model(read, srs, settled)
        flat = to_float(model.values, view.params.step_bits)
        right = evaluate(module, flat, dataset).accuracy
        accuracy = stated(view, settled, right, len(dataset), data, int(time.time()))
        publish(home, accuracy, chain.deployment, signer.account)
        published.append(accuracy)
    for address in api or ():
        _send(address, home, view)
    table = Table("settled rounds", "accuracy", "samples")
    for entry in published:
        share = f"{entry.millionths / MILLION:.2%}"
        table.add_row(str(entry.settled_rounds), share, str(entry.samples))
    rows = [
        {
            "settled_rounds": entry.settled_rounds,
            "accuracy": entry.millionths / MILLION,
            "samples": entry.samples,
            "data": entry.data,
        }
        for entry in published
    ]
    nothing = "every model has a published accuracy; --again measures them anew"
    Output(as_json).result(rows, table if rows else nothing)
