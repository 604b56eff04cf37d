"""Publish accuracies, and refuse what a sponsor did not sign."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from hypothesis import given
from hypothesis import strategies as st

from marketplace.accuracy import (
    Accuracy,
    decode_accuracy,
    encode_accuracy,
    folder_of,
    publish,
    sign_accuracy,
    signer_of,
)
from marketplace.errors import CodecError
from marketplace.types import Deployment
from marketplace.wallet import dev_account

HERE = Deployment(31337, "", 0, "0x" + "11" * 20, "0x" + "22" * 20)
GOOD = Accuracy(b"\x01" * 32, 3, 934_000, 359, "digits#test", b"\x02" * 32, 1_795_600_000)


def document_by(account: LocalAccount) -> bytes:
    return encode_accuracy(GOOD, sign_accuracy(GOOD, HERE, account))


def test_a_document_comes_back_as_it_was_with_its_signer() -> None:
    sponsor = dev_account(0)
    accuracy, signature = decode_accuracy(document_by(sponsor))
    assert accuracy == GOOD
    assert signer_of(accuracy, HERE, signature) == sponsor.address


def test_the_signature_is_the_one_of_the_typed_data_that_wallets_show() -> None:
    sponsor = dev_account(0)
    _, signature = decode_accuracy(document_by(sponsor))
    head = ("name:string", "version:string", "chainId:uint256", "verifyingContract:address")
    body = (
        "project:bytes32",
        "settledRounds:uint32",
        "millionths:uint32",
        "samples:uint32",
        "data:string",
        "model:bytes32",
        "measuredAt:uint32",
    )
    typed = {
        "primaryType": "Accuracy",
        "types": {
            name: [dict(zip(("name", "type"), part.split(":"), strict=True)) for part in parts]
            for name, parts in (("EIP712Domain", head), ("Accuracy", body))
        },
        "domain": {
            "name": "Tribute",
            "version": "1",
            "chainId": 31337,
            "verifyingContract": "0x" + "11" * 20,
        },
        "message": {
            "project": "0x" + "01" * 32,
            "settledRounds": 3,
            "millionths": 934_000,
            "samples": 359,
            "data": "digits#test",
            "model": "0x" + "02" * 32,
            "measuredAt": 1_795_600_000,
        },
    }
    signed = Account.sign_typed_data(sponsor.key, full_message=typed)
    assert bytes(signed.signature) == signature


@pytest.mark.parametrize(
    "change",
    [
        {"millionths": 934_001},
        {"settled_rounds": 4},
        {"samples": 360},
        {"measured_at": 1_795_600_001},
        {"data": "digits#train"},
        {"model": b"\x03" * 32},
        {"project": b"\x03" * 32},
    ],
)
def test_whatever_is_changed_is_not_signed_by_the_sponsor(change: dict[str, object]) -> None:
    _, signature = decode_accuracy(document_by(dev_account(0)))
    forged = replace(GOOD, **change)  # type: ignore[arg-type]
    assert signer_of(forged, HERE, signature) != dev_account(0).address
    elsewhere = replace(HERE, chain_id=1)
    assert signer_of(GOOD, elsewhere, signature) != dev_account(0).address
    assert signer_of(GOOD, HERE, b"\x00" * 65) is None
    assert signer_of(GOOD, HERE, b"") is None


@pytest.mark.parametrize(
    "change",
    [
        {"millionths": 1_000_001},
        {"millionths": -1},
        {"millionths": True},
        {"millionths": "1"},
        {"samples": 0},
        {"measured_at": 2**32},
        {"settled_rounds": 2**32},
        {"data": "x" * 201},
        {"data": "a\nb"},
        {"project": "01"},
        {"model": "zz"},
        {"more": 1},
    ],
)
def test_documents_out_of_form_are_refused(change: dict[str, object]) -> None:
    document = json.loads(document_by(dev_account(0)))
    with pytest.raises(CodecError):
        decode_accuracy(json.dumps({**document, **change}).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_accuracy(data)
    with pytest.raises(CodecError):
        decode_accuracy(b"[" * 4096 + data)


def test_publishing_twice_keeps_the_later_word(tmp_path: Path) -> None:
    publish(tmp_path, GOOD, HERE, dev_account(0))
    later = replace(GOOD, millionths=5)
    file = publish(tmp_path, later, HERE, dev_account(0))
    assert list(folder_of(tmp_path, GOOD.project).iterdir()) == [file]
    assert decode_accuracy(file.read_bytes())[0] == later
