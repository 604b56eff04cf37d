"""Give the npm package solc the command line of a native compiler, as `tribute-solc`.

py-solc-x, forge and Brownie start a `solc`, read its version line and speak standard JSON; the
command of the npm package prints other things too, and takes a second to say its version. It is
the only compiler used, also where a native one could be fetched: the lock file then fixes the
bytecode everywhere, and what a native one would save is half a minute after a change of contracts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile

from deploy.paths import NODE_MODULES, node, solc_script

__all__ = ["main", "version_line"]


def version_line() -> str:
    """Return the line that native compilers print, for the installed version."""
    script = solc_script()
    version = json.loads((NODE_MODULES / "solc" / "package.json").read_text())["version"]
    cache = NODE_MODULES / "solc" / f".version-{version}"
    if not cache.exists():
        said = subprocess.run(
            [node(), script, "--version"], check=True, capture_output=True, text=True, timeout=60
        ).stdout
        commit = said.split("+")[1].split(".Emscripten")[0]
        new = cache.with_suffix(f".{os.getpid()}")
        new.write_text(f"Version: {version}+{commit}.Linux.g++")
        new.replace(cache)
    return cache.read_text()


def main() -> None:
    """Compile like `solc`: `--version`, or standard JSON from stdin to stdout."""
    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.stdout.write(f"solc, the solidity compiler commandline interface\n{version_line()}\n")
        return
    if "--standard-json" not in arguments:
        sys.exit("tribute-solc knows --version and --standard-json only")
    folders = [
        value
        for option, value in zip(arguments, arguments[1:], strict=False)
        if option in ("--base-path", "--include-path")
    ]
    if "--base-path" not in arguments:
        folders.insert(0, ".")
    # Node reads a pipe without waiting for it and fails with EAGAIN; a file is always ready.
    with tempfile.TemporaryFile() as given:
        shutil.copyfileobj(sys.stdin.buffer, given)
        given.seek(0)
        os.dup2(given.fileno(), 0)
        os.execv(node(), [str(node()), str(solc_script()), *folders])
