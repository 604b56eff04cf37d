"""Turn an update into the files that travel, and back: a manifest, and compressed, sealed bytes.

The commitment binds the update's int16 values, whatever form they travel in:

    int16   32 bytes of blinding, then the zigzag values' low bytes, then their high bytes; zstd
    int8    32 bytes of blinding, a shift (1 byte) for each block of 256 values, then the values
            shifted right, zigzag, one byte each; zstd. Only for values that `to_blocks` made
    plain   safetensors, for other tools

A high byte is almost always 0, so that planes compress better than pairs. The manifest names the
content type; where the content is sealed, the content's key sealed to each recipient; where the
trainer counts it, the privacy spent over the project, in thousandths of ε. Content sizes follow
from the dimension alone: nothing is decompressed to more than that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from marketplace.codec import Update, decode_update, encode_update, file_limit, strict_json
from marketplace.errors import CodecError, SealedError
from marketplace.proof.field import R
from marketplace.sealing import KEY_BYTES, SEALED_KEY_BYTES, Opener, seal

__all__ = [
    "CONTENT_FILE",
    "CONTENT_TYPES",
    "MANIFEST_FILE",
    "Encoding",
    "pack",
    "to_blocks",
    "unpack",
]

MANIFEST_FILE = "manifest.json"
CONTENT_FILE = "update"

Encoding = Literal["int16", "int8", "plain"]
CONTENT_TYPES: dict[str, str] = {
    "int16": "application/vnd.tribute.update.int16+zstd",
    "int8": "application/vnd.tribute.update.int8-blocks+zstd",
    "plain": "application/vnd.safetensors",
}

BLOCK = 256
"""Values of an int8 block, which share a shift."""

_INT8_MAX = 127
_MOST_SHIFT = 8
_BLINDING_BYTES = 32
_SEAL_BYTES = 16
_MANIFEST_LIMIT = 1 << 16
_MOST_RECIPIENTS = 256
_MOST_MILLI = 2**32 - 1
_LEVEL = 3
_HEX = re.compile(r"(?:[0-9a-f]{2})*")

Read = Callable[[str, int], bytes]
"""Read one of an update's files: its name, most bytes."""


def pack(
    update: Update,
    encoding: Encoding = "int16",
    recipients: Sequence[bytes] = (),
    info: bytes = b"",
) -> dict[str, bytes]:
    """Return an update's files by name, sealed if there are recipients (X25519 public keys)."""
    if encoding == "plain":
        content = encode_update(update)
    else:
        encoded = _encode_int16(update) if encoding == "int16" else _encode_int8(update)
        content = zstandard.ZstdCompressor(level=_LEVEL).compress(encoded)
    keys: dict[bytes, bytes] = {}
    if len(recipients) > _MOST_RECIPIENTS:
        raise CodecError(f"{len(recipients)} recipients; {_MOST_RECIPIENTS} are possible")
    if recipients:
        content, keys = seal(content, recipients, info)
    manifest: dict[str, Any] = {
        "content": CONTENT_TYPES[encoding],
        "keys": {recipient.hex(): key.hex() for recipient, key in keys.items()},
    }
    if update.spent_milli:
        manifest["epsilon_milli"] = update.spent_milli
    text = json.dumps(manifest, sort_keys=True, indent=1).encode()
    return {MANIFEST_FILE: text, CONTENT_FILE: content}


