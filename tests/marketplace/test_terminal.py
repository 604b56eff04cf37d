"""Every error reaches the shell as its exit code and its words."""

import json
from pathlib import Path

import pytest
import typer

from aggregator.cli import aggregator_app  # noqa: F401  (loads the roles' error trees)
from ipfs.errors import IpfsError
from marketplace.errors import (
    ChainError,
    CodecError,
    ContractError,
    InputError,
    MarketplaceError,
    NotFoundError,
    ProofError,
)
from marketplace.terminal import Output, run
from trainer.errors import TrainerError

CODES = [
    (MarketplaceError, 1),
    (InputError, 2),
    (ContractError, 3),
    (NotFoundError, 4),
    (ChainError, 5),
    (CodecError, 6),
    (ProofError, 6),
]


def failing(error):
    app = typer.Typer()

    @app.command()
    def command(_json: bool = typer.Option(False, "--json")) -> None:
        raise error

    return app


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_each_kind_of_error_has_its_exit_code_and_one_line_on_stderr(kind, code, capsys):
    assert run(failing(kind("what and why")), []) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: what and why")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_in_json_mode_an_error_is_one_document_on_stdout(kind, code, capsys):
    assert run(failing(kind("what and why")), ["--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    document = json.loads(said.out)["error"]
    assert document["name"] == kind.__name__
    assert document["exit_code"] == code
    assert "what and why" in document["message"]


def tree(cls):
    return [cls, *(found for child in cls.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("base", [MarketplaceError, TrainerError, IpfsError])
def test_every_error_of_a_package_has_one_of_the_documented_codes(base):
    for cls in tree(base):
        assert cls.exit_code in (1, 2, 3, 4, 5, 6)


def test_a_refusal_names_the_solidity_error_its_values_and_what_to_do():
    error = ContractError("TooLate", [10, 5], "the window closed")
    assert str(error) == "TooLate(10, 5): the window closed"
    assert str(ContractError("GramRejected")) == "GramRejected()"
    assert str(ContractError("X", [b"\x01\xff"])) == "X(0x01ff)"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupted_command_says_so_with_130(stop, capsys):
    assert run(failing(stop), []) == 130
    assert "interrupted" in capsys.readouterr().err


def test_commands_choose_their_own_code_with_exit():
    assert run(failing(typer.Exit(6)), []) == 6
    assert run(failing(typer.Exit()), []) == 0


@pytest.mark.parametrize(
    ("use", "code", "words"),
    [
        (lambda here: here.read_text(), 2, "here is a folder, where a file is needed"),
        (lambda here: (here / "a").read_text(), 4, "there is no "),
        (lambda here: (here / "file" / "a").read_text(), 2, "a file stands where "),
        (lambda here: (here / "file").mkdir(), 2, "file is there already, and is no folder"),
        (lambda here: (here / ("a" * 300)).touch(), 2, "a cannot be used: File name too long"),
    ],
)
def test_a_path_that_the_system_refuses_is_named_with_what_to_do(
    use, code, words, tmp_path, capsys
):
    here = tmp_path / "here"
    here.mkdir()
    (here / "file").touch()
    with pytest.raises(OSError) as caught:
        use(here)
    assert run(failing(caught.value), []) == code
    said = capsys.readouterr().err
    assert words in said and said.endswith("; give another path\n")
    assert str(here) in said


def test_permissions_that_forbid_a_path_are_named(capsys):
    # A test that runs as root is never refused.
    assert run(failing(PermissionError(13, "Permission denied", "/root/key")), []) == 2
    assert "the permissions of /root/key forbid it; change them, or" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ConnectionRefusedError(111, "refused")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(failing(error), [])


@pytest.mark.parametrize("arguments", [["--nothing"], ["more"]])
def test_wrong_usage_is_wrong_input(arguments, capsys):
    assert run(failing(ZeroDivisionError()), arguments) == 2
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_what_looks_like_markup_in_messages_is_shown_as_it_is(capsys):
    run(failing(InputError("options [a, b], [bold]c[/] and module:x:")), [])
    assert "options [a, b], [bold]c[/] and module:x:" in capsys.readouterr().err


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    out = Output()
    out.note("working")
    out.result({"a": 1}, "done")
    said = capsys.readouterr()
    assert said.out == "done\n"
    assert said.err == "working\n"


def test_json_results_hold_bytes_and_paths_as_text_and_silence_the_notes(capsys):
    out = Output(as_json=True)
    out.note("working")
    out.result({"id": b"\x01\xff", "home": Path("a/b"), "n": 2**90}, "done")
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == {"id": "0x01ff", "home": "a/b", "n": 2**90}


def test_values_without_json_form_are_a_defect():
    with pytest.raises(TypeError, match="set has no JSON form"):
        Output(as_json=True).result({"a": {1}}, "")
