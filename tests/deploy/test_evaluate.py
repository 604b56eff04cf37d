"""Publish accuracies at the home's API and at another machine's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from api.app import Settings
from api.server import Server, running_server
from deploy.cli import app
from deploy.devnet import running_anvil
from marketplace.terminal import run
from tests.market import SPONSOR, STRANGER, Stage, Town


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_anvil() as rpc:
        stage = Town(rpc, tmp_path_factory.mktemp("home")).open(["honest"] * 2, rounds=1)
        stage.play(lambda view: view.ended)
        yield stage


@pytest.fixture
def elsewhere(played: Stage, tmp_path: Path) -> Iterator[Server]:
    """Return the API of another home that knows the same deployment and nothing else."""
    shutil.copy(played.town.home / "deployment.json", tmp_path)
    with running_server(
        tmp_path, played.town.chain, None, "127.0.0.1", 0, Settings(rate=0)
    ) as server:
        yield server


def evaluate(stage: Stage, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, Any]:
    words = ["project", "evaluate", stage.project.hex()[:12], "--home", str(stage.town.home)]
    code = run(app, [*words, "--data", "digits#test", "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def published(server: Server, stage: Stage) -> list[tuple[int, float, int]]:
    url = f"{server.url}/v1/projects/0x{stage.project.hex()}/evaluations"
    items = requests.get(url, timeout=20).json()["items"]
    return [(one["settled_rounds"], one["accuracy"], one["samples"]) for one in items]


def test_accuracies_reach_another_api_once_they_were_measured(
    played: Stage, elsewhere: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    code, measured = evaluate(played, capsys, "--dev", str(SPONSOR))
    assert code == 0 and [one["settled_rounds"] for one in measured] == [0, 1]
    assert measured[0]["accuracy"] < 0.5 < measured[1]["accuracy"]  # It learned something.
    assert published(elsewhere, played) == []
    # Nothing is measured anew, and what is known is sent.
    assert evaluate(played, capsys, "--dev", str(SPONSOR), "--api", elsewhere.url) == (0, [])
    assert published(elsewhere, played) == [
        (one["settled_rounds"], one["accuracy"], one["samples"]) for one in measured
    ]


def test_only_the_sponsor_publishes_and_only_where_an_api_answers(
    played: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = evaluate(played, capsys, "--dev", str(STRANGER))
    assert code == 2 and "is not the sponsor" in said["error"]["message"]
    code, said = evaluate(played, capsys, "--dev", str(SPONSOR), "--api", "http://127.0.0.1:9")
    assert code == 5 and "no API answers at http://127.0.0.1:9" in said["error"]["message"]
    code, said = evaluate(played, capsys, "--dev", str(SPONSOR), "--api", "nowhere")
    assert code == 5 and "nowhere" in said["error"]["message"]
