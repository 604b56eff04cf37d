"""Seal content so that only named recipients read it.

Content is encrypted once under a key of its own (AES-256-GCM), and that key is sealed to each
recipient by HPKE in base mode (RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM).
`info` names chain, project, round and trainer, and is also what the content's cipher is bound to:
what was sealed for one place opens in no other. A recipient gets no key of the rounds in which it
is not named, so one that is removed cannot read later ones. What it could read, it may have kept.

AES-GCM does not commit to its key: a trainer can craft content that two recipients read as two
updates. The commitment on the chain binds the update, so at most one of them is what it opens to.

An account's X25519 key follows from its signature (EIP-712) of a fixed text, which is deterministic
(RFC 6979): there is no second secret to keep or to lose. A `KeyCard` is the public key with the
account's signature; trainers need none, since the transaction by which they join is signed.

Pure but for randomness: keys that must never repeat come from the system, not from an argument.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from marketplace.codec import Description, KeyCard
from marketplace.errors import CodecError, InputError, SealedError
from marketplace.types import Deployment

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage
    from eth_account.signers.local import LocalAccount

__all__ = [
    "KEY_BYTES",
    "SEALED_KEY_BYTES",
    "Opener",
    "check_card",
    "encryption_key",
    "key_card",
    "open_sealed",
    "public_bytes",
    "recipients",
    "seal",
    "sealing_info",
]

KEY_BYTES = 32
SEALED_KEY_BYTES = 32 + KEY_BYTES + 16
"""An encapsulated X25519 key, the content's key and a tag."""

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
# each key encrypts one content only, so that its nonce may be fixed
_NONCE = bytes(12)
_MOST_BYTES = 2**31 - 1
_TEXT = "Make the key that opens what is sealed to this account. Sign this in Tribute only."


def sealing_info(chain_id: int, project: bytes, round_number: int, trainer: str) -> bytes:
    """Return the bytes that bind sealed content to its place."""
    place = chain_id.to_bytes(32, "big") + project + round_number.to_bytes(4, "big")
    return b"tribute update" + place + bytes.fromhex(trainer[2:])


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the 32 bytes of a key that others may know."""
    return key.public_key().public_bytes_raw()


def seal(
    content: bytes, recipients: Sequence[bytes], info: bytes
) -> tuple[bytes, dict[bytes, bytes]]:
    """Encrypt content, 16 bytes longer, and return its key sealed to each public key.

    Raises InputError for a recipient's key that is no point of large order.
    """
    if len(content) > _MOST_BYTES:
        raise InputError(f"content of {len(content)} bytes; {_MOST_BYTES} can be sealed")
    key = os.urandom(KEY_BYTES)
    sealed = {}
    for recipient in recipients:
        try:
            public = X25519PublicKey.from_public_bytes(recipient)
            sealed[recipient] = _SUITE.encrypt(key, public, info)
        except ValueError as error:
            raise InputError(f"{recipient.hex()} is no X25519 key to seal to") from error
    return AESGCM(key).encrypt(_NONCE, content, info), sealed


def open_sealed(
    sealed: bytes, keys: Mapping[bytes, bytes], private: X25519PrivateKey, info: bytes
) -> bytes:
    """Decrypt what `seal` returned for one of its recipients.

    Raises SealedError where it is sealed to others, CodecError where it was changed or belongs
    to another place.
    """
    mine = keys.get(public_bytes(private))
    if mine is None:
        raise SealedError(f"the content is sealed to {len(keys)} keys, and yours is none of them")
    try:
        return AESGCM(_SUITE.decrypt(mine, private, info)).decrypt(_NONCE, sealed, info)
    except (InvalidTag, ValueError) as error:
        raise CodecError(
            "the sealed content does not open: it was changed, or sealed for another round, "
            "project or trainer"
        ) from error


@dataclass(frozen=True)
class Opener:
    """Open what trainers sealed in one project to one key."""

    chain_id: int
    project: bytes
    private: X25519PrivateKey

    def open(
        self, sealed: bytes, keys: Mapping[bytes, bytes], round_number: int, trainer: str
    ) -> bytes:
        """Decrypt a trainer's content of a round."""
        info = sealing_info(self.chain_id, self.project, round_number, trainer)
        return open_sealed(sealed, keys, self.private, info)


# ------------------------------------------------------------------------ keys


def encryption_key(account: LocalAccount, deployment: Deployment) -> X25519PrivateKey:
    """Return the account's key in a marketplace, always the same."""
    message = _typed(deployment, "MakeEncryptionKey", [("text", "string")], {"text": _TEXT})
    signature = bytes(account.sign_message(message).signature)
    # r and s; the last byte only says which of two points r stands for
    derived = HKDF(SHA256(), KEY_BYTES, salt=b"tribute", info=b"X25519").derive(signature[:64])
    return X25519PrivateKey.from_private_bytes(derived)


def key_card(account: LocalAccount, deployment: Deployment) -> KeyCard:
    """Return the account's card, by which others seal to it."""
    key = public_bytes(encryption_key(account, deployment))
    signed = account.sign_message(_card_message(deployment, account.address, key))
    return KeyCard(account.address, key.hex(), bytes(signed.signature).hex())


def check_card(card: KeyCard, deployment: Deployment) -> bytes:
    """Return the public key of a card that its account signed; raises CodecError otherwise."""
    from eth_account import Account

    try:
        key, signature = bytes.fromhex(card.key), bytes.fromhex(card.signature)
        message = _card_message(deployment, card.account, key)
        signer = Account.recover_message(message, signature=signature)
    except Exception as error:
        raise CodecError(f"the key card of {card.account[:60]!r} is malformed: {error}") from error
    if signer != card.account:
        raise CodecError(
            f"the key card of {card.account} is signed by {signer}, or for another marketplace"
        )
    return key


def _card_message(deployment: Deployment, account: str, key: bytes) -> SignableMessage:
    members = [("account", "address"), ("key", "bytes32")]
    return _typed(deployment, "EncryptionKey", members, {"account": account, "key": key})


def _typed(
    deployment: Deployment, name: str, members: Sequence[tuple[str, str]], value: dict[str, Any]
) -> SignableMessage:
    from eth_account.messages import encode_typed_data

    return encode_typed_data(
        {
            "name": "Tribute",
            "version": "1",
            "chainId": deployment.chain_id,
            "verifyingContract": deployment.marketplace,
        },
        {name: [{"name": member, "type": kind} for member, kind in members]},
        value,
    )


def recipients(
    description: Description, deployment: Deployment, aggregator: str, active: Mapping[str, bytes]
) -> list[bytes]:
    """Return the keys that a round's updates are sealed to; none in an open project.

    `active` has the keys that the round's active trainers joined with. Raises CodecError where a
    card is not right, or the aggregator could not read the updates.
    """
    if description.readers == "open":
        return []
    named = {card.account: check_card(card, deployment) for card in description.keys}
    if aggregator not in named:
        raise CodecError(
            f"the project's updates are sealed, but not to its aggregator {aggregator}; "
            "no round could be settled"
        )
    keys = list(named.values())
    if description.readers == "members":
        keys += [key for key in active.values() if any(key)]
    return list(dict.fromkeys(keys))
