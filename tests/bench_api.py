"""Measure the index and the API: catching up, and answering while a large market is in the index.

Catching up: a fresh SQLite index takes in a market of 313 rounds × 32 trainers from a real chain,
that is 10,016 settled records and the commits and reveals before them; the best of three times.
Every record comes of real calls; a round's commits share a block, and so do its reveals. CPU time
is this process' alone, without the chain's.

Answering: `tribute serve` on a SQLite index of 1,000 projects × 50 rounds × 32 trainers, written by
bulk insert with the layout of the real one (events of commits and reveals are left out: no page of
the mix reads them). wrk asks over loopback for list and detail pages of projects, rounds and
trainers drawn at random, so that no answer is prepared, at about 200 requests a second; each
connection pauses for a random time, so that requests do not come in volleys.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from api.follow import Follower
from api.index import Index
from api.tables import (
    AMOUNT_DIGITS,
    POSITION_BITS,
    accounts,
    metadata,
    params_text,
    projects,
    rounds,
    updates,
)
from deploy.devnet import running_anvil
from deploy.paths import BUILD
from marketplace.codec import Description, encode_description
from marketplace.history import ProjectView
from marketplace.interface import commit_digest, encode_call
from marketplace.types import Deployment, Membership, Params, Reveal, Status
from marketplace.wallet import dev_account
from tests.api.bazaar import AGGREGATOR, FIRST_TRAINER, SPONSOR, Bazaar
from tests.bench import Row

__all__ = ["rows"]

TRAINERS, ROUNDS = 32, 313
PROJECTS, PROJECT_ROUNDS = 1_000, 50
RATE, CONNECTIONS, SECONDS = 200, 40, 15
_SPONSOR, _SETTLER = dev_account(SPONSOR).address, dev_account(AGGREGATOR).address
_START = 1_790_000_000
_ROUND_S = 600


def rows() -> list[Row]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as name, running_anvil() as rpc:
        bazaar = Bazaar(rpc, Path(name) / "home")
        return [*_catching_up(bazaar, Path(name)), *_answering(bazaar)]


# ---------------------------------------------------------------- catching up


def _catching_up(bazaar: Bazaar, folder: Path) -> list[Row]:
    _play(bazaar)
    found = []
    for turn in range(3):
        index = Index(f"sqlite:///{folder}/{turn}.db", bazaar.deployment)
        follower = Follower(index, bazaar.chain)
        wall, cpu = time.perf_counter(), time.process_time()
        follower.catch_up()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
        with index.engine.connect() as connection:
            count = "SELECT count(*) FROM updates WHERE status IN ('counted', 'outlier')"
            assert connection.exec_driver_sql(count).scalar_one() == TRAINERS * ROUNDS
        index.close()
    scale = 10_000 / (TRAINERS * ROUNDS)
    wall, cpu = min(found)
    name = "index 10,000 settled records, and their commits and reveals"
    return [
        Row(f"{name}: wall", wall * scale, "s", "≤ 1.0", _load()),
        Row(f"{name}: CPU", cpu * scale, "s"),
    ]


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def _play(bazaar: Bazaar) -> None:
    """Play the rounds with transactions that the chain itself signs, 32 a block."""
    numbers = range(FIRST_TRAINER, FIRST_TRAINER + TRAINERS)
    terms = {"commit_window": 30_000, "reveal_window": 30_000, "settle_window": 30_000}
    project = bazaar.start(
        numbers,
        rounds=ROUNDS,
        capacity=TRAINERS,
        unbonding_delay=100_000,
        # Outliers lose nothing, so that all take part to the end.
        slash_bps=bytes(32),
        **terms,
    )
    chain = bazaar.chain
    view = ProjectView(chain, project)
    count = ("eth_getTransactionCount", "latest")
    nonces = {
        address: int(chain.request(count[0], [address, count[1]]), 16)
        for address in (dev_account(number).address for number in numbers)
    }

    def send(calls: list[tuple[str, str]]) -> None:
        """Have the chain sign the calls and put them into one block."""
        body = []
        for number, (sender, data) in enumerate(calls):
            plan = {"from": sender, "to": bazaar.deployment.marketplace, "data": data}
            plan |= {"gas": hex(300_000), "nonce": hex(nonces[sender])}
            nonces[sender] += 1
            call = {"jsonrpc": "2.0", "id": number, "method": "eth_sendTransaction"}
            body.append({**call, "params": [plan]})
        chain.request("evm_setAutomine", [False])
        for answer in requests.post(bazaar.rpc, json=body, timeout=120).json():
            assert "error" not in answer, answer
        chain.request("evm_mine", [])
        chain.request("evm_setAutomine", [True])
        view.refresh()

    for _ in range(ROUNDS):
        view.refresh()
        found = view.round
        made = [bazaar.update(number, hostile=number % 16 == 0) for number in numbers]
        updates_of = {update.reveal.trainer: update for update in made}
        send([(u.reveal.trainer, _commit(project, found.number, u.reveal)) for u in made])
        bazaar.signer(AGGREGATOR).close_commits(project, found.number)
        send([(u.reveal.trainer, _reveal(project, u.reveal)) for u in made])
        assert len(found.reveals) == TRAINERS, "the chain lost a transaction"
        bazaar.settle(project, [updates_of[reveal.trainer] for reveal in found.reveals])


def _commit(project: bytes, number: int, reveal: Reveal) -> str:
    return encode_call("commit", project, number, commit_digest(project, number, reveal))


def _reveal(project: bytes, reveal: Reveal) -> str:
    words = [reveal.point[i : i + 32] for i in range(0, 96, 32)]
    return encode_call("reveal", project, words, reveal.cid)


# ------------------------------------------------------------------- answering


def _answering(bazaar: Bazaar) -> list[Row]:
    if shutil.which("wrk") is None:
        return []
    database = _database(bazaar.deployment, bazaar.params())
    serving = _serving(bazaar.home, bazaar.rpc, database)
    with serving as url, tempfile.TemporaryDirectory() as name:
        found = []
        for kind, paths in _paths(database).items():
            for path in paths[:20]:
                assert requests.get(url + path, timeout=20).status_code == 200, path
            script = Path(name) / f"{kind}.lua"
            script.write_text(_SCRIPT % {"paths": json.dumps(paths)[1:-1], "delay": _DELAY_MS})
            before = serving.cpu_s()
            rate, p50, p99, failed, slow = _wrk(url, script)
            cost = 1e3 * (serving.cpu_s() - before) / (rate * SECONDS)
            assert not failed, f"{failed} of the {kind} requests failed"
            note = f"{rate:.0f} requests/s, {slow} above 2 s; {_load()}"
            found += [
                Row(f"{kind} pages at {RATE} requests/s: p99", p99, "ms", "≤ 50", note),
                Row(f"{kind} pages at {RATE} requests/s: p50", p50, "ms"),
                Row(f"{kind} pages: the server's CPU time a request", cost, "ms"),
            ]
    return found


_DELAY_MS = 1_000 * CONNECTIONS // RATE - 4
_SCRIPT = """
local paths = {%(paths)s}
local count = 0
function init(args) math.randomseed(7) end
function delay() return math.random(0, 2 * %(delay)d) end
function request() return wrk.format("GET", paths[math.random(#paths)]) end
function response(status) if status ~= 200 then count = count + 1 end end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %%f %%f %%f %%d %%d\\n",
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status, e.timeout))
end
"""


def _wrk(url: str, script: Path) -> tuple[float, float, float, int, int]:
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(CONNECTIONS),
        "-d",
        f"{SECONDS}s",
        "-s",
        str(script),
        url,
    ]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+) (\d+)", out)
    assert found is not None, out
    return float(found[1]), float(found[2]), float(found[3]), int(found[4]), int(found[5])


class _serving:
    """Run `tribute serve` in a process of its own, on an index that it leaves alone."""

    def __init__(self, home: Path, rpc: str, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", "from deploy.cli import main; main()", "serve"]
        command += ["--home", str(home), "--rpc", rpc, "--port", str(port), "--rate", "0"]
        self.command = [*command, "--no-index", "--database", f"sqlite:///{database}"]

    def __enter__(self) -> str:
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                requests.get(f"{self.url}/healthz", timeout=5)
                return self.url
            except requests.ConnectionError:
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)

    def cpu_s(self) -> float:
        """Return the CPU time that the server has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)


