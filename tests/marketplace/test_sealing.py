"""Sealed updates: HPKE as RFC 9180 has it, and only the named recipients, rounds and places.

`reference_open` follows RFC 9180 sections 4 to 6 on primitives alone; a vector of the RFC shows
that it is right, and it opens what `marketplace.sealing` seals.
"""

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eth_account import Account
from eth_account.messages import encode_typed_data

from marketplace.codec import (
    Description,
    KeyCard,
    Update,
    decode_card,
    decode_description,
    encode_description,
)
from marketplace.errors import CodecError, InputError, SealedError
from marketplace.history import History
from marketplace.sealing import (
    Opener,
    check_card,
    encryption_key,
    key_card,
    open_sealed,
    public_bytes,
    recipients,
    seal,
    sealing_info,
)
from marketplace.types import Deployment
from marketplace.wallet import dev_account
from marketplace.wire import pack, unpack

PROJECT = bytes(range(32))
ADDRESS = "0x" + "0b" * 20
DEPLOYMENT = Deployment(31337, "http://127.0.0.1:1", 0, ADDRESS, ADDRESS)
ANN, BOB, CYD = (dev_account(number) for number in (3, 4, 5))


def key(account):
    return encryption_key(account, DEPLOYMENT)


def public(account):
    return public_bytes(key(account))


# ---------------------------------------------------------------------- RFC 9180


