"""Try to cheat: nothing below may convince either verifier, and they have to agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from py_ecc.optimized_bls12_381 import FQ, add, is_inf, is_on_curve, multiply

from marketplace.proof.commitment import commit
from marketplace.proof.prover import prove
from marketplace.proof.srs import generate
from tests.marketplace.proof import reference
from tests.marketplace.proof.court import ROUND, SRS_SEED, Claim, Court, Prover
from tests.marketplace.proof.reference import R, Sent, Tamper, Witness, scalar

SCALARS = {"v": 96, "a0": 224, "a1": 256, "s0": 288, "s1": 320, "beta": 352}
POINTS = {"M": 0, "S": 128, "W": 384}
P = reference.field_modulus
ORDER_3 = bytes(95) + b"\x02"
"""(0, 2), on the curve y² = x³ + 4."""


@pytest.fixture(scope="module")
def honest(court: Court) -> Claim:
    drawn = np.random.default_rng(5).integers(-(2**15), 2**15, (3, 50))
    claim = court.claim(drawn.astype(np.int16))
    assert court.verdicts([claim]) == [True]
    return claim


def refused(court: Court, *claims: Claim) -> bool:
    return not any(court.verdicts(claims))


# ------------------------------------------------------------ bytes in transit


def each_byte(claim: Claim, change: Callable[[int], list[int]]) -> list[Claim]:
    return [
        claim.altered(part, at, bytes([value]))
        for part in ("points", "gram", "proof")
        for at, old in enumerate(getattr(claim, part))
        for value in change(old)
    ]


def test_no_byte_can_be_changed(court: Court, honest: Claim) -> None:
    rng = np.random.default_rng(1)
    changed = each_byte(honest, lambda old: [old ^ int(rng.integers(1, 256))])
    assert len(changed) == 3 * 96 + 6 * 8 + 480
    assert refused(court, *changed)


@pytest.mark.slow
def test_no_bit_can_be_changed(court: Court, honest: Claim) -> None:
    assert refused(court, *each_byte(honest, lambda old: [old ^ 1 << bit for bit in range(8)]))


def test_nothing_can_be_cut_off_or_added(court: Court, honest: Claim) -> None:
    claims = []
    for part in ("points", "gram", "proof"):
        data = getattr(honest, part)
        for other in (
            b"",
            data[:-1],
            data[1:],
            data[:-8],
            data[:-32],
            data[:-96],
            data + b"\0",
            data + bytes(8),
            data + bytes(32),
            data + data[-96:],
            data + data,
        ):
            claims.append(replace(honest, **{part: other}))
    claims.append(Claim(b"", b"", honest.proof))
    assert refused(court, *claims)


def test_trainers_cannot_be_swapped(court: Court, honest: Claim) -> None:
    p, g = honest.points, honest.gram
    a, b, c = p[:96], p[96:192], p[192:]
    swapped_gram = g[24:32] + g[8:16] + g[32:40] + g[:8] + g[16:24] + g[40:]
    assert refused(
        court,
        replace(honest, points=b + a + c),
        replace(honest, points=a + c + b),
        replace(honest, points=a + a + c),
        replace(honest, gram=swapped_gram),
        # true, but this proof speaks of another order
        replace(honest, points=b + a + c, gram=swapped_gram),
    )


def test_proof_holds_for_one_round_project_contract_and_chain(court: Court, honest: Claim) -> None:
    assert refused(
        court,
        replace(honest, round=ROUND + 1),
        replace(honest, round=0),
        replace(honest, project=bytes(32)),
    )
    call = honest.call_data()
    stranger = "0x" + "77" * 20
    assert court.chain.verdicts(court.verifier, [call]) == [True]
    assert court.chain.verdicts(court.verifier, [call], stranger) == [False]


def test_proof_for_another_chain_or_contract_is_refused(court: Court) -> None:
    matrix = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
    points = [commit(court.srs, u, 9) for u in matrix]
    gram = reference.triangle(reference.inner_products(matrix.tolist()))
    marketplace = bytes.fromhex(court.chain.marketplace[2:])
    good = court.chain.chain_id, marketplace, bytes(range(32)), ROUND

    def claim(context: bytes) -> Claim:
        proof = prove(court.srs, context, points, gram, matrix, [9, 9])
        return Claim(b"".join(points), gram, proof)

    contexts = [
        reference.round_context(*good),
        reference.round_context(1, *good[1:]),
        reference.round_context(good[0], bytes(20), *good[2:]),
        bytes(32),
    ]
    assert court.verdicts([claim(context) for context in contexts]) == [True, False, False, False]


def test_proof_under_another_string_is_refused(court: Court, tmp_path: Path) -> None:
    other = Court(generate(tmp_path / "other.srs", 20, b"other"), court.chain)
    claim = other.claim(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16))
    assert other.verdicts([claim]) == [True]
    assert refused(court, claim)


# ------------------------------------------- provers who redo the transcript


def lie(prover: Prover) -> None:
    """Change one entry of G before anything is hashed."""
    prover.gram[0][1] += 1
    prover.gram[1][0] += 1


def solve(name: str) -> Tamper:
    """Choose s0 or s1 so that the norm's equation holds."""

    def tamper(stage: str, sent: Sent) -> None:
        if stage == "rests":
            x, s = sent.scalars, sent.s
            left = x["a0"] ** 2 + x["a1"] ** 2 + x["a0"] * x["a1"] * s - sent.claim
            if name == "s0":
                x["s0"] = (left - (s * s - 2) * x["s1"]) * pow(s, -1, R) % R
            else:
                x["s1"] = (left - s * x["s0"]) * pow(s * s - 2, -1, R) % R

    return tamper


