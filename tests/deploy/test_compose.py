"""The compose file: nothing but loopback is published, and images are pinned.

No container engine is needed; the tests of `make test-ipfs` run against the node that it starts.
"""

import ipaddress
import re
import subprocess

import pytest
import yaml

from deploy.paths import ROOT

FILE = ROOT / "deploy" / "compose.yaml"
DOCUMENT = yaml.safe_load(FILE.read_text())
SERVICES = DOCUMENT["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_publishes_ports_on_loopback_alone(name: str) -> None:
    service = SERVICES[name]
    assert "network_mode" not in service and not service.get("privileged")
    assert service["ports"]
    for port in service["ports"]:
        # the short form, whose address would be 0.0.0.0 if it were left out
        found = re.fullmatch(r"([0-9.]+):(\d+):(\d+)", port)
        assert found is not None, port
        assert ipaddress.ip_address(found[1]).is_loopback


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_and_keeps_its_data(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/]+:v\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    volumes = [volume.partition(":")[0] for volume in service["volumes"]]
    assert volumes and set(volumes) <= DOCUMENT["volumes"].keys()


def test_the_node_is_made_private_before_it_starts() -> None:
    (config,) = SERVICES["kubo"]["configs"]
    assert config["target"].startswith("/container-init.d/") and config["target"].endswith(".sh")
    script = DOCUMENT["configs"][config["source"]]["content"]
    assert "ipfs bootstrap rm --all" in script and "ipfs config Routing.Type none" in script
    # Compose would take a dollar for a variable of the user's
    assert "$" not in script
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_what_the_head_says_to_type_is_right() -> None:
    head = FILE.read_text().partition("name:")[0]
    assert f"docker compose -f {FILE.relative_to(ROOT)} up" in head
    (port,) = SERVICES["kubo"]["ports"]
    address = port.rpartition(":")[0]
    assert f"TRIBUTE_KUBO=http://{address} make test-ipfs" in head
    assert f"kubo:http://{address}" in head
