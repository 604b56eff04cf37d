"""Deploy with good and with unacceptable reference strings."""

from pathlib import Path

import pytest

from deploy.deployment import deploy, ensure_srs
from deploy.devnet import running_anvil
from marketplace.chain import Chain
from marketplace.errors import InputError
from marketplace.proof.ceremony import contribute, start
from marketplace.proof.srs import Srs
from marketplace.types import Deployment
from marketplace.wallet import dev_account


def test_a_devnets_string_is_refused_on_any_other_chain(tmp_path: Path) -> None:
    srs = ensure_srs(tmp_path, 16)
    with running_anvil() as rpc:
        Chain(Deployment(0, rpc, 0, "", "")).request("anvil_setChainId", [1])
        with pytest.raises(InputError, match="chain has id 1"):
            deploy(rpc, dev_account(0), tmp_path, srs)
    assert not Deployment.file(tmp_path).exists()


def test_a_devnets_string_grows_and_keeps_its_id(tmp_path: Path) -> None:
    first = ensure_srs(tmp_path, 16)
    assert ensure_srs(tmp_path, 12).size == 16
    longer = ensure_srs(tmp_path, 20)
    assert (longer.size, longer.id) == (20, first.id)


def test_a_ceremonys_string_is_never_replaced_by_a_devnets(tmp_path: Path) -> None:
    start(tmp_path / "srs.bin", 16)
    with pytest.raises(InputError, match="holds 16 powers, and 20 are needed"):
        ensure_srs(tmp_path, 20)
    contribute(Srs.open(tmp_path / "srs.bin"), tmp_path / "srs.bin", "Ada")
    kept = (tmp_path / "srs.bin").read_bytes()
    with pytest.raises(InputError, match="holds 16 powers, and 20 are needed"):
        ensure_srs(tmp_path, 20)
    assert ensure_srs(tmp_path, 16).path.read_bytes() == kept