def change(at: str, name: str, new: Callable[[int], int]) -> Tamper:
    def tamper(stage: str, sent: Sent) -> None:
        if stage == at:
            sent.scalars[name] = new(sent.scalars[name])

    return tamper


def put(at: str, name: str, new: Callable[[bytes], bytes]) -> Tamper:
    def tamper(stage: str, sent: Sent) -> None:
        if stage == at:
            sent.elements[name] = new(sent.elements[name])

    return tamper


@pytest.mark.parametrize("seed", range(3))
def test_this_prover_convinces_when_it_is_honest(court: Court, seed: int) -> None:
    assert court.verdicts([Prover(court, seed).claim()]) == [True]
    # a prover may choose its randomness badly: that harms secrecy only
    careless = Prover(court, seed)
    careless.witness.mask = [*careless.witness.mask[:6], *range(1, 9)]
    assert court.verdicts([careless.claim()]) == [True]


@pytest.mark.parametrize("seed", range(3))
def test_wrong_entry_cannot_be_proven_anew(court: Court, seed: int) -> None:
    claims = []
    for tamper in (lambda _stage, _sent: None, solve("s0"), solve("s1")):
        prover = Prover(court, seed)
        lie(prover)
        claims.append(prover.claim(tamper))
    assert refused(court, *claims)


@pytest.mark.parametrize("seed", range(3))
def test_wrong_entry_cannot_hide_behind_the_masks_norm(court: Court, seed: int) -> None:
    # v that would make up for the lie if the challenges stayed as they were
    prover = Prover(court, seed)
    seen: list[Sent] = []
    prover.claim(lambda _stage, sent: seen.append(sent))
    c, rhos = seen[0].c, seen[0].rhos
    making_up = 2 * rhos[0] * rhos[1] * pow(c * c, -1, R)
    lie(prover)
    assert refused(
        court,
        prover.claim(change("mask", "v", lambda v: (v - making_up) % R)),
        prover.claim(change("mask", "v", lambda v: (v - 1) % R)),
    )


