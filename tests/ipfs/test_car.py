"""CAR archives: against a naive writer made of `dag_cbor` and `multiformats`, and when damaged."""

from collections.abc import Iterator, Sequence
from typing import Any

import dag_cbor
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID, varint

from ipfs.car import MAX_ROOTS, read_car, write_car
from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import CorruptError, FormatError, IpfsError, LimitError

MIB = 1 << 20
V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"  # an empty directory, as Kubo names it
NO_LIMIT = 1 << 40


def naive_car(roots: Sequence[CID], blocks: Sequence[tuple[CID, bytes]]) -> bytes:
    header = dag_cbor.encode({"version": 1, "roots": list(roots)})
    sections = [header, *(bytes(cid) + block for cid, block in blocks)]
    return b"".join(varint.encode(len(part)) + part for part in sections)


def named(block: bytes, codec: int = RAW) -> tuple[Cid, bytes]:
    return Cid.of(block, codec), block


def other(cid: Cid) -> CID:
    return CID.decode(str(cid))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpacked(data: bytes, size: int = 1 << 16) -> tuple[tuple[Cid, ...], list[tuple[Cid, bytes]]]:
    roots, blocks = read_car(cut(data, size), max_bytes=NO_LIMIT)
    return roots, list(blocks)


blocks_of_both_kinds = st.lists(
    st.tuples(st.binary(max_size=300), st.sampled_from([RAW, DAG_PB])).map(lambda b: named(*b)),
    max_size=6,
)


@given(blocks_of_both_kinds, blocks_of_both_kinds, st.integers(1, 400))
def test_archives_are_those_of_a_naive_writer_and_come_back(
    roots: list[tuple[Cid, bytes]], blocks: list[tuple[Cid, bytes]], size: int
) -> None:
    named_roots = [cid for cid, _ in roots]
    data = b"".join(write_car(named_roots, blocks))
    assert data == naive_car([other(c) for c in named_roots], [(other(c), b) for c, b in blocks])
    assert unpacked(data, size) == (tuple(named_roots), blocks)


@pytest.mark.parametrize("count", [0, 1, 23, 24, 255, 256, MAX_ROOTS])
def test_any_number_of_roots_has_the_form_of_dag_cbor(count: int) -> None:
    roots = [Cid.of(b"%d" % number, DAG_PB) for number in range(count)]
    data = b"".join(write_car(roots, []))
    assert data == naive_car([other(root) for root in roots], [])
    assert unpacked(data)[0] == tuple(roots)


def test_old_identifiers_are_read_as_new_ones() -> None:
    directory = b"\x0a\x02\x08\x01"
    old = CID.decode(V0)
    roots, blocks = unpacked(naive_car([old], [(old, directory)]))
    assert roots == (Cid.parse(V0),)
    assert blocks == [named(directory, DAG_PB)]


def test_a_flip_of_any_bit_is_noticed() -> None:
    whole = b"".join(write_car([Cid.of(b"one", RAW)], [named(b"one"), named(b"two two")]))
    expected = unpacked(whole)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert unpacked(bytes(damaged)) != expected
        except IpfsError:
            continue
        # a root is only a name: whoever asked for another one sees that it is not the same
        assert unpacked(bytes(damaged))[0] != expected[0]


def test_an_archive_that_ends_early_is_noticed_at_every_byte() -> None:
    whole = b"".join(write_car([Cid.of(b"one", RAW)], [named(b"one" * 50)]))
    header = len(b"".join(write_car([Cid.of(b"one", RAW)], [])))
    for length in range(len(whole)):
        if length == header:  # an archive without blocks
            assert unpacked(whole[:length])[1] == []
        else:
            with pytest.raises(FormatError):
                unpacked(whole[:length])


def endless() -> Iterator[bytes]:
    yield from write_car([Cid.of(b"x", RAW)], [])
    while True:
        yield from cut(b"".join(write_car([], [named(b"x" * 5000)]))[18:], 1000)


def test_an_endless_archive_ends_at_the_limit() -> None:
    _, blocks = read_car(endless(), max_bytes=100_000)
    given_bytes = 0
    with pytest.raises(LimitError, match="more than the limit of 100000 bytes"):
        for _, block in blocks:
            given_bytes += len(block)
    assert given_bytes <= 100_000


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", FormatError, "empty"),
        (b"\x0a\xa1gversion\x02", FormatError, "version 2"),
        (b"\x00", FormatError, "empty header"),
        (b"\xff\xff\xff\xff\xff\xff\x01", LimitError, "header of over"),
        (b"\x81\x80\x80\x80\x80\x80\x00", FormatError, "over five bytes"),
        (varint.encode(17) + b"\xa2eroots\x80gversion\x02", FormatError, "version 1"),
        (varint.encode(17) + b"\xa2eroots\xa0gversion\x01", FormatError, "no list"),
        (varint.encode(17) + b"\xa2eroots\x81gversion\x01", FormatError, "no CID"),
    ],
)
def test_what_is_no_archive_is_refused(data: bytes, error: type[IpfsError], words: str) -> None:
    with pytest.raises(error, match=words):
        unpacked(data)


def test_blocks_that_lie_or_are_too_large_are_refused() -> None:
    good, bad = Cid.of(b"good", RAW), b"bad!"
    with pytest.raises(CorruptError, match=str(good)):
        unpacked(naive_car([], [(other(good), bad)]))
    large = bytes(2 * MIB + 1)
    with pytest.raises(LimitError, match="over"):
        unpacked(naive_car([], [(other(Cid.of(large, RAW)), large)]))
    edge = bytes(2 * MIB)
    assert unpacked(naive_car([], [(other(Cid.of(edge, RAW)), edge)]))[1] == [named(edge)]
    unknown: Any = CID("base32", 1, "raw", ("identity", b"abc"))
    with pytest.raises(FormatError, match="no CIDv1"):
        unpacked(naive_car([], [(unknown, b"abc")]))
    with pytest.raises(LimitError, match="1025 roots"):
        list(write_car([good] * 1025, []))
