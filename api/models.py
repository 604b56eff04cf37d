"""Say what the API answers about the market, its projects, rounds, trainers and accounts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.notation import Address, Amount, Answer, CidText, Count, Hash, Hex, Signed, Time

__all__ = [
    "Account",
    "AccountBalances",
    "Action",
    "Balance",
    "Explanation",
    "GramMatrix",
    "Market",
    "MarketTotal",
    "Project",
    "ProjectSummary",
    "Proof",
    "Readiness",
    "Role",
    "Round",
    "RoundDetail",
    "Status",
    "Step",
    "Token",
    "Trainer",
    "TrainerAcross",
    "Update",
    "UpdateStatus",
    "Windows",
]

Proof = Annotated[
    Literal["proven", "attested", "unknown"],
    Field(
        description="How the Gram matrix is known to be right: by a proof that the chain checked, "
        "by the aggregator's signature alone, or by a verifier that this deployment does not know."
    ),
]
ProjectStatus = Literal["bonding", "running", "finished", "halted", "closed"]
Phase = Annotated[
    Literal["bonding", "joining", "commit", "reveal", "settle", "overdue", "ended"],
    Field(
        description="What the project waits for at the chain's time: the aggregator's bond, "
        "trainers to join, commits, reveals, the settlement, or somebody to expire the round."
    ),
]
UpdateStatus = Annotated[
    Literal["committed", "revealed", "counted", "outlier", "excluded", "root", "aside", "void"],
    Field(
        description="committed, then revealed; after the settlement counted (its share may be 0), "
        "outlier (slashed) or excluded (left out); the root trainer's is root, or aside where the "
        "rule set it aside; void in a round that failed."
    ),
]


class Token(Answer):
    """Say how amounts of a token are shown: amount · 10^-decimals symbol."""

    address: Address
    symbol: str = Field(examples=["TEST"])
    decimals: Count = Field(examples=[18])


# ---------------------------------------------------------------------- status


class Status(Answer):
    """Say where the index stands and what it shows."""

    chain_id: int = Field(examples=[31337])
    devnet: bool = Field(description="A chain on which well-known test accounts may sign.")
    rpc: str | None = Field(
        description="JSON-RPC address for wallets and test accounts; given on a devnet only.",
        examples=["http://127.0.0.1:8545"],
    )
    head: int | None = Field(description="Newest block of the chain; null before the first look.")
    head_time: int | None = Field(description="Time of that block.")
    indexed_block: int = Field(description="Newest block whose events are in the index.")
    indexed_time: Time
    lag: int | None = Field(description="Blocks that the index is behind the head.")
    reorganisations: Count
    failure: str | None = Field(description="Why the index does not follow at the moment.")
    marketplace: Address
    token: Address = Field(description="The deployment's own token.")
    rules: dict[str, Address] = Field(description="Scoring rules by name.")
    verifiers: dict[str, Address] = Field(description="Gram verifiers by name.")
    srs_id: Hash | None = Field(description="Reference string; null where its file is not here.")
    srs_insecure: bool | None = Field(
        description="Whether somebody knows the reference string's secret, so that commitments "
        "bind nobody: for devnets only."
    )
    projects: Count
    version: str = Field(examples=["0.1.0"])


class Readiness(Answer):
    """Say whether the server can answer from a fresh index."""

    ready: bool
    lag: int | None = Field(description="Blocks that the index is behind the head.")
    failure: str | None


class MarketTotal(Answer):
    """Add up the amounts of all projects of one token."""

    token: Token
    escrow: Amount = Field(description="What sponsors paid in and no round has spent.")
    bond: Amount = Field(description="What aggregators deposited.")
    paid: Amount = Field(description="Shares of all settled rounds.")
    fees: Amount
    slashed: Amount


class Market(Answer):
    """Add the whole market up."""

    projects: dict[str, int] = Field(
        description="How many there are in each status.", examples=[{"running": 3, "finished": 1}]
    )
    settled_rounds: Count
    trainers: Count = Field(description="Addresses that ever joined a project.")
    totals: list[MarketTotal] = Field(description="The token of most projects first.")


# -------------------------------------------------------------------- projects


class Windows(Answer):
    """Give a round's windows: commits from `opens_at`, reveals from `commit_end` and so on."""

    opens_at: Time
    commit_end: Time
    reveal_end: Time
    settle_end: Time


