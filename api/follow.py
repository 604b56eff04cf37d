"""Follow the chain: fetch new events in batches, find reorganisations, keep the index up to date.

Covered: catching up and following by polling; node outages (the next look goes on where the last
one stopped); reorganisations, by the hashes of the blocks seen; how tokens are called.
Not covered: the rows (`api.fold`), the database (`api.index`), descriptions (`api.describe`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
from eth_abi.exceptions import DecodingError
from sqlalchemy.exc import OperationalError

from api.index import Cursor, Index
from api.logs import LogEvent, read_logs
from api.metrics import Metrics
from marketplace.chain import Chain
from marketplace.errors import ChainError, ContractError, MarketplaceError
from marketplace.terminal import Money

__all__ = ["Follower"]

log = logging.getLogger(__name__)

BATCH_BLOCKS = 2_000
_RPC_LIMIT = 1 << 30
_LOCAL = ("localhost", "127.0.0.1", "::1")
_LOGGED = ("ProjectOpened", "Settled", "RoundFailed", "ProjectEnded")


class Follower:
    """Keep one index up to date with one chain.

    `batch_blocks` blocks are taken in at once.
    """

    def __init__(
        self,
        index: Index,
        chain: Chain,
        batch_blocks: int = BATCH_BLOCKS,
        metrics: Metrics | None = None,
    ) -> None:
        self.index = index
        self.chain = chain
        self.batch_blocks = batch_blocks
        self.metrics = metrics or Metrics()
        self.head: tuple[int, int] | None = None
        """Number and time of the newest block that the chain told of."""
        self.failure: str | None = None
        """Why the last look failed; None if it did not."""
        self._session = requests.Session()
        # The environment's proxies are not for this machine.
        self._session.trust_env = urlsplit(chain.rpc).hostname not in _LOCAL

    def run(self, stop: threading.Event, poll_s: float = 0.5) -> None:
        """Look again and again until `stop`; a failure is logged and tried again."""
        while not stop.is_set():
            try:
                moved = self.step()
                self.failure = None
            except (MarketplaceError, requests.RequestException, OperationalError) as error:
                if self.failure is None:
                    log.warning("the index waits: %s", error)
                # The words may name an endpoint that others should not learn.
                self.failure = f"{type(error).__name__}; the server's log says more"
                moved = False
            self.metrics.failing.set(self.failure is not None)
            if not moved:
                stop.wait(poll_s)

    def catch_up(self) -> None:
        """Look until nothing is new."""
        while self.step():
            pass

    def step(self) -> bool:
        """Take in the next batch of blocks; return whether there may be more at once."""
        head = self._header("latest")
        if head is None:
            raise ChainError(f"{self.chain.rpc} has no blocks")
        self.head = head[0], head[2]
        at = self.index.cursor()
        self.metrics.followed(head[0], at.block, at.reorganisations)
        if at.block >= at.first_block and not self._is_ours(at):
            self._roll_back(at)
            return True
        if head[0] <= at.block:
            self._name_tokens()
            return False
        most = at.block + self.batch_blocks
        last = head if head[0] <= most else self._header(most)
        if last is None or not self._take(at, last):
            return True
        self._name_tokens()
        return last[0] < head[0]

    def _take(self, at: Cursor, last: tuple[int, bytes, int]) -> bool:
        batch, timestamps = self._events(at.block + 1, last[0], None)
        # The chain may have been reorganised while it was read, below the batch too.
        if self._header(last[0]) != last:
            return False
        if at.block >= at.first_block and not self._is_ours(at):
            return False
        self.index.write(batch, timestamps, last)
        if self.head is not None:
            self.metrics.followed(self.head[0], last[0])
        if batch:
            self.metrics.events.inc(len(batch))
            for event in batch:
                if event.name in _LOGGED:
                    facts = {"project": "0x" + event.values["project"].hex()}
                    facts |= {"block": event.block, "transaction": "0x" + event.transaction.hex()}
                    log.info(event.name, extra={**facts, "round": event.values.get("round", 0)})
            log.debug("indexed", extra={"block": last[0], "events": len(batch)})
        return True

    # ---------------------------------------------------------- reorganisations

    def _is_ours(self, at: Cursor) -> bool:
        found = self._header(at.block)
        return found is not None and found[1] == at.block_hash

    def _roll_back(self, at: Cursor) -> None:
        fork = self._fork(at)
        kept: list[LogEvent] = []
        timestamps: dict[int, int] = {}
        for project in self.index.project_ids_after(fork[0]):
            events, times = self._events(at.first_block, fork[0], project)
            kept += events
            timestamps |= times
        if fork[0] >= at.first_block and self._header(fork[0]) != fork:
            return
        log.warning("reorganisation", extra={"from": at.block, "to": fork[0]})
        self.index.undo(fork, kept, timestamps)

    def _fork(self, at: Cursor) -> tuple[int, bytes, int]:
        """Return the newest block seen that the chain still has; before the first if none is."""
        for number, block_hash in self.index.checkpoints():
            found = self._header(number)
            if found is not None and found[1] == block_hash:
                return found
        return at.first_block - 1, b"", 0

    # --------------------------------------------------------------------- RPC

    def _rpc(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """Return the answers to calls sent as one, parsed quickly; waits out short outages."""
        body = orjson.dumps(
            [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                for number, (method, params) in enumerate(calls)
            ]
        )
        with self._session.post(
            self.chain.rpc,
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=30,
            stream=True,
        ) as answer:
            text = answer.raw.read(_RPC_LIMIT, decode_content=True)
        try:
            answers = {entry["id"]: entry for entry in orjson.loads(text)}
            return [answers[number]["result"] for number in range(len(calls))]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            said = text[:200].decode(errors="replace")
            raise ChainError(f"{self.chain.rpc} answered {said!r} to {calls[0][0]}") from error

    def _header(self, number: int | str) -> tuple[int, bytes, int] | None:
        tag = number if isinstance(number, str) else hex(number)
        (found,) = self._rpc([("eth_getBlockByNumber", [tag, False])])
        return None if found is None else _header_of(found)

    def _events(
        self, first: int, last: int, project: bytes | None
    ) -> tuple[list[LogEvent], dict[int, int]]:
        topics: list[Any] = [None] if project is None else [None, "0x" + project.hex()]
        calls = [
            (
                "eth_getLogs",
                [
                    {
                        "address": self.chain.deployment.marketplace,
                        "fromBlock": hex(start),
                        "toBlock": hex(min(last, start + BATCH_BLOCKS - 1)),
                        "topics": topics,
                    }
                ],
            )
            for start in range(first, last + 1, BATCH_BLOCKS)
        ]
        logs = [found for part in map(self._rpc_one, calls) for found in part]
        timestamps = {
            int(found["blockNumber"], 16): int(found["blockTimestamp"], 16)
            for found in logs
            if found.get("blockTimestamp")
        }
        events = read_logs(logs)
        missing = sorted({event.block for event in events} - set(timestamps))
        for start in range(0, len(missing), 500):
            part = missing[start : start + 500]
            for found in self._rpc(
                [("eth_getBlockByNumber", [hex(number), False]) for number in part]
            ):
                if found is None:
                    raise ChainError(f"{self.chain.rpc} lost a block while it was read")
                timestamps[int(found["number"], 16)] = int(found["timestamp"], 16)
        return events, timestamps

    def _rpc_one(self, call: tuple[str, list[Any]]) -> Any:
        return self._rpc([call])[0]

    # ------------------------------------------------------------------ tokens

    def _name_tokens(self) -> None:
        for address in self.index.unknown_tokens():
            self.index.add_token(address, *self._token(address))

    def _token(self, address: str) -> tuple[str, int]:
        """Return a token's symbol and decimals; an unusual token shows its smallest units."""
        try:
            money = Money.of(self.chain, address)
            return money.symbol or "units", money.decimals
        except (ContractError, DecodingError, UnicodeDecodeError):
            return "units", 0


def _header_of(found: dict[str, Any]) -> tuple[int, bytes, int]:
    return (
        int(found["number"], 16),
        bytes.fromhex(found["hash"][2:]),
        int(found["timestamp"], 16),
    )
