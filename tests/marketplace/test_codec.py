"""The codec against Python's integers and fractions, and against hostile bytes."""

import json
import struct
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marketplace import codec
from marketplace.codec import (
    ONE,
    Description,
    Model,
    Training,
    Update,
    apply_updates,
    clip,
    decode_description,
    decode_model,
    decode_update,
    encode_description,
    encode_model,
    encode_update,
    file_limit,
    gram,
    pack_gram,
    quantise,
    to_fixed,
    to_float,
    unpack_gram,
)
from marketplace.errors import CodecError
from marketplace.proof.field import R

D = 5
int16s = st.integers(-(2**15), 2**15 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
blindings = st.integers(0, R - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- fixed point


@given(
    delta=arrays(np.float64, 8, elements=st.floats(-4, 4)),
    step_bits=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_steps_and_remainder_add_up_to_the_delta(delta, step_bits, seed):
    steps, lost = quantise(delta, step_bits, rng(seed))
    assert steps.dtype == np.int16
    for value, step, rest in zip(delta.tolist(), steps.tolist(), lost.tolist(), strict=True):
        off = Fraction(step, 2**step_bits) + Fraction(rest) - Fraction(value)
        # One rounding to 53 bits of the difference, in steps.
        size = max(1, abs(Fraction(value)) * 2**step_bits)
        assert abs(off) * 2**step_bits <= size / 2**53


@given(
    delta=arrays(np.float64, 8, elements=st.floats(-1.9, 1.9)),
    step_bits=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_rounding_goes_to_one_of_the_two_nearest_steps(delta, step_bits, seed):
    steps, lost = quantise(delta, step_bits, rng(seed))
    scaled = delta * 2**step_bits
    assert ((steps == np.floor(scaled)) | (steps == np.ceil(scaled))).all()
    assert (np.abs(lost) <= 2.0**-step_bits).all()


def test_rounding_goes_up_with_the_probability_of_the_fraction():
    steps, _ = quantise(np.full(100_000, 0.25), 0, rng())
    # A standard deviation of the mean is sqrt(.25 * .75 / 1e5) = .0014.
    assert steps.mean() == pytest.approx(0.25, abs=0.007)
    assert set(steps.tolist()) == {0, 1}


def test_values_beyond_int16_saturate_and_the_rest_is_carried():
    steps, lost = quantise(np.array([3.0, -3.0]), 14, rng())
    assert steps.tolist() == [32767, -32768]
    assert lost.tolist() == [3 - 32767 / 16384, -3 + 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_update_that_is_not_finite_is_refused_by_coordinate(bad):
    with pytest.raises(CodecError, match=f"coordinate 2 of the update is {bad}"):
        quantise(np.array([0.0, 1.0, bad]), 14, rng())


@given(delta=arrays(np.float64, 6, elements=st.floats(-1e3, 1e3)), clip_norm=st.integers(1, 2**20))
def test_clipping_keeps_the_direction_and_bounds_the_norm(delta, clip_norm):
    clipped = clip(delta, clip_norm, 14)
    limit = clip_norm / 2**14
    norm = np.linalg.norm(delta)
    if norm <= limit:
        np.testing.assert_array_equal(clipped, delta)
    else:
        assert np.linalg.norm(clipped) == pytest.approx(limit, rel=1e-12)
        np.testing.assert_allclose(clipped * norm, delta * limit, rtol=1e-12, atol=1e-300)


@given(
    params=arrays(np.float32, 6, elements=st.floats(-1e3, 1e3, width=32)),
    step_bits=st.integers(1, 30),
)
def test_models_are_rounded_to_the_nearest_unit_and_back(params, step_bits):
    fixed = to_fixed(params, step_bits)
    assert fixed.dtype == np.int64
    for value, unit in zip(params.tolist(), fixed.tolist(), strict=True):
        assert abs(Fraction(value) * 2 ** (step_bits + 16) - unit) <= Fraction(1, 2)
    np.testing.assert_allclose(
        to_float(fixed, step_bits), params, rtol=2**-23, atol=2.0 ** -(step_bits + 17)
    )


def test_units_convert_to_the_numbers_that_they_stand_for():
    # With 2 step bits a unit is 2^-18.
    assert to_float(np.array([2**18, -(2**17), 3]), 2).tolist() == [1.0, -0.5, 3 * 2.0**-18]
    assert to_fixed(np.array([1.0, -0.5], dtype=np.float32), 2).tolist() == [2**18, -(2**17)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**33])
def test_parameters_beyond_the_fixed_point_are_refused(bad):
    with pytest.raises(CodecError, match=r"not finite or beyond 2\^32"):
        to_fixed(np.array([0.0, bad], dtype=np.float32), 14)


def naive_gram(rows: list[list[int]]) -> list[list[int]]:
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]


@given(
    rows=st.integers(0, 7).flatmap(
        lambda d: st.lists(st.lists(int16s, min_size=d, max_size=d), min_size=1, max_size=4)
    )
)
def test_the_gram_matrix_is_the_naive_one(rows):
    matrix = gram(np.array(rows, dtype=np.int16).reshape(len(rows), -1))
    assert matrix.tolist() == naive_gram(rows)


def test_the_gram_matrix_is_exact_across_blocks_of_extreme_values():
    d = codec._GRAM_BLOCK * 2 + 3
    rows = np.full((2, d), -(2**15), dtype=np.int16)
    rows[1] = 2**15 - 1
    most, least = 2**15 - 1, -(2**15)
    expected = [[d * least**2, d * least * most], [d * least * most, d * most**2]]
    assert gram(rows).tolist() == expected


@given(data=st.data(), n=st.integers(0, 4), d=st.integers(1, 6))
def test_the_next_model_is_the_naive_sum(data, n, d):
    model = data.draw(st.lists(st.integers(-(2**60), 2**60), min_size=d, max_size=d))
    updates = data.draw(st.lists(st.lists(int16s, min_size=d, max_size=d), min_size=n, max_size=n))
    weights = data.draw(st.lists(st.integers(0, ONE), min_size=n, max_size=n))
    moved = apply_updates(
        np.array(model, dtype=np.int64), [np.array(u, dtype=np.int16) for u in updates], weights
    )
    assert moved.tolist() == [
        model[k] + sum(w * u[k] for w, u in zip(weights, updates, strict=True)) for k in range(d)
    ]


def test_the_next_model_is_exact_across_blocks():
    d = codec._BLOCK + 2
    model = np.arange(d, dtype=np.int64)
    update = np.full(d, -7, dtype=np.int16)
    assert (apply_updates(model, [update], [ONE]) == np.arange(d) - 7 * ONE).all()
    assert (model == np.arange(d)).all()


@pytest.mark.parametrize(
    ("start", "step", "fits"),
    [
        (2**63 - 1 - ONE, 1, True),
        (2**63 - ONE, 1, False),
        (-(2**63) + ONE, -1, True),
        (-(2**63) + ONE - 1, -1, False),
    ],
)
def test_a_model_that_leaves_int64_is_refused_by_coordinate(start, step, fits):
    model = np.array([0, start], dtype=np.int64)
    update = np.array([0, step], dtype=np.int16)
    if fits:
        assert apply_updates(model, [update], [ONE])[1] == start + step * ONE
    else:
        with pytest.raises(CodecError, match="coordinate 1 of the next model does not fit 64 bits"):
            apply_updates(model, [update], [ONE])


@given(
    values=st.integers(0, 6).flatmap(
        lambda n: st.lists(
            st.integers(-(2**63), 2**63 - 1),
            min_size=n * (n + 1) // 2,
            max_size=n * (n + 1) // 2,
        )
    )
)
def test_triangles_are_written_row_by_row_and_read_back(values):
    n = (isqrt(8 * len(values) + 1) - 1) // 2
    data = b"".join(value.to_bytes(8, "big", signed=True) for value in values)
    matrix = unpack_gram(data, n)
    assert (matrix == matrix.T).all()
    assert [int(matrix[i, j]) for i in range(n) for j in range(i, n)] == values
    assert pack_gram(matrix) == data


@pytest.mark.parametrize("size", [0, 23, 25, 32])
def test_triangles_of_another_size_are_refused(size):
    with pytest.raises(CodecError, match=f"a matrix of {size} bytes; 2 updates take 24"):
        unpack_gram(bytes(size), 2)


# ---------------------------------------------------------------------- files


@given(values=st.lists(int16s, min_size=1, max_size=9), blinding=blindings)
def test_an_update_survives_its_file(values, blinding):
    data = encode_update(Update(np.array(values, dtype=np.int16), blinding))
    found = decode_update(data, len(values))
    assert found.values.tolist() == values
    assert found.values.dtype == np.int16
    assert found.blinding == blinding


@given(values=st.lists(int64s, min_size=1, max_size=9), blinding=blindings)
def test_a_model_survives_its_file(values, blinding):
    data = encode_model(Model(np.array(values, dtype=np.int64), blinding))
    found = decode_model(data, len(values))
    assert found.values.tolist() == values
    assert found.blinding == blinding


def test_files_are_read_by_the_safetensors_library_and_have_no_metadata():
    data = encode_update(Update(np.array([1, -2, 3], dtype=np.int16), 7))
    tensors = safetensors.numpy.load(data)
    assert tensors["update"].tolist() == [1, -2, 3]
    assert tensors["blinding"].tolist() == [0] * 31 + [7]
    assert b"__metadata__" not in data


@pytest.mark.parametrize("blinding", [-1, R])
def test_a_blinding_that_is_no_scalar_is_not_written(blinding):
    with pytest.raises(CodecError, match="from 0 to R - 1"):
        encode_update(Update(np.zeros(D, dtype=np.int16), blinding))


def file_of(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def header_of(**changes: object) -> dict[str, dict[str, object]]:
    """Describe an update of D coordinates that lies before its blinding."""
    update = {"dtype": "I16", "shape": [D], "data_offsets": [0, 2 * D]}
    blinding = {"dtype": "U8", "shape": [32], "data_offsets": [2 * D, 2 * D + 32]}
    return {"update": {**update, **changes}, "blinding": blinding}


BODY = bytes(range(2 * D)) + bytes(31) + b"\x09"


def test_the_files_of_these_tests_are_good_before_they_are_spoilt():
    found = decode_update(file_of(header_of(), BODY), D)
    assert found.values.tolist() == [0x0100, 0x0302, 0x0504, 0x0706, 0x0908]
    assert found.blinding == 9


def blinding_elsewhere(offsets: list[int]) -> dict[str, dict[str, object]]:
    header = header_of()
    header["blinding"]["data_offsets"] = offsets
    return header


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes is cut short"),
        (b"\x01\x02", "2 bytes is cut short"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9223372036854775808 bytes in a file of 10"),
        (struct.pack("<Q", 3) + b"{}", "header of 3 bytes in a file of 10"),
        (file_of(b" " * 4097, b""), "header of 4097 bytes"),
        (file_of(header_of(), BODY)[:-1], "lies outside the file"),
        (file_of(header_of(), BODY + b"\x00"), "do not fill the file's 43 bytes"),
        (file_of(header_of(), BODY + bytes(5000)), "a file of .* bytes; 5 coordinates take"),
        (file_of(b"\xff\xfe", BODY), "header is no JSON"),
        (file_of(b"[" * 4000, b""), "header is no JSON"),
        (file_of(b"[]", BODY), "header is no JSON object"),
        (file_of(b'{"update": NaN, "blinding": 1}', BODY), "header holds NaN"),
        (file_of(b'{"update": {}, "update": {}}', BODY), "header names a field twice"),
        (file_of({"update": {}}, BODY), r"tensors \['update'\]; expected"),
        (
            file_of({**header_of(), "__metadata__": {"pt": "x"}}, BODY),
            "tensors .*__metadata__.*; expected",
        ),
        (file_of({"update": [], "blinding": {}}, BODY), "'update' is not described"),
        (file_of(header_of(more=1), BODY), "'update' is not described"),
        (file_of(header_of(dtype="F64"), BODY), r"'update' is F64\[5\]; expected I16\[5\]"),
        (file_of(header_of(shape=[D - 1]), BODY), r"is I16\[4\]; expected I16\[5\]"),
        (file_of(header_of(shape=[D, 1]), BODY), r"is I16\[5, 1\]; expected I16\[5\]"),
        (file_of(header_of(data_offsets=[0, 2**70]), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets=[-2, 8]), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets=[10, 0]), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets=[0, 10.0]), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets=[0]), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets="0,10"), BODY), "lies outside the file"),
        (file_of(header_of(data_offsets=[0, 8]), BODY), "'update' takes 8 bytes"),
        (file_of(blinding_elsewhere([0, 32]), BODY), "do not fill the file's"),
        (file_of(blinding_elsewhere([9, 41]), BODY), "do not fill the file's"),
        (file_of(header_of(), bytes(2 * D) + R.to_bytes(32)), "the blinding is no scalar"),
        (file_of(header_of(), bytes(2 * D) + b"\xff" * 32), "the blinding is no scalar"),
    ],
)
def test_hostile_files_are_refused_by_what_is_wrong_with_them(data, message):
    with pytest.raises(CodecError, match=message):
        decode_update(data, D)


