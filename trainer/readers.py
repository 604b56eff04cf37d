"""Read samples from the file formats that trainers keep them in.

Covered: npz, csv, folders of images, MNIST's idx files, scikit-learn's digits. Every reader checks
sizes before it allocates, never unpickles, and names the file, the row and the value of a fault.
Not covered: which samples are used and how they are divided; see `trainer.data`.
"""

from __future__ import annotations

import csv
import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

__all__ = [
    "MAX_BYTES",
    "Samples",
    "read_csv",
    "read_digits",
    "read_idx",
    "read_images",
    "read_npz",
]

MAX_BYTES = 4 << 30
"""What one array or file may take in memory."""

_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
)
_MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Samples:
    """Hold samples as they were read: features of any real type [n, ...], labels int64[n]."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    classes: int


def read_digits() -> Samples:
    """Read scikit-learn's digits: 1,797 images of 8x8 pixels as features [n, 64] in 0..1."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    features = (bunch.data / 16).astype(np.float32)
    return Samples(features, bunch.target.astype(np.int64), 10)


# ------------------------------------------------------------------------------------------- npz


def read_npz(path: Path, x: str = "x", y: str = "y") -> Samples:
    """Read the arrays `x` [n, ...] and `y` [n] of an npz archive."""
    try:
        with zipfile.ZipFile(_existing_file(path)) as archive:
            features, labels = (_read_member(path, archive, name) for name in (x, y))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable npz archive: {_reason(error)}") from error
    if features.ndim < 2:
        raise DataError(
            f"{path}: array {x!r} has shape {features.shape}; give one row a sample, [n, ...]"
        )
    if features.dtype.kind not in "fiub":
        raise DataError(f"{path}: array {x!r} is {features.dtype}, not real numbers")
    return Samples(features, *_whole_labels(str(path), labels))


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    member = f"{name}.npy"
    if member not in archive.namelist():
        present = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()[:20])
        raise DataError(
            f"{path} has no array {name!r} but {present or 'nothing'}; "
            "name the arrays with ?x=...&y=..."
        )
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = (
                np.lib.format.read_array_header_1_0(stream)
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0(stream)
            )
        except ValueError as error:
            raise DataError(f"{path}: array {name!r} has a broken header: {error}") from error
        shape, fortran, dtype = header
        if dtype.hasobject:
            raise DataError(
                f"{path}: array {name!r} holds Python objects, which are never unpickled; "
                "save it as numbers"
            )
        size = dtype.itemsize * _product(shape)
        _check_size(f"{path}: array {name!r} of shape {shape}", size)
        values = np.frombuffer(_read_exactly(f"{path}: array {name!r}", stream, size), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


# ------------------------------------------------------------------------------------------- csv


def read_csv(
    path: Path,
    label: str = "-1",
    header: bool | None = None,
    delimiter: str = ",",
    missing: str | None = None,
    standardise: bool = False,
    above: float | None = None,
    names: Sequence[str] = (),
) -> Samples:
    """Read a table of numbers, one sample a row, as features [n, columns - 1].

    `label` names the label's column, or counts it from 0 or, negative, from the right. Without
    `header` the first row is one if it holds a cell that is neither a number nor `missing`. A
    cell that reads `missing` becomes the mean of its column, 0 where the whole column is missing.
    `standardise` brings each column to mean 0 and variance 1 over the file. Labels are whole
    numbers from 0; with `above` the class is 1 where the label is larger and 0 elsewhere; with
    `names` it is the label's place in that list.
    """
    if len(delimiter) != 1:
        raise DataError(f"{path}: delimiter={delimiter!r} must be one character (tab is %09)")
    rows = list(_csv_rows(path, delimiter))
    if not rows:
        raise DataError(f"{path} holds no rows")
    first = rows[0][1]
    if header is None:
        label_column = label if _is_whole(label) else ""
        header = _looks_like_header(first, missing, label_column, bool(names))
    column = _label_column(path, label, first, header)
    if header:
        rows = rows[1:]
        if not rows:
            raise DataError(f"{path} holds a header but no rows")
    table = np.array(
        [
            [_number(path, line, k, cell, missing) for k, cell in enumerate(row) if k != column]
            for line, row in rows
        ],
        dtype=np.float64,
    )
    labels = np.array([_csv_label(path, line, row[column], above, names) for line, row in rows])
    table = _fill(table)
    if standardise:
        deviation = table.std(axis=0)
        table = (table - table.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    known = 2 if above is not None else len(names)
    return Samples(table, labels.astype(np.int64), known or int(labels.max()) + 1)


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each row that is not blank."""
    width = 0
    _check_size(str(path), _existing_file(path).stat().st_size)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for row in reader:
                if not row:
                    continue
                width = width or len(row)
                if len(row) != width:
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(row)} cells where the first row has "
                        f"{width}"
                    )
                if width < 2:
                    raise DataError(
                        f"{path}, line {reader.line_num}: one cell, but a row needs a label and a "
                        f"feature; is {delimiter!r} the delimiter?"
                    )
                yield reader.line_num, [cell.strip() for cell in row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not csv text in UTF-8: {error}") from error


def _looks_like_header(first: list[str], missing: str | None, label: str, named: bool) -> bool:
    column = int(label) % len(first) if label and named else None
    return any(
        cell != missing and not _is_number(cell) for k, cell in enumerate(first) if k != column
    )


def _label_column(path: Path, label: str, first: list[str], header: bool) -> int:
    if header and label in first:
        return first.index(label)
    width = len(first)
    if _is_whole(label) and -width <= int(label) < width:
        return int(label) % width
    choice = f"columns {', '.join(first)}" if header else f"no header and {width} columns"
    raise DataError(f"{path} has no column label={label}; it has {choice}")


def _number(path: Path, line: int, column: int, cell: str, missing: str | None) -> float:
    if cell == missing:
        return float("nan")
    if not _is_number(cell):
        raise DataError(
            f"{path}, line {line}, column {column}: {cell!r} is not a finite number; "
            "name what stands for a missing value with ?missing=..."
        )
    return float(cell)


def _csv_label(path: Path, line: int, cell: str, above: float | None, names: Sequence[str]) -> int:
    if names:
        if cell not in names:
            raise DataError(
                f"{path}, line {line}: label {cell!r} is not one of classes={','.join(names)}"
            )
        return list(names).index(cell)
    if above is not None and _is_number(cell):
        return int(float(cell) > above)
    if above is None and _is_number(cell) and float(cell).is_integer() and 0 <= float(cell) < 2**31:
        return int(float(cell))
    raise DataError(
        f"{path}, line {line}: label {cell!r} is not a whole number from 0; list the classes in "
        "order with ?classes=NAME,NAME or split a number in two with ?above=VALUE"
    )


def _fill(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace each NaN by the mean of its column, or by 0 where the column has no value."""
    known = ~np.isnan(table)
    count = known.sum(axis=0)
    mean = np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1)
    return np.where(known, table, mean)


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


# ---------------------------------------------------------------------------------------- images


def read_images(
    folder: Path, size: int | None = None, channels: int = 3, names: Sequence[str] = ()
) -> Samples:
    """Read a folder with one subfolder a class, as features [n, channels, h, w] in 0..255.

    Classes are the subfolders in the order of `names`, else of the alphabet. Images are resized to
    `size` x `size` pixels if it is given and must all have one size otherwise.
    """
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise DataError(f"{folder}: channels={channels} must be 1 (grey) or 3 (colour)")
    if size is not None and not 1 <= size <= 4096:
        raise DataError(f"{folder}: size={size} must be from 1 to 4096 pixels")
    classes = _class_folders(folder, names)
    files = [(k, path) for k, name in enumerate(classes) for path in _image_files(folder / name)]
    if not files:
        raise DataError(f"{folder}: no images in the folders {', '.join(classes)}")
    images: list[NDArray[np.uint8]] = []
    total = 0
    for _, path in files:
        try:
            with Image.open(path, formats=_IMAGE_FORMATS) as image:
                width, height = image.size
                if width * height > _MAX_PIXELS:
                    raise DataError(
                        f"{path} has {width} x {height} pixels; at most {_MAX_PIXELS:,} are read"
                    )
                plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} is not a readable image: {_reason(error)}") from error
        if size is not None:
            plain = plain.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(plain, dtype=np.uint8).reshape(plain.height, plain.width, channels)
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{path} has {plain.width} x {plain.height} pixels, {files[0][1]} has "
                f"{images[0].shape[1]} x {images[0].shape[0]}; bring all to one size with ?size=..."
            )
        total += pixels.nbytes
        _check_size(f"{folder}, up to {path.name}", total)
        images.append(pixels)
    features = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    labels = np.array([k for k, _ in files], dtype=np.int64)
    return Samples(features, labels, len(classes))


