"""Hand out the ABIs of the contracts; the code itself comes from `deploy.compile`."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

__all__ = ["abi"]


@functools.cache
def abi(name: str) -> list[dict[str, Any]]:
    """Return the ABI of a contract whose ABI is committed, e.g. `Marketplace`."""
    text = files(__name__).joinpath("abi", f"{name}.json").read_text()
    loaded: list[dict[str, Any]] = json.loads(text)
    return loaded
