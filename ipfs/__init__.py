"""Store content under CIDs that any IPFS node computes alike."""

from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import (
    BlockError,
    CidError,
    CorruptError,
    FormatError,
    InputError,
    IpfsError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.store import BlockStore, Store

__all__ = [
    "DAG_PB",
    "RAW",
    "BlockError",
    "BlockStore",
    "Cid",
    "CidError",
    "CorruptError",
    "FormatError",
    "InputError",
    "IpfsError",
    "LimitError",
    "NotFoundError",
    "Store",
    "StoreError",
    "TimeLimitError",
]