def _class_folders(folder: Path, names: Sequence[str]) -> list[str]:
    _check_folder(folder, "images")
    present = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if not present:
        raise DataError(f"{folder} has no subfolders; put the images of each class into one")
    if not names:
        return present
    unknown = sorted(set(present) - set(names))
    if unknown:
        raise DataError(
            f"{folder} has a folder {unknown[0]!r} that is not one of classes={','.join(names)}"
        )
    return list(names)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".")
    for path in files:
        if not path.is_file() or path.suffix.lower() not in _IMAGE_SUFFIXES:
            raise DataError(
                f"{path} is not an image ({', '.join(sorted(_IMAGE_SUFFIXES))}); move it away"
            )
    return files


# ------------------------------------------------------------------------------------------- idx


def read_idx(folder: Path, part: str) -> Samples:
    """Read MNIST's files of `part` ("train" or "test") as features [n, 1, h, w] in 0..255."""
    _check_folder(folder, "idx")
    stem = {"train": "train", "test": "t10k"}[part]
    images_path = _idx_file(folder, f"{stem}-images", "idx3")
    labels_path = _idx_file(folder, f"{stem}-labels", "idx1")
    images = _read_idx_array(images_path, 3)
    labels = _read_idx_array(labels_path, 1).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images):,} images but {labels_path} {len(labels):,} labels"
        )
    if not len(labels):
        raise DataError(f"{images_path} holds no images")
    return Samples(images[:, None], labels, int(labels.max()) + 1)


