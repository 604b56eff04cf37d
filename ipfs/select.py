"""Turn what a user says about where content is into a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipfs.errors import InputError
from ipfs.gateway import Gateways
from ipfs.kubo import KuboStore
from ipfs.layered import LayeredStore
from ipfs.store import BlockStore, Store

__all__ = ["open_store"]

_KUBO = "kubo:"


def open_store(folder: Path, addresses: Sequence[str] = ()) -> Store:
    """Return the embedded store in `folder`, or the one that addresses name.

    `kubo:http://…` is the RPC of a node that is used instead, `http://…` and `https://…` are
    trustless gateways to read from what is not in the folder.
    """
    nodes = [address for address in addresses if address.startswith(_KUBO)]
    if not addresses:
        return BlockStore(folder)
    if not nodes:
        return LayeredStore(BlockStore(folder), Gateways(addresses))
    if len(addresses) > 1:
        raise InputError(
            f"{nodes[0]} finds content itself; name it alone, without {len(addresses) - 1} more"
        )
    return KuboStore(nodes[0].removeprefix(_KUBO))