@pytest.mark.parametrize("d", [D - 1, D + 1])
def test_an_update_of_another_length_is_refused(d):
    data = encode_update(Update(np.zeros(d, dtype=np.int16), 1))
    with pytest.raises(CodecError, match=rf"I16\[{d}\]; expected I16\[{D}\]"):
        decode_update(data, D)


def test_floating_point_updates_and_models_in_the_place_of_updates_are_refused():
    floats = safetensors.numpy.save(
        {"update": np.full(D, np.nan, dtype=np.float16), "blinding": np.zeros(32, dtype=np.uint8)}
    )
    with pytest.raises(CodecError, match=r"F16\[5\]; expected I16"):
        decode_update(floats, D)
    with pytest.raises(CodecError, match="'model'"):
        decode_update(encode_model(Model(np.zeros(D, dtype=np.int64), 0)), D)


def test_a_file_may_be_as_large_as_its_header_may_and_no_larger():
    header = json.dumps(header_of()).encode()
    longest = file_of(header.ljust(4096), BODY)
    assert len(longest) == file_limit(D, 2)
    assert decode_update(longest, D).blinding == 9
    with pytest.raises(CodecError, match=f"a file of {len(longest) + 1} bytes"):
        decode_update(longest + b"\x00", D)


@settings(max_examples=200)
@given(data=st.data())
def test_a_spoilt_file_is_an_error_or_an_update_and_never_a_crash(data):
    good = bytearray(file_of(header_of(), BODY))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        found = decode_update(bytes(good[:cut]) if data.draw(st.booleans()) else bytes(good), D)
    except CodecError:
        return
    assert found.values.shape == (D,)
    assert 0 <= found.blinding < R


