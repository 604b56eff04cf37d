"""Open and close projects: the sponsor's side of the market."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from deploy.opening import Terms, open_project, to_units
from ipfs.select import open_store
from marketplace.codec import (
    Description,
    KeyCard,
    Training,
    decode_card,
)
from marketplace.errors import CodecError, InputError
from marketplace.proof.srs import Srs
from marketplace.scoring import PEEL_FROM, PEEL_TO
from marketplace.sealing import check_card
from marketplace.sealing import key_card as key_card_of
from marketplace.terminal import (
    DEFAULT_HOME,
    DevOption,
    HomeOption,
    IpfsOption,
    JsonOption,
    KeyEnvOption,
    KeystoreOption,
    Money,
    Output,
    ProjectArgument,
    RpcOption,
    open_chain,
    open_signer,
)
from marketplace.types import NOBODY, Deployment
from marketplace.wallet import load_account

__all__ = ["key", "project_app"]

_CARD_LIMIT = 1 << 12

project_app = typer.Typer(no_args_is_help=True, help="Open, show, list and close projects.")


def parse_address(text: str, chain_id: int) -> str:
    """Return the address that a text is, or that `dev:N` names on a local chain."""
    from web3 import Web3

    if text.startswith("dev:"):
        if not text[4:].isdecimal():
            raise InputError(f"{text!r} names no devnet account; write dev:1")
        return str(load_account(chain_id, dev=int(text[4:])).address)
    if not Web3.is_address(text):
        raise InputError(f"{text!r} is no address: give 0x and 40 digits, or dev:N on a devnet")
    return str(Web3.to_checksum_address(text))


def _options(pairs: list[str]) -> dict[str, int | float | str]:
    options: dict[str, int | float | str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"model option {pair!r} is not of the form NAME=VALUE")
        options[name] = value
        for kind in (int, float):
            try:
                options[name] = kind(value)
                break
            except ValueError:
                continue
    return options


@project_app.command("open")
def open_command(
    aggregator: Annotated[str, typer.Option(help="Address that settles; dev:N on a devnet.")],
    sink: Annotated[str, typer.Option(help="Address that slashed stake goes to.")],
    root: Annotated[
        str | None,
        typer.Option(
            help="Address of the root trainer, whose update, on clean data, says what the others' "
            "are paid; dev:N on a devnet.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    ipfs: IpfsOption = None,
    title: Annotated[str, typer.Option(help="What people see.")] = "Untitled project",
    summary: Annotated[str, typer.Option(help="What the model is for.")] = "",
    model: Annotated[
        str,
        typer.Option(help="logistic, mlp, 2nn, cnn, lenet5, or module:function of yours."),
    ] = "mlp",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Model option NAME=VALUE.")
    ] = None,
    allow_code: Annotated[bool, typer.Option(help="Run the module that --model names.")] = False,
    optimizer: Annotated[str, typer.Option(help="sgd or adam.")] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="Local learning rate.")] = 0.1,
    batch_size: Annotated[int, typer.Option(help="Samples a local step.")] = 32,
    epochs: Annotated[int, typer.Option(help="Local epochs a round.")] = 1,
    momentum: Annotated[float, typer.Option(help="Momentum of sgd.")] = 0.0,
    rounds: Annotated[int, typer.Option(help="Rounds to pay.", min=1)] = 5,
    capacity: Annotated[int, typer.Option(help="Active trainers at most.", min=1, max=128)] = 8,
    min_updates: Annotated[int, typer.Option(help="Updates that a round needs.", min=1)] = 4,
    reward: Annotated[str, typer.Option(help="Pot of a round, in tokens.")] = "100",
    fee: Annotated[str, typer.Option(help="Paid a round to who settles it.")] = "5",
    stake: Annotated[str, typer.Option(help="A trainer's collateral.")] = "50",
    bond: Annotated[str, typer.Option(help="The aggregator's collateral.")] = "100",
    bond_penalty: Annotated[str, typer.Option(help="What an expired round costs it.")] = "20",
    slash: Annotated[
        str, typer.Option(help="Per cent of the stake lost by each strike in a row.")
    ] = "25,50,100",
    clip_norm: Annotated[float, typer.Option(help="Largest L2 norm of an update.")] = 16.0,
    epsilon: Annotated[
        float,
        typer.Option(help="Privacy that a trainer may spend, ε, kept on chain; 0 for none.", min=0),
    ] = 0.0,
    step_bits: Annotated[int, typer.Option(help="A step is 2^-bits.", min=1, max=40)] = 14,
    patience: Annotated[int, typer.Option(help="Rounds in a row that one may miss.")] = 3,
    max_failures: Annotated[int, typer.Option(help="Failed rounds that halt it.", min=1)] = 5,
    join_window: Annotated[int, typer.Option(help="Seconds to join, at most.")] = 600,
    commit_window: Annotated[int, typer.Option(help="Seconds to commit, at most.")] = 3600,
    reveal_window: Annotated[int, typer.Option(help="Seconds to reveal, at most.")] = 1200,
    settle_window: Annotated[int, typer.Option(help="Seconds to settle, at most.")] = 3600,
    exclusive_window: Annotated[
        int, typer.Option(help="First seconds of it, for the aggregator alone.")
    ] = 1200,
    unbonding: Annotated[int, typer.Option(help="Seconds from leaving to the stake.")] = 9000,
    rule: Annotated[
        str,
        typer.Option(
            help=f"Scoring rule: PeelShapley or MultiKrumShapley; the former from --min-updates "
            f"{PEEL_FROM} on, up to --capacity {PEEL_TO}, where none is named.",
            show_default=False,
        ),
    ] = "",
    verifier: Annotated[
        str,
        typer.Option(help="GramVerifier, or AttestedGram to trust the aggregator's signature."),
    ] = "GramVerifier",
    readers: Annotated[
        str,
        typer.Option(
            help="Who reads the updates: open, everybody; sealed, the aggregator and whoever has a "
            "--key-card; members, also the active trainers."
        ),
    ] = "open",
    key_card: Annotated[
        list[Path] | None,
        typer.Option(
            help="What `tribute key` printed for a reader; may be given again.",
            dir_okay=False,
            exists=True,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial model.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Publish a model to train, fund its rounds, and print the project's id."""
    chain = open_chain(home, rpc)
    signer = open_signer(chain, dev, keystore, key_env)
    deployment = chain.deployment
    terms = Terms(
        description=Description(
            title=title,
            model=model,
            summary=summary,
            model_options=_options(option or []),
            training=Training(
                optimizer=optimizer,  # type: ignore[arg-type]
                learning_rate=learning_rate,
                batch_size=batch_size,
                epochs=epochs,
                momentum=momentum,
            ),
            readers=readers,  # type: ignore[arg-type]
            keys=_cards(readers, key_card or [], aggregator, deployment),
        ),
        aggregator=parse_address(aggregator, deployment.chain_id),
        slash_sink=parse_address(sink, deployment.chain_id),
        root=parse_address(root, deployment.chain_id) if root else NOBODY,
        rule=rule,
        verifier=verifier,
        rounds=rounds,
        capacity=capacity,
        min_updates=min_updates,
        patience=patience,
        max_failures=max_failures,
        step_bits=step_bits,
        clip_norm=clip_norm,
        epsilon=epsilon,
        reward=_decimal("--reward", reward),
        fee=_decimal("--fee", fee),
        stake=_decimal("--stake", stake),
        bond=_decimal("--bond", bond),
        bond_penalty=_decimal("--bond-penalty", bond_penalty),
        slash=tuple(float(_decimal("--slash", part)) for part in slash.split(",")),
        join_window_s=join_window,
        commit_window_s=commit_window,
        reveal_window_s=reveal_window,
        settle_window_s=settle_window,
        exclusive_window_s=exclusive_window,
        unbonding_s=unbonding,
        seed=seed,
        allow_code=allow_code,
    )
    srs = Srs.open(deployment.srs_path(home))
    decimals = chain.token_decimals(deployment.token)
    signer.fund_on_devnet(deployment.token, to_units(rounds * (terms.reward + terms.fee), decimals))
    project = open_project(signer, open_store(home / "ipfs", ipfs or ()), srs, terms)
    shown = f"0x{project.hex()}"
    Output(as_json).result({"project": shown}, f"project {shown}")


