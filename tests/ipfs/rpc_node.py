"""A small node with the part of Kubo's RPC that `ipfs.kubo` uses, over an embedded store.

The tests that run against it by default run against a real node where TRIBUTE_KUBO names one
(`make test-ipfs`); what it says of errors is what Kubo 0.22 and js-ipfs 0.66 say.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ipfs.car import read_car
from ipfs.cid import Cid
from ipfs.errors import IpfsError
from ipfs.store import BlockStore
from tests.ipfs.http_server import listening
from tests.ipfs.segment_files import blocks


class RefusedError(Exception):
    """Becomes the node's answer with status 500."""


class Node:
    """Keep blocks, recursive pins and a tree of names as a node does."""

    def __init__(self, folder: Path) -> None:
        self.store = BlockStore(folder)
        self.pinned: set[Cid] = set()
        self.folders: dict[str, set[str]] = {}

    def dag_import(self, body: bytes, options: dict[str, str]) -> list[Any]:
        boundary = body[: body.index(b"\r\n")]
        archive = body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n" + boundary)]
        roots, blocks = read_car([archive], max_bytes=1 << 32)
        self.store.put_blocks(blocks)
        if options["pin-roots"] == "false":
            return []
        for root in roots:
            self.pin_add(root)
        return [{"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": ""}} for root in roots]

    def pin_add(self, cid: Cid) -> dict[str, Any]:
        if not self.store.has(cid):
            raise RefusedError("pin: context deadline exceeded")
        self.pinned.add(cid)
        return {"Pins": [str(cid)]}

    def pin_rm(self, cid: Cid) -> dict[str, Any]:
        if cid not in self.pinned:
            raise RefusedError("not pinned or pinned indirectly")
        self.pinned.remove(cid)
        return {"Pins": [str(cid)]}

    def files_cp(self, source: str, target: str) -> None:
        folder, _, name = target.rpartition("/")
        if folder not in self.folders:
            raise RefusedError("file does not exist")
        if name in self.folders[folder]:
            raise RefusedError(
                "cp: cannot put node in path: directory already has entry by that name"
            )
        assert source == f"/ipfs/{name}"
        self.folders[folder].add(name)

    def files_ls(self, path: str) -> dict[str, Any]:
        below = {folder.removeprefix(path + "/") for folder in self.folders if folder != path}
        names = self.folders.get(path) or {name for name in below if "/" not in name}
        if path not in self.folders and not names:
            raise RefusedError("file does not exist")
        return {"Entries": [{"Name": name, "Type": 0, "Size": 0} for name in names] or None}

    def files_rm(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self.folders[folder].remove(name)

    def repo_gc(self) -> list[Any]:
        before = {str(section.cid) for section in blocks(self.store)}
        for root in self.pinned:
            self.store.pin(root, "node")
        self.store.gc()
        for root in self.pinned:
            self.store.unpin(root, "node")
        return [{"Key": {"/": cid}} for cid in before - {str(s.cid) for s in blocks(self.store)}]

    def answer(self, command: str, query: dict[str, list[str]], body: bytes) -> bytes:
        arguments = query.get("arg", [])
        options = {name: values[0] for name, values in query.items()}
        assert options["timeout"].endswith("s")
        assert options["cid-base"] == "base32"
        match command:
            case "dag/import":
                return lines(self.dag_import(body, options))
            case "block/get" | "block/stat":
                cid = Cid.parse(arguments[0])
                if not self.store.has_block(cid):
                    raise RefusedError(
                        f"block was not found locally (offline): ipld: could not find {cid}"
                    )
                stat = {"Key": str(cid), "Size": len(self.store.get(cid))}
                return self.store.get(cid) if command == "block/get" else lines([stat])
            case "pin/add":
                return lines([self.pin_add(Cid.parse(arguments[0]))])
            case "pin/rm":
                return lines([self.pin_rm(Cid.parse(arguments[0]))])
            case "files/mkdir":
                self.folders.setdefault(arguments[0], set())
            case "files/cp":
                self.files_cp(*arguments)
            case "files/ls":
                return lines([self.files_ls(arguments[0])])
            case "files/rm":
                self.files_rm(arguments[0])
            case "repo/gc":
                return lines(self.repo_gc())
            case "repo/stat":
                found = self.store.stat()
                return lines([{"NumObjects": found.blocks, "RepoSize": found.size}])
            case _:
                raise RefusedError(f"no command {command}")
        return b""


def lines(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


@contextmanager
def running_node(folder: Path) -> Iterator[str]:
    """Run such a node; gives the address of its RPC."""
    node = Node(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            split = urlsplit(self.path)
            command = split.path.removeprefix("/api/v0/")
            try:
                status, answer = 200, node.answer(command, parse_qs(split.query), self.body())
            except (RefusedError, IpfsError) as error:
                message = {"Message": str(error), "Code": 0, "Type": "error"}
                status, answer = 500, lines([message])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as url:
        yield url
