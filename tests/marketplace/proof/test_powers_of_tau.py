"""Read public ceremonies' files: the real one of Ethereum, and small ones written by py_ecc."""

import hashlib
import json
from pathlib import Path
from typing import Any

import eth_account
import pytest
from py_arkworks_bls12381 import G1Point
from py_ecc.bls.point_compression import compress_G1, compress_G2
from py_ecc.optimized_bls12_381 import G1, G2, curve_order, multiply, normalize

from marketplace.errors import InputError, NotFoundError, ProofError
from marketplace.proof.ceremony import Origin, adopt, check, contribute, read_chain
from marketplace.proof.powers_of_tau import read_setup
from marketplace.proof.srs import Srs

ETHEREUM = (
    Path(str(eth_account.__file__)).parent
    / "typed_transactions"
    / "blob_transactions"
    / "kzg_trusted_setup.txt"
)
# KZG_SETUP_G2_MONOMIAL[1] of the consensus specifications' mainnet preset
ETHEREUM_TAU_2 = (
    "b5bfd7dd8cdeb128843bc287230af38926187075cbfbefa81009a2ce615ac53d2914e5870cb452d2afaaab24f3499f72"
    "185cbfee53492714734429b7b38608e23926c911cceceac9a36851477ba4c60b087041de621000edc98edada20c1def2"
)
SECRETS = (5, 7, 11)
TAU = 5 * 7 * 11


def g1(scalar: int) -> str:
    return f"0x{compress_G1(multiply(G1, scalar % curve_order)):096x}"


def g2(scalar: int) -> str:
    high, low = compress_G2(multiply(G2, scalar % curve_order))
    return f"0x{high:096x}{low:096x}"


