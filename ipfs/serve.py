"""Offer a block store as a read-only trustless gateway, so that a market spans machines.

Covered: `GET` and `HEAD` of `/ipfs/CID[/PATH]` as raw blocks and CAR archives (Trustless Gateway
Specification), by `?format=` or `Accept`; scopes all, entity and block; only verified bytes leave.
Not covered: files as such, byte ranges and IPNS; they are refused, since a client would have to
trust the answer. Whoever knows the CID of something in the store can read it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ipfs.car import write_car
from ipfs.cid import Cid
from ipfs.dag import DEFAULT_TIMEOUT_S, Deadline, reachable, resolve
from ipfs.errors import FormatError, InputError, IpfsError, LimitError, NotFoundError, StoreError
from ipfs.gateway import CAR_TYPE, RAW_TYPE
from ipfs.store import BlockStore
from ipfs.unixfs import Directory, decode_unixfs

__all__ = ["DEFAULT_PORT", "gateway_app", "listen", "running_gateway", "serve"]

DEFAULT_PORT = 8480

_TRANSFER_S = 3600.0
_SCOPES = ("all", "entity", "block")
_CONCURRENT = 64
_MOST_BLOCKS = 1 << 20
_CAR_PARAMETERS = "; version=1; order=dfs; dups=n"


def gateway_app(store: BlockStore) -> Starlette:
    """Return the application that serves a store."""

    def answer(request: Request) -> Response:
        try:
            return _answer(store, request)
        except NotFoundError as error:
            return PlainTextResponse(f"{error}\n", 404)
        except (InputError, LimitError, FormatError) as error:
            return PlainTextResponse(f"{error}\n", 400)
        except IpfsError as error:
            return PlainTextResponse(f"{error}\n", 500)

    return Starlette(routes=[Route("/ipfs/{path:path}", answer, methods=["GET", "HEAD"])])


def _answer(store: BlockStore, request: Request) -> Response:
    form = _form(request)
    text, _, path = str(request.path_params["path"]).partition("/")
    cid = Cid.parse(text)
    deadline = Deadline.after(DEFAULT_TIMEOUT_S)
    headers = {
        "Cache-Control": "public, max-age=29030400, immutable",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept",
    }
    if form == "raw":
        if path:
            raise InputError("a raw block has no path; ask for format=car")
        return Response(store.get(cid, deadline), media_type=RAW_TYPE, headers=headers)
    if "entity-bytes" in request.query_params:
        raise InputError("entity-bytes is not served; ask for single blocks with format=raw")
    scope = request.query_params.get("dag-scope", "all")
    if scope not in _SCOPES:
        raise InputError(f"dag-scope {scope[:40]!r} is none of {', '.join(_SCOPES)}")
    above, target = _path(store, cid, path, deadline)
    blocks = above + _beneath(store, target, scope, deadline)
    if request.method == "HEAD":
        return Response(media_type=CAR_TYPE + _CAR_PARAMETERS, headers=headers)
    return StreamingResponse(
        write_car([cid], _read(store, blocks)),
        media_type=CAR_TYPE + _CAR_PARAMETERS,
        headers=headers,
    )


def _form(request: Request) -> str:
    asked = request.query_params.get("format")
    if asked is None:
        accept = request.headers.get("accept", "")
        asked = "raw" if RAW_TYPE in accept else "car" if CAR_TYPE in accept else ""
        if CAR_TYPE in accept and "version=2" in accept:
            raise InputError("only CAR version 1 is served")
    if asked not in ("raw", "car"):
        raise InputError(
            f"format {asked[:40]!r}: this gateway gives what can be verified, raw or car"
        )
    return asked


def _path(store: BlockStore, cid: Cid, path: str, deadline: Deadline) -> tuple[list[Cid], Cid]:
    """Return the directories that a path leads through, and what it names."""
    through: list[Cid] = []

    def get(block: Cid, deadline: Deadline) -> bytes:
        through.append(block)
        return store.get(block, deadline)

    return through, resolve(get, cid, path.strip("/"), deadline)


def _beneath(store: BlockStore, cid: Cid, scope: str, deadline: Deadline) -> list[Cid]:
    """Return the blocks of a scope, all of which are here; raises `NotFoundError` otherwise."""
    if scope == "block" or (
        scope == "entity" and isinstance(decode_unixfs(cid, store.get(cid, deadline)), Directory)
    ):
        return [cid]
    blocks = []
    for block in reachable(store.get, [cid], deadline):
        if not store.has_block(block):
            raise NotFoundError(f"block {block} of {cid} is not in the store")
        blocks.append(block)
        if len(blocks) > _MOST_BLOCKS:
            raise LimitError(f"{cid} has over {_MOST_BLOCKS} blocks; ask for parts of it")
    return blocks


def _read(store: BlockStore, blocks: list[Cid]) -> Iterator[tuple[Cid, bytes]]:
    deadline = Deadline.after(_TRANSFER_S)
    for cid in dict.fromkeys(blocks):
        yield cid, store.get(cid, deadline)


# --------------------------------------------------------------------- process


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; raises `StoreError` where it is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise StoreError(f"cannot listen on {host} port {port}: {error}") from error


def _server(store: BlockStore) -> uvicorn.Server:
    config = uvicorn.Config(
        gateway_app(store),
        log_level="critical",
        access_log=False,
        lifespan="off",
        limit_concurrency=_CONCURRENT,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def serve(store: BlockStore, bound: socket.socket) -> None:
    """Serve until the process is told to stop by SIGINT or SIGTERM."""
    _server(store).run(sockets=[bound])


@contextmanager
def running_gateway(store: BlockStore, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread while the block runs; gives the address."""
    bound = listen(host, port)
    server = _server(store)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
