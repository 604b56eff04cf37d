"""Say what a project waits for, and what a trainer can do next.

Pure: rows of the index and the chain's time in, words out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.models import Action
from marketplace.types import Membership, Params, Status

__all__ = ["next_actions", "phase"]

_ENDED = (Status.FINISHED, Status.HALTED, Status.CLOSED)


def phase(project: Mapping[Any, Any], min_updates: int, now: int) -> str:
    """Return what the project waits for at the chain's time."""
    if project["status"] == Status.BONDING:
        return "bonding"
    if project["status"] in _ENDED:
        return "ended"
    if now < project["opens_at"]:
        return "joining"
    if now < project["commit_end"]:
        return "commit"
    enough = project["reveals"] >= min_updates
    if now < project["reveal_end"]:
        complete = project["reveals"] == project["commits"] != 0
        return "settle" if complete and enough else "reveal"
    return "settle" if enough and now < project["settle_end"] else "overdue"


def next_actions(
    project: Mapping[Any, Any],
    params: Params,
    account: Mapping[Any, Any],
    update: Mapping[Any, Any] | None,
    now: int,
) -> list[Action]:
    """Return what a trainer can do, most urgent first; `update` is its one of this round."""
    found: list[Action] = []
    ended = project["status"] in _ENDED
    membership = account["membership"]
    is_root = account["address"] == params.root_trainer
    if (membership == Membership.ACTIVE or is_root) and project["status"] == Status.RUNNING:
        found.append(_in_round(project, params, update, now))
    if membership == Membership.INACTIVE:
        found.append(
            Action(
                name="leave",
                text="You are inactive: leave to get your stake back.",
                until=0,
                urgent=False,
            )
        )
    if membership == Membership.LEAVING:
        free = ended or now >= account["exit_at"]
        found.append(
            Action(
                name="release" if free else "wait",
                text="Your stake is free: release it."
                if free
                else "Your stake is free after the unbonding delay.",
                until=0 if free else account["exit_at"],
                urgent=False,
            )
        )
    if ended and membership == Membership.ACTIVE:
        found.append(
            Action(
                name="leave",
                text="The project has ended: leave to get your stake back.",
                until=0,
                urgent=False,
            )
        )
    if account["credit"]:
        found.append(Action(name="withdraw", text="Withdraw your credit.", until=0, urgent=False))
    gone = membership == Membership.NONE and project["status"] == Status.RUNNING
    if gone and not is_root and project["active"] < params.capacity:
        found.append(Action(name="rejoin", text="You may join again.", until=0, urgent=False))
    return found


def _in_round(
    project: Mapping[Any, Any], params: Params, update: Mapping[Any, Any] | None, now: int
) -> Action:
    number, where = project["round"], phase(project, params.min_updates, now)
    if where == "joining":
        text = f"Round {number} opens soon; it starts at once when the project is full."
        return Action(name="wait", text=text, until=project["opens_at"], urgent=False)
    if where == "commit" and update is None:
        text = f"Train and commit an update for round {number}."
        return Action(name="train", text=text, until=project["commit_end"], urgent=True)
    if where == "commit":
        text = f"Committed: reveal once the commits of round {number} are closed."
        return Action(name="wait", text=text, until=project["commit_end"], urgent=False)
    if where == "reveal" and update is not None and update["place"] < 0:
        text = f"Reveal your update of round {number}."
        return Action(name="reveal", text=text, until=project["reveal_end"], urgent=True)
    if update is None:
        text = f"You did not commit in round {number}; the next round is open to you again."
        return Action(name="wait", text=text, until=0, urgent=False)
    if where == "overdue":
        text = f"Round {number} was not settled in time: anybody may expire it."
        return Action(name="settle", text=text, until=0, urgent=False)
    text = f"Wait for the settlement of round {number}."
    return Action(name="wait", text=text, until=project["settle_end"], urgent=False)
