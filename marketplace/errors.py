"""Name everything that can go wrong in the kernel.

MarketplaceError
├── InputError            what the user gave cannot be used
│   └── NotFoundError     it names something that does not exist
├── CodecError            bytes are not the update, model or description they should be
│   └── SealedError       they are sealed to others, so that it cannot be known
├── ProofError            a point, scalar, reference string or proof is not acceptable
└── ChainError            the chain cannot be reached or did not answer in time
    ├── LostError         it forgot a transaction: an older state, or a reorganisation
    └── ContractError     a contract refused, by the name of its own error

Messages carry the offending value, the limit and the next step. `exit_code` is what a command
that fails with the error returns to the shell.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ChainError",
    "CodecError",
    "ContractError",
    "InputError",
    "LostError",
    "MarketplaceError",
    "NotFoundError",
    "ProofError",
    "SealedError",
    "unusable_path",
]


class MarketplaceError(Exception):
    """Base of all errors of the kernel."""

    exit_code = 1


class InputError(MarketplaceError):
    """What the user gave cannot be used."""

    exit_code = 2


class NotFoundError(InputError):
    """The user named something that does not exist."""

    exit_code = 4


class CodecError(MarketplaceError):
    """Bytes are not the update, model or description that they should be."""

    exit_code = 6


class SealedError(CodecError):
    """Bytes are sealed to others: whether they are good cannot be checked here."""


class ProofError(MarketplaceError):
    """A point, scalar, reference string or proof is not acceptable."""

    exit_code = 6


class ChainError(MarketplaceError):
    """The chain cannot be reached or did not answer in time."""

    exit_code = 5


class LostError(ChainError):
    """The chain forgot a transaction: it has an older state, or was reorganised."""


class ContractError(ChainError):
    """A contract refused: `name` is the Solidity error, `values` its arguments."""

    exit_code = 3

    def __init__(self, name: str, values: Sequence[object] = (), hint: str = "") -> None:
        self.name = name
        self.values = tuple(values)
        shown = ", ".join("0x" + v.hex() if isinstance(v, bytes) else str(v) for v in self.values)
        super().__init__(f"{name}({shown})" + (f": {hint}" if hint else ""))


def unusable_path(error: OSError, wanted: str = "another path") -> InputError:
    """Return what to tell whoever named a path that the system refused; `wanted` follows "give"."""
    path = error.filename
    match error:
        case FileNotFoundError():
            return NotFoundError(f"there is no {path}; give {wanted}")
        case IsADirectoryError():
            what = f"{path} is a folder, where a file is needed"
        case NotADirectoryError():
            what = f"a file stands where {path} needs a folder"
        case FileExistsError():
            what = f"{path} is there already, and is no folder"
        case PermissionError():
            return InputError(f"the permissions of {path} forbid it; change them, or give {wanted}")
        case _:
            what = f"{path} cannot be used: {error.strerror}"
    return InputError(f"{what}; give {wanted}")
