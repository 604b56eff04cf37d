"""Devnets keep their past states where these go with them, and not in the user's folder."""

import json
import os
import signal
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.devnet import down, find, free_port, running_anvil, up
from marketplace.errors import NotFoundError

BLOCKS = 1700
"""More than the chain keeps in memory at a block a second: the others it puts on disk."""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user's folder and that for temporary files be the test's own."""
    (tmp_path / "user").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def past_states(folder: Path) -> list[Path]:
    # the chain may remove one while they are listed
    with suppress(FileNotFoundError):
        return [file for file in folder.rglob("*") if file.is_file()]
    return []


def mine(rpc: str, folder: Path) -> None:
    """Mine until there are past states in the folder."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": [hex(BLOCKS)]}
    request = urllib.request.Request(
        rpc, json.dumps(call).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert "error" not in json.loads(answer.read())
    deadline = time.monotonic() + 20
    while not past_states(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert past_states(folder)


def test_a_chain_for_a_block_of_code_takes_them_along(tmp_path: Path) -> None:
    with running_anvil() as rpc:
        mine(rpc, tmp_path / "temporary")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert past_states(tmp_path / "user") == []


def test_a_homes_chain_takes_them_along_though_it_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    running = up(home, free_port())
    mine(running.rpc, home / "devnet-past")
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(NotFoundError):
        while True:
            find(home)
            time.sleep(0.02)
    assert past_states(home / "devnet-past")
    assert up(home).pid != running.pid
    assert past_states(home / "devnet-past") == []
    down(home)
    assert not (home / "devnet-past").exists()
    assert past_states(tmp_path / "user") == []


def test_a_state_that_was_torn_while_it_was_saved_gives_way_to_the_one_before(
    tmp_path: Path,
) -> None:
    home, said = tmp_path / "home", list[str]()
    mine(up(home, free_port()).rpc, home / "devnet-past")
    first = down(home).block
    later = up(home)
    mine(later.rpc, home / "devnet-past")
    assert down(home).block > first
    state = home / "devnet-state.json"
    whole = state.read_bytes()
    for torn in (b"", whole[: len(whole) // 2]):
        state.write_bytes(torn)
        again = up(home, say=said.append)
        assert first <= again.block < first + BLOCKS
        down(home)
    assert (
        said
        == ["the chain was killed while it saved its state; it goes back to its last start"] * 2
    )


def test_a_first_state_that_was_torn_makes_the_chain_start_anew(tmp_path: Path) -> None:
    home, said = tmp_path / "home", list[str]()
    home.mkdir()
    (home / "devnet-state.json").write_bytes(b"{")
    assert up(home, free_port(), said.append).block < BLOCKS
    down(home)
    assert said == ["the chain was killed while it saved its state; it starts anew"]
