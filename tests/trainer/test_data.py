"""A data set's name says which samples, and nobody gets another's."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from trainer import data
from trainer.data import Dataset, load, split_dirichlet, split_iid, split_shards
from trainer.errors import CodeError, DataError

labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def rng(seed=0):
    return np.random.default_rng(seed)


def is_partition(parts, n):
    return sorted(np.concatenate(parts).tolist()) == list(range(n))


# -------------------------------------------------------------------- dividing


@given(labels=labels_of, parts=st.integers(1, 60), seed=st.integers(0, 9))
def test_equal_parts_cover_every_sample_once(labels, parts, seed):
    labels = np.array(labels)
    if parts > len(labels):
        with pytest.raises(DataError, match="cannot be divided into"):
            split_iid(labels, parts, rng(seed))
        return
    found = split_iid(labels, parts, rng(seed))
    assert is_partition(found, len(labels))
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 1
    assert all((np.diff(part) > 0).all() for part in found)


def test_two_shards_a_part_show_mostly_two_classes():
    # 10 classes of 60, 20 shards of 30: each shard holds one class, so a part holds one or two.
    labels = rng(1).permutation(np.repeat(np.arange(10), 60))
    parts = split_shards(labels, 10, rng())
    assert is_partition(parts, 600)
    assert [len(part) for part in parts] == [60] * 10
    seen = [len(set(labels[part].tolist())) for part in parts]
    assert max(seen) <= 2
    assert sum(seen) > 15


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 1.0, 4.0), (1000.0, 9.9, 10.0)])
def test_a_small_dirichlet_parameter_concentrates_classes(alpha, low, high):
    labels = np.repeat(np.arange(10), 100)
    parts = split_dirichlet(labels, 5, alpha, rng())
    assert is_partition(parts, 1000)
    # Classes a part sees, counted by their perplexity.
    counts = [np.bincount(labels[part], minlength=10) / len(part) for part in parts]
    kinds = [np.exp(-sum(p * np.log(p) for p in share if p > 0)) for share in counts]
    assert low <= np.mean(kinds) <= high


def test_dirichlet_parts_that_stay_empty_are_refused():
    with pytest.raises(DataError, match="left one of 8 parts empty 100 times"):
        split_dirichlet(np.zeros(8, dtype=np.int64), 8, 0.001, rng())


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf")])
def test_dirichlet_parameters_must_be_positive(alpha):
    with pytest.raises(DataError, match="needs a positive finite number"):
        split_dirichlet(np.zeros(8, dtype=np.int64), 2, alpha, rng())


# ---------------------------------------------------------------------- naming


def rows(dataset):
    return sorted(tuple(row) for row in dataset.features.tolist())


@pytest.mark.parametrize("options", ["", "?split=shards", "?split=dirichlet:0.5&seed=3"])
def test_shards_of_digits_divide_its_training_part(options):
    whole = load(f"digits{options}")
    shards = [load(f"digits{options}@{k}/4") for k in range(4)]
    assert sorted(sum((rows(shard) for shard in shards), [])) == rows(whole)
    assert rows(load(f"digits{options}@1/4")) == rows(shards[1])
    assert all(shard.classes == 10 for shard in shards)


def test_digits_keep_a_fixed_fifth_for_the_test_whatever_the_seed():
    train, test, everything = load("digits"), load("digits#test"), load("digits#all")
    assert (len(train), len(test), len(everything)) == (1438, 359, 1797)
    assert sorted(rows(train) + rows(test)) == rows(everything)
    assert rows(load("digits?seed=5#test")) == rows(test)
    assert rows(load("digits#train")) == rows(train)


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("".join(f"{k},{2 * k},{k % 2}\n" for k in range(20)))
    return file


def test_other_sources_mean_all_and_draw_their_test_part_by_the_seed(table):
    assert len(load(f"csv:{table}")) == 20
    train, test = load(f"csv:{table}#train"), load(f"csv:{table}#test")
    assert (len(train), len(test)) == (16, 4)
    assert sorted(rows(train) + rows(test)) == rows(load(f"csv:{table}#all"))
    assert len(load(f"csv:{table}?holdout=0.5#test")) == 10
    assert rows(load(f"csv:{table}?seed=1#test")) != rows(test)


def test_the_seed_deals_the_shards(table):
    assert rows(load(f"csv:{table}?seed=1@0/2")) != rows(load(f"csv:{table}@0/2"))


def test_features_are_scaled_and_shaped(table):
    dataset = load(f"csv:{table}?scale=10&shape=2,1,1")
    assert dataset.features.shape == (20, 2, 1, 1)
    assert dataset.features[3].flatten().tolist() == pytest.approx([0.3, 0.6])
    assert dataset.features.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    shifted = load(f"csv:{table}?shift=1&scale=10")
    assert shifted.features[3].tolist() == pytest.approx([0.2, 0.5])


def test_every_source_reaches_its_reader_with_its_options(tmp_path, table):
    np.savez(tmp_path / "a.npz", data=np.ones((4, 2)), target=np.array([0, 1, 1, 0]))
    assert len(load(f"npz:{tmp_path}/a.npz?x=data&y=target")) == 4
    table.write_text("a;b;c\n1;?;yes\n2;3;no\n")
    spec = f"csv:{table}?header=1&label=c&delimiter=;&missing=?&classes=no,yes&standardise=1"
    dataset = load(spec)
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.features[:, 0].tolist() == [-1, 1]
    table.write_text("1,0\n2,3\n")
    assert load(f"csv:{table}?above=1.5").labels.tolist() == [0, 1]
    # A percent sign writes what means something else in a name.
    table.write_text("1\t0\n2\t3\n")
    assert len(load(f"csv:{table}?delimiter=%09")) == 2


def test_images_and_idx_files_are_scaled_to_the_unit_interval(tmp_path):
    from PIL import Image

    (tmp_path / "one").mkdir()
    Image.new("L", (3, 3), 255).save(tmp_path / "one" / "1.png")
    dataset = load(f"images:{tmp_path}?size=2&channels=1&classes=one,two")
    assert dataset.features.tolist() == [[[[1, 1], [1, 1]]]]
    assert dataset.classes == 2


@pytest.fixture
def idx(tmp_path):
    for stem, count, side in (("train", 6, 2), ("t10k", 2, 2)):
        head = b"".join(number.to_bytes(4) for number in (0x0803, count, side, side))
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(head + bytes(count * side**2))
        head = b"".join(number.to_bytes(4) for number in (0x0801, count))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(head + bytes(range(count)))
    return tmp_path


def test_idx_has_its_own_test_part(idx):
    assert [len(load(f"idx:{idx}{part}")) for part in ("", "#train", "#test", "#all")] == [
        6,
        6,
        2,
        8,
    ]
    assert load(f"idx:{idx}#all").classes == 6
    assert load(f"idx:{idx}@1/2").features.shape == (3, 1, 2, 2)


def test_idx_parts_of_different_sizes_do_not_go_together(idx):
    head = b"".join(number.to_bytes(4) for number in (0x0803, 2, 1, 1))
    (idx / "t10k-images-idx3-ubyte").write_bytes(head + bytes(2))
    with pytest.raises(DataError, match="train and test images differ in size"):
        load(f"idx:{idx}#all")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no source ''; there are digits, npz, csv, images, idx and module:function"),
        ("mnist", "no source 'mnist'"),
        ("csv", "names no place; write csv:PLACE"),
        ("digits:file", "digits takes no place"),
        ("digits@4", "is not of the form SOURCE"),
        ("digits@4/4", "the last of 4 is @3/4"),
        ("digits@-1/4", "shard=-1 must be a whole number from 0"),
        ("digits@a/b", "shard=a must be a whole number"),
        ("digits@0/2000", "1,438 samples cannot be divided into 2,000"),
        ("digits#rest", "part 'rest' is none of #train, #test, #all"),
        ("digits?size=3", "digits has no option 'size'; it has shape, shift, scale, split, seed"),
        ("digits?seed", "options are written"),
        ("digits?seed=1&seed=2", "gives an option twice"),
        ("digits?seed=1.5", "seed=1.5 must be a whole number"),
        ("digits?scale=0", "scale=0.0 must be positive"),
        ("digits?scale=x", "scale=x must be a finite number"),
        ("digits?scale=nan", "scale=nan must be a finite number"),
        ("digits?shape=7,9", "shape=7,9 does not hold samples of shape"),
        ("digits?shape=", "shape= must be a whole number"),
        ("digits?split=even@0/2", "split=even is none of iid, shards, dirichlet:ALPHA"),
        ("digits?split=iid:2@0/2", "split=iid:2 is none of"),
        ("digits?split=dirichlet:x@0/2", "split=x must be a finite number"),
        ("digits?split=dirichlet:0@0/2", "dirichlet:0.0 needs a positive"),
        ("npz:a?holdout=1", "holdout=1.0 must lie between 0 and 1"),
        ("npz:a?x=%ff", "options are written"),
        ("csv:a?header=yes", "header=yes must be 0 or 1"),
        ("csv:a?classes=a,a", "names a class twice"),
        ("csv:no-such-file", "no file no-such-file"),
    ],
)
def test_names_that_mean_nothing_are_refused_by_what_is_wrong(spec, message):
    with pytest.raises(DataError, match=message):
        load(spec)


def test_a_test_part_of_nothing_is_refused(table):
    with pytest.raises(DataError, match="holdout=0.01 of 20 samples leaves none"):
        load(f"csv:{table}?holdout=0.01#test")


def test_features_that_overflow_float32_are_refused_by_sample(table):
    table.write_text("1,0\n1e39,1\n")
    with pytest.raises(DataError, match="sample 1: a feature is not a finite float32"):
        load(f"csv:{table}")


def test_samples_and_labels_that_do_not_go_together_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.array([0, 1]))
    with pytest.raises(DataError, match="4 samples but 2 labels"):
        load(f"npz:{tmp_path}/a.npz")


# -------------------------------------------------------------- module:function


class Made:
    """Act as a torch Dataset of the given pairs."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, k):
        return self.pairs[k]


