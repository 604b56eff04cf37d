"""Read the index for people: rows to the models of the API.

Covered: projects, rounds, trainers of a project. Lists over projects are in `api.lists`, what an
address has in all of them in `api.addresses`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, select

from api.entries import Evaluation
from api.errors import BadRequestError, NoSuchError
from api.index import read_cursor
from api.models import (
    GramMatrix,
    Project,
    ProjectSummary,
    Round,
    RoundDetail,
    Token,
    Trainer,
    Update,
    Windows,
)
from api.notation import Page
from api.paging import page_of
from api.standing import next_actions, phase
from api.tables import (
    POSITION_BITS,
    accounts,
    descriptions,
    params_of,
    projects,
    rounds,
    tokens,
    updates,
)
from ipfs import Cid
from marketplace.codec import unpack_gram
from marketplace.errors import MarketplaceError
from marketplace.scoring import MultiKrumParams
from marketplace.types import Deployment, Exclusion, Params, Status

__all__ = ["Reader", "cid_text", "counted_of", "hexed"]

Found = Mapping[Any, Any]
Published = Callable[[bytes, str], Mapping[int, Evaluation]]
"""Find what a sponsor published about a project's models, by settled rounds."""


def hexed(data: bytes) -> str:
    """Write bytes as the API shows them."""
    return "0x" + data.hex()


def cid_text(digest: bytes) -> str:
    """Write a digest as the CID of its directory."""
    return str(Cid.from_digest(digest))


# ----------------------------------------------------------------------- reader

_SORTS: Mapping[str, tuple[tuple[Any, ...], bool]] = {
    "newest": ((projects.c.number,), True),
    "oldest": ((projects.c.number,), False),
    "reward": ((projects.c.reward, projects.c.number), True),
    "escrow": ((projects.c.escrow, projects.c.number), True),
    "activity": ((projects.c.last_at, projects.c.number), True),
}

_PROJECTS = (
    select(
        projects,
        descriptions.c.title,
        descriptions.c.summary,
        descriptions.c.document,
        tokens.c.symbol,
        tokens.c.decimals,
    )
    .select_from(projects)
    .outerjoin(descriptions, descriptions.c.cid == projects.c.description_cid)
    .outerjoin(tokens, tokens.c.address == projects.c.token)
)


