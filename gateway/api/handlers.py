"""Answers what is asked of the appliance by HTTP."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from gateway.api.operating import Operating, Written, asker_of, told
from gateway.api.streams import Lines, follow
from gateway.api.table import Form, Operation
from gateway.http.calls import Call, answer
from gateway.http.problems import HttpProblem
from gateway.http.routes import Handler
from gateway.lookup.forms import form
from gateway.sites.status import SiteStatus
from policies.services import Role

LONGEST_FRAME = 65_535 + 14
"""In octets."""

_LENGTH = re.compile(r"[0-9]{1,5}")
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def handler_of(operating: Operating, operation: Operation) -> Handler:
    """Return what answers an operation."""
    answering = _ANSWERING.get(operation.path, _by_command)

    async def answered(call: Call) -> web.StreamResponse:
        if call.principal.role is Role.HOST and not operation.for_hosts:
            raise HttpProblem(403, f"{call.principal.name} is a host, and this is for those who operate")
        return await answering(operating, operation, call)

    return answered


async def _by_command(operating: Operating, operation: Operation, call: Call) -> web.StreamResponse:
    arguments = await _arguments(operating, operation, call)
    if operation.form is Form.CAPTURE:
        return await follow(operating, operation, call, arguments, _capture_file(operating, arguments))
    if operation.form is Form.LINES and _wants_more(arguments):
        return await follow(operating, operation, call, arguments, Lines())
    if operation.form is Form.LINES:
        return _json(await told(_list(operating, operation, call, arguments)))
    return _json(await _ask(operating, operation, call, arguments))


async def _status(operating: Operating, operation: Operation, call: Call) -> web.StreamResponse:
    call.query()
    status = msgspec.to_builtins(await _ask(operating, operation, call, {}))
    if operating.beside is not None:
        status |= operating.beside.status(call.principal)
    return _json(status)


async def _sites(operating: Operating, operation: Operation, call: Call) -> web.StreamResponse:
    call.query()
    network = operating.network(call.principal)
    dialled: list[SiteStatus] = await _ask(operating, operation, call, {})
    known = {(site.tenant, site.site): site for site in dialled}
    return _json(
        [
            {"tenant": tenant.name, **form(site), "status": known.get((tenant.name, site.name))}
            for tenant in network.tenants
            for site in tenant.sites
        ]
    )


_ANSWERING: dict[str, Callable[[Operating, Operation, Call], Awaitable[web.StreamResponse]]] = {
    "/v1/status": _status,
    "/v1/sites": _sites,
}


async def _ask(operating: Operating, operation: Operation, call: Call, arguments: dict[str, Any]) -> Any:
    return await told(operating.asking.ask(asker_of(call.principal), operation.command, arguments))


async def _list(
    operating: Operating, operation: Operation, call: Call, arguments: dict[str, Any]
) -> list[Any]:
    asked = operating.asking.follow(asker_of(call.principal), operation.command, arguments)
    return [thing async for things in asked for thing in things]


async def _arguments(operating: Operating, operation: Operation, call: Call) -> dict[str, Any]:
    known = [name for name in _fields(operating, operation) if name not in operation.hidden]
    if operation.method == "GET":
        return dict(call.query(*known))
    if not call.request.body_exists or (not known and not call.request.headers.get("Content-Type")):
        return {}
    arguments = await call.body(_OBJECT)
    for name in arguments:
        if name in operation.hidden:
            raise HttpProblem(400, f"body: {name} is not taken by HTTP")
    return arguments


def _fields(operating: Operating, operation: Operation) -> list[str]:
    fields = msgspec.structs.fields(operating.commands[operation.command].arguments)
    return [field.encode_name for field in fields]


def _wants_more(arguments: dict[str, Any]) -> bool:
    return str(arguments.get("follow", "false")).lower() in {"true", "1"}


def _capture_file(operating: Operating, arguments: dict[str, Any]) -> Written:
    snaplen = str(arguments.get("snaplen", ""))
    return operating.capture_file(int(snaplen) if _LENGTH.fullmatch(snaplen) else LONGEST_FRAME)


def _json(value: Any) -> web.Response:
    return answer(msgspec.json.encode(value))