def _cards(
    readers: str, files: list[Path], aggregator: str, deployment: Deployment
) -> tuple[KeyCard, ...]:
    """Return the key cards of a project's readers, whose signatures are right."""
    if readers == "open":
        if files:
            raise InputError("an open project needs no --key-card; seal it with --readers sealed")
        return ()
    cards = [_card(file, deployment) for file in files]
    address = parse_address(aggregator, deployment.chain_id)
    if address not in [card.account for card in cards]:
        if not aggregator.startswith("dev:"):
            raise InputError(
                f"updates must be sealed to the aggregator {address} too: give the --key-card that "
                "`tribute key` prints for it"
            )
        account = load_account(deployment.chain_id, dev=int(aggregator[4:]))
        cards.append(key_card_of(account, deployment))
    return tuple(cards)


def _card(file: Path, deployment: Deployment) -> KeyCard:
    try:
        with file.open("rb") as stream:
            card = decode_card(stream.read(_CARD_LIMIT))
        check_card(card, deployment)
    except CodecError as error:
        raise CodecError(f"{file}: {error}; give what `tribute key` printed") from error
    return card


def key(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
) -> None:
    """Print the account's key card: with it, a project's updates can be sealed to the account."""
    chain = open_chain(home, rpc)
    account = load_account(chain.deployment.chain_id, dev, keystore, key_env)
    Output(as_json=True).result(asdict(key_card_of(account, chain.deployment)), "")


def _decimal(name: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except ArithmeticError:
        raise InputError(f"{name} {text!r} is no number") from None
    if not value.is_finite() or value < 0:
        raise InputError(f"{name} {text} is not a number from 0")
    return value


@project_app.command("close")
def close_command(
    project: ProjectArgument,
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    dev: DevOption = None,
    keystore: KeystoreOption = None,
    key_env: KeyEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close an ended project: what no round can claim becomes the sponsor's credit."""
    chain = open_chain(home, rpc)
    found = chain.find_project(project)
    signer = open_signer(chain, dev, keystore, key_env)
    receipt = signer.close_project(found)
    credit = chain.account(found, signer.address).credit
    Output(as_json).result(
        {"transaction": receipt.transaction, "credit": credit},
        f"closed; {Money.of(chain, chain.params(found).token).text(credit)} are yours to take with "
        f"`tribute withdraw {project}`",
    )
