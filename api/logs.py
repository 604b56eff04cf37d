"""Read the marketplace's logs in bulk: raw JSON-RPC answers to events.

Covered: every event of the ABI, by plans made once from it; words are cut from the bytes without a
decoder's generality, which is what makes catching up quick. Not covered: one event at a time
(`marketplace.interface`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from eth_abi.exceptions import DecodingError
from eth_utils.abi import event_abi_to_log_topic, get_abi_input_types
from eth_utils.address import to_checksum_address

from api.tables import POSITION_BITS
from contracts import abi
from marketplace.errors import CodecError
from marketplace.interface import decode

__all__ = ["LogEvent", "read_logs"]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Hold an event, the block it is in, and its place in the order of all events."""

    name: str
    values: Mapping[str, Any]
    block: int
    block_hash: bytes
    position: int
    transaction: bytes


Read = Callable[[bytes, int], Any]
"""Read a value: the data of a log and the offset of the value's first word."""


@functools.lru_cache(maxsize=1 << 16)
def _address(word: bytes) -> str:
    return to_checksum_address(word[12:])


def _dynamic_bytes(data: bytes, at: int) -> bytes:
    start = int.from_bytes(data[at : at + 32])
    size = int.from_bytes(data[start : start + 32])
    found = data[start + 32 : start + 32 + size]
    if len(found) != size:
        raise CodecError(f"a log announces {size} bytes and holds {len(found)}")
    return found


def _reader(kind: str) -> tuple[Read, int] | None:
    """Return how to read a type and how many bytes its head takes; None where it is not plain."""
    if kind == "address":
        return lambda data, at: _address(data[at : at + 32]), 32
    if kind == "bool":
        return lambda data, at: data[at + 31] != 0, 32
    if kind.startswith("uint") and "[" not in kind:
        return lambda data, at: int.from_bytes(data[at : at + 32]), 32
    if kind == "bytes":
        return _dynamic_bytes, 32
    if kind == "bytes32[3]":
        return lambda data, at: data[at : at + 96], 96
    if kind.startswith("bytes") and "[" not in kind:
        size = int(kind[5:])
        return lambda data, at: data[at : at + size], 32
    return None


class _Plan:
    """Know where the values of one event are."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name: str = entry["name"]
        fields = list(zip(entry["inputs"], get_abi_input_types(cast(Any, entry)), strict=True))
        self.topics = [
            (field["name"], _must(_reader(kind), kind)[0])
            for field, kind in fields
            if field["indexed"]
        ]
        plain = [(field["name"], kind) for field, kind in fields if not field["indexed"]]
        self.names = [name for name, _ in plain]
        self.kinds = [kind for _, kind in plain]
        readers = [_reader(kind) for kind in self.kinds]
        self.data: list[tuple[str, Read, int]] | None = None
        self.size = 0
        if all(reader is not None for reader in readers):
            self.data = []
            for name, reader in zip(self.names, readers, strict=True):
                read, size = _must(reader, name)
                self.data.append((name, read, self.size))
                self.size += size

    def values(self, topics: list[str], data: bytes) -> dict[str, Any]:
        if len(topics) - 1 != len(self.topics) or len(data) < self.size:
            raise CodecError(f"{len(topics)} topics and {len(data)} bytes")
        if self.data is None:
            found = dict(zip(self.names, decode(self.kinds, data), strict=True))
        else:
            found = {name: read(data, at) for name, read, at in self.data}
        for (name, read), topic in zip(self.topics, topics[1:], strict=True):
            found[name] = read(bytes.fromhex(topic[2:]), 0)
        return found


def _must(reader: tuple[Read, int] | None, kind: str) -> tuple[Read, int]:
    if reader is None:
        raise CodecError(f"no plan for an indexed {kind}")
    return reader


@functools.cache
def _plans() -> Mapping[str, _Plan]:
    return {
        "0x" + bytes(event_abi_to_log_topic(cast(Any, entry))).hex(): _Plan(entry)
        for entry in abi("Marketplace")
        if entry["type"] == "event"
    }


def read_logs(logs: Iterable[Mapping[str, Any]]) -> list[LogEvent]:
    """Return the marketplace's events among the logs, oldest first, each of them once."""
    plans = _plans()
    found: dict[int, LogEvent] = {}
    for log in logs:
        topics = log["topics"]
        plan = plans.get(topics[0]) if topics else None
        if plan is None or log.get("removed"):
            continue
        block = int(log["blockNumber"], 16)
        position = (block << POSITION_BITS) + int(log["logIndex"], 16)
        try:
            values = plan.values(topics, bytes.fromhex(log["data"][2:]))
        except (CodecError, DecodingError, ValueError) as error:
            raise CodecError(
                f"the event {plan.name} in block {block} is not as this version knows it "
                f"({error}); the marketplace was deployed by another version of tribute: deploy "
                "this one's, or use that one"
            ) from error
        found[position] = LogEvent(
            plan.name,
            values,
            block,
            bytes.fromhex(log["blockHash"][2:]),
            position,
            bytes.fromhex(log["transactionHash"][2:]),
        )
    return [found[position] for position in sorted(found)]
