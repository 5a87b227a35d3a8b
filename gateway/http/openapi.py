"""The parts that OpenAPI documents are made of: operations, their answers and their problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.http.problems import CONTENT_TYPE

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}

_REASONS = {
    400: "The request is malformed; the detail names the key.",
    401: "A credential is wanted.",
    403: "Whoever asks may not.",
    404: "There is none.",
    408: "The body took too long.",
    409: "Something is in the way: `reason` says why, and `current` what.",
    412: "It is not as expected, but `current`.",
    413: "The body is too large.",
    415: "The body is of another content type.",
    421: "On loopback, the service is asked by a name of loopback.",
    422: "It cannot be so; `problems` says where, if it is more than one thing or has a place.",
    428: "A precondition is wanted.",
    429: "There are too many, or too many attempts from your address have failed; `Retry-After` says when.",
    503: "This node or its store is not there now; try again.",
}
# What any request may be answered, what one behind credentials, and what one with a body.
_ALWAYS = (400, 421, 503)
_BEHIND_CREDENTIALS = (401, 403, 429)
_WITH_BODY = (408, 413, 415)


def ref(name: str) -> Schema:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(**properties: Schema) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def operation(
    summary: str,
    answers: Mapping[int, Schema],
    *problems: int,
    body: Schema | None = None,
    needs_body: bool = True,
    parameters: list[Schema] | None = None,
    who: str = "everybody who is known",
    example: object = None,
) -> Schema:
    """What is answered to those who may ask: `who` they are, and an `example` of a body."""
    statuses = {*_ALWAYS, *_BEHIND_CREDENTIALS, *problems, *(_WITH_BODY if body is not None else ())}
    found: Schema = {
        "summary": summary,
        "description": f"For {who}.",
        "responses": _responses(answers, statuses),
    }
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        content = {"schema": body} if example is None else {"schema": body, "example": example}
        found["requestBody"] = {"required": needs_body, "content": {"application/json": content}}
    return found


def open_operation(summary: str, said: Schema, *more: int) -> Schema:
    """What is answered without a credential."""
    return {
        "summary": summary,
        "description": "For everybody, without a credential.",
        "security": [],
        "responses": _responses({200: said}, {*_ALWAYS, *more}),
    }


def says(
    description: str, schema: Schema, *, kind: str = "application/json", headers: Schema | None = None
) -> Schema:
    """An answer of one content type."""
    found: Schema = {"description": description, "content": {kind: {"schema": schema}}}
    return found if headers is None else {**found, "headers": headers}


def says_nothing(description: str) -> Schema:
    """An answer without a body."""
    return {"description": description}


def list_of(name: str) -> Schema:
    """A list of what a schema says."""
    return {"type": "array", "items": ref(name)}


def query_parameter(name: str, schema: Schema, *, description: str = "", required: bool = False) -> Schema:
    """A parameter in the query."""
    found: Schema = {"name": name, "in": "query", "schema": schema}
    if description:
        found["description"] = description
    return {**found, "required": True} if required else found


def problem(**more: Schema) -> Schema:
    """A problem as RFC 9457 has it, and what may be there more."""
    places = object_of(path=TEXT, message=TEXT)
    return {
        "type": "object",
        "properties": {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "problems": {"type": "array", "items": places},
            **more,
        },
        "required": ["type", "title", "status", "detail"],
    }


def _responses(answers: Mapping[int, Schema], problems: set[int]) -> Schema:
    said = {str(status): says for status, says in answers.items()}
    content = {CONTENT_TYPE: {"schema": ref("Problem")}}
    wrong = {str(each): {"description": _REASONS[each], "content": content} for each in sorted(problems)}
    return said | wrong
