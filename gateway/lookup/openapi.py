"""The OpenAPI document of the HTTP interface, from the definitions that the handlers read by."""

from __future__ import annotations

import msgspec


def document() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(
        {"openapi": "3.1.0", "info": {"title": "Isthmus lookup service", "version": "1"}, "paths": {}}
    )
