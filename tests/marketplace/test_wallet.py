"""Keys come from files, variables and devnets, and from nowhere else, and are never shown."""

import json
import os
import pty
import subprocess
import sys

import pytest
from eth_account import Account

from marketplace.errors import InputError, NotFoundError
from marketplace.wallet import LOCAL_CHAINS, dev_account, load_account

KEY = "0x" + "42" * 32
ADDRESS = Account.from_key(KEY).address
LOCAL = LOCAL_CHAINS[0]


@pytest.fixture
def keystore(tmp_path):
    file = tmp_path / "key.json"
    # Few rounds of the key derivation: this password guards nothing.
    file.write_text(json.dumps(Account.encrypt(KEY, "open sesame", "pbkdf2", 10)))
    return file


def test_devnet_accounts_are_those_that_anvil_funds():
    # The first two accounts in the documentation of anvil and Hardhat.
    assert dev_account(0).address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert dev_account(1).address == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    assert load_account(LOCAL, dev=1).address == dev_account(1).address


@pytest.mark.parametrize("chain_id", [1, 5, 11155111, 31338, 0])
def test_devnet_accounts_are_refused_off_local_chains(chain_id):
    with pytest.raises(
        InputError, match=f"--dev is for local chains .* this chain has id {chain_id}"
    ):
        load_account(chain_id, dev=0)


@pytest.mark.parametrize("source", [{}, {"dev": 0, "key_env": "X"}])
def test_exactly_one_source_must_be_named(source):
    with pytest.raises(InputError, match="name one account that signs"):
        load_account(LOCAL, **source)


@pytest.mark.parametrize("text", [KEY, KEY[2:], f" {KEY}\n"])
def test_a_key_comes_from_the_environment_on_any_chain(monkeypatch, text):
    monkeypatch.setenv("A_KEY", text)
    assert load_account(1, key_env="A_KEY").address == ADDRESS


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(InputError, match="no variable NOT_SET_ANYWHERE"):
        load_account(1, key_env="NOT_SET_ANYWHERE")


@pytest.mark.parametrize("text", ["", "0x12", "word " * 12, "4" * 63, "0x" + "g" * 64, "0" * 64])
def test_what_is_no_key_is_refused_without_being_shown(monkeypatch, text):
    monkeypatch.setenv("A_KEY", text)
    with pytest.raises(InputError, match="A_KEY does not hold a private key") as caught:
        load_account(1, key_env="A_KEY")
    assert not text or text not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_keystore_opens_with_its_password(keystore, monkeypatch):
    monkeypatch.setenv("TRIBUTE_PASSWORD", "open sesame")
    assert load_account(1, keystore=keystore).address == ADDRESS


def test_a_keystore_that_another_program_wrote_opens(tmp_path, monkeypatch):
    # The test vector of the Web3 Secret Storage Definition (PBKDF2-SHA-256, AES-128-CTR).
    file = tmp_path / "key.json"
    file.write_text(
        json.dumps(
            {
                "crypto": {
                    "cipher": "aes-128-ctr",
                    "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
                    "ciphertext": (
                        "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46"
                    ),
                    "kdf": "pbkdf2",
                    "kdfparams": {
                        "c": 262144,
                        "dklen": 32,
                        "prf": "hmac-sha256",
                        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
                    },
                    "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
                },
                "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
                "version": 3,
            }
        )
    )
    monkeypatch.setenv("TRIBUTE_PASSWORD", "testpassword")
    key = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
    assert load_account(1, keystore=file).address == Account.from_key(key).address


def test_a_wrong_password_is_an_error_that_names_the_file(keystore, monkeypatch):
    monkeypatch.setenv("TRIBUTE_PASSWORD", "close sesame")
    with pytest.raises(InputError, match=r"key\.json does not open") as caught:
        load_account(1, keystore=keystore)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "no json", '{"crypto": {"kdf": "x"}, "version": 3}']
)
def test_files_that_are_no_keystores_are_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TRIBUTE_PASSWORD", "x")
    file = tmp_path / "key.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"key\.json (is no keystore file|does not open)"):
        load_account(1, keystore=file)


def test_a_keystore_that_does_not_exist_or_is_huge_or_binary_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIBUTE_PASSWORD", "x")
    for name, content in (("huge", b'"' + b"x" * 10**6), ("binary", b"\xff\xfe\x00")):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is no keystore file"):
            load_account(1, keystore=file)
    with pytest.raises(NotFoundError, match=r"there is no .*/no; give the keystore file"):
        load_account(1, keystore=tmp_path / "no")


def test_without_terminal_and_variable_the_variable_is_asked_for(keystore, monkeypatch):
    monkeypatch.delenv("TRIBUTE_PASSWORD", raising=False)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    with sys.stdin, pytest.raises(InputError, match="set TRIBUTE_PASSWORD"):
        load_account(1, keystore=keystore)


def test_in_a_terminal_the_password_is_asked_for_and_not_echoed(keystore):
    code = (
        "import sys; from pathlib import Path; from marketplace.wallet import load_account;"
        "print(load_account(1, keystore=Path(sys.argv[1])).address)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRIBUTE_PASSWORD"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(keystore)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while b"Password of" not in said:
        said += os.read(ours, 1000)
    os.write(ours, b"open sesame\n")
    while ADDRESS.encode() not in said:
        said += os.read(ours, 1000)
    assert process.wait(20) == 0
    os.close(ours)
    assert b"open sesame" not in said
