"""Start real IPFS nodes that know nobody but each other and listen on loopback alone."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.paths import node

HERE = Path(__file__).parent
START_S = 90.0


def tools() -> Path:
    """Return the folder into which `make test-ipfs` installs what these nodes need."""
    default = HERE.parents[2] / "build" / "ipfs-tools"
    return Path(os.environ.get("TRIBUTE_IPFS_TOOLS", default))


def python() -> Path:
    return tools() / "venv" / "bin" / "python"


def js_ipfs() -> Path:
    return tools() / "node_modules" / "ipfs" / "src" / "cli.js"


@contextmanager
def running_js_ipfs(folder: Path) -> Iterator[str]:
    """Run js-ipfs; gives the address of its RPC."""
    environment = {**os.environ, "IPFS_PATH": str(folder)}
    command = [str(node()), str(js_ipfs())]
    # this profile has no bootstrap list and no discovery, and binds to 127.0.0.1
    subprocess.run(
        [*command, "init", "--profile=test"], env=environment, check=True, capture_output=True
    )
    config = json.loads((folder / "config").read_text())
    assert config["Bootstrap"] == []
    assert not config["Discovery"]["MDNS"]["Enabled"]
    config["Addresses"]["RPC"] = "/ip4/127.0.0.1/tcp/0"
    listening = [*config["Addresses"]["Swarm"], config["Addresses"]["API"]]
    assert all(address.startswith("/ip4/127.0.0.1/") for address in listening)
    (folder / "config").write_text(json.dumps(config))
    process = subprocess.Popen([*command, "daemon"], env=environment, stdout=subprocess.PIPE)
    try:
        said = wait_for(process, "Daemon is ready")
        found = re.search(r"HTTP API listening on /ip4/127\.0\.0\.1/tcp/(\d+)", said)
        assert found is not None
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[bytes], words: str) -> str:
    """Read what a process prints until it has said the words; returns all of it."""
    assert process.stdout is not None
    said, deadline = "", time.monotonic() + START_S
    while words not in said:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([process.stdout], [], [], left)
        part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        assert part, f"the node did not start within {START_S:.0f} s: {said}"
        said += part.decode(errors="replace")
    return said


class Kubo:
    """Run Kubo as a library in a process of its own."""

    def __init__(self, repository: Path, blocks: Path | None = None) -> None:
        extra = [] if blocks is None else [str(blocks)]
        self._process = subprocess.Popen(
            [str(python()), str(HERE / "kubo_node.py"), str(repository), *extra],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # the library writes its log where it is started
            cwd=repository.parent,
        )
        addresses = self._answer(START_S)
        assert isinstance(addresses, list)
        self.address = str(addresses[0])

    def _answer(self, timeout_s: float) -> object:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            raise TimeoutError
        return json.loads(self._process.stdout.readline())

    def call(self, *words: str, timeout_s: float = 30.0) -> object:
        """Call a function of the library; TimeoutError where it does not return in time."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(timeout_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
