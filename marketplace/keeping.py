"""Name what each round needs kept, and say what no round needs any more. Pure.

A store keeps content under names; each round of a project has one, and 0 is the name of the
project's description and initial model. What is needed: round 0; rounds that have not ended; and of
the settled rounds the last few, with their updates and the models they gave. From two of them any
interested party computes the current model again, which is why two are the default. Who wants to
check older rounds (`tribute verify`) keeps more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from marketplace.errors import InputError
from marketplace.history import History

__all__ = ["DEFAULT_KEPT_ROUNDS", "pin_name", "project_of", "released"]

DEFAULT_KEPT_ROUNDS = 2

_NAME = re.compile(r"project-([0-9a-f]{16})\.round-(\d{1,10})")


def pin_name(project: bytes, round_number: int) -> str:
    """Return the name under which a round's content is kept."""
    return f"project-{project.hex()[:16]}.round-{round_number}"


def project_of(name: str) -> str | None:
    """Return the first 16 digits of the project that a name belongs to, if to any."""
    found = _NAME.fullmatch(name)
    return found[1] if found else None


def released(
    names: Iterable[str], project: bytes, history: History, current: int, keep: int
) -> list[str]:
    """Return those names of a project's rounds that need nothing kept any more.

    `current` is the project's round; `keep` is how many settled rounds stay, at least 1.
    """
    if keep < 1:
        raise InputError(f"{keep} settled rounds to keep; the current model takes 1")
    settled = [found.number for found in history.settled]
    needed = {0, *settled[-keep:]}
    old = []
    for name in sorted(set(names)):
        found = _NAME.fullmatch(name)
        if found is None or found[1] != project.hex()[:16]:
            continue
        number = int(found[2])
        if number < current and number not in needed:
            old.append(name)
    return old
