"""Open a project: what a sponsor offers, in the units of people, and how the chain takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from ipfs.store import Store
from marketplace.codec import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    Description,
    Model,
    encode_description,
    encode_model,
    to_fixed,
)
from marketplace.errors import InputError, NotFoundError
from marketplace.keeping import pin_name
from marketplace.proof.commitment import commit
from marketplace.proof.srs import Srs
from marketplace.scoring import DEFAULT_PARAMS, default_rule
from marketplace.sealing import recipients
from marketplace.signer import Signer
from marketplace.types import NOBODY, Params

__all__ = ["Terms", "open_project", "to_units"]


@dataclass(frozen=True)
class Terms:
    """State what a sponsor offers, in whole tokens, seconds and the model's own units.

    `clip_norm` is the largest L2 norm of an update; a step is 2^-step_bits. `epsilon` is the
    privacy that a trainer may spend over the project, 0 for no limit. `slash` holds the fractions
    of the stake, in per cent, that the first, second, ... strike costs. `root` is the root trainer.
    Without a `rule` it is that of `default_rule`.
    """

    description: Description
    aggregator: str
    slash_sink: str
    root: str = NOBODY
    rule: str = ""
    verifier: str = "GramVerifier"
    rounds: int = 5
    capacity: int = 8
    min_updates: int = 4
    patience: int = 3
    max_failures: int = 5
    step_bits: int = 14
    clip_norm: float = 16.0
    epsilon: float = 0.0
    reward: Decimal = Decimal(100)
    fee: Decimal = Decimal(5)
    stake: Decimal = Decimal(50)
    bond: Decimal = Decimal(100)
    bond_penalty: Decimal = Decimal(20)
    slash: tuple[float, ...] = (25.0, 50.0, 100.0)
    join_window_s: int = 600
    commit_window_s: int = 3600
    reveal_window_s: int = 1200
    settle_window_s: int = 3600
    exclusive_window_s: int = 1200
    unbonding_s: int = 9000
    seed: int = 0
    allow_code: bool = False


def to_units(amount: Decimal, decimals: int) -> int:
    """Convert whole tokens to the token's smallest unit, exactly or not at all."""
    units = amount.scaleb(decimals)
    if units != units.to_integral_value() or units < 0:
        raise InputError(
            f"{amount} is no amount of a token with {decimals} decimals: give a number of tokens "
            f"from 0 with at most {decimals} digits after the point"
        )
    return int(units)


def open_project(signer: Signer, store: Store, srs: Srs, terms: Terms) -> bytes:
    """Publish the description and the initial model, fund the project and return its id.

    Raises InputError where the terms name a rule, verifier or model that does not exist, CodecError
    where updates would be sealed to others than the aggregator.
    """
    from trainer.models import build, flatten

    deployment = signer.chain.deployment
    training = terms.description
    module = build(training.model, training.model_options, terms.seed, allow_code=terms.allow_code)
    initial = to_fixed(flatten(module), terms.step_bits)
    if srs.size < initial.size + 8:
        raise InputError(
            f"the model has {initial.size} parameters; the reference string of {srs.size} powers "
            f"takes {srs.size - 8}. Run `tribute deploy --srs-size {initial.size + 8}`"
        )
    recipients(training, deployment, terms.aggregator, {})
    decimals = signer.chain.token_decimals(deployment.token)
    rooted = terms.root != NOBODY
    if rooted and terms.min_updates < 2:
        raise InputError(
            f"--min-updates {terms.min_updates} is too few: the root trainer's own is counted, so "
            "ask for 2 at least"
        )
    rule = terms.rule or default_rule(terms.min_updates, terms.capacity, rooted)
    root = store.put_directory(
        {
            DESCRIPTION_FILE: encode_description(training),
            MODEL_FILE: encode_model(Model(initial, 0)),
        }
    )
    if terms.epsilon and terms.epsilon < 0.001:
        raise InputError(f"--epsilon {terms.epsilon:g} is less than 0.001, the least budget")
    slash_bps = [round(100 * percent) for percent in terms.slash]
    if not 1 <= len(slash_bps) <= 16 or any(not 0 <= bps <= 10_000 for bps in slash_bps):
        raise InputError(f"--slash takes 1 to 16 per cents from 0 to 100, not {terms.slash}")
    slash_bps += slash_bps[-1:] * (16 - len(slash_bps))
    point = commit(srs, initial, 0)
    params = Params(
        token=deployment.token,
        aggregator=terms.aggregator,
        rule=_named(deployment.rules, rule, "rule"),
        verifier=_named(deployment.verifiers, terms.verifier, "verifier"),
        slash_sink=terms.slash_sink,
        rounds=terms.rounds,
        capacity=terms.capacity,
        min_updates=terms.min_updates,
        patience=terms.patience,
        max_failures=terms.max_failures,
        step_bits=terms.step_bits,
        dimension=int(initial.size),
        epsilon_milli=math.floor(1000 * terms.epsilon),
        clip_norm=int(terms.clip_norm * 2**terms.step_bits),
        root=terms.root,
        reward=to_units(terms.reward, decimals),
        fee=to_units(terms.fee, decimals),
        stake=to_units(terms.stake, decimals),
        bond=to_units(terms.bond, decimals),
        bond_penalty=to_units(terms.bond_penalty, decimals),
        join_window=terms.join_window_s,
        commit_window=terms.commit_window_s,
        reveal_window=terms.reveal_window_s,
        settle_window=terms.settle_window_s,
        exclusive_window=terms.exclusive_window_s,
        unbonding_delay=terms.unbonding_s,
        rule_params=DEFAULT_PARAMS[rule],
        slash_bps=b"".join(bps.to_bytes(2, "big") for bps in slash_bps),
        description_cid=root.digest,
        initial_commitment=point,
    )
    project = signer.open_project(params)
    # before, nobody knows its name
    store.pin(root, pin_name(project, 0))
    store.unpin(root)
    return project


def _named(addresses: Mapping[str, str], name: str, kind: str) -> str:
    if name not in addresses:
        known = ", ".join(sorted(addresses)) or "none"
        raise NotFoundError(f"no {kind} named {name!r} is deployed here; known: {known}")
    return addresses[name]