def extract(suite, salt, label, ikm):
    return hmac.new(salt, b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()


def expand(suite, prk, label, info, length):
    text = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block = b"", b""
    for number in range(1, 3):
        block = hmac.new(prk, block + text + bytes([number]), hashlib.sha256).digest()
        out += block
    return out[:length]


def reference_open(private, enc, ciphertext, info, aad, aead, key_bytes):
    kem = b"KEM\x00\x20"
    mine = X25519PrivateKey.from_private_bytes(private)
    shared = mine.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + public_bytes(mine)
    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    suite = b"HPKE\x00\x20\x00\x01" + aead.to_bytes(2, "big")
    schedule = b"\x00" + extract(suite, b"", b"psk_id_hash", b"")
    schedule += extract(suite, b"", b"info_hash", info)
    prk = extract(suite, secret, b"secret", b"")
    content_key = expand(suite, prk, b"key", schedule, key_bytes)
    nonce = expand(suite, prk, b"base_nonce", schedule, 12)
    return AESGCM(content_key).decrypt(nonce, ciphertext, aad)


def test_the_reference_opens_the_vector_of_rfc_9180_a_1_1():
    opened = reference_open(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"),
        bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"),
        bytes.fromhex(
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
            "6d8770ac83d07bea87e13c512a"
        ),
        bytes.fromhex("4f6465206f6e2061204772656369616e2055726e"),
        b"Count-0",
        aead=1,
        key_bytes=16,
    )
    assert opened == b"Beauty is truth, truth beauty"


def test_the_reference_opens_what_is_sealed():
    info = sealing_info(1, PROJECT, 7, ANN.address)
    sealed, keys = seal(b"an update", [public(ANN)], info)
    wrapped = keys[public(ANN)]
    private = key(ANN).private_bytes_raw()
    content_key = reference_open(private, wrapped[:32], wrapped[32:], info, b"", 2, 32)
    assert AESGCM(content_key).decrypt(bytes(12), sealed, info) == b"an update"
    assert len(sealed) == len(b"an update") + 16


# -------------------------------------------------------------------- who reads


def test_each_recipient_opens_it_and_nobody_else():
    info = sealing_info(31337, PROJECT, 1, ANN.address)
    sealed, keys = seal(b"secret", [public(ANN), public(BOB)], info)
    assert open_sealed(sealed, keys, key(ANN), info) == b"secret"
    assert open_sealed(sealed, keys, key(BOB), info) == b"secret"
    with pytest.raises(SealedError, match="sealed to 2 keys, and yours is none of them"):
        open_sealed(sealed, keys, key(CYD), info)
    stolen = {public(CYD): keys[public(ANN)]}
    with pytest.raises(CodecError, match="does not open"):
        open_sealed(sealed, stolen, key(CYD), info)


def test_sealing_twice_shares_no_key():
    info = sealing_info(1, PROJECT, 1, ANN.address)
    first, first_keys = seal(b"x" * 64, [public(ANN)], info)
    second, second_keys = seal(b"x" * 64, [public(ANN)], info)
    assert first != second
    assert first_keys != second_keys
    with pytest.raises(CodecError):
        open_sealed(first, second_keys, key(ANN), info)


@pytest.mark.parametrize(
    "other",
    [
        sealing_info(2, PROJECT, 7, ANN.address),
        sealing_info(1, PROJECT[::-1], 7, ANN.address),
        sealing_info(1, PROJECT, 8, ANN.address),
        sealing_info(1, PROJECT, 7, BOB.address),
    ],
)
def test_what_is_sealed_for_one_place_opens_in_no_other(other):
    sealed, keys = seal(b"secret", [public(ANN)], sealing_info(1, PROJECT, 7, ANN.address))
    with pytest.raises(CodecError, match="another round, project or trainer"):
        open_sealed(sealed, keys, key(ANN), other)


def test_a_flip_of_any_bit_is_noticed():
    info = sealing_info(1, PROJECT, 7, ANN.address)
    sealed, keys = seal(b"secret", [public(ANN)], info)
    wrapped = keys[public(ANN)]
    for part, bits in ((sealed, 8 * len(sealed)), (wrapped, 8 * len(wrapped))):
        for bit in range(bits):
            changed = bytearray(part)
            changed[bit // 8] ^= 1 << bit % 8
            if part is wrapped and bit == 8 * 32 - 1:
                continue  # X25519 ignores this bit of a public key (RFC 7748 section 5)
            pair = (bytes(changed), keys) if part is sealed else (sealed, {public(ANN): changed})
            with pytest.raises(CodecError):
                open_sealed(pair[0], pair[1], key(ANN), info)


@pytest.mark.parametrize("bad", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_keys_that_cannot_be_sealed_to_are_refused(bad):
    with pytest.raises(InputError, match="no X25519 key"):
        seal(b"x", [bad], b"")


def test_a_trainer_that_left_cannot_read_later_rounds():
    history = History()
    for account in (ANN, BOB):
        joined(history, account)
    description = described("members", key_card(CYD, DEPLOYMENT))
    readers = recipients(description, DEPLOYMENT, CYD.address, history.member_keys)
    assert readers == [public(CYD), public(ANN), public(BOB)]
    first = pack(update(), "int16", readers, sealing_info(31337, PROJECT, 1, ANN.address))
    history.add(happened("Deactivated", trainer=BOB.address))
    readers = recipients(description, DEPLOYMENT, CYD.address, history.member_keys)
    second = pack(update(), "int16", readers, sealing_info(31337, PROJECT, 2, ANN.address))

    def opened(files, round_number, account):
        opener = Opener(31337, PROJECT, key(account))
        return unpack(lambda name, _: files[name], 3, opener, round_number, ANN.address)

    assert opened(first, 1, BOB).values.tolist() == [1, -2, 3]
    assert opened(second, 2, ANN).values.tolist() == [1, -2, 3]
    assert opened(second, 2, CYD).blinding == 9
    with pytest.raises(SealedError):
        opened(second, 2, BOB)
    with pytest.raises(SealedError, match="is sealed to 2 keys"):
        unpack(lambda name, _: second[name], 3, None, 2, ANN.address)


def update():
    return Update(np.array([1, -2, 3], np.int16), 9)


def happened(name, **values):
    from marketplace.interface import Event

    return Event(name, values, 7, "0xhash", 0)


def joined(history, account):
    history.add(happened("Joined", trainer=account.address, index=0, encryptionKey=public(account)))


def described(readers, *cards):
    return Description(title="t", model="mlp", readers=readers, keys=cards)


def test_open_projects_are_open_and_sealed_ones_name_their_aggregator():
    card = key_card(ANN, DEPLOYMENT)
    assert recipients(described("open"), DEPLOYMENT, ANN.address, {}) == []
    assert recipients(described("sealed", card), DEPLOYMENT, ANN.address, {}) == [public(ANN)]
    members = {BOB.address: public(BOB), CYD.address: bytes(32)}
    assert recipients(described("sealed", card), DEPLOYMENT, ANN.address, members) == [public(ANN)]
    assert recipients(described("members", card), DEPLOYMENT, ANN.address, members) == [
        public(ANN),
        public(BOB),
    ]
    with pytest.raises(CodecError, match="not to its aggregator"):
        recipients(described("sealed", card), DEPLOYMENT, BOB.address, {})
    for readers, cards in (("open", [card]), ("sealed", []), ("members", [card] * 65)):
        with pytest.raises(CodecError, match="key cards for readers"):
            described(readers, *cards)
    with pytest.raises(CodecError, match="readers 'all' are not known"):
        described("all", card)


# --------------------------------------------------------------------------- keys


def test_a_key_is_the_same_every_time_and_another_one_elsewhere():
    again = Account.from_key(ANN.key)
    assert public(again) == public(ANN)
    other_chain = Deployment(1, "", 0, ADDRESS, ADDRESS)
    other_market = Deployment(31337, "", 0, "0x" + "0c" * 20, ADDRESS)
    keys = {public(ANN), public(BOB)}
    keys |= {public_bytes(encryption_key(ANN, d)) for d in (other_chain, other_market)}
    assert len(keys) == 4


def test_a_card_is_the_accounts_typed_signature():
    card = key_card(ANN, DEPLOYMENT)
    message = encode_typed_data(
        {"name": "Tribute", "version": "1", "chainId": 31337, "verifyingContract": ADDRESS},
        {
            "EncryptionKey": [
                {"name": "account", "type": "address"},
                {"name": "key", "type": "bytes32"},
            ]
        },
        {"account": ANN.address, "key": bytes.fromhex(card.key)},
    )
    assert Account.recover_message(message, signature="0x" + card.signature) == ANN.address
    assert check_card(card, DEPLOYMENT) == public(ANN)


def test_cards_of_others_are_refused():
    card = key_card(ANN, DEPLOYMENT)
    forged = KeyCard(BOB.address, card.key, card.signature)
    swapped = KeyCard(ANN.address, key_card(BOB, DEPLOYMENT).key, card.signature)
    for bad in (forged, swapped):
        with pytest.raises(CodecError, match="is signed by"):
            check_card(bad, DEPLOYMENT)
    elsewhere = Deployment(1, "", 0, ADDRESS, ADDRESS)
    with pytest.raises(CodecError, match="for another marketplace"):
        check_card(card, elsewhere)
    for bad in (KeyCard("x", "y", "z"), KeyCard(ANN.address, card.key, "00" * 65)):
        with pytest.raises(CodecError, match="malformed"):
            check_card(bad, DEPLOYMENT)


def test_a_description_carries_the_cards():
    sealed = described("sealed", key_card(ANN, DEPLOYMENT), key_card(BOB, DEPLOYMENT))
    data = encode_description(sealed)
    assert decode_description(data) == sealed
    assert encode_description(decode_description(data)) == data
    for bad in (b'{"account": "a", "key": "b"}', b'{"account": 1, "key": "", "signature": ""}'):
        with pytest.raises(CodecError):
            decode_card(bad)
    with pytest.raises(CodecError, match="is no key card"):
        decode_description(data.replace(b'"keys": [', b'"keys": [5,'))
