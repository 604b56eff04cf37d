"""Workers learn what one process learns, and leave nothing behind."""

import os
import signal

import numpy as np
import pytest
import torch

from deploy.lab.experiment import Cell
from deploy.lab.simulate import run
from deploy.lab.workers import workers
from marketplace.errors import MarketplaceError
from trainer.data import Dataset
from trainer.errors import TrainingError

START = torch.tensor([10.0, 20.0])
SETS = [Dataset(torch.full((k + 1, 1), float(k)), torch.zeros(k + 1).long(), 2) for k in range(7)]


def told(flat, sets, seeds):
    """Return a row that says what the call was given, and by which process."""
    return np.array([[flat[0] + len(sets[0]), 1000 * seeds[0] + os.getpid() * 10**6]])


def test_every_client_is_trained_once_from_the_given_parameters_with_its_seed():
    with workers(told, SETS, 2, 3) as train:
        for offset in (0.0, 5.0):
            found = train(START + offset, [1, 4, 2, 6], [7, 8, 9, 10])
            assert found[:, 0].tolist() == [10 + offset + size for size in (2, 5, 3, 7)]
            assert (found[:, 1] % 10**6).tolist() == [7000, 8000, 9000, 10000]
            pids = set((found[:, 1] // 10**6).astype(int).tolist())
            assert os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_error_of_a_client_is_raised_and_the_others_can_go_on():
    def diverging(flat, sets, seeds):
        if len(sets[0]) == 3:
            raise TrainingError("training diverged")
        return told(flat, sets, seeds)

    with workers(diverging, SETS, 2, 2) as train, pytest.raises(TrainingError, match="diverged"):
        train(START, range(7), [0] * 7)


def test_a_worker_that_is_killed_is_reported_and_not_waited_for():
    def dying(flat, sets, seeds):
        if len(sets[0]) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return told(flat, sets, seeds)

    with workers(dying, SETS, 2, 2) as train:
        with pytest.raises(MarketplaceError, match="one of 2 workers .* was killed"):
            train(START, range(7), [0] * 7)


@pytest.mark.parametrize(
    ("attack", "rule"), [("none", "fl-trust"), ("label", "multi-krum"), ("gauss", "PeelShapley")]
)
def test_two_workers_measure_what_one_process_does(attack, rule):
    cell = Cell(
        data="digits?shape=1,8,8",
        model="cnn",
        clients=5,
        samples=30,
        rounds=2,
        attack=attack,
        rule=rule,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, together = run(cell), run(cell, processes=2)
    finally:
        torch.set_num_threads(threads)
    for row in (alone, together):
        del row["seconds"], row["rule_ms"]
    assert together == alone


def test_workers_end_quietly_where_the_parent_handles_sigterm_as_the_command_does(capfd):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with workers(told, SETS, 2, 2) as train:
            train(START, [0, 1], [1, 2])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""
