"""The benchmark's own arithmetic, apart from what it measures."""

import json

import pytest

from tests.bench import Row, main, names, write

WHERE = {"cores": 2, "cpu": "a processor", "load": 0.5, "python": "3.12.1", "date": "today"}


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (1.25, "≤ 1.25", True),
        (1.26, "≤ 1.25", False),
        (100.0, "≥ 100", True),
        (99.9, "≥ 100", False),
        (7.0, "", None),
    ],
)
def test_a_figure_meets_its_target_up_to_the_limit_itself(value, target, met):
    assert Row("a", value, "s", target).met is met


def test_a_target_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="≤ NUMBER"):
        Row("a", 1.0, "s", "<= 3")


def test_figures_are_written_as_json_and_as_a_markdown_table(tmp_path):
    rows = [Row("round", 6.25, "s", "≤ 6", "two | three"), Row("gas", 123456.0, "gas")]
    write(tmp_path, {"market": rows}, WHERE)
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["machine"] == WHERE
    assert document["measurements"]["market"][0] == {
        "name": "round",
        "value": 6.25,
        "unit": "s",
        "target": "≤ 6",
        "note": "two | three",
        "met": False,
    }
    table = (tmp_path / "bench.md").read_text().splitlines()
    assert table[-2] == "| market: round | 6.25 | s | ≤ 6 | NO | two / three |"
    assert table[-1] == "| market: gas | 123,456 | gas |  |  |  |"


def test_an_unknown_measurement_is_refused_and_the_known_ones_are_named(capsys):
    assert "ipfs" in names()
    with pytest.raises(SystemExit) as stop:
        main(["nothing"])
    assert stop.value.code == 2
    assert "there are" in capsys.readouterr().err