def _paths(database: Path) -> dict[str, list[str]]:
    chance = random.Random(11)
    with sqlite3.connect(database) as connection:
        ids = ["0x" + row[0].hex() for row in connection.execute("SELECT id FROM projects")]
        query = "SELECT DISTINCT address FROM accounts WHERE trainer LIMIT 2000"
        trainers = [row[0] for row in connection.execute(query)]
    lists, details = [], []
    for _ in range(500):
        project, trainer = chance.choice(ids), chance.choice(trainers)
        number = chance.randint(1, PROJECT_ROUNDS)
        sort = chance.choice(["newest", "reward", "escrow", "activity"])
        lists += [
            f"/v1/projects?sort={sort}&search=model%20{chance.randrange(10)}",
            f"/v1/projects?trainer={trainer}",
            f"/v1/projects/{project}/rounds",
            f"/v1/projects/{project}/trainers",
            f"/v1/updates?project={project}",
            f"/v1/rewards?trainer={trainer}",
            f"/v1/outliers?limit={chance.randint(20, 50)}",
            f"/v1/settlements?project={project}&round={number}",
        ]
        details += [
            f"/v1/projects/{project}",
            f"/v1/projects/{project}/rounds/{number}",
            f"/v1/trainers/{trainer}",
            f"/v1/accounts/{_SPONSOR}/balances"
            if chance.random() < 0.01
            else f"/v1/projects/{project}/rounds/{number}",
        ]
    return {"list": lists, "detail": details}


