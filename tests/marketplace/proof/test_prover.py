"""Show completeness: honest proofs of all shapes convince both verifiers and the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.errors import ProofError
from marketplace.proof.commitment import commit
from marketplace.proof.prover import prove
from marketplace.proof.shards import Shards
from marketplace.proof.srs import generate
from tests.marketplace.proof import reference
from tests.marketplace.proof.court import Court

limits = st.sampled_from([0, 1, -1, -(2**15), 2**15 - 1])
int16 = st.one_of(st.integers(-(2**15), 2**15 - 1), limits)
Matrix = npt.NDArray[np.int16]


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 40))
    row = st.one_of(
        st.lists(int16, min_size=d, max_size=d), st.builds(lambda value: [value] * d, limits)
    )
    rows = draw(st.lists(row, min_size=n, max_size=n))
    if draw(st.booleans()):
        rows[-1] = rows[0]
    return np.array(rows, dtype=np.int16)


def random_matrix(n: int, d: int, seed: int = 0) -> Matrix:
    drawn = np.random.default_rng(seed).integers(-(2**15), 2**15, (n, d))
    return drawn.astype(np.int16)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(matrix=matrices())
def test_true_matrices_are_proven(court: Court, matrix: Matrix) -> None:
    claim = court.claim(matrix)
    assert len(claim.proof) == 480
    assert court.verdicts([claim]) == [True]


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 2), (64, 3), (32, 100), (3, 1000)])
def test_numbers_of_trainers_and_coordinates_do_not_matter(court: Court, n: int, d: int) -> None:
    assert court.verdicts([court.claim(random_matrix(n, d))]) == [True]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(4, 9_999), (10, 61_706), (5, 99_999), (5, 100_000)])
def test_large_updates_are_proven(court: Court, tmp_path: Path, n: int, d: int) -> None:
    large = Court(generate(tmp_path / "large.srs", d + 8, b"large"), court.chain)
    edge = np.full((1, d), -(2**15), dtype=np.int16)
    assert large.verdicts([large.claim(np.concatenate([random_matrix(n - 1, d), edge]))]) == [True]


@pytest.mark.parametrize(
    "rows",
    [
        [[0]],
        [[5, 0, -7], [0, 0, 0], [5, 0, -7]],
        [[-(2**15), 2**15 - 1, 1], [-(2**15), 2**15 - 1, 2**15 - 1]],
    ],
)
def test_proof_is_the_references_byte_for_byte(court: Court, rows: list[list[int]]) -> None:
    n, d = len(rows), len(rows[0])
    blindings = [reference.R - 1 - i for i in range(n)]
    secrets = [reference.R - 1, 0, 1, 2**200, 17, 2, 3, 4, 5, 6]
    powers = [court.srs.raw(k, k + 1) for k in range(d + 8)]
    naive = reference.committer(powers)
    points = [naive(row, blinding) for row, blinding in zip(rows, blindings, strict=True)]
    gram = reference.inner_products(rows)
    witness = reference.Witness(
        [[*row, *[0] * 8] for row in rows], blindings, [0] * d + secrets[:8], *secrets[8:]
    )
    srs_id, context = court.srs.id, court.context()
    expected = reference.prove(naive, srs_id, context, points, gram, witness)

    updates = np.array(rows, dtype=np.int16)
    assert [commit(court.srs, u, b) for u, b in zip(updates, blindings, strict=True)] == points
    draws = iter(secrets)
    packed = reference.triangle(gram)
    proof = prove(
        court.srs, context, points, packed, updates, blindings, secret=lambda: next(draws)
    )
    assert proof == expected.proof
    header = court.srs.header
    string = (header.tau_g1, header.tau_g2, header.tau2_g2)
    assert reference.verify(*string, context, points, packed, proof)
    assert not reference.verify(*string, bytes(32), points, packed, proof)
    assert not reference.verify(*string, context, points, packed, proof[:-96] + points[0])


def test_identity_holds_coefficient_by_coefficient() -> None:
    # A(X)·A(1/X) = t + X·S(X) + S(1/X)/X, as Laurent polynomials
    a = [int(x) for x in np.random.default_rng(3).integers(-(2**40), 2**40, 12)]
    product: dict[int, int] = {}
    for i, x in enumerate(a):
        for j, y in enumerate(a):
            product[i - j] = (product.get(i - j, 0) + x * y) % reference.R
    assert product.pop(0) == sum(x * x for x in a)
    for j, value in enumerate(reference.shifted(a)):
        assert product.pop(j + 1) == product.pop(-j - 1) == value
    assert not product


def test_every_proof_draws_its_own_randomness(court: Court) -> None:
    matrix = random_matrix(2, 5)
    one, two = court.claim(matrix), court.claim(matrix)
    for start, stop in ((0, 96), (96, 128), (128, 224), (224, 256), (256, 288), (352, 384)):
        assert one.proof[start:stop] != two.proof[start:stop]


def test_workers_give_the_same_proof_and_report_progress(court: Court) -> None:
    matrix = random_matrix(3, 900)
    points = [commit(court.srs, u, 5) for u in matrix]
    gram = reference.triangle(reference.inner_products(matrix.tolist()))
    made = []
    for processes in (1, 2, 3):
        draws = iter(range(1000, 1010))
        seen: list[tuple[int, int]] = []
        with Shards(court.srs, processes) as shards:
            made.append(
                prove(
                    court.srs,
                    court.context(),
                    points,
                    gram,
                    matrix,
                    [5] * 3,
                    shards,
                    lambda draws=draws: next(draws),  # type: ignore[misc]
                    lambda done, total, seen=seen: seen.append((done, total)),  # type: ignore[misc]
                )
            )
        assert seen == sorted(seen)
        assert {total for _, total in seen} == {907 + 906}
        assert seen[-1] == (907 + 906, 907 + 906)
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("fault", ["gram", "blinding", "update", "point"])
def test_prover_refuses_what_is_not_true(court: Court, fault: str) -> None:
    matrix = random_matrix(3, 20)
    blindings = [5, 6, 7]
    points = [commit(court.srs, u, b) for u, b in zip(matrix, blindings, strict=True)]
    rows = reference.inner_products(matrix.tolist())
    match fault:
        case "gram":
            rows[0][1] += 1
        case "blinding":
            blindings[1] += 1
        case "update":
            matrix[2, 3] ^= 1
        case "point":
            points[0], points[1] = points[1], points[0]
    with pytest.raises(ProofError, match="not hold the inner products|is not proven"):
        prove(court.srs, court.context(), points, reference.triangle(rows), matrix, blindings)


def test_arguments_that_do_not_fit_are_refused(court: Court) -> None:
    matrix = random_matrix(2, 20)
    points = [commit(court.srs, u, 5) for u in matrix]
    gram = reference.triangle(reference.inner_products(matrix.tolist()))
    context = court.context()
    with pytest.raises(ProofError, match="1 points"):
        prove(court.srs, context, points[:1], gram, matrix, [5, 5])
    with pytest.raises(ProofError, match="1 blindings"):
        prove(court.srs, context, points, gram, matrix, [5])
    with pytest.raises(ProofError, match="shape"):
        prove(court.srs, context, points, gram, matrix[:, :0], [5, 5])
    with pytest.raises(ProofError, match="matrix of 16 bytes for 2"):
        prove(court.srs, context, points, gram[:-8], matrix, [5, 5])
    wide = random_matrix(2, court.srs.size - 7)
    with pytest.raises(ProofError, match="powers needed"):
        prove(court.srs, context, points, gram, wide, [5, 5])
