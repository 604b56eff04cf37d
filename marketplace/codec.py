"""Turn what a trainer learned into integers, and integers into bytes and back.

An update is int16[d] in steps of 2^-step_bits. A model is int64[d] in units of
2^-(step_bits + 16), so that M' = M + Σ w_i u_i holds exactly for integer weights of 2^16 in all:
every machine computes the same bits. Steps are powers of two, so no conversion rounds unseen.

Files are safetensors without metadata (whose order is not fixed): exactly the tensors named here,
checked before anything is used. JSON is strict: no unknown field, no missing one, none twice, no
NaN; and what people get to see holds no control characters.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from marketplace.errors import CodecError
from marketplace.proof.field import R

__all__ = [
    "DESCRIPTION_FILE",
    "INT16_MAX",
    "MODEL_FILE",
    "ONE",
    "Description",
    "KeyCard",
    "Model",
    "Training",
    "Update",
    "apply_updates",
    "clip",
    "decode_card",
    "decode_description",
    "decode_model",
    "decode_update",
    "encode_description",
    "encode_model",
    "encode_update",
    "file_limit",
    "gram",
    "pack_gram",
    "quantise",
    "strict_json",
    "to_fixed",
    "to_float",
    "unpack_gram",
]

ONE = 1 << 16
"""The weights of a round sum to this."""

INT16_MAX = 2**15 - 1

MODEL_FILE = "model.safetensors"
DESCRIPTION_FILE = "project.json"

_DESCRIPTION_LIMIT = 1 << 16
_TITLE_LIMIT = 200
_MOST_CARDS = 64
_HEADER_LIMIT = 1 << 12
_BLOCK = 1 << 20
_GRAM_BLOCK = 1 << 18
"""Coordinates whose int16 products sum below 2^53, where float64 is exact: 2^18 · 2^30 = 2^48."""


# ---------------------------------------------------------------- fixed point


def clip(delta: NDArray[np.float64], clip_norm: int, step_bits: int) -> NDArray[np.float64]:
    """Shorten a delta f64[d] to an L2 norm of at most `clip_norm` steps of 2^-step_bits."""
    norm = float(np.linalg.norm(delta))
    limit = clip_norm * 2.0**-step_bits
    return delta * (limit / norm) if norm > limit else delta


def quantise(
    delta: NDArray[np.float64], step_bits: int, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Round a delta f64[d] at random to int16[d] steps, and return what was lost, f64[d].

    Rounding is unbiased (up with the probability of the fraction). What does not fit int16
    saturates. delta = steps · 2^-step_bits + lost, up to one rounding of float64. Raises CodecError
    for NaN and infinity.
    """
    finite = np.isfinite(delta)
    if not finite.all():
        index = int(np.argmin(finite))
        raise CodecError(
            f"coordinate {index} of the update is {delta[index]}; lower the learning rate or "
            "look for it in the data"
        )
    scaled = np.ldexp(delta, step_bits)
    steps = np.floor(scaled + rng.random(scaled.shape))
    np.clip(steps, -INT16_MAX - 1, INT16_MAX, out=steps)
    return steps.astype(np.int16), np.ldexp(scaled - steps, -step_bits)


def to_fixed(params: NDArray[np.float32], step_bits: int) -> NDArray[np.int64]:
    """Convert parameters f32[d] to a model int64[d], rounding to the nearest unit."""
    scaled = np.ldexp(params.astype(np.float64), step_bits + 16)
    if not (np.isfinite(scaled).all() and np.abs(scaled).max(initial=0.0) < 2.0**62):
        raise CodecError(
            f"a parameter is not finite or beyond 2^{62 - 16 - step_bits}, the largest that a "
            f"model with {step_bits} step bits holds"
        )
    return np.rint(scaled).astype(np.int64)