# --------------------------------------------------------------- descriptions

DESCRIPTION = Description(
    title="Heart disease – vier Krankenhäuser",
    model="mlp",
    summary="two\nlines",
    model_options={"features": 13, "rate": 0.5, "name": "x"},
    training=Training("adam", 0.01, 16, 3, 0.0),
)


def test_a_description_survives_its_file_which_is_canonical():
    data = encode_description(DESCRIPTION)
    assert decode_description(data) == DESCRIPTION
    assert encode_description(decode_description(data)) == data
    assert list(json.loads(data)) == sorted(json.loads(data))


def spoilt(**changes: object) -> bytes:
    document = json.loads(encode_description(DESCRIPTION))
    for key, value in changes.items():
        if key in document["training"]:
            document["training"][key] = value
        else:
            document[key] = value
    return json.dumps(document).encode()


def without(field: str) -> bytes:
    document = json.loads(encode_description(DESCRIPTION))
    del document[field]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "description is no JSON"),
        (b"[1]", "description is no JSON object"),
        (b'{"title": "a", "title": "b"}', "names a field twice"),
        (b" " * 65537, "a description of 65537 bytes; 65536 are possible"),
        (without("model"), "description has fields .*; expected"),
        (spoilt(more=1), "description has fields .*more.*; expected"),
        (spoilt(training={}), r"training has fields \[\]; expected"),
        (spoilt(title=5), "field 'title' cannot be 5"),
        (spoilt(model_options=[]), r"field 'model_options' cannot be \[\]"),
        (spoilt(model_options={"a": None}), "model option 'a' is neither a number nor a word"),
        (spoilt(model_options={"a": True}), "model option 'a' is neither a number nor a word"),
        (spoilt(model_options={"a": float("nan")}), "holds NaN"),
        (spoilt(epochs=True), "field 'epochs' cannot be True"),
        (spoilt(epochs=1.0), "field 'epochs' cannot be 1.0"),
        (spoilt(epochs=0), "0 epochs are not between 1 and 10000"),
        (spoilt(batch_size=0), "batch size 0 is not between"),
        (spoilt(batch_size=2**20 + 1), "batch size 1048577 is not between"),
        (spoilt(learning_rate=0), "learning rate 0 is not between"),
        (spoilt(learning_rate=1e9), "learning rate 1000000000.0 is not between"),
        (spoilt(learning_rate=float("inf")), "holds Infinity"),
        (spoilt(momentum=1.0), "momentum 1.0 is not from 0 to below 1"),
        (spoilt(optimizer="lbfgs"), "optimizer 'lbfgs' is not known"),
        (spoilt(title=""), "a title of 0 characters"),
        (spoilt(title="x" * 201), "a title of 201 characters"),
        (spoilt(title="\x1b[2Jgone"), "cannot be printed"),
        (spoilt(title="two\nlines"), "cannot be printed"),
        (spoilt(title="\ud800"), "cannot be printed"),
        (spoilt(summary="a\x07"), "cannot be printed"),
        (spoilt(model="a\x1b"), "cannot be printed"),
        (spoilt(model_options={"\x1b": 1}), "cannot be printed"),
        (spoilt(model_options={"a": "\x1b"}), "cannot be printed"),
    ],
)
def test_descriptions_that_are_not_exact_are_refused(data, message):
    with pytest.raises(CodecError, match=message):
        decode_description(data)


def test_limits_of_training_are_within_reach():
    assert decode_description(spoilt(epochs=10_000, batch_size=2**20, learning_rate=1000)) == (
        Description(**{**vars(DESCRIPTION), "training": Training("adam", 1000, 2**20, 10_000)})
    )
