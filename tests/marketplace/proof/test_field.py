"""Check calculations on digits against Python's integers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.proof import field
from marketplace.proof.field import R, combine_rows, divide, fold, scalars, signed_rows

limits = st.sampled_from([0, 1, -1, -(2**15), 2**15 - 1])
int16 = st.one_of(st.integers(-(2**15), 2**15 - 1), limits)
scalar = st.one_of(st.integers(0, R - 1), st.sampled_from([0, 1, R - 1, R // 2, 2**254]))


def numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 32], "little") for at in range(0, len(data), 32)]


def packed(values: list[int]) -> bytes:
    return b"".join(v.to_bytes(32, "little") for v in values)


@st.composite
def rows(draw: st.DrawFn, most: int = 5) -> np.ndarray:
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 9))
    drawn = draw(st.lists(st.lists(int16, min_size=d, max_size=d), min_size=n, max_size=n))
    return np.array(drawn, dtype=np.int16)


def naive_sums(weights: list[int], matrix: np.ndarray) -> list[int]:
    return [sum(w * int(x) for w, x in zip(weights, column, strict=True)) for column in matrix.T]


@given(data=st.data(), matrix=rows())
def test_combined_rows_are_the_sums_modulo_r(data: st.DataObject, matrix: np.ndarray) -> None:
    weights = [data.draw(scalar) for _ in matrix]
    assert numbers(combine_rows(weights, matrix)) == [s % R for s in naive_sums(weights, matrix)]


def test_combined_rows_stay_exact_for_many_rows_at_the_limits() -> None:
    for value in (-(2**15), 2**15 - 1):
        matrix = np.full((3000, 2), value, dtype=np.int16)
        assert numbers(combine_rows([R - 1] * 3000, matrix)) == [(R - 1) * value * 3000 % R] * 2


@given(data=st.data(), matrix=rows())
def test_signed_rows_are_sign_and_size_of_the_sums(data: st.DataObject, matrix: np.ndarray) -> None:
    weight = st.one_of(st.integers(0, 2**192 - 1), st.sampled_from([0, 2**192 - 1, 2**64]))
    weights = [data.draw(weight) for _ in matrix]
    negative, sizes = signed_rows(weights, matrix)
    found = [-s if minus else s for minus, s in zip(negative, numbers(sizes), strict=True)]
    assert found == naive_sums(weights, matrix)


@given(
    bits=st.integers(4, 15),
    data=st.data(),
    count=st.integers(1, 134),
    d=st.integers(1, 4),
)
def test_folded_digits_are_the_sums_modulo_r(
    bits: int, data: st.DataObject, count: int, d: int
) -> None:
    digit = st.one_of(st.integers(0, 2**16 - 1), st.sampled_from([0, 2**16 - 1]))
    digits = data.draw(
        st.lists(st.lists(digit, min_size=d, max_size=d), min_size=count, max_size=count)
    )
    expected = [sum(row[j] << (bits * k) for k, row in enumerate(digits)) % R for j in range(d)]
    assert numbers(fold(np.array(digits, dtype=np.float64), bits)) == expected


@given(multiple=st.integers(0, 2**40 - 1), rest=scalar)
def test_reduction_is_exact_next_to_every_multiple_of_r(multiple: int, rest: int) -> None:
    values = [multiple * R, multiple * R + rest, multiple * R + R - 1]
    digits = [[v >> (16 * k) & 0xFFFF for v in values] for k in range(16)]
    top = [v >> 256 for v in values]
    reduced = field._reduce(np.array([*digits, top], dtype=np.int64))
    assert numbers(reduced) == [0, rest, R - 1]


@given(values=st.lists(scalar, min_size=2, max_size=12), s=scalar)
def test_division_leaves_the_rest_of_long_division(values: list[int], s: int) -> None:
    left = list(values)
    quotient = [0] * (len(values) - 2)
    for k in range(len(values) - 3, -1, -1):
        # take quotient[k]·X^k·(X² - sX + 1) away
        quotient[k] = left[k + 2]
        left[k + 2] = 0
        left[k + 1] = (left[k + 1] + s * quotient[k]) % R
        left[k] = (left[k] - quotient[k]) % R
    found, constant, linear = divide(packed(values), s)
    assert [int(q) for q in reversed(found)] == quotient
    assert [constant, linear] == left[:2]


@settings(max_examples=20)
@given(values=st.lists(scalar, max_size=5))
def test_scalars_are_read_little_endian(values: list[int]) -> None:
    assert [int(s) for s in scalars(packed(values))] == values


def test_blocks_join_without_seams(monkeypatch: object) -> None:
    matrix = np.random.default_rng(1).integers(-(2**15), 2**15, (3, 50)).astype(np.int16)
    weights = [R - 1, 5, 2**191]
    small = [2**192 - 1, 3, 0]
    whole = combine_rows(weights, matrix), signed_rows(small, matrix)
    monkeypatch.setattr(field, "_BLOCK", 7)  # type: ignore[attr-defined]
    assert combine_rows(weights, matrix) == whole[0]
    assert signed_rows(small, matrix)[1] == whole[1][1]
    assert (signed_rows(small, matrix)[0] == whole[1][0]).all()
