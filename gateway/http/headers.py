"""What every answer says to browsers."""

from __future__ import annotations

from aiohttp import web

# What a browser may do with our answers: nothing but show them. What is a page says its own.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "isthmus",
}


def protect(response: web.StreamResponse) -> None:
    """Say what a browser may do with an answer, unless that says so itself."""
    headers = response.headers
    if "Server" in headers:
        return  # it was made with all of them
    for name, value in SAFE_HEADERS.items():
        if name not in headers:
            headers[name] = value
