"""Run Flower's strategies and its simulation, in an interpreter that has Flower 1.42.

Started by `deploy.lab.compare`, and imported rather than run as a script, since Ray's workers must
import it, too. Flower asks for versions of packages that this project does not use, so it lives in
an environment of its own, and finds ours (torch, say) behind its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(packages: str, work: str, given: str, out: str) -> None:
    """Do `aggregate` or `race` with what a file holds, and write what was measured to another."""
    # Flower hands the whole path on to its workers.
    sys.path.append(packages)
    found = {"aggregate": _aggregate, "race": _race}[work](Path(given))
    Path(out).write_text(json.dumps(found))


def _aggregate(given: Path) -> list[dict[str, Any]]:
    """Return each strategy's aggregate of the updates f32[n, d] in a file, and its CPU time."""
    import numpy as np
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import strategy
    from flwr.supercore.task_identity import TaskIdentity

    # Messages carry it; a simulation would set it.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    with np.load(given) as file:
        updates, f, repeats = file["updates"], int(file["f"]), int(file["repeats"])
    n = len(updates)

    def replies() -> list[Message]:
        found = []
        for row in updates:
            content = RecordDict(
                {"arrays": ArrayRecord([row]), "metrics": MetricRecord({"num-examples": 1})}
            )
            asked = Message(content=RecordDict(), dst_node_id=0, message_type="train")
            found.append(Message(content=content, reply_to=asked))
        return found

    chosen: dict[str, Callable[[], Any]] = {
        "FedAvg": lambda: strategy.FedAvg(),
        "Krum": lambda: strategy.Krum(num_malicious_nodes=f),
        "MultiKrum": lambda: strategy.MultiKrum(num_malicious_nodes=f, num_nodes_to_select=n - f),
        "FedMedian": lambda: strategy.FedMedian(),
        "FedTrimmedAvg": lambda: strategy.FedTrimmedAvg(beta=f / n),
        "Bulyan": lambda: strategy.Bulyan(num_malicious_nodes=f),
    }
    rows = []
    for name, make in chosen.items():
        times = []
        for _ in range(repeats):
            messages, one = replies(), make()
            started = time.process_time()
            arrays, _metrics = one.aggregate_train(1, messages)
            times.append(time.process_time() - started)
        rows.append(
            {"name": name, "times": times, "aggregate": arrays.to_numpy_ndarrays()[0].tolist()}
        )
    return rows


@lru_cache(maxsize=1)
def _trained(text: str) -> tuple[Any, Any, Any]:
    """Return a cell, its world and its network; once in each worker."""
    import torch

    from deploy.lab.experiment import Cell
    from deploy.lab.race import one_by_one
    from deploy.lab.simulate import network_of, world_of

    torch.set_num_threads(1)
    cell = one_by_one(Cell(**json.loads(text)))
    world = world_of(cell)
    return cell, world, network_of(cell, world.test)


def _train(message: Any, context: Any) -> Any:
    """Train one client as Flower asks for it."""
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    from deploy.lab.simulate import seeds_of

    config = message.content["config"]
    cell, world, network = _trained(config["cell"])
    i = int(context.node_config["partition-id"])
    (flat,) = message.content["arrays"].to_numpy_ndarrays()
    seed = seeds_of(cell, int(config["server-round"]) - 1)[i]
    delta = network.train(torch.from_numpy(flat.copy()), [world.clients[i]], [seed])[0]
    content = RecordDict(
        {
            "arrays": ArrayRecord([(flat + delta).astype(flat.dtype)]),
            "metrics": MetricRecord({"num-examples": cell.samples}),
        }
    )
    return Message(content=content, reply_to=message)


def _race(given: Path) -> dict[str, Any]:
    """Run a cell by Flower's simulation on two cores; see `deploy.lab.race`."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from deploy.lab.race import PROCESSES, Laps

    text = given.read_text()
    clients, rounds = json.loads(text)["clients"], json.loads(text)["rounds"]
    laps = Laps(rounds)
    final = []

    def ended(number: int, _: Any) -> None:
        if number:
            laps.end()

    def serve(grid: Any, _: Any) -> None:
        cell, _world, network = _trained(text)
        result = FedAvg(fraction_evaluate=0.0, min_available_nodes=clients).start(
            grid,
            initial_arrays=ArrayRecord([network.initial(cell.seed).numpy()]),
            num_rounds=rounds,
            train_config=ConfigRecord({"cell": text}),
            evaluate_fn=ended,
        )
        final.extend(result.arrays.to_numpy_ndarrays())

    client, server = ClientApp(), ServerApp()
    client.train()(_train)
    server.main()(serve)
    run_simulation(
        server,
        client,
        clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"num_cpus": PROCESSES},
        },
    )
    import torch

    _, world, network = _trained(text)
    accuracy = network.accuracy(torch.from_numpy(final[0]), world.test)
    return {**laps.found(), "accuracy": accuracy}
