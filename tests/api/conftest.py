"""Start what the API's tests run on: chains with markets, and databases."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from api.app import Settings
from api.server import Server, running_server
from deploy.devnet import running_anvil
from tests.api.bazaar import Bazaar
from tests.api.site import Site, played_site
from tests.api.visit import ATTACKER, DESKTOP, FLAGS, WEB, Visit
from tests.conftest import missing
from tests.market import Stage, Town


@pytest.fixture
def bazaar(tmp_path: Path) -> Iterator[Bazaar]:
    """Return a marketplace on a chain of its own."""
    with running_anvil() as rpc:
        yield Bazaar(rpc, tmp_path / "home")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a market that was played, and the server that shows it."""
    with played_site(tmp_path_factory.mktemp("site")) as found:
        yield found


# ------------------------------------------------------------------ the dashboard


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with running_anvil() as rpc:
        yield Town(rpc, tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def server(town: Town) -> Iterator[Server]:
    if not (WEB / "dist" / "index.html").exists():
        missing("dashboard", "the pages are not built; run `make dashboard`")
    settings = Settings(rate=0)
    with running_server(town.home, town.chain, None, "127.0.0.1", 0, settings) as running:
        yield running


@pytest.fixture(scope="module")
def ended(town: Town) -> Stage:
    """Play a market with one attacker to its end."""
    stage = town.open(["honest"] * ATTACKER + ["sign-flip"], min_updates=4)
    stage.play(lambda view: view.ended)
    return stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium", "no chromium on PATH; install Debian's package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: Browser, server: Server, town: Town) -> Iterator[Visit]:
    width, height = DESKTOP
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(8000)
    found = Visit(context.new_page(), server.url)
    yield found
    context.close()
    assert not found.complaints
    elsewhere = [
        address
        for address in found.addresses
        if not address.startswith((f"{server.url}/", town.chain.rpc))
    ]
    assert not elsewhere


# ---------------------------------------------------------------------- databases


def _postgres_folder() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        missing("postgresql", "no initdb here; install Debian's package postgresql")
    return Path(on_path).parent


def _unprivileged(folder: Path) -> list[str]:
    """Return what runs a command as somebody whom initdb accepts, and give the folder to them."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        found = subprocess.run(["id", "-u", name], capture_output=True, text=True)
        if found.returncode == 0:
            group = subprocess.run(["id", "-g", name], capture_output=True, text=True).stdout
            user = found.stdout.strip()
            os.chown(folder, int(user), int(group))
            return ["setpriv", "--reuid", user, "--regid", group.strip(), "--clear-groups"]
    missing("postgresql", "initdb refuses root, and there is no user postgres or nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Run a private PostgreSQL on loopback and return the address of its first database."""
    programs = _postgres_folder()
    with tempfile.TemporaryDirectory(prefix="tribute-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o700)
        prefix = _unprivileged(folder)
        data = folder / "data"
        subprocess.run(
            [*prefix, programs / "initdb", "-D", data, "-U", "tribute", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [*prefix, programs / "postgres", "-D", data, "-k", folder, "-p", str(port)]
        command += ["-h", "127.0.0.1", "-F", "-c", "max_connections=40"]
        process = subprocess.Popen(
            command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port, process)
            yield f"postgresql://tribute@127.0.0.1:{port}/postgres"
        finally:
            # Immediate shutdown: nothing of it is kept.
            process.send_signal(signal.SIGQUIT)
            process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"postgresql://tribute@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "PostgreSQL stopped at once"
            assert time.monotonic() < deadline, "PostgreSQL did not answer within 30 s"
            time.sleep(0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return what makes empty databases of one kind and returns their addresses."""
    count = 0

    def make() -> str:
        nonlocal count
        count += 1
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / f'index-{count}.db'}"
        import psycopg

        url: str = request.getfixturevalue("postgres")
        name = f"index_{os.urandom(6).hex()}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return url.replace("/postgres", f"/{name}")

    return make