def two(scale="1"):
    return TensorDataset(torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * int(scale), torch.tensor([1, 0]))


NAME = f"{__name__.replace('.', '_')}_code"


@pytest.fixture
def code(monkeypatch):
    """Make `functions` of this test reachable as `NAME:function`."""
    import types

    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)
    return module


def test_a_torch_dataset_of_ones_own_is_read_with_its_options(code):
    code.two = two
    dataset = load(f"{NAME}:two")
    assert dataset.features.tolist() == [[1, 2], [3, 4]]
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.classes == 2
    # Unknown options are the function's, as text.
    assert load(f"{NAME}:two?scale=1").features.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (5, CodeError, "returned int, not a torch Dataset"),
        (Made(), DataError, "without samples"),
        (Made(([1.0], 0), ([1.0, 2.0], 0)), DataError, r"sample 1: shape \(2,\), sample 0 has"),
        (Made(([1.0], 0), 7), CodeError, "sample 1: not a pair"),
        (Made(([1.0], "a")), CodeError, "sample 0: not a pair of numbers and a label"),
        (Made(([1.0], -1)), DataError, "sample 0: label -1 is not from 0"),
        (Made(([float("nan")], 0)), DataError, "sample 0: a feature is not a finite"),
    ],
)
def test_datasets_of_ones_own_that_are_none_are_refused(code, made, error, message):
    code.made = lambda: made
    with pytest.raises(error, match=message):
        load(f"{NAME}:made")


