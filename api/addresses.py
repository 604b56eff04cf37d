"""Read what an address has, and how it stands, in all its projects."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import and_, select, union

from api.models import Account, Balance, Role, Token, Trainer, TrainerAcross
from api.queries import Reader, hexed
from api.tables import accounts, descriptions, params_of, projects, tokens, updates

__all__ = ["across", "holdings"]

MOST_PROJECTS = 1_000
"""Projects of one address that are added up at most."""


def holdings(reader: Reader, address: str) -> tuple[list[Balance], list[Account]]:
    """Return what an address has, a token and a project; wallets are not looked into."""
    its = union(
        select(projects.c.number).where(projects.c.sponsor == address),
        select(projects.c.number).where(projects.c.aggregator == address),
        select(accounts.c.project).where(accounts.c.address == address),
    )
    query = (
        select(
            projects,
            accounts.c.trainer,
            accounts.c.stake,
            accounts.c.credit,
            accounts.c.withdrawn,
            descriptions.c.title,
            tokens.c.symbol,
            tokens.c.decimals,
        )
        .select_from(projects)
        .outerjoin(
            accounts,
            and_(accounts.c.project == projects.c.number, accounts.c.address == address),
        )
        .outerjoin(descriptions, descriptions.c.cid == projects.c.description_cid)
        .outerjoin(tokens, tokens.c.address == projects.c.token)
        .where(projects.c.number.in_(its))
        .order_by(projects.c.number.desc())
        .limit(MOST_PROJECTS)
    )
    found: list[Account] = []
    totals: dict[str, tuple[Token, Counter[str]]] = {}
    for row in reader.connection.execute(query).mappings():
        params = params_of(row["params"])
        amounts = {name: row[name] or 0 for name in ("stake", "credit", "withdrawn")}
        amounts["bond"] = row["bond"] if row["aggregator"] == address else 0
        amounts["escrow"] = row["escrow"] if row["sponsor"] == address else 0
        roles: dict[Role, bool] = {
            "sponsor": row["sponsor"] == address,
            "aggregator": row["aggregator"] == address,
            "slash_sink": params.slash_sink == address,
            "trainer": bool(row["trainer"]),
        }
        token = reader.token(row)
        found.append(
            Account(
                project=hexed(row["id"]),
                title=row["title"],
                roles=[name for name, has in roles.items() if has],
                token=token,
                **{name: str(amount) for name, amount in amounts.items()},
            )
        )
        totals.setdefault(token.address, (token, Counter()))[1].update(amounts)
    balances = [
        Balance(
            token=token,
            wallet=None,
            **{name: str(amount) for name, amount in sums.items()},
        )
        for token, sums in totals.values()
    ]
    return balances, found


def across(reader: Reader, address: str) -> TrainerAcross:
    """Return how a trainer stands in all its projects."""
    query = (
        select(accounts.c.project)
        .where(accounts.c.address == address, accounts.c.trainer)
        .order_by(accounts.c.project.desc())
        .limit(MOST_PROJECTS)
    )
    numbers = list(reader.connection.execute(query).scalars())
    its_projects = {row["number"]: row for row in reader.project_rows(numbers)}
    its_accounts = {
        row["project"]: row
        for row in reader.connection.execute(
            select(accounts).where(accounts.c.address == address, accounts.c.project.in_(numbers))
        ).mappings()
    }
    current = {
        row["project"]: row
        for row in reader.connection.execute(
            select(updates)
            .join(projects, projects.c.number == updates.c.project)
            .where(
                updates.c.trainer == address,
                updates.c.project.in_(numbers),
                updates.c.round == projects.c.round,
            )
        ).mappings()
    }
    found: list[Trainer] = []
    for number in numbers:
        row = its_projects[number]
        params = params_of(row["params"])
        found.append(reader.trainer(row, params, its_accounts[number], current.get(number)))
    balances, _ = holdings(reader, address)
    actions = [action for trainer in found for action in trainer.next]
    actions.sort(key=lambda action: (not action.urgent, action.until or 1 << 62))
    return TrainerAcross(
        address=address,
        projects=found,
        commits=sum(trainer.commits for trainer in found),
        counted=sum(trainer.counted for trainer in found),
        outliers=sum(trainer.outliers for trainer in found),
        excluded=sum(trainer.excluded for trainer in found),
        totals=balances,
        next=actions,
    )
