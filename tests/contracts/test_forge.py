"""Run the Solidity tests through forge, on the bytecode that is released."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.compile import artefacts_file
from deploy.paths import ROOT, forge


def run_forge(profile: str, timeout_s: int) -> dict[str, str]:
    """Return each Solidity test's failure, or an empty text, by file and name."""
    environment = {
        **os.environ,
        "FOUNDRY_PROFILE": profile,
        "FOUNDRY_SOLC": str(Path(sys.executable).parent / "tribute-solc"),
        "TRIBUTE_ARTEFACTS": str(artefacts_file().relative_to(ROOT)),
    }
    command = [str(forge()), "test", "--json", "--root", str(ROOT)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    try:
        suites = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"forge did not run: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return {
        f"{suite.split('/')[-1].split(':')[0]}: {name}": (
            "" if found["status"] == "Success" else f"{found['reason']} {found['counterexample']}"
        )
        for suite, results in suites.items()
        for name, found in results["test_results"].items()
    }


def report(found: dict[str, str]) -> None:
    failures = [f"{name}: {words}" for name, words in found.items() if words]
    assert len(found) > 70
    assert not failures, "\n".join(failures)


def test_contracts_keep_what_the_solidity_tests_say() -> None:
    report(run_forge("default", 280))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_contracts_keep_it_over_many_runs() -> None:
    report(run_forge("slow", 1700))