class Reader:
    """Answer questions from one state of the index."""

    def __init__(
        self,
        connection: Connection,
        deployment: Deployment,
        published: Published,
    ) -> None:
        self.connection = connection
        self.published = published
        self.rules = {address.lower(): name for name, address in deployment.rules.items()}
        self.verifiers = {address.lower(): name for name, address in deployment.verifiers.items()}
        self.now = read_cursor(connection).block_time

    # ---------------------------------------------------------------- projects

    def project_row(self, project: str) -> Found:
        """Return the row of the project with this id, or the only one that begins so."""
        digits = project.lower().removeprefix("0x")
        if len(digits) > 64 or not digits or set(digits) - set("0123456789abcdef"):
            raise BadRequestError(
                f"{project[:80]!r} is no project id: give 0x and its 64 hexadecimal digits"
            )
        low = bytes.fromhex(digits.ljust(64, "0"))
        high = bytes.fromhex(digits.ljust(64, "f"))
        query = _PROJECTS.where(projects.c.id >= low, projects.c.id <= high).limit(2)
        found = self.connection.execute(query).mappings().all()
        if not found:
            raise NoSuchError(f"no project begins with 0x{digits}; see /v1/projects")
        if len(found) > 1:
            raise BadRequestError(f"several projects begin with 0x{digits}; give more digits")
        return found[0]

    def project_rows(self, numbers: Sequence[int]) -> Sequence[Found]:
        """Return the rows of projects by their numbers in the index."""
        query = _PROJECTS.where(projects.c.number.in_(numbers))
        return self.connection.execute(query).mappings().all()

    def projects(
        self,
        limit: int,
        cursor: str | None,
        sort: str = "newest",
        status: str | None = None,
        search: str | None = None,
        sponsor: str | None = None,
        trainer: str | None = None,
    ) -> Page[ProjectSummary]:
        """Return a page of projects."""
        query = _PROJECTS
        if status is not None:
            query = query.where(projects.c.status == int(Status[status.upper()]))
        if sponsor is not None:
            query = query.where(projects.c.sponsor == sponsor)
        if trainer is not None:
            its = select(accounts.c.project).where(
                accounts.c.address == trainer, accounts.c.trainer
            )
            query = query.where(projects.c.number.in_(its))
        for word in (search or "").lower().split():
            query = query.where(descriptions.c.words.contains(word, autoescape=True))
        keys, descending = _SORTS[sort]
        rows, following = page_of(self.connection, query, keys, descending, limit, cursor)
        return Page(items=[self._summary(row._mapping) for row in rows], next=following)

    def project(self, row: Found) -> Project:
        """Return everything about a project."""
        params = params_of(row["params"])
        settings = None
        if self.rules.get(params.rule.lower()) == "MultiKrumShapley":
            try:
                unpacked = MultiKrumParams.unpack(params.rule_params)
                settings = {
                    "max_outliers_bps": unpacked.max_outliers_bps,
                    "tolerance_bps": unpacked.tolerance_bps,
                }
            except MarketplaceError:
                settings = None
        plain = {
            name: str(value) if isinstance(value, int) and value >= 1 << 53 else value
            for name, value in json.loads(row["params"]).items()
        }
        return Project(
            **self._summary_fields(row, params),
            transaction=hexed(row["transaction"]),
            aggregator=params.aggregator,
            slash_sink=params.slash_sink,
            root=params.root_trainer,
            rule_address=params.rule,
            verifier_address=params.verifier,
            rule_params=hexed(params.rule_params),
            rule_settings=settings,
            bond=str(params.bond),
            bond_held=str(row["bond"]),
            bond_penalty=str(params.bond_penalty),
            budget=str(params.escrow),
            paid=str(row["paid"]),
            fees=str(row["fees"]),
            refunded=str(row["refunded"]),
            failures=row["failures"],
            max_failures=params.max_failures,
            patience=params.patience,
            step_bits=params.step_bits,
            clip_norm=str(params.clip_norm),
            epsilon_milli=params.epsilon_milli,
            join_window=params.join_window,
            commit_window=params.commit_window,
            reveal_window=params.reveal_window,
            settle_window=params.settle_window,
            exclusive_window=params.exclusive_window,
            unbonding_delay=params.unbonding_delay,
            slash_schedule=list(params.slash_schedule),
            description_cid=cid_text(params.description_cid),
            initial_commitment=hexed(params.initial_commitment),
            description=json.loads(row["document"]) if row["document"] else None,
            params=plain,
        )

    def _summary(self, row: Found) -> ProjectSummary:
        return ProjectSummary(**self._summary_fields(row, params_of(row["params"])))

    def _summary_fields(self, row: Found, params: Params) -> dict[str, Any]:
        return {
            "id": hexed(row["id"]),
            "title": row["title"],
            "summary": row["summary"],
            "model": _model_of(row["document"]) if row["document"] else None,
            "status": Status(row["status"]).name.lower(),
            "phase": phase(row, params.min_updates, self.now),
            "sponsor": row["sponsor"],
            "token": self.token(row),
            "reward": str(params.reward),
            "fee": str(params.fee),
            "stake": str(params.stake),
            "escrow": str(row["escrow"]),
            "spent": str(row["paid"] + row["fees"]),
            "slashed": str(row["slashed"]),
            "rounds": params.rounds,
            "settled_rounds": row["settled_rounds"],
            "round": row["round"],
            "capacity": params.capacity,
            "active": row["active"],
            "min_updates": params.min_updates,
            "dimension": params.dimension,
            "rule": self.rules.get(params.rule.lower()),
            "verifier": self.verifiers.get(params.verifier.lower()),
            "proof": self.proof(params),
            "windows": _windows(row),
            "opened_at": row["opened_at"],
            "last_at": row["last_at"],
        }

    def token(self, row: Found) -> Token:
        """Return the token of a project's row."""
        return Token(
            address=row["token"], symbol=row["symbol"] or "units", decimals=row["decimals"] or 0
        )

    def proof(self, params: Params) -> Literal["proven", "attested", "unknown"]:
        """Say how a project's matrices are known to be right."""
        name = self.verifiers.get(params.verifier.lower())
        if name is None:
            return "unknown"
        return "attested" if name == "AttestedGram" else "proven"

    # ------------------------------------------------------------------ rounds

    def rounds(self, project: Found, limit: int, cursor: str | None) -> Page[Round]:
        """Return a page of a project's rounds, newest first."""
        query = select(rounds).where(rounds.c.project == project["number"])
        rows, following = page_of(self.connection, query, (rounds.c.number,), True, limit, cursor)
        params = params_of(project["params"])
        published = self.evaluations(project)
        items = [
            Round(**self._round_fields(project, params, row._mapping, published)) for row in rows
        ]
        return Page(items=items, next=following)

    def round_row(self, project: Found, number: int) -> Found:
        """Return the row of a round."""
        query = select(rounds).where(
            rounds.c.project == project["number"], rounds.c.number == number
        )
        found = self.connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NoSuchError(
                f"the project has no round {number}; it has come to round {project['round']}"
            )
        return found

    def update_rows(self, project: Found, number: int) -> list[Found]:
        """Return a round's updates: reveals in their order, then mere commits."""
        query = select(updates).where(
            updates.c.project == project["number"], updates.c.round == number
        )
        rows = [dict(row) for row in self.connection.execute(query).mappings()]
        rows.sort(key=lambda row: (row["place"] < 0, row["place"], row["position"]))
        return list(rows)

    def round(self, project: Found, number: int) -> RoundDetail:
        """Return a round with its updates and its matrix."""
        row, params = self.round_row(project, number), params_of(project["params"])
        found = self.update_rows(project, number)
        matrix = None
        if row["gram"] is not None:
            included = [entry for entry in found if entry["place"] >= 0 and not entry["reason"]]
            matrix = _gram(row["gram"], [entry["trainer"] for entry in included])
        return RoundDetail(
            **self._round_fields(project, params, row, self.evaluations(project)),
            updates=[update_of(project["id"], entry) for entry in found],
            gram=matrix,
        )

    def model_digest(self, project: Found, settled_rounds: int) -> bytes:
        """Return the digest of the CID of the model after so many paid rounds."""
        if settled_rounds == 0:
            return bytes(project["description_cid"])
        query = select(rounds.c.model_cid).where(
            rounds.c.project == project["number"], rounds.c.settled_rounds == settled_rounds
        )
        found = self.connection.execute(query).scalar_one_or_none()
        if found is None:
            raise NoSuchError(
                f"the project has paid {project['settled_rounds']} rounds, not {settled_rounds}"
            )
        return bytes(found)

    def evaluations(self, project: Found) -> Mapping[int, Evaluation]:
        """Return what the project's sponsor published, by settled rounds."""
        return self.published(project["id"], project["sponsor"])

    @staticmethod
    def accuracy(
        published: Mapping[int, Evaluation], settled_rounds: int, digest: bytes | None
    ) -> float | None:
        """Return the published accuracy of a model; None where another model was measured."""
        found = published.get(settled_rounds)
        good = found is not None and digest is not None and found.model_cid == cid_text(digest)
        return found.accuracy if found is not None and good else None

    def _round_fields(
        self, project: Found, params: Params, row: Found, published: Mapping[int, Evaluation]
    ) -> dict[str, Any]:
        settled = row["status"] == "settled"
        return {
            "project": hexed(project["id"]),
            "number": row["number"],
            "status": row["status"],
            "windows": _windows(row),
            "active": row["active"],
            "commits": row["commits"],
            "reveals": row["reveals"],
            "counted": counted_of(row) if settled else 0,
            "outliers": row["outliers"],
            "excluded": row["excluded"],
            "paid": str(row["paid"]),
            "fee": str(params.fee if settled else 0),
            "slashed": str(row["slashed"]),
            "settled_rounds": row["settled_rounds"],
            "settler": row["settler"] or None,
            "closed_at": row["closed_at"],
            "block": row["position"] >> POSITION_BITS,
            "transaction": None if row["transaction"] is None else hexed(row["transaction"]),
            "model_cid": None if row["model_cid"] is None else cid_text(row["model_cid"]),
            "bond_lost": str(row["bond_lost"]),
            "root": row["root"],
            "verifier": self.verifiers.get(params.verifier.lower()),
            "proof": self.proof(params),
            "accuracy": self.accuracy(published, row["settled_rounds"], row["model_cid"]),
        }

    # ---------------------------------------------------------------- trainers

    def trainers(self, project: Found, limit: int, cursor: str | None) -> Page[Trainer]:
        """Return a page of a project's trainers, best paid first."""
        query = select(accounts).where(accounts.c.project == project["number"], accounts.c.trainer)
        keys = (accounts.c.earned, accounts.c.address)
        rows, following = page_of(self.connection, query, keys, True, limit, cursor)
        params = params_of(project["params"])
        current = {row["trainer"]: row for row in self.update_rows(project, project["round"])}
        items = [
            self.trainer(project, params, row._mapping, current.get(row._mapping["address"]))
            for row in rows
        ]
        return Page(items=items, next=following)

    def trainer_row(self, project: Found, address: str) -> Found:
        """Return the row of a trainer in a project."""
        query = select(accounts).where(
            accounts.c.project == project["number"],
            accounts.c.address == address,
            accounts.c.trainer,
        )
        found = self.connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NoSuchError(
                f"{address} never joined the project; see /v1/projects/{hexed(project['id'])}"
                "/trainers"
            )
        return found

    def one_trainer(self, project: Found, address: str) -> Trainer:
        """Return how one trainer stands in a project."""
        account = self.trainer_row(project, address)
        query = select(updates).where(
            updates.c.project == project["number"],
            updates.c.round == project["round"],
            updates.c.trainer == address,
        )
        update = self.connection.execute(query).mappings().one_or_none()
        return self.trainer(project, params_of(project["params"]), account, update)

    def trainer(
        self, project: Found, params: Params, account: Found, update: Found | None
    ) -> Trainer:
        """Return how a trainer stands; `update` is its one of the current round."""
        return Trainer(
            project=hexed(project["id"]),
            address=account["address"],
            membership=_MEMBERSHIPS[account["membership"]],
            stake=str(account["stake"]),
            credit=str(account["credit"]),
            earned=str(account["earned"]),
            slashed=str(account["slashed"]),
            withdrawn=str(account["withdrawn"]),
            spent_milli=account["spent_milli"],
            strikes=account["strikes"],
            commits=account["commits"],
            reveals=account["reveals"],
            counted=account["counted"],
            outliers=account["outliers"],
            excluded=account["excluded"],
            last_commit=account["last_commit"],
            joined_at=account["joined_at"],
            exit_at=account["exit_at"],
            token=self.token(project),
            next=next_actions(project, params, account, update, self.now),
        )


