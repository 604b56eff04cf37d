"""Reading block by block: paths, listings, and what hostile DAGs cannot do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfs.cid import Cid
from ipfs.dag import (
    MAX_DEPTH,
    Deadline,
    Entry,
    list_directory,
    open_file,
    reachable,
    resolve,
)
from ipfs.errors import FormatError, LimitError, NotFoundError, TimeLimitError


class Blocks:
    """Gives blocks from memory, and counts how many were asked for."""

    def __init__(self, naive: Any) -> None:
        self.naive = naive
        self.asked = 0

    def __call__(self, cid: Cid, deadline: Deadline) -> bytes:
        deadline.left_s(cid)
        self.asked += 1
        try:
            return self.naive.blocks[str(cid)]
        except KeyError:
            raise NotFoundError(f"no {cid}") from None


@pytest.fixture
def blocks(naive: Any) -> Blocks:
    return Blocks(naive)


def soon() -> Deadline:
    return Deadline.after(5)


def cid_of(node: Any) -> Cid:
    return Cid.parse(str(node[0]))


def content_of(blocks: Blocks, node: Any, max_bytes: int = 1 << 20) -> bytes:
    return b"".join(open_file(blocks, cid_of(node), max_bytes=max_bytes, deadline=soon()))


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(1, 9), st.integers(2, 5))
def test_a_file_of_any_chunks_and_width_reads_back(
    naive_builder: Any, content: bytes, chunk: int, width: int
) -> None:
    naive = naive_builder()
    node = naive.file(content, chunk, width)
    assert content_of(Blocks(naive), node) == content


def test_paths_lead_through_directories(naive: Any, blocks: Blocks) -> None:
    leaf = naive.leaf(b"deep")
    root = naive.directory({"a": naive.directory({"b": leaf}), "c": naive.leaf(b"flat")})
    assert resolve(blocks, cid_of(root), "a/b", soon()) == cid_of(leaf)
    assert resolve(blocks, cid_of(root), "", soon()) == cid_of(root)
    with pytest.raises(NotFoundError, match="no entry 'x'"):
        resolve(blocks, cid_of(root), "a/x", soon())
    with pytest.raises(NotFoundError, match="is a file"):
        resolve(blocks, cid_of(root), "c/x", soon())
    for bad in ("/a", "a//b", "a/", "..", "a/../c"):
        with pytest.raises(FormatError, match="cannot be the name"):
            resolve(blocks, cid_of(root), bad, soon())
    with pytest.raises(LimitError, match="17 parts"):
        resolve(blocks, cid_of(root), "/".join(["a"] * (MAX_DEPTH + 1)), soon())


def test_a_listing_tells_true_sizes_whatever_the_links_say(naive: Any, blocks: Blocks) -> None:
    leaf, sub = naive.leaf(b"12345"), naive.directory({})
    file = naive.file(b"x" * 30, 10)
    root = naive.node([("d", sub[0], 0), ("f", leaf[0], 999_999), ("g", file[0], 1)], b"\x08\x01")
    assert list_directory(blocks, cid_of(root), soon()) == [
        Entry("d", cid_of(sub), None),
        Entry("f", cid_of(leaf), 5),
        Entry("g", cid_of(file), 30),
    ]
    with pytest.raises(FormatError, match="not a directory"):
        list_directory(blocks, cid_of(leaf), soon())
    with pytest.raises(FormatError, match="is a directory"):
        content_of(blocks, root)


def test_a_file_over_the_limit_is_refused_before_its_first_byte(naive: Any, blocks: Blocks) -> None:
    node = naive.file(b"x" * 100, 10)
    assert len(content_of(blocks, node, 100)) == 100
    blocks.asked = 0
    with pytest.raises(LimitError, match="100 bytes, more than the limit of 99"):
        open_file(blocks, cid_of(node), max_bytes=99, deadline=soon())
    assert blocks.asked == 1


def test_a_part_with_another_size_than_its_parent_says_is_refused(
    naive: Any, blocks: Blocks
) -> None:
    big = naive.leaf(b"x" * 50)
    for claim in (1, 49, 51):
        node = naive.file_node([big], claims=[claim])
        with pytest.raises(FormatError, match=f"50 bytes, but its parent says {claim}"):
            content_of(blocks, node)


def test_a_small_dag_that_unfolds_to_an_endless_file_is_refused_at_once(
    naive: Any, blocks: Blocks
) -> None:
    node = naive.leaf(b"x")
    for _ in range(6):
        node = naive.file_node([node] * 1000)
    with pytest.raises(LimitError, match="1000000000000000000 bytes"):
        content_of(blocks, node)
    assert blocks.asked == 1


def test_a_file_of_tiny_parts_is_refused_after_few_blocks(naive: Any, blocks: Blocks) -> None:
    node = naive.file_node([naive.leaf(b"x")] * 2000)
    with pytest.raises(LimitError, match="2000 bytes is spread over too many"):
        content_of(blocks, node, 2000)
    assert blocks.asked == 1 + 1024 + 1 + 1


def test_a_small_file_of_large_inner_nodes_is_refused_after_few_bytes(
    naive: Any, blocks: Blocks
) -> None:
    # each part is a byte of data after a megabyte of a time stamp that nobody reads
    parts = []
    for number in range(10):
        data = b"\x08\x02\x12\x01x\x18\x01\x42\x80\x80\x40" + bytes((number,)) * (1 << 20)
        parts.append((*naive.node([], data), 1))
    node = naive.file_node(parts)
    assert len(content_of(blocks, naive.file_node(parts[:3]), 10)) == 3
    blocks.asked = 0
    with pytest.raises(LimitError, match="10 bytes is spread over too many"):
        content_of(blocks, node, 10)
    assert blocks.asked == 5


def test_empty_parts_that_would_cost_time_without_bytes_are_refused(
    naive: Any, blocks: Blocks
) -> None:
    node = naive.file_node([naive.leaf(b""), naive.leaf(b"x")])
    with pytest.raises(FormatError, match="part of 0 bytes"):
        content_of(blocks, node)


def test_a_deep_chain_is_refused(naive: Any, blocks: Blocks) -> None:
    node = naive.leaf(b"x")
    for _ in range(MAX_DEPTH):
        node = naive.file_node([node])
    assert content_of(blocks, node) == b"x"
    node = naive.file_node([node])
    with pytest.raises(LimitError, match=f"more than {MAX_DEPTH} levels"):
        content_of(blocks, node)


def test_a_very_deep_chain_needs_no_deep_recursion_to_be_walked(naive: Any, blocks: Blocks) -> None:
    node = naive.leaf(b"x")
    for _ in range(3000):
        node = naive.file_node([node])
    assert len(list(reachable(blocks, [cid_of(node)], soon()))) == 3001


def test_the_time_limit_holds_between_blocks(naive: Any, blocks: Blocks) -> None:
    now = [0.0]
    node = naive.file(b"0123456789", 5)
    deadline = Deadline.after(2.5, lambda: now[0])
    parts = open_file(blocks, cid_of(node), max_bytes=10, deadline=deadline)
    assert next(parts) == b"01234"
    now[0] = 2.5
    with pytest.raises(TimeLimitError, match=r"longer than 2\.5 s"):
        next(parts)


def test_every_block_beneath_a_root_is_given_once_and_leaves_are_not_fetched(
    naive: Any, blocks: Blocks
) -> None:
    root = naive.directory({"a": naive.file(b"xy" * 8, 2, 3), "b": naive.leaf(b"xy")})
    found = [str(cid) for cid in reachable(blocks, [cid_of(root)] * 2, soon())]
    assert sorted(found) == sorted(naive.blocks)
    inner = sum(1 for text in naive.blocks if Cid.parse(text).codec == 0x70)
    assert blocks.asked == inner


def test_a_missing_part_is_named(naive: Any, blocks: Blocks) -> None:
    node = naive.file(b"0123456789", 5)
    gone = str(naive.leaf(b"56789")[0])
    del naive.blocks[gone]
    with pytest.raises(NotFoundError, match=gone):
        content_of(blocks, node)
