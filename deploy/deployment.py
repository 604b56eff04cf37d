"""Deploy the marketplace, its rules and verifiers, and a devnet token.

Covered: the contracts, the reference string of the home. Not covered: opening projects
(`deploy.project`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from rich.table import Table

from deploy.compile import artefact
from marketplace.chain import Chain
from marketplace.errors import ChainError, InputError, MarketplaceError
from marketplace.proof.srs import Progress, Srs, generate
from marketplace.scoring import RULES
from marketplace.signer import Signer
from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Output,
    RpcOption,
)
from marketplace.types import Deployment
from marketplace.wallet import LOCAL_CHAINS

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

__all__ = ["DEFAULT_SRS_SIZE", "creation_code", "deploy", "deploy_command", "ensure_srs"]

DEFAULT_SRS_SIZE = 1 << 16
"""Powers in a devnet's reference string: room for LeNet-5 and all smaller models."""

_SRS_SEED = b"tribute devnet"
_SRS_FILE = "srs.bin"


def ensure_srs(home: Path, size: int, progress: Progress | None = None) -> Srs:
    """Return the home's reference string, made or made longer where needed.

    A longer one has the same τ, hence the same id, so that deployments stay valid. Only a devnet's
    own string is ever replaced; raises InputError where another one is too short.
    """
    file = home / _SRS_FILE
    if file.exists():
        found = Srs.open(file)
        if found.size >= size:
            return found
        if not found.insecure or found.trailer:
            raise InputError(
                f"{file} holds {found.size} powers, and {size} are needed: import or make a longer "
                "string, or ask for fewer by --srs-size"
            )
    home.mkdir(parents=True, exist_ok=True)
    return generate(file, size, _SRS_SEED, progress)


def creation_code(name: str, srs: Srs) -> bytes:
    """Return the code that creates a contract, with its constructor's arguments."""
    arguments = b""
    if name == "GramVerifier":
        powers = [srs.header.tau_g1, srs.header.tau_g2, srs.header.tau2_g2]
        arguments = encode(["bytes"] * 3, powers)
    elif name == "AttestedGram":
        arguments = encode(["bytes32"], [srs.id])
    return artefact(name).bytecode + arguments


def deploy(rpc: str, account: LocalAccount, home: Path, srs: Srs) -> Deployment:
    """Deploy everything as `account`, write the home's deployment file and return it.

    Raises InputError for a reference string whose τ is known, except on a devnet.
    """
    bare = Chain(Deployment(0, rpc, 0, "", ""))
    chain_id = int(bare.request("eth_chainId", []), 16)
    if srs.insecure and chain_id not in LOCAL_CHAINS:
        raise InputError(
            f"{srs.path} is for devnets: its τ is known, so that anything can be proven, and this "
            f"chain has id {chain_id}. `tribute srs import` takes over a public ceremony's"
        )
    chain = Chain(replace(bare.deployment, chain_id=chain_id))
    signer = Signer(chain, account)
    first = chain.head().number

    def create(name: str) -> str:
        code = "0x" + creation_code(name, srs).hex()
        receipt = chain.transact(signer, {"from": signer.address, "data": code})
        if receipt.contract is None:
            raise ChainError(f"{receipt.transaction} made no contract")
        return to_checksum_address(receipt.contract)

    deployment = Deployment(
        chain_id=chain_id,
        rpc=rpc,
        block=first,
        marketplace=create("Marketplace"),
        token=create("TestToken"),
        rules={name: create(name) for name in RULES},
        verifiers={name: create(name) for name in ("GramVerifier", "AttestedGram")},
        srs=_SRS_FILE,
    )
    deployment.save(home)
    return deployment


def deploy_command(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    srs_size: Annotated[
        int, typer.Option(help="Largest number of parameters a model may have, plus 8.", min=9)
    ] = DEFAULT_SRS_SIZE,
    force: Annotated[bool, typer.Option(help="Deploy again where a deployment stands.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the marketplace, its policies and a test token, and note where they are."""
    from rich.progress import Progress as Bar

    from deploy.devnet import find
    from marketplace.wallet import load_account

    out = Output(as_json)
    address = rpc or find(home).rpc
    with Bar(console=out.notes, transient=True) as bar:
        task = bar.add_task("reference string", total=srs_size)
        srs = ensure_srs(home, srs_size, lambda done, _: bar.update(task, completed=done))
    deployment = None if force else _standing(home, address)
    if deployment is None:
        out.note("compiling and deploying (a first time takes half a minute)")
        bare = Chain(Deployment(0, address, 0, "", ""))
        chain_id = int(bare.request("eth_chainId", []), 16)
        account = load_account(chain_id, dev, keystore, key_env)
        deployment = deploy(address, account, home, srs)
    table = Table(box=None, show_header=False)
    table.add_row("chain", f"{deployment.chain_id} at {deployment.rpc}")
    table.add_row("marketplace", deployment.marketplace)
    table.add_row("token", deployment.token)
    for name, place in (*deployment.rules.items(), *deployment.verifiers.items()):
        table.add_row(name, place)
    insecure = " (devnet only: its secret is known)" if srs.insecure else ""
    table.add_row("reference string", f"{srs.size} powers{insecure}")
    out.result(asdict(deployment), table)


def _standing(home: Path, rpc: str) -> Deployment | None:
    """Return the home's deployment if it stands on this chain."""
    try:
        found = Deployment.load(home)
        Chain.open(found, rpc)
    except MarketplaceError:
        return None
    return found
