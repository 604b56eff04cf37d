"""Results survive interruption, and are the same in one process or in several."""

import json

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.lab.experiment import Cell
from deploy.lab.results import export, read_rows, run_all
from deploy.lab.runners import by_processes
from marketplace.errors import InputError

CELLS = [
    Cell(clients=4, samples=20, model="dense:4", rounds=1, seed=seed, attack="zero", rule="krum")
    for seed in range(3)
]


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    runs = run_all(CELLS, path, by_processes())
    left, first = next(runs)
    runs.close()
    assert left == 2
    with path.open("a") as file:
        file.write('{"seed": 1, "torn')
    rest = [row for _, row in run_all(CELLS, path, by_processes())]
    assert [row["seed"] for row in rest] == [1, 2]
    assert read_rows(path) == [first, *rest]
    assert not list(run_all(CELLS, path, by_processes()))


def test_results_lie_in_the_order_of_the_experiment_whichever_ended_first(tmp_path):
    path = tmp_path / "results.jsonl"
    list(run_all(CELLS[2:], path, by_processes()))
    list(run_all(CELLS, path, lambda todo: (row for row in reversed(list(by_processes()(todo))))))
    assert [row["seed"] for row in read_rows(path)] == [0, 1, 2]


def test_two_runs_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "results.jsonl"
    runs = run_all(CELLS, path, by_processes())
    next(runs)
    with pytest.raises(InputError, match=f"another run writes to {path}"):
        next(run_all(CELLS, path, by_processes()))
    assert len(list(runs)) == 2 and len(read_rows(path)) == 3


def test_results_that_cannot_be_written_are_noticed_before_anything_is_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("deploy.lab.contribution.measure", pytest.fail)
    (tmp_path / "file").touch()
    found = CliRunner().invoke(
        app, ["lab", "contribution", "--results", str(tmp_path / "file" / "results.jsonl")]
    )
    assert isinstance(found.exception, OSError)


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"data": 3', '{"seed": 0}'])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="line 1, is no result"):
        read_rows(path)


def test_parquet_holds_the_same_rows(tmp_path, require_missing):
    try:
        from pyarrow import parquet
    except ImportError:
        require_missing("lab", "pyarrow is not installed; pip install '.[lab]'")
    list(run_all(CELLS[:1], tmp_path / "results.jsonl", by_processes()))
    rows = read_rows(tmp_path / "results.jsonl")
    export(rows, tmp_path / "results.parquet")
    assert parquet.read_table(tmp_path / "results.parquet").to_pylist() == rows


def test_the_command_runs_a_file_once(tmp_path):
    file, results = tmp_path / "small.toml", tmp_path / "results.jsonl"
    file.write_text('clients = 4\nsamples = 20\nmodel = "dense:4"\nrounds = 1\nseed = [0, 1]\n')
    for done in (2, 0):
        found = CliRunner().invoke(
            app, ["lab", "run", str(file), "--results", str(results), "--json"]
        )
        assert json.loads(found.stdout) == {"done": done, "results": str(results)}


def test_one_attack_is_played_against_one_rule_an_average_and_the_oracle():
    options = ["--clients", "6", "--samples", "60", "--rounds", "3", "--attackers", "0.34"]
    found = CliRunner().invoke(app, ["lab", "attack", "sign:8", *options, "--json"])
    quiet, ours, averaged, oracle = json.loads(found.stdout)
    assert quiet["attack"] == "none" and quiet["rule"] == ours["rule"] == "PeelShapley"
    assert averaged["rule"] == "fed-avg" and oracle["rule"] == "oracle"
    assert oracle["verdicts"] == ["..."] * 4 + ["aaa"] * 2
    shown = CliRunner().invoke(app, ["lab", "attack", "zero", *options]).stdout
    assert "averaged" in shown and "6/6" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["ipn:0.5"], "no attack 'ipn'"),
        (["zero", "--rule", "krumm"], "no rule 'krumm'"),
        (["zero", "--attackers", "1.5"], "below 1"),
        (["zero", "--samples", "6000"], "need 120,000"),
        (["zero", "--split", "dir"], "none of iid, shards"),
    ],
)
def test_wrong_options_of_an_attack_are_wrong_input(options, message):
    found = CliRunner().invoke(app, ["lab", "attack", *options])
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