def _idx_file(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{dot}{kind}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has none of {', '.join(names)}")


def _read_idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes with `dimensions` axes (yann.lecun.com/exdb/mnist)."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = _read_exactly(f"{path}: header", stream, 4 + 4 * dimensions)
            magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
            if magic != 0x0800 + dimensions:
                raise DataError(
                    f"{path} begins with {magic:#010x}, not {0x0800 + dimensions:#010x}: "
                    f"it is no idx file of bytes with {dimensions} axes"
                )
            size = _product(shape)
            _check_size(f"{path} of shape {tuple(shape)}", size)
            data = _read_exactly(str(path), stream, size)
            if stream.read(1):
                raise DataError(
                    f"{path} goes on after the {size:,} bytes that its header announces"
                )
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


# ---------------------------------------------------------------------------------------- shared


def _existing_file(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path} is a folder; npz:FILE and csv:FILE name a file")
    if not path.is_file():
        raise DataError(f"there is no file {path}; npz:FILE and csv:FILE name one")
    return path


def _check_folder(path: Path, source: str) -> None:
    if not path.is_dir():
        what = f"{path} is a file" if path.exists() else f"there is no folder {path}"
        raise DataError(f"{what}; {source}:FOLDER names a folder")


def _reason(error: Exception) -> str:
    """Return why, without the number and the path that the system's errors repeat."""
    return getattr(error, "strerror", None) or str(error)


def _check_size(what: str, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{what} takes {size:,} bytes; at most {MAX_BYTES:,} are read")


def _product(shape: Sequence[int]) -> int:
    """Multiply in Python's integers, which do not overflow as NumPy's would."""
    result = 1
    for extent in shape:
        result *= extent
    return result


def _read_exactly(what: str, stream: IO[bytes] | gzip.GzipFile, size: int) -> bytes:
    """Read `size` bytes piece by piece, so that a lying header cannot make us allocate them."""
    pieces = []
    left = size
    while left:
        piece = stream.read(min(left, 1 << 20))
        if not piece:
            raise DataError(f"{what} ends after {size - left:,} of {size:,} bytes")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _whole_labels(source: str, labels: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return labels as int64[n] and the number of classes."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "fiub":
        raise DataError(
            f"{source}: labels are {labels.dtype} of shape {labels.shape}, not one number a sample"
        )
    if not len(labels):
        raise DataError(f"{source} holds no samples")
    whole = np.isfinite(labels) & (labels >= 0) & (labels < 2**31)
    whole &= np.floor(np.where(whole, labels, 0)) == np.where(whole, labels, 0)
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(f"{source}, sample {row}: label {labels[row]} is not a whole number from 0")
    return labels.astype(np.int64), int(labels.max()) + 1
