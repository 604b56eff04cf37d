"""Use `tribute srs` as people do, with mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.cli import app
from marketplace.terminal import run
from tests.marketplace.proof.test_powers_of_tau import ETHEREUM

SETUP = "tests/marketplace/proof/test_powers_of_tau.py"


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    code = run(app, [*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_ceremony_from_begin_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "ours.srs")
    code, begun = called(capsys, "srs", "new", file, "--size", "40")
    assert (code, begun["insecure"], begun["largest_model"]) == (0, True, 32)
    for name in ("Ada", "Emmy"):
        code, _ = called(capsys, "srs", "contribute", file, "--name", name)
        assert code == 0
    code, checked = called(capsys, "srs", "check", file)
    assert (code, checked["checked"], checked["insecure"]) == (0, True, False)
    assert [entry["name"] for entry in checked["contributions"]] == ["Ada", "Emmy"]  # type: ignore[attr-defined]
    assert called(capsys, "srs", "info", file)[1] == {**checked, "checked": False}


def test_insecure_strings_say_so_to_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("a", "--seed", "abc"), ("b",)):
        file = str(tmp_path / arguments[0])
        for command in (
            ["new", file, "--size", "9", *arguments[1:]],
            ["info", file],
            ["check", file],
        ):
            assert run(app, ["srs", *command]) == 0
            assert "INSECURE" in capsys.readouterr().out


def test_what_stands_there_is_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "x.srs")
    assert called(capsys, "srs", "new", file, "--size", "9")[0] == 0
    before = Path(file).read_bytes()
    code, answer = called(capsys, "srs", "new", file, "--size", "10")
    assert code == 2
    assert "--force" in str(answer)
    assert Path(file).read_bytes() == before
    assert called(capsys, "srs", "new", file, "--size", "10", "--force")[0] == 0


def test_mistakes_have_their_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.srs"
    assert called(capsys, "srs", "info", str(tmp_path / "none"))[0] == 4
    assert called(capsys, "srs", "import", str(tmp_path / "none"), str(file))[0] == 4
    assert called(capsys, "srs", "new", str(file), "--size", "1")[0] == 2
    assert called(capsys, "srs", "import", SETUP, str(file))[0] == 6
    assert not file.exists()
    for nowhere in ("/proc/x.srs", f"{tmp_path}/{'x' * 300}", "/dev/null/x.srs"):
        code, answer = called(capsys, "srs", "new", nowhere, "--size", "9")
        assert code == 2 and "cannot be written" in str(answer)
        assert called(capsys, "srs", "import", str(ETHEREUM), nowhere, "--size", "9")[0] == 2
    assert called(capsys, "srs", "new", str(file), "--size", "9")[0] == 0
    assert called(capsys, "srs", "contribute", str(file), "--name", "")[0] == 2
    data = bytearray(file.read_bytes())
    data[1024 + 96 * 3] ^= 1
    file.write_bytes(data)
    assert called(capsys, "srs", "check", str(file))[0] == 6
    assert called(capsys, "srs", "contribute", str(file), "--name", "Ada")[0] == 6


def test_ctrl_c_in_a_contribution_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "x.srs"
    assert run(app, ["srs", "new", str(file), "--size", str(1 << 15)]) == 0
    before = file.read_bytes()
    program = "from deploy.cli import main; main()"
    arguments = ["srs", "contribute", str(file), "--name", "Ada"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
