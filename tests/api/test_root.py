"""Show the root trainer: a round in which it decides, one that sets it aside, one without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from api.app import Settings
from api.server import Server, running_server
from deploy.devnet import running_anvil
from tests.api.bazaar import FIRST_TRAINER, SPONSOR, Bazaar
from tests.api.listener import wait_for
from tests.api.site import address

CROWD = range(FIRST_TRAINER, FIRST_TRAINER + 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a project that the sponsor is the root of."""
    home: Path = tmp_path_factory.mktemp("root")
    with running_anvil() as rpc:
        bazaar = Bazaar(rpc, home)
        project = bazaar.start(CROWD, root=address(SPONSOR), capacity=3, rounds=4)
        bazaar.play(project, [SPONSOR, *CROWD])
        bazaar.play(project, [*CROWD, SPONSOR], hostile=[SPONSOR])
        bazaar.play(project, CROWD)
        with running_server(home, bazaar.chain, None, "127.0.0.1", 0, Settings(rate=0)) as server:
            found: Server = server
            head = bazaar.chain.head().number
            wait_for(lambda: fetched(f"{found.url}/v1/status")["indexed_block"] >= head)
            yield f"{found.url}/v1/projects/0x{project.hex()}"


def fetched(url: str) -> Any:
    answer = requests.get(url, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_project_names_its_root_and_its_rounds_what_came_of_it(path: str) -> None:
    assert fetched(path)["root"] == address(SPONSOR)
    rounds = {found["number"]: found for found in fetched(f"{path}/rounds")["items"]}
    assert {n: rounds[n]["root"] for n in (1, 2, 3)} == {
        1: "believed",
        2: "set aside",
        3: "absent",
    }
    assert [rounds[n]["counted"] for n in (1, 2, 3)] == [3, 3, 3]
    assert [rounds[n]["outliers"] for n in (1, 2, 3)] == [0, 0, 0]
    # The pot goes to the trainers in any case.
    assert {found["paid"] for n, found in rounds.items() if n <= 3} == {"1000003"}


def test_the_roots_update_is_no_outlier_and_has_its_row(path: str) -> None:
    for number, status in ((1, "root"), (2, "aside")):
        found = fetched(f"{path}/rounds/{number}")
        (its,) = [row for row in found["updates"] if row["trainer"] == address(SPONSOR)]
        assert (its["status"], its["share"], its["weight"], its["strikes"]) == (status, "0", 0, 0)
        assert its["norm"] > 0 and address(SPONSOR) in found["gram"]["trainers"]
        explained = fetched(f"{path}/rounds/{number}/explain/{address(SPONSOR)}")
        assert "root trainer's update" in explained["verdict"]
        paid = fetched(f"{path}/rounds/{number}/explain/{address(10)}")
        steps = {step["name"]: step["value"] for step in paid["steps"]}
        assert steps["root trainer"] == ("believed" if number == 1 else "set aside")
    api, _, project = path.partition("/projects/")
    assert fetched(f"{api}/outliers?project={project}")["items"] == []
    assert [model["updates"] for model in fetched(f"{path}/models")["items"]] == [3, 3, 3, 0]


def test_the_root_is_told_to_train_and_not_to_join(path: str) -> None:
    found = fetched(f"{path}/trainers/{address(SPONSOR)}")
    assert found["membership"] == "none"
    assert [action["name"] for action in found["next"]] == ["train"]
