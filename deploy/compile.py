"""Compile the contracts through py-solc-x, once for each state of their sources.

Covered: settings, cache by source hash, the committed ABIs. Not covered: where the compiler comes
from (`deploy.solc`).
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.paths import BUILD, CONTRACTS, NODE_MODULES, ROOT
from marketplace.errors import InputError, NotFoundError

__all__ = ["ABIS", "Artefact", "artefact", "artefacts", "artefacts_file", "write_abis"]

ABIS = ("IGramVerifier", "IScoringRule", "Marketplace", "TestToken")
"""Contracts whose ABI is committed in `contracts/abi`, for those who never compile."""

_SETTINGS: dict[str, Any] = {
    # The marketplace is 94 % of EIP-170's limit with 200 runs, and over it with 1,000.
    "optimizer": {"enabled": True, "runs": 200},
    "viaIR": True,
    "evmVersion": "osaka",
    "remappings": ["@openzeppelin/=deploy/toolchain/node_modules/@openzeppelin/"],
    "outputSelection": {
        "*": {
            "*": [
                "abi",
                "evm.bytecode.object",
                "evm.deployedBytecode.object",
                "evm.deployedBytecode.immutableReferences",
                "storageLayout",
            ]
        }
    },
}


@dataclass(frozen=True)
class Artefact:
    """Hold a compiled contract: its ABI, the code that creates it, and the code that runs.

    `immutables` are start and length of what its constructor fills in.
    """

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    runtime: bytes
    immutables: tuple[tuple[int, int], ...]

    def runs_as(self, code: bytes) -> bool:
        """Tell whether a contract's code is this one, whatever its immutables are."""
        same = len(code) == len(self.runtime)
        return same and self._masked(code) == self._masked(self.runtime)

    def _masked(self, code: bytes) -> bytes:
        masked = bytearray(code)
        for start, length in self.immutables:
            masked[start : start + length] = bytes(length)
        return bytes(masked)


def artefact(name: str) -> Artefact:
    """Return a contract of `contracts/` by name, compiled if its sources changed."""
    found = artefacts()
    if name not in found:
        raise NotFoundError(f"no contract {name!r}; there are {', '.join(sorted(found))}")
    return found[name]


@functools.lru_cache(maxsize=1)
def artefacts() -> Mapping[str, Artefact]:
    """Return all contracts of `contracts/` by name; takes half a minute after a change."""
    return {
        name: Artefact(
            name,
            entry["abi"],
            bytes.fromhex(entry["bytecode"]),
            bytes.fromhex(entry["runtime"]),
            tuple((start, length) for start, length in entry["immutables"]),
        )
        for name, entry in json.loads(artefacts_file().read_text()).items()
    }


def artefacts_file() -> Path:
    """Return the file that holds ABI and code of all contracts, by name, compiled if need be."""
    sources = _sources(CONTRACTS)
    cache = BUILD / "contracts" / f"{_fingerprint(sources)}.json"
    with _alone(BUILD / "contracts"):
        if not cache.exists():
            compiled = json.dumps(_compile(sources))
            new = cache.with_suffix(".new")
            new.write_text(compiled)
            new.replace(cache)
    return cache


def write_abis() -> None:
    """Write `contracts/abi` anew."""
    for name in ABIS:
        file = CONTRACTS / "abi" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(artefact(name).abi, indent=1) + "\n")


def _sources(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.sol"))
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


def _fingerprint(sources: dict[str, str]) -> str:
    lock = (ROOT / "deploy" / "toolchain" / "package-lock.json").read_text()
    state = json.dumps([sources, _SETTINGS, lock], sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest()[:32]


def _compile(sources: dict[str, str]) -> dict[str, dict[str, Any]]:
    import solcx

    shim = shutil.which("tribute-solc", path=str(Path(sys.executable).parent))
    if shim is None:
        raise InputError(f"tribute-solc is not in the environment; run `make setup` in {ROOT}")
    output = solcx.compile_standard(
        {
            "language": "Solidity",
            "sources": {path: {"content": text} for path, text in sources.items()},
            "settings": _SETTINGS,
        },
        solc_binary=shim,
        base_path=ROOT,
        allow_paths=str(NODE_MODULES),
    )
    return {
        name: {
            "abi": entry["abi"],
            "bytecode": entry["evm"]["bytecode"]["object"],
            "runtime": entry["evm"]["deployedBytecode"]["object"],
            "immutables": [
                (place["start"], place["length"])
                for places in entry["evm"]["deployedBytecode"]["immutableReferences"].values()
                for place in places
            ],
            "layout": entry["storageLayout"],
        }
        for path in sources
        for name, entry in output["contracts"].get(path, {}).items()
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let processes that start together compile once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    write_abis()
