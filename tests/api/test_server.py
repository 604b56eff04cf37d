"""Stop servers as people do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.api.bazaar import Bazaar
from tests.conftest import ROOT


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("command", "ready"),
    [
        (["serve", "--port", "0"], "dashboard and API at http://127.0.0.1:"),
        (["index", "run", "--log", "json"], '"message": "ProjectOpened"'),
    ],
    ids=["serve", "index run"],
)
def test_a_server_that_is_stopped_has_done_its_job(
    bazaar: Bazaar, command: list[str], ready: str, stop: signal.Signals
) -> None:
    bazaar.open()
    process = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRIBUTE_HOME": str(bazaar.home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if ready in line:
                break
        process.send_signal(stop)
        said = process.stderr.read()
    assert (process.returncode, said.splitlines()[-1:]) == (0, ["stopped"]), said
