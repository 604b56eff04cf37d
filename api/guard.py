"""Surround every request: a limit a client, an ETag an answer, and measurements.

A plain ASGI layer, so that streams pass through it unbuffered.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics

__all__ = ["Buckets", "Guard"]

_MOST_CLIENTS = 10_000
_UNLIMITED = ("/healthz", "/readyz", "/metrics")


class Buckets:
    """Let each client make `rate` requests a second, and `burst` at once (token bucket)."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take a request of the client's; return 0, or the seconds until it may ask again."""
        if not self.rate:
            return 0.0
        now = self._clock()
        left, then = self._left.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.rate)
        allowed = left >= 1.0
        self._left[client] = (left - 1.0 if allowed else left, now)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self.rate


class Guard:
    """Pass requests on to `app`."""

    def __init__(self, app: ASGIApp, buckets: Buckets, metrics: Metrics) -> None:
        self.app = app
        self.buckets = buckets
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            client = scope["client"][0] if scope.get("client") else ""
            free = scope["path"] in _UNLIMITED
            wait = 0.0 if free else self.buckets.wait(client)
            if wait:
                await self._refuse(noted, wait)
            else:
                await self.app(scope, receive, _Tagged(scope, noted).send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(scope["method"], route, status, time.perf_counter() - started)

    async def _refuse(self, send: Send, wait: float) -> None:
        detail = (
            f"more than {self.buckets.rate:g} requests a second, after {self.buckets.burst} at "
            f"once; ask again in {math.ceil(wait)} s, or listen to /v1/events"
        )
        body = {"type": "about:blank", "title": "Too many requests", "status": 429}
        text = orjson.dumps({**body, "detail": detail})
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(text)).encode()),
            (b"retry-after", str(math.ceil(wait)).encode()),
        ]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": text})


class _Tagged:
    """Put an ETag on a JSON answer that comes in one piece, or say that it is known already."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._tagging = scope["method"] in ("GET", "HEAD") and scope["path"].startswith("/v1/")
        self._known = b", ".join(
            value for name, value in scope["headers"] if name == b"if-none-match"
        )
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            plain = headers.get(b"content-type") == b"application/json"
            if self._tagging and plain and message["status"] == 200:
                self._start = message
                return
        elif self._start is not None:
            start, self._start = self._start, None
            if not message.get("more_body"):
                start, message = self._tag(start, message)
            await self._send(start)
        await self._send(message)

    def _tag(self, start: Message, message: Message) -> tuple[Message, Message]:
        digest = hashlib.blake2b(message.get("body", b""), digest_size=16).hexdigest()
        tag = f'"{digest}"'.encode()
        headers = [*start["headers"], (b"etag", tag), (b"cache-control", b"no-cache")]
        given = {part.strip().removeprefix(b"W/") for part in self._known.split(b",")}
        if tag in given or b"*" in given:
            kept = [(name, value) for name, value in headers if not name.startswith(b"content-")]
            return (
                {**start, "status": 304, "headers": kept},
                {"type": "http.response.body", "body": b""},
            )
        return {**start, "headers": headers}, message
