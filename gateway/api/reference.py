"""The HTTP interface's reference for people, written from its OpenAPI document."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

Schema = dict[str, Any]

_METHODS = ("get", "put", "post", "delete")
_PROBLEM = "application/problem+json"
_REF = "#/components/schemas/"
_BASE = "https://edge-1.example:7638"
_INTO_A_FILE = " -o packets.pcapng"


def reference(document: Schema) -> str:
    """Return the paths and the values of a document, as Markdown."""
    return "\n".join([*_overview(document), *_paths(document), *_values(document)]).rstrip() + "\n"


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema, Schema]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield method.upper(), path, item, item[method]


def _overview(document: Schema) -> Iterator[str]:
    yield "| call | what it is for |"
    yield "| --- | --- |"
    wrong = {}
    for method, path, _item, operation in _operations(document):
        yield f"| [`{method} {path}`](#{_anchor(f'{method} {path}')}) | {operation['summary']} |"
        for status, answer in operation["responses"].items():
            if _PROBLEM in answer.get("content", {}):
                wrong[status] = answer["description"]
    yield ""
    yield "What is wrong is said as RFC 9457 has it, in `detail` for people, and by the status:"
    yield ""
    yield "| status | |"
    yield "| --- | --- |"
    for status, words in sorted(wrong.items()):
        yield f"| {status} | {words} |"
    yield ""


def _paths(document: Schema) -> Iterator[str]:
    for method, path, item, operation in _operations(document):
        yield f"## {method} {path}"
        yield ""
        yield f"{operation['summary']} {operation['description']}"
        yield ""
        parameters = [*item.get("parameters", ()), *operation.get("parameters", ())]
        if parameters:
            yield from _parameters(parameters)
        body = operation.get("requestBody")
        if body is not None:
            content = body["content"]["application/json"]
            may = "" if body["required"] else ", which may be left out"
            yield f"Body{may}: {_kind(content['schema'])}."
            yield ""
            if content["schema"].get("properties"):
                yield from _fields(content["schema"])
        yield from _answers(operation["responses"])
        yield from _example(method, path, parameters, operation)


def _parameters(parameters: list[Schema]) -> Iterator[str]:
    yield "| parameter | in | kind | meaning |"
    yield "| --- | --- | --- | --- |"
    for each in parameters:
        must = ", must be there" if each.get("required") and each["in"] == "query" else ""
        meaning = each.get("description", "")
        default = each["schema"].get("default")
        unless = f"; `{msgspec.json.encode(default).decode()}` unless given" if default else ""
        kind = f"{_kind(each['schema'])}{unless}"
        yield f"| `{each['name']}` | {each['in']}{must} | {kind} | {_cell(meaning)} |"
    yield ""


def _answers(responses: Schema) -> Iterator[str]:
    problems = []
    for status, answer in responses.items():
        content = answer.get("content", {})
        if _PROBLEM in content:
            problems.append(status)
            continue
        kinds = [
            f"`{kind}`{'' if kind != 'application/json' else ': ' + _kind(each['schema'])}"
            for kind, each in content.items()
        ]
        yield f"{status}: {answer['description']}{' ' + ', or '.join(kinds) + '.' if kinds else ''}"
        yield ""
    yield f"Problems: {', '.join(problems)}."
    yield ""


def _example(method: str, path: str, parameters: list[Schema], operation: Schema) -> Iterator[str]:
    for each in parameters:
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", str(each["example"]))
    query = "&".join(
        f"{each['name']}={msgspec.json.encode(each['example']).decode().strip(chr(34))}"
        for each in parameters
        if each["in"] == "query" and "example" in each
    )
    url = shlex.quote(f"{_BASE}{path}?{query}") if query else f"{_BASE}{path}"
    words = ["curl", "-s"]
    if operation.get("security") != []:
        words += ["-H", '"Authorization: Bearer $TOKEN"']
    if method != "GET":
        words += ["-X", method]
    words += [
        "-H 'If-Match: *'"
        for each in parameters
        if each["name"] == "If-Match" and method in {"PUT", "DELETE"}
    ]
    example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    if example is not None:
        text = msgspec.json.format(msgspec.json.encode(example), indent=0).decode()
        words += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(text)]
    yield "```sh"
    yield f"{' '.join(words)} {url}{_INTO_A_FILE if path == '/v1/capture' else ''}"
    yield "```"
    yield ""


def _values(document: Schema) -> Iterator[str]:
    yield "## Values"
    yield ""
    yield "What the names above are."
    yield ""
    for name, schema in sorted(document["components"]["schemas"].items(), key=lambda each: _name(each[0])):
        yield f"### {_name(name)}"
        yield ""
        if about := schema.get("description") or schema.get("title", ""):
            yield about if about.endswith(".") else f"{about}."
            yield ""
        if "properties" in schema:
            yield from _fields(schema)
        else:
            yield f"{_kind(schema)[:1].upper()}{_kind(schema)[1:]}."
            yield ""


def _fields(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    has_meanings = any("description" in each for each in schema["properties"].values())
    yield "| key | kind | default |" + (" meaning |" if has_meanings else "")
    yield "| --- | --- | --- |" + (" --- |" if has_meanings else "")
    for name, each in schema["properties"].items():
        plain = {key: value for key, value in each.items() if key != "description"}
        default = _default(each) if name not in required else ""
        meaning = f" {_cell(each.get('description', ''))} |" if has_meanings else ""
        yield f"| `{name}` | {_kind(plain)} | {default} |{meaning}"
    yield ""


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "none"
    return f"`{msgspec.json.encode(schema['default']).decode()}`"


def _kind(schema: Schema) -> str:
    """Return what a value is, in words, with links to those that have a name."""
    if "$ref" in schema:
        name = _name(schema["$ref"].removeprefix(_REF))
        return f"[{name}](#{_anchor(name)})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    for key, word in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " with ")):
        if key in schema:
            formats = [each["format"] for each in schema[key] if each.keys() == {"format"}]
            if formats:
                return f"text: {' or '.join(formats)}"
            return word.join(_kind(each) for each in schema[key])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(_kind({"type": each}) for each in kind)
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(more := schema.get("additionalProperties"), dict):
        return f"{_kind(more)} by name"
    if kind == "object" and schema.get("properties") and "description" not in schema:
        return "an object" if len(schema["properties"]) > 5 else f"an object of {_listed(schema)}"
    return _PLAIN.get(str(kind), "anything") + _bounds(schema)


_PLAIN = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
}


def _listed(schema: Schema) -> str:
    return ", ".join(f"`{name}` ({_kind(each)})" for name, each in schema["properties"].items())


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    if high is None or high >= (1 << 63) - 1:
        return f" from {low}"
    return f" up to {high}" if low is None else f" from {low} to {high}"


def _name(name: str) -> str:
    """The operating interface's schemas have a prefix, since two services have names in common."""
    prefix, dot, rest = name.partition(".")
    return f"{rest} ({prefix})" if dot else prefix


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = (each for each in heading.lower() if each.isalnum() or each in " -_")
    return "".join(kept).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
