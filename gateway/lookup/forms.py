"""Entries as JSON: what stores keep, what the HTTP interface says, and what a node writes down.

A value's form has the names of the model's fields; addresses, prefixes and paths are text.
"""

from __future__ import annotations

import ipaddress
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from gateway.lookup.entries import Grant, Kind, Placement, Value
from policies.addresses import HIGHEST_VSID, LOWEST_VSID, Address, MacAddress, Vsid
from policies.model import ProviderGateway, ProviderHost, Tenant

T = TypeVar("T")

VALUE_TYPES: dict[Kind, type[Value]] = {
    Kind.RECORD: Placement,
    Kind.TENANT: Tenant,
    Kind.HOST: ProviderHost,
    Kind.GATEWAY: ProviderGateway,
    Kind.LEASE: Grant,
}

_TEXTUAL = (Address, MacAddress)
_PREFIXES = (ipaddress.IPv4Network, ipaddress.IPv6Network)


class Malformed(ValueError):
    """A form that is none of the kind that it should be. The message names the key's path."""


def form(value: object) -> Any:
    """Return a value of the model as what JSON has: dictionaries, lists, text and numbers.

    Fields that are as they would be anyway are left out.
    """
    if isinstance(value, msgspec.Struct):
        found = {
            name: form(actual)
            for name, default in _defaults(type(value))
            if (actual := getattr(value, name)) != default
        }
        tag = type(value).__struct_config__.tag
        return found if tag is None else {"type": tag, **found}
    if isinstance(value, tuple | list):
        return [form(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (*_TEXTUAL, *_PREFIXES, Path)):
        return str(value)
    return value


def read(kind: type[T], found: object, path: str = "") -> T:
    """Return the value of a form from anywhere. Raises Malformed."""
    return cast("T", _read(kind, found, path))


def _read(kind: Any, found: object, path: str) -> object:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(kind), found, path)
    if origin is tuple:
        if not isinstance(found, list):
            raise Malformed(f"{path}: a list is wanted")
        inner = typing.get_args(kind)[0]
        return tuple(_read(inner, each, f"{path}[{number}]") for number, each in enumerate(found))
    if kind is Vsid:
        return _read_vsid(found, path)
    if issubclass(kind, msgspec.Struct):
        return _read_struct(kind, found, path)
    if issubclass(kind, Enum | Path | MacAddress | Address | ipaddress.IPv4Network | ipaddress.IPv6Network):
        return _read_text(kind, found, path)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    if type(found) is not kind:
        raise Malformed(f"{path}: {kind.__name__} is wanted")
    return found


def _read_text(kind: Any, found: object, path: str) -> object:
    if not isinstance(found, str):
        raise Malformed(f"{path}: text is wanted")
    try:
        return kind.parse(found) if issubclass(kind, _TEXTUAL) else kind(found)
    except ValueError as error:
        raise Malformed(f"{path}: {error}") from None


def _read_vsid(found: object, path: str) -> Vsid:
    if type(found) is not int or not LOWEST_VSID <= found <= HIGHEST_VSID:
        raise Malformed(f"{path}: a number from {LOWEST_VSID} to {HIGHEST_VSID} is wanted")
    return Vsid(found)


def _read_struct(kind: type[msgspec.Struct], found: object, path: str) -> object:
    if not isinstance(found, dict):
        raise Malformed(f"{path}: an object is wanted")
    wanted = _fields(kind)
    given = found.keys() - {"type"} if kind.__struct_config__.tag is not None else found.keys()
    if unknown := sorted(given - wanted.keys()):
        raise Malformed(f"{path}.{unknown[0]}: is unknown")
    values = {}
    for name, (inner, is_required) in wanted.items():
        if name in found:
            values[name] = _read(inner, found[name], f"{path}.{name}")
        elif is_required:
            raise Malformed(f"{path}.{name}: is missing")
    return kind(**values)


def _read_union(kinds: tuple[Any, ...], found: object, path: str) -> object:
    if found is None and types.NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not types.NoneType]
    if isinstance(found, dict) and len(rest) > 1:
        for kind in rest:
            if kind.__struct_config__.tag == found.get("type"):
                return _read_struct(kind, found, path)
        raise Malformed(f"{path}.type: is unknown")
    reasons = []
    for kind in rest:
        try:
            return _read(kind, found, path)
        except Malformed as error:
            reasons.append(error)
    raise reasons[0]


@cache
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, object], ...]:
    """What each field is unless it is said."""
    return tuple((each.name, each.default) for each in msgspec.structs.fields(kind))


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it has to be given."""
    hints = typing.get_type_hints(kind)
    return {each.name: (hints[each.name], each.required) for each in msgspec.structs.fields(kind)}
