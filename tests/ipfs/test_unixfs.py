"""Layout of files and directories: Kubo's published vectors and a naive builder as references."""

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import FormatError, LimitError
from ipfs.unixfs import (
    CHUNK_BYTES,
    MAX_LINKS,
    Built,
    Directory,
    File,
    build_directory,
    build_file,
    check_name,
    decode_links,
    decode_unixfs,
    file_cid,
)

MIB = 1 << 20
EMPTY_FILE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"

sizes = st.one_of(
    st.integers(0, 40),
    st.builds(
        lambda chunks, off: max(0, chunks * MIB + off), st.integers(0, 4), st.integers(-2, 2)
    ),
)


def keystream(seed: str, size: int) -> bytes:
    """Return what Kubo's tests call deterministic random bytes: ChaCha20 keyed by a seed."""
    key = Cid.of(seed.encode(), RAW).digest
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))


def store_nowhere(block: bytes) -> Cid:
    return Cid.of(block, DAG_PB)


# ------------------------------------------------------------------- published vectors


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Kubo, test/cli/cid_profiles_test.go
        (b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        (b"", EMPTY_FILE),
    ],
)
def test_a_small_file_has_kubos_identifier(content: bytes, expected: str) -> None:
    assert str(file_cid(content)) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # js-ipfs-unixfs, test/ipip-499-profiles.spec.ts, pinned to Kubo's
        (MIB, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        (MIB + 1, "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
    ],
)
def test_files_at_the_chunk_boundary_have_kubos_identifiers(size: int, expected: str) -> None:
    assert str(file_cid(keystream("chunk-v1-seed", size))) == expected


def test_files_at_the_link_boundary_have_kubos_identifiers() -> None:
    # Kubo, test/cli/cid_profiles_test.go: 1,024 MiB and 1,025 MiB of one stream; js-ipfs-unixfs'
    # vector for one byte over 1,024 MiB lies between them
    key = Cid.of(b"v1-2025-seed", RAW).digest
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros = bytes(MIB)
    leaves = []
    for number in range(1025):
        chunk = stream.update(zeros)
        leaves.append((Cid.of(chunk, RAW), MIB))
        if number == 1024:
            last_byte = (Cid.of(chunk[:1], RAW), 1)
    at_limit = build_file(leaves[:1024], store_nowhere)
    byte_over = build_file([*leaves[:1024], last_byte], store_nowhere)
    chunk_over = build_file(leaves, store_nowhere)
    assert str(at_limit.cid) == "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"
    assert str(byte_over.cid) == "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"
    assert str(chunk_over.cid) == "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue"
    assert [built.file_bytes for built in (at_limit, byte_over, chunk_over)] == [
        1024 * MIB,
        1024 * MIB + 1,
        1025 * MIB,
    ]


