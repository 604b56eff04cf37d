"""Read logs in bulk as the general decoder reads them one by one, and refuse others' logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.logs import read_logs
from marketplace.errors import CodecError
from tests.api.bazaar import FIRST_TRAINER, Bazaar


def raw_logs(bazaar: Bazaar) -> list[dict[str, Any]]:
    criteria = {"address": bazaar.deployment.marketplace, "fromBlock": "0x0", "toBlock": "latest"}
    found: list[dict[str, Any]] = bazaar.chain.request("eth_getLogs", [criteria])
    return found


def test_bulk_reading_agrees_with_the_decoder_that_the_roles_use(bazaar: Bazaar) -> None:
    crowd = range(FIRST_TRAINER, FIRST_TRAINER + 5)
    project = bazaar.start(crowd)
    bazaar.play(project, crowd, hostile=[FIRST_TRAINER])
    bazaar.play(project, crowd, exclusions=bytes([1, 1, 1, 1, 0]))
    bazaar.signer(FIRST_TRAINER).leave(project)
    logs = raw_logs(bazaar)
    ours = read_logs([*reversed(logs), *logs[:5]])
    theirs = list(bazaar.chain.events(None, 0, bazaar.chain.head().number))
    assert len(ours) == len(theirs) == len(logs) > 20
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.name, mine.block) == (other.name, other.block)
        assert "0x" + mine.transaction.hex() == other.transaction
        plain = {
            name: b"".join(value) if name == "point" else value
            for name, value in other.values.items()
        }
        assert dict(mine.values) == plain
    check_that_logs_cut_short_are_refused(logs)


def check_that_logs_cut_short_are_refused(logs: list[dict[str, Any]]) -> None:
    for log in logs:
        with pytest.raises(CodecError, match="another version"):
            read_logs([{**log, "topics": log["topics"][:1]}])
        if len(log["data"]) > 2:
            with pytest.raises(CodecError, match="another version"):
                read_logs([{**log, "data": log["data"][: len(log["data"]) // 128 * 64]}])


@given(topic=st.binary(min_size=32, max_size=32), data=st.binary(max_size=64))
def test_logs_of_others_are_passed_over(topic: bytes, data: bytes) -> None:
    log = {
        "topics": ["0x" + topic.hex()],
        "data": "0x" + data.hex(),
        "blockNumber": "0x1",
        "logIndex": "0x0",
        "blockHash": "0x" + "00" * 32,
        "transactionHash": "0x" + "00" * 32,
    }
    assert read_logs([log, {**log, "topics": []}]) == []
