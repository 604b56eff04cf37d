"""Cells give the same results by processes and on a Ray cluster."""

import importlib.util
import os
import subprocess
import sys

import pytest

from deploy.lab.experiment import Cell
from deploy.lab.runners import by_processes, by_ray
from marketplace.errors import InputError

CELLS = [
    Cell(clients=4, samples=20, model="dense:4", rounds=1, seed=seed, attack="zero", rule="krum")
    for seed in range(3)
] + [Cell(data="digits?shape=1,8,8", model="cnn", clients=3, samples=20, rounds=1)]


def measured(rows):
    """Return rows in the order of cells without what differs from time to time."""
    kept = [{k: v for k, v in row.items() if k not in ("seconds", "rule_ms")} for row in rows]
    return sorted(kept, key=lambda row: (row["model"], row["seed"]))


@pytest.fixture
def needs_ray(require_missing):
    if importlib.util.find_spec("ray") is None:
        require_missing("ray", "not installed; pip install '.[ray]'")


def test_processes_and_workers_measure_what_one_process_does():
    expected = measured(by_processes()(CELLS[2:]))
    assert measured(by_processes(2, 2)(CELLS[2:])) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("needs_ray")
def test_a_ray_cluster_measures_what_one_process_does():
    assert measured(by_ray("local")(CELLS)) == measured(by_processes()(CELLS))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_ray")
def test_ray_listens_on_the_loopback_alone_and_its_workers_are_not_nice():
    rows = iter(by_ray("local")(CELLS[:2]))
    next(rows)
    # Imported here since Ray takes its settings at its first import, and those are `by_ray`'s.
    import ray

    here = os.getpriority(os.PRIO_PROCESS, 0)
    inside = ray.remote(lambda: (os.getpriority(os.PRIO_PROCESS, 0), os.environ["OMP_NUM_THREADS"]))
    assert ray.get(inside.remote()) == (here, "1")
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert len(list(rows)) == 1
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "local:x", "127.0.0.1:70000"])
def test_a_cluster_that_is_not_there_is_wrong_input(address):
    with pytest.raises(InputError, match=f"no Ray cluster answers at '{address}'"):
        by_ray(address)


def test_without_ray_the_extra_is_named():
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from deploy.lab.runners import by_ray\n"
        "try: by_ray('local')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "InputError Ray is not installed; pip install '.[ray]'\n"
