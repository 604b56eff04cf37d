"""Say what the items of the lists are that run over rounds and projects."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.models import Proof, Token, UpdateStatus
from api.notation import Address, Amount, Answer, CidText, Count, Hash, Hex, Time

__all__ = [
    "Evaluation",
    "MarketEvent",
    "Model",
    "Outlier",
    "Penalty",
    "Receiver",
    "Reward",
    "Score",
    "Settlement",
]


class Model(Answer):
    """Give a global model: the initial one, or the one after a settled round."""

    project: Hash
    settled_rounds: Count = Field(description="0 for the initial model.")
    round: Count
    cid: CidText
    file: str = Field(examples=["model.safetensors"])
    published_at: Time
    transaction: Hash
    updates: Count = Field(description="Updates that went into it.")
    accuracy: float | None


class Evaluation(Answer):
    """Give the accuracy that a sponsor published for a model, under its signature."""

    project: Hash
    settled_rounds: Count = Field(description="Of the model: 0 for the initial one.")
    accuracy: float = Field(ge=0, le=1, examples=[0.934])
    samples: Count
    data: str = Field(description="What the sponsor calls the data set.", examples=["digits#test"])
    measured_at: Time
    model_cid: CidText
    signer: Address
    signature: Hex = Field(description="EIP-712, over all of this.")


class Score(Answer):
    """Give how an update was scored."""

    project: Hash
    round: Count
    trainer: Address
    status: UpdateStatus
    weight: Count
    norm: Count
    share: Amount
    pot: Amount
    settled_at: Time


class Outlier(Answer):
    """Give an update that the rule rejected."""

    project: Hash
    round: Count
    trainer: Address
    slashed: Amount
    strikes: Count
    stake: Amount
    deactivated: bool
    settled_at: Time
    transaction: Hash
    token: Token


class Reward(Answer):
    """Give what a trainer was paid for an update."""

    project: Hash
    round: Count
    trainer: Address
    amount: Amount
    weight: Count
    settled_at: Time
    transaction: Hash
    token: Token


class Receiver(Answer):
    """Say who was credited how much of a penalty."""

    account: Address
    amount: Amount


class Penalty(Answer):
    """Give what an account lost of its stake or bond, why, and to whom it went."""

    project: Hash
    round: Count
    kind: Literal["stake", "bond"] = Field(
        description="A trainer's collateral or the aggregator's."
    )
    account: Address = Field(description="Who lost it.")
    amount: Amount
    reason: Literal["outlier", "silence", "exclusions"] = Field(
        description="The rule rejected the update; nobody settled in time; or the aggregator "
        "excluded so many updates that too few were left."
    )
    went_to: list[Receiver] = Field(
        description="As credit: for silence to all who had revealed, else to the slash sink."
    )
    strikes: int | None = Field(description="Of the trainer, with this one; null for a bond.")
    at: Time
    transaction: Hash
    token: Token


class Settlement(Answer):
    """Give how a round was settled."""

    project: Hash
    round: Count
    settler: Address
    updates: Count
    outliers: Count
    excluded: Count
    paid: Amount
    fee: Amount
    slashed: Amount
    model_cid: CidText
    settled_at: Time
    block: Count
    transaction: Hash
    verifier: str | None
    proof: Proof
    token: Token


class MarketEvent(Answer):
    """Give an event of the chain."""

    id: str = Field(description="Position of the event; larger is later.", examples=["18874368"])
    name: str = Field(examples=["Settled"])
    project: Hash
    title: str | None
    round: Count
    account: Address | None
    amount: Amount | None
    block: Count
    at: Time
    transaction: Hash
