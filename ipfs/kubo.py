"""Keep content in a Kubo node, by its RPC.

Covered: every Kubo since 0.11 and other nodes with the same RPC: files go as CAR archives by
`dag/import`, and the root that the node names must be the one computed here, so that the node's own
defaults do not matter. Blocks that come back are hashed. Every call has a time limit. `repo/stat`
and `repo/gc`, which walk the whole repository, are called only by `stat` and `gc`.
Not covered: nodes that ask for credentials; put a proxy in front of them.

Kubo has one name a pin at most. Names are kept as entries of its file system instead,
/tribute-pins/NAME/CID, and the root is pinned as long as one of them is there.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, BinaryIO

import httpx2

from ipfs.car import write_car
from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.dag import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S, Clock, Deadline, FileReader, reachable
from ipfs.errors import (
    BlockError,
    CidError,
    IpfsError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.gateway import check_url, http_client
from ipfs.pins import DEFAULT_PIN, check_pin_name
from ipfs.store import Collected, Stat
from ipfs.unixfs import MAX_BLOCK_BYTES, Built, build_directory, build_file, chunks

__all__ = ["KuboStore"]

_PINS = "/tribute-pins"
_CONNECT_S = 5.0
_CALL_S = 30.0
_LOCAL_S = 2.0
_IMPORT_S = 600.0
_GC_S = 600.0
_ANSWER_LIMIT = 1 << 24
_ABSENT = ("not found", "could not find", "does not exist", "no link named", "not pinned")
_LATE = ("deadline exceeded", "timed out", "timeout")
_THERE = ("already has entry", "already exists")


class KuboStore(FileReader):
    """Keep content in the node whose RPC is at `url`, e.g. http://127.0.0.1:5001."""

    _ahead = 8

    def __init__(self, url: str, *, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        address = check_url(url)
        self.url = str(address)
        self._client = http_client(address)
        weakref.finalize(self, self._client.close)

    # ------------------------------------------------------------------- calls

    def _call(
        self,
        command: str,
        *arguments: str,
        timeout_s: float = _CALL_S,
        limit: int = _ANSWER_LIMIT,
        body: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        options: Mapping[str, str] = {},
    ) -> bytes:
        """Return the bounded answer of a command."""
        query: dict[str, str | Sequence[str]] = {"arg": arguments, **options}
        query |= {"timeout": f"{timeout_s:.3f}s", "cid-base": "base32"}
        # the node keeps its own limit; ours is a little later, so that its message is seen
        limits = httpx2.Timeout(timeout_s + 1, connect=_CONNECT_S)
        deadline = Deadline.after(timeout_s + 2, self._clock)
        try:
            with self._client.stream(
                "POST",
                f"api/v0/{command}",
                params=query,
                content=body,
                headers=headers,
                timeout=limits,
            ) as response:
                answer = bytearray()
                for part in response.iter_raw():
                    answer += part
                    if len(answer) > limit:
                        raise StoreError(f"{self.url} answers {command} with over {limit} bytes")
                    deadline.left_s(f"{command} at {self.url}")
                if response.status_code != 200:
                    raise self._refused(command, response.status_code, bytes(answer))
                return bytes(answer)
        except httpx2.TimeoutException as error:
            raise TimeLimitError(f"{command} at {self.url}: {type(error).__name__}") from error
        except httpx2.HTTPError as error:
            raise StoreError(
                f"no node can be used at {self.url}: {error}; start one, or leave out `kubo:`"
            ) from error

    def _refused(self, command: str, status: int, answer: bytes) -> IpfsError:
        try:
            message = str(json.loads(answer)["Message"])
        except (ValueError, KeyError, TypeError):
            message = answer[:200].decode(errors="replace")
        text = f"{command} at {self.url}: {status} {message[:300]}"
        if any(words in message for words in _ABSENT):
            return NotFoundError(text)
        if any(words in message.lower() for words in _LATE):
            return TimeLimitError(text)
        return StoreError(text)

    # ------------------------------------------------------------------- write

    def put(self, stream: bytes | BinaryIO, *, pin: str | None = DEFAULT_PIN) -> Cid:
        """Store a file and pin it under a name, unless that is None."""
        check_pin_name(pin)
        file = _Laid(stream)
        return self._import(file.built.cid, [file], [], pin)

    def put_directory(
        self, files: Mapping[str, bytes | BinaryIO], *, pin: str | None = DEFAULT_PIN
    ) -> Cid:
        """Store files as one directory and pin it under a name, unless that is None."""
        check_pin_name(pin)
        laid = {name: _Laid(stream) for name, stream in files.items()}
        nodes: list[tuple[Cid, bytes]] = []
        root = build_directory(
            [(name, file.built) for name, file in laid.items()], _keep(nodes)
        ).cid
        return self._import(root, list(laid.values()), nodes, pin)

    def _import(
        self, root: Cid, files: list[_Laid], above: list[tuple[Cid, bytes]], pin: str | None
    ) -> Cid:
        blocks = chain(above, *(file.blocks() for file in files))
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="archive.car"\r\n'
            "Content-Type: application/vnd.ipld.car\r\n\r\n"
        )

        def body() -> Iterator[bytes]:
            yield head.encode()
            yield from write_car([root], blocks)
            yield f"\r\n--{boundary}--\r\n".encode()

        answer = self._call(
            "dag/import",
            timeout_s=_IMPORT_S,
            body=body(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            options={"pin-roots": "false" if pin is None else "true"},
        )
        if pin is None:
            # without pins the node does not name the roots that it took
            if not self.has_block(root):
                raise StoreError(f"{self.url} took an archive, but has not its root {root}")
            return root
        named = [line["Root"] for line in _lines(answer) if "Root" in line]
        if len(named) != 1 or _cid_of(named[0]) != root or named[0].get("PinErrorMsg"):
            raise StoreError(f"{self.url} was sent {root}, but answers {str(named)[:300]}")
        self._name(root, pin)
        return root

    # -------------------------------------------------------------------- read

    def get(self, cid: Cid, deadline: Deadline | None = None) -> bytes:
        """Return the verified bytes of one block, which the node may fetch from others."""
        left = _CALL_S if deadline is None else deadline.left_s(f"reading {cid}")
        return self._block(cid, timeout_s=min(left, _IMPORT_S))

    def _local(self, cid: Cid, deadline: Deadline) -> bytes:
        left = min(_LOCAL_S, deadline.left_s(f"reading {cid}"))
        try:
            return self._block(cid, timeout_s=left, options={"offline": "true"})
        except TimeLimitError as error:
            raise NotFoundError(f"{self.url} has block {cid} not at once") from error

    def _block(self, cid: Cid, timeout_s: float, options: Mapping[str, str] = {}) -> bytes:
        block = self._call(
            "block/get", str(cid), timeout_s=timeout_s, limit=MAX_BLOCK_BYTES, options=options
        )
        try:
            cid.verify(block)
        except BlockError as error:
            # the node's fault, and not that of the content
            raise StoreError(f"{self.url} gives a wrong block: {error}") from error
        return block

    def has_block(self, cid: Cid) -> bool:
        """Tell whether the node has one block; its bytes are not looked at."""
        try:
            self._call("block/stat", str(cid), timeout_s=_LOCAL_S, options={"offline": "true"})
        except (NotFoundError, TimeLimitError):
            return False
        return True

    def _size(self, cid: Cid, deadline: Deadline) -> int:
        left_s = deadline.left_s(f"looking for {cid}")
        answer = _lines(self._call("block/stat", str(cid), timeout_s=left_s))
        try:
            return int(answer[0]["Size"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.url} tells no size of block {cid}") from error

    def has(self, cid: Cid, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Tell whether the node has content as a whole; raw leaves are not hashed for it."""
        deadline = Deadline.after(timeout_s, self._clock)
        try:
            return all(self.has_block(block) for block in reachable(self._local, [cid], deadline))
        except NotFoundError:
            return False

    # -------------------------------------------------------------------- keep

    def pin(
        self,
        cid: Cid,
        name: str = DEFAULT_PIN,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """Keep content until the name no longer wants it; the node fetches what it lacks."""
        check_pin_name(name)
        deadline = Deadline.after(timeout_s, self._clock)
        left = max_bytes
        for block in reachable(self.get, [cid], deadline):
            left -= self._size(block, deadline)
            if left < 0:
                raise LimitError(f"{cid} has more than the limit of {max_bytes} bytes")
        left_s = deadline.left_s(f"pinning {cid}")
        self._call("pin/add", str(cid), timeout_s=left_s, options={"recursive": "true"})
        self._name(cid, name)

    def _name(self, cid: Cid, name: str) -> None:
        self._call("files/mkdir", f"{_PINS}/{name}", options={"parents": "true"})
        try:
            self._call("files/cp", f"/ipfs/{cid}", f"{_PINS}/{name}/{cid}")
        except StoreError as error:
            if not any(words in str(error) for words in _THERE):
                raise

    def unpin(self, cid: Cid, name: str = DEFAULT_PIN) -> None:
        """Stop keeping content for a name; raises `NotFoundError` if the name did not keep it."""
        check_pin_name(name)
        if (name, cid) not in self.pins(name):
            raise NotFoundError(f"{cid} is not pinned under the name {name!r}")
        self._call("files/rm", f"{_PINS}/{name}/{cid}", options={"recursive": "true"})
        if all(kept != cid for _, kept in self.pins()):
            try:
                self._call("pin/rm", str(cid), options={"recursive": "true"})
            except NotFoundError:
                pass  # somebody else at the node unpinned it

    def pins(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins of this project, or of those of one name."""
        check_pin_name(name)
        names = self._entries(_PINS) if name is None else [name]
        found = []
        for each in sorted(names):
            for entry in self._entries(f"{_PINS}/{each}"):
                try:
                    found.append((each, Cid.parse(entry)))
                except CidError as error:
                    raise StoreError(f"{_PINS}/{each} at {self.url}: {error}") from error
        return sorted(found)

    def _entries(self, path: str) -> list[str]:
        try:
            answer = json.loads(self._call("files/ls", path))
        except NotFoundError:
            return []
        except ValueError as error:
            raise StoreError(f"files/ls at {self.url} is no JSON: {error}") from error
        return [str(entry["Name"]) for entry in answer.get("Entries") or []]

    def gc(self) -> Collected:
        """Let the node free all that nothing there keeps, whoever put it in."""
        before = self._repository()
        lines = _lines(self._call("repo/gc", timeout_s=_GC_S, limit=1 << 28))
        failed = [line["Error"] for line in lines if line.get("Error")]
        if failed:
            raise StoreError(f"repo/gc at {self.url}: {failed[0]}")
        after = self._repository()
        freed = before["RepoSize"] - after["RepoSize"]
        return Collected(len(lines), max(0, freed), after["NumObjects"])

    def stat(self) -> Stat:
        """Count the node's blocks and bytes, and this project's pins; may take long."""
        found = self._repository()
        return Stat(found["NumObjects"], found["RepoSize"], len(self.pins()))

    def _repository(self) -> dict[str, int]:
        try:
            answer = json.loads(self._call("repo/stat", timeout_s=_GC_S))
            return {name: int(answer[name]) for name in ("NumObjects", "RepoSize")}
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"repo/stat at {self.url} cannot be read: {error}") from error


class _Laid:
    """Lay a file out twice: once to know its root and inner nodes, once to send its leaves.

    Inner nodes, 50 KB for each GiB, are kept meanwhile; what cannot be read twice goes to disk.
    """

    def __init__(self, stream: bytes | BinaryIO) -> None:
        if not isinstance(stream, bytes) and not stream.seekable():
            spool = tempfile.TemporaryFile()
            weakref.finalize(self, spool.close)
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            stream = spool
        self._stream = stream
        self._start = 0 if isinstance(stream, bytes) else stream.tell()
        self._nodes: list[tuple[Cid, bytes]] = []
        leaves = ((Cid.of(chunk, RAW), len(chunk)) for chunk in chunks(stream))
        self.built: Built = build_file(leaves, _keep(self._nodes))

    def blocks(self) -> Iterator[tuple[Cid, bytes]]:
        yield from reversed(self._nodes)
        if not isinstance(self._stream, bytes):
            self._stream.seek(self._start)
        for chunk in chunks(self._stream):
            yield Cid.of(chunk, RAW), bytes(chunk)


def _keep(nodes: list[tuple[Cid, bytes]]) -> Callable[[bytes], Cid]:
    def put(block: bytes) -> Cid:
        nodes.append((Cid.of(block, DAG_PB), block))
        return nodes[-1][0]

    return put


def _lines(answer: bytes) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in answer.splitlines() if line.strip()]
    except ValueError as error:
        raise StoreError(f"the node's answer is no JSON: {error}") from error
    return [line for line in lines if isinstance(line, dict)]


def _cid_of(root: Mapping[str, Any]) -> Cid | None:
    try:
        return Cid.parse(str(root["Cid"]["/"]))
    except (KeyError, TypeError, CidError):
        return None