class ProjectSummary(Answer):
    """Give what a list of projects shows of one."""

    id: Hash
    title: str | None = Field(
        description="Null while the description cannot be had.", examples=["Digits"]
    )
    summary: str | None
    model: str | None = Field(examples=["mlp"])
    status: ProjectStatus
    phase: Phase
    sponsor: Address
    token: Token
    reward: Amount = Field(description="Pot of a round.")
    fee: Amount = Field(description="Paid per round to whoever settles it.")
    stake: Amount = Field(description="A trainer's collateral.")
    escrow: Amount = Field(description="What the sponsor paid in and no round has spent.")
    spent: Amount = Field(description="Shares and fees of all settled rounds.")
    slashed: Amount
    rounds: Count = Field(description="Rounds to be paid.")
    settled_rounds: Count
    round: Count = Field(description="Current round, from 1; failed rounds count.")
    capacity: Count
    active: Count = Field(description="Active trainers.")
    min_updates: Count
    dimension: Count = Field(description="Parameters of the model.", examples=[2410])
    rule: str | None = Field(description="Name of the scoring rule.", examples=["MultiKrumShapley"])
    verifier: str | None = Field(description="Name of the verifier.", examples=["AttestedGram"])
    proof: Proof
    windows: Windows
    opened_at: Time
    last_at: Time = Field(description="Time of the project's latest event.")


class Project(ProjectSummary):
    """Give everything about a project that is no list of its own."""

    transaction: Hash = Field(description="Transaction that opened it.")
    aggregator: Address
    slash_sink: Address
    root: Address | None = Field(
        description="The root trainer, whose update says what the others' are worth; null for none."
    )
    rule_address: Address
    verifier_address: Address
    rule_params: Hash
    rule_settings: dict[str, int] | None = Field(
        description="The rule's parameters by name, where the rule is known.",
        examples=[{"max_outliers_bps": 4000, "tolerance_bps": 15000}],
    )
    bond: Amount = Field(description="What the aggregator must deposit.")
    bond_held: Amount = Field(description="What is left of it.")
    bond_penalty: Amount
    budget: Amount = Field(description="Rounds × (reward + fee): what opening cost.")
    paid: Amount = Field(description="Shares of all settled rounds.")
    fees: Amount
    refunded: Amount
    failures: Count = Field(description="Failed rounds in a row.")
    max_failures: Count
    patience: Count
    step_bits: Count = Field(description="An update's unit is 2^-step_bits.")
    clip_norm: str = Field(description="Largest norm of an update, in steps.")
    epsilon_milli: Count
    join_window: Count
    commit_window: Count
    reveal_window: Count
    settle_window: Count
    exclusive_window: Count
    unbonding_delay: Count
    slash_schedule: list[int] = Field(
        description="Basis points of the stake that the first, second, ... strike costs."
    )
    description_cid: CidText
    initial_commitment: Hex
    description: dict[str, Any] | None = Field(
        description="The sponsor's description as published: model, options, training."
    )
    params: dict[str, Any] = Field(description="All terms, as the contract holds them.")


# ---------------------------------------------------------------------- rounds


class Round(Answer):
    """Give what a list of rounds shows of one."""

    project: Hash
    number: Count
    status: Literal["open", "settled", "failed"]
    windows: Windows
    active: Count = Field(description="Active trainers when the round opened.")
    commits: Count
    reveals: Count
    counted: Count
    outliers: Count
    excluded: Count
    paid: Amount
    fee: Amount
    slashed: Amount
    settled_rounds: Count = Field(description="Settled rounds with this one; 0 if it is not.")
    settler: Address | None
    closed_at: Time
    block: Count = Field(description="Block of the settlement or failure; 0 if open.")
    transaction: Hash | None
    model_cid: CidText | None
    bond_lost: Amount
    root: Literal["believed", "set aside", "absent"] | None = Field(
        description="What came of the root trainer's update in a settled round; null for no root."
    )
    verifier: str | None
    proof: Proof
    accuracy: float | None = Field(
        description="Published and signed by the sponsor, from 0 to 1; null where it is not.",
        examples=[0.934],
    )


class Update(Answer):
    """Give a trainer's update in a round."""

    project: Hash
    round: Count
    trainer: Address
    status: UpdateStatus
    committed_at: Time
    commit_transaction: Hash
    place: int | None = Field(description="Place among the round's reveals; null before.")
    revealed_at: Time
    reveal_transaction: Hash | None
    point: Hex | None = Field(description="Commitment to the update: x ‖ y, 48 bytes each.")
    cid: CidText | None
    share: Amount
    slashed: Amount
    weight: Count = Field(description="Of 2^16.", le=65536)
    norm: Count = Field(description="Length of the update in steps; 0 before the settlement.")
    strikes: Count = Field(description="Of the trainer, after the round.")
    stake: Amount = Field(description="Of the trainer, after the round.")
    reason: str | None = Field(
        description="Why it was left out: unavailable, malformed, mismatch, bad point, duplicate "
        "or out of range.",
        examples=["unavailable"],
    )
    deactivated: bool


