"""Read blocks from trustless gateways, which are believed nothing: every block is hashed.

Covered: `?format=raw` and `?format=car` of the Trustless Gateway Specification (IPFS specs,
2024-04-17), several gateways in parallel, limits on bytes and time, stalled and endless answers.
Not covered: redirections (name the address that they lead to), paths, IPNS.

A gateway that answers wrongly is no reason to think badly of the content: its errors are
`StoreError`, never `CorruptError`, and `NotFoundError` means that every gateway said so.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx2

from ipfs.car import read_car
from ipfs.cid import RAW, Cid
from ipfs.dag import Deadline
from ipfs.errors import (
    BlockError,
    FormatError,
    InputError,
    IpfsError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.unixfs import MAX_BLOCK_BYTES, decode_links

__all__ = ["CAR_TYPE", "RAW_TYPE", "Gateways", "check_url", "http_client"]

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"

_BLOCK_S = 60.0
_CONNECT_S = 5.0
_STALL_S = 15.0
_HEDGE_S = 0.3
_PARALLEL = 3


def check_url(text: str) -> httpx2.URL:
    """Return the address of a gateway or node; raises `InputError`."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise InputError(f"{text[:200]!r} is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{text[:200]!r} is no address: give http://HOST:PORT or https://HOST")
    if url.userinfo or url.query or url.fragment:
        raise InputError(f"address of host {url.host} has more than a host, a port and a path")
    return url


def http_client(url: httpx2.URL) -> httpx2.Client:
    """Return a client for one address; the environment's proxies are not for this machine."""
    local = url.host in ("localhost", "127.0.0.1", "::1")
    return httpx2.Client(
        base_url=url,
        trust_env=not local,
        headers={"Accept-Encoding": "identity", "User-Agent": "tribute"},
        limits=httpx2.Limits(max_connections=32),
    )


def limits(deadline: Deadline, what: object) -> httpx2.Timeout:
    """Return the time limits of one request."""
    left = deadline.left_s(what)
    return httpx2.Timeout(min(_STALL_S, left), connect=min(_CONNECT_S, left))


@dataclass
class _Gateway:
    url: str
    client: httpx2.Client
    failures: int = 0
    took_s: float = 0.0


@dataclass
class _Race:
    """Collect the answers of gateways that were asked for the same block."""

    answers: queue.SimpleQueue[tuple[_Gateway, bytes | IpfsError]] = field(
        default_factory=queue.SimpleQueue
    )
    over: threading.Event = field(default_factory=threading.Event)


class Gateways:
    """Ask gateways for blocks; those that answered well and fast are asked first."""

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise InputError("name at least one gateway")
        parsed = [check_url(url) for url in urls]
        self._gateways = [_Gateway(str(url), http_client(url)) for url in parsed]
        weakref.finalize(self, _close, self._gateways)

    def _ranked(self) -> list[_Gateway]:
        return sorted(self._gateways, key=lambda gateway: (gateway.failures, gateway.took_s))

    # ------------------------------------------------------------------ blocks

    def get(self, cid: Cid, deadline: Deadline) -> bytes:
        """Return a verified block from whichever gateway gives it first.

        The next gateway is asked when one has failed or hesitates. Raises `NotFoundError` where
        all say that they have it not, and `StoreError` where one failed otherwise.
        """
        deadline = Deadline.after(min(_BLOCK_S, deadline.left_s(f"fetching {cid}")), deadline.clock)
        waiting = self._ranked()
        race, running, failed = _Race(), 0, list[IpfsError]()
        try:
            while waiting or running:
                if waiting and running < _PARALLEL:
                    running += 1
                    # a daemon: whoever lost the race may hang until its own time limit
                    threading.Thread(
                        target=self._run, args=(race, waiting.pop(0), cid, deadline), daemon=True
                    ).start()
                left = deadline.left_s(f"fetching {cid}")
                hedge = waiting and running < _PARALLEL
                try:
                    _, answer = race.answers.get(timeout=min(left, _HEDGE_S) if hedge else left)
                except queue.Empty:
                    continue
                running -= 1
                if isinstance(answer, bytes):
                    return answer
                failed.append(answer)
        finally:
            race.over.set()
        raise _together(cid, failed)

    def _run(self, race: _Race, gateway: _Gateway, cid: Cid, deadline: Deadline) -> None:
        started = time.monotonic()
        try:
            answer: bytes | IpfsError = _block(gateway, cid, deadline, race.over)
            gateway.failures, gateway.took_s = 0, time.monotonic() - started
        except IpfsError as error:
            if not isinstance(error, NotFoundError):
                gateway.failures += 1
            answer = error
        race.answers.put((gateway, answer))

    # ----------------------------------------------------------------- archives

    def dag(self, cid: Cid, *, max_bytes: int, deadline: Deadline) -> Iterator[tuple[Cid, bytes]]:
        """Give the verified blocks of a DAG, parents first, from one gateway after the other.

        Blocks that do not belong to the DAG and repeated ones end a gateway's answer, and so do
        more than `max_bytes` in all. What was not given when the last gateway failed is missing:
        raises that gateway's error.
        """
        wanted, seen = {cid}, set[Cid]()
        error: IpfsError | None = None
        for gateway in self._ranked():
            try:
                for found, block in _archive(gateway, cid, max_bytes, deadline):
                    if found in seen:
                        continue
                    if found not in wanted:
                        raise FormatError(f"block {found} is not part of {cid}")
                    wanted.discard(found)
                    seen.add(found)
                    if found.codec != RAW:
                        wanted.update(
                            link.cid for link in decode_links(found, block) if link.cid not in seen
                        )
                    yield found, block
                if not wanted:
                    return
                error = FormatError(f"{len(wanted)} blocks or more are missing")
            except TimeLimitError as late:
                deadline.left_s(f"fetching {cid}")
                error = late
            except IpfsError as other:
                error = other
            gateway.failures += 1
        raise StoreError(f"no gateway gave all of {cid}; the last one: {error}") from error


