"""Write tests/vectors/gram_proof.json: `python -m tests.marketplace.proof.make_vectors`.

Made by the reference prover alone, without randomness. docs/gram-proof.md describes the fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak
from py_ecc.optimized_bls12_381 import G1, G2, add, multiply

from tests.marketplace.proof import reference
from tests.marketplace.proof.reference import R, Sent, Tamper, Witness, coordinates, scalar, word

FILE = Path(__file__).resolve().parents[2] / "vectors" / "gram_proof.json"

CHAIN_ID = 31337
MARKETPLACE = bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3")
PROJECT = keccak(b"a project")
ROUND = 3
TAU = scalar(keccak(b"the vectors' tau"))
SIZE = 20
ORDER_3 = bytes(95) + b"\x02"

UPDATES = {
    "one coordinate, zero": [[0]],
    "limits, equal and zero updates": [
        [-32768, 32767, 1, 0, -1],
        [32767, 32767, -32768, 5, 9],
        [0, 0, 0, 0, 0],
        [-32768, 32767, 1, 0, -1],
    ],
    "eight trainers": [
        [(i * 7919 + k * 104729) % 65536 - 32768 for k in range(12)] for i in range(8)
    ],
}


def draw(*name: object) -> int:
    """Return a scalar that follows from a name."""
    return scalar(keccak(" ".join(map(str, name)).encode()))


def text(value: int | bytes) -> str:
    return "0x" + (word(value) if isinstance(value, int) else value).hex()


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")


def vectors() -> dict[str, Any]:
    """Return all vectors."""
    powers = [coordinates(multiply(G1, pow(TAU, k, R))) for k in range(SIZE)]
    tau_g2, tau2_g2 = (coordinates(multiply(G2, pow(TAU, k, R))) for k in (1, 2))
    maker = Maker(powers, keccak(powers[1] + tau_g2 + tau2_g2))
    return {
        "curve": {
            "r": text(R),
            "tag": text(reference.TAG),
            "blindingTag": reference.BLINDING_TAG.decode(),
            "H": text(coordinates(reference.H)),
        },
        "referenceString": {
            "tau": text(TAU),
            "srsId": text(maker.srs_id),
            "tauG1": text(powers[1]),
            "tauG2": text(tau_g2),
            "tau2G2": text(tau2_g2),
            "powers": [text(power) for power in powers],
        },
        "round": {
            "chainId": CHAIN_ID,
            "marketplace": text(MARKETPLACE),
            "project": text(PROJECT),
            "round": ROUND,
            "context": text(maker.context),
        },
        "accepted": [maker.accepted(name, updates) for name, updates in UPDATES.items()],
        "refused": maker.refused(),
    }


class Maker:
    """Prove under one reference string for one round."""

    def __init__(self, powers: list[bytes], srs_id: bytes) -> None:
        self.srs_id = srs_id
        self.commit = reference.committer(powers)
        self.context = reference.round_context(CHAIN_ID, MARKETPLACE, PROJECT, ROUND)

    def prove(
        self,
        updates: list[list[int]],
        witness: Witness,
        gram: list[list[int]],
        tamper: Tamper = lambda _stage, _sent: None,
    ) -> Sent:
        points = [
            self.commit(update, blinding)
            for update, blinding in zip(updates, witness.blindings, strict=True)
        ]
        return reference.prove(
            self.commit, self.srs_id, self.context, points, gram, witness, tamper
        )

    def witness(self, name: str, updates: list[list[int]]) -> Witness:
        return Witness(
            [[*update, *[0] * 8] for update in updates],
            [draw(name, "blinding", i) for i in range(len(updates))],
            [0] * len(updates[0]) + [draw(name, "mask", k) for k in range(8)],
            draw(name, "mask blinding"),
            draw(name, "shift blinding"),
        )

    def accepted(self, name: str, updates: list[list[int]]) -> dict[str, Any]:
        witness = self.witness(name, updates)
        gram = reference.inner_products(updates)
        sent = self.prove(updates, witness, gram)
        return {
            "name": name,
            "updates": updates,
            "blindings": [text(x) for x in witness.blindings],
            "mask": [text(x) for x in witness.mask[-8:]],
            "maskBlinding": text(witness.mask_blinding),
            "shiftBlinding": text(witness.shift_blinding),
            "matrix": gram,
            **self.claim(sent),
            "states": [text(state) for state in sent.states],
            "c": text(sent.c),
            "rho": [text(rho) for rho in sent.rhos],
            "t": text(sent.claim),
            "s": text(sent.s),
            "gamma": text(sent.gamma),
        }

    def claim(self, sent: Sent) -> dict[str, Any]:
        return {
            "points": [text(point) for point in sent.points],
            "gram": text(reference.triangle(sent.gram)),
            "proof": text(sent.proof),
        }

    def refused(self) -> list[dict[str, Any]]:
        """Return claims that are false, or badly written; every one with its own transcript."""
        updates = UPDATES["limits, equal and zero updates"]
        found = []

        def add_case(
            why: str,
            stage: str = "",
            change: Any = None,
            mask_overlaps: bool = False,
            lie: int = 0,
        ) -> None:
            witness = self.witness(why, updates)
            if mask_overlaps:
                witness.mask[0] = 1
            gram = reference.inner_products(updates)
            gram[0][1] += lie
            gram[1][0] += lie

            def tamper(at: str, sent: Sent) -> None:
                if at == stage:
                    change(sent)

            sent = self.prove(updates, witness, gram, tamper)
            found.append({"why": why, **self.claim(sent)})

        def solve(sent: Sent) -> None:
            x, s = sent.scalars, sent.s
            left = x["a0"] ** 2 + x["a1"] ** 2 + x["a0"] * x["a1"] * s - sent.claim - s * x["s0"]
            x["s1"] = left * pow(s * s - 2, -1, R) % R

        def scalar_plus_r(name: str) -> Any:
            return lambda sent: sent.scalars.update({name: sent.scalars[name] + R})

        def torsion(name: str) -> Any:
            def change(sent: Sent) -> None:
                moved = add(reference.g1(sent.elements[name]), reference.g1(ORDER_3))
                sent.elements[name] = coordinates(moved)

            return change

        def swap(sent: Sent) -> None:
            sent.points[0], sent.points[1] = sent.points[1], sent.points[0]

        def vanish(sent: Sent) -> None:
            sent.points[2] = bytes(96)

        add_case("one entry of the matrix is 1 too large", lie=1)
        add_case("one entry is wrong, and s1 solves the norm's equation", "rests", solve, lie=1)
        add_case("the mask overlaps with the updates", mask_overlaps=True)
        add_case("two trainers' points are swapped", "mask", swap)
        add_case("a trainer's point is the identity", "mask", vanish)
        for name, stage in (("v", "mask"), ("a0", "rests"), ("beta", "end")):
            add_case(f"{name} is written with r added", stage, scalar_plus_r(name))
        for name, stage in (("M", "mask"), ("S", "shift"), ("W", "end")):
            add_case(f"{name} has a component of order 3", stage, torsion(name))
        return found


if __name__ == "__main__":
    main()
