"""The dashboard's files, served as they are: plain modules, no build step, nothing from elsewhere.

They hold nothing secret and are answered to everybody. What the page shows it asks for itself, with
the token of whoever looks at it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources

from aiohttp import web

from gateway.http.calls import Call
from gateway.http.routes import Handler, Route

FOLDER = "/dashboard/"

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A browser asks each time whether what it has is still right, so that no page outlives an upgrade.
    "Cache-Control": "no-cache",
}


def routes() -> tuple[Route, ...]:
    """Return the page at / and its files below /dashboard/, read once."""
    return tuple(_routes())


def _routes() -> Iterator[Route]:
    for file in sorted(resources.files("gateway.api").joinpath("page").iterdir(), key=lambda each: each.name):
        suffix = file.name[file.name.rfind(".") :]
        if suffix not in _KINDS:
            continue
        path = "/" if file.name == "index.html" else FOLDER + file.name
        yield Route("GET", path, _serving(file.read_bytes(), _KINDS[suffix]), is_open=True)


def _serving(content: bytes, kind: str) -> Handler:
    etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'

    async def serve(call: Call) -> web.StreamResponse:
        headers = {**HEADERS, "ETag": etag}
        if etag in call.request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers={**headers, "Content-Type": kind})

    return serve
