"""Load the data set that a trainer names, or its part and shard of one.

A data set is named by a text of the form

    SOURCE[:PLACE][?OPTION=VALUE&...][#PART][@I/N]

| SOURCE            | PLACE                               | options of its own               |
|-------------------|-------------------------------------|----------------------------------|
| `digits`          | none: scikit-learn's                |                                  |
| `npz`             | file with arrays x [n, ...], y [n]  | x, y                             |
| `csv`             | file, one sample a row              | label, header, delimiter,        |
|                   |                                     | missing, standardise, above,     |
|                   |                                     | classes                          |
| `images`          | folder with one subfolder a class   | size, channels, classes          |
| `idx`             | folder with MNIST's files           |                                  |
| `module:function` | returns a torch Dataset of (x, y)   | handed to the function, as text  |

Options of every source: `shape=1,28,28` gives each sample that shape; `shift=33.3` is subtracted
from the features, which `scale=78.6` then divides; `split=iid|shards|dirichlet:ALPHA` says how
shards are made and `seed` who gets which; `most=100` keeps so many samples at most, evenly spread.

`#train`, `#test` and `#all` choose the part. `digits` (a fixed fifth of it) and `idx` have a test
part of their own and mean `#train` unless told otherwise. Other sources mean `#all`; their test
part is a random fraction, `holdout=0.2`, which `seed` draws. `@3/8` is the fourth of eight shards
of that part: whoever names the same data set gets the same eight shards, and they do not overlap,
so that several trainers on one machine can divide one data set.

Examples: `digits@3/8`, `idx:data/mnist?split=shards@0/10`, `idx:data/mnist#test`,
`csv:processed.cleveland.data?missing=?&above=0&standardise=1`. In values, `&`, `#` and `%` are
written as %26, %23 and %25.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.code import call, is_code_name
from trainer.errors import CodeError, DataError
from trainer.readers import (
    MAX_BYTES,
    Samples,
    read_csv,
    read_digits,
    read_idx,
    read_images,
    read_npz,
)

__all__ = ["Dataset", "load", "split_dirichlet", "split_iid", "split_shards"]

Indices = NDArray[np.int64]

_SPEC = re.compile(
    r"(?P<source>[^?#@]*?)"
    r"(\?(?P<options>[^#]*?))?"
    r"(#(?P<part>[^@]*))?"
    r"(@(?P<shard>[^@/]*/[^@/]*))?",
    re.DOTALL,
)
_SHARED_OPTIONS = ("shape", "shift", "scale", "split", "seed", "most")
_OPTIONS = {
    "digits": (),
    "npz": ("x", "y", "holdout"),
    "csv": (
        "label",
        "header",
        "delimiter",
        "missing",
        "standardise",
        "above",
        "classes",
        "holdout",
    ),
    "images": ("size", "channels", "classes", "holdout"),
    "idx": (),
}
_SCALE = {"idx": 255.0, "images": 255.0}
_DIRICHLET_DRAWS = 100


@dataclass(frozen=True)
class Dataset:
    """Hold samples ready for training: features f32[n, ...], labels int64[n] below `classes`."""

    features: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        if self.features.dtype != torch.float32 or self.labels.dtype != torch.int64:
            raise DataError(
                "a data set has float32 features and int64 labels, "
                f"not {self.features.dtype} and {self.labels.dtype}"
            )
        if self.labels.ndim != 1 or len(self.features) != len(self.labels):
            raise DataError(
                f"features of shape {tuple(self.features.shape)} do not go with labels of shape "
                f"{tuple(self.labels.shape)}: one label a sample"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Indices) -> Dataset:
        """Return the samples at `indices`, in that order."""
        chosen = torch.from_numpy(np.array(indices, dtype=np.int64))
        return Dataset(self.features[chosen], self.labels[chosen], self.classes)


def load(spec: str) -> Dataset:
    """Load what `spec` names, in the form that this module's text describes.

    Raises DataError or CodeError naming the file, the row or value, and what to do next.
    """
    name = _parse(spec)
    samples = _read(name)
    if len(samples.features) != len(samples.labels):
        raise DataError(
            f"{spec}: {len(samples.features):,} samples but {len(samples.labels):,} labels"
        )
    chosen = np.arange(len(samples.labels))
    if not (name.source == "idx" or name.part == "all"):
        chosen = _part(name, len(chosen))
    if name.shard is not None:
        chosen = chosen[_shard(name, samples.labels[chosen])]
    if name.most is not None and name.most < len(chosen):
        chosen = chosen[np.arange(name.most) * len(chosen) // name.most]
    features = _as_float32(name, samples.features[chosen])
    labels = torch.from_numpy(samples.labels[chosen])
    return Dataset(torch.from_numpy(features), labels, samples.classes)


# ------------------------------------------------------------------------------------- dividing


def split_iid(labels: Indices, parts: int, rng: np.random.Generator) -> tuple[Indices, ...]:
    """Divide n samples at random into parts whose sizes differ by at most one.

    Returns index arrays that cover 0..n-1 exactly once, each sorted, as the other splits do.
    """
    _check_parts(len(labels), parts)
    return tuple(np.sort(part) for part in np.array_split(rng.permutation(len(labels)), parts))


def split_shards(
    labels: Indices, parts: int, rng: np.random.Generator, each: int = 2
) -> tuple[Indices, ...]:
    """Divide samples sorted by label into shards and deal `each` of them to every part.

    With two shards a part, most parts see only two classes (McMahan et al. 2017, section 3).
    """
    _check_parts(len(labels), parts * each)
    shards = np.array_split(np.argsort(labels, kind="stable"), parts * each)
    dealt = rng.permutation(parts * each).reshape(parts, each)
    return tuple(np.sort(np.concatenate([shards[k] for k in hand])) for hand in dealt)


def split_dirichlet(
    labels: Indices, parts: int, alpha: float, rng: np.random.Generator
) -> tuple[Indices, ...]:
    """Divide each class in proportions drawn from a symmetric Dirichlet distribution.

    The smaller `alpha`, the fewer classes a part sees (Hsu et al. 2019, arXiv:1909.06335, with the
    proportions drawn per class). Drawn again while a part is empty, at most 100 times.
    """
    _check_parts(len(labels), parts)
    if not 0 < alpha < float("inf"):
        raise DataError(f"dirichlet:{alpha} needs a positive finite number")
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(_DIRICHLET_DRAWS):
        dealt: list[list[Indices]] = [[] for _ in range(parts)]
        for members in classes:
            cuts = np.cumsum(rng.dirichlet(np.full(parts, alpha)))[:-1] * len(members)
            pieces = np.split(rng.permutation(members), np.round(cuts).astype(int))
            for hand, piece in zip(dealt, pieces, strict=True):
                hand.append(piece)
        result = tuple(np.sort(np.concatenate(hand)) for hand in dealt)
        if all(len(part) for part in result):
            return result
    raise DataError(
        f"dirichlet:{alpha} left one of {parts} parts empty {_DIRICHLET_DRAWS} times; "
        "use a larger number or fewer parts"
    )


def _check_parts(samples: int, parts: int) -> None:
    if not 1 <= parts <= samples:
        raise DataError(f"{samples:,} samples cannot be divided into {parts:,}")


# ------------------------------------------------------------------------------------- the name


@dataclass(frozen=True)
class _Name:
    """Keep what a data set's name says; `options` holds what was not understood here."""

    spec: str
    source: str
    place: str
    options: Mapping[str, str]
    part: str
    shard: tuple[int, int] | None
    shape: tuple[int, ...] | None
    shift: float
    scale: float
    split: str
    seed: int
    most: int | None
    holdout: float


