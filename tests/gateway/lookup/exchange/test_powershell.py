"""Records as a script for Windows. There is none here: what is checked is what PowerShell documents."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.lookup.exchange import powershell
from policies.errors import ConfigurationError
from policies.model import LookupRecord, Network, ProviderHost, Translation
from tests.gateway.lookup.serving import DB, NETWORK, WEB, ca, mac, pa

RDIDS = {
    "red": "11111111-2222-3333-4444-000000005001",
    "blue": "{11111111-2222-3333-4444-000000006001}",
}
RED = "'{11111111-2222-3333-4444-000000005001}'"
RECORD = LookupRecord(WEB, ca("10.0.1.5"), mac(0x105), pa("198.51.100.11"), "hv1", epoch=3)


def script(*records: LookupRecord, network: Network = NETWORK, rdids: Mapping[str, str] = RDIDS) -> list[str]:
    found = powershell.routing_domains(network, rdids)
    return "".join(powershell.lines(network, records, found, revision=9)).split("\r\n")


def spoken(expression: str) -> str:
    """What PowerShell makes of an expression that `quoted` returns: an independent, small reader of it."""
    found = ""
    rest = expression.removeprefix("(").removesuffix(")") if expression.startswith("(") else expression
    while rest:
        if quote := re.match(r"'((?:[^']|'')*)'", rest):
            found += quote[1].replace("''", "'")
        elif quote := re.match(r"\[char\]0x([0-9A-F]{4})(?![0-9A-F])", rest):
            found += chr(int(quote[1], 16))
        else:
            raise AssertionError(f"PowerShell would take {rest!r} for code")
        rest = rest[quote.end() :]
        if rest:
            assert rest.startswith(" + ")
            rest = rest[3:]
    return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def test_a_record_says_what_the_command_wants() -> None:
    assert script(RECORD)[-2] == (
        "New-NetVirtualizationLookupRecord -CustomerAddress '10.0.1.5' -VirtualSubnetID 5001"
        " -MACAddress '020000000105' -ProviderAddress '198.51.100.11' -Rule 'TranslationMethodEncap'"
        f" -CustomerID {RED} -Context 'host hv1' -VMName 'red/10.0.1.5'"
    )


def test_a_rewritten_record_has_its_own_provider_address_and_its_host_gets_that_too() -> None:
    rewritten = msgspec.structs.replace(
        RECORD, pa=pa("198.51.100.130"), translation=Translation.REWRITE, host="o'hv"
    )

    assert script(rewritten)[-3:-1] == [
        (
            "New-NetVirtualizationLookupRecord -CustomerAddress '10.0.1.5' -VirtualSubnetID 5001"
            " -MACAddress '020000000105' -ProviderAddress '198.51.100.130' -Rule 'TranslationMethodNat'"
            f" -CustomerID {RED} -Context 'host o''hv' -VMName 'red/10.0.1.5'"
        ),
        "if ($HostName -eq 'o''hv') { Add-ProviderAddress '198.51.100.130' }",
    ]


def test_what_a_rewritten_subnet_cannot_reach_by_a_script_is_said() -> None:
    red, blue = NETWORK.tenants
    web = msgspec.structs.replace(red.subnets[0], translation=Translation.REWRITE)
    changed = msgspec.structs.replace(red, subnets=(web, *red.subnets[1:]))
    lines = script(RECORD, network=msgspec.structs.replace(NETWORK, tenants=(changed, blue)))

    wildcards = [line for line in lines if line.endswith("-Type 'GatewayWildcard'")]
    assert "# VMs of web are rewritten, and reach each other alone: no sites, no encapsulated VMs." in lines
    assert not any(" -VirtualSubnetID 5001 " in line for line in wildcards)
    (site,) = [line for line in lines if "172.16.0.0/16" in line]
    assert "-VirtualSubnetID 5002 " in site
    assert "-NextHop '10.0.2.1' " in site


def test_every_prefix_of_a_virtual_subnet_is_on_its_link() -> None:
    route = f"New-NetVirtualizationCustomerRoute -RoutingDomainID {RED} -VirtualSubnetID 5001"
    lines = script()
    assert f"{route} -DestinationPrefix '10.0.1.0/24' -NextHop '0.0.0.0' -Metric 255" in lines
    assert f"{route} -DestinationPrefix 'fd00:1::/64' -NextHop '::' -Metric 255" in lines


def test_what_has_no_record_is_at_the_gateway() -> None:
    wildcards = [line for line in script() if line.endswith("-Type 'GatewayWildcard'")]
    assert [
        re.findall(r"-CustomerAddress '([^']*)' -VirtualSubnetID (\d+)", line)[0] for line in wildcards
    ] == [
        ("0.0.0.0", "5001"),
        ("::", "5001"),
        ("0.0.0.0", "5002"),
        ("0.0.0.0", "6001"),
    ]
    assert all("-MACAddress '026973" in line and "'192.0.2.254'" in line for line in wildcards)


def test_a_site_is_reached_through_the_gateways_address() -> None:
    (route,) = [line for line in script() if "172.16.0.0/16" in line]
    assert route.endswith(
        "-VirtualSubnetID 5001 -DestinationPrefix '172.16.0.0/16' -NextHop '10.0.1.1' -Metric 255"
    )
    assert any("-CustomerAddress '10.0.1.1' -VirtualSubnetID 5001" in line for line in script())


def test_provider_addresses_are_of_the_host_that_runs_the_script() -> None:
    lines = script()
    assert "    'hv2' = @('198.51.100.12', '2001:db8::12')" in lines
    assert any(line.startswith("    New-NetVirtualizationProviderAddress -InterfaceIndex ") for line in lines)
    assert "foreach ($Address in $ProviderAddresses[$HostName]) { Add-ProviderAddress $Address }" in lines


def test_it_says_first_that_nobody_has_tried_it() -> None:
    assert any(line.startswith("# UNTESTED") for line in script()[:6])


def test_a_record_of_a_tenant_that_is_not_asked_for_is_left_out() -> None:
    red = msgspec.structs.replace(NETWORK, tenants=NETWORK.tenants[:1])
    blue = msgspec.structs.replace(RECORD, vsid=6001)
    lines = script(RECORD, blue, network=red, rdids={"red": RDIDS["red"]})
    assert not any("6001" in line for line in lines)


@pytest.mark.parametrize(
    ("rdids", "told"),
    [
        ({}, 'tenant red: has no rdid: write rdid = "..." in its [[tenant]], or give --rdid NAME=GUID'),
        ({"red": "x"}, "tenant red: the rdid 'x' is no GUID"),
        ({**RDIDS, "blue": RDIDS["red"]}, f"tenant blue: its rdid {RDIDS['red']} is red's too"),
        ({**RDIDS, "grue": RDIDS["red"]}, "--rdid: there is no tenant grue"),
    ],
)
def test_a_routing_domain_is_never_made_up(rdids: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        powershell.routing_domains(NETWORK, rdids)
    assert told in [str(problem) for problem in raised.value.problems]


@given(st.text(max_size=40))
@example("'; Remove-Item C:\\ -Recurse; '")
@example("\u2018; Stop-Computer; \u2019\u201a\u201b")  # PowerShell takes these for plain quotation marks
@example(
    "\u0112; Stop-Computer; #"
)  # C4 92 in UTF-8, whose second octet is one in Windows' western code page
@example("a\r\nStop-Computer")
@example("$(Stop-Computer)`n")
@example("\U0001f600")
def test_no_name_is_taken_for_code(name: str) -> None:
    expression = powershell.quoted(name)
    assert expression.isascii()
    assert expression.isprintable()
    assert spoken(expression).encode("utf-16", "surrogatepass") == name.encode("utf-16", "surrogatepass")


@given(st.text(min_size=1, max_size=40).filter(str.isprintable))
def test_hostile_names_leave_the_scripts_lines_as_they_are(name: str) -> None:
    host = ProviderHost(name, (pa("198.51.100.11"),), ("red",))
    network = msgspec.structs.replace(NETWORK, hosts=(host,))
    hostile = script(msgspec.structs.replace(RECORD, host=name), network=network)
    assert len(hostile) == len(script(RECORD)) - 2
    assert all(line.isascii() and line.isprintable() for line in hostile)


def test_a_name_with_a_line_end_is_refused_before_the_first_line() -> None:
    host = ProviderHost("hv1\nStop-Computer", (pa("198.51.100.11"),), ("red",))
    network = msgspec.structs.replace(NETWORK, hosts=(host,))
    with pytest.raises(ConfigurationError, match="is for no script"):
        script(RECORD, network=network)


def test_a_route_without_a_next_hop_is_said_to_lead_nowhere() -> None:
    tenants = tuple(msgspec.structs.replace(tenant, gateways=("gone",)) for tenant in NETWORK.tenants)
    lines = script(network=msgspec.structs.replace(NETWORK, tenants=tenants))
    assert "# It has no gateway that is known: its sites cannot be reached." in lines
    assert not any("172.16" in line or "GatewayWildcard" in line for line in lines)
    assert DB == 5002
