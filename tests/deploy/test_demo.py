"""Run the demo as a person would, with its dashboard, and stop it with Ctrl-C."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import requests


@pytest.mark.slow
def test_the_demo_ends_with_a_dashboard_that_stays_until_interrupted(tmp_path: Path) -> None:
    small = "--trainers 2 --attackers 0 --rounds 1 --epochs 1 --workers 1".split()
    arguments = ["-c", "from deploy.cli import main; main()", "demo", "--home", str(tmp_path)]
    child = pexpect.spawn(
        sys.executable, [*arguments, *small], timeout=200, encoding="utf-8", dimensions=(40, 200)
    )
    try:
        child.expect("shows this run at")
        child.expect(r"until Ctrl-C")
        url = re.search(r"http://127\.0\.0\.1:\d+", child.before)
        assert url is not None
        (project,) = requests.get(f"{url[0]}/v1/projects", timeout=20).json()["items"]
        assert project["settled_rounds"] == 1 and project["status"] == "closed"
        path = f"{url[0]}/v1/projects/{project['id']}"
        models = requests.get(f"{path}/models", timeout=20).json()["items"]
        assert [model["settled_rounds"] for model in models] == [1, 0]
        assert all(0 < model["accuracy"] <= 1 for model in models)
        assert requests.get(url[0], timeout=20).headers["content-type"].startswith("text/html")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0 and child.before.rstrip().endswith("stopped")
    finally:
        child.close(force=True)


@pytest.mark.slow
def test_the_demo_with_a_root_pays_nothing_for_flipped_labels(tmp_path: Path) -> None:
    arguments = "demo --root --attacks label-flip --rounds 2 --no-serve --json --home".split()
    done = subprocess.run(
        [sys.executable, "-c", "from deploy.cli import main; main()", *arguments, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["root"] for row in found["rounds"]] == ["believed", "believed"]
    for row in found["rounds"]:
        assert {k: r["share"] for k, r in row["trainers"].items() if r["share"] == 0}.keys() == {
            "6",
            "7",
        }
    sponsor = found["balances"][0]
    assert sponsor["role"] == "sponsor" and sponsor["good"]
    assert found["verified"]["bad"] == found["verified"]["unknown"] == 0
