"""Prove and verify by the letter of docs/gram-proof.md, number by number, for small dimensions.

Nothing of `marketplace` is used: polynomials are lists of integers, the curve is py_ecc's. A prover
may be told to cheat: `tamper` is called before each hash and may change what has been sent so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_utils.crypto import keccak
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.optimized_bls12_381 import (
    FQ,
    FQ2,
    FQ12,
    G1,
    G2,
    Z1,
    add,
    b,
    curve_order,
    field_modulus,
    final_exponentiate,
    is_inf,
    is_on_curve,
    multiply,
    neg,
    normalize,
    pairing,
)

R = curve_order
TAG = b"TRIBUTE-GRAM-V1".ljust(32, b"\0")
BLINDING_TAG = b"TRIBUTE-KZG-BLINDING-V1"
H = hash_to_G1(BLINDING_TAG, BLINDING_TAG, hashlib.sha256)

Poly = list[int]
Commit = Callable[[Sequence[int], int], bytes]


# ------------------------------------------------------------------ polynomials


def rest(poly: Sequence[int], s: int) -> tuple[int, int]:
    """Return (c0, c1) with poly = c0 + c1·X modulo X² - sX + 1, power by power."""
    c0 = c1 = 0
    low, high = 1, 0  # X^k = low + high·X
    for value in poly:
        c0, c1 = (c0 + value * low) % R, (c1 + value * high) % R
        low, high = -high % R, (low + s * high) % R
    return c0, c1


def quotient(poly: Sequence[int], s: int) -> Poly:
    """Divide by X² - sX + 1; nothing may be left."""
    left = [x % R for x in poly]
    out = [0] * max(0, len(left) - 2)
    for k in reversed(range(len(out))):
        out[k] = left[k + 2]
        for j, factor in enumerate((1, -s, 1)):
            left[k + j] = (left[k + j] - factor * out[k]) % R
    assert not any(left)
    return out


def shifted(poly: Sequence[int]) -> Poly:
    """Return S with poly(X)·poly(1/X) = <poly, poly> + X·S(X) + S(1/X)/X."""
    size = len(poly)
    return [
        sum(poly[k] * poly[k + 1 + j] for k in range(size - 1 - j)) % R for j in range(size - 1)
    ]


# ----------------------------------------------------------------------- group


def g1(data: bytes) -> tuple[FQ, FQ, FQ]:
    if data == bytes(96):
        return Z1
    return FQ(int.from_bytes(data[:48])), FQ(int.from_bytes(data[48:])), FQ.one()


def g2(data: bytes) -> tuple[FQ2, FQ2, FQ2]:
    x0, x1, y0, y1 = (int.from_bytes(data[at : at + 48]) for at in (0, 48, 96, 144))
    return FQ2([x0, x1]), FQ2([y0, y1]), FQ2.one()


def coordinates(point: tuple[Any, Any, Any]) -> bytes:
    """Return a point of either group as bytes; zeros for the identity of G1."""
    if is_inf(point):
        return bytes(96)
    x, y = normalize(point)
    numbers = [int(x), int(y)] if isinstance(x, FQ) else [*map(int, (*x.coeffs, *y.coeffs))]
    return b"".join(number.to_bytes(48) for number in numbers)


def committer(powers: Sequence[bytes]) -> Commit:
    """Return the function that sums powers[k]·coefficients[k] and blinding·H, one by one."""

    def commit(coefficients: Sequence[int], blinding: int) -> bytes:
        total = multiply(H, blinding % R)
        for coefficient, power in zip(coefficients, powers, strict=False):
            total = add(total, multiply(g1(power), coefficient % R))
        return coordinates(total)

    return commit


# ------------------------------------------------------------------ transcript


def word(value: int) -> bytes:
    return value.to_bytes(32)


def scalar(digest: bytes) -> int:
    return int.from_bytes(digest) % R


def triangle(gram: Sequence[Sequence[int]]) -> bytes:
    return b"".join(x.to_bytes(8, signed=True) for i, row in enumerate(gram) for x in row[i:])


def inner_products(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]


def round_context(chain_id: int, marketplace: bytes, project: bytes, round_: int) -> bytes:
    return keccak(word(chain_id) + bytes(12) + marketplace + project + word(round_))


# ----------------------------------------------------------------------- prover


@dataclass
class Witness:
    """Hold what a prover knows; `mask` and `updates` are whole polynomials."""

    updates: list[Poly]
    blindings: list[int]
    mask: Poly
    mask_blinding: int
    shift_blinding: int


@dataclass
class Sent:
    """Hold a proof while it grows, and the numbers that verifier and prover derive from it."""

    points: list[bytes]
    gram: list[list[int]]
    elements: dict[str, bytes] = field(default_factory=dict)
    scalars: dict[str, int] = field(default_factory=dict)
    states: list[bytes] = field(default_factory=list)
    rhos: list[int] = field(default_factory=list)
    c: int = 0
    s: int = 0
    gamma: int = 0

    def packed(self, *names: str) -> bytes:
        return b"".join(
            self.elements[name] if name in self.elements else word(self.scalars[name])
            for name in names
        )

    @property
    def proof(self) -> bytes:
        return self.packed("M", "v", "S", "a0", "a1", "s0", "s1", "beta", "W")

    @property
    def claim(self) -> int:
        """Return t."""
        pairs = zip(self.rhos, self.gram, strict=True)
        total = sum(p * q * x for p, row in pairs for q, x in zip(self.rhos, row, strict=True))
        return (total + self.c * self.c * self.scalars["v"]) % R


Tamper = Callable[[str, Sent], None]


def prove(
    commit: Commit,
    srs_id: bytes,
    context: bytes,
    points: Sequence[bytes],
    gram: Sequence[Sequence[int]],
    witness: Witness,
    tamper: Tamper = lambda _stage, _sent: None,
) -> Sent:
    """Follow the protocol; stages for `tamper` are mask, shift, rests and end."""
    sent = Sent(list(points), [list(row) for row in gram])
    sent.elements["M"] = commit(witness.mask, witness.mask_blinding)
    sent.scalars["v"] = sum(m * m for m in witness.mask) % R
    tamper("mask", sent)
    n = len(points)
    sent.states.append(
        keccak(
            TAG
            + srs_id
            + context
            + word(n)
            + b"".join(sent.points)
            + triangle(sent.gram)
            + sent.packed("M", "v")
        )
    )
    sent.c, *sent.rhos = (scalar(keccak(sent.states[0] + word(i))) for i in range(n + 1))

    a = [sent.c * m for m in witness.mask]
    for rho, update in zip(sent.rhos, witness.updates, strict=True):
        for k, value in enumerate(update):
            a[k] += rho * value
    a = [x % R for x in a]
    shift = shifted(a)
    sent.elements["S"] = commit(shift, witness.shift_blinding)
    tamper("shift", sent)
    sent.states.append(keccak(sent.states[0] + sent.elements["S"]))
    sent.s = scalar(sent.states[1])

    sent.scalars["a0"], sent.scalars["a1"] = rest(a, sent.s)
    sent.scalars["s0"], sent.scalars["s1"] = rest(shift, sent.s)
    opened = [sent.scalars[name] for name in ("a0", "a1", "s0", "s1")]
    tamper("rests", sent)
    sent.states.append(keccak(sent.states[1] + sent.packed("a0", "a1", "s0", "s1")))
    sent.gamma = scalar(sent.states[2])

    blinding = sum(rho * x for rho, x in zip(sent.rhos, witness.blindings, strict=True))
    blinding += sent.c * witness.mask_blinding + sent.gamma * witness.shift_blinding
    sent.scalars["beta"] = blinding % R
    f = [x + sent.gamma * y for x, y in zip(a, [*shift, 0], strict=True)]
    f[0] -= opened[0] + sent.gamma * opened[2]
    f[1] -= opened[1] + sent.gamma * opened[3]
    sent.elements["W"] = commit(quotient(f, sent.s), 0)
    tamper("end", sent)
    return sent


# --------------------------------------------------------------------- verifier


def is_good_point(data: bytes) -> bool:
    x, y = int.from_bytes(data[:48]), int.from_bytes(data[48:])
    if len(data) != 96 or data == bytes(96) or x >= field_modulus or y >= field_modulus:
        return False
    return is_on_curve(g1(data), b) and is_inf(multiply(g1(data), R))


def verify(
    tau_g1: bytes,
    tau_g2: bytes,
    tau2_g2: bytes,
    context: bytes,
    points: Sequence[bytes],
    gram: bytes,
    proof: bytes,
) -> bool:
    """Decide by two pairings; takes seconds."""
    n = len(points)
    if not n or len(gram) != 4 * n * (n + 1) or len(proof) != 480:
        return False
    cuts = [0, 96, 128, 224, 256, 288, 320, 352, 384, 480]
    parts = [proof[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False)]
    m, shift, w = parts[0], parts[2], parts[8]
    v, a0, a1, s0, s1, beta = (int.from_bytes(part) for part in (parts[1], *parts[3:8]))
    if not all(is_good_point(point) for point in (*points, m, shift, w)):
        return False
    if any(number >= R for number in (v, a0, a1, s0, s1, beta)):
        return False
    srs_id = keccak(tau_g1 + tau_g2 + tau2_g2)
    state = keccak(TAG + srs_id + context + word(n) + b"".join(points) + gram + m + word(v))
    c, *rhos = (scalar(keccak(state + word(i))) for i in range(n + 1))
    t, at = c * c * v, 0
    for i in range(n):
        for j in range(i, n):
            entry = int.from_bytes(gram[at : at + 8], signed=True)
            t += (1 if i == j else 2) * rhos[i] * rhos[j] * entry
            at += 8
    state = keccak(state + shift)
    s = scalar(state)
    gamma = scalar(keccak(state + word(a0) + word(a1) + word(s0) + word(s1)))
    if (a0 * a0 + a1 * a1 + a0 * a1 * s - t - s * s0 - (s * s - 2) * s1) % R:
        return False
    total = multiply(H, -beta % R)
    for point, factor in (
        *zip(points, rhos, strict=True),
        (m, c),
        (shift, gamma),
        (coordinates(G1), -a0 - gamma * s0),
        (tau_g1, -a1 - gamma * s1),
    ):
        total = add(total, multiply(g1(point), factor % R))
    divisor = add(add(g2(tau2_g2), G2), neg(multiply(g2(tau_g2), s)))
    left = pairing(G2, total, final_exponentiate=False)
    right = pairing(divisor, neg(g1(w)), final_exponentiate=False)
    return bool(final_exponentiate(left * right) == FQ12.one())