def to_float(model: NDArray[np.int64], step_bits: int) -> NDArray[np.float32]:
    """Convert a model int64[d] to parameters f32[d]."""
    return np.ldexp(model.astype(np.float64), -(step_bits + 16)).astype(np.float32)


def apply_updates(
    model: NDArray[np.int64], updates: Sequence[NDArray[np.int16]], weights: Sequence[int]
) -> NDArray[np.int64]:
    """Return M + Σ w_i u_i, int64[d], exactly; CodecError where a coordinate leaves int64."""
    result = model.copy()
    step = np.zeros(min(_BLOCK, len(model)), dtype=np.int64)
    for start in range(0, len(model), _BLOCK):
        part = result[start : start + _BLOCK]
        total = step[: len(part)]
        total[:] = 0
        for update, weight in zip(updates, weights, strict=True):
            if weight:
                total += update[start : start + _BLOCK].astype(np.int64) * weight
        with np.errstate(over="ignore"):
            moved = part + total
        over = ((part ^ moved) & (total ^ moved)) < 0
        if over.any():
            index = start + int(np.argmax(over))
            raise CodecError(f"coordinate {index} of the next model does not fit 64 bits")
        part[:] = moved
    return result


def gram(updates: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return all inner products of the rows, int64[n,n] of int16[n,d], exactly."""
    n, d = updates.shape
    total = np.zeros((n, n), dtype=np.int64)
    for start in range(0, d, _GRAM_BLOCK):
        block = updates[:, start : start + _GRAM_BLOCK].astype(np.float64)
        total += (block @ block.T).astype(np.int64)
    return total


def pack_gram(matrix: NDArray[np.int64]) -> bytes:
    """Write the upper triangle of int64[n, n], n(n+1)/2 words of 8 bytes."""
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns].astype(">i8").tobytes()


def unpack_gram(data: bytes, n: int) -> NDArray[np.int64]:
    """Read the symmetric matrix int64[n, n] of a triangle; CodecError for another size."""
    if len(data) != 4 * n * (n + 1):
        raise CodecError(f"a matrix of {len(data)} bytes; {n} updates take {4 * n * (n + 1)}")
    matrix = np.zeros((n, n), dtype=np.int64)
    rows, columns = np.triu_indices(n)
    matrix[rows, columns] = matrix[columns, rows] = np.frombuffer(data, dtype=">i8")
    return matrix


# ---------------------------------------------------------------------- files


@dataclass(frozen=True, eq=False)
class Update:
    """Hold an update int16[d] and the blinding of its commitment, a scalar below R.

    `spent_milli` is the privacy that its trainer has spent with it, in thousandths of ε; 0 where
    nobody counts.
    """

    values: NDArray[np.int16]
    blinding: int
    spent_milli: int = 0


@dataclass(frozen=True, eq=False)
class Model:
    """Hold a model int64[d] and the blinding of its commitment, a scalar below R."""

    values: NDArray[np.int64]
    blinding: int


def file_limit(dimension: int, bytes_each: int) -> int:
    """Return the largest size in bytes that a file of `dimension` coordinates may have."""
    return 8 + _HEADER_LIMIT + 32 + dimension * bytes_each


def encode_update(update: Update) -> bytes:
    """Write an update as safetensors."""
    return _encode("update", np.ascontiguousarray(update.values, dtype=np.int16), update.blinding)


def decode_update(data: bytes, dimension: int) -> Update:
    """Read an update of `dimension` coordinates; CodecError for anything else."""
    values, blinding = _decode(data, "update", "I16", np.dtype("<i2"), dimension)
    return Update(values, blinding)


def encode_model(model: Model) -> bytes:
    """Write a model as safetensors."""
    return _encode("model", np.ascontiguousarray(model.values, dtype=np.int64), model.blinding)


def decode_model(data: bytes, dimension: int) -> Model:
    """Read a model of `dimension` coordinates; CodecError for anything else."""
    values, blinding = _decode(data, "model", "I64", np.dtype("<i8"), dimension)
    return Model(values, blinding)


def _encode(name: str, values: NDArray[Any], blinding: int) -> bytes:
    if not 0 <= blinding < R:
        raise CodecError(f"a blinding is a scalar from 0 to R - 1, not {blinding}")
    scalar = np.frombuffer(blinding.to_bytes(32, "big"), dtype=np.uint8)
    return bytes(save({name: values, "blinding": scalar}))


def _decode(
    data: bytes, name: str, kind: str, dtype: np.dtype[Any], dimension: int
) -> tuple[NDArray[Any], int]:
    limit = file_limit(dimension, dtype.itemsize)
    if len(data) > limit:
        raise CodecError(f"a file of {len(data)} bytes; {dimension} coordinates take {limit}")
    if len(data) < 8:
        raise CodecError(f"a file of {len(data)} bytes is cut short")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_HEADER_LIMIT, len(data) - 8):
        raise CodecError(f"header of {length} bytes in a file of {len(data)}")
    header = strict_json(data[8 : 8 + length], "header")
    body = data[8 + length :]
    if set(header) != {name, "blinding"}:
        raise CodecError(f"tensors {sorted(header)}; expected {sorted((name, 'blinding'))}")
    values = _tensor(header[name], body, name, kind, dtype, dimension)
    scalar = _tensor(header["blinding"], body, "blinding", "U8", np.dtype("u1"), 32)
    first, second = sorted(entry["data_offsets"] for entry in header.values())
    if first[0] != 0 or first[1] != second[0] or second[1] != len(body):
        raise CodecError(
            f"tensors at {first} and {second} do not fill the file's {len(body)} bytes exactly"
        )
    blinding = int.from_bytes(scalar.tobytes(), "big")
    if blinding >= R:
        raise CodecError("the blinding is no scalar: it is not below R")
    return values, blinding


def _tensor(
    entry: object, body: bytes, name: str, kind: str, dtype: np.dtype[Any], size: int
) -> NDArray[Any]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CodecError(f"tensor {name!r} is not described as safetensors do")
    if entry["dtype"] != kind or entry["shape"] != [size]:
        raise CodecError(
            f"tensor {name!r} is {entry['dtype']}{entry['shape']}; expected {kind}[{size}]"
        )
    offsets = entry["data_offsets"]
    good = isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)
    if not good or not 0 <= offsets[0] <= offsets[1] <= len(body):
        raise CodecError(f"tensor {name!r} lies outside the file: {offsets}")
    if offsets[1] - offsets[0] != size * dtype.itemsize:
        raise CodecError(f"tensor {name!r} takes {offsets[1] - offsets[0]} bytes")
    native = dtype.newbyteorder("=")
    return np.frombuffer(body[offsets[0] : offsets[1]], dtype=dtype).astype(native)


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object in which no name stands twice and no number is NaN or infinite."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CodecError(f"{what} names a field twice")
        return found

    def refuse(constant: str) -> float:
        raise CodecError(f"{what} holds {constant}, which is no JSON")

    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{what} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise CodecError(f"{what} is no JSON object")
    return document


# --------------------------------------------------------------- descriptions


@dataclass(frozen=True)
class Training:
    """State how a trainer trains in a round."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.05
    batch_size: int = 32
    epochs: int = 1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise CodecError(f"optimizer {self.optimizer!r} is not known; sgd and adam are")
        if not 0.0 < self.learning_rate <= 1000.0:
            raise CodecError(f"learning rate {self.learning_rate} is not between 0 and 1000")
        if not 1 <= self.batch_size <= 1 << 20:
            raise CodecError(f"batch size {self.batch_size} is not between 1 and 2^20")
        if not 1 <= self.epochs <= 10_000:
            raise CodecError(f"{self.epochs} epochs are not between 1 and 10000")
        if not 0.0 <= self.momentum < 1.0:
            raise CodecError(f"momentum {self.momentum} is not from 0 to below 1")


@dataclass(frozen=True)
class KeyCard:
    """Say that an account reads what is sealed to an X25519 key; `signature` is the account's.

    Key and signature are hexadecimal; `sealing.check_card` says whether they are right.
    """

    account: str
    key: str
    signature: str


@dataclass(frozen=True)
class Description:
    """Tell trainers what a project wants; `model` is built in or "module:function".

    `readers` says who can read the updates: "open" everybody; "sealed" the accounts whose `keys`
    stand here, the aggregator among them; "members" those and the active trainers of the round.
    """

    title: str
    model: str
    summary: str = ""
    model_options: Mapping[str, int | float | str] = field(default_factory=dict)
    training: Training = Training()
    readers: Literal["open", "sealed", "members"] = "open"
    keys: tuple[KeyCard, ...] = ()

    def __post_init__(self) -> None:
        if self.readers not in ("open", "sealed", "members"):
            raise CodecError(f"readers {self.readers!r} are not known; open, sealed, members are")
        if (self.readers == "open") != (not self.keys) or len(self.keys) > _MOST_CARDS:
            raise CodecError(
                f"{len(self.keys)} key cards for readers {self.readers!r}; none for open ones, "
                f"else 1 to {_MOST_CARDS}"
            )
        if not 1 <= len(self.title) <= _TITLE_LIMIT:
            raise CodecError(
                f"a title of {len(self.title)} characters is not between 1 and {_TITLE_LIMIT}"
            )
        words = [self.title, self.model, *self.summary.splitlines(), *self.model_options]
        words += [value for value in self.model_options.values() if isinstance(value, str)]
        for text in words:
            # A terminal or a page would take them for commands.
            if not text.isprintable():
                raise CodecError(f"{text!r} holds characters that cannot be printed")


_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "model": (str,),
    "summary": (str,),
    "model_options": (dict,),
    "training": (dict,),
    "optimizer": (str,),
    "learning_rate": (float, int),
    "batch_size": (int,),
    "epochs": (int,),
    "momentum": (float, int),
    "readers": (str,),
    "keys": (list,),
    "account": (str,),
    "key": (str,),
    "signature": (str,),
}