@pytest.mark.parametrize("seed", range(3))
def test_mask_must_not_overlap_with_the_updates(court: Court, seed: int) -> None:
    overlapping = Prover(court, seed)
    overlapping.witness.mask[0] = 1
    inner = sum(
        m * row[0] for row, m in zip(overlapping.rows, overlapping.witness.mask, strict=False)
    )
    whole = Prover(court, seed)
    whole.witness.mask = [scalar(bytes([seed, i])) for i in range(whole.d + 8)]
    assert refused(
        court,
        overlapping.claim(),
        overlapping.claim(solve("s0")),
        overlapping.claim(solve("s1")),
        overlapping.claim(change("mask", "v", lambda v: (v + 2 * inner) % R)),
        whole.claim(),
        whole.claim(solve("s1")),
    )


@pytest.mark.parametrize("seed", range(2))
def test_false_steps_are_found(court: Court, seed: int) -> None:
    other = court.commit([1, 2, 3], 4)
    claims = []
    for name in SCALARS:
        at = {"v": "mask", "beta": "end"}.get(name, "rests")
        for new in (lambda x: (x + 1) % R, lambda x: -x % R, lambda _: 0, lambda _: R - 1):
            claims.append(Prover(court, seed).claim(change(at, name, new)))
    for name, at in (("M", "mask"), ("S", "shift"), ("W", "end")):
        for new in (lambda _: other, negative, lambda x: court_sum(x, other)):
            claims.append(Prover(court, seed).claim(put(at, name, new)))
    # both rests of S false, yet the norm's equation holds
    for first, then in (("s0", "s1"), ("s1", "s0"), ("a0", "s1"), ("a1", "s0")):
        claims.append(
            Prover(court, seed).claim(
                both(change("rests", first, lambda x: (x + 1) % R), solve(then))
            )
        )
    assert refused(court, *claims)


def both(*tampers: Tamper) -> Tamper:
    def tamper(stage: str, sent: Sent) -> None:
        for one in tampers:
            one(stage, sent)

    return tamper


def negative(point: bytes) -> bytes:
    return point[:48] + ((P - int.from_bytes(point[48:])) % P).to_bytes(48)


def court_sum(one: bytes, two: bytes) -> bytes:
    return reference.coordinates(add(reference.g1(one), reference.g1(two)))


# --------------------------------------------- scalars and points out of bounds


@pytest.mark.parametrize("seed", range(2))
def test_scalars_are_taken_in_one_encoding_only(court: Court, seed: int) -> None:
    # every equation still holds modulo r, and the transcript is made of what was sent
    claims = []
    for name in SCALARS:
        at = {"v": "mask", "beta": "end"}.get(name, "rests")
        claims.append(Prover(court, seed).claim(change(at, name, lambda x: x + R)))
    assert refused(court, *claims)


@pytest.mark.parametrize("name", SCALARS)
def test_scalars_from_r_on_are_refused(court: Court, honest: Claim, name: str) -> None:
    at = SCALARS[name]
    values = [R, R + 1, 2**255, 2**256 - 1]
    claims = [honest.altered("proof", at, value.to_bytes(32)) for value in values]
    assert refused(court, *claims)


