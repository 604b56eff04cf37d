"""Check that contributions add up, and that none can be forged, dropped or reordered."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from py_arkworks_bls12381 import G1Point, Scalar
from py_ecc.optimized_bls12_381 import FQ, FQ2, G1, G2, curve_order, multiply, normalize

from marketplace.errors import InputError, ProofError
from marketplace.proof.ceremony import (
    Beginning,
    Chain,
    Contribution,
    Origin,
    check,
    contribute,
    read_chain,
    start,
)
from marketplace.proof.srs import Srs, SrsHeader, generate, write

SIZE = 9


def drawing(*values: int) -> Callable[[], int]:
    rest = iter(values)
    return lambda: next(rest)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Srs:
    """Return a string to which 5 and -2 contributed, so that τ = -10."""
    folder = tmp_path_factory.mktemp("ceremony")
    contribute(start(folder / "0", SIZE), folder / "1", "Ada", secret=drawing(5, 77))
    contribute(
        Srs.open(folder / "1"), folder / "2", "Emmy", secret=drawing(curve_order - 2, 123_456_789)
    )
    return Srs.open(folder / "2")


def test_two_secrets_make_the_powers_of_their_product(twice: Srs) -> None:
    for k in range(SIZE):
        x, y, _ = normalize(multiply(G1, pow(-10, k, curve_order))) + (None,)
        raw = twice.raw(k, k + 1)
        assert (FQ(int.from_bytes(raw[:48])), FQ(int.from_bytes(raw[48:]))) == (x, y)
    for raw, power in ((twice.header.tau_g2, -10), (twice.header.tau2_g2, 100)):
        numbers = [int.from_bytes(raw[at : at + 48]) for at in range(0, 192, 48)]
        expected = normalize(multiply(G2, power % curve_order))
        assert (FQ2(numbers[:2]), FQ2(numbers[2:])) == expected


def test_complete_ceremony_passes_and_names_who_contributed(twice: Srs) -> None:
    chain = check(twice)
    assert [entry.name for entry in chain.contributions] == ["Ada", "Emmy"]
    assert chain.beginning.origin == Origin.ONE
    assert not twice.insecure
    assert len(set(chain.hashes())) == 3


def test_trailer_has_the_bytes_that_the_documentation_lays_out(twice: Srs) -> None:
    # docs/reference-string.md, computed again with py_ecc
    def point(scalar: int) -> bytes:
        x, y = normalize(multiply(G1, scalar % curve_order))
        return bytes(x.n.to_bytes(48) + y.n.to_bytes(48))

    magic = b"TRIBUTE-CHAIN-1\0"
    written = b"\0" + point(1) + bytes(32) + bytes(4) + b"\0"
    state, tau = keccak(magic + written), 1
    for name, x, k in ((b"Ada", 5, 77), (b"Emmy", -2, 123_456_789)):
        entry = bytes([len(name)]) + name + point(tau * x) + point(k * tau)
        c = int.from_bytes(keccak(state + entry)) % curve_order
        entry += ((k + c * x) % curve_order).to_bytes(32)
        state, tau, written = keccak(state + entry), tau * x, written + entry
    assert twice.trailer == magic + written
    assert read_chain(twice).hashes()[-1] == state


def test_start_is_insecure_and_passes(tmp_path: Path) -> None:
    srs = start(tmp_path / "0", SIZE)
    assert srs.insecure
    assert check(srs).contributions == ()
    assert srs.raw(0, SIZE) == G1Point().to_xy_bytes_be() * SIZE


def test_secrets_come_from_the_system_unless_given(tmp_path: Path) -> None:
    begun = start(tmp_path / "0", 3)
    first = contribute(begun, tmp_path / "1", "Ada")
    second = contribute(begun, tmp_path / "2", "Ada")
    assert first.tau != second.tau
    assert first.commitment != second.commitment
    check(Srs.open(tmp_path / "1"))


def test_a_devnets_string_becomes_secure_by_a_contribution(tmp_path: Path) -> None:
    devnet = generate(tmp_path / "devnet", SIZE, b"a seed")
    assert check(devnet).beginning.origin == Origin.SEED
    contribute(devnet, tmp_path / "devnet", "Ada")
    chain = check(Srs.open(tmp_path / "devnet"))
    assert chain.beginning.tau == devnet.header.tau_g1
    assert not Srs.open(tmp_path / "devnet").insecure


def with_chain(srs: Srs, path: Path, chain: Chain, insecure: bool = False) -> Srs:
    header = SrsHeader(
        srs.size, insecure, *(getattr(srs.header, name) for name in ("tau_g1", "tau_g2", "tau2_g2"))
    )
    return write(path, header, iter([srs.raw(0, srs.size)]), chain.pack())


def test_no_field_of_a_contribution_can_be_changed(twice: Srs, tmp_path: Path) -> None:
    chain = read_chain(twice)
    first, last = chain.contributions
    other = G1Point().to_xy_bytes_be()
    for forged in (
        (replace(first, name="Eve"), last),
        (replace(first, tau=other), last),
        (replace(first, commitment=other), last),
        (replace(first, response=first.response + 1), last),
        (replace(first, response=curve_order + first.response), last),
        (first, replace(last, name="Eve")),
        (first, replace(last, tau=first.tau)),
        (last, first),
        (last,),
        (first,),
        (first, last, last),
        (),
    ):
        path = tmp_path / "forged"
        with pytest.raises(ProofError):
            check(with_chain(twice, path, Chain(chain.beginning, forged)))


def test_the_beginning_cannot_be_changed(twice: Srs, tmp_path: Path) -> None:
    chain = read_chain(twice)
    for beginning in (
        replace(chain.beginning, note="by the United Nations"),
        replace(chain.beginning, participants=141_416),
        replace(chain.beginning, origin=Origin.PUBLIC),
        replace(chain.beginning, tau=twice.header.tau_g1),
    ):
        with pytest.raises(ProofError):
            check(with_chain(twice, tmp_path / "x", Chain(beginning, chain.contributions)))


def test_who_knows_only_the_new_tau_cannot_pass_it_off_as_a_contribution(
    twice: Srs, tmp_path: Path
) -> None:
    # Mallory chooses τ' = 3 and forgets what it was: it knows τ' but not τ'/τ, so that it would
    # be the only one whose secret matters. Its proof to the base [1]_1 does not hold to [τ]_1.
    chain = read_chain(twice)
    mallory = generate(tmp_path / "m", SIZE, b"known to Mallory")
    digest = int.from_bytes(
        __import__("hashlib").sha512(b"TRIBUTE-DEVNET-TAUknown to Mallory").digest()
    )
    tau = digest % (curve_order - 1) + 1
    entry = Contribution(
        "Mallory", mallory.header.tau_g1, (G1Point() * Scalar(42)).to_xy_bytes_be(), 0
    )
    c = entry.challenge(chain.hashes()[-1])
    entry = replace(entry, response=(42 + c * tau) % curve_order)
    forged = Chain(chain.beginning, (*chain.contributions, entry))
    with pytest.raises(ProofError, match="'Mallory'"):
        check(with_chain(mallory, tmp_path / "forged", forged))


def test_a_known_tau_is_not_passed_off_as_a_secret_one(tmp_path: Path) -> None:
    begun = start(tmp_path / "0", SIZE)
    with pytest.raises(ProofError, match="marked secure"):
        check(with_chain(begun, tmp_path / "x", read_chain(begun), insecure=False))
    devnet = generate(tmp_path / "devnet", SIZE, b"a seed")
    seeded = Chain(Beginning(Origin.SEED, devnet.header.tau_g1))
    with pytest.raises(ProofError, match="marked secure"):
        check(with_chain(devnet, tmp_path / "y", seeded, insecure=False))


def test_powers_that_do_not_fit_the_chain_are_found(twice: Srs, tmp_path: Path) -> None:
    data = bytearray(twice.path.read_bytes())
    data[1024 + 96 * 4 : 1024 + 96 * 5] = twice.raw(5, 6)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ProofError, match="does not hold the powers"):
        check(Srs.open(tmp_path / "x"))


def test_cut_and_foreign_trailers_are_refused_as_such(twice: Srs) -> None:
    packed = read_chain(twice).pack()
    assert Chain.unpack(packed).pack() == packed
    ends = {
        len(Chain(read_chain(twice).beginning, read_chain(twice).contributions[:n]).pack())
        for n in range(3)
    }
    for length in set(range(len(packed))) - ends:
        with pytest.raises(ProofError):
            Chain.unpack(packed[:length])
    with pytest.raises(ProofError):
        Chain.unpack(bytes(1 << 23))
    for at in range(16, len(packed)):
        changed = bytearray(packed)
        changed[at] ^= 0xFF
        try:
            Chain.unpack(bytes(changed))
        except ProofError:
            pass


@pytest.mark.parametrize("name", ["", "x" * 65, "é" * 33, "two\nlines", "\x1b[31mred"])
def test_names_that_could_deceive_are_refused(name: str, tmp_path: Path) -> None:
    begun = start(tmp_path / "0", 2)
    with pytest.raises(InputError):
        contribute(begun, tmp_path / "1", name)
    assert not (tmp_path / "1").exists()


def test_interrupted_contribution_leaves_the_old_string(twice: Srs, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(twice.path.read_bytes())

    def stop(_done: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contribute(Srs.open(path), path, "Ada", stop)
    assert path.read_bytes() == twice.path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