def _close(gateways: Sequence[_Gateway]) -> None:
    for gateway in gateways:
        gateway.client.close()


def _together(cid: Cid, failed: Sequence[IpfsError]) -> IpfsError:
    said = "; ".join(str(error) for error in failed)
    if all(isinstance(error, NotFoundError) for error in failed):
        return NotFoundError(f"no gateway has block {cid}: {said}")
    return StoreError(f"no gateway gave block {cid}: {said}")


def _block(gateway: _Gateway, cid: Cid, deadline: Deadline, over: threading.Event) -> bytes:
    block = bytearray()
    for part in _answer(gateway, cid, "raw", RAW_TYPE, deadline):
        block += part
        if len(block) > MAX_BLOCK_BYTES:
            raise StoreError(f"{gateway.url} sends over {MAX_BLOCK_BYTES} bytes as block {cid}")
        if over.is_set():
            raise StoreError(f"{gateway.url} was slower than another gateway")
    whole = bytes(block)
    try:
        cid.verify(whole)
    except BlockError as error:
        raise StoreError(f"{gateway.url} lies: {error}") from error
    return whole


def _archive(
    gateway: _Gateway, cid: Cid, max_bytes: int, deadline: Deadline
) -> Iterator[tuple[Cid, bytes]]:
    parts = _answer(gateway, cid, "car", CAR_TYPE, deadline)
    try:
        _, blocks = read_car(parts, max_bytes=max_bytes)
        yield from blocks
    except (BlockError, LimitError) as error:
        raise StoreError(f"{gateway.url} sends no archive of {cid}: {error}") from error


def _answer(
    gateway: _Gateway, cid: Cid, form: str, kind: str, deadline: Deadline
) -> Iterator[bytes]:
    """Give the body of an answer, once its status, type and encoding are as they must be."""
    what = f"{gateway.url} with {cid}"
    query = {"format": form} | ({"dag-scope": "all"} if form == "car" else {})
    try:
        with gateway.client.stream(
            "GET",
            f"ipfs/{cid}",
            params=query,
            headers={"Accept": kind},
            timeout=limits(deadline, what),
        ) as response:
            if response.status_code in (404, 410):
                raise NotFoundError(f"{gateway.url} has it not")
            found = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200 or found != kind:
                raise StoreError(
                    f"{gateway.url} answered {response.status_code} with {found[:80]!r}, "
                    f"not 200 with {kind}"
                )
            if response.headers.get("content-encoding", "identity") != "identity":
                raise StoreError(f"{gateway.url} sends compressed data that nobody asked for")
            for part in response.iter_raw():
                yield part
                deadline.left_s(what)
    except httpx2.TimeoutException as error:
        raise TimeLimitError(f"{what} stalled: {type(error).__name__}") from error
    except httpx2.HTTPError as error:
        raise StoreError(f"{gateway.url} cannot be read: {error}") from error
