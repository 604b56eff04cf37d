"""Load the key of an account from where a key may be: a keystore, the environment, a devnet.

Keys never come from arguments and are never printed.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from marketplace.errors import InputError, unusable_path

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

__all__ = ["LOCAL_CHAINS", "dev_account", "load_account"]

LOCAL_CHAINS = (31337,)
"""Chain ids on which accounts that everybody knows may sign."""

_MNEMONIC = "test test test test test test test test test test test junk"
_KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_KEYSTORE_LIMIT = 1 << 16


def dev_account(number: int) -> LocalAccount:
    """Return one of the accounts that devnets fund, whose keys everybody knows."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    account: LocalAccount = Account.from_mnemonic(
        _MNEMONIC, account_path=f"m/44'/60'/0'/0/{number}"
    )
    return account


def load_account(
    chain_id: int,
    dev: int | None = None,
    keystore: Path | None = None,
    key_env: str | None = None,
) -> LocalAccount:
    """Return the account that exactly one of the sources names.

    Raises InputError for none or several, for devnet accounts on a chain that is not local, and
    for keys that cannot be read.
    """
    if sum(source is not None for source in (dev, keystore, key_env)) != 1:
        raise InputError(
            "name one account that signs: --keystore FILE, --key-env NAME, or --dev N on a devnet"
        )
    if dev is not None:
        if chain_id not in LOCAL_CHAINS:
            raise InputError(
                f"--dev is for local chains (id {LOCAL_CHAINS[0]}); everybody knows the key, and "
                f"this chain has id {chain_id}. Use --keystore or --key-env"
            )
        return dev_account(dev)
    if key_env is not None:
        return _from_environment(key_env)
    assert keystore is not None
    return _from_keystore(keystore)


def _from_environment(name: str) -> LocalAccount:
    from eth_account import Account

    key = os.environ.get(name)
    if key is None:
        raise InputError(f"the environment has no variable {name}")
    refusal = InputError(f"variable {name} does not hold a private key: 64 hexadecimal digits")
    # The library pads a key that was cut short, and signs as somebody else.
    if not _KEY.fullmatch(key.strip()):
        raise refusal
    try:
        account: LocalAccount = Account.from_key(key.strip())
    except ValueError:
        # Its message quotes the key.
        raise refusal from None
    return account


def _from_keystore(file: Path) -> LocalAccount:
    from eth_account import Account

    try:
        with file.open() as stream:
            stored = json.loads(stream.read(_KEYSTORE_LIMIT))
    except OSError as error:
        raise unusable_path(error, "the keystore file that your wallet exported") from error
    except ValueError as error:
        raise InputError(
            f"{file} is no keystore file, which holds JSON ({error}); give the one that your "
            "wallet exported"
        ) from error
    password = os.environ.get("TRIBUTE_PASSWORD")
    if password is None:
        if not sys.stdin.isatty():
            raise InputError(f"set TRIBUTE_PASSWORD to the password of {file}")
        password = getpass.getpass(f"Password of {file}: ")
    try:
        account: LocalAccount = Account.from_key(Account.decrypt(stored, password))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} does not open: {error}") from None
    return account
