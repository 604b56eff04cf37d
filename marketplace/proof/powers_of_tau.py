"""Read the powers of τ that public ceremonies on BLS12-381 published.

Covered, told apart by their content:
- c-kzg's text: the numbers of points, those of G1 in Lagrange form, of G2 and of G1 in monomial
  form, in hexadecimal;
- JSON of the consensus specifications: `g1_monomial` and `g2_monomial`;
- the transcript of Ethereum's KZG ceremony of 2023: four strings of 4,096 to 32,768 powers with
  the running products and public keys of all participants, which are checked;
- `challenge` and `response` files of Zcash's and Filecoin's ceremonies.

Whether the points are powers of one τ is left to `marketplace.proof.srs.check`. Not covered:
participants' signatures in Ethereum's transcript; who took part in Zcash's and Filecoin's files,
which hold the last step only.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from marketplace.errors import InputError, ProofError, unusable_path
from marketplace.proof.srs import Progress

__all__ = ["PublicSetup", "read_setup"]

_TEXT_LIMIT = 1 << 30
_G1_HEX, _G2_HEX = 96, 192
_LARGEST = 1 << 27
_BATCH = 128


@dataclass(frozen=True)
class PublicSetup:
    """Hold a public string: `point(k)` gives [τ^k]_1, k < size, checked to be in the subgroup.

    `digest` is the file's SHA-256; `participants` is 0 where the file does not say.
    """

    form: str
    size: int
    participants: int
    digest: bytes
    tau_2: G2Point
    tau2_2: G2Point
    point: Callable[[int], G1Point]


def read_setup(
    path: Path, size: int | None = None, progress: Progress | None = None
) -> PublicSetup:
    """Read a public ceremony's file, the first `size` powers of it if given.

    Of several strings in one file it is the shortest that is long enough, or the longest. Raises
    ProofError for anything else than the formats above; `progress` counts participants checked.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise unusable_path(error, "a public ceremony's file") from error
    if head.lstrip().startswith(b"{"):
        found = _from_json(path, digest, size, progress)
    elif head.split() and head.split()[0].isdigit():
        found = _from_text(path, digest)
    else:
        found = _from_accumulator(path, digest)
    if size is None:
        return found
    if not 2 <= size <= found.size:
        raise InputError(f"{path} holds {found.size} powers; {size} cannot be taken from it")
    return PublicSetup(
        found.form, size, found.participants, digest, found.tau_2, found.tau2_2, found.point
    )


def _bounded_text(path: Path) -> str:
    size = path.stat().st_size
    if size > _TEXT_LIMIT:
        raise ProofError(f"{path} has {size} bytes; a setup in text has at most {_TEXT_LIMIT}")
    try:
        return path.read_text("ascii")
    except UnicodeDecodeError as error:
        raise ProofError(f"{path} is no setup: {error}") from error


def _g1(text: object) -> G1Point:
    return _g1_of(_hex(text, _G1_HEX))


def _g2(text: object) -> G2Point:
    return _g2_of(_hex(text, _G2_HEX))


def _g1_of(raw: bytes) -> G1Point:
    found = G1Point.from_compressed_bytes(raw)
    if found.to_compressed_bytes() != raw:
        raise ValueError("it is not written as it should be")
    return found


def _g2_of(raw: bytes) -> G2Point:
    found = G2Point.from_compressed_bytes(raw)
    if found.to_compressed_bytes() != raw:
        raise ValueError("it is not written as it should be")
    return found


def _hex(text: object, digits: int) -> bytes:
    if not isinstance(text, str) or len(text.removeprefix("0x")) != digits:
        raise ProofError(f"{str(text)[:40]!r} is no point of {digits} hexadecimal digits")
    return bytes.fromhex(text.removeprefix("0x"))


def _setup(
    form: str, digest: bytes, g1: Sequence[object], g2: Sequence[object], participants: int = 0
) -> PublicSetup:
    if len(g1) < 2 or len(g2) < 3:
        raise ProofError(
            f"{form} with {len(g1)} powers in G1 and {len(g2)} in G2; 2 and 3 are the least"
        )

    def point(k: int) -> G1Point:
        try:
            return _g1(g1[k])
        except ValueError as error:
            raise ProofError(f"power {k} in G1 is no point of the subgroup: {error}") from error

    try:
        tau_2, tau2_2 = _g2(g2[1]), _g2(g2[2])
    except ValueError as error:
        raise ProofError(f"a power in G2 is no point of the subgroup: {error}") from error
    return PublicSetup(form, len(g1), participants, digest, tau_2, tau2_2, point)


def _from_text(path: Path, digest: bytes) -> PublicSetup:
    words = _bounded_text(path).split()
    if len(words) < 2 or not words[1].isdigit() or max(map(len, words[:2])) > 9:
        raise ProofError(f"{path} is no setup of c-kzg: it does not begin with two numbers")
    n, m = int(words[0]), int(words[1])
    if len(words) == 2 + n + m:
        raise ProofError(
            f"{path} holds Lagrange points alone, as c-kzg's files did before 2024; the powers "
            "themselves are needed"
        )
    if len(words) != 2 + 2 * n + m:
        raise ProofError(f"{path} holds {len(words) - 2} points, but announces {2 * n + m}")
    return _setup("c-kzg trusted setup", digest, words[2 + n + m :], words[2 + n : 2 + n + m])


