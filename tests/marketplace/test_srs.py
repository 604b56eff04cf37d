"""Check the reference string's file against py_ecc and against damage."""

import hashlib
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from py_ecc.optimized_bls12_381 import FQ, FQ2, G1, G2, curve_order, multiply, normalize, pairing

from marketplace.errors import NotFoundError, ProofError
from marketplace.proof.srs import Srs, check, generate


def g1(data: bytes) -> tuple[FQ, FQ, FQ]:
    x, y = (int.from_bytes(data[at : at + 48]) for at in (0, 48))
    return FQ(x), FQ(y), FQ.one()


def g2(data: bytes) -> tuple[FQ2, FQ2, FQ2]:
    x0, x1, y0, y1 = (int.from_bytes(data[at : at + 48]) for at in (0, 48, 96, 144))
    return FQ2([x0, x1]), FQ2([y0, y1]), FQ2.one()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return generate(tmp_path_factory.mktemp("srs") / "small.srs", 12, b"a seed")


def test_powers_are_powers_of_one_tau_by_another_library(small: Srs) -> None:
    points = [g1(small.raw(k, k + 1)) for k in range(12)]
    tau_2, tau2_2 = g2(small.header.tau_g2), g2(small.header.tau2_g2)
    assert normalize(points[0]) == normalize(G1)
    for k in (0, 1, 5, 10):
        assert pairing(G2, points[k + 1]) == pairing(tau_2, points[k])
    assert pairing(tau2_2, points[4]) == pairing(G2, points[6])


def test_generator_times_tau_matches_a_known_seed(small: Srs) -> None:
    digest = hashlib.sha512(b"TRIBUTE-DEVNET-TAU" + b"a seed").digest()
    tau = int.from_bytes(digest, "big") % (curve_order - 1) + 1
    for k in (1, 2, 11):
        expected = multiply(G1, pow(tau, k, curve_order))
        assert normalize(g1(small.raw(k, k + 1))) == normalize(expected)


def test_id_is_the_hash_the_contract_defines(small: Srs) -> None:
    header = small.header
    assert small.id == keccak(small.raw(1, 2) + header.tau_g2 + header.tau2_g2)
    assert len(header.tau_g2) == len(header.tau2_g2) == 192


def test_same_seed_gives_the_same_string_whatever_its_length(small: Srs, tmp_path: Path) -> None:
    longer = generate(tmp_path / "longer.srs", 40, b"a seed")
    assert longer.id == small.id
    assert longer.raw(0, 12) == small.raw(0, 12)
    assert generate(tmp_path / "other.srs", 2, b"another").id != small.id


def test_devnet_string_is_marked_insecure_and_passes_the_check(small: Srs) -> None:
    assert small.insecure
    assert small.size == 12
    seen: list[tuple[int, int]] = []
    check(small, lambda done, total: seen.append((done, total)))
    assert seen == [(12, 12)]


def test_points_are_read_in_any_order_and_never_beyond_the_end(small: Srs) -> None:
    assert b"".join(p.to_xy_bytes_be() for p in small.points(7, 9)) == small.raw(7, 9)
    assert b"".join(p.to_xy_bytes_be() for p in small.points(0, 3)) == small.raw(0, 3)
    with pytest.raises(ProofError, match="13 powers needed"):
        small.points(0, 13)


@pytest.mark.parametrize("size", [-1, 0, 1, 1 << 40])
def test_impossible_sizes_are_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match="points"):
        generate(tmp_path / "never.srs", size, b"")
    assert not list(tmp_path.iterdir())


def test_missing_file_is_named() -> None:
    with pytest.raises(NotFoundError, match="nowhere.srs"):
        Srs.open("nowhere.srs")


def damaged(small: Srs, tmp_path: Path, at: int, value: bytes) -> Path:
    data = bytearray(small.path.read_bytes())
    data[at : at + len(value)] = value
    path = tmp_path / "damaged.srs"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"X"),  # magic
        (16, b"\x09"),  # version
        (20, b"\x02"),  # flag of no meaning
        (24, b"\x01\0"),  # one point
        (25, b"\x01"),  # more points than the file has
        (40, b"\x55"),  # [tau]_1
        (200, b"\x55"),  # [tau]_2
        (400, b"\x55"),  # [tau^2]_2
    ],
)
def test_damaged_headers_are_refused(small: Srs, tmp_path: Path, at: int, value: bytes) -> None:
    with pytest.raises(ProofError):
        Srs.open(damaged(small, tmp_path, at, value))


def test_points_of_two_different_taus_are_refused(small: Srs, tmp_path: Path) -> None:
    other = generate(tmp_path / "other.srs", 12, b"other").header
    for at, value in ((128, other.tau_g2), (320, other.tau2_g2)):
        with pytest.raises(ProofError, match="belong together"):
            Srs.open(damaged(small, tmp_path, at, value))


def test_cut_or_empty_files_are_refused(small: Srs, tmp_path: Path) -> None:
    data = small.path.read_bytes()
    for length in (0, 10, 1023, 1024, len(data) - 1):
        (tmp_path / "cut.srs").write_bytes(data[:length])
        with pytest.raises(ProofError):
            Srs.open(tmp_path / "cut.srs")


def test_check_finds_swapped_powers_and_points_outside_the_subgroup(
    small: Srs, tmp_path: Path
) -> None:
    swapped = damaged(small, tmp_path, 1024 + 5 * 96, small.raw(6, 7) + small.raw(5, 6))
    with pytest.raises(ProofError, match="does not hold the powers"):
        check(Srs.open(swapped))
    off = damaged(small, tmp_path, 1024 + 5 * 96, b"\x01" * 48)
    with pytest.raises(ProofError, match="bad point"):
        check(Srs.open(off))
    with pytest.raises(ProofError, match="off the curve"):
        Srs.open(off).points(0, 12)
    first = damaged(small, tmp_path, 1024, small.raw(1, 2))
    with pytest.raises(ProofError, match="begin with the generator"):
        check(Srs.open(first))
    # (0, 2) is on the curve y^2 = x^3 + 4 and has order 3
    small_order = damaged(small, tmp_path, 1024 + 5 * 96, bytes(95) + b"\x02")
    with pytest.raises(ProofError, match="bad point"):
        check(Srs.open(small_order))


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.srs"
    generate(path, 4, b"old")
    before = path.read_bytes()

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(path, 5, b"new", progress=stop)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
