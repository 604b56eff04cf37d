"""Add up the events of many projects to the rows of the index.

Pure: the rows of a project are a function of its events and of their blocks' times, whatever
batches they came in. What the contract keeps between events (windows, credits, strikes, who is
active) is kept here by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from api.logs import LogEvent
from api.tables import accounts, blank, params_of, params_text, projects
from marketplace.errors import CodecError
from marketplace.payout import RECORD
from marketplace.types import Membership, Params, Status

__all__ = ["Book", "Row"]

Row = dict[str, Any]
Key = tuple[Any, ...]


class Book:
    """Hold the rows of the projects that a batch of events touches.

    Rows that are in the database already are put in by `load`; `new` and `changed` say, a table,
    which rows must be written. `next_number` is what the next project is called in the index.
    """

    def __init__(self, next_number: int) -> None:
        self.next_number = next_number
        self.numbers: dict[bytes, int] = {}
        self.new: dict[str, dict[Key, Row]] = {
            "projects": {},
            "accounts": {},
            "rounds": {},
            "updates": {},
        }
        self.changed: dict[str, dict[Key, Row]] = {name: {} for name in self.new}
        self.events: list[Row] = []
        self._rows: dict[str, dict[Key, Row]] = {name: {} for name in self.new}
        self._params: dict[int, Params] = {}
        self._active: dict[int, list[str]] = {}
        self._updates: dict[tuple[int, int], list[Row]] = {}

    # -------------------------------------------------------------------- rows

    def load(
        self, project: Row, members: Iterable[Row], round_row: Row | None, updates: Iterable[Row]
    ) -> None:
        """Take in what the database holds of a project: all accounts, and its current round."""
        number = project["number"]
        self.numbers[project["id"]] = number
        self._rows["projects"][number,] = project
        self._params[number] = params_of(project["params"])
        active = []
        for account in members:
            self._rows["accounts"][number, account["address"]] = account
            if account["membership"] == Membership.ACTIVE:
                active.append(account)
        active.sort(key=lambda row: row["position"])
        self._active[number] = [row["address"] for row in active]
        if round_row is not None:
            self._rows["rounds"][number, round_row["number"]] = round_row
        for update in updates:
            self._rows["updates"][number, update["round"], update["trainer"]] = update
            self._updates.setdefault((number, update["round"]), []).append(update)

    def _insert(self, table: str, key: Key, row: Row) -> Row:
        self._rows[table][key] = row
        self.new[table][key] = row
        return row

    def _touch(self, table: str, key: Key) -> Row:
        row = self._rows[table][key]
        if key not in self.new[table]:
            self.changed[table][key] = row
        return row

    def _account(self, project: int, address: str) -> Row:
        key = (project, address)
        if key in self._rows["accounts"]:
            return self._touch("accounts", key)
        row: Row = blank(accounts)
        row |= {
            "project": project,
            "address": address,
            "trainer": False,
            "membership": int(Membership.NONE),
            "encryption_key": None,
        }
        return self._insert("accounts", key, row)

    def _round(self, project: Row) -> Row:
        return self._touch("rounds", (project["number"], project["round"]))

    def _open_round(self, project: Row, opens_at: int) -> None:
        number = project["number"]
        project["commits"] = project["reveals"] = 0
        row: Row = {
            "project": number,
            "number": project["round"],
            "status": "open",
            "commits": 0,
            "reveals": 0,
            "settled_rounds": 0,
            "position": 0,
            "closed_at": 0,
            "transaction": None,
            "settler": "",
            "model_cid": None,
            "gram": None,
            "paid": 0,
            "slashed": 0,
            "outliers": 0,
            "excluded": 0,
            "bond_lost": 0,
            "exclusions": None,
            "root": None,
            "active": project["active"],
        }
        self._insert("rounds", (number, project["round"]), row)
        self._set_windows(project, row, opens_at)

    def _set_windows(self, project: Row, row: Row, opens_at: int) -> None:
        params = self._params[project["number"]]
        project["opens_at"] = opens_at
        project["commit_end"] = opens_at + params.commit_window
        project["reveal_end"] = project["commit_end"] + params.reveal_window
        project["settle_end"] = project["reveal_end"] + params.settle_window
        self._copy_windows(project, row)

    def _copy_windows(self, project: Row, row: Row) -> None:
        for name in ("opens_at", "commit_end", "reveal_end", "settle_end"):
            row[name] = project[name]

    def _revealed(self, project: Row) -> list[Row]:
        """Return the current round's reveals in their order, ready to be changed."""
        number, round_number = project["number"], project["round"]
        rows = [row for row in self._updates.get((number, round_number), []) if row["place"] >= 0]
        rows.sort(key=lambda row: int(row["place"]))
        return [self._touch("updates", (number, round_number, row["trainer"])) for row in rows]

    # ------------------------------------------------------------------ events

    def add(self, events: Iterable[LogEvent], timestamps: Mapping[int, int]) -> None:
        """Take in events in their order; `timestamps` has the times of their blocks."""
        for event in events:
            values, time = event.values, timestamps[event.block]
            if event.name == "ProjectOpened":
                project = self._opened(event, time)
            else:
                number = self.numbers.get(values.get("project", b""))
                if number is None:
                    raise CodecError(f"{event.name} at {event.position} is of no known project")
                project = self._touch("projects", (number,))
                project["last_at"] = time
                round_number = values.get("round", project["round"])
                self._note(event, project["number"], round_number)
                handler = _HANDLERS.get(event.name)
                if handler is not None:
                    handler(self, project, event, time)

    def _note(self, event: LogEvent, number: int, round_number: int) -> None:
        values = event.values
        account = next(
            (
                values[name]
                for name in ("trainer", "account", "settler", "sponsor")
                if name in values
            ),
            "",
        )
        amount = next(
            (values[name] for name in ("amount", "stake", "refund", "bondLost") if name in values),
            None,
        )
        self.events.append(
            {
                "position": event.position,
                "project": number,
                "name": event.name,
                "round": round_number,
                "account": account,
                "amount": amount,
                "transaction": event.transaction,
            }
        )

    def _opened(self, event: LogEvent, time: int) -> Row:
        params = Params.of(event.values["params"])
        number = self.next_number
        self.next_number += 1
        project_id = bytes(event.values["project"])
        self.numbers[project_id] = number
        self._params[number] = params
        self._active[number] = []
        row: Row = blank(projects)
        row |= {
            "number": number,
            "id": project_id,
            "position": event.position,
            "transaction": event.transaction,
            "opened_at": time,
            "sponsor": event.values["sponsor"],
            "aggregator": params.aggregator,
            "token": params.token,
            "description_cid": params.description_cid,
            "params": params_text(params),
            "status": int(Status.BONDING),
            "reward": params.reward,
            "escrow": params.escrow,
            "last_at": time,
        }
        self._note(event, number, 0)
        project = self._insert("projects", (number,), row)
        if params.root_trainer is not None:
            self._account(number, params.root)["trainer"] = True
        return project

    def _bonded(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        project["status"] = int(Status.RUNNING)
        project["round"] = 1
        project["bond"] = event.values["amount"]
        self._open_round(project, event.values["opensAt"])

    def _joined(self, project: Row, event: LogEvent, time: int) -> None:
        number, address = project["number"], event.values["trainer"]
        params = self._params[number]
        account = self._account(number, address)
        account["trainer"] = True
        account["membership"] = int(Membership.ACTIVE)
        account["position"] = event.values["index"]
        account["stake"] = params.stake
        account["encryption_key"] = event.values["encryptionKey"]
        account["joined_at"] = time
        account["last_commit"] = project["round"] - 1
        self._active[number].append(address)
        project["active"] += 1
        row = self._round(project)
        row["active"] = project["active"]
        full = project["active"] == params.capacity
        if project["round"] == 1 and full and time < project["opens_at"]:
            self._set_windows(project, row, time)

    def _deactivated(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        number, address = project["number"], event.values["trainer"]
        account = self._account(number, address)
        active = self._active[number]
        last = active[-1]
        place = account["position"]
        active[place] = last
        active.pop()
        self._account(number, last)["position"] = place
        account["membership"] = int(Membership.INACTIVE)
        account["last_commit"] = 0
        project["active"] -= 1

    def _leave_requested(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        account = self._account(project["number"], event.values["trainer"])
        account["membership"] = int(Membership.LEAVING)
        account["exit_at"] = event.values["exitAt"]

    def _left(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        account = self._account(project["number"], event.values["trainer"])
        account["credit"] += event.values["stake"]
        account["stake"] = 0
        account["membership"] = int(Membership.NONE)
        account["exit_at"] = 0

    def _committed(self, project: Row, event: LogEvent, time: int) -> None:
        number, round_number = project["number"], event.values["round"]
        address = event.values["trainer"]
        account = self._account(number, address)
        account["commits"] += 1
        account["last_commit"] = round_number
        row = {
            "project": number,
            "round": round_number,
            "trainer": address,
            "status": "committed",
            "position": event.position,
            "committed_at": time,
            "commit_transaction": event.transaction,
            "place": -1,
            "revealed_at": 0,
            "reveal_transaction": None,
            "point": None,
            "cid": None,
            "share": 0,
            "slashed": 0,
            "weight": 0,
            "norm": 0,
            "strikes": account["strikes"],
            "stake": account["stake"],
            "reason": 0,
            "deactivated": False,
        }
        self._insert("updates", (number, round_number, address), row)
        self._updates.setdefault((number, round_number), []).append(row)
        self._round(project)["commits"] += 1

    def _spent(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        account = self._account(project["number"], event.values["trainer"])
        account["spent_milli"] = event.values["epsilonMilli"]

    def _commits_closed(self, project: Row, event: LogEvent, time: int) -> None:
        params = self._params[project["number"]]
        project["commits"] = event.values["commits"]
        if time < project["commit_end"]:
            project["commit_end"] = time
            project["reveal_end"] = time + params.reveal_window
            project["settle_end"] = project["reveal_end"] + params.settle_window
            self._copy_windows(project, self._round(project))

    def _reveal(self, project: Row, event: LogEvent, time: int) -> None:
        number, values = project["number"], event.values
        key = (number, values["round"], values["trainer"])
        row = self._touch("updates", key)
        row["status"] = "revealed"
        row["place"] = project["reveals"]
        row["revealed_at"] = time
        row["reveal_transaction"] = event.transaction
        row["point"], row["cid"] = values["point"], values["cid"]
        project["reveals"] += 1
        self._round(project)["reveals"] += 1
        self._account(number, values["trainer"])["reveals"] += 1

    def _settled(self, project: Row, event: LogEvent, time: int) -> None:
        number, values = project["number"], event.values
        params, row = self._params[number], self._round(project)
        reveals = self._revealed(project)
        words = np.frombuffer(values["records"], dtype=RECORD)
        if len(words) != len(reveals):
            raise CodecError(
                f"round {project['round']} of project {number} settles {len(words)} updates and "
                f"{len(reveals)} were revealed"
            )
        columns = {name: words[name].tolist() for name in RECORD.names or ()}
        included = columns["reason"].count(0)
        norms = iter(_norms(values["gram"], included))
        paid = slashed = 0
        row["root"] = None if params.root_trainer is None else "absent"
        for i, update in enumerate(reveals):
            account = self._account(number, update["trainer"])
            share = (columns["share_high"][i] << 64) + columns["share_low"][i]
            lost = (columns["slashed_high"][i] << 64) + columns["slashed_low"][i]
            account["strikes"] = columns["strikes"][i]
            account["stake"] -= lost
            account["credit"] += share
            account["earned"] += share
            account["slashed"] += lost
            update["share"], update["slashed"] = share, lost
            update["weight"], update["strikes"] = columns["weight"][i], columns["strikes"][i]
            update["stake"] = account["stake"]
            update["reason"] = columns["reason"][i]
            update["deactivated"] = columns["deactivated"][i] != 0
            if update["reason"]:
                update["status"] = "excluded"
                account["excluded"] += 1
                row["excluded"] += 1
            else:
                update["norm"] = next(norms)
                if update["trainer"] == params.root_trainer:
                    aside = columns["outlier"][i] != 0
                    update["status"] = "aside" if aside else "root"
                    row["root"] = "set aside" if aside else "believed"
                elif columns["outlier"][i]:
                    update["status"] = "outlier"
                    account["outliers"] += 1
                    row["outliers"] += 1
                else:
                    update["status"] = "counted"
                    account["counted"] += 1
            paid += share
            slashed += lost
        if params.fee:
            self._account(number, values["settler"])["credit"] += params.fee
        if slashed:
            self._account(number, params.slash_sink)["credit"] += slashed
        project["settled_rounds"] += 1
        project["failures"] = 0
        project["escrow"] -= paid + params.fee
        project["paid"] += paid
        project["fees"] += params.fee
        project["slashed"] += slashed
        row |= {
            "status": "settled",
            "settled_rounds": project["settled_rounds"],
            "settler": values["settler"],
            "model_cid": values["modelCid"],
            "gram": values["gram"],
            "paid": paid,
            "slashed": slashed,
        }
        self._close_round(row, event, time)
        if project["settled_rounds"] < params.rounds:
            project["round"] += 1
            self._open_round(project, time)

    def _failed(self, project: Row, event: LogEvent, time: int) -> None:
        number, lost = project["number"], event.values["bondLost"]
        params, row = self._params[number], self._round(project)
        reveals = self._revealed(project)
        for update in reveals:
            update["status"] = "void"
        if event.values["exclusions"]:
            for update, reason in zip(reveals, event.values["exclusions"], strict=True):
                update["reason"] = reason
        if lost and event.values["exclusions"]:
            self._account(number, params.slash_sink)["credit"] += lost
        elif lost:
            for update in reveals:
                self._account(number, update["trainer"])["credit"] += lost // len(reveals)
        project["bond"] -= lost
        project["failures"] += 1
        row |= {
            "status": "failed",
            "bond_lost": lost,
            "exclusions": event.values["exclusions"],
        }
        self._close_round(row, event, time)
        if project["failures"] < params.max_failures:
            project["round"] += 1
            self._open_round(project, time)

    def _close_round(self, row: Row, event: LogEvent, time: int) -> None:
        row["position"] = event.position
        row["closed_at"] = time
        row["transaction"] = event.transaction

    def _ended(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        project["status"] = int(event.values["status"])
        aggregator = self._params[project["number"]].aggregator
        self._account(project["number"], aggregator)["credit"] += project["bond"]
        project["bond"] = 0

    def _closed(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        project["status"] = int(Status.CLOSED)
        refund = event.values["refund"]
        project["escrow"] -= refund
        project["refunded"] += refund
        self._account(project["number"], project["sponsor"])["credit"] += refund

    def _withdrawn(self, project: Row, event: LogEvent, time: int) -> None:
        del time
        account = self._account(project["number"], event.values["account"])
        account["credit"] -= event.values["amount"]
        account["withdrawn"] += event.values["amount"]


_HANDLERS: Mapping[str, Callable[[Book, Row, LogEvent, int], None]] = {
    "Bonded": Book._bonded,
    "Joined": Book._joined,
    "Deactivated": Book._deactivated,
    "LeaveRequested": Book._leave_requested,
    "Left": Book._left,
    "Committed": Book._committed,
    "PrivacySpent": Book._spent,
    "CommitsClosed": Book._commits_closed,
    "Revealed": Book._reveal,
    "Settled": Book._settled,
    "RoundFailed": Book._failed,
    "ProjectEnded": Book._ended,
    "ProjectClosed": Book._closed,
    "Withdrawn": Book._withdrawn,
}


def _norms(gram: bytes, n: int) -> list[int]:
    """Return the lengths of n updates in steps, from the diagonal of their packed triangle."""
    triangle = np.frombuffer(gram, dtype=">i8")
    rows = np.arange(n)
    diagonal = rows * n - rows * (rows - 1) // 2
    return [math.isqrt(max(0, square)) for square in triangle[diagonal].tolist()]
