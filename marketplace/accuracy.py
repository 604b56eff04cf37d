"""Publish the accuracy of a model under the sponsor's signature, and read what was published.

A document is strict JSON of at most 4 KiB, signed by EIP-712 for one deployment. It says what the
sponsor measured, not that it is so: who holds the data set can measure again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marketplace.errors import CodecError
from marketplace.types import Deployment

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage
    from eth_account.signers.local import LocalAccount

__all__ = [
    "MILLION",
    "Accuracy",
    "decode_accuracy",
    "encode_accuracy",
    "folder_of",
    "keep",
    "publish",
    "sign_accuracy",
    "signer_of",
]

MILLION = 1_000_000
_LIMIT = 1 << 12
_DATA_LIMIT = 200
_COUNTS = ("settled_rounds", "millionths", "samples", "measured_at")
_FIELDS = {"project", *_COUNTS, "data", "model", "signature"}


@dataclass(frozen=True)
class Accuracy:
    """State that a model got `millionths` of a million of `samples` samples right.

    The model is the one after `settled_rounds` paid rounds; `model` is its CID's digest. `data` is
    what the sponsor calls the data set. Of several statements about a model the one with the latest
    `measured_at`, in unix seconds, holds, so that nobody can bring back an earlier one.
    """

    project: bytes
    settled_rounds: int
    millionths: int
    samples: int
    data: str
    model: bytes
    measured_at: int

    def __post_init__(self) -> None:
        numbers = [getattr(self, name) for name in _COUNTS]
        if any(type(number) is not int or not 0 <= number < 1 << 32 for number in numbers):
            raise CodecError(f"{', '.join(_COUNTS)} {numbers} are no counts below 2^32")
        if self.millionths > MILLION or not self.samples:
            raise CodecError(f"{self.millionths} of {MILLION} on {self.samples} samples")
        if len(self.project) != 32 or len(self.model) != 32:
            raise CodecError("project and model are 32 bytes each")
        if len(self.data) > _DATA_LIMIT or not self.data.isprintable():
            raise CodecError(f"the data set's name has at most {_DATA_LIMIT} printable characters")


def _message(deployment: Deployment, accuracy: Accuracy) -> SignableMessage:
    from eth_account.messages import encode_typed_data

    return encode_typed_data(
        {
            "name": "Tribute",
            "version": "1",
            "chainId": deployment.chain_id,
            "verifyingContract": deployment.marketplace,
        },
        {
            "Accuracy": [
                {"name": "project", "type": "bytes32"},
                {"name": "settledRounds", "type": "uint32"},
                {"name": "millionths", "type": "uint32"},
                {"name": "samples", "type": "uint32"},
                {"name": "data", "type": "string"},
                {"name": "model", "type": "bytes32"},
                {"name": "measuredAt", "type": "uint32"},
            ]
        },
        {
            "project": accuracy.project,
            "settledRounds": accuracy.settled_rounds,
            "millionths": accuracy.millionths,
            "samples": accuracy.samples,
            "data": accuracy.data,
            "model": accuracy.model,
            "measuredAt": accuracy.measured_at,
        },
    )


def sign_accuracy(accuracy: Accuracy, deployment: Deployment, account: LocalAccount) -> bytes:
    """Return an account's signature of a statement."""
    return bytes(account.sign_message(_message(deployment, accuracy)).signature)


def encode_accuracy(accuracy: Accuracy, signature: bytes) -> bytes:
    """Write a document."""
    document = {
        "project": accuracy.project.hex(),
        "data": accuracy.data,
        "model": accuracy.model.hex(),
        "signature": signature.hex(),
        **{name: getattr(accuracy, name) for name in _COUNTS},
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False, indent=1).encode()


def decode_accuracy(data: bytes) -> tuple[Accuracy, bytes]:
    """Read a document and its signature, which is not checked; CodecError for anything else."""
    if len(data) > _LIMIT:
        raise CodecError(f"a document of {len(data)} bytes; {_LIMIT} are possible")
    try:
        found: Any = json.loads(data.decode())
        if not isinstance(found, dict) or set(found) != _FIELDS:
            raise ValueError(f"its fields are {', '.join(sorted(_FIELDS))}")
        project, model, signature = (
            bytes.fromhex(found[name]) for name in ("project", "model", "signature")
        )
        data_name = str(found["data"])
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"no published accuracy: {error}") from error
    counts = {name: found[name] for name in _COUNTS}
    return Accuracy(project=project, data=data_name, model=model, **counts), signature


def signer_of(accuracy: Accuracy, deployment: Deployment, signature: bytes) -> str | None:
    """Return who signed the document for this deployment; None where the signature is none."""
    from eth_account import Account

    try:
        found = Account.recover_message(_message(deployment, accuracy), signature=signature)
    except Exception:
        # The library raises many kinds for bytes that are no signature.
        return None
    return str(found)


def folder_of(home: Path, project: bytes) -> Path:
    """Return the folder in which the home keeps what was published about a project."""
    return home / "accuracy" / project.hex()


def keep(home: Path, accuracy: Accuracy, signature: bytes) -> Path:
    """Put a signed document where the home's API finds it; return its file."""
    file = folder_of(home, accuracy.project) / f"{accuracy.settled_rounds}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}")
    new.write_bytes(encode_accuracy(accuracy, signature))
    new.replace(file)
    return file


def publish(home: Path, accuracy: Accuracy, deployment: Deployment, account: LocalAccount) -> Path:
    """Sign a statement and put it where the home's API finds it; return its file."""
    return keep(home, accuracy, sign_accuracy(accuracy, deployment, account))
