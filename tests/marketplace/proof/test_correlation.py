"""Check the floating-point autocorrelation against sums of Python's integers."""

from operator import mul

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.errors import ProofError
from marketplace.proof import correlation
from marketplace.proof.correlation import autocorrelation
from marketplace.proof.field import R

scalar = st.one_of(
    st.integers(0, R - 1),
    st.sampled_from([0, 1, R - 1, R // 2, 2**254, int("5" * 63, 16), int("7" + "3" * 62, 16)]),
)


def packed(values: list[int]) -> bytes:
    return b"".join(v.to_bytes(32, "little") for v in values)


def naive(values: list[int]) -> bytes:
    lags = range(1, len(values))
    return packed(
        [sum(a * b for a, b in zip(values, values[lag:], strict=False)) % R for lag in lags]
    )


@settings(deadline=None)
@given(values=st.lists(scalar, min_size=1, max_size=40), threads=st.integers(1, 3))
def test_autocorrelation_is_the_naive_sum(values: list[int], threads: int) -> None:
    assert autocorrelation(packed(values), threads) == naive(values)


@settings(deadline=None, max_examples=60)
@given(values=st.lists(scalar, min_size=2, max_size=20), bits=st.integers(4, 15))
def test_every_width_of_digits_gives_the_same(values: list[int], bits: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "_digit_bits", lambda _: bits)
        assert autocorrelation(packed(values)) == naive(values)


def largest(bits: int) -> int:
    """Return a scalar whose digits are all as large as can be: the worst for rounding."""
    return sum(1 << (bits * i + bits - 1) for i in range(254 // bits))


@pytest.mark.parametrize("size", [2_000, 9_973])
def test_rounding_stays_far_from_ambiguity_in_the_worst_case(size: int) -> None:
    value = largest(correlation._digit_bits(size))
    products = [(size - 1 - j) * value * value % R for j in range(size - 1)]
    assert autocorrelation(packed([value] * size)) == packed(products)


def test_rounding_near_to_ambiguity_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "_digit_bits", lambda _: 15)
    monkeypatch.setattr(correlation, "_MAX_ERROR", 1e-6)
    with pytest.raises(ProofError, match="rounding errors reached"):
        autocorrelation(packed([largest(15)] * 1000))


def test_lengths_of_transforms_are_the_next_smooth_number() -> None:
    smooth = sorted(2**i * 3**j * 5**k for i in range(12) for j in range(8) for k in range(6))
    for size in range(1, 1500):
        assert correlation._smooth(size) == next(m for m in smooth if m >= size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [61_714, 500_009, 1_663_378])
def test_autocorrelation_of_long_vectors_agrees_at_random_places(size: int) -> None:
    rng = np.random.default_rng(size)
    raw = rng.integers(0, 256, (size, 32), dtype=np.uint8)
    raw[:, 31] &= 0x3F
    found = autocorrelation(raw.tobytes(), 2)
    values = [int.from_bytes(row.tobytes(), "little") for row in raw]
    for j in (0, 1, size // 2, size - 2, *map(int, rng.integers(0, size - 1, 3))):
        expected = sum(map(mul, values, values[j + 1 :])) % R
        assert int.from_bytes(found[32 * j : 32 * j + 32], "little") == expected
