"""Fixtures that several packages' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

# A busy machine is no defect of the code.
settings.register_profile("tribute", deadline=None)
settings.load_profile("tribute")

ROOT = Path(__file__).resolve().parents[1]


def missing(name: str, reason: str) -> NoReturn:
    """Skip with a reason, or fail where TRIBUTE_REQUIRE names the requirement."""
    required = {part.strip() for part in os.environ.get("TRIBUTE_REQUIRE", "").split(",")}
    if name in required or "all" in required:
        pytest.fail(f"TRIBUTE_REQUIRE names {name}, but {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


@pytest.fixture
def require_missing() -> object:
    """Return `missing`, for tests that look for a requirement themselves."""
    return missing


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder that may hold `mnist` and `heart`; it need not exist."""
    return Path(os.environ.get("TRIBUTE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def mnist(shared_data: Path) -> Path:
    """Return the folder of MNIST's idx files."""
    folder = shared_data / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        missing("mnist", f"no MNIST in {folder}; set TRIBUTE_DATA")
    return folder


@pytest.fixture(scope="session")
def heart(shared_data: Path) -> Path:
    """Return the folder of the heart-disease records of four hospitals."""
    folder = shared_data / "heart"
    if not (folder / "processed.cleveland.data").exists():
        missing("heart", f"no heart-disease records in {folder}; set TRIBUTE_DATA")
    return folder


@pytest.fixture(scope="session")
def anvil_url() -> Iterator[str]:
    """Start one devnet for the session and return its RPC address."""
    from deploy.devnet import running_anvil

    with running_anvil() as url:
        yield url
