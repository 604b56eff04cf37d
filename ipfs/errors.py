"""Name everything that can go wrong between content and its identifier.

IpfsError
├── InputError           what the user gave cannot be used
│   └── CidError         a text or bytes are no content identifier that is used here
├── NotFoundError        a block, or a name in a directory, is not there
├── BlockError           bytes are not what their identifier or format says
│   ├── CorruptError     a block has another hash than its identifier
│   └── FormatError      a block is not well formed, or of a kind that is not used here
├── LimitError           content is larger, deeper or wider than was asked for
├── TimeLimitError       an answer did not come within its time limit
└── StoreError           the disk or a remote store refused

Messages carry the offending value, the limit and the next step. `exit_code` is what a command
that fails with the error returns to the shell.
"""

from __future__ import annotations

__all__ = [
    "BlockError",
    "CidError",
    "CorruptError",
    "FormatError",
    "InputError",
    "IpfsError",
    "LimitError",
    "NotFoundError",
    "StoreError",
    "TimeLimitError",
]


class IpfsError(Exception):
    """Base of all errors of the store."""

    exit_code = 1


class InputError(IpfsError):
    """What the user gave cannot be used."""

    exit_code = 2


class CidError(InputError):
    """A text or bytes are no content identifier that is used here."""


class NotFoundError(IpfsError):
    """A block, or a name in a directory, is not there."""

    exit_code = 4


class BlockError(IpfsError):
    """Bytes are not what their identifier or format says."""

    exit_code = 6


class CorruptError(BlockError):
    """A block has another hash than its identifier."""


class FormatError(BlockError):
    """A block is not well formed, or of a kind that is not used here."""


class LimitError(IpfsError):
    """Content is larger, deeper or wider than was asked for."""

    exit_code = 6


class TimeLimitError(IpfsError):
    """An answer did not come within its time limit."""

    exit_code = 5


class StoreError(IpfsError):
    """The disk or a remote store refused."""

    exit_code = 5
