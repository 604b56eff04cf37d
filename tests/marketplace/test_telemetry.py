"""Read back what roles log and measure, from the process' own stderr and endpoint."""

from __future__ import annotations

import json
import logging
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from marketplace.errors import InputError
from marketplace.telemetry import RoleTelemetry, configure_logging, serving_metrics

PROJECT = bytes.fromhex("ab" * 32)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_json_lines_carry_project_round_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    told: list[str] = []
    role = RoleTelemetry("trainer", PROJECT, "0xA", told.append, as_json=True)
    role.notify("committed", 3, "update\ncommitted")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found["project"] == "0x" + "ab" * 32 and found["round"] == 3
    assert (found["stage"], found["account"]) == ("committed", "0xA")
    assert (found["message"], found["level"]) == ("update\ncommitted", "info")
    assert told == []


def test_people_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    told: list[str] = []
    RoleTelemetry("trainer", PROJECT, "0xA", told.append).notify("revealed", 2, "opened")
    assert told == ["round 2  revealed: opened"]
    logging.getLogger("api.follow").warning("reorganisation", extra={"block": 7})
    assert capsys.readouterr().err.rstrip().endswith("warning reorganisation  block=7")


def test_a_failure_is_one_line_of_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("api").exception("it failed", extra={"key": b"\x01"})
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["trace"]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="text and json"):
        configure_logging("xml")


def test_prometheus_reads_stages_and_rounds_on_loopback() -> None:
    role = RoleTelemetry("aggregator", PROJECT, "0xA", lambda _: None)
    for stage in ("fetched", "fetched", "settled"):
        role.notify(stage, 4, "")
    role.looked(5, 4)
    port = free_port()
    with serving_metrics(role.registry, port):
        address = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        with socket.create_connection(("127.0.0.1", port)) as open_:
            assert open_.getpeername()[0] == "127.0.0.1"
        with pytest.raises(InputError, match=str(port)), serving_metrics(role.registry, port):
            pass
    labels = f'account="0xA",project="0x{"ab" * 32}"'
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    found = {name: float(value) for name, value in values.items()}

    def value(name: str, stage: str = "") -> float:
        more = f',stage="{stage}"' if stage else ""
        options = (
            f"{name}{{{labels}{more}}}",
            f'{name}{{project="0x{"ab" * 32}",account="0xA"{more}}}',
        )
        return next(found[option] for option in options if option in found)

    assert value("tribute_aggregator_stages_total", "fetched") == 2
    assert value("tribute_aggregator_stages_total", "settled") == 1
    assert value("tribute_aggregator_stage_seconds_count", "settled") == 1
    assert value("tribute_aggregator_round") == 5
    assert value("tribute_aggregator_settled_rounds") == 4


def test_without_a_port_nothing_listens() -> None:
    role = RoleTelemetry("trainer", PROJECT, "0xA", lambda _: None)
    with serving_metrics(role.registry, None):
        pass
