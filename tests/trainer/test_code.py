"""Naming code by `module:function` says which step failed."""

import pytest

from trainer.code import call, is_code_name
from trainer.errors import CodeError


@pytest.mark.parametrize("name", ["a:b", "pkg.mod:make", "_a._b:_c", "a1:b2"])
def test_names_of_modules_and_functions_are_recognised(name):
    assert is_code_name(name)


@pytest.mark.parametrize(
    "name", ["", "a", ":b", "a:", "a:b:c", "a.:b", "1a:b", "a:b()", "../a:b", "a b:c", "a:b\n"]
)
def test_other_texts_are_not(name):
    assert not is_code_name(name)
    with pytest.raises(CodeError, match="not of the form"):
        call(name, {})


def test_arguments_are_handed_over_by_name():
    assert call("fractions:Fraction", {"numerator": 6, "denominator": 4}).numerator == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:make", "no module named 'no_such_module'; put its folder on PYTHONPATH"),
        ("math:no_such", "module math has no 'no_such'"),
        ("math:pi", "has a value that cannot be called as 'pi'"),
        ("math:sqrt", r"sqrt(x=-1) raised TypeError"),
        ("broken_module:make", "importing broken_module raised ValueError: on purpose"),
    ],
)
def test_the_step_that_failed_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_module.py").write_text("raise ValueError('on purpose')\n")
    with pytest.raises(CodeError) as caught:
        call(name, {"x": -1})
    assert message in str(caught.value)