class GramMatrix(Answer):
    """Give the inner products that decided a round."""

    trainers: list[Address] = Field(description="Whose update each row is.")
    matrix: list[list[Signed]] = Field(description="Inner products in steps².")
    cosines: list[list[float]] = Field(
        description="The same as cosines of angles, from -1 to 1; 0 beside a zero update."
    )


class RoundDetail(Round):
    """Give a round with its updates and the matrix that decided it."""

    updates: list[Update] = Field(description="Reveals in their order, then mere commits.")
    gram: GramMatrix | None = Field(description="Null unless the round is settled.")


class Step(Answer):
    """Give one step of an explanation: what it is, its value, and the formula in words."""

    name: str = Field(examples=["norm"])
    value: str = Field(description="The value, exactly, as text.", examples=["10240"])
    formula: str = Field(
        examples=["square root of the update's inner product with itself, in steps"]
    )
    shown: str = Field(description="The value as people read it.", examples=["0.63"])


class Explanation(Answer):
    """Say why a trainer was paid what it was for a round."""

    project: Hash
    round: Count
    trainer: Address
    status: UpdateStatus
    rule: str | None
    verdict: str = Field(description="The outcome in one sentence.")
    steps: list[Step] = Field(description="From the inner products to the amount.")
    products: dict[Address, Signed] = Field(
        description="Inner product of the update with each one of the round."
    )
    distance_rank: int | None = Field(
        description="Place by distance, 1 the closest to the others; null where the rule has none."
    )
    updates: Count = Field(description="Updates that were scored.")
    share: Amount
    pot: Amount
    slashed: Amount
    stake: Amount
    strikes: Count
    weight: Count
    token: Token
    transaction: Hash | None


# -------------------------------------------------------------------- trainers


class Action(Answer):
    """Say what an account can or must do next."""

    name: Literal[
        "join",
        "train",
        "wait",
        "reveal",
        "deposit_bond",
        "settle",
        "withdraw",
        "leave",
        "release",
        "close",
        "rejoin",
    ]
    text: str = Field(examples=["Commit an update for round 3."])
    until: Time = Field(description="When it is too late; 0 where it never is.")
    urgent: bool = Field(description="Whether not doing it in time costs something.")


class Trainer(Answer):
    """Give how a trainer stands in a project."""

    project: Hash
    address: Address
    membership: Literal["none", "active", "leaving", "inactive"]
    stake: Amount
    credit: Amount = Field(description="What `withdraw` would pay.")
    earned: Amount
    slashed: Amount
    withdrawn: Amount
    spent_milli: Count = Field(
        description="Privacy spent, as its last commit said, in thousandths of ε; 0 without a "
        "budget."
    )
    strikes: Count
    commits: Count
    reveals: Count
    counted: Count
    outliers: Count
    excluded: Count
    last_commit: Count
    joined_at: Time
    exit_at: Time = Field(description="When a leaving trainer's stake is free.")
    token: Token
    next: list[Action] = Field(description="What to do next, most urgent first.")


Role = Literal["sponsor", "aggregator", "slash_sink", "trainer"]


class Account(Answer):
    """Give what an address has in one project, whatever its roles."""

    project: Hash
    title: str | None
    roles: list[Role]
    stake: Amount = Field(description="A trainer's collateral.")
    bond: Amount = Field(description="An aggregator's collateral.")
    escrow: Amount = Field(description="What a sponsor paid in and no round has spent.")
    credit: Amount = Field(description="What `withdraw` would pay.")
    withdrawn: Amount
    token: Token


class Balance(Answer):
    """Add up what an address has in projects of one token."""

    token: Token
    stake: Amount
    bond: Amount
    escrow: Amount
    credit: Amount
    withdrawn: Amount
    wallet: Amount | None = Field(
        description="Tokens that the address itself holds; null where the chain did not answer."
    )


class AccountBalances(Answer):
    """Give what an address has in the marketplace."""

    address: Address
    balances: list[Balance]
    projects: list[Account]


class TrainerAcross(Answer):
    """Give how a trainer stands in all its projects."""

    address: Address
    projects: list[Trainer]
    commits: Count
    counted: Count
    outliers: Count
    excluded: Count
    totals: list[Balance]
    next: list[Action] = Field(description="What to do next in any project, most urgent first.")