def test_a_dataset_that_grows_without_end_is_stopped(code, monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 100)
    code.made = lambda: Made(*[([0.0] * 10, 0)] * 9)
    with pytest.raises(DataError, match="larger than 100 bytes after 2 samples"):
        load(f"{NAME}:made")


# --------------------------------------------------------------------- Dataset


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2).long(), "not torch.float64"),
        (torch.zeros(2, 1), torch.zeros(2), "and torch.float32"),
        (torch.zeros(2, 1), torch.zeros(3).long(), r"of shape \(2, 1\) do not go with"),
        (torch.zeros(2, 1), torch.zeros(2, 1).long(), "one label a sample"),
    ],
)
def test_tensors_of_another_kind_make_no_dataset(features, labels, message):
    with pytest.raises(DataError, match=message):
        Dataset(features, labels, 2)


def test_a_subset_has_its_samples_in_the_order_asked_for():
    dataset = Dataset(torch.arange(4.0)[:, None], torch.tensor([3, 2, 1, 0]), 4)
    chosen = dataset.subset(np.array([2, 0]))
    assert chosen.features.tolist() == [[2], [0]]
    assert chosen.labels.tolist() == [1, 3]
    assert len(chosen) == 2


def test_a_data_set_is_cut_to_so_many_samples_evenly_spread():
    whole, few = load("digits@1/3"), load("digits?most=100@1/3")
    assert len(few) == 100 and len(whole) > 400
    at = [i * len(whole) // 100 for i in range(100)]
    assert few.labels.tolist() == whole.labels[at].tolist()
    assert sorted(set(few.labels.tolist())) == list(range(10))
    assert len(load("digits?most=5000@1/3")) == len(whole)
    with pytest.raises(DataError, match="most=many must be a whole number"):
        load("digits?most=many")