def test_an_empty_directory_has_kubos_identifier() -> None:
    built = build_directory([], store_nowhere)
    assert str(built.cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


def kubo_names(last_length: int) -> Iterator[str]:
    """Give the 4,766 names of Kubo's directory vectors (test/cli/testutils)."""
    alphabet = "abcdefghijklmnopqrstuvwxyz01234567890-_"
    stream = iter(keystream("hamt-unixfs-v1-2025", MIB))
    for length in [11] * 4765 + [last_length]:
        yield "".join(alphabet[next(stream) % len(alphabet)] for _ in range(length))


def test_the_largest_plain_directory_has_kubos_identifier() -> None:
    entry = Built(Cid.of(b"x", RAW), 1, 1)
    blocks: list[bytes] = []

    def put(block: bytes) -> Cid:
        blocks.append(block)
        return store_nowhere(block)

    built = build_directory([(name, entry) for name in kubo_names(21)], put)
    assert str(built.cid) == "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"
    assert [len(block) for block in blocks] == [262_144]


def test_a_directory_that_kubo_would_shard_is_refused() -> None:
    entry = Built(Cid.of(b"x", RAW), 1, 1)
    with pytest.raises(LimitError, match="262145 bytes, more than 262144"):
        build_directory([(name, entry) for name in kubo_names(22)], store_nowhere)


# ------------------------------------------------------------------------ naive builder


@settings(max_examples=40, deadline=None)
@given(sizes, st.binary(min_size=1, max_size=5))
@example(CHUNK_BYTES, b"a")
@example(2 * CHUNK_BYTES, b"ab")
def test_a_files_identifier_is_that_of_the_naive_builder(
    naive_builder: Any, size: int, seed: bytes
) -> None:
    content = (seed * (size // len(seed) + 1))[:size]
    expected, dag_bytes, _ = naive_builder().file(content)
    assert str(file_cid(content)) == str(expected)


def assert_same_tree(naive: Any, count: int, width: int) -> None:
    content = b"x" * 7
    expected, dag_bytes, size = naive.tree([naive.leaf(content)] * count, width)
    got = build_file(((Cid.of(content, RAW), 7) for _ in range(count)), store_nowhere)
    assert (str(got.cid), got.dag_bytes, got.file_bytes) == (str(expected), dag_bytes, size)


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 2047, 2048, 2049])
def test_the_tree_over_any_number_of_leaves_is_that_of_the_naive_builder(
    naive: Any, count: int
) -> None:
    assert_same_tree(naive, count, MAX_LINKS)


@pytest.mark.parametrize("width", [2, 3, 8])
def test_deep_trees_are_those_of_the_naive_builder(
    naive: Any, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs.unixfs.MAX_LINKS", width)
    for count in sorted({width**level + off for level in range(5) for off in (-1, 0, 1)} - {0}):
        assert_same_tree(naive, count, width)


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=50), max_size=8))
def test_a_directorys_identifier_is_that_of_the_naive_builder(
    naive_builder: Any, files: dict[str, bytes]
) -> None:
    naive = naive_builder()
    entries = [(n, Built(Cid.of(c, RAW), len(c), len(c))) for n, c in files.items()]
    try:
        for name in files:
            check_name(name)
    except FormatError:
        with pytest.raises(FormatError):
            build_directory(entries, store_nowhere)
        return
    expected, dag_bytes, _ = naive.directory({n: naive.leaf(c) for n, c in files.items()})
    got = build_directory(reversed(entries), store_nowhere)
    assert (str(got.cid), got.dag_bytes) == (str(expected), dag_bytes)


# ------------------------------------------------------------------------------- reading


def test_a_node_reads_back_as_it_was_built(naive: Any) -> None:
    first, second = naive.leaf(b"a" * 9), naive.leaf(b"b" * 5)
    root, _, _ = naive.file_node([first, second])
    cid = Cid.parse(str(root))
    node = decode_unixfs(cid, naive.blocks[str(root)])
    assert node == File(b"", ((Cid.of(b"a" * 9, RAW), 9), (Cid.of(b"b" * 5, RAW), 5)))
    assert isinstance(node, File) and node.size == 14
    links = decode_links(cid, naive.blocks[str(root)])
    assert [(str(link.cid), link.name, link.tsize) for link in links] == [
        (str(first[0]), "", 9),
        (str(second[0]), "", 5),
    ]


def test_a_directory_reads_back_as_it_was_built(naive: Any) -> None:
    root, _, _ = naive.directory({"b": naive.leaf(b"2"), "a": naive.leaf(b"11")})
    node = decode_unixfs(Cid.parse(str(root)), naive.blocks[str(root)])
    assert isinstance(node, Directory)
    assert [(e.name, e.tsize) for e in node.entries] == [("a", 2), ("b", 1)]


def test_the_file_node_of_an_older_writer_is_read() -> None:
    # "hello world" without raw leaves: type File, data and size in one dag-pb block
    block = bytes.fromhex("0a110802120b" + b"hello world".hex() + "180b")
    cid = Cid.parse("Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD")
    cid.verify(block)
    assert decode_unixfs(cid, block) == File(b"hello world", ())


def test_sizes_may_be_packed_and_data_may_come_first() -> None:
    leaf = Cid.of(b"abc", RAW)
    link = b"\x12\x2a\x0a\x24" + bytes(leaf) + b"\x12\x00\x18\x03"
    data = b"\x0a\x07\x08\x02\x18\x03\x22\x01\x03"
    for block in (link + data, data + link):
        assert decode_unixfs(Cid.of(block, DAG_PB), block) == File(b"", ((leaf, 3),))


