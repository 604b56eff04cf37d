"""`tribute ipfs`, as a person and as a program uses it, and what it frees of a market."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dag_cbor
import pytest
from multiformats import CID, varint

from deploy.cli import app
from deploy.devnet import running_anvil
from deploy.ipfs import release_rounds
from deploy.show import verify_model
from ipfs import BlockStore, Cid
from ipfs.errors import NotFoundError
from ipfs.reader import reader
from ipfs.store import Stat
from marketplace.codec import DESCRIPTION_FILE
from marketplace.history import fetch_update
from marketplace.terminal import run
from tests.market import Town

HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
MIB = 1 << 20
TRIBUTE = [sys.executable, "-c", "from deploy.cli import main; main()"]

Tribute = Callable[..., tuple[int, Any]]


@pytest.fixture
def tribute(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Tribute:
    """Run `tribute ipfs` with a home of its own; returns the exit code and what it printed."""

    def call(command: str, *arguments: object, home: str = "home", document: bool = True) -> Any:
        words = ["ipfs", command, *map(str, arguments), "--home", str(tmp_path / home)]
        code = run(app, [*words, "--json"] if document else words)
        printed = capsysbinary.readouterr().out
        return code, json.loads(printed) if document else printed

    return call


def test_a_file_goes_in_and_comes_out(tribute: Tribute, tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello world")
    assert tribute("add", tmp_path / "hello") == (0, {"cid": HELLO, "name": "kept"})
    assert tribute("add", tmp_path / "hello", document=False) == (0, f"{HELLO}\n".encode())
    assert tribute("cat", HELLO, document=False) == (0, b"hello world")
    code, said = tribute("cat", f"/ipfs/{HELLO}", "--output", tmp_path / "out")
    assert (code, said["size"]) == (0, 11)
    assert (tmp_path / "out").read_bytes() == b"hello world"
    assert tribute("pin")[1] == [{"name": "kept", "cid": HELLO}]
    long = "a-name-" + "x" * 100
    assert tribute("add", tmp_path / "hello", "--name", long)[0] == 0
    lines = f"{HELLO}  {long}\n{HELLO}  kept\n"
    assert tribute("pin", document=False) == (0, lines.encode())
    assert tribute("unpin", HELLO, "--name", long)[0] == 0
    assert tribute("stat")[1] == {"blocks": 1, "size": 11, "pins": 1}
    assert tribute("unpin", HELLO)[0] == 0
    assert tribute("gc")[1]["freed_blocks"] == 1
    assert tribute("cat", HELLO, "--output", tmp_path / "gone")[0] == 4
    assert not (tmp_path / "gone").exists()


def test_a_folder_goes_in_and_its_files_come_out(tribute: Tribute, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    large = os.urandom(2 * MIB + 3)
    (folder / "large").write_bytes(large)
    (folder / "[red]\x1b[2J").write_bytes(b"odd")
    cid = tribute("add", folder, "--name", "mine")[1]["cid"]
    assert {row["name"]: row["size"] for row in tribute("ls", cid)[1]} == {
        "large": len(large),
        "[red]\x1b[2J": 3,
    }
    assert b"\x1b" not in tribute("ls", cid, document=False)[1]
    assert tribute("cat", f"{cid}/large", document=False) == (0, large)
    (folder / "deeper").mkdir()
    code, said = tribute("add", folder)
    assert (code, "deeper is no file" in said["error"]["message"]) == (2, True)


def test_standard_input_goes_in(tribute: Tribute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello world")))
    assert tribute("add", "-", "--no-pin")[1] == {"cid": HELLO, "name": None}


def test_an_archive_goes_from_home_to_home(tribute: Tribute, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(2 * MIB))
    cid = tribute("add", tmp_path / "file")[1]["cid"]
    archive = tmp_path / "file.car"
    assert tribute("export", cid, archive)[1]["size"] == archive.stat().st_size
    # the archive's first bytes by another writer
    header = dag_cbor.encode({"roots": [CID.decode(cid)], "version": 1})
    assert archive.read_bytes().startswith(varint.encode(len(header)) + header)
    code, said = tribute("import", archive, "--name", "came", home="other")
    assert (code, said["roots"], said["blocks"]) == (0, [cid], 3)
    assert tribute("cat", cid, document=False, home="other")[1] == (tmp_path / "file").read_bytes()
    archive.write_bytes(archive.read_bytes()[:-1])
    code, said = tribute("import", archive, home="third")
    assert (code, said["error"]["message"][: len(str(archive))]) == (6, str(archive))
    assert "is no sound CAR archive: the archive is cut short" in said["error"]["message"]
    assert tribute("pin", home="third")[1] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["add", "nothing-here"], 2, "neither a file nor a folder"),
        (["cat", "QmNothing"], 2, "no CIDv1"),
        (["cat", HELLO], 2, "--output"),
        (["ls", HELLO], 4, "not in the store"),
        (["pin", HELLO], 4, "not in the store"),
        (["unpin", HELLO], 4, "not pinned"),
        (["pin", HELLO, "--name", "../x"], 2, "cannot name pins"),
        (["import", "nothing-here"], 2, "there is no file nothing-here; give a CAR archive"),
        (["export", HELLO, "no/such/folder/x.car"], 2, "cannot be written"),
        (["cat", HELLO, "-o", "x", "--ipfs", "http://127.0.0.1:1"], 5, "cannot be read"),
        (["stat", "--ipfs", "kubo:http://127.0.0.1:1"], 5, "no node can be used"),
        (["add", "-", "--ipfs", "gopher://h"], 2, "is no address"),
        (["serve", "--host", "203.0.113.7"], 5, "cannot listen"),
    ],
)
def test_what_cannot_be_is_said_in_words(
    tribute: Tribute, arguments: list[str], code: int, words: str
) -> None:
    found, said = tribute(*arguments)
    assert words in said["error"]["message"]
    assert found == code


# ------------------------------------------------------------------------- server


@contextmanager
def served(home: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    process = subprocess.Popen(
        [*TRIBUTE, "ipfs", "serve", "--port", "0", "--json"],
        env={**os.environ, "TRIBUTE_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads("".join(process.stdout.readline() for _ in range(3)))["url"], process
    finally:
        process.kill()
        process.communicate()


def test_another_home_reads_what_one_serves(tribute: Tribute, tmp_path: Path) -> None:
    content = os.urandom(12 * MIB)
    (tmp_path / "file").write_bytes(content)
    cid = tribute("add", tmp_path / "file")[1]["cid"]
    with served(tmp_path / "home") as (url, process):
        assert url.startswith("http://127.0.0.1:")
        assert tribute("cat", cid, "--ipfs", url, document=False, home="other")[1] == content
        assert tribute("pin", cid, "--ipfs", url, home="third")[0] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert tribute("cat", cid, document=False, home="third")[1] == content
    assert tribute("pin", home="third")[1] == [{"name": "kept", "cid": cid}]


def test_a_transfer_that_was_killed_goes_on(tribute: Tribute, tmp_path: Path) -> None:
    content = os.urandom(60 * MIB)
    (tmp_path / "file").write_bytes(content)
    cid = tribute("add", tmp_path / "file")[1]["cid"]
    target = BlockStore(tmp_path / "other" / "ipfs")
    with served(tmp_path / "home") as (url, _):
        command = ["cat", cid, "-o", str(tmp_path / "out"), "--ipfs", url]
        process = subprocess.Popen(
            [*TRIBUTE, "ipfs", *command, "--home", str(tmp_path / "other")],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while target.stat().blocks < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
    before = target.stat().blocks
    assert before >= 2
    assert not (tmp_path / "out").exists()
    with served(tmp_path / "home") as (url, _):
        assert tribute("cat", cid, "-o", tmp_path / "out", "--ipfs", url, home="other")[0] == 0
    assert (tmp_path / "out").read_bytes() == content


def test_adding_that_is_interrupted_leaves_a_clean_store(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*TRIBUTE, "ipfs", "add", "-", "--home", str(tmp_path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(os.urandom(3 * MIB))
    process.stdin.flush()
    segments = tmp_path / "ipfs" / "segments"
    deadline = time.monotonic() + 60

    def written() -> int:
        return sum(file.stat().st_size for file in segments.glob("*"))

    while written() < MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    assert written() > MIB
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr is not None
    assert b"interrupted" in process.stderr.read()
    process.communicate()
    assert written() < 100
    assert BlockStore(tmp_path / "ipfs").stat() == Stat(0, 0, 0)


# --------------------------------------------------------------------- collection


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


def test_old_rounds_are_freed_and_a_market_goes_on(town: Town) -> None:
    stage = town.open(["honest"] * 3, rounds=3, verifier="AttestedGram", min_updates=2)
    stage.play(lambda view: view.state.settled_rounds == 2)
    old, kept = stage.view.history.round(1).reveals, stage.view.history.round(2).reveals
    read = reader(town.store)
    held = {reveal.cid for found in stage.view.history.settled for reveal in found.reveals}
    assert {cid.digest for _, cid in town.store.pins()} >= held
    gone = release_rounds(town.store, town.chain, keep=1)
    assert {name for name, _ in gone} == {f"project-{stage.project.hex()[:16]}.round-1"}
    assert town.store.gc().freed_blocks > 0
    assert release_rounds(town.store, town.chain, keep=1) == []
    for reveal in old:
        with pytest.raises(NotFoundError):
            fetch_update(read, reveal, stage.view.params.dimension)
    for reveal in kept:
        fetch_update(read, reveal, stage.view.params.dimension)
    assert read(stage.view.params.description_cid, DESCRIPTION_FILE, MIB)
    assert verify_model(stage.view, town.store, town.srs).good
    stage.play(lambda view: view.ended)
    assert stage.view.state.settled_rounds == 3
    release_rounds(town.store, town.chain, keep=1)
    town.store.gc()
    assert verify_model(stage.view, town.store, town.srs).good
    assert Cid.from_digest(stage.view.params.description_cid) in {c for _, c in town.store.pins()}


@pytest.mark.parametrize("silent", [True, False])
def test_a_chain_that_does_not_answer_costs_seconds_and_nothing_that_projects_keep(
    town: Town, capsys: pytest.CaptureFixture[str], silent: bool
) -> None:
    # one takes connections and says nothing, the other is not there
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1] if silent else 1
        rpc = f"http://127.0.0.1:{port}"
        kept = town.store.put(b"of a round", pin=f"project-{'0' * 16}.round-1")
        loose = town.store.put(b"loose", pin=None)
        before = town.store.pins()
        projects = sum(name.startswith("project-") for name, _ in before)
        started = time.monotonic()
        words = ["ipfs", "gc", "--home", str(town.home), "--rpc", rpc]
        assert run(app, [*words, "--json"]) == 0
        assert time.monotonic() - started < 8
        said = json.loads(capsys.readouterr().out)
        assert (said["released"], said["freed_blocks"]) == ([], 1)
        assert f"{rpc} did not answer" in said["unasked"]
        assert f"all {projects} roots that projects keep stay" in said["unasked"]
        assert town.store.pins() == before
        assert town.store.has(kept) and not town.store.has(loose)
        if not silent:
            assert run(app, words) == 0
            assert "projects keep stay" in " ".join(capsys.readouterr().out.split())


def test_collections_that_are_killed_at_any_time_harm_no_writer(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "ipfs")
    written = {}
    for turn in range(8):
        for number in range(5):
            store.put(os.urandom(2000), pin=None)
            content = os.urandom(2000)
            written[store.put(content, pin=f"project-{'0' * 16}.round-{number}")] = content
        process = subprocess.Popen(
            [sys.executable, "-c", COLLECT, str(tmp_path / "ipfs")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * turn)
        content = os.urandom(5000)
        written[store.put(content)] = content
        process.kill()
        process.communicate()
        assert {cid: store.read(cid) for cid in written} == written
    store.gc()
    assert {cid: store.read(cid) for cid in written} == written
    assert store.stat().blocks == len(written)


COLLECT = """
import sys
from ipfs.store import BlockStore
store = BlockStore(sys.argv[1])
print(flush=True)
while True:
    store.gc()
"""
