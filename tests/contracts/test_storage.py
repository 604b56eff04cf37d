"""Pin where the marketplace keeps things: what a round touches fills one slot each."""

import json
from typing import Any

import pytest

from deploy.compile import artefacts_file

SLOTS = {
    "Clock": "status@0.0 failures@0.1 active@0.2 commits@0.4 round@0.6 opensAt@0.10 commitEnd@0.15 "
    "revealEnd@0.20 settleEnd@0.25 departed@0.30 flags@0.31",
    "Purse": "escrow@0.0 bond@0.12 settledRounds@0.24",
    "Ticket": "word@0.0",
    "Member": "stake@0.0 credit@0.11 strikes@0.27 membership@0.28 index@0.29",
    "Project": "clock@0.0 purse@1.0 reveals@2.0 sponsor@3.0 params@4.0 active@18.0",
    "Params": "token@0.0 bondPenalty@0.20 aggregator@1.0 bond@1.20 rule@2.0 reward@2.20 "
    "verifier@3.0 fee@3.20 slashSink@4.0 rounds@4.20 capacity@4.24 minUpdates@4.26 patience@4.28 "
    "maxFailures@4.30 stepBits@4.31 stake@5.0 joinWindow@5.12 commitWindow@5.16 revealWindow@5.20 "
    "settleWindow@5.24 exclusiveWindow@5.28 unbondingDelay@6.0 dimension@6.4 epsilonMilli@6.8 "
    "clipNorm@6.12 root@7.0 ruleParams@8.0 slashBps@9.0 descriptionCid@10.0 initialCommitment@11.0",
}
"""Fields of each struct as name@slot.byte."""

VARIABLES = (
    "_nameFallback@0 _versionFallback@1 _projects@2 _members@3 _tickets@4 _exitAt@5 _spentMilli@6 "
    "_nonces@7"
)


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artefacts_file().read_text())["Marketplace"]["layout"]
    return found


@pytest.mark.parametrize("name", SLOTS)
def test_structs_are_packed_as_pinned(layout: dict[str, Any], name: str) -> None:
    (struct,) = (kind for kind in layout["types"].values() if kind["label"].split(".")[-1] == name)
    found = [f"{field['label']}@{field['slot']}.{field['offset']}" for field in struct["members"]]
    assert " ".join(found) == SLOTS[name]


def test_variables_are_where_they_are_pinned(layout: dict[str, Any]) -> None:
    found = [f"{variable['label']}@{variable['slot']}" for variable in layout["storage"]]
    assert " ".join(found) == VARIABLES
