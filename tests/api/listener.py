"""Read a stream of server-sent events, and wait for what happens beside the test."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import requests


def wait_for(condition: Any, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Listener:
    """Read a stream of server-sent events in a thread."""

    def __init__(self, url: str, last: str | None = None) -> None:
        headers = {} if last is None else {"Last-Event-ID": last}
        self.answer = requests.get(url, headers=headers, stream=True, timeout=30)
        assert self.answer.headers["content-type"].startswith("text/event-stream")
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        event: dict[str, Any] = {}
        try:
            for line in self.answer.iter_lines(chunk_size=1):
                name, _, value = line.decode().partition(": ")
                if not line and "event" in event:
                    self.events.append(event)
                    event = {}
                elif name in ("event", "id"):
                    event[name] = value
                elif name == "data":
                    event["data"] = json.loads(value)
        except (requests.RequestException, AttributeError, ValueError):
            pass

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def close(self) -> None:
        self.answer.close()
        self._thread.join(5)
