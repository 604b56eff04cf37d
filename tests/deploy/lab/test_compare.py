"""Racers do the same work, and Flower's strategies give what our rules give."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deploy.lab.compare import STRATEGIES, race_rows, strategy_rows
from deploy.lab.experiment import Cell
from deploy.lab.race import RACERS, Laps, one_by_one
from deploy.lab.simulate import network_of, world_of
from deploy.paths import ROOT
from marketplace.errors import InputError

CELL = Cell(clients=4, samples=100, model="dense:32", rounds=4, epochs=4)


@pytest.fixture
def flower(require_missing):
    python = Path(os.environ.get("TRIBUTE_FLOWER", ROOT / "build" / "flower" / "bin" / "python"))
    if not python.exists():
        require_missing("flower", f"no {python}; `make flower`, or set TRIBUTE_FLOWER")
    return python


@pytest.fixture(autouse=True)
def single_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model", ["dense:32", "mlp"])
def test_the_bare_loop_learns_what_our_simulator_does(model):
    cell = replace(CELL, model=model)
    ours, bare = RACERS["ours"](cell), RACERS["bare"](cell)
    # Sums are taken in another order, so that single test images may fall to the other side.
    assert bare["accuracy"] == pytest.approx(ours["accuracy"], abs=0.01)
    assert bare["accuracy"] > 0.3  # guessing gives 0.1
    for found in (ours, bare):
        assert len(found["ends"]) == 4 and found["ends"] == sorted(found["ends"])


def test_models_that_race_are_the_same_network():
    world = world_of(CELL)
    dense, module = (network_of(cell, world.test) for cell in (CELL, one_by_one(CELL)))
    flat = dense.initial(0)
    assert module.loss(flat, world.test) == pytest.approx(dense.loss(flat, world.test), rel=1e-6)


def test_laps_count_the_cpu_time_of_processes_that_were_started():
    laps = Laps(2)
    laps.end()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    laps.end()
    found = laps.found()
    assert 0.5 <= found["round_cpu_s"] < 5
    assert found["ends"][1] - found["ends"][0] >= 0.5


def test_a_python_without_flower_is_wrong_input():
    with pytest.raises(
        InputError, match="ended with exit status 1: ModuleNotFoundError: No module named 'flwr'"
    ):
        next(strategy_rows(Path(sys.executable), CELL))
    with pytest.raises(InputError, match="cannot be run"):
        next(strategy_rows(Path("/nowhere/python"), CELL))


@pytest.mark.slow
def test_flowers_strategies_give_what_our_rules_give(flower):
    cell = Cell(clients=20, samples=60, model="dense:32")
    rows = {row["strategy"]: row for row in strategy_rows(flower, cell, repeats=1)}
    assert set(rows) == set(STRATEGIES)
    for name, row in rows.items():
        if STRATEGIES[name] is not None:
            assert row["difference"] < 1e-6, name


@pytest.mark.slow
def test_flowers_simulation_learns_what_ours_does(flower):
    rows = {row["racer"]: row for row in race_rows(flower, CELL)}
    assert rows["flower"]["accuracy"] == pytest.approx(rows["ours"]["accuracy"], abs=0.01)
    assert rows["flower"]["start_s"] > 0