_MEMBERSHIPS: tuple[Literal["none", "active", "leaving", "inactive"], ...] = (
    "none",
    "active",
    "leaving",
    "inactive",
)


@functools.lru_cache(maxsize=8192)
def _model_of(document: str) -> str:
    return str(json.loads(document)["model"])


def update_of(project_id: bytes, row: Found) -> Update:
    """Return the update that a row is."""
    return Update(
        project=hexed(project_id),
        round=row["round"],
        trainer=row["trainer"],
        status=row["status"],
        committed_at=row["committed_at"],
        commit_transaction=hexed(row["commit_transaction"]),
        place=None if row["place"] < 0 else row["place"],
        revealed_at=row["revealed_at"],
        reveal_transaction=None
        if row["reveal_transaction"] is None
        else hexed(row["reveal_transaction"]),
        point=None if row["point"] is None else hexed(row["point"]),
        cid=None if row["cid"] is None else cid_text(row["cid"]),
        share=str(row["share"]),
        slashed=str(row["slashed"]),
        weight=row["weight"],
        norm=row["norm"],
        strikes=row["strikes"],
        stake=str(row["stake"]),
        reason=Exclusion.word(row["reason"]) or None,
        deactivated=row["deactivated"],
    )


def counted_of(row: Found) -> int:
    """Return how many updates a settled round's step was made from, or might have been."""
    rooted = row["root"] in ("believed", "set aside")
    return int(row["reveals"] - row["outliers"] - row["excluded"] - rooted)


def _windows(row: Found) -> Windows:
    return Windows(
        opens_at=row["opens_at"],
        commit_end=row["commit_end"],
        reveal_end=row["reveal_end"],
        settle_end=row["settle_end"],
    )


def _gram(packed: bytes, trainers: list[str]) -> GramMatrix:
    matrix = unpack_gram(packed, len(trainers))
    norms = np.sqrt(np.maximum(np.diagonal(matrix), 0).astype(np.float64))
    norms[norms == 0] = math.inf
    cosines = np.round(matrix / norms[:, None] / norms[None, :], 4)
    return GramMatrix(
        trainers=trainers,
        matrix=[[str(value) for value in line] for line in matrix.tolist()],
        cosines=cosines.tolist(),
    )