def outside_the_subgroup() -> list[bytes]:
    """Return torsion: points T with T ≠ 0 of an order that divides the cofactor."""
    found = [ORDER_3]
    for x in range(1, 200):
        square = (x**3 + 4) % P
        y = pow(square, (P + 1) // 4, P)
        if y * y % P == square:
            point = multiply((FQ(x), FQ(y), FQ.one()), R)
            assert is_on_curve(point, reference.b)
            assert not is_inf(point)
            found.append(reference.coordinates(point))
        if len(found) == 4:
            break
    return found


def bad_points(good: bytes) -> list[bytes]:
    x, y = int.from_bytes(good[:48]), int.from_bytes(good[48:])
    torsion = outside_the_subgroup()
    return [
        bytes(96),
        *torsion,
        *(court_sum(good, point) for point in torsion),
        # off the curve
        x.to_bytes(48) + (y ^ 1).to_bytes(48),
        (x ^ 1).to_bytes(48) + y.to_bytes(48),
        bytes(95) + b"\x01",
        good[48:] + good[:48],
        x.to_bytes(48) + bytes(48),
        bytes(48) + y.to_bytes(48),
        # other spellings of the same coordinates
        (x + P).to_bytes(48) + y.to_bytes(48),
        x.to_bytes(48) + (y + P).to_bytes(48),
        P.to_bytes(48) + (2).to_bytes(48),
        *((x | 1 << bit).to_bytes(48) + y.to_bytes(48) for bit in (381, 382, 383)),
        *(x.to_bytes(48) + (y | 1 << bit).to_bytes(48) for bit in (381, 382, 383)),
        b"\xff" * 96,
    ]


def test_hostile_points_are_refused_wherever_they_stand(court: Court, honest: Claim) -> None:
    claims = [
        honest.altered("points", 96 * i, bad)
        for i in range(3)
        for bad in bad_points(honest.points[96 * i : 96 * i + 96])
    ]
    for at in POINTS.values():
        claims += [
            honest.altered("proof", at, bad) for bad in bad_points(honest.proof[at : at + 96])
        ]
    assert refused(court, *claims)


@pytest.mark.parametrize(("name", "at"), [("M", "mask"), ("S", "shift"), ("W", "end")])
def test_hostile_points_within_the_transcript_are_refused(court: Court, name: str, at: str) -> None:
    claims = []
    for torsion in outside_the_subgroup():
        for new in (lambda x, t=torsion: court_sum(x, t), lambda _, t=torsion: t):
            claims.append(Prover(court, 1).claim(put(at, name, new)))
    assert refused(court, *claims)


def test_identities_are_refused_even_where_all_equations_hold(court: Court) -> None:
    def prover(rows: list[list[int]], mask: list[int], blindings: tuple[int, int, int]) -> Prover:
        made = Prover(court, 0, 1, len(rows[0]))
        made.rows, made.gram = rows, reference.inner_products(rows)
        made.witness = Witness(
            [[*row, *[0] * 8] for row in rows], [blindings[0]], mask, *blindings[1:]
        )
        made.points = [court.commit(row, blindings[0]) for row in rows]
        return made

    zero = bytes(96)
    # the zero update without blinding
    claim = prover([[0, 0]], [0, 0, *range(1, 9)], (0, 1, 1)).claim()
    assert claim.points == zero
    assert refused(court, claim)
    # no mask and no blinding; S = 0 and W = 0 follow from an update of one coordinate
    claim = prover([[5, 0]], [0] * 10, (1, 0, 1)).claim()
    assert (claim.proof[:96], claim.proof[384:]) == (zero, zero)
    assert refused(court, claim)
    claim = prover([[5, 0]], [0] * 10, (1, 1, 0)).claim()
    assert (claim.proof[128:224], claim.proof[384:]) == (zero, zero)
    assert refused(court, claim)
    claim = prover([[5, 0]], [0] * 10, (1, 1, 1)).claim()
    assert claim.proof[384:] == zero
    assert refused(court, claim)


# ----------------------------------------------------------- where it ends


def test_who_knows_the_strings_secret_can_prove_anything(court: Court) -> None:
    # why a devnet's string is marked insecure, and why others need a ceremony
    digest = hashlib.sha512(b"TRIBUTE-DEVNET-TAU" + SRS_SEED).digest()
    tau = int.from_bytes(digest) % (R - 1) + 1
    prover = Prover(court, 4)
    lie(prover)
    opening: dict[str, int] = {}

    def forge(stage: str, sent: Sent) -> None:
        if stage == "rests":
            opening.update({k: sent.scalars[k] for k in ("s0", "s1")})
            solve("s1")("rests", sent)
        elif stage == "end":
            # W·(τ² - sτ + 1) has to make up for what the false rest leaves
            missing = sent.gamma * (opening["s1"] - sent.scalars["s1"]) * tau
            divisor = tau * tau - sent.s * tau + 1
            extra = court.commit([missing * pow(divisor, -1, R) % R], 0)
            sent.elements["W"] = court_sum(sent.elements["W"], extra)

    assert court.verdicts([prover.claim(forge)]) == [True]
