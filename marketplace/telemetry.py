"""Tell what a role does: log lines with project and round on each, and numbers for Prometheus.

Covered: lines for people or JSON by setting, an endpoint for one process, what all roles measure.
Not covered: what the API and its index measure (`api.metrics`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from marketplace.errors import InputError

__all__ = [
    "LogOption",
    "MetricsPortOption",
    "RoleTelemetry",
    "configure_logging",
    "serving_metrics",
]

LogForm = Literal["text", "json"]

LogOption = Annotated[
    str,
    typer.Option(
        "--log", envvar="TRIBUTE_LOG", help="text for people, or json: an object a line on stderr."
    ),
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        help="Give measurements to Prometheus at http://127.0.0.1:PORT/metrics.",
        min=1,
        max=65535,
        show_default=False,
    ),
]

_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Json(logging.Formatter):
    """Write a record as one line of JSON, with whatever `extra` gave it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """Write a record for people: time, then where it belongs, then what happened."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        line = f"{clock} {level}{record.getMessage()}  {facts}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def configure_logging(form: str, level: int = logging.INFO) -> None:
    """Write this program's log to stderr, as `form` says; InputError for an unknown one."""
    forms: dict[str, type[logging.Formatter]] = {"text": _Text, "json": _Json}
    if form not in forms:
        raise InputError(f"--log {form!r} is not known; text and json are")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(forms[form]())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("aggregator", "api", "marketplace", "trainer"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def serving_metrics(registry: CollectorRegistry, port: int | None) -> Iterator[None]:
    """Answer Prometheus on loopback for a block of code; do nothing without a port."""
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise InputError(
            f"cannot listen on 127.0.0.1 port {port}: {error.strerror}; choose another "
            "--metrics-port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class RoleTelemetry:
    """Log and measure what one role does in one project.

    `notify` is what `TrainerClient` and `AggregatorService` report to. `tell` gets the lines for
    people; with `as_json` they go to the log instead.
    """

    def __init__(
        self,
        role: str,
        project: bytes,
        account: str,
        tell: Callable[[str], None],
        as_json: bool = False,
    ) -> None:
        self.registry = CollectorRegistry()
        self._log = logging.getLogger(role)
        self._facts = {"project": f"0x{project.hex()}", "account": account}
        self._tell = tell
        self._as_json = as_json
        self._since = time.monotonic()
        labels = {"project": self._facts["project"], "account": account}

        def named(kind: str) -> str:
            return f"tribute_{role}_{kind}"

        self._stages = Counter(
            named("stages"), "Stages reached.", [*labels, "stage"], registry=self.registry
        )
        self._seconds = Histogram(
            named("stage_seconds"),
            "From the stage before to this one.",
            [*labels, "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._labels = labels
        self._round = Gauge(
            named("round"), "Round that it is in.", [*labels], registry=self.registry
        ).labels(**labels)
        self._settled = Gauge(
            named("settled_rounds"), "Rounds paid so far.", [*labels], registry=self.registry
        ).labels(**labels)
        self._looked = Gauge(
            named("looked_at"), "When it last saw the chain.", [*labels], registry=self.registry
        ).labels(**labels)

    def notify(self, stage: str, round_number: int, text: str) -> None:
        """Hear that the role reached a stage of a round."""
        now = time.monotonic()
        self._stages.labels(**self._labels, stage=stage).inc()
        self._seconds.labels(**self._labels, stage=stage).observe(now - self._since)
        self._since = now
        if self._as_json:
            facts = {**self._facts, "round": round_number, "stage": stage}
            self._log.info(text, extra=facts)
        else:
            self._tell(f"round {round_number}  {stage}: {text}")

    def looked(self, round_number: int, settled_rounds: int) -> None:
        """Hear where the project stands."""
        self._round.set(round_number)
        self._settled.set(settled_rounds)
        self._looked.set_to_current_time()
