"""CIDs against published ones and against `multiformats`, a library that nobody here wrote."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID, multihash

from ipfs.cid import DAG_PB, RAW, Cid
from ipfs.errors import CidError, CorruptError

# Kubo, test/cli/add_test.go: "hello world" with and without raw leaves, and as CIDv0
HELLO_RAW = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
HELLO_DAG_PB = "bafybeihykld7uyxzogax6vgyvag42y7464eywpf55gxi5qpoisibh3c5wa"
HELLO_V0 = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"

digests = st.binary(min_size=32, max_size=32)
codecs = st.sampled_from([RAW, DAG_PB])


def test_hello_world_has_the_identifier_that_kubo_gives_it() -> None:
    assert str(Cid.of(b"hello world", RAW)) == HELLO_RAW


def test_a_version_0_identifier_is_read_as_version_1_of_the_same_block() -> None:
    assert str(Cid.parse(HELLO_V0)) == HELLO_DAG_PB
    assert Cid.parse(HELLO_V0) == Cid.parse(HELLO_DAG_PB)


def test_a_digest_from_the_chain_names_a_dag_pb_root() -> None:
    cid = Cid.from_digest(Cid.parse(HELLO_DAG_PB).digest)
    assert str(cid) == HELLO_DAG_PB
    assert cid.codec == DAG_PB


@given(digests, codecs)
def test_both_forms_are_those_of_multiformats(digest: bytes, codec: int) -> None:
    name = {RAW: "raw", DAG_PB: "dag-pb"}[codec]
    oracle = CID("base32", 1, name, ("sha2-256", digest))
    cid = Cid(digest, codec)
    assert str(cid) == str(oracle)
    assert bytes(cid) == bytes(oracle)
    assert cid.multihash == multihash.wrap(digest, "sha2-256")
    assert Cid.parse(str(oracle)) == Cid.from_bytes(bytes(oracle)) == cid


@given(digests)
def test_version_0_text_is_that_of_multiformats(digest: bytes) -> None:
    oracle = CID("base58btc", 0, "dag-pb", ("sha2-256", digest))
    assert Cid.parse(str(oracle)) == Cid.from_bytes(bytes(oracle)) == Cid(digest, DAG_PB)


@given(st.text(max_size=70))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(CidError):
        Cid.parse(text)


@given(digests, codecs, st.data())
def test_a_changed_character_never_reads_as_the_same_identifier(
    digest: bytes, codec: int, data: st.DataObject
) -> None:
    text = str(Cid(digest, codec))
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.characters().filter(lambda c: c != text[at]))
    changed = text[:at] + put + text[at + 1 :]
    try:
        assert Cid.parse(changed) != Cid(digest, codec)
    except CidError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        HELLO_RAW.upper(),  # base32 in upper case has another prefix and another spelling
        "B" + HELLO_RAW[1:].upper(),
        HELLO_RAW + "a",
        HELLO_RAW[:-1],
        HELLO_RAW[:-1] + "f",  # the last character's unused bits are not zero
        "b" + "1" * 58,
        "Qm" + "0" * 44,
        "Qm" + "z" * 44,
        "z" + HELLO_RAW[1:],
        # sha2-512 and dag-cbor, from Kubo's test/cli/add_test.go and IPLD's fixtures
        "bafkrgqbqt3gerhas23vuzrapkdeqf4vu2dwxp3srdj6hvg6nhsug2tgyn6mj3u23yx7utftq3i2ckw2fwdh5qmhid"
        "5qf3t35yvkc5e5ottlw6",
        "bafyreihdb57fdysx5h35urvxz64ros7zvywshber7id6t6c6fek37jgyfe",
    ],
)
def test_identifiers_that_are_not_used_here_are_refused(text: str) -> None:
    with pytest.raises(CidError):
        Cid.parse(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x55\x12\x20" + bytes(31),
        b"\x01\x55\x12\x20" + bytes(33),
        b"\x02\x55\x12\x20" + bytes(32),
        b"\x01\x71\x12\x20" + bytes(32),
        b"\x01\x55\x13\x20" + bytes(32),
        b"\x01\x55\x12\x1f" + bytes(32),
        b"\x12\x20" + bytes(31),
    ],
)
def test_bytes_that_are_no_identifier_are_refused(data: bytes) -> None:
    with pytest.raises(CidError):
        Cid.from_bytes(data)


def test_a_digest_of_another_length_or_codec_is_refused() -> None:
    with pytest.raises(CidError, match="not 31"):
        Cid(bytes(31))
    with pytest.raises(CidError, match="0x71"):
        Cid(bytes(32), 0x71)


def test_verify_names_the_block_and_what_was_found() -> None:
    cid = Cid.parse(HELLO_RAW)
    cid.verify(b"hello world")
    with pytest.raises(CorruptError, match=hashlib.sha256(b"hello World").hexdigest()):
        cid.verify(b"hello World")


def test_it_shows_itself_as_code() -> None:
    assert repr(Cid.parse(HELLO_RAW)) == f"Cid('{HELLO_RAW}')"
