"""JSON schemas of the model's forms, from the same types that forms are read by."""

from __future__ import annotations

import ipaddress
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from policies.addresses import HIGHEST_VSID, LOWEST_VSID, Address, MacAddress, Vsid

Schema = dict[str, Any]

ADDRESS: Schema = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
MAC: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"}
PREFIX: Schema = {"type": "string", "description": "an IPv4 or IPv6 prefix, such as 10.0.1.0/24"}
VSID: Schema = {"type": "integer", "minimum": LOWEST_VSID, "maximum": HIGHEST_VSID}

_PREFIXES = (ipaddress.IPv4Network, ipaddress.IPv6Network)
_PLAIN: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
}


def form_schema(kind: Any, components: dict[str, Schema]) -> Schema:
    """Return the schema of a type's form; those of the structures in it are put among the components."""
    if kind is Vsid:
        return VSID
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        found = [form_schema(each, components) for each in typing.get_args(kind)]
        apart = [each for number, each in enumerate(found) if each not in found[:number]]
        return apart[0] if len(apart) == 1 else {"anyOf": apart}
    if origin is tuple:
        return {"type": "array", "items": form_schema(typing.get_args(kind)[0], components)}
    if issubclass(kind, msgspec.Struct):
        return _struct_schema(kind, components)
    if issubclass(kind, Enum):
        return {"type": "string", "enum": [each.value for each in kind]}
    if issubclass(kind, Address):
        return ADDRESS
    if issubclass(kind, MacAddress):
        return MAC
    return PREFIX if issubclass(kind, _PREFIXES) else {"type": "string", "format": _format(kind)}


def _format(kind: type[object]) -> str:
    if issubclass(kind, Path):
        return "path"
    raise TypeError(f"{kind.__name__} has no form")


def _struct_schema(kind: type[msgspec.Struct], components: dict[str, Schema]) -> Schema:
    name = kind.__name__
    if name not in components:
        components[name] = {}
        hints = typing.get_type_hints(kind)
        fields = msgspec.structs.fields(kind)
        properties = {each.name: form_schema(hints[each.name], components) for each in fields}
        required = [each.name for each in fields if each.required]
        tag = kind.__struct_config__.tag
        if tag is not None:
            properties = {"type": {"const": tag}, **properties}
            required = ["type", *required]
        components[name] = {
            "type": "object",
            "title": (kind.__doc__ or name).split("\n")[0],
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
    return {"$ref": f"#/components/schemas/{name}"}
