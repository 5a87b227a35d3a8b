"""Every value of the model comes back from JSON as it was; anything else is malformed, and it says where."""

from __future__ import annotations

import ipaddress
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from gateway.lookup import forms
from gateway.lookup.entries import Kind, Placement
from policies.addresses import HIGHEST_VSID, LOWEST_VSID, Address, MacAddress, ProviderAddress, Vsid
from policies.model import ProviderGateway, ProviderHost, Tenant

_octets = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(codec="utf-8"), max_size=5),
    bool: st.booleans(),
    int: st.integers(0, 1 << 53),
    float: st.floats(0, 1e12, allow_nan=False),
    Path: st.sampled_from((Path("/etc/isthmus/a.psk"), Path("b"))),
    MacAddress: st.binary(min_size=6, max_size=6).map(MacAddress),
    ipaddress.IPv4Network: st.sampled_from(("0.0.0.0/0", "10.0.0.0/8", "10.0.1.5/32")).map(
        ipaddress.IPv4Network
    ),
    ipaddress.IPv6Network: st.sampled_from(("::/0", "fd00::/64", "fd00::5/128")).map(ipaddress.IPv6Network),
    types.NoneType: st.none(),
    Vsid: st.integers(LOWEST_VSID, HIGHEST_VSID),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model, with every field drawn."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, typing.get_args(kind)))
    if origin is tuple:
        return st.lists(values_of(typing.get_args(kind)[0]), max_size=2).map(tuple)
    if issubclass(kind, Address):
        return _octets.map(kind)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    hints = typing.get_type_hints(kind)
    fields = {field.name: values_of(hints[field.name]) for field in msgspec.structs.fields(kind)}
    return st.fixed_dictionaries(fields).map(lambda drawn: kind(**drawn))


@pytest.mark.parametrize("kind", forms.VALUE_TYPES.values())
def test_any_value_comes_back_from_json_as_it_was(kind: type[Any]) -> None:
    @hypothesis.given(values_of(kind))
    def check(value: Any) -> None:
        text = msgspec.json.encode(forms.form(value))
        assert forms.read(kind, msgspec.json.decode(text)) == value

    check()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("name", "gateways", "subnets", "sites", "type", "mac", "pa", "host", "vsid")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@hypothesis.given(st.sampled_from(list(Kind)), _json)
def test_anything_else_is_malformed_and_nothing_worse(kind: Kind, found: object) -> None:
    try:
        value = forms.read(forms.VALUE_TYPES[kind], found)
    except forms.Malformed:
        return
    assert type(value) is forms.VALUE_TYPES[kind]


def test_form_leaves_out_what_is_as_it_would_be_anyway() -> None:
    placement = Placement(MacAddress(bytes(6)), ProviderAddress.parse("198.51.100.11"), "hv1", pinned=True)
    assert forms.form(placement) == {
        "mac": "00:00:00:00:00:00",
        "pa": "198.51.100.11",
        "host": "hv1",
        "pinned": True,
    }
    assert forms.form(ProviderGateway("edge-1", ())) == {"name": "edge-1", "provider_addresses": []}


SUBNET = {"name": "web", "vsid": 5001, "prefixes": ["10.0.1.0/24"], "gateway_addresses": []}


@pytest.mark.parametrize(
    ("kind", "found", "message"),
    [
        (ProviderHost, [], ": an object is wanted"),
        (ProviderHost, {"provider_addresses": [], "tenants": []}, ".name: is missing"),
        (
            ProviderHost,
            {"name": "hv1", "provider_addresses": [], "tenants": [], "a": 1, "b": 2},
            ".a: is unknown",
        ),
        (ProviderHost, {"name": 7, "provider_addresses": [], "tenants": []}, ".name: str is wanted"),
        (
            ProviderHost,
            {"name": "hv1", "provider_addresses": "x", "tenants": []},
            ".provider_addresses: a list",
        ),
        (
            ProviderHost,
            {"name": "hv1", "provider_addresses": ["198.51.100.1", "hv1"], "tenants": []},
            ".provider_addresses[1]: 'hv1' does not appear to be an IPv4 or IPv6 address",
        ),
        (
            ProviderHost,
            {"name": "hv1", "provider_addresses": [], "tenants": [], "flow_id": "none"},
            ".flow_id: 'none' is not a valid FlowIdMode",
        ),
        (
            Tenant,
            {"name": "red", "gateways": [], "subnets": [SUBNET | {"vsid": 4095}]},
            ".subnets[0].vsid: a number from 4096 to 16777214 is wanted",
        ),
        (Tenant, {"name": "red", "gateways": [], "subnets": [SUBNET | {"vsid": True}]}, ".vsid: a number"),
        (Tenant, {"name": "red", "gateways": [], "subnets": [SUBNET | {"dhcp": 1}]}, ".dhcp: bool is wanted"),
        (
            Tenant,
            {"name": "red", "gateways": [], "subnets": [SUBNET | {"prefixes": ["10.0.1.5/24"]}]},
            ".subnets[0].prefixes[0]: ",
        ),
        (
            Tenant,
            {
                "name": "red",
                "gateways": [],
                "subnets": [],
                "routes": [{"prefix": "::/0", "next_hop": {"type": "x"}}],
            },
            ".routes[0].next_hop.type: is unknown",
        ),
    ],
)
def test_malformed_form_says_where_and_what_is_wanted(kind: type[Any], found: object, message: str) -> None:
    with pytest.raises(forms.Malformed) as refusal:
        forms.read(kind, found)
    assert message in str(refusal.value)
