"""Start, find and stop a local chain: anvil with the hardfork and limits of a real one.

Covered: a devnet that outlives the command (`tribute devnet`), one that ends with a block of code.
Not covered: what is deployed on it (`deploy.deployment`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from deploy.paths import anvil
from marketplace.errors import ChainError, InputError, NotFoundError
from marketplace.terminal import DEFAULT_HOME, HomeOption, JsonOption, Output

__all__ = [
    "ACCOUNTS",
    "Devnet",
    "devnet_app",
    "down",
    "find",
    "free_port",
    "is_taken",
    "pick_port",
    "running_anvil",
    "up",
]

ACCOUNTS = 160
"""Funded accounts: room for 128 trainers, the sponsor, the aggregator and others."""

PORT = 8545
_START_S = 20.0
_STOP_S = 20.0
_PORT_S = 1.0
_PAST_STATES = 600
"""States before the last 1,500 that stay readable, on disk."""

_outliving: list[subprocess.Popen[bytes]] = []
"""Devnets started here that are to go on: an object that is dropped warns that its process runs."""


@dataclass(frozen=True)
class Devnet:
    """Describe a running devnet."""

    rpc: str
    pid: int
    chain_id: int
    block: int


def _command(port: int, state: Path | None, past: Path) -> list[str]:
    command = [str(anvil()), "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--hardfork", "osaka", "--enable-tx-gas-limit", "--mixed-mining"]
    command += ["--block-time", "1", "--accounts", str(ACCOUNTS)]
    # Left to itself it keeps an hour of past states, gigabytes, in the user's folder, for good.
    command += ["--cache-path", str(past), "--max-persisted-states", str(_PAST_STATES)]
    if state is not None:
        command += ["--state", str(state), "--state-interval", "1"]
    return command


def _call(rpc: str, method: str, timeout_s: float = 10.0) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": []}).encode()
    request = urllib.request.Request(rpc, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.loads(answer.read(1 << 16))["result"]


def _wait_until_up(process: subprocess.Popen[bytes], rpc: str, log: Path | None) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text()[-2000:].strip() if log else ""
            raise ChainError(f"anvil stopped at once with code {process.returncode}. {said}")
        with suppress(OSError, ValueError, KeyError):
            _call(rpc, "eth_chainId")
            return
        time.sleep(0.02)
    process.kill()
    raise ChainError(f"anvil did not answer at {rpc} within {_START_S:.0f} s")


def pick_port() -> int:
    """Return the usual port if it is free, else one that nobody listens on."""
    return free_port() if is_taken(PORT) else PORT


def is_taken(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_anvil(state: Path | None = None) -> Iterator[str]:
    """Run a devnet on a free port for a block of code and yield its RPC address."""
    port = free_port()
    rpc = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="tribute-devnet-") as past:
        process = subprocess.Popen(
            _command(port, state, Path(past)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C reaches the whole process group; the chain outlives those who still use it.
            process_group=0,
        )
        try:
            _wait_until_up(process, rpc, None)
            yield rpc
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def up(home: Path, port: int | None = None, say: Callable[[str], None] = lambda _: None) -> Devnet:
    """Start the home's devnet, or return the one that runs; its state survives `down`.

    Without a port it takes the one it had before, which deployments on it point to. A chain that
    was killed while it saved its state goes back to its last start, and `say` is told so.
    """
    with suppress(NotFoundError):
        return find(home)
    if port is None:
        port = _port_before(home)
    deadline = time.monotonic() + _PORT_S
    # A devnet that has just ended may hold its port for a moment longer.
    while is_taken(port):
        if time.monotonic() > deadline:
            raise InputError(f"port {port} is taken by another program; choose one with --port")
        time.sleep(0.02)
    home.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_past(home), ignore_errors=True)
    state, kept = home / "devnet-state.json", home / "devnet-state-before.json"
    copy = kept.with_suffix(".new")
    rpc, log = f"http://127.0.0.1:{port}", home / "devnet.log"
    with suppress(FileNotFoundError):
        shutil.copyfile(state, copy)
    try:
        pid = _start(home, state, rpc, log)
    except ChainError:
        # It writes in place: a kill or a power cut in that moment leaves half a file.
        if not state.exists() or "failed to parse json file" not in log.read_text():
            raise
        copy.unlink()
        state.replace(home / "devnet-state-torn.json")
        if kept.exists():
            shutil.copyfile(kept, state)
        say(
            "the chain was killed while it saved its state; it "
            + ("goes back to its last start" if kept.exists() else "starts anew")
        )
        pid = _start(home, state, rpc, log)
    else:
        if copy.exists():
            copy.replace(kept)
    _file(home).write_text(json.dumps({"rpc": rpc, "pid": pid}) + "\n")
    return find(home)


def _start(home: Path, state: Path, rpc: str, log: Path) -> int:
    with log.open("wb") as written:
        process = subprocess.Popen(
            _command(int(rpc.rsplit(":", 1)[1]), state, _past(home)),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    _outliving.append(process)
    _wait_until_up(process, rpc, log)
    return process.pid


def _port_before(home: Path) -> int:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(_file(home).read_text())["rpc"].rsplit(":", 1)[1])
    return PORT


def find(home: Path) -> Devnet:
    """Return the home's running devnet; NotFoundError where there is none."""
    try:
        noted = json.loads(_file(home).read_text())
        rpc, pid = str(noted["rpc"]), int(noted["pid"])
        if not _is_anvil(pid):
            raise ProcessLookupError(pid)
        chain_id, block = (int(_call(rpc, m), 16) for m in ("eth_chainId", "eth_blockNumber"))
    except (OSError, ValueError, KeyError) as error:
        raise NotFoundError(
            f"no devnet runs in {home}; start one with `tribute devnet up`"
        ) from error
    return Devnet(rpc, pid, chain_id, block)


def down(home: Path) -> Devnet:
    """Stop the home's devnet and save its state."""
    running = find(home)
    os.kill(running.pid, signal.SIGINT)
    deadline = time.monotonic() + _STOP_S
    while _is_anvil(running.pid):
        if time.monotonic() > deadline:
            os.kill(running.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    shutil.rmtree(_past(home), ignore_errors=True)
    return running


def _is_anvil(pid: int) -> bool:
    """Tell whether a process number still means our chain, and not a later program."""
    # One of ours that ended keeps its number until it is asked.
    _outliving[:] = [process for process in _outliving if process.poll() is None]
    try:
        return b"anvil" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _file(home: Path) -> Path:
    return home / "devnet.json"


def _past(home: Path) -> Path:
    return home / "devnet-past"


devnet_app = typer.Typer(no_args_is_help=True, help="Run a local chain with funded test accounts.")


@devnet_app.command("up")
def up_command(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[
        int | None,
        typer.Option(
            help=f"Port on 127.0.0.1: the one it had before, else {PORT}.", min=1, max=65535
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the devnet in the background, or show the one that runs."""
    _show(up(home, port, Output(as_json).note), as_json)


@devnet_app.command("down")
def down_command(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Stop the devnet; the next `up` goes on where it stopped."""
    stopped = down(home)
    Output(as_json).result(asdict(stopped), f"stopped the devnet at block {stopped.block}")


@devnet_app.command("status")
def status_command(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show where the devnet answers, or fail with exit code 4 where none runs."""
    _show(find(home), as_json)


def _show(devnet: Devnet, as_json: bool) -> None:
    table = Table(box=None, show_header=False)
    for name, value in asdict(devnet).items():
        table.add_row(name.replace("_", " "), str(value))
    Output(as_json).result(asdict(devnet), table)
