"""Check commitments against py_ecc, which adds up point by point."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, Scalar
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.optimized_bls12_381 import (
    FQ,
    Z1,
    add,
    curve_order,
    field_modulus,
    multiply,
    neg,
    normalize,
)

from marketplace.errors import ProofError
from marketplace.proof.commitment import (
    BLINDING_TAG,
    H,
    R,
    bad_openings,
    check_point,
    combine,
    commit,
    openings_hold,
    random_blinding,
)
from marketplace.proof.srs import Srs, generate

D = 9
IDENTITY = bytes(96)
# on the curve y^2 = x^3 + 4, of order 3
SMALL_ORDER = bytes(95) + b"\x02"
P = field_modulus


@pytest.fixture(scope="module")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "small.srs", D, b"commitment")


def read(data: bytes) -> tuple[FQ, FQ, FQ]:
    if data == IDENTITY:
        return Z1
    return FQ(int.from_bytes(data[:48])), FQ(int.from_bytes(data[48:])), FQ.one()


def write(point: tuple[FQ, FQ, FQ]) -> bytes:
    if point[2] == FQ.zero():
        return IDENTITY
    x, y = normalize(point)
    return int(x).to_bytes(48) + int(y).to_bytes(48)


def naive(srs: Srs, values: list[int], blinding: int) -> bytes:
    h = hash_to_G1(BLINDING_TAG, BLINDING_TAG, hashlib.sha256)
    total = multiply(h, blinding)
    for k, value in enumerate(values):
        term = multiply(read(srs.raw(k, k + 1)), abs(value))
        total = add(total, term if value >= 0 else neg(term))
    return write(total)


limits16 = st.sampled_from([0, 1, -1, -(2**15), 2**15 - 1])
int16 = st.one_of(st.integers(-(2**15), 2**15 - 1), limits16)
int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, -(2**63), 2**63 - 1]))
scalar = st.one_of(st.integers(0, R - 1), st.sampled_from([0, 1, R - 1]))


def test_group_order_and_blinding_point_are_those_of_another_library() -> None:
    assert R == curve_order
    assert write(hash_to_G1(BLINDING_TAG, BLINDING_TAG, hashlib.sha256)) == H.to_xy_bytes_be()


@settings(max_examples=20, deadline=None)
@given(values=st.lists(int16, min_size=1, max_size=D), blinding=scalar)
def test_update_commitment_is_the_naive_sum(srs: Srs, values: list[int], blinding: int) -> None:
    assert commit(srs, np.array(values, dtype=np.int16), blinding) == naive(srs, values, blinding)


@settings(max_examples=20, deadline=None)
@given(values=st.lists(int64, min_size=1, max_size=D), blinding=scalar)
def test_model_commitment_is_the_naive_sum(srs: Srs, values: list[int], blinding: int) -> None:
    assert commit(srs, np.array(values, dtype=np.int64), blinding) == naive(srs, values, blinding)


def test_zero_vector_without_blinding_is_the_identity(srs: Srs) -> None:
    assert commit(srs, np.zeros(D, dtype=np.int16), 0) == IDENTITY


@settings(max_examples=20, deadline=None)
@given(
    updates=st.lists(st.lists(int16, min_size=4, max_size=4), min_size=1, max_size=4),
    data=st.data(),
)
def test_models_commitment_follows_from_the_updates(
    srs: Srs, updates: list[list[int]], data: st.DataObject
) -> None:
    model = np.array(data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=4, max_size=4)))
    weights = [data.draw(st.integers(0, 1 << 16)) for _ in updates]
    blindings = [random_blinding() for _ in updates]
    points = [
        commit(srs, np.array(u, dtype=np.int16), b) for u, b in zip(updates, blindings, strict=True)
    ]
    following = model + np.array(weights) @ np.array(updates)
    implied = combine([commit(srs, model, 5), *points], [1, *weights])
    blinding = (5 + sum(w * b for w, b in zip(weights, blindings, strict=True))) % R
    assert implied == commit(srs, following, blinding)


def test_long_vectors_are_cut_into_chunks(srs: Srs, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([3, 0, -7, 32767, -32768, 0, 1, -1, 9], dtype=np.int16)
    blindings = [random_blinding()]
    whole = commit(srs, values, blindings[0])
    monkeypatch.setattr("marketplace.proof.commitment._CHUNK", 2)
    assert commit(srs, values, blindings[0]) == whole
    assert commit(srs, values.astype(np.int64), blindings[0]) == whole
    assert openings_hold(srs, [whole], values[None], blindings)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0, dtype=np.int16),
        np.zeros((2, 2), dtype=np.int16),
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.float64),
        np.zeros(D + 1, dtype=np.int16),
    ],
)
def test_values_of_wrong_shape_or_type_are_refused(srs: Srs, values: np.ndarray) -> None:
    with pytest.raises(ProofError):
        commit(srs, values, 1)


@pytest.mark.parametrize("blinding", [-1, R, R + 5, 1 << 256])
def test_blindings_outside_the_field_are_refused(srs: Srs, blinding: int) -> None:
    update = np.ones(D, dtype=np.int16)
    with pytest.raises(ProofError, match="blinding"):
        commit(srs, update, blinding)
    point = commit(srs, update, blinding % R)
    with pytest.raises(ProofError, match="blinding"):
        openings_hold(srs, [point], update[None], [blinding])
    assert bad_openings(srs, [point], update[None], [blinding]) == [0]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_batched_openings_hold_exactly_when_each_holds(srs: Srs, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 5))
    updates = np.array(
        data.draw(st.lists(st.lists(int16, min_size=D, max_size=D), min_size=n, max_size=n)),
        dtype=np.int16,
    )
    blindings = [random_blinding() for _ in range(n)]
    points = [commit(srs, u, b) for u, b in zip(updates, blindings, strict=True)]
    assert openings_hold(srs, points, updates, blindings)
    assert bad_openings(srs, points, updates, blindings) == []
    wrong = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    for i in wrong:
        match data.draw(st.sampled_from(["value", "blinding", "point"])):
            case "value":
                k = data.draw(st.integers(0, D - 1))
                updates[i, k] ^= np.int16(1 << data.draw(st.integers(0, 14)))
            case "blinding":
                blindings[i] = (blindings[i] + 1) % R
            case _:
                points[i] = combine([points[i]], [2])
    assert not openings_hold(srs, points, updates, blindings)
    assert bad_openings(srs, points, updates, blindings) == wrong


def test_errors_that_cancel_out_in_a_sum_are_found(srs: Srs) -> None:
    updates = np.array([[1] * D, [5] * D], dtype=np.int16)
    points = [commit(srs, u, 3) for u in updates]
    assert bad_openings(srs, points, updates + np.array([[1], [-1]], np.int16), [3, 3]) == [0, 1]
    assert bad_openings(srs, points, updates, [4, 2]) == [0, 1]


def test_lists_of_different_lengths_are_refused(srs: Srs) -> None:
    with pytest.raises(ProofError, match="1 points, 2 updates"):
        openings_hold(srs, [IDENTITY], np.zeros((2, D), np.int16), [1])
    with pytest.raises(ProofError, match="1 points and 2 weights"):
        combine([IDENTITY], [1, 2])
    assert openings_hold(srs, [], np.zeros((0, D), np.int16), [])


@pytest.mark.parametrize(
    "point",
    [
        b"",
        bytes(95),
        bytes(97),
        IDENTITY,
        SMALL_ORDER,
        bytes(95) + b"\x03",
        b"\xff" * 96,
        P.to_bytes(48) + (2).to_bytes(48),
        b"\x40" + bytes(95),
    ],
)
def test_bad_points_are_refused(srs: Srs, point: bytes) -> None:
    with pytest.raises(ProofError):
        check_point(point)
    if point != IDENTITY:
        with pytest.raises(ProofError):
            combine([point], [1])
    assert bad_openings(srs, [point], np.ones((1, D), np.int16), [1]) == [0]


def test_good_points_are_taken_in_one_encoding_only() -> None:
    good = (G1Point() * Scalar(7)).to_xy_bytes_be()
    assert check_point(good) == G1Point() * Scalar(7)
    x, y = int.from_bytes(good[:48]), int.from_bytes(good[48:])
    for flag in (1 << 383, 1 << 382, 1 << 381):
        with pytest.raises(ProofError):
            check_point((x | flag).to_bytes(48) + y.to_bytes(48))
    # y + p still fits 48 bytes
    with pytest.raises(ProofError):
        check_point(x.to_bytes(48) + (y + P).to_bytes(48))
    with pytest.raises(ProofError):
        check_point((x + P).to_bytes(48) + y.to_bytes(48))


def test_combine_takes_negative_weights_and_the_identity() -> None:
    seven = (G1Point() * Scalar(7)).to_xy_bytes_be()
    assert combine([seven, IDENTITY], [-1, 12]) == (-(G1Point() * Scalar(7))).to_xy_bytes_be()
    assert combine([seven, seven], [2, -2]) == IDENTITY
    assert combine([], []) == IDENTITY


def test_random_blindings_are_scalars_and_differ() -> None:
    drawn = {random_blinding() for _ in range(50)}
    assert len(drawn) == 50
    assert all(0 < b < R for b in drawn)


def test_reference_string_of_another_secret_gives_other_points(srs: Srs, tmp_path: Path) -> None:
    other = generate(tmp_path / "other.srs", D, b"other")
    values = np.arange(D, dtype=np.int16)
    assert commit(srs, values, 1) != commit(other, values, 1)