LEAF = bytes(Cid.of(b"abc", RAW))
LINK = b"\x12\x2a\x0a\x24" + LEAF + b"\x12\x00\x18\x03"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"", "no UnixFS data"),
        (LINK, "no UnixFS data"),
        (b"\x0a\x00", "no type"),
        (b"\x0a\x02\x08\x03", "metadata"),
        (b"\x0a\x02\x08\x04", "symbolic link"),
        (b"\x0a\x02\x08\x05", "HAMT"),
        (b"\x0a\x02\x08\x09", "UnixFS type 9"),
        (b"\x0a\x04\x08\x01\x12\x00" + LINK, "cannot be the name"),
        (b"\x0a\x05\x08\x01\x12\x01x", "holds data of a file"),
        (b"\x0a\x04\x08\x02\x18\x03", "3 bytes, but its parts have 0"),
        (b"\x0a\x04\x08\x02\x20\x03", "0 links and 1 sizes"),
        (LINK + b"\x0a\x02\x08\x02", "1 links and 0 sizes"),
        (LINK + b"\x0a\x04\x08\x02\x20\x00", "part of 0 bytes"),
        (LINK + b"\x0a\x02\x08\x02" + LINK, "both sides"),
        (b"\x0a\x02\x08\x02" * 2, "repeated field 1"),
        (b"\x1a\x00", "unknown or repeated field 3"),
        (b"\x10\x00", "unknown or repeated field 2"),
        (b"\x0a\x02\x48\x00", "unknown field 9"),
        (b"\x12\x02\x18\x03", "points nowhere"),
        (b"\x12\x04\x0a\x02\x01\x55", "dag-pb link: bytes 0155"),
        (b"\x12\x2a\x18\x03\x12\x00\x0a\x24" + LEAF, "field 2 after field 3"),
        (b"\x12\x2a\x0a\x24" + LEAF + b"\x12\x00\x20\x03", "unknown field 4"),
        (b"\x12\x2b\x0a\x24" + LEAF + b"\x12\x01\xff\x18\x03", "no UTF-8"),
        (b"\x0a", "cut short"),
        (b"\x0a\x05\x08", "cannot be read"),
        (b"\x0b\x00", "wire type 3"),
        (b"\x0a\x03\x08\x82\x00", "not minimal"),
        (b"\x0a\x0c\x08" + b"\xff" * 10 + b"\x01", "63 bits"),
    ],
)
def test_blocks_that_are_not_well_formed_are_refused(block: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode_unixfs(Cid.of(block, DAG_PB), block)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_but_nothing_else_happens(block: bytes) -> None:
    for decode in (decode_unixfs, decode_links):
        try:
            decode(Cid.of(block, DAG_PB), block)
        except FormatError:
            pass


@given(st.data())
def test_a_damaged_node_is_read_or_refused_but_nothing_else_happens(
    naive_builder: Any, data: st.DataObject
) -> None:
    naive = naive_builder()
    root, *_ = naive.directory({"a": naive.leaf(b"1"), "b": naive.file(b"xyz" * 9, 5, 2)})
    block = bytearray(naive.blocks[str(root)])
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decode_unixfs(Cid.of(block, DAG_PB), bytes(block))
    except FormatError:
        pass


def test_two_entries_of_one_name_are_refused_on_both_ways(naive: Any) -> None:
    entry = Built(Cid.of(b"x", RAW), 1, 1)
    with pytest.raises(FormatError, match="two entries named 'a'"):
        build_directory([("a", entry), ("b", entry), ("a", entry)], store_nowhere)
    leaf = naive.leaf(b"x")[:2]
    root, _ = naive.node([("a", *leaf), ("a", *leaf)], b"\x08\x01")
    with pytest.raises(FormatError, match="two entries named 'a'"):
        decode_unixfs(Cid.parse(str(root)), naive.blocks[str(root)])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b", "\ud800", "é" * 128])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "...", "é" * 127, "update.safetensors", "a b", "\\"])
def test_other_names_are_fine(name: str) -> None:
    check_name(name)