def encode_description(description: Description) -> bytes:
    """Write a description as canonical JSON: sorted keys, UTF-8."""
    document = asdict(description)
    return json.dumps(document, sort_keys=True, ensure_ascii=False, indent=1).encode()


def decode_description(data: bytes) -> Description:
    """Read a description of at most 64 KiB; CodecError for anything else."""
    if len(data) > _DESCRIPTION_LIMIT:
        raise CodecError(f"a description of {len(data)} bytes; {_DESCRIPTION_LIMIT} are possible")
    document = strict_json(data, "description")
    _check_fields(document, Description)
    _check_fields(document["training"], Training)
    for key, value in document["model_options"].items():
        if type(value) not in (int, float, str):
            raise CodecError(f"model option {key!r} is neither a number nor a word")
    training = Training(**document.pop("training"))
    keys = tuple(_card(card) for card in document.pop("keys"))
    return Description(training=training, keys=keys, **document)


def decode_card(data: bytes) -> KeyCard:
    """Read a key card; CodecError for anything else."""
    return _card(strict_json(data, "key card"))


def _card(document: object) -> KeyCard:
    if type(document) is not dict:
        raise CodecError(f"{document!r} is no key card")
    _check_fields(document, KeyCard)
    return KeyCard(**document)


def _check_fields(document: dict[str, Any], cls: type) -> None:
    expected = {entry.name for entry in fields(cls)}
    if set(document) != expected:
        raise CodecError(
            f"{cls.__name__.lower()} has fields {sorted(document)}; expected {sorted(expected)}"
        )
    for key, value in document.items():
        if type(value) not in _TYPES[key]:
            raise CodecError(f"field {key!r} cannot be {value!r}")