def _parse(spec: str) -> _Name:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"{spec!r} is not of the form SOURCE[:PLACE][?OPTION=VALUE][#PART][@I/N]")
    source, _, place = match["source"].partition(":")
    if source in _OPTIONS:
        if bool(place) != (source != "digits"):
            raise DataError(
                f"{spec!r}: digits takes no place"
                if source == "digits"
                else f"{spec!r} names no place; write {source}:PLACE"
            )
    elif not is_code_name(match["source"]):
        raise DataError(
            f"{spec!r}: no source {source!r}; there are {', '.join(_OPTIONS)} and module:function"
        )
    options = _parse_options(spec, match["options"])
    allowed = _OPTIONS.get(source)
    for option in options:
        if allowed is not None and option not in (*allowed, *_SHARED_OPTIONS):
            raise DataError(
                f"{spec!r}: {source} has no option {option!r}; it has "
                f"{', '.join((*allowed, *_SHARED_OPTIONS))}"
            )
    part = match["part"] or ("train" if source in ("digits", "idx") else "all")
    if part not in ("train", "test", "all"):
        raise DataError(f"{spec!r}: part {part!r} is none of #train, #test, #all")
    shape = options.pop("shape", None)
    holdout = _real(spec, "holdout", options.pop("holdout", "0.2"))
    if not 0 < holdout < 1:
        raise DataError(f"{spec!r}: holdout={holdout} must lie between 0 and 1")
    most = options.pop("most", None)
    scale = _real(spec, "scale", options.pop("scale", str(_SCALE.get(source, 1.0))))
    if scale <= 0:
        raise DataError(f"{spec!r}: scale={scale} must be positive")
    return _Name(
        spec=spec,
        source=source if source in _OPTIONS else match["source"],
        place=place,
        part=part,
        shard=None if match["shard"] is None else _parse_shard(spec, match["shard"]),
        shape=None if shape is None else tuple(_whole(spec, "shape", k) for k in shape.split(",")),
        shift=_real(spec, "shift", options.pop("shift", "0")),
        scale=scale,
        split=options.pop("split", "iid"),
        seed=_whole(spec, "seed", options.pop("seed", "0")),
        most=None if most is None else _whole(spec, "most", most),
        holdout=holdout,
        options=options,
    )


