"""Turn what a user says about where content is into a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipfs.gateway import Gateways
from ipfs.layered import LayeredStore
from ipfs.store import BlockStore, Store

__all__ = ["open_store"]


def open_store(folder: Path, addresses: Sequence[str] = ()) -> Store:
    """Return the embedded store in `folder`, with gateways behind it where some are named.

    `http://…` and `https://…` are trustless gateways to read from.
    """
    local = BlockStore(folder)
    return LayeredStore(local, Gateways(addresses)) if addresses else local
