"""The operating interface's part of the OpenAPI document, from the commands' own types."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from gateway.api.table import OPERATIONS, Form, Operation
from gateway.http.openapi import (
    TEXT,
    Schema,
    object_of,
    open_operation,
    operation,
    problem,
    query_parameter,
    ref,
    says,
)
from gateway.http.openapi_forms import form_schema
from gateway.operating.commands import Command, Commands
from policies.model import Tenant

# The names of others' schemas may be the same.
_PREFIX = "api."
_READERS = "operators, and for readers of what is their tenants'"
_TEMPLATE = f"#/components/schemas/{_PREFIX}{{name}}"


def described(commands: Commands, *, is_beside: bool) -> tuple[Schema, Schema]:
    """Return the paths of those commands that there are, and the schemas that they refer to.

    `is_beside`: the lookup service is asked at the same listener, and says how it is, too.
    """
    there = [each for each in OPERATIONS if each.command in commands]
    types = [kind for each in there for kind in (_answer_type(commands, each), _arguments(commands, each))]
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    found: Schema = {f"{_PREFIX}{name}": schema for name, schema in components.items()}
    found["Problem"] = problem()
    tenant = form_schema(Tenant, found)
    paths: Schema = {}
    for number, each in enumerate(there):
        answered, wanted = schemas[2 * number : 2 * number + 2]
        item = paths.setdefault(each.path, {})
        content = _SHAPES.get(each.path, _as_it_is)(answered, found, is_beside)
        who = _who(each, commands)
        item[each.method.lower()] = _operation(each, who, content, _resolved(wanted, components))
    return paths | _OTHER_PATHS | ({} if is_beside else _own_paths(tenant)), found


def _operation(each: Operation, who: str, answered: Schema, wanted: Schema) -> Schema:
    fields = {name: schema for name, schema in wanted["properties"].items() if name not in each.hidden}
    required = wanted.get("required", [])
    answers = {200: _answer(each, answered)}
    if each.method == "GET":
        parameters = [
            {
                **query_parameter(
                    name, _plain(schema), description=each.about.get(name, ""), required=name in required
                ),
                **({"example": each.example[name]} if name in each.example else {}),
            }
            for name, schema in fields.items()
        ]
        return operation(each.summary, answers, 422, parameters=parameters, who=who)
    described = {
        name: {**schema, "description": each.about[name]} if name in each.about else schema
        for name, schema in fields.items()
    }
    body: Schema = {"type": "object", "properties": described, "additionalProperties": False}
    if required:
        body["required"] = required
    return operation(
        each.summary,
        answers,
        422,
        body=body,
        needs_body=bool(required),
        who=who,
        example=each.example or None,
    )


def _who(each: Operation, commands: Commands) -> str:
    if commands[each.command].for_operators:
        return "operators"
    return f"{_READERS}, and for hosts and gateways" if each.for_hosts else _READERS


def _answer(each: Operation, schema: Schema) -> Schema:
    if each.form is Form.CAPTURE:
        return says(each.says, {"type": "string", "format": "binary"}, kind=each.form.value)
    if each.form is Form.LINES:
        found = says(each.says, {"type": "array", "items": schema})
        found["content"][each.form.value] = {"schema": TEXT}
        return found
    return says(each.says, schema)


def _answer_type(commands: Commands, each: Operation) -> Any:
    command = commands[each.command]
    if isinstance(command, Command):
        return typing.get_type_hints(command.answer).get("return", Any)
    return command.told


def _arguments(commands: Commands, each: Operation) -> Any:
    return commands[each.command].arguments


def _resolved(schema: Schema, components: Schema) -> Schema:
    name = schema["$ref"].removeprefix(_TEMPLATE.format(name=""))
    found: Schema = components[name]
    return found


def _plain(schema: Schema) -> Schema:
    """What may stand in a query, where nothing is null."""
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    plain = {key: value for key, value in schema.items() if value is not None}
    if not kinds:
        return plain
    del plain["anyOf"]
    return {**plain, **kinds[0]} if len(kinds) == 1 else {**plain, "anyOf": kinds}


def _as_it_is(answered: Schema, _components: Schema, _is_beside: bool) -> Schema:
    return answered


def _status(answered: Schema, _components: Schema, is_beside: bool) -> Schema:
    return {"allOf": [answered, ref("Status")]} if is_beside else answered


def _sites(_answered: Schema, components: Schema, _is_beside: bool) -> Schema:
    site = components["Site"]
    status = {"anyOf": [ref(f"{_PREFIX}SiteStatus"), {"type": "null"}]}
    components[f"{_PREFIX}Site"] = {
        **site,
        "properties": {"tenant": TEXT, **site["properties"], "status": status},
        "required": ["tenant", *site["required"], "status"],
    }
    return {"type": "array", "items": ref(f"{_PREFIX}Site")}


_SHAPES = {"/v1/status": _status, "/v1/sites": _sites}


_OTHER_PATHS = {
    "/metrics": {
        "get": operation(
            "Read the metrics, for Prometheus.",
            {
                200: {
                    "description": "Prometheus' text, or OpenMetrics if that is accepted.",
                    "content": {
                        "text/plain": {"schema": TEXT},
                        "application/openmetrics-text": {"schema": TEXT},
                    },
                }
            },
            who=_READERS,
        )
    },
    "/": {
        "get": open_operation(
            "Open the dashboard, which asks for a token.", says("A page.", TEXT, kind="text/html")
        )
    },
}


def _own_paths(tenant: Schema) -> Schema:
    """What a lookup node has paths of its own for."""
    state = object_of(status=TEXT)
    tenants = says("Tenants.", {"type": "array", "items": tenant})
    return {
        "/v1/tenants": {"get": operation("Read the tenants.", {200: tenants}, who=_READERS)},
        "/healthz": {"get": open_operation("Ask whether this node is alive.", says("It is.", state))},
        "/readyz": {"get": open_operation("Ask whether this node is ready.", says("It is.", state))},
        "/openapi.json": {
            "get": open_operation("Read this document.", says("OpenAPI 3.1.", {"type": "object"}))
        },
    }