def _parse_options(spec: str, text: str | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise DataError(f"{spec!r}: options are written ?NAME=VALUE&NAME=VALUE: {error}") from error
    options = dict(pairs)
    if len(options) != len(pairs):
        raise DataError(f"{spec!r} gives an option twice")
    return options


def _parse_shard(spec: str, text: str) -> tuple[int, int]:
    index, _, parts = text.partition("/")
    i, n = _whole(spec, "shard", index), _whole(spec, "shard", parts)
    if not i < n:
        raise DataError(f"{spec!r}: shards count from 0, so the last of {n} is @{n - 1}/{n}")
    return i, n


def _whole(spec: str, option: str, text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 16):
        raise DataError(f"{spec!r}: {option}={text} must be a whole number from 0")
    return int(text)


def _real(spec: str, option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{spec!r}: {option}={text} must be a finite number")
    return value


def _flag(spec: str, option: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise DataError(f"{spec!r}: {option}={text} must be 0 or 1")
    return text == "1"


# -------------------------------------------------------------------------------------- loading


def _read(name: _Name) -> Samples:
    spec, options = name.spec, dict(name.options)
    path = Path(name.place).expanduser()
    names = tuple(options["classes"].split(",")) if options.get("classes") else ()
    if len(set(names)) != len(names):
        raise DataError(f"{spec!r}: classes={options['classes']} names a class twice")
    match name.source:
        case "digits":
            return read_digits()
        case "npz":
            return read_npz(path, options.get("x", "x"), options.get("y", "y"))
        case "csv":
            header = options.get("header")
            above = options.get("above")
            return read_csv(
                path,
                label=options.get("label", "-1"),
                header=None if header is None else _flag(spec, "header", header),
                delimiter=options.get("delimiter", ","),
                missing=options.get("missing"),
                standardise=_flag(spec, "standardise", options.get("standardise", "0")),
                above=None if above is None else _real(spec, "above", above),
                names=names,
            )
        case "images":
            size = options.get("size")
            return read_images(
                path,
                size=None if size is None else _whole(spec, "size", size),
                channels=_whole(spec, "channels", options.get("channels", "3")),
                names=names,
            )
        case "idx" if name.part == "all":
            train, test = read_idx(path, "train"), read_idx(path, "test")
            return _joined(name, train, test)
        case "idx":
            return read_idx(path, name.part)
        case _:
            return _read_code(name)


def _joined(name: _Name, train: Samples, test: Samples) -> Samples:
    if train.features.shape[1:] != test.features.shape[1:]:
        raise DataError(f"{name.spec!r}: train and test images differ in size")
    return Samples(
        np.concatenate([train.features, test.features]),
        np.concatenate([train.labels, test.labels]),
        max(train.classes, test.classes),
    )


def _read_code(name: _Name) -> Samples:
    """Read every sample of the torch Dataset that `module:function` returns."""
    items = call(name.source, name.options)
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise CodeError(
            f"{name.source} returned {type(items).__name__}, not a torch Dataset with a length"
        )
    features: list[NDArray[Any]] = []
    labels: list[int] = []
    size = 0
    for k in range(len(items)):
        try:
            x, y = items[k]
            row = np.asarray(x, dtype=np.float32)
            label = int(y)
        except Exception as error:
            raise CodeError(
                f"{name.source}, sample {k}: not a pair of numbers and a label: {error}"
            ) from error
        if features and row.shape != features[0].shape:
            raise DataError(
                f"{name.source}, sample {k}: shape {row.shape}, sample 0 has {features[0].shape}"
            )
        if not 0 <= label < 2**31:
            raise DataError(f"{name.source}, sample {k}: label {label} is not from 0 to 2^31 - 1")
        size += row.nbytes
        if size > MAX_BYTES:
            raise DataError(f"{name.source} is larger than {MAX_BYTES:,} bytes after {k:,} samples")
        features.append(row)
        labels.append(label)
    if not labels:
        raise DataError(f"{name.source} returned a data set without samples")
    return Samples(np.stack(features), np.array(labels, dtype=np.int64), max(labels) + 1)


def _part(name: _Name, count: int) -> Indices:
    """Return the sorted indices of the train or test part, drawn by the name's seed."""
    held_out = round(count * name.holdout)
    if not 1 <= held_out < count:
        raise DataError(f"{name.spec!r}: holdout={name.holdout} of {count:,} samples leaves none")
    seed = 0 if name.source == "digits" else name.seed
    order = np.random.default_rng([seed, 0]).permutation(count)
    return np.sort(order[:held_out] if name.part == "test" else order[held_out:])


def _shard(name: _Name, labels: Indices) -> Indices:
    assert name.shard is not None
    index, parts = name.shard
    rng = np.random.default_rng([name.seed, 1])
    kind, _, number = name.split.partition(":")
    try:
        match kind:
            case "iid" if not number:
                return split_iid(labels, parts, rng)[index]
            case "shards" if not number:
                return split_shards(labels, parts, rng)[index]
            case "dirichlet":
                alpha = _real(name.spec, "split", number)
                return split_dirichlet(labels, parts, alpha, rng)[index]
    except DataError as error:
        raise DataError(f"{name.spec!r}: {error}") from error
    raise DataError(f"{name.spec!r}: split={name.split} is none of iid, shards, dirichlet:ALPHA")


def _as_float32(name: _Name, features: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to finite float32, scaled and in the shape that the name asks for."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(features, dtype=np.float32)
    if values is features or not values.flags.writeable:
        values = values.copy()
    values -= np.float32(name.shift)
    values /= np.float32(name.scale)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"{name.spec!r}, sample {row}: a feature is not a finite float32 number")
    if name.shape is not None:
        if int(np.prod(name.shape, dtype=object)) != int(np.prod(values.shape[1:])):
            raise DataError(
                f"{name.spec!r}: shape={','.join(map(str, name.shape))} does not hold samples of "
                f"shape {values.shape[1:]}"
            )
        values = values.reshape(len(values), *name.shape)
    return values