def unpack(
    read: Read, dimension: int, opener: Opener | None, round_number: int, trainer: str
) -> Update:
    """Read an update of `dimension` coordinates.

    Raises SealedError where it is sealed and there is no opener, or one that it is not sealed to,
    and CodecError for what is no update.
    """
    encoding, keys, spent = _decode_manifest(read(MANIFEST_FILE, _MANIFEST_LIMIT))
    plain, size = _SIZES[encoding](dimension)
    content = read(CONTENT_FILE, plain + (_SEAL_BYTES if keys else 0))
    if keys:
        if opener is None:
            raise SealedError(f"the update of {trainer} is sealed to {len(keys)} keys")
        content = opener.open(content, keys, round_number, trainer)
    if encoding == "plain":
        return replace(decode_update(content, dimension), spent_milli=spent)
    decoded = _decompress(content, size)
    blinding = int.from_bytes(decoded[:_BLINDING_BYTES], "big")
    if blinding >= R:
        raise CodecError("the blinding is no scalar: it is not below R")
    body = np.frombuffer(decoded, dtype=np.uint8, offset=_BLINDING_BYTES)
    decode = _decode_int16 if encoding == "int16" else _decode_int8
    return Update(decode(body, dimension), blinding, spent)


def _decode_manifest(data: bytes) -> tuple[str, dict[bytes, bytes], int]:
    """Return encoding, sealed keys by recipient, and the privacy spent in thousandths of ε."""
    if len(data) > _MANIFEST_LIMIT:
        raise CodecError(f"a manifest of {len(data)} bytes; {_MANIFEST_LIMIT} are possible")
    manifest = strict_json(data, "manifest")
    if set(manifest) - {"epsilon_milli"} != {"content", "keys"}:
        raise CodecError(
            f"manifest has fields {sorted(manifest)}; expected content, keys and, if privacy is "
            "counted, epsilon_milli"
        )
    spent = manifest.get("epsilon_milli", 0)
    if type(spent) is not int or not 0 <= spent <= _MOST_MILLI:
        raise CodecError(f"epsilon_milli {str(spent)[:80]} is not from 0 to {_MOST_MILLI}")
    known = {kind: encoding for encoding, kind in CONTENT_TYPES.items()}
    if not isinstance(manifest["content"], str) or manifest["content"] not in known:
        raise CodecError(f"content type {str(manifest['content'])[:80]!r} is not known here")
    keys = manifest["keys"]
    if not isinstance(keys, dict) or len(keys) > _MOST_RECIPIENTS:
        raise CodecError(f"manifest has no list of up to {_MOST_RECIPIENTS} sealed keys")
    sealed = {_hex(name, KEY_BYTES): _hex(key, SEALED_KEY_BYTES) for name, key in keys.items()}
    return known[manifest["content"]], sealed, spent


def _hex(text: object, size: int) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX.fullmatch(text):
        raise CodecError(f"manifest has {str(text)[:80]!r} instead of {size} bytes in hexadecimal")
    return bytes.fromhex(text)


def _sizes_int16(dimension: int) -> tuple[int, int]:
    return _compressed(size := _BLINDING_BYTES + 2 * dimension), size


def _sizes_int8(dimension: int) -> tuple[int, int]:
    return _compressed(size := _BLINDING_BYTES + _blocks(dimension) + dimension), size


def _sizes_plain(dimension: int) -> tuple[int, int]:
    return (size := file_limit(dimension, 2)), size


_SIZES: Mapping[str, Callable[[int], tuple[int, int]]] = {
    "int16": _sizes_int16,
    "int8": _sizes_int8,
    "plain": _sizes_plain,
}
"""By encoding: most bytes of the content as it travels, and bytes when it is decompressed."""


def _compressed(size: int) -> int:
    """Return the most that zstd makes of incompressible bytes (its ZSTD_COMPRESSBOUND)."""
    return size + (size >> 8) + 64


def _decompress(content: bytes, size: int) -> bytes:
    """Decompress one frame of exactly `size` bytes; nothing is allocated before that is known."""
    try:
        frame = zstandard.get_frame_parameters(content)
        if frame.content_size != size:
            raise CodecError(
                f"the content says that it decompresses to {frame.content_size} bytes, not {size}"
            )
        if frame.dict_id or frame.window_size > max(size, 1 << 10):
            raise CodecError("the content needs a dictionary or a window larger than itself")
        data = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"the content does not decompress: {error}") from error
    if len(data) != size:
        raise CodecError(f"the content decompresses to {len(data)} bytes, not {size}")
    return data


