"""Put the API together: routes, errors, limits, headers, metrics, pages.

Errors are answered as problem+json (RFC 9457).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import orjson
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from api.errors import RequestError
from api.guard import Buckets, Guard
from api.http import router
from api.models import Readiness
from api.pages import add_pages
from api.service import Service
from marketplace.wallet import LOCAL_CHAINS

__all__ = ["Settings", "create_app"]

log = logging.getLogger(__name__)

READERS = 1
"""Threads that read the index. The interpreter runs one at a time anyway, and where several wait
for it each turn costs milliseconds: measured at 200 requests a second, the slowest hundredth took
five times as long with twelve."""


@dataclass(frozen=True)
class Settings:
    """Set what surrounds the routes.

    `origins` may read from other pages (CORS); `rate` requests a second and `burst` at once are
    answered to a client, 0 for any number.
    """

    origins: Sequence[str] = ()
    rate: float = 100.0
    burst: int = 200


def create_app(service: Service, settings: Settings | None = None) -> FastAPI:
    """Return the application."""
    settings = settings or Settings()
    app = FastAPI(
        title="Tribute",
        version=version("tribute"),
        summary="A market for federated learning: projects, rounds, trainers, money.",
        description="It holds no key and no authority; all that it takes are accuracies that a "
        "project's sponsor signed. Amounts are decimal strings of "
        "the token's smallest unit, times unix seconds, bytes 0x and hexadecimal digits. Lists "
        "come in pages: give `next` back as `cursor`. Errors are problem+json.",
        # FastAPI's own pages load scripts from other hosts; `api.pages` has one that does not.
        docs_url=None,
        redoc_url=None,
        lifespan=_one_reader,
    )
    app.state.service = service
    app.include_router(router)
    _add_errors(app)
    _add_health(app, service)
    buckets = Buckets(settings.rate, settings.burst)
    app.add_middleware(Guard, buckets=buckets, metrics=service.metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag", "Retry-After"],
        )
    add_pages(app, service.chain.rpc if service.deployment.chain_id in LOCAL_CHAINS else None)
    return app


@asynccontextmanager
async def _one_reader(app: FastAPI) -> AsyncIterator[None]:
    """Answer from the index one request at a time; who asks the chain waits elsewhere."""
    del app
    current_default_thread_limiter().total_tokens = READERS
    yield


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["service"])
    def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness}},
        tags=["service"],
    )
    def readyz() -> Response:
        """Say whether the index can be read and follows the chain."""
        found = service.readiness()
        return Response(
            found.model_dump_json(), 200 if found.ready else 503, media_type="application/json"
        )

    @app.get("/metrics", response_class=PlainTextResponse, tags=["service"])
    def metrics() -> Response:
        """Give measurements in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


# ---------------------------------------------------------------------- errors


def _problem(status: int, title: str, detail: str, errors: Any = None) -> Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, media_type="application/problem+json")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    def refused(request: Request, error: RequestError) -> Response:
        del request
        return _problem(error.status, error.title, str(error))

    @app.exception_handler(OperationalError)
    def no_database(request: Request, error: OperationalError) -> Response:
        log.error("the database did not answer: %s", error.orig)
        detail = f"{request.url.path[:200]}: the index cannot be read now; try again soon"
        return _problem(503, "Database out of reach", detail)

    @app.exception_handler(Exception)
    def defect(request: Request, error: Exception) -> Response:
        # The server logs the traceback.
        del error
        detail = f"{request.method} {request.url.path[:200]} met a defect; the log has it"
        return _problem(500, "Internal error", detail)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        del request
        errors = [
            {
                "where": "/".join(map(str, entry["loc"])),
                "value": repr(entry["input"])[:100],
                "what": entry["msg"],
            }
            for entry in error.errors()
        ]
        detail = "; ".join(f"{e['where']} is {e['value']}: {e['what']}" for e in errors[:3])
        return _problem(422, "Out of limits", f"{detail}; see /openapi.json", errors)

    @app.exception_handler(HTTPException)
    def failed(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path[:200]}: {error.detail}; see /openapi.json"
        answer = _problem(error.status_code, str(error.detail), detail)
        answer.headers.update(error.headers or {})
        return answer