# ---------------------------------------------------------------- a large index


def _database(deployment: Deployment, params: Params) -> Path:
    """Return a file with a large index, made once for each layout of the tables."""
    layout = "".join(f"{t}{[c.name for c in t.columns]}" for t in metadata.sorted_tables)
    seed = random.Random(layout + deployment.marketplace)
    file = BUILD / "bench-api" / f"{seed.getrandbits(64):016x}.db"
    if not file.exists():
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        new = file.with_suffix(".new")
        Index(f"sqlite:///{new}", deployment).close()
        with sqlite3.connect(new) as connection:
            _fill(connection, params, seed)
        connection.close()
        new.replace(file)
    return file


def _fill(connection: sqlite3.Connection, params: Params, chance: random.Random) -> None:
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-200000"):
        connection.execute(f"PRAGMA {pragma}")
    indices = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indices:
        connection.execute(f"DROP INDEX {name}")
    people = ["0x" + chance.randbytes(20).hex() for _ in range(2_000)]
    people = [_checksum(address) for address in people]
    connection.execute("INSERT INTO tokens VALUES (?, 'TRT', 18)", [params.token])
    for number in range(1, PROJECTS + 1):
        its = [people[(number * 7 + k) % len(people)] for k in range(TRAINERS)]
        _put(connection, projects, [_project(number, params, chance)])
        words = Description(f"Model {number % 10}", "mlp", f"Project {number} of many")
        connection.execute(
            "INSERT INTO descriptions VALUES (?, ?, ?, ?, ?)",
            [
                _cid(number),
                words.title,
                words.summary,
                f"{words.title}\n{words.summary}".lower(),
                encode_description(words).decode(),
            ],
        )
        _put(connection, accounts, (_account(number, who, k) for k, who in enumerate(its)))
        _put(connection, rounds, (_round(number, r, chance) for r in range(1, PROJECT_ROUNDS + 1)))
        _put(connection, updates, _updates(number, its, chance))
    for _, sql in indices:
        connection.execute(sql)
    connection.execute("ANALYZE")


def _put(connection: sqlite3.Connection, table: Any, items: Any) -> None:
    names = [column.name for column in table.columns]
    marks = ", ".join("?" * len(names))
    quoted = ", ".join(f'"{name}"' for name in names)
    rows_of = ([item[name] for name in names] for item in items)
    connection.executemany(f"INSERT INTO {table.name} ({quoted}) VALUES ({marks})", rows_of)


