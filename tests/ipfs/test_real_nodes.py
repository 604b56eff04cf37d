"""Real nodes: Kubo serves the blocks of our store to another Kubo, and others read what we send.

Installed and run by `make test-ipfs`; nothing here contacts an address outside the machine.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from multiformats import multibase

from ipfs.cid import RAW, Cid
from ipfs.kubo import KuboStore
from ipfs.store import BlockStore
from tests.ipfs.real.nodes import HERE, Kubo, python, tools
from tests.ipfs.segment_files import Section, blocks

MIB = 1 << 20
StartKubo = Callable[..., Kubo]


@pytest.fixture
def start_kubo(tmp_path: Path, require_missing: Callable[..., None]) -> Iterator[StartKubo]:
    if not python().exists():
        require_missing("kubo", f"no Kubo in {tools()}; `make test-ipfs` installs it")
    running: list[Kubo] = []

    def start(name: str, blocks: Path | None = None) -> Kubo:
        running.append(Kubo(tmp_path / name, blocks))
        return running[-1]

    yield start
    for node in running:
        node.kill()


def flatfs_file(folder: Path, section: Section) -> Path:
    """Return where Kubo's flatfs keeps a block, by the words of its specification."""
    key = multibase.encode(section.cid.digest, "base32upper")[1:]
    return folder / key[-3:-1] / f"{key}.data"


def as_flatfs(store: BlockStore, folder: Path) -> Path:
    """Lay out the blocks of our store, as read by CAR's specification, for Kubo to have."""
    folder.mkdir()
    (folder / "SHARDING").write_text("/repo/flatfs/shard/v1/next-to-last/2\n")
    for section in blocks(store):
        file = flatfs_file(folder, section)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(section.block)
    return folder


def test_kubo_serves_the_blocks_of_our_store_to_another_kubo(
    tmp_path: Path, start_kubo: StartKubo
) -> None:
    store = BlockStore(tmp_path / "store")
    content = os.urandom(3 * MIB + 500_000)
    root = store.put_directory({"manifest.json": b"{}", "update": content})
    ours = start_kubo("ours", as_flatfs(store, tmp_path / "blocks"))
    other = start_kubo("other")
    assert other.call("ConnectToPeer", ours.address) == 0
    assert other.call("Download", str(root), str(tmp_path / "came")) == 0
    assert (tmp_path / "came" / "update").read_bytes() == content
    assert (tmp_path / "came" / "manifest.json").read_bytes() == b"{}"
    # what the other node has on disk now is what our store wrote
    for section in blocks(store):
        assert flatfs_file(tmp_path / "other" / "blocks", section).read_bytes() == section.block


def test_content_that_nobody_has_does_not_come(tmp_path: Path, start_kubo: StartKubo) -> None:
    store = BlockStore(tmp_path / "store")
    store.put(b"something else")
    ours = start_kubo("ours", as_flatfs(store, tmp_path / "blocks"))
    other = start_kubo("other")
    assert other.call("ConnectToPeer", ours.address) == 0
    absent = Cid.of(os.urandom(9), RAW)
    with pytest.raises(TimeoutError):
        other.call("Download", str(absent), str(tmp_path / "came"), timeout_s=2)
    assert not (tmp_path / "came").exists()


def test_a_client_that_nobody_here_wrote_reads_what_we_sent(
    rpc_url: str, require_missing: Callable[..., None]
) -> None:
    if not (python().exists() and os.environ.get("TRIBUTE_KUBO")):
        require_missing("js-ipfs", f"no node in {tools()}; `make test-ipfs` installs it")
    content = os.urandom(2 * MIB + 77)
    cid = KuboStore(rpc_url).put(content)
    host, port = rpc_url.removeprefix("http://").split(":")
    address = f"/ip4/{host}/tcp/{port}/http"
    command = [str(python()), str(HERE / "cat.py"), address, str(cid)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == content
