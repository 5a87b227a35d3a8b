"""Paths of a service, and what its OpenAPI document says of them; several may share a listener."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from gateway.http.calls import Call, answer
from gateway.http.openapi import Schema
from gateway.http.routes import Route


class Interface(msgspec.Struct, frozen=True, eq=False):
    """Paths with their handlers, and their part of the OpenAPI document."""

    routes: tuple[Route, ...]
    paths: Schema
    schemas: Schema
    leaving: Callable[[], None] = lambda: None
    """Called when no further request is taken, so that what never ends by itself may end."""


def joined(title: str, *interfaces: Interface) -> tuple[Route, ...]:
    """Return the paths of all, and that of their document. What a later one has, too, is its own."""
    content = document(title, *interfaces)

    async def get_openapi(_call: Call) -> web.StreamResponse:
        return answer(content)

    routes = [route for interface in interfaces for route in interface.routes]
    return (*routes, Route("GET", "/openapi.json", get_openapi, is_open=True))


def document(title: str, *interfaces: Interface) -> bytes:
    """Return the OpenAPI document of some interfaces, as JSON. Of schemas with one name the first counts."""
    paths: Schema = {}
    schemas: Schema = {}
    for interface in interfaces:
        for path, item in interface.paths.items():
            paths[path] = {**paths.get(path, {}), **item}
        schemas = interface.schemas | schemas
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": title, "version": "1"},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}, {}],
        }
    )
