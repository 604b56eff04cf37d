"""Serve the dashboard at /: the files that `make dashboard` built from `api/web`.

Their content security policy lets them load nothing from other hosts, and talk to none but this
one and, on a devnet, the chain's RPC address, through which test accounts act.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response

__all__ = ["add_pages"]

_FOLDER = Path(__file__).parent / "web" / "dist"

_NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tribute</title></head>
<body><h1>Tribute</h1>
<p>The API answers under <a href="/v1/status">/v1</a>; <a href="/openapi.json">/openapi.json</a>
describes it.</p>
<p>The dashboard has not been built: run <code>make dashboard</code> in the checkout, then start
<code>tribute serve</code> again.</p></body></html>
"""


def add_pages(app: FastAPI, rpc: str | None) -> None:
    """Answer every path that no route takes; `rpc` is the devnet's address, None elsewhere."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> RedirectResponse:
        return RedirectResponse("/#/api")

    if (_FOLDER / "index.html").exists():
        app.mount("/", GZipMiddleware(_Pages(_FOLDER, rpc), minimum_size=500), name="dashboard")
        return

    @app.get("/", include_in_schema=False)
    def not_built() -> HTMLResponse:
        return HTMLResponse(_NOT_BUILT)


class _Pages(StaticFiles):
    def __init__(self, folder: Path, rpc: str | None) -> None:
        super().__init__(directory=folder, html=True)
        own = "script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'"
        peers = f"'self' {rpc}" if rpc else "'self'"
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; {own}; connect-src {peers}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def get_response(self, path: str, scope: MutableMapping[str, Any]) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        # The names of built assets carry their content's hash.
        built = path.startswith("assets/")
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if built else "no-cache"
        )
        return response
