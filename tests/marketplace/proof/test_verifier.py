"""Compare the two verifiers on random damage, and find out where their statement ends."""

from __future__ import annotations

import numpy as np
import pytest
from py_arkworks_bls12381 import G1Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof.commitment import bad_openings
from marketplace.proof.verifier import claimed_norm, norm_holds, verify
from tests.marketplace.proof import reference
from tests.marketplace.proof.court import Claim, Court, Prover
from tests.marketplace.proof.reference import R

Rng = np.random.Generator
SCALARS = (96, 224, 256, 288, 320, 352)
POINTS = (0, 128, 384)


def damage(rng: Rng, claims: list[Claim]) -> Claim:
    """Return one of the claims, now and then whole, else with one to three faults."""
    claim = claims[rng.integers(len(claims))]
    for _ in range(rng.integers(0, 4)):
        other = claims[rng.integers(len(claims))]
        part = str(rng.choice(["points", "gram", "proof", "proof"]))
        data, size = getattr(claim, part), len(getattr(claim, part))
        match rng.integers(9):
            case 0:
                at = int(rng.integers(size))
                claim = claim.altered(part, at, bytes([data[at] ^ 1 << rng.integers(8)]))
            case 1:
                at = int(rng.integers(size))
                claim = claim.altered(part, at, rng.bytes(int(rng.integers(1, 65)))[: size - at])
            case 2:
                claim = claim.altered("proof", int(rng.choice(SCALARS)), some_scalar(rng))
            case 3:
                at = 96 * int(rng.integers(len(claim.points) // 96))
                claim = claim.altered("points", at, some_point(rng))
            case 4:
                claim = claim.altered("proof", int(rng.choice(POINTS)), some_point(rng))
            case 5:
                at = 8 * int(rng.integers(len(claim.gram) // 8))
                entry = int(rng.choice([0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)]))
                claim = claim.altered("gram", at, entry.to_bytes(8, signed=True))
            case 6:
                start, stop = sorted(rng.choice([0, 96, 128, 224, 256, 288, 320, 352, 384, 480], 2))
                claim = claim.altered("proof", int(start), other.proof[start:stop])
            case 7:
                cut = int(rng.integers(1, 97))
                changed = [data[:-cut], data + rng.bytes(cut), data[cut:]][rng.integers(3)]
                return Claim(**{**vars(claim), part: changed})
            case _:
                claim = Claim(**{**vars(claim), "round": int(rng.integers(2**32))})
    return claim


def some_scalar(rng: Rng) -> bytes:
    edge = [0, 1, R - 1, R, R + 1, 2**255, 2**256 - 1][rng.integers(7)]
    return edge.to_bytes(32) if rng.integers(2) else rng.bytes(32)


def some_point(rng: Rng) -> bytes:
    match rng.integers(4):
        case 0:
            return bytes(96)
        case 1:
            return rng.bytes(96)
        case 2:
            return bytes(95) + bytes([rng.integers(4)])
        case _:
            return (G1Point() * Scalar(int(rng.integers(1, 2**63)))).to_xy_bytes_be()


def compare(court: Court, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    claims = [
        court.claim(rng.integers(-(2**15), 2**15, (n, 20)).astype(np.int16)) for n in (1, 2, 2, 4)
    ]
    damaged = [damage(rng, claims) for _ in range(count)]
    verdicts = court.verdicts(damaged)
    assert verdicts == [claim in claims for claim in damaged]
    # both outcomes were met often
    assert count // 10 < sum(verdicts) < count // 2


def test_verifiers_agree_on_random_damage(court: Court) -> None:
    compare(court, 3_000, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_verifiers_agree_on_much_random_damage(court: Court, seed: int) -> None:
    compare(court, 10_000, seed)


def test_verifiers_agree_on_random_rounds(court: Court) -> None:
    rng = np.random.default_rng(8)
    claims = []
    for _ in range(20):
        prover = Prover(court, int(rng.integers(2**32)), int(rng.integers(1, 6)))
        project, round_ = rng.bytes(32), int(rng.integers(2**32))
        prover.context = court.context(project, round_)
        claims.append(Claim(**{**vars(prover.claim()), "project": project, "round": round_}))
    assert court.verdicts(claims) == [True] * 20


# ------------------------------------------------- numbers at the limits


def imaginary() -> int:
    """Return i with i² = -1 modulo r."""
    root = next(root for a in range(2, 50) if (root := pow(a, (R - 1) // 4, R)) * root % R == R - 1)
    return int(root)


def of_norm(value: int, scale: int = 2**200) -> list[int]:
    """Return two enormous field elements whose squares add up to `value`."""
    other, half = value * pow(scale, -1, R), pow(2, -1, R)
    return [(scale + other) * half % R, imaginary() * (scale - other) * half % R]


def field_prover(court: Court, rows: list[list[int]], gram: list[list[int]]) -> Prover:
    """Return a prover whose updates are whatever the field holds."""
    prover = Prover(court, 0, len(rows), len(rows[0]))
    prover.witness.updates = [[*row, *[0] * 8] for row in rows]
    prover.points = [
        court.commit(row, blinding)
        for row, blinding in zip(rows, prover.witness.blindings, strict=True)
    ]
    prover.gram = gram
    return prover


@pytest.mark.parametrize("product", [-(2**63), -(2**62), -1, 0, 1, 2**62, 2**63 - 1])
@pytest.mark.parametrize("norm", [-(2**63), -(2**62), -1, 0, 2**63 - 1])
def test_entries_are_signed_numbers_of_64_bits(court: Court, product: int, norm: int) -> None:
    rows = [[1, 0, 0], [product % R, *of_norm(norm - product * product)]]
    true = [[1, product], [product, norm]]
    assert court.verdicts([field_prover(court, rows, true).claim()]) == [True]
    for wrong in (product + 1, -product, product ^ 2**62, product ^ (1 << 63)):
        if wrong != product and -(2**63) <= wrong < 2**63:
            false = [[1, wrong], [wrong, norm]]
            assert court.verdicts([field_prover(court, rows, false).claim()]) == [False]


def test_numbers_beyond_16_bits_are_left_to_who_fetches_the_update(court: Court) -> None:
    # enormous coordinates of small norm, where an honest update is zero
    hostile = [0, *of_norm(5)]
    assert all(2**64 < x < R - 2**64 for x in hostile[1:])
    prover = field_prover(court, [[3, 0, 0], hostile], [[9, 0], [0, 5]])
    claim = prover.claim()
    assert court.verdicts([claim]) == [True]
    points = [claim.points[:96], claim.points[96:]]
    as_int16 = np.array([[3, 0, 0], [x & 0x7FFF for x in hostile]], dtype=np.int16)
    assert bad_openings(court.srs, points, as_int16, prover.witness.blindings) == [1]


def test_degrees_beyond_the_model_count_as_coordinates(court: Court) -> None:
    # a coordinate at degree d + 8 is one more number of the update, to the proof
    prover = Prover(court, 3, 2, 4)
    for update in prover.witness.updates:
        update.append(7)
    prover.witness.mask.append(0)
    prover.points = [
        court.commit(update, blinding)
        for update, blinding in zip(prover.witness.updates, prover.witness.blindings, strict=True)
    ]
    assert court.verdicts([prover.claim()]) == [False]
    prover.gram = [[x + 49 for x in row] for row in prover.gram]
    claim = prover.claim()
    assert court.verdicts([claim]) == [True]
    points = [claim.points[:96], claim.points[96:]]
    updates = np.array(prover.rows, dtype=np.int16)
    assert bad_openings(court.srs, points, updates, prover.witness.blindings) == [0, 1]


# -------------------------------------------------------- pieces by themselves


def test_claimed_norm_is_the_quadratic_form() -> None:
    gram = [[4, -3, 2**62], [-3, 9, -(2**63)], [2**62, -(2**63), 2**63 - 1]]
    rhos, c, v = [3, R - 2, 10**70], 5, 11
    form = sum(rhos[i] * rhos[j] * gram[i][j] for i in range(3) for j in range(3))
    assert claimed_norm(rhos, c, reference.triangle(gram), v) == (form + 25 * 11) % R


def test_norms_equation_is_the_identity_at_both_roots() -> None:
    # s = z + 1/z: the roots of X² - sX + 1 are z and 1/z
    rng = np.random.default_rng(4)
    a = [int(x) for x in rng.integers(0, 2**62, 7)]
    shift = reference.shifted(a)
    z = 1234567
    w = pow(z, -1, R)
    s = (z + w) % R
    a0, a1 = reference.rest(a, s)
    s0, s1 = reference.rest(shift, s)

    def at(poly: list[int], x: int) -> int:
        return sum(value * pow(x, k, R) for k, value in enumerate(poly)) % R

    assert at(a, z) == (a0 + a1 * z) % R
    assert at(shift, w) == (s0 + s1 * w) % R
    t = sum(x * x for x in a)
    assert (at(a, z) * at(a, w) - t - z * at(shift, z) - w * at(shift, w)) % R == 0
    assert norm_holds(s, t, a0, a1, s0, s1)
    for i in range(6):
        wrong = [s, t, a0, a1, s0, s1]
        wrong[i] += 1
        assert not norm_holds(*wrong)


def test_refusals_say_what_is_wrong(court: Court) -> None:
    claim = Prover(court, 1, 2).claim()
    points = [claim.points[:96], claim.points[96:]]
    header, context = court.srs.header, court.context()
    for at, message in (
        (0, "not a point of the subgroup"),
        (96, "norm's equation"),
        (224, "norm's equation"),
        (352, "the opening"),
    ):
        broken = bytearray(claim.proof)
        broken[at + 31] ^= 1
        with pytest.raises(ProofError, match=message):
            verify(header, context, points, claim.gram, bytes(broken))
    with pytest.raises(ProofError, match="480 bytes, not 479"):
        verify(header, context, points, claim.gram, claim.proof[1:])
    with pytest.raises(ProofError, match="not below r"):
        verify(header, context, points, claim.gram, claim.proof[:96] + b"\xff" * 384)
    with pytest.raises(ProofError, match="matrix of 24 bytes for 1"):
        verify(header, context, points[:1], claim.gram, claim.proof)
