"""Say what wallets are given to sign, what must be known for it, and what is taken signed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.notation import Address, Answer, Hash, Hex

__all__ = [
    "Approval",
    "CommitTerms",
    "OpenTerms",
    "SignedAccuracy",
    "Transactions",
    "TypedData",
    "UnsignedTransaction",
]


class UnsignedTransaction(Answer):
    """Give an EIP-1559 transaction as wallets take it (`eth_sendTransaction`)."""

    purpose: str = Field(examples=["approve"])
    type: Literal["0x2"]
    chainId: str = Field(examples=["0x7a69"])
    from_: Address = Field(serialization_alias="from")
    to: Address
    value: Literal["0x0"]
    data: Hex
    gas: str | None = Field(
        description="Estimate with room; null where an earlier transaction must come first.",
        examples=["0x1d4c0"],
    )
    nonce: str = Field(examples=["0x0"])
    maxFeePerGas: str = Field(examples=["0x77359400"])
    maxPriorityFeePerGas: str = Field(examples=["0x3b9aca00"])


class Transactions(Answer):
    """Give transactions to be signed and sent in this order."""

    transactions: list[UnsignedTransaction]
    project: Hash = Field(
        description="The project; for `open` the id it will have unless its sponsor opens another "
        "one first."
    )


class TypedData(Answer):
    """Give a message for `eth_signTypedData_v4` (EIP-712)."""

    types: dict[str, list[dict[str, str]]]
    primaryType: str
    domain: dict[str, Any]
    message: dict[str, Any]


AddressInput = Annotated[
    str,
    Field(pattern=r"^0x[0-9a-fA-F]{40}$", examples=["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"]),
]
IdInput = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{64}$", examples=["0x" + "5c" * 32])]
AmountInput = Annotated[str, Field(pattern=r"^[0-9]{1,29}$", examples=["100000000000000000000"])]


class Approval(Answer):
    """Name who acts in which project."""

    sender: AddressInput
    project: IdInput


class CommitTerms(Answer):
    """Name the commit that a relayer is to send for a trainer."""

    project: IdInput
    round: int = Field(ge=1, lt=2**32, examples=[1])
    trainer: AddressInput
    digest: str = Field(
        pattern=r"^0x[0-9a-fA-F]{56}$",
        description="`commitDigest` of point and CID, 28 bytes.",
        examples=["0x" + "1b" * 28],
    )
    epsilon_milli: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="Privacy spent with it, in thousandths of ε, where the project has a budget: "
        "then the message is for `commitSpending`, else for `commitFor`.",
    )


class OpenTerms(Answer):
    """Give the terms of a project to open; names of rule and verifier as in /v1/status."""

    sender: AddressInput
    aggregator: AddressInput
    slash_sink: AddressInput
    root: AddressInput | None = Field(default=None, description="The root trainer, if any.")
    rule: str | None = Field(
        default=None, max_length=64, description="What suits the project's size if null."
    )
    verifier: str = Field(default="AttestedGram", max_length=64)
    token: AddressInput | None = Field(default=None, description="The deployment's own if null.")
    rounds: int = Field(ge=1, lt=2**32, examples=[5])
    capacity: int = Field(ge=1, le=128, examples=[8])
    min_updates: int = Field(ge=1, le=128, examples=[4])
    patience: int = Field(default=3, ge=0, lt=2**16)
    max_failures: int = Field(default=5, ge=1, lt=2**8)
    step_bits: int = Field(default=14, ge=1, le=40)
    dimension: int = Field(ge=1, lt=2**32, examples=[2410])
    epsilon_milli: int = Field(default=0, ge=0, lt=2**32)
    clip_norm: int = Field(ge=1, lt=2**63, description="In steps.", examples=[262144])
    reward: AmountInput
    fee: AmountInput
    stake: AmountInput
    bond: AmountInput
    bond_penalty: AmountInput
    join_window: int = Field(default=600, ge=0, lt=2**25)
    commit_window: int = Field(default=3600, ge=1, lt=2**25)
    reveal_window: int = Field(default=1200, ge=1, lt=2**25)
    settle_window: int = Field(default=3600, ge=1, lt=2**25)
    exclusive_window: int = Field(default=1200, ge=0, lt=2**25)
    unbonding_delay: int = Field(default=9000, ge=0, lt=2**32)
    rule_params: IdInput | None = Field(
        default=None, description="As the rule packs them; its defaults if null."
    )
    slash_schedule: list[Annotated[int, Field(ge=0, le=10_000)]] = Field(
        default=[2500, 5000, 10_000], min_length=1, max_length=16
    )
    description_cid: str = Field(
        max_length=128,
        description="CID of the directory with project.json and the initial model.",
        examples=["bafybeidqgovzfeyaey3jk6zhm6qe57wcjs3zvtz2xjyfyw2sk27ofhy3tq"],
    )
    initial_commitment: str = Field(pattern=r"^0x[0-9a-fA-F]{192}$", examples=["0x" + "00" * 96])


_DIGITS = r"^[0-9a-f]{64}$"


class SignedAccuracy(Answer):
    """Give what a sponsor measured and signed, as `tribute project evaluate` writes it."""

    project: str = Field(pattern=_DIGITS, examples=["5c" * 32])
    settled_rounds: int = Field(ge=0, lt=2**32, examples=[1])
    millionths: int = Field(ge=0, le=10**6, description="Right answers in a million.")
    samples: int = Field(ge=1, lt=2**32, examples=[359])
    data: str = Field(max_length=200, examples=["digits#test"])
    model: str = Field(pattern=_DIGITS, description="Digest of the model's CID.")
    measured_at: int = Field(ge=0, lt=2**32, examples=[1795634535])
    signature: str = Field(pattern=r"^[0-9a-f]{130}$", description="EIP-712, the sponsor's.")
