"""Name everything that can go wrong between the chain's record and who asks for it.

ApiError
├── DatabaseError         the index's database cannot be opened
├── ForeignIndexError     the database indexes another chain or marketplace
├── StoppedError          the server ended though nobody stopped it
└── RequestError          what was asked for cannot be had; has an HTTP status
    ├── NoSuchError       404: no project, round or trainer has this name
    ├── BadRequestError   400: a parameter cannot be read
    ├── NotSignedError    403: the sponsor did not sign it
    ├── OutdatedError     409: what was given does not hold, or not any more
    ├── RefusedError      409: the marketplace would refuse the transaction
    └── ChainDownError    503: the chain did not answer
"""

from __future__ import annotations

__all__ = [
    "ApiError",
    "BadRequestError",
    "ChainDownError",
    "DatabaseError",
    "ForeignIndexError",
    "NoSuchError",
    "NotSignedError",
    "OutdatedError",
    "RefusedError",
    "RequestError",
    "StoppedError",
]


class ApiError(Exception):
    """Base of all errors of the package."""

    exit_code = 1


class DatabaseError(ApiError):
    """The index's database cannot be opened."""

    exit_code = 5


class ForeignIndexError(ApiError):
    """The database indexes another chain or marketplace."""

    exit_code = 2


class StoppedError(ApiError):
    """The server ended though nobody stopped it."""


class RequestError(ApiError):
    """What was asked for cannot be had."""

    status = 400
    title = "Bad request"


class BadRequestError(RequestError):
    """A parameter of the request cannot be read."""


class NoSuchError(RequestError):
    """No project, round or trainer has this name."""

    status = 404
    title = "Not found"


class NotSignedError(RequestError):
    """The project's sponsor did not sign what was given."""

    status = 403
    title = "Not signed by the sponsor"


class OutdatedError(RequestError):
    """What was given does not hold, or not any more."""

    status = 409
    title = "Outdated"


class RefusedError(RequestError):
    """The marketplace would refuse the transaction."""

    status = 409
    title = "Refused by the contract"


class ChainDownError(RequestError):
    """The chain did not answer."""

    status = 503
    title = "Chain out of reach"
