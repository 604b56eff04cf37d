"""Updates on their way: every form comes back bit for bit, and bytes from strangers are bounded."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marketplace.codec import Update, decode_update
from marketplace.errors import CodecError
from marketplace.proof.field import R
from marketplace.wire import (
    CONTENT_FILE,
    CONTENT_TYPES,
    MANIFEST_FILE,
    pack,
    to_blocks,
    unpack,
)

ANN = "0x" + "a1" * 20
ENCODINGS = sorted(CONTENT_TYPES)
int16s = arrays(np.int16, st.integers(1, 700), elements=st.integers(-(2**15), 2**15 - 1))


def unpacked(files: dict[str, bytes], dimension: int) -> Update:
    def read(name: str, max_bytes: int) -> bytes:
        assert len(files[name]) <= max_bytes
        return files[name]

    return unpack(read, dimension, None, 1, ANN)


def files_of(encoding: str, content: bytes, **manifest: object) -> dict[str, bytes]:
    document = {"content": CONTENT_TYPES[encoding], "keys": {}, **manifest}
    return {MANIFEST_FILE: json.dumps(document).encode(), CONTENT_FILE: content}


def compressed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def learned(d: int, seed: int = 0) -> np.ndarray:
    """Return a delta such as layers of unlike size leave: heavy tails, f64[d]."""
    rng = np.random.default_rng(seed)
    return rng.laplace(0, 30, d) * np.repeat(rng.uniform(0.2, 2, -(-d // 500)), 500)[:d] / 2**14


@given(int16s, st.integers(0, R - 1), st.sampled_from(["int16", "plain"]))
def test_any_update_comes_back(values, blinding, encoding):
    found = unpacked(pack(Update(values, blinding), encoding), len(values))
    assert found.blinding == blinding
    assert found.values.dtype == np.int16
    assert found.values.tolist() == values.tolist()


@given(
    arrays(np.float64, st.integers(1, 700), elements=st.floats(-3, 3)),
    st.integers(0, 16),
    st.integers(0, 2**32),
)
def test_int8_blocks_come_back_and_lose_what_they_say(delta, step_bits, seed):
    values, lost = to_blocks(delta, step_bits, np.random.default_rng(seed))
    found = unpacked(pack(Update(values, 5), "int8"), len(values))
    assert found.values.tolist() == values.tolist()
    assert np.allclose(values * 2.0**-step_bits + lost, delta, rtol=0, atol=1e-12)
    for start in range(0, len(delta), 256):
        part, shown = values[start : start + 256].astype(int), delta[start : start + 256]
        unit = next(1 << s for s in range(9) if np.abs(part).max() <= 127 << s)
        assert not (part % unit).any()
        if np.abs(shown).max() * 2**step_bits <= 127:
            assert (np.abs(lost[start : start + 256]) < 2.0**-step_bits).all()


def test_int8_blocks_round_without_bias():
    delta = np.full(256, 0.0)
    delta[0], delta[1:] = 1000 / 2**10, 3.3 / 2**10  # blocks of 8 steps: 1000 <= 127 * 8
    rng = np.random.default_rng(1)
    mean = np.mean([to_blocks(delta, 10, rng)[0][1:].mean() for _ in range(200)])
    # 51,000 draws of 0 or 8 with mean 3.3: the standard error is 0.0175
    assert abs(mean - 3.3) < 5 * 0.0175
    assert set(to_blocks(delta, 10, rng)[0][1:].tolist()) <= {0, 8}


def test_the_default_is_several_times_smaller_than_floats_and_blocks_smaller_still():
    d = 100_000
    delta = learned(d)
    fine = np.rint(delta * 2**14).astype(np.int16)
    coarse, _ = to_blocks(delta, 14, np.random.default_rng(0))
    sizes = {
        encoding: sum(map(len, pack(Update(values, 1), encoding).values()))
        for encoding, values in (("plain", fine), ("int16", fine), ("int8", coarse))
    }
    assert sizes["plain"] > 2 * d
    assert sizes["int16"] < 4 * d / 4
    assert sizes["int8"] < sizes["int16"]


def test_the_manifest_names_the_content_type():
    files = pack(Update(np.zeros(3, np.int16), 1))
    assert set(files) == {"manifest.json", "update"}
    assert json.loads(files["manifest.json"]) == {
        "content": "application/vnd.tribute.update.int16+zstd",
        "keys": {},
    }


def test_the_plain_form_is_safetensors():
    values = np.array([1, -2, 3], np.int16)
    content = pack(Update(values, 9), "plain")[CONTENT_FILE]
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["update"]["dtype"] == "I16"
    assert decode_update(content, 3).values.tolist() == [1, -2, 3]


def test_the_bytes_of_int16_are_those_of_the_specification():
    # zigzag of 1, -2 and 300 is 2, 3 and 600 = 0x0258
    content = pack(Update(np.array([1, -2, 300], np.int16), 7))[CONTENT_FILE]
    plain = zstandard.ZstdDecompressor().decompress(content)
    assert plain == bytes(31) + b"\x07" + b"\x02\x03\x58" + b"\x00\x00\x02"


def test_the_bytes_of_int8_are_those_of_the_specification():
    # 254 takes a shift of 1; 127 and -3 zigzag to 254 and 5
    values = np.array([254, -6], np.int16)
    content = pack(Update(values, 7), "int8")[CONTENT_FILE]
    plain = zstandard.ZstdDecompressor().decompress(content)
    assert plain == bytes(31) + b"\x07" + b"\x01" + b"\xfe\x05"


@pytest.mark.parametrize("values", [[255, 3], [-32768, 0], [32767, 0]])
def test_values_that_int8_blocks_cannot_hold_are_refused(values):
    with pytest.raises(CodecError, match="not those of int8 blocks"):
        pack(Update(np.array(values, np.int16), 0), "int8")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_privacy_spent_travels_in_the_manifest(encoding):
    values = np.arange(-3, 4, dtype=np.int16)
    files = pack(Update(values, 5, 1234), encoding)
    assert json.loads(files[MANIFEST_FILE])["epsilon_milli"] == 1234
    found = unpacked(files, 7)
    assert (found.spent_milli, found.blinding, found.values.tolist()) == (1234, 5, values.tolist())
    assert unpacked(pack(Update(values, 5), encoding), 7).spent_milli == 0


# --------------------------------------------------------------------- strangers


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"content": "x"}', "fields"),
        (b'{"content": "x", "keys": {}, "more": 1}', "fields"),
        (b'{"content": 5, "keys": {}}', "not known"),
        (b'{"content": "x", "keys": {}, "epsilon_milli": -1}', "from 0 to 4294967295"),
        (b'{"content": "x", "keys": {}, "epsilon_milli": 4294967296}', "from 0 to"),
        (b'{"content": "x", "keys": {}, "epsilon_milli": true}', "True is not from 0"),
        (b'{"content": "x", "keys": {}, "epsilon_milli": 1.5}', "1.5 is not from 0"),
        (b'{"content": "x", "epsilon_milli": 5}', "fields"),
        (b'{"content": "text/html", "keys": {}}', "not known"),
        (json.dumps({"content": CONTENT_TYPES["int16"], "keys": []}).encode(), "no list"),
        (json.dumps({"content": CONTENT_TYPES["int16"], "keys": {"ab": "cd"}}).encode(), "instead"),
        (
            json.dumps({"content": CONTENT_TYPES["int16"], "keys": {"g" * 64: "0" * 160}}).encode(),
            "instead of 32 bytes",
        ),
        (
            json.dumps({"content": CONTENT_TYPES["int16"], "keys": {"a" * 64: 5}}).encode(),
            "instead of 80 bytes",
        ),
        (
            json.dumps(
                {
                    "content": CONTENT_TYPES["int16"],
                    "keys": {f"{n:064x}": "0" * 160 for n in range(257)},
                }
            ).encode(),
            "up to 256|65536 are possible",
        ),
    ],
)
def test_manifests_that_are_not_exact_are_refused(manifest, words):
    with pytest.raises(CodecError, match=words):
        unpacked({MANIFEST_FILE: manifest, CONTENT_FILE: b""}, 3)


GOOD = bytes(31) + b"\x07" + b"\x02\x03\x58" + b"\x00\x00\x02"


def without_size(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


@pytest.mark.parametrize(
    ("encoding", "content", "words"),
    [
        ("int16", b"", "does not decompress"),
        ("int16", GOOD, "does not decompress"),
        ("int16", compressed(GOOD)[:-1], "does not decompress"),
        ("int16", compressed(GOOD) + b"x", "does not decompress"),
        ("int16", compressed(GOOD) + compressed(b"y"), "does not decompress"),
        ("int16", compressed(GOOD[:-1]), "to 37 bytes, not 38"),
        ("int16", compressed(GOOD + b"x"), "to 39 bytes, not 38"),
        ("int16", without_size(GOOD), "not 38"),
        ("int16", compressed(b"\xff" * 38), "no scalar"),
        ("int8", compressed(GOOD), "to 38 bytes, not 36"),
        ("int8", compressed(bytes(32) + b"\x09" + bytes(3)), "shifted by 9 bits"),
        ("int8", compressed(bytes(33) + b"\xff" + bytes(2)), "-128 in an int8 block"),
        ("plain", compressed(GOOD), "header of"),
    ],
)
def test_content_that_is_not_exact_is_refused(encoding, content, words):
    with pytest.raises(CodecError, match=words):
        unpacked(files_of(encoding, content), 3)


def test_a_bomb_is_refused_before_anything_is_allocated():
    bomb = compressed(bytes(1 << 30))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="to 1073741824 bytes, not 200032"):
            unpacked(files_of("int16", bomb), 100_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_lies_about_its_size_is_refused():
    frame = bytearray(compressed(bytes(1000)))
    at = bytes(frame).index(struct.pack("<H", 1000 - 256))  # two bytes hold the size less 256
    frame[at : at + 2] = struct.pack("<H", 38 + 262 - 256)
    with pytest.raises(CodecError, match="does not decompress"):
        unpacked(files_of("int16", bytes(frame)), (300 - 32) // 2)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data())
def test_damaged_content_is_refused_or_is_an_update(encoding, data):
    good = bytearray(pack(Update(np.arange(50, dtype=np.int16), 3), encoding)[CONTENT_FILE])
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = unpacked(files_of(encoding, bytes(good)), 50)
    except CodecError:
        return
    assert found.values.shape == (50,)
    assert 0 <= found.blinding < R


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("blinding", [-1, R])
def test_blindings_that_are_no_scalars_are_not_packed(encoding, blinding):
    with pytest.raises(CodecError, match="a blinding is a scalar"):
        pack(Update(np.zeros(3, np.int16), blinding), encoding)


def test_deltas_that_are_not_finite_are_refused():
    with pytest.raises(CodecError, match="not finite"):
        to_blocks(np.array([1.0, np.nan]), 3, np.random.default_rng(0))