def _from_json(
    path: Path, digest: bytes, size: int | None, progress: Progress | None
) -> PublicSetup:
    try:
        document = json.loads(_bounded_text(path))
    except (ValueError, RecursionError) as error:
        raise ProofError(f"{path} is no JSON: {error}") from error
    if "transcripts" in document:
        return _from_transcript(document, digest, size, progress)
    if "g1_monomial" in document and "g2_monomial" in document:
        return _setup(
            "consensus-specs trusted setup",
            digest,
            _list(document, "g1_monomial"),
            _list(document, "g2_monomial"),
        )
    raise ProofError(
        f"{path} has neither 'transcripts' nor 'g1_monomial' and 'g2_monomial'; "
        "Lagrange points do not do"
    )


def _field(holder: Any, name: str) -> Any:
    if not isinstance(holder, dict) or name not in holder:
        raise ProofError(f"the transcript lacks {name!r}")
    return holder[name]


def _list(holder: Any, name: str) -> list[Any]:
    found = _field(holder, name)
    if not isinstance(found, list) or len(found) > _LARGEST:
        raise ProofError(f"{name!r} of the transcript is no list, or too long a one")
    return found


def _from_transcript(
    document: dict[str, Any], digest: bytes, size: int | None, progress: Progress | None
) -> PublicSetup:
    strings = [
        (_list(_field(entry, "powersOfTau"), "G1Powers"), entry)
        for entry in _list(document, "transcripts")
    ]
    strings.sort(key=lambda pair: len(pair[0]))
    if not strings:
        raise ProofError("the transcript holds no string")
    fitting = [pair for pair in strings if size is not None and len(pair[0]) >= size]
    g1, entry = fitting[0] if fitting else strings[-1]
    g2 = _list(_field(entry, "powersOfTau"), "G2Powers")
    if _field(entry, "numG1Powers") != len(g1) or _field(entry, "numG2Powers") != len(g2):
        raise ProofError("the transcript announces other numbers of powers than it holds")
    witness = _field(entry, "witness")
    products, keys = _list(witness, "runningProducts"), _list(witness, "potPubkeys")
    participants = _check_products(products, keys, progress)
    setup = _setup("Ethereum KZG ceremony transcript", digest, g1, g2, participants)
    if _g1(products[-1]) != setup.point(1):
        raise ProofError("the last running product is not the transcript's [τ]_1")
    return setup


def _check_products(products: list[Any], keys: list[Any], progress: Progress | None) -> int:
    """Return the number of participants: e(P_i, [1]_2) = e(P_(i-1), pk_i) for each, in batches."""
    if len(products) != len(keys) or len(products) < 2:
        raise ProofError(f"{len(products)} running products and {len(keys)} public keys")
    before = _witness(_g1, products[0], 0)
    if before != G1Point():
        raise ProofError("the running products do not begin with the generator")
    for start in range(1, len(products), _BATCH):
        stop = min(start + _BATCH, len(products))
        left, right, total = [], [], G1Point.identity()
        for i in range(start, stop):
            after, key = _witness(_g1, products[i], i), _witness(_g2, keys[i], i)
            weight = Scalar(secrets.randbits(128))
            left.append(before * weight)
            right.append(key)
            total += after * weight
            before = after
        if not GT.pairing_check([*left, -total], [*right, G2Point()]):
            raise ProofError(
                f"a contribution among participants {start} to {stop - 1} does not build on the "
                "one before it"
            )
        if progress:
            progress(stop - 1, len(products) - 1)
    return len(products) - 1


def _witness(read: Callable[[object], Any], text: object, i: int) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise ProofError(f"participant {i} left no point of the subgroup: {error}") from error


def _from_accumulator(path: Path, digest: bytes) -> PublicSetup:
    """Read N powers of G2 and 2N - 1 of G1 from a file whose length says N.

    64 bytes of hash, the powers of G1, of G2, then those of α and β; a response's points are
    compressed and it ends with 1,152 bytes of public key. Coordinates of G2 are c1 before c0.
    """
    length = path.stat().st_size
    kind, n = _shape(length)
    if not n:
        raise ProofError(
            f"{path} is no setup known here: neither text nor JSON, and {length} bytes are the "
            "length of no challenge or response file"
        )
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = 2 * n - 1
    width = 96 if kind == "challenge" else 48

    def at(place: int, of: int) -> bytes:
        return data[place : place + of]

    def point(k: int) -> G1Point:
        raw = at(64 + width * k, width)
        try:
            return _plain_g1(raw) if kind == "challenge" else _g1_of(raw)
        except ValueError as error:
            raise ProofError(f"power {k} in G1 is no point of the subgroup: {error}") from error

    def power(k: int) -> G2Point:
        raw = at(64 + width * size + 2 * width * k, 2 * width)
        try:
            return _plain_g2(raw) if kind == "challenge" else _g2_of(raw)
        except ValueError as error:
            raise ProofError(f"power {k} in G2 is no point of the subgroup: {error}") from error

    return PublicSetup(f"powersoftau {kind}", size, 0, digest, power(1), power(2), point)


def _shape(length: int) -> tuple[str, int]:
    """Return the kind of a file of this length and its N; N is 0 where there is none."""
    for kind, each, rest in (("challenge", 576, 160), ("response", 288, 1264)):
        n, odd = divmod(length - rest, each)
        if not odd and 2 < n <= _LARGEST and n & (n - 1) == 0:
            return kind, n
    return "", 0


def _plain_g1(raw: bytes) -> G1Point:
    found = G1Point.from_xy_bytes_be(raw)
    if found.to_xy_bytes_be() != raw:
        raise ValueError("it is not written as it should be")
    return found


def _plain_g2(raw: bytes) -> G2Point:
    ours = raw[48:96] + raw[:48] + raw[144:] + raw[96:144]
    found = G2Point.from_xy_bytes_be(ours)
    if found.to_xy_bytes_be() != ours:
        raise ValueError("it is not written as it should be")
    return found
