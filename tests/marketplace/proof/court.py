"""Put claims before the Python verifier and GramVerifier.sol, who must agree on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import G1Point, Scalar

from marketplace.errors import ProofError
from marketplace.proof.commitment import H, commit, random_blinding
from marketplace.proof.prover import prove
from marketplace.proof.srs import Srs
from marketplace.proof.transcript import round_context
from marketplace.proof.verifier import verify
from tests.marketplace.proof import reference
from tests.marketplace.proof.onchain import OnChain, call_data
from tests.marketplace.proof.reference import Tamper, Witness, scalar

D = 1000
"""Coordinates that the session's reference string has room for."""

SRS_SEED = b"proof"
PROJECT = bytes(range(32))
ROUND = 7


@dataclass(frozen=True)
class Claim:
    """Hold a statement and its proof as they go over the wire."""

    points: bytes
    gram: bytes
    proof: bytes
    project: bytes = PROJECT
    round: int = ROUND

    def call_data(self) -> bytes:
        return call_data(self.project, self.round, self.points, self.gram, self.proof)

    def altered(self, part: str, at: int, value: bytes) -> Claim:
        """Return the claim with other bytes in `points`, `gram` or `proof`."""
        data = getattr(self, part)
        changed = {part: data[:at] + value + data[at + len(value) :]}
        return replace(self, **changed)  # type: ignore[arg-type]


class Court:
    """Decide claims for one reference string, with an account as marketplace."""

    def __init__(self, srs: Srs, chain: OnChain) -> None:
        self.srs = srs
        self.chain = chain
        self.verifier = chain.deploy(srs.header)

    def context(
        self, project: bytes = PROJECT, round_: int = ROUND, marketplace: str = ""
    ) -> bytes:
        address = bytes.fromhex((marketplace or self.chain.marketplace)[2:])
        return round_context(self.chain.chain_id, address, project, round_)

    def claim(self, updates: npt.NDArray[np.int16]) -> Claim:
        """Let an honest prover prove the honest matrix."""
        blindings = [random_blinding() for _ in updates]
        points = [commit(self.srs, u, b) for u, b in zip(updates, blindings, strict=True)]
        gram = reference.triangle(reference.inner_products(updates.tolist()))
        proof = prove(self.srs, self.context(), points, gram, updates, blindings)
        return Claim(b"".join(points), gram, proof)

    def verdicts(self, claims: Sequence[Claim]) -> list[bool]:
        """Return what both verifiers say."""
        python = [self._python(claim) for claim in claims]
        evm = self.chain.verdicts(self.verifier, [claim.call_data() for claim in claims])
        differing = [c for c, one, two in zip(claims, python, evm, strict=True) if one != two]
        assert not differing, f"the verifiers disagree on {differing}"
        return python

    def _python(self, claim: Claim) -> bool:
        size = len(claim.points)
        points = [claim.points[at : at + 96] for at in range(0, size, 96)]
        context = self.context(claim.project, claim.round)
        try:
            verify(self.srs.header, context, points, claim.gram, claim.proof)
        except ProofError:
            return False
        return True

    def commit(self, coefficients: Sequence[int], blinding: int) -> bytes:
        """Commit to any polynomial over F, for provers that do not keep to int16."""
        powers = self.srs.points(0, len(coefficients))
        total = G1Point.multiexp_unchecked(powers, [Scalar(x % reference.R) for x in coefficients])
        return (total + H * Scalar(blinding % reference.R)).to_xy_bytes_be()


class Prover:
    """Run the reference's prover on a true statement, with a fault or without."""

    def __init__(self, court: Court, seed: int, n: int = 3, d: int = 6) -> None:
        rng = np.random.default_rng(seed)
        self.court, self.d = court, d
        self.context = court.context()
        self.rows = rng.integers(-(2**15), 2**15, (n, d)).tolist()
        draw = lambda: scalar(rng.bytes(32))  # noqa: E731
        self.witness = Witness(
            [[*row, *[0] * 8] for row in self.rows],
            [draw() for _ in range(n)],
            [0] * d + [draw() for _ in range(8)],
            draw(),
            draw(),
        )
        self.points = [
            court.commit(row, blinding)
            for row, blinding in zip(self.rows, self.witness.blindings, strict=True)
        ]
        self.gram = reference.inner_products(self.rows)

    def claim(self, tamper: Tamper = lambda _stage, _sent: None) -> Claim:
        court = self.court
        sent = reference.prove(
            court.commit,
            court.srs.id,
            self.context,
            self.points,
            self.gram,
            self.witness,
            tamper,
        )
        return Claim(b"".join(sent.points), reference.triangle(sent.gram), sent.proof)
