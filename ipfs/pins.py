"""Remember which roots are wanted, and by which names: an empty file NAME/CID for each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ipfs.cid import Cid
from ipfs.disk import disk_errors, sync_folder
from ipfs.errors import CidError, InputError, NotFoundError, StoreError

__all__ = ["DEFAULT_PIN", "Pins", "check_pin_name"]

DEFAULT_PIN = "kept"
"""Name under which content is pinned that nobody gave another name to."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")


def check_pin_name(name: str | None) -> None:
    """Raise `InputError` unless pins can have this name, or none."""
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} cannot name pins: up to 128 letters, digits, dots, dashes and"
            " underscores, the first a letter or digit"
        )


class Pins:
    """Keep pins in a folder, which must be there. Names are independent of each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, cid: Cid, name: str) -> None:
        """Let a name want a root; durable when this returns."""
        folder = self._folder / name
        with disk_errors(folder):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                sync_folder(folder.parent)
            os.close(os.open(folder / str(cid), os.O_CREAT | os.O_WRONLY, 0o644))
            sync_folder(folder)

    def remove(self, cid: Cid, name: str) -> None:
        """Let a name want a root no longer; raises `NotFoundError` if it did not."""
        folder = self._folder / name
        with disk_errors(folder):
            try:
                (folder / str(cid)).unlink()
            except FileNotFoundError:
                raise NotFoundError(f"{cid} is not pinned under the name {name!r}") from None
            sync_folder(folder)

    def list(self, name: str | None = None) -> list[tuple[str, Cid]]:
        """List (name, root) of all pins, or of those of one name."""
        with disk_errors(self._folder):
            names = sorted(p.name for p in self._folder.iterdir()) if name is None else [name]
            return [(each, cid) for each in names for cid in sorted(self._roots(each))]

    def _roots(self, name: str) -> Iterator[Cid]:
        with suppress(FileNotFoundError):
            for file in (self._folder / name).iterdir():
                try:
                    yield Cid.parse(file.name)
                except CidError as error:
                    raise StoreError(f"{file} does not belong there: {error}") from error