def transcript(*sizes: int) -> dict[str, Any]:
    """Return what Ethereum's ceremony would have written after three participants."""
    products = [1, 5, 35, TAU]

    def string(size: int) -> dict[str, Any]:
        return {
            "numG1Powers": size,
            "numG2Powers": 3,
            "powersOfTau": {
                "G1Powers": [g1(pow(TAU, k, curve_order)) for k in range(size)],
                "G2Powers": [g2(TAU**k) for k in range(3)],
            },
            "witness": {
                "runningProducts": [g1(product) for product in products],
                "potPubkeys": [g2(secret) for secret in (1, *SECRETS)],
                "blsSignatures": [""] * 4,
            },
        }

    return {
        "transcripts": [string(size) for size in sizes],
        "participantIds": [""] * 4,
        "participantEcdsaSignatures": [""] * 4,
    }


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def ethereum(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return adopt(tmp_path_factory.mktemp("ethereum") / "srs.bin", read_setup(ETHEREUM))


def test_the_real_ceremonys_powers_are_imported_and_pass_the_check(ethereum: Srs) -> None:
    chain = check(ethereum)
    assert ethereum.size == 4096
    assert not ethereum.insecure
    assert chain.beginning.origin == Origin.PUBLIC
    assert chain.beginning.source == hashlib.sha256(ETHEREUM.read_bytes()).digest()


def test_the_real_tau_is_the_one_of_the_consensus_specifications() -> None:
    assert read_setup(ETHEREUM).tau_2.to_compressed_bytes().hex() == ETHEREUM_TAU_2


def test_one_can_contribute_on_top_of_a_public_ceremony(tmp_path: Path) -> None:
    adopt(tmp_path / "srs", read_setup(ETHEREUM, 16))
    before = Srs.open(tmp_path / "srs")
    assert before.size == 16
    contribute(before, tmp_path / "srs", "Ada")
    after = Srs.open(tmp_path / "srs")
    assert check(after).beginning.tau == before.header.tau_g1
    assert after.id != before.id


def test_transcript_gives_its_longest_string_and_counts_participants(tmp_path: Path) -> None:
    source = written(tmp_path / "transcript.json", transcript(4, 8, 6))
    setup = read_setup(source)
    assert (setup.size, setup.participants) == (8, 3)
    srs = adopt(tmp_path / "srs", setup)
    assert read_chain(srs).beginning.participants == 3
    x, y = normalize(multiply(G1, pow(TAU, 7, curve_order)))
    assert srs.raw(7, 8) == x.n.to_bytes(48) + y.n.to_bytes(48)


def test_transcript_gives_the_shortest_string_that_is_long_enough(tmp_path: Path) -> None:
    source = written(tmp_path / "transcript.json", transcript(4, 8, 6))
    assert read_setup(source, 5).size == 5
    with pytest.raises(InputError, match="holds 8 powers; 9"):
        read_setup(source, 9)


@pytest.mark.parametrize(
    ("field", "place", "value", "message"),
    [
        ("runningProducts", 2, g1(36), "does not build"),
        ("runningProducts", 0, g1(2), "begin with the generator"),
        ("runningProducts", 3, g1(TAU + 1), "does not build"),
        ("potPubkeys", 1, g2(6), "does not build"),
        ("potPubkeys", 3, "0xc0" + "00" * 95, "does not build"),
        ("runningProducts", 1, "0x" + "ff" * 48, "no point"),
        ("potPubkeys", 2, "0x12", "hexadecimal"),
    ],
)
def test_witness_of_the_transcript_must_hold(
    field: str, place: int, value: str, message: str, tmp_path: Path
) -> None:
    document = transcript(4)
    document["transcripts"][0]["witness"][field][place] = value
    with pytest.raises(ProofError, match=message):
        read_setup(written(tmp_path / "transcript.json", document))


def test_participants_cannot_be_dropped_from_the_transcript(tmp_path: Path) -> None:
    document = transcript(4)
    for field in ("runningProducts", "potPubkeys"):
        document["transcripts"][0]["witness"][field].pop()
    with pytest.raises(ProofError, match="last running product"):
        read_setup(written(tmp_path / "transcript.json", document))


@pytest.mark.parametrize("spoil", ["transcripts", "powersOfTau", "numG1Powers", "witness"])
def test_incomplete_transcripts_are_refused(spoil: str, tmp_path: Path) -> None:
    document = transcript(4)
    if spoil == "transcripts":
        document["transcripts"] = []
    else:
        document["transcripts"][0].pop(spoil)
    with pytest.raises(ProofError, match="transcript"):
        read_setup(written(tmp_path / "transcript.json", document))


def test_consensus_specs_json_is_read_and_lagrange_points_alone_are_not(tmp_path: Path) -> None:
    powers = [g1(TAU**k) for k in range(4)]
    document = {"g1_monomial": powers, "g2_monomial": [g2(TAU**k) for k in range(3)]}
    setup = read_setup(written(tmp_path / "setup.json", document))
    assert setup.point(3) == G1Point.from_compressed_bytes(bytes.fromhex(powers[3][2:]))
    check(adopt(tmp_path / "srs", setup))
    document["g1_lagrange"] = document.pop("g1_monomial")
    with pytest.raises(ProofError, match="Lagrange"):
        read_setup(written(tmp_path / "setup.json", document))


def test_old_text_with_lagrange_points_alone_is_refused_by_name(tmp_path: Path) -> None:
    words = ["2", "3", g1(1), g1(2), g2(1), g2(2), g2(4)]
    (tmp_path / "old.txt").write_text("\n".join(words).replace("0x", ""))
    with pytest.raises(ProofError, match="Lagrange points alone"):
        read_setup(tmp_path / "old.txt")


def accumulator(n: int, compressed: bool) -> bytes:
    """Write a challenge or a response file of Zcash's ceremony for N = n, α = 3, β = 4."""

    def one(scalar: int) -> bytes:
        if compressed:
            return bytes.fromhex(g1(scalar)[2:])
        x, y = normalize(multiply(G1, scalar % curve_order))
        return bytes(x.n.to_bytes(48) + y.n.to_bytes(48))

    def two(scalar: int) -> bytes:
        if compressed:
            return bytes.fromhex(g2(scalar)[2:])
        x, y = normalize(multiply(G2, scalar % curve_order))
        return b"".join(int(c).to_bytes(48) for f in (x, y) for c in reversed(f.coeffs))

    parts = [bytes(64)]
    parts += [one(TAU**k) for k in range(2 * n - 1)]
    parts += [two(TAU**k) for k in range(n)]
    parts += [one(3 * TAU**k) for k in range(n)] + [one(4 * TAU**k) for k in range(n)]
    parts += [two(4)] + ([bytes(1152)] if compressed else [])
    return b"".join(parts)


@pytest.mark.parametrize("compressed", [False, True])
def test_challenge_and_response_files_are_read(compressed: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(accumulator(4, compressed))
    setup = read_setup(tmp_path / "file")
    assert setup.form == ("powersoftau response" if compressed else "powersoftau challenge")
    assert setup.size == 7
    srs = adopt(tmp_path / "srs", setup)
    x, y = normalize(multiply(G1, TAU**6))
    assert srs.raw(6, 7) == x.n.to_bytes(48) + y.n.to_bytes(48)


def test_points_with_flags_in_a_challenge_file_are_refused(tmp_path: Path) -> None:
    data = bytearray(accumulator(4, False))
    data[64 + 96 * 3] |= 0x20
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ProofError, match="power 3 in G1"):
        adopt(tmp_path / "srs", read_setup(tmp_path / "file"))


def test_powers_of_two_taus_leave_the_string_that_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "srs"
    path.write_bytes(b"what stood there")
    document = transcript(6)
    document["transcripts"][0]["powersOfTau"]["G1Powers"][4] = g1(TAU**4 + 1)
    setup = read_setup(written(tmp_path / "transcript.json", document))
    with pytest.raises(ProofError, match="does not hold the powers"):
        adopt(path, setup)
    assert path.read_bytes() == b"what stood there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["srs", "transcript.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"{",
        b"{}",
        b"[" * 10_000,
        b"{" + b'"a":[' * 100_000,
        b"4096\n65\nabcd",
        b"4096",
        b"99999999999999999999 1",
        b"12 \xff\xfe",
        ETHEREUM.read_bytes()[:-97],
        ETHEREUM.read_bytes().replace(b"\n65\n", b"\n64\n"),
    ],
    ids=range(12),
)
def test_other_files_are_refused_without_harm(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ProofError):
        read_setup(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        read_setup(tmp_path / "nowhere")
