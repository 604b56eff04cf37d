"""Gateways: our own server, spoken to by a plain client, and hostile ones that our client survives.

The hostile ones are real HTTP servers on loopback whose answers each test writes itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipfs.car import read_car, write_car
from ipfs.cid import RAW, Cid
from ipfs.dag import Deadline, reachable
from ipfs.errors import (
    FormatError,
    InputError,
    LimitError,
    NotFoundError,
    StoreError,
    TimeLimitError,
)
from ipfs.gateway import Gateways
from ipfs.layered import LayeredStore
from ipfs.select import open_store
from ipfs.serve import listen, running_gateway
from ipfs.store import BlockStore
from tests.ipfs.http_server import listening
from tests.ipfs.segment_files import blocks, overwrite, put_without

MIB = 1 << 20
RAW_TYPE, CAR_TYPE = "application/vnd.ipld.raw", "application/vnd.ipld.car"

Answer = Callable[[BaseHTTPRequestHandler, Cid, str], None]
"""Answers a request for a block or archive; the last argument is the format."""


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Run a gateway; gives its address and, as they come, the requests that it was sent."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            split = urlsplit(self.path)
            asked.append(self.path)
            form = parse_qs(split.query)["format"][0]
            try:
                answer(self, Cid.parse(split.path.removeprefix("/ipfs/")), form)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with listening(Handler) as url:
        yield url, asked


def reply(
    request: BaseHTTPRequestHandler,
    body: bytes,
    kind: str = RAW_TYPE,
    status: int = 200,
    **headers: str,
) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def soon(timeout_s: float = 10.0) -> Deadline:
    return Deadline.after(timeout_s)


def honest(store: BlockStore) -> Answer:
    def answer(request: BaseHTTPRequestHandler, cid: Cid, form: str) -> None:
        if form == "car":
            reply(request, b"no archives here", "text/plain", 501)
        elif store.has_block(cid):
            reply(request, store.get(cid))
        else:
            reply(request, b"", status=404)

    return answer


# ---------------------------------------------------------------------- our own server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BlockStore, str]]:
    store = BlockStore(tmp_path_factory.mktemp("served"))
    with running_gateway(store) as url:
        yield store, url


def test_a_block_is_served_as_it_is_to_whoever_asks_by_format_or_by_type(
    served: tuple[BlockStore, str],
) -> None:
    store, url = served
    cid = store.put(b"hello world")
    for answer in (
        httpx2.get(f"{url}/ipfs/{cid}?format=raw", trust_env=False),
        httpx2.get(f"{url}/ipfs/{cid}", headers={"Accept": RAW_TYPE}, trust_env=False),
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == RAW_TYPE
        assert answer.content == b"hello world"
        assert "immutable" in answer.headers["cache-control"]
    head = httpx2.head(f"{url}/ipfs/{cid}?format=raw", trust_env=False)
    assert (head.headers["content-length"], head.content) == ("11", b"")


def test_an_archive_holds_what_its_scope_says(served: tuple[BlockStore, str], naive: Any) -> None:
    store, url = served
    small, large = b"small", bytes(range(256)) * 8192
    root = store.put_directory({"a": small, "b": large})
    directory, file_node, *leaves = [
        Cid.parse(text)
        for text in (
            naive.directory({"a": naive.file(small), "b": naive.file(large)})[0],
            naive.file(large)[0],
            naive.leaf(small)[0],
            naive.leaf(large[:MIB])[0],
        )
        for text in [str(text)]
    ]
    assert root == directory

    def blocks(query: str) -> list[Cid]:
        answer = httpx2.get(f"{url}/ipfs/{root}{query}", trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(CAR_TYPE)
        roots, found = read_car([answer.content], max_bytes=1 << 30)
        assert roots == (root,)
        return [cid for cid, _ in found]

    # both halves of the large file are equal, and equal blocks are sent once
    assert blocks("?format=car") == [directory, leaves[0], file_node, leaves[1]]
    assert blocks("?format=car&dag-scope=entity") == [directory]
    assert blocks("/b?format=car&dag-scope=entity") == [directory, file_node, leaves[1]]
    assert blocks("/b?format=car&dag-scope=block") == [directory, file_node]
    assert blocks("/a?format=car") == [directory, leaves[0]]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("{cid}", 400, "raw or car"),
        ("{cid}?format=tar", 400, "raw or car"),
        ("{cid}/a?format=raw", 400, "no path"),
        ("{cid}?format=car&dag-scope=half", 400, "half"),
        ("{cid}?format=car&entity-bytes=0:9", 400, "entity-bytes"),
        ("{cid}/nothing?format=car", 404, "nothing"),
        ("{cid}/..%2f..?format=car", 400, "cannot be the name"),
        ("QmNothing?format=raw", 400, "no CIDv1"),
        ("bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?format=raw", 404, "not in"),
        ("bafkreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?format=car", 404, "not in"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(
    served: tuple[BlockStore, str], path: str, status: int, words: str
) -> None:
    store, url = served
    cid = store.put_directory({"a": b"1"})
    answer = httpx2.get(f"{url}/ipfs/" + path.format(cid=cid), trust_env=False)
    assert words in answer.text
    assert answer.status_code == status


def test_nothing_can_be_written(served: tuple[BlockStore, str]) -> None:
    store, url = served
    before = store.stat()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = httpx2.request(method, f"{url}/ipfs/{store.put(b'x')}", trust_env=False)
        assert answer.status_code == 405
    assert store.stat().blocks - before.blocks <= 1


def test_a_damaged_block_does_not_leave_the_server(served: tuple[BlockStore, str]) -> None:
    store, url = served
    cid = store.put(b"will be damaged")
    overwrite(store, b"will be damaged", b"WILL")
    answer = httpx2.get(f"{url}/ipfs/{cid}?format=raw", trust_env=False)
    assert answer.status_code == 500
    assert b"WILL" not in answer.content


def test_an_archive_of_which_a_part_is_missing_is_refused_before_it_begins(
    served: tuple[BlockStore, str], naive: Any
) -> None:
    store, url = served
    cid = naive.file(b"p" * (2 * MIB) + b"missing")[0]
    last = Cid.of(b"missing", RAW)
    put_without(store, naive.blocks, last)
    answer = httpx2.get(f"{url}/ipfs/{cid}?format=car", trust_env=False)
    assert (answer.status_code, str(last) in answer.text) == (404, True)


def test_an_address_that_is_taken_is_named(served: tuple[BlockStore, str]) -> None:
    port = int(served[1].rpartition(":")[2])
    with pytest.raises(StoreError, match=f"port {port}: .*Address already in use"):
        listen("127.0.0.1", port)


# ------------------------------------------------------------------- fetching from it


def test_files_come_over_once_and_stay(
    served: tuple[BlockStore, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source, url = served
    random = tmp_path_factory.getbasetemp().name.encode()
    files = {"small": b"s" + random, "large": b"".join(b"%08d" % n for n in range(1_500_000))}
    root = source.put_directory(files)
    with pytest.raises(NotFoundError):
        BlockStore(tmp_path).read(root, "small")
    layered = open_store(tmp_path, [url])
    assert {name: layered.read(root, name) for name in files} == files
    assert {entry.name: entry.size for entry in layered.ls(root)} == {
        name: len(content) for name, content in files.items()
    }
    assert BlockStore(tmp_path).has(root)
    assert {name: BlockStore(tmp_path).read(root, name) for name in files} == files


def test_a_pin_fetches_all_and_keeps_it_through_collection(
    served: tuple[BlockStore, str], tmp_path: Path
) -> None:
    source, url = served
    root = source.put_directory({"a": b"a" * 3_000_000, "b": b"b"})
    layered = LayeredStore(BlockStore(tmp_path), Gateways([url]))
    with pytest.raises(LimitError, match="more than the limit of 1000000 bytes"):
        layered.pin(root, max_bytes=1_000_000)
    layered.pin(root, "mine")
    layered.gc()
    assert BlockStore(tmp_path).has(root)
    assert BlockStore(tmp_path).pins() == [("mine", root)]
    layered.unpin(root, "mine")
    assert layered.gc().kept_blocks == 0


def test_a_block_damaged_on_disk_is_fetched_again(
    served: tuple[BlockStore, str], tmp_path: Path
) -> None:
    source, url = served
    cid = source.put(b"whole again")
    layered = open_store(tmp_path, [url])
    layered.read(cid)
    local = BlockStore(tmp_path)
    overwrite(local, b"whole again", b"WHOLE")
    assert layered.read(cid) == b"whole again"
    assert local.read(cid) == b"whole again"


def test_an_interrupted_transfer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = BlockStore(tmp_path / "source")
    content = b"".join(bytes([n]) * MIB for n in range(20))
    root = source.put(content)
    sent: list[Cid] = []
    healthy = threading.Event()

    def answer(request: BaseHTTPRequestHandler, cid: Cid, form: str) -> None:
        if form == "car":
            request.send_response(200)
            request.send_header("Content-Type", CAR_TYPE)
            request.end_headers()
            leaves = [Cid.of(bytes([n]) * MIB, RAW) for n in range(11)]
            for part in write_car([root], [(c, source.get(c)) for c in [root, *leaves]]):
                request.wfile.write(part)
            # and here the cable is out
        elif healthy.is_set() or cid == root:
            sent.append(cid)
            reply(request, source.get(cid))
        else:
            reply(request, b"", status=500)

    local = BlockStore(tmp_path / "local")
    with answering(answer) as (url, _):
        layered = LayeredStore(local, Gateways([url]))
        with pytest.raises(StoreError, match="500"):
            layered.read(root)
        assert local.stat().blocks == 12
        sent.clear()
        healthy.set()
        assert layered.read(root) == content
    assert sorted(sent) == sorted(Cid.of(bytes([n]) * MIB, RAW) for n in range(11, 20))


# ------------------------------------------------------------------ hostile gateways

HELLO = Cid.of(b"hello", RAW)


def lies(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"jello")


def plain_text(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"hello", "text/html")


def partial(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"hello", status=206)


def redirects(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"", status=302, Location="http://127.0.0.1:1/")


def compressed(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"hello", Content_Encoding="gzip")


def short(request: BaseHTTPRequestHandler, *_: object) -> None:
    reply(request, b"hel", Content_Length="5")


def garbage(request: BaseHTTPRequestHandler, *_: object) -> None:
    request.wfile.write(b"\xff\x00 no http at all\r\n\r\n")


def hangs_up(request: BaseHTTPRequestHandler, *_: object) -> None:
    request.close_connection = True


def endless(request: BaseHTTPRequestHandler, *_: object) -> None:
    request.send_response(200)
    request.send_header("Content-Type", RAW_TYPE)
    request.end_headers()
    while True:
        request.wfile.write(bytes(1 << 16))


def drips(request: BaseHTTPRequestHandler, *_: object) -> None:
    request.send_response(200)
    request.send_header("Content-Type", RAW_TYPE)
    request.end_headers()
    for _times in range(600):
        request.wfile.write(b"h")
        request.wfile.flush()
        time.sleep(0.05)


def silent(*_: object) -> None:
    time.sleep(3)


BAD = [lies, plain_text, partial, redirects, compressed, short, garbage, hangs_up, endless]


@pytest.mark.parametrize("answer", BAD)
def test_a_gateway_that_answers_wrongly_is_at_fault_and_not_the_content(answer: Answer) -> None:
    with answering(answer) as (url, asked):
        with pytest.raises(StoreError, match=url):
            Gateways([url]).get(HELLO, soon())
    assert len(asked) == 1


@pytest.mark.parametrize("answer", [drips, silent])
def test_a_gateway_that_never_ends_is_given_up_in_time(answer: Answer) -> None:
    started = time.monotonic()
    with answering(answer) as (url, _), pytest.raises((TimeLimitError, StoreError)):
        Gateways([url]).get(HELLO, soon(0.5))
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("answer", [*BAD, drips, silent])
def test_the_first_good_answer_wins_over_bad_ones(store: BlockStore, answer: Answer) -> None:
    cid = store.put(b"hello")
    started = time.monotonic()
    with answering(answer) as (bad, asked), answering(honest(store)) as (good, _):
        gateways = Gateways([bad, good])
        assert gateways.get(cid, soon()) == b"hello"
        assert time.monotonic() - started < 2
        assert len(asked) == 1


def test_whoever_failed_is_asked_last_the_next_time(store: BlockStore) -> None:
    cid = store.put(b"hello")
    with answering(lies) as (bad, asked), answering(honest(store)) as (good, _):
        gateways = Gateways([bad, good])
        for _ in range(5):
            assert gateways.get(cid, soon()) == b"hello"
    assert len(asked) == 1


def test_content_is_missing_only_if_every_gateway_says_so(store: BlockStore) -> None:
    with answering(honest(store)) as (first, _), answering(honest(store)) as (second, _):
        with pytest.raises(NotFoundError, match="no gateway has"):
            Gateways([first, second]).get(HELLO, soon())
        with answering(lies) as (third, _), pytest.raises(StoreError, match="lies"):
            Gateways([first, third]).get(HELLO, soon())
    with pytest.raises(StoreError, match="cannot be read"):
        Gateways([first]).get(HELLO, soon())


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        (lambda root, _: [root, (Cid.of(b"alien", RAW), b"alien")], "not part of"),
        (lambda root, leaf: [leaf, root], "not part of"),
        (lambda root, _: [root], "missing"),
        (lambda *_: [], "missing"),
        (lambda root, leaf: [root, (leaf[0], b"wrong")], "other bytes"),
        (lambda root, _: [root] * 40, "more than the limit"),
        (lambda root, leaf: [root, (leaf[0], bytes(2 * MIB + 1))], "over 2097"),
    ],
)
def test_an_archive_with_blocks_that_do_not_belong_is_refused(
    naive: Any, sends: Callable[[Any, Any], list[tuple[Cid, bytes]]], words: str
) -> None:
    leaf = naive.leaf(b"leaf")
    root, *_ = naive.file_node([leaf, naive.leaf(b"other")])
    pairs = [(Cid.parse(str(cid)), naive.blocks[str(cid)]) for cid in (root, leaf[0])]

    def answer(request: BaseHTTPRequestHandler, cid: Cid, _: str) -> None:
        reply(request, b"".join(write_car([cid], sends(*pairs))), CAR_TYPE)

    with answering(answer) as (url, _), pytest.raises(StoreError, match=words):
        limit = 3 * MIB if words == "over 2097" else 3000
        list(Gateways([url]).dag(pairs[0][0], max_bytes=limit, deadline=soon()))


def test_an_endless_archive_costs_no_more_than_its_file_may(
    tmp_path: Path, store: BlockStore
) -> None:
    content = b"".join(bytes([n]) * MIB for n in range(9))
    root = store.put(content)
    written = []

    def answer(request: BaseHTTPRequestHandler, cid: Cid, form: str) -> None:
        if form == "raw":
            reply(request, store.get(cid))
            return
        request.send_response(200)
        request.send_header("Content-Type", CAR_TYPE)
        request.end_headers()
        for part in write_car([root], [(root, store.get(root))]):
            request.wfile.write(part)
        while True:
            written.append(request.wfile.write(repeated))

    leaf = Cid.of(bytes(MIB), RAW)
    repeated = b"".join(write_car([], [(leaf, bytes(MIB))]))[18:]
    local = BlockStore(tmp_path / "local")
    with answering(answer) as (url, _):
        assert LayeredStore(local, Gateways([url])).read(root) == content
    # the socket's buffers hold some more than what was read
    assert sum(written) < 32 * MIB
    assert local.stat().blocks == 10


@pytest.mark.parametrize(
    "address",
    ["", "ipfs.example", "ftp://h", "http://", "http://user:key@h", "http://h?x=1", "http://h:x"],
)
def test_addresses_that_cannot_be_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError):
        open_store(tmp_path, [address])
    with pytest.raises(InputError, match="at least one"):
        Gateways([])


def test_hostile_content_is_refused_whatever_gateway_it_comes_from(
    tmp_path: Path, naive: Any
) -> None:
    deep = naive.leaf(b"x")
    for _ in range(40):
        deep = naive.file_node([deep])
    wide = naive.leaf(b"y")
    for _ in range(12):
        wide = naive.file_node([wide] * 30)
    liar = naive.file_node([naive.leaf(b"12345")], claims=[4])
    source = BlockStore(tmp_path / "source")
    naive.store_in(source)
    with running_gateway(source) as url:
        layered = open_store(tmp_path / "local", [url])
        for (cid, *_), error in ((deep, LimitError), (wide, LimitError), (liar, FormatError)):
            with pytest.raises(error):
                layered.read(Cid.parse(str(cid)))


# --------------------------------------------------------------- any mix of all of it

WHOLE = b"".join(bytes([n]) * 40 for n in range(30))
FAULTS = ["none", "absent", "wrong", "short", "refused", "html"]


class Faulty:
    """A gateway whose answer for each block is drawn beforehand; archives break off somewhere."""

    def __init__(self, store: BlockStore, faults: dict[Cid, str], archive: int) -> None:
        self.store, self.faults, self.archive = store, faults, archive

    def __call__(self, request: BaseHTTPRequestHandler, cid: Cid, form: str) -> None:
        block = self.store.get(cid)
        if form == "car":
            blocks = list(reachable(self.store.get, [cid], soon()))[: self.archive]
            body = b"".join(write_car([cid], [(b, self.store.get(b)) for b in blocks]))
            reply(request, body[: len(body) - self.archive % 3], CAR_TYPE)
            return
        match self.faults.get(cid, "none"):
            case "none":
                reply(request, block)
            case "absent":
                reply(request, b"", status=404)
            case "wrong":
                reply(request, block[:-1] + b"?")
            case "short":
                reply(request, block[:-1])
            case "refused":
                reply(request, b"", status=503)
            case "html":
                reply(request, block, "text/html")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_gateways_do_content_is_whole_or_it_is_their_fault(
    tmp_path: Path, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ipfs.unixfs.CHUNK_BYTES", 40)
        patch.setattr("ipfs.unixfs.MAX_LINKS", 9)
        source = BlockStore(tmp_path / "source")
        root = source.put(WHOLE)
    cids = list(reachable(source.get, [root], soon()))
    gateways = [
        Faulty(
            source,
            data.draw(st.dictionaries(st.sampled_from(cids), st.sampled_from(FAULTS))),
            data.draw(st.integers(0, len(cids))),
        )
        for _ in range(2)
    ]
    folder = tmp_path / str(data.draw(st.integers(0, 10**9)))
    good = all(
        any(gateway.faults.get(cid, "none") == "none" for gateway in gateways) for cid in cids
    )
    with answering(gateways[0]) as (first, _), answering(gateways[1]) as (second, _):
        layered = LayeredStore(BlockStore(folder), Gateways([first, second]))
        try:
            assert layered.read(root) == WHOLE
        except (NotFoundError, StoreError):
            # the archives may have brought what single blocks would not
            assert not good
        for gateway in gateways:
            gateway.faults = {}
        assert layered.read(root) == WHOLE
    whole = {source.get(cid) for cid in cids}
    assert {section.block for section in blocks(BlockStore(folder))} == whole