# ------------------------------------------------------------------- encodings


def _encode_int16(update: Update) -> bytes:
    values = update.values.astype(np.int16)
    zigzag = ((values << 1) ^ (values >> 15)).view(np.uint16)
    low, high = (zigzag & 0xFF).astype(np.uint8), (zigzag >> 8).astype(np.uint8)
    return b"".join((_blinding(update), low.tobytes(), high.tobytes()))


def _decode_int16(body: NDArray[np.uint8], dimension: int) -> NDArray[np.int16]:
    zigzag = body[:dimension] | body[dimension:].astype(np.uint16) << 8
    return ((zigzag >> 1) ^ -(zigzag & 1)).view(np.int16)


def _encode_int8(update: Update) -> bytes:
    rows = _rows(update.values.astype(np.int32))
    shifts = _shifts(np.abs(rows).max(axis=1))
    small = rows >> shifts[:, None]
    if small.min() < -_INT8_MAX or not np.array_equal(small << shifts[:, None], rows):
        raise CodecError("the update's values are not those of int8 blocks; see to_blocks")
    flat = small.reshape(-1)[: len(update.values)]
    zigzag = ((flat << 1) ^ (flat >> 31)).astype(np.uint8)
    return b"".join((_blinding(update), shifts.astype(np.uint8).tobytes(), zigzag.tobytes()))


def _decode_int8(body: NDArray[np.uint8], dimension: int) -> NDArray[np.int16]:
    blocks = _blocks(dimension)
    shifts = body[:blocks]
    if shifts.max(initial=0) > _MOST_SHIFT:
        raise CodecError(f"a block is shifted by {shifts.max()} bits; {_MOST_SHIFT} are possible")
    zigzag = body[blocks:].astype(np.int16)
    small = (zigzag >> 1) ^ -(zigzag & 1)
    if small.min(initial=0) < -_INT8_MAX:
        raise CodecError(f"a value of {small.min()} in an int8 block; it ends at {-_INT8_MAX}")
    return small << np.repeat(shifts, BLOCK)[:dimension].astype(np.int16)


def to_blocks(
    delta: NDArray[np.float64], step_bits: int, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Round a delta f64[d] at random to int8 blocks of int16[d] steps; return also what was lost.

    Like `codec.quantise`, but to multiples of 2^shift steps, with the least shift of each block
    that brings it to 127 at most. Unbiased but for what saturates int16.
    """
    if not np.isfinite(delta).all():
        raise CodecError("the update is not finite; lower the learning rate")
    scaled = np.ldexp(delta, step_bits)
    shifts = _shifts(np.ceil(np.abs(_rows(scaled)).max(axis=1)))
    shift = np.repeat(shifts, BLOCK)[: len(delta)]
    small = np.floor(np.ldexp(scaled, -shift) + rng.random(scaled.shape))
    np.clip(small, -_INT8_MAX, _INT8_MAX, out=small)
    steps = np.ldexp(small, shift)
    return steps.astype(np.int16), np.ldexp(scaled - steps, -step_bits)


def _shifts(largest: NDArray[Any]) -> NDArray[np.int64]:
    """Return the least shift of each block that brings its largest value to 127 at most."""
    limits = _INT8_MAX << np.arange(_MOST_SHIFT)
    return np.searchsorted(limits, largest, side="left").astype(np.int64)


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    padded = np.zeros(_blocks(len(values)) * BLOCK, dtype=values.dtype)
    padded[: len(values)] = values
    return padded.reshape(-1, BLOCK)


def _blocks(dimension: int) -> int:
    return -(-dimension // BLOCK)


def _blinding(update: Update) -> bytes:
    if not 0 <= update.blinding < R:
        raise CodecError(f"a blinding is a scalar from 0 to R - 1, not {update.blinding}")
    return update.blinding.to_bytes(_BLINDING_BYTES, "big")
