"""Models have the published sizes, and their parameters survive being flattened."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.errors import CodeError, ModelError
from trainer.models import MAX_DIMENSION, build, dimension, flatten, load_flat


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("logistic", {"features": 784}, 7_850),  # 784 * 10 + 10
        ("logistic", {"features": 13, "classes": 2}, 28),  # 13 * 2 + 2
        ("mlp", {"features": 64, "hidden": 32}, 2_410),  # 64 * 32 + 32 + 32 * 10 + 10
        ("2nn", {}, 199_210),  # McMahan et al. 2017, section 3
        ("cnn", {}, 1_663_370),  # McMahan et al. 2017, section 3
        ("lenet5", {}, 61_706),
        # 3*5*5*32+32 + 32*5*5*64+64 + 64*8*8*512+512 + 512*10+10
        ("cnn", {"channels": 3, "size": 32}, 2_156_490),
        # 3*5*5*6+6 + 6*5*5*16+16 + 16*6*6*120+120 + 120*84+84 + 84*7+7
        ("lenet5", {"channels": 3, "size": 32, "classes": 7}, 82_871),
    ],
)
def test_a_model_has_as_many_parameters_as_its_source_says(name, options, parameters):
    module = build(name, options, 0)
    assert dimension(module) == parameters
    assert flatten(module).shape == (parameters,)
    assert flatten(module).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("logistic", (64,), 10),
        ("mlp", (64,), 10),
        ("2nn", (1, 28, 28), 10),
        ("cnn", (1, 28, 28), 10),
        ("lenet5", (1, 28, 28), 10),
    ],
)
def test_a_model_scores_each_class_of_each_sample(name, shape, classes):
    assert build(name, {}, 0)(torch.zeros(3, *shape)).shape == (3, classes)


@given(size=st.integers(12, 40), channels=st.integers(1, 4), classes=st.integers(1, 12))
def test_convolutional_models_take_images_of_the_size_they_were_built_for(size, channels, classes):
    options = {"size": size, "channels": channels, "classes": classes}
    images = torch.zeros(2, channels, size, size)
    assert build("lenet5", options, 0)(images).shape == (2, classes)


@pytest.mark.parametrize("name", ["logistic", "mlp", "2nn", "lenet5"])
def test_a_seed_gives_the_same_bytes_and_another_seed_others(name):
    first = flatten(build(name, {}, 7))
    torch.manual_seed(123)
    np.testing.assert_array_equal(first, flatten(build(name, {}, 7)))
    assert not np.array_equal(first, flatten(build(name, {}, 8)))


def test_building_leaves_the_global_random_state_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build("lenet5", {}, 1)
    torch.testing.assert_close(torch.rand(3), expected)


def test_flatten_lists_weights_row_by_row_and_then_the_bias():
    module = build("logistic", {"features": 3, "classes": 2}, 0)
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        module[1].bias.copy_(torch.tensor([7.0, 8.0]))
    np.testing.assert_array_equal(flatten(module), np.arange(1, 9, dtype=np.float32))


def test_the_order_of_parameters_does_not_depend_on_the_memory_layout():
    module = build("lenet5", {}, 0)
    plain = torch.cat([p.detach().contiguous().view(-1) for p in module.parameters()]).numpy()
    np.testing.assert_array_equal(flatten(module), plain)


@pytest.mark.parametrize("name", ["logistic", "lenet5"])
def test_loaded_parameters_come_back_and_are_a_copy(name):
    module = build(name, {}, 0)
    wanted = np.random.default_rng(0).standard_normal(dimension(module)).astype(np.float32)
    kept = wanted.copy()
    load_flat(module, wanted)
    flatten(module)[:] = 0
    wanted[:] = 0
    np.testing.assert_array_equal(flatten(module), kept)


@pytest.mark.parametrize("shape", [(649,), (651,), (65, 10), ()])
def test_a_vector_of_another_length_is_refused(shape):
    with pytest.raises(ModelError, match=r"650 parameters but the vector has shape"):
        load_flat(build("logistic", {}, 0), np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "no model 'resnet'; built in are logistic, mlp, 2nn, cnn, lenet5"),
        ("mlp", {"width": 3}, "no option 'width'; it has features, hidden, classes"),
        ("mlp", {"hidden": 0}, "hidden of model 'mlp' must be a whole number from 1"),
        ("mlp", {"hidden": -1}, "not -1"),
        ("mlp", {"hidden": 2.0}, "not 2.0"),
        ("mlp", {"hidden": "32"}, "not '32'"),
        ("mlp", {"hidden": True}, "not True"),
        ("mlp", {"hidden": 10**30}, "from 1 to 16,777,216"),
        (
            "2nn",
            {"features": 1 << 24, "hidden": 1 << 24},
            f"a project's model has 1 to {MAX_DIMENSION:,}",
        ),
        ("lenet5", {"size": 11}, "at least 12 pixels"),
        ("cnn", {"size": 3}, "at least 4 pixels"),
    ],
)
def test_a_description_that_cannot_be_built_is_refused_by_name(name, options, message):
    with pytest.raises(ModelError) as caught:
        build(name, options, 0)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Return a function that makes a module importable and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text("from torch import float64, nn\n" + text)

    return write


def test_code_that_a_project_names_runs_only_where_it_is_allowed(code):
    code("sponsor_model", "def make(width):\n    return nn.Linear(width, 2)\n")
    with pytest.raises(CodeError, match=r"allow it with --allow-code \(allow_code=True\)"):
        build("sponsor_model:make", {"width": 4}, 0)
    module = build("sponsor_model:make", {"width": 4}, 0, allow_code=True)
    assert isinstance(module, nn.Linear)
    again = build("sponsor_model:make", {"width": 4}, 0, allow_code=True)
    np.testing.assert_array_equal(flatten(module), flatten(again))


def test_a_model_with_buffers_is_refused(code):
    code(
        "normed_model",
        "def make():\n    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))\n",
    )
    with pytest.raises(ModelError, match=r"keeps 1\.running_mean, .* use layers without"):
        build("normed_model:make", {}, 0, allow_code=True)


def test_a_model_of_other_numbers_than_float32_is_refused(code):
    code("double_model", "def make():\n    return nn.Linear(2, 2, dtype=float64)\n")
    with pytest.raises(ModelError, match=r"parameter weight .* is torch\.float64"):
        build("double_model:make", {}, 0, allow_code=True)


def test_a_model_without_parameters_is_refused(code):
    code("empty_model", "def make():\n    return nn.ReLU()\n")
    with pytest.raises(ModelError, match="has 0 parameters"):
        build("empty_model:make", {}, 0, allow_code=True)


def test_code_that_returns_something_else_is_refused(code):
    code("wrong_model", "def make():\n    return 3\n")
    with pytest.raises(CodeError, match=r"returned int, not a torch\.nn\.Module"):
        build("wrong_model:make", {}, 0, allow_code=True)
