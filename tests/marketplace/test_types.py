"""What the contract holds, under the same names and in the same order."""

import dataclasses
import json

import pytest

from contracts import abi
from marketplace.errors import InputError, NotFoundError
from marketplace.types import (
    NOBODY,
    Account,
    Deployment,
    Exclusion,
    Membership,
    Params,
    State,
    Status,
)

HERE = Deployment(
    chain_id=31337,
    rpc="http://127.0.0.1:8545",
    block=3,
    marketplace="0x" + "11" * 20,
    token="0x" + "22" * 20,
    rules={"MultiKrumShapley": "0x" + "aA" * 20},
    verifiers={"AttestedGram": "0x" + "bB" * 20},
)


def snake(name):
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def struct(function):
    entry = next(e for e in abi("Marketplace") if e.get("name") == function)
    return [snake(part["name"]) for part in entry["outputs"][0]["components"]]


@pytest.mark.parametrize(
    ("cls", "function"), [(Params, "paramsOf"), (State, "stateOf"), (Account, "accountOf")]
)
def test_fields_stand_in_the_order_of_the_contracts_structs(cls, function):
    assert [field.name for field in dataclasses.fields(cls)] == struct(function)


def test_terms_survive_the_way_to_the_abi_and_back():
    numbers = iter(range(1, 100))
    values = {field.name: next(numbers) for field in dataclasses.fields(Params)}
    values["slash_bps"] = b"".join(k.to_bytes(2) for k in range(16))
    values["initial_commitment"] = bytes(range(96))
    params = Params(**values)
    assert params.abi()[-1] == [
        bytes(range(32)),
        bytes(range(32, 64)),
        bytes(range(64, 96)),
    ]
    assert Params.of(params.abi()) == params
    assert params.escrow == values["rounds"] * (values["reward"] + values["fee"])
    assert params.slash_schedule == tuple(range(16))


def test_state_and_account_read_their_enumerations():
    state = State.of([2, *range(1, 15)])
    assert state.status is Status.RUNNING
    assert state.bond == 14
    account = Account.of([5, 6, 1, 2, 3, 4, True, 9, 1500])
    assert account.membership is Membership.LEAVING
    assert (account.exit_at, account.spent_milli) == (9, 1500)


def test_a_project_without_a_root_has_none_whoever_revealed():
    plain = {entry.name: 0 for entry in dataclasses.fields(Params)}
    none, named = (Params(**{**plain, "root": root}) for root in (NOBODY, "0xroot"))
    assert none.root_trainer is None and named.root_trainer == "0xroot"
    assert none.root_row([NOBODY, "0xroot"]) is None
    assert named.root_row(["0xann", "0xroot"]) == 1
    assert named.root_row(["0xann"]) is None


def test_reasons_for_exclusion_fit_a_byte_and_none_means_included():
    assert Exclusion.NONE == 0
    assert max(Exclusion) < 256


def test_a_deployment_survives_its_file(tmp_path):
    HERE.save(tmp_path / "new" / "home")
    assert Deployment.load(tmp_path / "new" / "home") == HERE
    assert HERE.srs_path(tmp_path) == tmp_path / "srs.bin"


def test_a_home_without_deployment_says_what_to_do(tmp_path):
    with pytest.raises(NotFoundError, match="run `tribute deploy`"):
        Deployment.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"chain_id": 1}', "\x00\xff"])
def test_a_file_that_is_no_deployment_is_refused_by_name(tmp_path, text):
    Deployment.file(tmp_path).write_text(text)
    with pytest.raises(InputError, match=r"deployment\.json is no deployment"):
        Deployment.load(tmp_path)


def test_a_deployment_with_an_unknown_field_is_refused(tmp_path):
    document = {**dataclasses.asdict(HERE), "owner": "me"}
    Deployment.file(tmp_path).write_text(json.dumps(document))
    with pytest.raises(InputError, match="its fields are"):
        Deployment.load(tmp_path)


def test_policies_are_found_by_address_in_whatever_case():
    assert HERE.rule_name("0x" + "Aa" * 20) == "MultiKrumShapley"
    assert HERE.verifier_name("0x" + "bb" * 20) == "AttestedGram"


@pytest.mark.parametrize("address", ["0x" + "cc" * 20, ""])
def test_unknown_policies_are_refused_with_those_that_are_known(address):
    with pytest.raises(NotFoundError, match=f"rule {address} is none of .*0xaAaA"):
        HERE.rule_name(address)
    with pytest.raises(NotFoundError, match="none"):
        dataclasses.replace(HERE, verifiers={}).verifier_name(address)
