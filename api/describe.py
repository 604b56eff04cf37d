"""Find what sponsors say about their projects, where nothing else waits for it.

Covered: several descriptions at once, the newest projects' first; whatever is not found in time is
asked for again, less and less often. Not covered: where content is (`ipfs.select`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import orjson
from sqlalchemy.exc import OperationalError

from api.index import Index
from marketplace.codec import DESCRIPTION_FILE, Description, decode_description

__all__ = ["READ_S", "Describer", "ReadFile"]

log = logging.getLogger(__name__)

READ_S = 4.0
"""Seconds that a store may take to find a description; a server that stops waits for it."""

_LIMIT = 1 << 16
_AT_ONCE = 8
_RETRY_S = (5.0, 600.0)
"""After the first failure, and at most; each failure doubles it."""

ReadFile = Callable[[bytes, str, int], bytes]
"""Read a file from IPFS: digest of a directory's root, name in it, most bytes."""


class Describer:
    """Put the descriptions that `read_file` finds into an index."""

    def __init__(
        self, index: Index, read_file: ReadFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.index = index
        self.read_file = read_file
        self._clock = clock
        self._missed: dict[bytes, tuple[float, float]] = {}

    def run(self, stop: threading.Event, poll_s: float = 0.5) -> None:
        """Look again and again until `stop`."""
        while not stop.is_set():
            try:
                more = self.look()
            except OperationalError:
                # The follower says that the database is away.
                more = False
            if not more:
                stop.wait(poll_s)

    def look(self) -> bool:
        """Ask for the newest that are unknown and due; return whether there may be more."""
        now = self._clock()
        due = [
            digest
            for digest in self.index.unknown_descriptions()
            if now >= self._missed.get(digest, (0.0, 0.0))[0]
        ]
        part = due[:_AT_ONCE]
        if part:
            with ThreadPoolExecutor(len(part), "describe") as pool:
                for digest, found in zip(part, pool.map(self._read, part), strict=True):
                    self._note(digest, found)
        return len(due) > len(part)

    def _read(self, digest: bytes) -> Description | None:
        try:
            return decode_description(self.read_file(digest, DESCRIPTION_FILE, _LIMIT))
        except Exception as error:
            # A defect that one description meets must not keep the others from being read.
            if not hasattr(error, "exit_code"):
                log.exception("description 0x%s met a defect", digest.hex())
            return None

    def _note(self, digest: bytes, found: Description | None) -> None:
        if found is None:
            _, waited = self._missed.get(digest, (0.0, _RETRY_S[0] / 2))
            wait = min(2 * waited, _RETRY_S[1])
            self._missed[digest] = (self._clock() + wait, wait)
            return
        self._missed.pop(digest, None)
        document = orjson.dumps(asdict(found), option=orjson.OPT_SORT_KEYS).decode()
        self.index.add_description(digest, found.title, found.summary, document)
