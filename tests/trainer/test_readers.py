"""Files that trainers keep their samples in, whole, broken and hostile."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from trainer import readers
from trainer.errors import DataError
from trainer.readers import read_csv, read_digits, read_idx, read_images, read_npz

# ------------------------------------------------------------------------- npz


def npy(array, **header):
    """Return an array as npy bytes whose header may lie."""
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue() + array.tobytes()


def npz(file, **members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content if isinstance(content, bytes) else npy(content))
    return file


X = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
Y = np.array([0, 2, 1])


def test_numpys_own_archives_are_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=X, y=Y)
        samples = read_npz(tmp_path / "a.npz")
        assert samples.features.tolist() == X.tolist()
        assert samples.labels.tolist() == [0, 2, 1]
        assert (samples.labels.dtype, samples.classes) == (np.int64, 3)


def test_arrays_have_the_names_and_order_that_they_were_given(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.asfortranarray(X), target=Y[:, None].astype(np.float32))
    samples = read_npz(tmp_path / "a.npz", "data", "target")
    assert samples.features.tolist() == X.tolist()
    assert samples.labels.tolist() == [0, 2, 1]


def test_headers_of_the_second_version_are_read(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, X, version=(2, 0))
    npz(tmp_path / "a.npz", x=stream.getvalue(), y=Y)
    assert read_npz(tmp_path / "a.npz").features.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": X, "b": Y}, "no array 'x' but a, b; name the arrays with"),
        ({}, "no array 'x' but nothing"),
        ({"x": X}, "no array 'y'"),
        ({"x": b"no array", "y": Y}, "'x' has a broken header"),
        ({"x": npy(X)[:-8], "y": Y}, "'x' ends after 88 of 96 bytes"),
        ({"x": npy(X, shape=(10**6, 10**6)), "y": Y}, "takes 8,000,000,000,000 bytes; at most"),
        ({"x": npy(X, shape=(2**40, 2**40, 2**40)), "y": Y}, "bytes; at most"),
        ({"x": npy(X, descr="|O"), "y": Y}, "Python objects, which are never unpickled"),
        ({"x": np.array(["a", "b", "c"])[:, None], "y": Y}, "'x' is <U1, not real numbers"),
        ({"x": X.astype(np.complex128), "y": Y}, "'x' is complex128, not real numbers"),
        ({"x": X[:, 0, 0], "y": Y}, r"'x' has shape \(3,\); give one row a sample"),
        ({"x": X, "y": np.array([0, 1, -1])}, "sample 2: label -1 is not a whole number from 0"),
        ({"x": X, "y": np.array([0, 0.5, 1])}, "sample 1: label 0.5 is not a whole number"),
        ({"x": X, "y": np.array([0, np.nan, 1])}, "sample 1: label nan"),
        ({"x": X, "y": np.array([0, np.inf, 1])}, "sample 1: label inf"),
        ({"x": X, "y": np.array([0, 2**31, 1])}, "sample 1: label 2147483648"),
        ({"x": X, "y": np.array(["a", "b", "c"])}, "labels are <U1 of shape"),
        ({"x": X, "y": np.eye(3)}, r"labels are float64 of shape \(3, 3\)"),
        ({"x": X[:0], "y": Y[:0]}, "holds no samples"),
    ],
)
def test_broken_archives_are_refused_by_their_fault(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        read_npz(npz(tmp_path / "a.npz", **members))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(DataError, match="not a readable npz archive"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match="there is no file"):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(DataError, match="is a folder"):
        read_npz(tmp_path)


def test_an_archive_with_a_spoilt_or_encrypted_member_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((99, 99)), y=np.zeros(99, dtype=int))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[60:80] = bytes(20)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")


def test_a_member_that_unpacks_to_more_than_memory_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 2)), y=np.zeros(1000, dtype=int))
    with pytest.raises(DataError, match="takes 16,000 bytes; at most 1,000"):
        read_npz(tmp_path / "a.npz")


# ------------------------------------------------------------------------- csv


def table(tmp_path, text, **options):
    (tmp_path / "t.csv").write_text(text)
    return read_csv(tmp_path / "t.csv", **options)


def test_the_last_column_is_the_label_unless_told_otherwise(tmp_path):
    samples = table(tmp_path, "1.5,2,0\n\n -3 ,4e1,2\n")
    assert samples.features.tolist() == [[1.5, 2], [-3, 40]]
    assert samples.labels.tolist() == [0, 2]
    assert samples.classes == 3
    assert table(tmp_path, "1,2,3\n0,5,6\n", label="0").features.tolist() == [[2, 3], [5, 6]]
    assert table(tmp_path, "2,1,3\n5,0,6\n", label="-2").labels.tolist() == [1, 0]


def test_a_first_row_of_words_is_a_header_that_names_the_label(tmp_path):
    samples = table(tmp_path, "\ufeffage,sick,weight\n40,1,80\n50,0,70\n", label="sick")
    assert samples.features.tolist() == [[40, 80], [50, 70]]
    assert samples.labels.tolist() == [1, 0]


def test_a_first_row_of_numbers_can_be_a_header_if_told_so(tmp_path):
    assert table(tmp_path, "1,2\n3,4\n", header=True).labels.tolist() == [4]
    with pytest.raises(DataError, match="line 1, column 0: 'a' is not a finite number"):
        table(tmp_path, "a,2\n3,4\n", header=False)


def test_classes_may_have_names_and_be_told_apart_by_a_limit(tmp_path):
    text = "1,mild\n2,severe\n3,mild\n"
    assert table(tmp_path, text, names=("mild", "severe")).labels.tolist() == [0, 1, 0]
    samples = table(tmp_path, "1,0\n2,3\n3,0.5\n", above=0.5)
    assert samples.labels.tolist() == [0, 1, 0]
    assert samples.classes == 2


def test_missing_cells_become_their_columns_mean(tmp_path):
    samples = table(tmp_path, "1,?,0\n?,?,1\n4,?,0\n", missing="?")
    assert samples.features.tolist() == [[1, 0], [2.5, 0], [4, 0]]


def test_standardised_columns_have_mean_0_and_variance_1(tmp_path):
    samples = table(tmp_path, "1,7,0\n2,7,1\n6,7,0\n", standardise=True)
    # Mean 3, variance (4 + 1 + 9) / 3.
    deviation = (14 / 3) ** 0.5
    np.testing.assert_allclose(samples.features[:, 0], np.array([-2, -1, 3]) / deviation)
    assert samples.features[:, 1].tolist() == [0, 0, 0]


def test_other_delimiters_and_quotes(tmp_path):
    assert table(tmp_path, '"1.5"\t2\n"3"\t0\n', delimiter="\t").features.tolist() == [[1.5], [3]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "holds no rows"),
        ("\n\n", {}, "holds no rows"),
        ("a,b\n", {}, "a header but no rows"),
        ("1,2\n3\n", {}, "line 2: 1 cells where the first row has 2"),
        ("1\n2\n", {}, "line 1: one cell, but .* is ',' the delimiter"),
        ("1,0\nx,0\n", {}, "line 2, column 0: 'x' is not a finite number; name what stands"),
        ("1,0\nnan,0\n", {}, "'nan' is not a finite number"),
        ("1,0\n1e999,0\n", {}, "'1e999' is not a finite number"),
        ("1,0.5\n", {}, "line 1: label '0.5' is not a whole number"),
        ("1,-1\n", {}, "label '-1' is not a whole number"),
        ("1,2147483648\n", {}, "label '2147483648' is not a whole number"),
        ("1,0\n1,x\n", {"above": 0.0}, "line 2: label 'x' is not a whole number"),
        ("1,a\n2,b\n", {"names": ("a", "c")}, "label 'b' is not one of classes=a,c"),
        ("1,0\n", {"label": "2"}, "no column label=2; it has no header and 2 columns"),
        ("1,0\n", {"label": "-3"}, "no column label=-3"),
        ("a,b\n1,0\n", {"label": "c"}, "no column label=c; it has columns a, b"),
        ("1,0\n", {"delimiter": ""}, "must be one character"),
        ("1,0\n", {"delimiter": "::"}, "must be one character"),
        ('"1,0\n', {}, "is not csv text"),
    ],
)
def test_broken_tables_are_refused_by_line_and_value(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, text, **options)


def test_bytes_that_are_no_text_and_files_that_are_none_are_refused(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_bytes(b"1,0\n\xff\xfe,0\n")
    with pytest.raises(DataError, match="not csv text in UTF-8"):
        read_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="no file"):
        read_csv(tmp_path / "no.csv")
    monkeypatch.setattr(readers, "MAX_BYTES", 3)
    with pytest.raises(DataError, match="takes 9 bytes; at most 3"):
        read_csv(tmp_path / "t.csv")


# ---------------------------------------------------------------------- images


def picture(file, colour, size=(4, 4), mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file, **options)


@pytest.fixture
def zoo(tmp_path):
    picture(tmp_path / "cat" / "1.png", (10, 20, 30))
    picture(tmp_path / "ant" / "1.png", (1, 2, 3))
    picture(tmp_path / "ant" / "2.bmp", (4, 5, 6))
    (tmp_path / "ant" / ".hidden").write_text("x")
    (tmp_path / "note.txt").write_text("beside the classes")
    return tmp_path


def test_classes_are_the_folders_by_name(zoo):
    samples = read_images(zoo)
    assert samples.labels.tolist() == [0, 0, 1]
    assert samples.features.shape == (3, 3, 4, 4)
    assert samples.features[:, :, 0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [10, 20, 30]]
    assert samples.classes == 2


def test_classes_may_be_given_in_order_even_where_one_has_no_images(zoo):
    samples = read_images(zoo, names=("cat", "ant", "dog"))
    assert samples.labels.tolist() == [0, 1, 1]
    assert samples.classes == 3


def test_images_become_grey_and_of_one_size(zoo):
    picture(zoo / "cat" / "2.png", 200, (9, 7), "L")
    samples = read_images(zoo, size=2, channels=1)
    assert samples.features.shape == (4, 1, 2, 2)
    assert samples.features[3].tolist() == [[[200, 200], [200, 200]]]
    # ITU-R 601: .299 R + .587 G + .114 B of (10, 20, 30) is 18.15.
    assert samples.features[2, 0, 0, 0] == 18


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", exif=exif)
    assert read_images(tmp_path, channels=1).features[0, 0].tolist() == [[255], [0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels=2 must be 1"),
        ({"size": 0}, "size=0 must be from 1 to 4096"),
        ({"size": 5000}, "size=5000 must be"),
        ({"names": ("ant",)}, "has a folder 'cat' that is not one of classes=ant"),
    ],
)
def test_wrong_wishes_about_images_are_refused(zoo, options, message):
    with pytest.raises(DataError, match=message):
        read_images(zoo, **options)


def test_folders_that_hold_no_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        read_images(tmp_path / "no")
    with pytest.raises(DataError, match="has no subfolders"):
        read_images(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images in the folders a"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.png", b"rubbish", r"x\.png is not a readable image"),
        ("x.png", b"\x89PNG\r\n\x1a\n", r"x\.png is not a readable image"),
        ("x.txt", b"words", r"x\.txt is not an image \(\.bmp, .*move it away"),
        # PostScript would start another program to be read.
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not a readable image"),
    ],
)
def test_files_that_are_no_images_are_refused_by_name(zoo, name, content, message):
    (zoo / "ant" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_images(zoo)


def test_images_of_different_sizes_are_refused_without_a_size(zoo):
    picture(zoo / "cat" / "9.png", (0, 0, 0), (5, 4))
    with pytest.raises(DataError, match=r"9\.png has 5 x 4 pixels, .*has 4 x 4; bring all"):
        read_images(zoo)


def test_images_that_would_fill_the_memory_are_refused_by_their_header(zoo, monkeypatch):
    monkeypatch.setattr(readers, "_MAX_PIXELS", 15)
    with pytest.raises(DataError, match="4 x 4 pixels; at most 15"):
        read_images(zoo)
    monkeypatch.undo()
    monkeypatch.setattr(readers, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="takes 144 bytes; at most 100"):
        read_images(zoo)


# ------------------------------------------------------------------------- idx


def idx(shape, data, magic=None):
    head = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", head, *shape) + bytes(data)


def mnist_like(folder, images=None, labels=None, stem="train"):
    images = idx((2, 2, 3), range(12)) if images is None else images
    labels = idx((2,), [7, 3]) if labels is None else labels
    (folder / f"{stem}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{stem}-labels-idx1-ubyte").write_bytes(labels)


def test_idx_files_are_read_plain_and_compressed(tmp_path):
    mnist_like(tmp_path)
    with gzip.open(tmp_path / "t10k-images.idx3-ubyte.gz", "wb") as stream:
        stream.write(idx((1, 1, 1), [9]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx((1,), [4]))
    samples = read_idx(tmp_path, "train")
    assert samples.features.tolist() == [[[[0, 1, 2], [3, 4, 5]]], [[[6, 7, 8], [9, 10, 11]]]]
    assert samples.labels.tolist() == [7, 3]
    assert samples.classes == 8
    assert read_idx(tmp_path, "test").features.tolist() == [[[[9]]]]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"images": b""}, "header ends after 0 of 16 bytes"),
        ({"images": idx((2, 2, 3), range(11))}, "ends after 11 of 12 bytes"),
        ({"images": idx((2, 2, 3), range(13))}, "goes on after the 12 bytes"),
        ({"images": idx((2,), [1, 2] + [0] * 20)}, "begins with 0x00000801, not 0x00000803"),
        ({"images": idx((2, 2, 3), range(12), 0x0D03)}, "begins with 0x00000d03"),
        ({"images": idx((2**31, 2**31, 2**31), [])}, "bytes; at most"),
        ({"labels": idx((3,), [1, 2, 3])}, "holds 2 images but .* 3 labels"),
        ({"images": idx((0, 2, 3), []), "labels": idx((0,), [])}, "holds no images"),
    ],
)
def test_broken_idx_files_are_refused_by_their_fault(tmp_path, spoilt, message):
    mnist_like(tmp_path, **spoilt)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path, "train")


def test_missing_and_broken_compressed_idx_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="has none of train-images-idx3-ubyte, .*gz"):
        read_idx(tmp_path, "train")
    mnist_like(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    whole = gzip.compress(idx((2, 2, 3), range(12)))
    for data in (b"no gzip", whole[:-12], whole[:20] + bytes(8) + whole[28:]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
        with pytest.raises(DataError, match="cannot be read|ends after"):
            read_idx(tmp_path, "train")


# ---------------------------------------------------------------------- digits


def test_the_digits_are_those_of_the_uci_repository():
    # Kaynak 1995: 1,797 test images of 8 x 8 pixels from 0 to 16, about 180 of each digit.
    samples = read_digits()
    assert samples.features.shape == (1797, 64)
    assert samples.features.min() == 0.0
    assert samples.features.max() == 1.0
    assert np.bincount(samples.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