def _checksum(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return to_checksum_address(address)


def _amount(value: int) -> str:
    return f"{value:0{AMOUNT_DIGITS}d}"


def _cid(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _position(project: int, round_number: int, k: int) -> int:
    return ((project + PROJECTS * round_number) << POSITION_BITS) + k


def _windows(round_number: int) -> dict[str, int]:
    opens = _START + _ROUND_S * round_number
    return {
        "opens_at": opens,
        "commit_end": opens + 200,
        "reveal_end": opens + 400,
        "settle_end": opens + 600,
    }


def _project(number: int, params: Params, chance: random.Random) -> dict[str, Any]:
    reward = chance.randint(10**18, 10**20)
    return {
        **dict.fromkeys((column.name for column in projects.columns), 0),
        **_windows(PROJECT_ROUNDS),
        "number": number,
        "id": chance.randbytes(32),
        "position": _position(number, 0, 0),
        "transaction": chance.randbytes(32),
        "opened_at": _START,
        "sponsor": _SPONSOR,
        "aggregator": params.aggregator,
        "token": params.token,
        "description_cid": _cid(number),
        "params": params_text(params),
        "status": int(Status.RUNNING if number % 3 else Status.FINISHED),
        "round": PROJECT_ROUNDS,
        "settled_rounds": PROJECT_ROUNDS,
        "active": TRAINERS,
        "reward": _amount(reward),
        "escrow": _amount(chance.randint(0, 10**21)),
        "bond": _amount(5_000),
        "paid": _amount(PROJECT_ROUNDS * reward),
        "fees": _amount(PROJECT_ROUNDS * 777),
        "slashed": _amount(10**18),
        "refunded": _amount(0),
        "last_at": _START + chance.randrange(_ROUND_S * PROJECT_ROUNDS),
    }


def _account(project: int, address: str, k: int) -> dict[str, Any]:
    amounts = ("stake", "credit", "earned", "slashed", "withdrawn")
    return {
        **dict.fromkeys((column.name for column in accounts.columns), 0),
        **{name: _amount(10**18 + 10**15 * k) for name in amounts},
        "project": project,
        "address": address,
        "trainer": True,
        "membership": int(Membership.ACTIVE),
        "position": k,
        "encryption_key": bytes(32),
        "joined_at": _START,
        "last_commit": PROJECT_ROUNDS,
        "commits": PROJECT_ROUNDS,
        "reveals": PROJECT_ROUNDS,
        "counted": PROJECT_ROUNDS - 2,
        "outliers": 2,
    }


def _gram(chance: random.Random) -> bytes:
    """Return a triangle of 48-bit numbers."""
    count = TRAINERS * (TRAINERS + 1) // 2
    return b"".join(b"\0\0" + chance.randbytes(6) for _ in range(count))


_GRAM = [_gram(random.Random(k)) for k in range(8)]


def _round(project: int, number: int, chance: random.Random) -> dict[str, Any]:
    return {
        **_windows(number),
        "project": project,
        "number": number,
        "status": "settled",
        "active": TRAINERS,
        "commits": TRAINERS,
        "reveals": TRAINERS,
        "settled_rounds": number,
        "position": _position(project, number, TRAINERS + 1),
        "closed_at": _START + _ROUND_S * (number + 1),
        "transaction": chance.randbytes(32),
        "settler": _SETTLER,
        "model_cid": chance.randbytes(32),
        "gram": _GRAM[number % 8],
        "root": None,
        "paid": _amount(10**20),
        "slashed": _amount(10**18),
        "outliers": 1,
        "excluded": 0,
        "bond_lost": _amount(0),
        "exclusions": None,
    }


def _updates(project: int, trainers: list[str], chance: random.Random) -> Iterator[dict[str, Any]]:
    share, zero = _amount(10**20 // TRAINERS), _amount(0)
    for number in range(1, PROJECT_ROUNDS + 1):
        outlier = chance.randrange(TRAINERS)
        at = _START + _ROUND_S * number
        noise = chance.randbytes(192 * TRAINERS)
        for k, trainer in enumerate(trainers):
            out = k == outlier
            own = noise[192 * k : 192 * k + 192]
            yield {
                "project": project,
                "round": number,
                "trainer": trainer,
                "status": "outlier" if out else "counted",
                "position": _position(project, number, k),
                "committed_at": at,
                "commit_transaction": own[:32],
                "place": k,
                "revealed_at": at + 200,
                "reveal_transaction": own[32:64],
                "point": own[64:160],
                "cid": own[160:],
                "share": zero if out else share,
                "slashed": share if out else zero,
                "weight": 0 if out else 65_536 // TRAINERS,
                "norm": 9_000 + own[0],
                "strikes": int(out),
                "stake": share,
                "reason": 0,
                "deactivated": False,
            }
