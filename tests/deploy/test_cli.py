"""Use `tribute` as a person does: in terminals, with mistakes, with Ctrl-C, twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pexpect
import pytest
import typer

from deploy.cli import app
from deploy.devnet import down, find, free_port
from marketplace.errors import NotFoundError
from marketplace.terminal import run

ROOT = Path(__file__).parents[2]
TRIBUTE = [sys.executable, "-c", "from deploy.cli import main; main()"]


class Desk:
    """Run commands in a home, each in a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TRIBUTE_HOME": str(home),
            "TERM": "xterm-256color",
        }
        self.terminals: list[pexpect.spawn] = []

    def terminal(self, command: str, *options: str) -> pexpect.spawn:
        child = pexpect.spawn(
            TRIBUTE[0],
            [*TRIBUTE[1:], *command.split(), *options],
            env=self.environment,
            cwd=str(ROOT),
            encoding="utf-8",
            timeout=120,
            dimensions=(40, 100),
        )
        self.terminals.append(child)
        return child

    def say(self, command: str, code: int = 0) -> str:
        """Run a command in a terminal and return what it printed."""
        child = self.terminal(command)
        child.expect(pexpect.EOF)
        child.close()
        text = plain(child.before)
        assert child.exitstatus == code, text
        return text

    def json(self, command: str, code: int = 0) -> dict:
        """Run a command with --json and return its document; nothing else is on stdout."""
        done = subprocess.run(
            [*TRIBUTE, *command.split(), "--json"],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""
        found: dict = json.loads(done.stdout)
        return found


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r\n", "\n")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "home")
    yield desk
    for child in desk.terminals:
        child.close(force=True)
    for home in (desk.home, desk.home / "demo"):
        try:
            down(home)
        except NotFoundError:
            pass


def gone(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    code: int = child.exitstatus
    return code


@pytest.mark.timeout(600)
def test_three_terminals_run_a_market_with_interruptions(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert f"http://127.0.0.1:{port}" in desk.say(f"devnet up --port {port}")
    # The same commands again show what is there.
    assert f"http://127.0.0.1:{port}" in desk.say("devnet up")
    first = desk.json("deploy --dev 0 --srs-size 700")
    assert desk.json("deploy --dev 0 --srs-size 700") == first
    options = "--model logistic -o features=64 -o classes=10 --rounds 2 --capacity 2"
    opened = desk.say(
        f"project open --dev 0 --aggregator dev:1 --sink dev:2 --min-updates 2 {options}"
    )
    found = re.fullmatch(r"project (0x[0-9a-f]{64})\n", opened)
    assert found is not None, opened
    project = found[1][:14]

    aggregator = desk.terminal(f"aggregator run {project} --dev 1")
    aggregator.expect("bond posted")
    one = desk.terminal(f"trainer run {project} --dev 3 --data digits@0/2")
    one.expect("joined: stake deposited")
    # Nobody else may train for the account meanwhile.
    said = desk.say(f"trainer run {project} --dev 3 --data digits@0/2", code=2)
    assert "another process trains for this account and project" in said
    one.expect("waiting|training|committed|$")
    one.sendintr()
    assert gone(one) == 130
    assert "interrupted" in plain(one.before)
    aggregator.sendintr()
    assert gone(aggregator) == 130
    # All three (again), and the market goes on to its end.
    aggregator = desk.terminal(f"aggregator run {project} --dev 1")
    one = desk.terminal(f"trainer run {project} --dev 3 --data digits@0/2")
    two = desk.terminal(f"trainer run {project} --dev 4 --data digits@1/2")
    for child in (one, two):
        child.expect(r"round 1  settled: paid [0-9.]+ TRT for a weight of 0\.[0-9]{3}")
        child.expect("the project has finished; ")
        assert gone(child) == 0
    aggregator.expect("the project has finished; 110 TRT are yours")
    assert gone(aggregator) == 0

    assert "is the one that the chain implies" in desk.say(f"project show {project} --verify")
    rows = desk.json(f"rewards {project}")
    assert [row["round"] for row in rows] == [1, 1, 2, 2]
    assert sum(row["share"] for row in rows) == 2 * 100 * 10**18
    assert desk.json("project list")[0]["status"] == "finished"
    left = desk.json(f"trainer leave {project} --dev 3")
    paid = sum(row["share"] for row in rows if row["trainer"] == left["trainer"])
    assert left["credit"] == paid + 50 * 10**18
    assert desk.json(f"withdraw {project} --dev 3")["amount"] == left["credit"]
    again = desk.json(f"withdraw {project} --dev 3", code=3)["error"]
    assert again["name"] == "ContractError"
    assert again["message"].startswith("NothingToWithdraw(0x")
    assert "closed; 0 TRT are yours" in desk.say(f"project close {project} --dev 0")
    refused = desk.say(f"project close {project} --dev 0", code=3)
    assert "the project is closed, which does not allow it" in refused

    monkeypatch.setenv("TRIBUTE_HOME", str(desk.home))
    for command, code, words in (
        ("project show 0xffff", 4, "no project begins with 0xffff; see `tribute project list`"),
        ("project show zebra", 2, "'zebra' is no project id"),
        (f"withdraw {project}", 2, "name one account that signs"),
        (f"trainer run {project} --dev 5 --data no", 2, "there are digits, npz, csv"),
        (f"rewards {project} --trainer 7", 2, "'7' is no address"),
    ):
        assert run(app, [*command.split(), "--json"]) == code
        assert words in json.loads(capsys.readouterr().out)["error"]["message"]

    assert "stopped the devnet" in desk.say("devnet down")
    assert "no devnet runs in" in desk.say("devnet down", code=4)
    assert desk.json("devnet status", code=4)["error"]["name"] == "NotFoundError"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupted_demo_leaves_nothing_running_and_runs_again(desk: Desk) -> None:
    home = desk.home / "demo"
    arguments = f"demo --home {home} --trainers 3 --attackers 1 --rounds 2 --attacks sign-flip"
    child = desk.terminal(arguments)
    child.expect(r"accuracy of the initial model")
    devnet = find(home)
    child.expect(r"train .*━")
    child.sendintr()
    assert gone(child) == 130
    deadline = time.monotonic() + 20
    while Path(f"/proc/{devnet.pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(NotFoundError):
        find(home)
    child = desk.terminal(arguments)
    for words in ("train", "commit", "reveal", "fetch", "prove", "settle"):
        child.expect(words)
    child.expect("reconciles to the last unit")
    child.expect("Look up each figure")
    child.expect("Ctrl-C")
    child.sendintr()
    assert gone(child) == 0


# ------------------------------------------------------------------- every command


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in sorted(getattr(group, "commands", {}).items()):
        yield from commands(command, (*path, name))


ROOT_COMMAND = typer.main.get_command(app)
ALL = list(commands(ROOT_COMMAND))


def test_commands_start_without_what_only_some_need():
    script = "import sys, deploy.cli; sys.exit(', '.join({'torch', 'web3'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_explains_itself_within_80_columns(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(app, [*path, "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "Usage:" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    if path and (command := _find(path)) and not hasattr(command, "commands"):
        assert command.help and command.help.strip()[0].isupper()


def _find(path: tuple[str, ...]) -> click.Command:
    command = ROOT_COMMAND
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    return command


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("nonsense", 2, "No such command 'nonsense'"),
        ("project nonsense", 2, "No such command 'nonsense'"),
        ("trainer run", 2, "Missing argument"),
        ("trainer run 0x1", 2, "Missing option '--data'"),
        ("devnet up --port 0", 2, "Input should be greater than or equal to 1"),
        ("project list", 4, "holds no deployment; run `tribute deploy`"),
        ("withdraw 0x12 --dev 1", 4, "holds no deployment"),
        ("devnet status", 4, "no devnet runs in"),
        ("devnet down", 4, "no devnet runs in"),
        ("deploy --dev 0", 4, "no devnet runs in"),
        ("demo --trainers 0", 2, "Input should be greater than or equal to 1"),
        ("demo --attacks dance", 2, "no attack 'dance'; there are honest"),
        ("demo --data nothing", 2, "no source 'nothing'"),
        ("demo --data digits@1/2", 2, "name a whole data set"),
        ("demo --model nonsense", 2, "no model 'nonsense'"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_input_is_one_line_with_its_code(arguments, code, words, as_json, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIBUTE_HOME", str(tmp_path))
        home = ["--home", str(tmp_path / "demo")] if arguments.startswith("demo") else []
        given = [*arguments.split(), *home, *(["--json"] if as_json else [])]
        assert run(app, given) == code
    said = capsys.readouterr()
    if as_json:
        error = json.loads(said.out)["error"]
        assert words in error["message"]
        assert error["exit_code"] == code
    else:
        assert said.out == ""
        assert words in said.err
        assert said.err.splitlines()[-1].startswith("error: ")


HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
IN_PLACE_OF_A_FOLDER = "a file stands where letter/x needs a folder"
IN_TOML = "give an experiment in TOML, such as deploy/lab/experiments/attacks.toml"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("lab run folder", 2, f"folder is a folder, where a file is needed; {IN_TOML}"),
        ("lab run gone", 4, f"there is no gone; {IN_TOML}"),
        ("lab run letter/x", 2, f"{IN_PLACE_OF_A_FOLDER}; {IN_TOML}"),
        ("lab run letter", 2, "letter is no experiment in TOML: "),
        ("lab report folder --results results", 2, "folder is a folder, where a file is needed"),
        ("lab report noise --results results", 2, "noise is no page of text: "),
        ("lab report letter --results folder", 2, "folder holds no results, *.jsonl; `tribute lab"),
        ("lab attack sign --source csv:folder", 2, "folder is a folder; npz:FILE and csv:FILE"),
        ("lab attack sign --source npz:gone", 2, "there is no file gone; npz:FILE and csv:FILE"),
        ("lab attack sign --source idx:letter", 2, "letter is a file; idx:FOLDER names a folder"),
        ("lab attack sign --source a:x", 2, "a:x: no module named 'a'; put its folder on"),
        ("srs check letter", 6, "letter: reference string of 11 bytes is cut short"),
        ("srs check letter/x", 2, f"{IN_PLACE_OF_A_FOLDER}; give a reference string"),
        ("srs import gone new", 4, "there is no gone; give a public ceremony's file"),
        ("srs new letter/x --size 16 --seed a", 2, "letter/x cannot be written: File exists; name"),
        ("project list --home letter/x", 2, "needs a folder; give another folder with --home"),
        ("project list --home odd", 2, "odd/deployment.json is a folder, where a file is needed"),
        ("devnet up --port 1 --home letter/x", 2, f"{IN_PLACE_OF_A_FOLDER}; give another path"),
        ("demo --home letter/x", 2, "needs a folder; give another path"),
        ("ipfs import noise", 6, "noise is no sound CAR archive: "),
        (f"ipfs cat {HELLO} -o letter/x", 2, "letter/x cannot be written: Not a directory; name"),
    ],
)
def test_a_wrong_path_is_named_with_what_should_be_there(
    arguments, code, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "results", "odd/deployment.json"):
        Path(folder).mkdir(parents=True)
    Path("letter").write_text("hello world")
    Path("noise").write_bytes(b"\xd8\xff" * 99)
    Path("results/attacks.jsonl").touch()
    if arguments.startswith("ipfs"):
        assert run(app, ["ipfs", "add", "letter"]) == 0
        capsys.readouterr()
    assert run(app, arguments.split()) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err and said.err.count("\n") == 1
    assert Path("letter").read_text() == "hello world"


@pytest.mark.parametrize("group", [path for path in ALL if hasattr(_find(path), "commands")])
def test_a_group_without_a_command_shows_its_help(group, capsys):
    assert run(app, list(group)) == 2
    said = capsys.readouterr()
    assert "Commands" in said.out + said.err
    assert "error" not in said.err
