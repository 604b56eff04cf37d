"""A node's RPC: content goes in and out whole, names keep it, and no answer is believed.

The first part runs against the node that TRIBUTE_KUBO names, or else a small one of our own.
"""

import io
import json
import os
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from deploy.devnet import running_anvil
from deploy.show import verify_model
from ipfs import Store
from ipfs.cid import RAW, Cid
from ipfs.errors import (
    InputError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.kubo import KuboStore
from ipfs.select import open_store
from ipfs.store import BlockStore
from tests.ipfs.http_server import listening
from tests.market import Town

MIB = 1 << 20


@pytest.fixture(scope="module")
def node(rpc_url: str) -> KuboStore:
    return KuboStore(rpc_url)


def fresh(size: int) -> bytes:
    """Return content that no earlier run has left at a node."""
    return os.urandom(size)


def test_a_node_has_the_shape_that_every_store_has(node: KuboStore) -> None:
    checked_by_mypy: Store = node
    assert checked_by_mypy is node


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 9 * MIB + 5])
def test_files_go_in_under_our_identifier_and_come_back(
    node: KuboStore, tmp_path: Path, size: int
) -> None:
    content = fresh(size)
    cid = node.put(content)
    assert cid == BlockStore(tmp_path).put(content)
    assert node.read(cid) == content
    assert node.has(cid)


