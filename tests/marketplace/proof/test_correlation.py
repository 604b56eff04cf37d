"""Check the floating-point autocorrelation against sums of Python's integers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
