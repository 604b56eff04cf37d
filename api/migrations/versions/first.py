"""Make the first tables."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Make the tables of the index."""
    op.create_table(
        "blocks",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block"),
    )
    op.create_table(
        "cursor",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("marketplace", sa.String(length=42), nullable=False),
        sa.Column("first_block", sa.BigInteger(), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.LargeBinary(), nullable=False),
        sa.Column("block_time", sa.BigInteger(), nullable=False),
        sa.Column("reorganisations", sa.Integer(), nullable=False),
        sa.Column("fork_block", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "descriptions",
        sa.Column("cid", sa.LargeBinary(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cid"),
    )
    op.create_table(
        "projects",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("transaction", sa.LargeBinary(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("sponsor", sa.String(length=42), nullable=False),
        sa.Column("aggregator", sa.String(length=42), nullable=False),
        sa.Column("token", sa.String(length=42), nullable=False),
        sa.Column("description_cid", sa.LargeBinary(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("settled_rounds", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opens_at", sa.BigInteger(), nullable=False),
        sa.Column("commit_end", sa.BigInteger(), nullable=False),
        sa.Column("reveal_end", sa.BigInteger(), nullable=False),
        sa.Column("settle_end", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("commits", sa.Integer(), nullable=False),
        sa.Column("reveals", sa.Integer(), nullable=False),
        sa.Column("reward", sa.String(length=39), nullable=False),
        sa.Column("escrow", sa.String(length=39), nullable=False),
        sa.Column("bond", sa.String(length=39), nullable=False),
        sa.Column("paid", sa.String(length=39), nullable=False),
        sa.Column("fees", sa.String(length=39), nullable=False),
        sa.Column("slashed", sa.String(length=39), nullable=False),
        sa.Column("refunded", sa.String(length=39), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
    )
    op.create_index(op.f("ix_projects_aggregator"), "projects", ["aggregator"], unique=False)
    op.create_index(op.f("ix_projects_sponsor"), "projects", ["sponsor"], unique=False)
    op.create_index("projects_escrow", "projects", ["escrow", "number"], unique=False)
    op.create_index("projects_last_at", "projects", ["last_at", "number"], unique=False)
    op.create_index("projects_reward", "projects", ["reward", "number"], unique=False)
    op.create_index("projects_status", "projects", ["status", "number"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("address", sa.String(length=42), nullable=False),
        sa.Column("symbol", sa.String(length=64), nullable=False),
        sa.Column("decimals", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address"),
    )
    op.create_table(
        "accounts",
        sa.Column("project", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("address", sa.String(length=42), nullable=False),
        sa.Column("trainer", sa.Boolean(), nullable=False),
        sa.Column("membership", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("stake", sa.String(length=39), nullable=False),
        sa.Column("credit", sa.String(length=39), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("encryption_key", sa.LargeBinary(), nullable=True),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.Column("exit_at", sa.BigInteger(), nullable=False),
        sa.Column("last_commit", sa.Integer(), nullable=False),
        sa.Column("earned", sa.String(length=39), nullable=False),
        sa.Column("slashed", sa.String(length=39), nullable=False),
        sa.Column("withdrawn", sa.String(length=39), nullable=False),
        sa.Column("spent_milli", sa.BigInteger(), nullable=False),
        sa.Column("commits", sa.Integer(), nullable=False),
        sa.Column("reveals", sa.Integer(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("outliers", sa.Integer(), nullable=False),
        sa.Column("excluded", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.number"],
        ),
        sa.PrimaryKeyConstraint("project", "address"),
    )
    op.create_index("accounts_address", "accounts", ["address", "project"], unique=False)
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=42), nullable=False),
        sa.Column("amount", sa.String(length=39), nullable=True),
        sa.Column("transaction", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.number"],
        ),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("events_project", "events", ["project", "position"], unique=False)
    op.create_table(
        "rounds",
        sa.Column("project", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("opens_at", sa.BigInteger(), nullable=False),
        sa.Column("commit_end", sa.BigInteger(), nullable=False),
        sa.Column("reveal_end", sa.BigInteger(), nullable=False),
        sa.Column("settle_end", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("commits", sa.Integer(), nullable=False),
        sa.Column("reveals", sa.Integer(), nullable=False),
        sa.Column("settled_rounds", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.Column("transaction", sa.LargeBinary(), nullable=True),
        sa.Column("settler", sa.String(length=42), nullable=False),
        sa.Column("model_cid", sa.LargeBinary(), nullable=True),
        sa.Column("gram", sa.LargeBinary(), nullable=True),
        sa.Column("paid", sa.String(length=39), nullable=False),
        sa.Column("slashed", sa.String(length=39), nullable=False),
        sa.Column("outliers", sa.Integer(), nullable=False),
        sa.Column("excluded", sa.Integer(), nullable=False),
        sa.Column("bond_lost", sa.String(length=39), nullable=False),
        sa.Column("exclusions", sa.LargeBinary(), nullable=True),
        sa.Column("root", sa.String(length=9), nullable=True),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.number"],
        ),
        sa.PrimaryKeyConstraint("project", "number"),
    )
    op.create_index("rounds_position", "rounds", ["status", "position"], unique=False)
    op.create_table(
        "updates",
        sa.Column("project", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("trainer", sa.String(length=42), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("committed_at", sa.BigInteger(), nullable=False),
        sa.Column("commit_transaction", sa.LargeBinary(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("revealed_at", sa.BigInteger(), nullable=False),
        sa.Column("reveal_transaction", sa.LargeBinary(), nullable=True),
        sa.Column("point", sa.LargeBinary(), nullable=True),
        sa.Column("cid", sa.LargeBinary(), nullable=True),
        sa.Column("share", sa.String(length=39), nullable=False),
        sa.Column("slashed", sa.String(length=39), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("norm", sa.BigInteger(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("stake", sa.String(length=39), nullable=False),
        sa.Column("reason", sa.SmallInteger(), nullable=False),
        sa.Column("deactivated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.number"],
        ),
        sa.PrimaryKeyConstraint("project", "round", "trainer"),
    )
    op.create_index("updates_position", "updates", ["position"], unique=False)
    op.create_index("updates_project", "updates", ["project", "position"], unique=False)
    op.create_index("updates_status", "updates", ["status", "position"], unique=False)
    op.create_index("updates_trainer", "updates", ["trainer", "position"], unique=False)