class Pipe(io.BytesIO):
    """Gives what it has and cannot be read again, as a pipe."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 300_000))

    def seekable(self) -> bool:
        return False


def test_streams_go_in_from_where_they_stand(node: KuboStore, tmp_path: Path) -> None:
    content = fresh(3 * MIB)
    seekable = io.BytesIO(b"before" + content)
    seekable.seek(6)
    assert node.put(seekable) == node.put(Pipe(content)) == BlockStore(tmp_path).put(content)


def test_directories_come_back_by_name(node: KuboStore, tmp_path: Path) -> None:
    files = {"manifest.json": b"{}", "update": fresh(2 * MIB + 9), "empty": b""}
    cid = node.put_directory({**files, "update": Pipe(files["update"])})
    assert cid == BlockStore(tmp_path).put_directory(files)
    assert {entry.name: entry.size for entry in node.ls(cid)} == {
        name: len(content) for name, content in files.items()
    }
    assert {name: node.read(cid, name) for name in files} == files


def test_names_keep_content_until_the_last_one_lets_go(node: KuboStore) -> None:
    content = fresh(2 * MIB)
    cid = node.put(content, pin="project-1")
    loose = node.put(fresh(1000), pin=None)
    with pytest.raises(LimitError, match="more than the limit of 2097152 bytes"):
        node.pin(cid, "project-2", max_bytes=2 * MIB)
    node.pin(cid, "project-2")
    node.pin(cid, "project-2")
    assert {name for name, kept in node.pins() if kept == cid} == {"project-1", "project-2"}
    node.unpin(cid, "project-1")
    with pytest.raises(NotFoundError, match="'project-1'"):
        node.unpin(cid, "project-1")
    node.gc()
    assert node.read(cid) == content
    assert not node.has(loose)
    node.unpin(cid, "project-2")
    assert node.gc().freed_blocks >= 3
    assert not node.has(cid)


def test_what_the_node_has_not_is_missing_in_time(node: KuboStore) -> None:
    absent = Cid.of(fresh(9), RAW)
    started = time.monotonic()
    assert not node.has(absent)
    assert not node.has_block(absent)
    with pytest.raises((NotFoundError, TimeLimitError)):
        node.read(absent, timeout_s=1)
    assert time.monotonic() - started < 10


def test_stat_counts_blocks_and_pins(node: KuboStore) -> None:
    before = node.stat()
    node.put(fresh(3 * MIB), pin="counted")
    after = node.stat()
    assert after.blocks - before.blocks >= 4
    assert after.size - before.size >= 3 * MIB
    assert after.pins == before.pins + 1


def test_a_market_keeps_its_content_at_a_node(node: KuboStore, tmp_path: Path) -> None:
    with running_anvil() as rpc:
        town = Town(rpc, tmp_path)
        town.store = node  # type: ignore[assignment]
        stage = town.open(["honest"] * 3, rounds=1, verifier="AttestedGram", min_updates=2)
        stage.play(lambda view: view.ended)
        assert stage.view.state.settled_rounds == 1
        assert verify_model(stage.view, node, town.srs).good
    assert BlockStore(tmp_path / "ipfs").stat().blocks == 0
    project = f"project-{stage.project.hex()[:16]}"
    (found,) = stage.view.history.settled
    assert found.settlement is not None
    updates = {Cid.from_digest(reveal.cid) for reveal in found.reveals}
    model = Cid.from_digest(found.settlement.model_cid)
    description = Cid.from_digest(stage.view.params.description_cid)
    assert {cid for name, cid in node.pins() if name == f"{project}.round-1"} == updates | {model}
    assert {cid for name, cid in node.pins() if name == f"{project}.round-0"} == {description}


# ------------------------------------------------------------------- answers that lie


def test_the_option_names_a_node(tmp_path: Path) -> None:
    store = open_store(tmp_path, ["kubo:http://127.0.0.1:5001"])
    assert isinstance(store, KuboStore)
    assert isinstance(open_store(tmp_path), BlockStore)
    with pytest.raises(InputError, match="name it alone"):
        open_store(tmp_path, ["kubo:http://127.0.0.1:5001", "http://127.0.0.1:8480"])
    with pytest.raises(InputError, match="is no address"):
        open_store(tmp_path, ["kubo:127.0.0.1:5001"])


def test_a_node_that_is_not_there_is_named() -> None:
    with pytest.raises(StoreError, match=r"no node can be used at http://127\.0\.0\.1:1"):
        KuboStore("http://127.0.0.1:1").put(b"x")


class Liar(BaseHTTPRequestHandler):
    """Answers every call with the class's status and body."""

    status, body, pause_s = 200, b"", 0.0

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding"):
            self.rfile.read1(1 << 20)
        time.sleep(self.pause_s)
        self.send_response(self.status)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(self.body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def liar(**values: Any) -> type[Liar]:
    return type("Liar", (Liar,), values)


HELLO = Cid.of(b"hello", RAW)


def named(root: Cid, error: str = "") -> bytes:
    return json.dumps({"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": error}}).encode()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"body": named(Cid.of(b"other", RAW))}, "was sent"),
        (
            {
                "body": b'{"Root": {"Cid": {"/": "%s"}, "PinErrorMsg": "disk"}}'
                % str(HELLO).encode()
            },
            "disk",
        ),
        ({"body": b""}, "was sent"),
        ({"body": b"<html>"}, "no JSON"),
        ({"status": 500, "body": b'{"Message": "disk full"}'}, "disk full"),
        ({"status": 403, "body": b"Forbidden"}, "403 Forbidden"),
    ],
)
def test_a_root_that_is_not_ours_is_refused(values: dict[str, Any], words: str) -> None:
    with listening(liar(**values)) as url, pytest.raises(StoreError, match=words):
        KuboStore(url).put(b"hello")


def test_a_wrong_block_is_the_nodes_fault() -> None:
    with listening(liar(body=b"jello")) as url, pytest.raises(StoreError, match="wrong block"):
        KuboStore(url).read(HELLO)


def test_an_answer_without_end_is_cut_off() -> None:
    with (
        listening(liar(body=bytes(3 * MIB))) as url,
        pytest.raises(StoreError, match="over 2097152"),
    ):
        KuboStore(url).read(HELLO)


def test_a_silent_node_is_given_up_in_time() -> None:
    started = time.monotonic()
    with listening(liar(pause_s=4)) as url, pytest.raises(TimeLimitError):
        KuboStore(url).read(HELLO, timeout_s=0.3)
    assert time.monotonic() - started < 3
