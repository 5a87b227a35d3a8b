"""What is said of two configurations that differ."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.changes.consequences import Turn
from gateway.changes.difference import Difference, authenticated_again, differences
from gateway.sites.policies import Keyring, peer_policies
from policies.addresses import MacAddress, Prefix, ProviderAddress, Vsid
from policies.config import parse
from policies.ipsec import COMPATIBLE_IKE, Lifetimes, SelectorMode, SiteStart
from policies.model import (
    AccessRule,
    Action,
    Appliance,
    CustomerRoute,
    Endpoint,
    Limits,
    PortRange,
    SiteHop,
    SubnetHop,
    Translation,
)
from policies.services import LookupAccess
from tests.configurations import (
    DB,
    RED,
    edge_1,
    host_port,
    provider_host,
    record,
    site,
    subnet,
    table,
    tenant,
    token,
)

CONFIGURATION = (
    edge_1()
    + "[lookup]\n"
    + token("lookup", "ops", "operator")
    + table("[host]", name="hv1")
    + host_port()
    + provider_host("hv1", "192.0.2.254")
    + provider_host("hv2", "198.51.100.12", "red", "blue")
    + RED
    + DB
    + record("10.0.2.6", "02:00:00:00:02:06", "hv2")
    + site("seattle")
    + site("tacoma", "172.17.0.0/16", "any")
    + table("[[tenant.route]]", prefix="10.0.2.77/32", via="site:seattle")
    + """
[[tenant.access]]
name = "web in"
action = "allow"
from = "site:seattle"
to = "subnet:web"
protocol = "tcp"
ports = [80, "8000-8010"]
[[tenant.access]]
name = "all out"
action = "allow"
from = "subnet:web"
"""
    + tenant("blue")
    + table("[tenant.limits]", rate="10 Mbit/s")
    + subnet("web", 6001, "10.0.1.0/24")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("seattle", "tacoma", "lyon"):
        (folder / f"{name}.psk").write_text(f"the secret of {name}")
    return folder


def read(folder: Path, *changes: tuple[str, str]) -> Appliance:
    text = CONFIGURATION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse(text, base=folder)


def told(folder: Path, *changes: tuple[str, str]) -> list[Difference]:
    before, after = read(folder), read(folder, *changes)
    return differences(before, after, peer_policies(before), peer_policies(after))


def one(folder: Path, *changes: tuple[str, str]) -> Difference:
    (found,) = told(folder, *changes)
    return found


def test_equal_configurations_have_no_difference(files: Path) -> None:
    assert told(files) == []


def test_another_peer_is_told_with_both_values_and_authenticates_again(files: Path) -> None:
    found = one(files, ('"203.0.113.7"', '"203.0.113.9"'))

    assert found == Difference(
        path="tenant[red].site[seattle].peer",
        change=Turn.CHANGED,
        old="203.0.113.7",
        new="203.0.113.9",
        effect="its tunnel is authenticated again",
        tenant="red",
        site="seattle",
    )
    assert str(found) == "~ tenant[red].site[seattle].peer: 203.0.113.7 -> 203.0.113.9"


def test_site_that_we_cannot_dial_has_to_dial_again(files: Path) -> None:
    found = one(files, ("tacoma.example", "olympia.example"))

    assert found.path == "tenant[red].site[tacoma].ike.remote_id"
    assert found.effect == "its tunnel is deleted, and its peer dials again"


def test_mtu_of_a_site_interrupts_nothing(files: Path) -> None:
    found = one(files, ('peer = "203.0.113.7"', 'peer = "203.0.113.7"\nmtu = 1300'))

    assert (found.path, found.old, found.new) == ("tenant[red].site[seattle].mtu", None, "1300")
    assert found.effect == "nothing is interrupted"


def test_sites_that_come_and_go_are_told_with_what_becomes_of_their_tunnels(files: Path) -> None:
    lyon = ('name = "seattle"', 'name = "lyon"'), ("seattle.psk", "lyon.psk"), ("site:seattle", "site:lyon")
    found = told(files, *lyon, ("site:seattle", "site:lyon"))

    by_path = {each.path: each for each in found}
    assert by_path["tenant[red].site[seattle]"].effect == "its tunnel is deleted at its peer"
    assert by_path["tenant[red].site[lyon]"].effect == "it is dialled at once"
    assert by_path["tenant[red].route[10.0.2.77/32].via"].old == "site:seattle"
    assert by_path["tenant[red].access[web in].from"].new == "site:lyon"


def test_site_of_another_gateway_is_told_as_such(files: Path) -> None:
    extra = """[[provider_gateway]]
name = "edge-2"
provider_addresses = ["192.0.2.253"]
[[tenant]]
name = "red"
"""
    before = read(files, ('[[tenant]]\nname = "red"\n', extra))
    after = msgspec.structs.replace(
        before,
        network=msgspec.structs.replace(
            before.network,
            tenants=tuple(
                msgspec.structs.replace(
                    tenant,
                    sites=tuple(msgspec.structs.replace(site, gateway="edge-2") for site in tenant.sites),
                )
                for tenant in before.network.tenants
            ),
        ),
    )

    found = differences(before, after, peer_policies(before), peer_policies(after))

    assert [(each.path, each.effect) for each in found] == [
        ("tenant[red].site[seattle].gateway", "its tunnel is deleted at its peer"),
        ("tenant[red].site[tacoma].gateway", "its tunnel is deleted at its peer"),
    ]


def test_secret_whose_file_has_other_content_is_told_without_any_of_it(tmp_path: Path) -> None:
    for name in ("seattle", "tacoma"):
        (tmp_path / f"{name}.psk").write_text(f"first-{name}-password")
    appliance = read(tmp_path)
    old_keys = Keyring()
    before = peer_policies(appliance, old_keys)
    (tmp_path / "seattle.psk").write_text("second-seattle-password")

    after = peer_policies(appliance, Keyring())
    (found,) = differences(appliance, appliance, before, after)

    assert found.path == "tenant[red].site[seattle].ike.psk_file"
    assert found.new == f"the secret in {tmp_path}/seattle.psk has changed"
    assert found.effect == "its tunnel is authenticated again"
    assert "password" not in repr(found)
    assert authenticated_again(before, after) == [("red", "seattle")]
    assert peer_policies(appliance, old_keys) == before, "a keyring keeps what it has read"


def test_secrets_that_have_changed_are_told_behind_what_is_written_of_their_tenant(tmp_path: Path) -> None:
    for name in ("seattle", "tacoma", "lyon"):
        (tmp_path / f"{name}.psk").write_text(f"first-{name}-password")
    lyon = ("[tenant.limits]", f"{site('lyon')}[tenant.limits]")
    appliance = read(tmp_path, lyon)
    before = peer_policies(appliance, Keyring())
    for name in ("seattle", "tacoma", "lyon"):
        (tmp_path / f"{name}.psk").write_text(f"second-{name}-password")
    after = peer_policies(appliance, Keyring())
    psk = [
        f"tenant[{tenant}].site[{name}].ike.psk_file"
        for tenant, name in (("blue", "lyon"), ("red", "seattle"), ("red", "tacoma"))
    ]

    def paths(*changes: tuple[str, str]) -> list[str]:
        changed = read(tmp_path, lyon, *changes)
        return [each.path for each in differences(appliance, changed, before, after)]

    assert paths() == psk
    assert paths(("vsid = 5001", "vsid = 5009"), ("10 Mbit/s", "20 Mbit/s")) == [
        "tenant[red].subnet[web].vsid",
        *psk[1:],
        "tenant[blue].limits.rate",
        "tenant[blue].limits.burst",
        psk[0],
    ]
    assert paths(("vsid = 5001", "vsid = 5009")) == ["tenant[red].subnet[web].vsid", *psk[1:], psk[0]]


def test_subnet_that_comes_is_told_for_the_tunnels_that_shall_carry_it_too(files: Path) -> None:
    subnet = '[[tenant.subnet]]\nname = "new"\nvsid = 5003\nprefixes = ["10.0.3.0/24"]\n[[tenant.record]]'
    found = told(files, ("[[tenant.record]]", subnet))

    assert [each.path for each in found] == [
        "tenant[red].subnet[new]",
        "tenant[red].site[seattle]",
        "tenant[red].site[tacoma]",
    ]
    assert found[0].new == "VSID 5003, 10.0.3.0/24"
    assert "10.0.3.0" in (found[1].new or "")
    assert "10.0.3.0" not in (found[1].old or "")
    assert found[1].effect == "its tunnel is authenticated again"


def test_order_of_access_rules_is_a_difference(files: Path) -> None:
    before = read(files)
    red, blue = before.network.tenants
    turned = msgspec.structs.replace(red, access=red.access[::-1])
    after = msgspec.structs.replace(
        before, network=msgspec.structs.replace(before.network, tenants=(turned, blue))
    )

    (found,) = differences(before, after)

    assert (found.path, found.old, found.new) == (
        "tenant[red].access",
        "web in, all out",
        "all out, web in",
    )
    assert found.effect == "the first rule that matches decides"


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('name = "edge-1"\n[u', 'name = "edge-1"\nlog = "json"\n[u', "appliance.log"),
        ('name = "edge-1"\n[u', 'name = "edge-1"\nstate = "/srv"\n[u', "appliance.state"),
        ('name = "edge-1"\n[u', 'name = "edge-1"\nuser = "isthmus"\n[u', "appliance.user"),
        ('name = "edge-1"\n[u', 'name = "edge-1"\nengine = "xdp"\n[u', "appliance.engine"),
        ("[underlay]\n", "[underlay]\nmtu = 1600\n", "underlay.mtu"),
        ("[gateway]", "[fastpath]\npinned = true\n[gateway]", "fastpath.pinned"),
        ("[gateway]", '[fastpath]\nmode = "generic"\n[gateway]', "fastpath.mode"),
        ("[gateway]", '[gateway]\nsite_addresses = ["198.51.100.1"]', "gateway.site_addresses"),
        ("[lookup]", '[lookup]\nlisten = "127.0.0.1:9000"', "lookup.listen"),
        ("[lookup]", '[api]\nlisten = "127.0.0.1:9000"\n[lookup]', "api"),
    ],
)
def test_what_only_a_start_takes_says_so(files: Path, old: str, new: str, path: str) -> None:
    found = one(files, (old, new))

    assert found.path == path
    assert found.needs_restart
    assert found.effect == "needs a restart"


def test_file_of_the_token_that_a_node_asks_by_is_taken_at_a_start_only() -> None:
    asks = LookupAccess(("https://lookup-1:7637",), token_file=Path("old.token"))
    before = msgspec.structs.replace(BASE, lookup=None, lookup_access=asks)
    after = msgspec.structs.replace(
        before, lookup_access=msgspec.structs.replace(asks, token_file=Path("new.token"))
    )

    (found,) = differences(before, after)

    assert found.path == "host.token_file"
    assert found.needs_restart


@pytest.mark.parametrize(
    ("old", "new", "path", "effect"),
    [
        (
            'role = "operator"',
            'role = "reader"\ntenants = ["red"]',
            "lookup.token[ops].role",
            "it may ask by",
        ),
        ('name = "ops"', 'name = "op"', "lookup.token[ops]", "it may not ask any more"),
        ('addresses = ["10.0.1.5"]', 'addresses = ["10.0.1.6"]', "host.port[vnet0].addresses", "opened anew"),
        ('interface = "vnet0"', 'interface = "vnet1"', "host.port[vnet0]", "put back as it was"),
        ('"198.51.100.12"', '"198.51.100.13"', "provider_host[hv2].provider_addresses", "sent there"),
        ('["red", "blue"]', '["red"]', "provider_host[hv2].tenants", "may hold VMs of those"),
        ("02:00:00:00:02:06", "02:00:00:00:02:07", "tenant[red].record[10.0.2.6].mac", "go there from now"),
        ("10 Mbit/s", "20 Mbit/s", "tenant[blue].limits.rate", "held to that rate"),
        ("vsid = 6001", "vsid = 6002", "tenant[blue].subnet[web].vsid", "another VSID"),
        ("10.0.2.77/32", "10.0.2.78/32", "tenant[red].route[10.0.2.77/32]", "packets go elsewhere"),
        ("[80,", "[81,", "tenant[red].access[web in].ports", "judged by the rules"),
    ],
)
def test_what_a_reload_takes_says_what_comes_of_it(
    files: Path, old: str, new: str, path: str, effect: str
) -> None:
    found = {each.path: each for each in told(files, (old, new))}

    assert effect in found[path].effect
    assert not any(each.needs_restart for each in found.values())


@pytest.mark.parametrize(
    ("old", "new", "path", "effect"),
    [
        (
            '"198.51.100.128/26"',
            '"198.51.100.192/26"',
            "provider_host[hv1].pools",
            (
                "its rewritten VMs get other provider addresses for those that are gone, and packets follow;"
                " they are cut off where no pool of the family is left"
            ),
        ),
        (
            '"198.51.100.64/26"',
            '"198.51.100.32/27"',
            "gateway.pools",
            "what is leased of a pool that is gone is leased anew, for the next packet to it",
        ),
        (
            'translation = "rewrite"',
            'translation = "encap"',
            "tenant[red].subnet[web].translation",
            "VMs that are registered from now on are carried so, those that are there as before",
        ),
        (
            'name = "red"\n',
            'name = "red"\nleases = 20\n',
            "tenant[red].leases",
            "leases that it has stay, and it gets more only below that number",
        ),
    ],
)
def test_what_becomes_of_rewritten_vms_is_said_and_a_reload_takes_it(
    old: str, new: str, path: str, effect: str
) -> None:
    text = (
        table("[appliance]", name="edge-1")
        + table("[underlay]", provider_addresses=["192.0.2.254"])
        + table("[gateway]", pools=["198.51.100.64/26"])
        + "[lookup]\n"
        + provider_host("hv1", "198.51.100.11", pools=["198.51.100.128/26"])
        + tenant("red")
        + subnet("web", 5001, "10.0.1.0/24", translation="rewrite")
    )
    (found,) = differences(parse(text), parse(text.replace(old, new)))

    assert (found.path, found.effect, found.needs_restart) == (path, effect, False)


def test_key_that_comes_or_goes_is_not_told_as_if_its_tenant_did(files: Path) -> None:
    before, after = read(files), read(files, ('name = "red"\n', f'name = "red"\nrdid = "{UUID(int=1)}"\n'))
    for found in (*differences(before, after), *differences(after, before)):
        assert (found.path, found.effect) == ("tenant[red].rdid", "nothing is interrupted")


GREEN = tenant("green") + subnet("web", 7001, "10.0.1.0/24") + '[[tenant]]\nname = "blue"\n'


def test_tenant_that_comes_is_one_difference_and_touches_no_other(files: Path) -> None:
    found = one(files, ('[[tenant]]\nname = "blue"\n', GREEN))

    assert str(found) == "+ tenant[green]: 1 virtual subnet, 0 sites"
    assert found.effect == "it is carried from now on"


# --- every field

PREFIXES: st.SearchStrategy[Prefix] = st.integers(0, 255).map(
    lambda octet: ipaddress.ip_network(f"10.9.{octet}.0/24")
)
ADDRESSES = st.integers(1, 254).map(lambda octet: ProviderAddress.parse(f"192.0.2.{octet}"))
VALUES: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("Site", "prefixes"): st.lists(PREFIXES, max_size=3).map(tuple),
    ("Site", "peer"): st.none() | ADDRESSES,
    ("Site", "start"): st.sampled_from(SiteStart),
    ("Site", "selectors"): st.sampled_from(SelectorMode),
    ("Site", "lifetimes"): st.builds(Lifetimes, child_seconds=st.integers(60, 9999).map(float)),
    ("Site", "liveness"): st.integers(1, 99).map(float),
    ("Site", "force_udp"): st.booleans(),
    ("Site", "mtu"): st.none() | st.integers(576, 1500),
    ("Site", "ike_proposals"): st.just(COMPATIBLE_IKE),
    ("VirtualSubnet", "prefixes"): st.lists(PREFIXES, min_size=1, max_size=2).map(tuple),
    ("VirtualSubnet", "vsid"): st.integers(4096, 9000).map(Vsid),
    ("VirtualSubnet", "broadcast"): st.booleans(),
    ("VirtualSubnet", "translation"): st.sampled_from(Translation),
    ("LookupRecord", "mac"): st.binary(min_size=6, max_size=6).map(MacAddress),
    ("LookupRecord", "translation"): st.sampled_from(Translation),
    ("LookupRecord", "host"): st.sampled_from(("hv1", "hv2", "hv3")),
    ("CustomerRoute", "next_hop"): st.builds(SiteHop, st.sampled_from(("seattle", "tacoma")))
    | st.just(SubnetHop("web", Vsid(5001))),
    ("AccessRule", "action"): st.sampled_from(Action),
    ("AccessRule", "ports"): st.lists(st.builds(PortRange, st.just(1), st.integers(1, 9))).map(tuple),
    ("AccessRule", "source"): st.builds(Endpoint, prefix=PREFIXES),
    ("Tenant", "limits"): st.none() | st.builds(Limits, st.integers(1, 9), st.integers(1, 9)),
    ("Tenant", "leases"): st.integers(1, 9),
    ("Tenant", "rdid"): st.none() | st.text("0123456789abcdef", min_size=4),
    ("Tenant", "gateways"): st.lists(st.sampled_from(("edge-1", "edge-2"))).map(tuple),
    ("Tenant", "access"): st.permutations(
        [AccessRule("one", Action.ALLOW), AccessRule("two", Action.DENY)]
    ).map(tuple),
    ("Tenant", "routes"): st.lists(st.builds(CustomerRoute, PREFIXES, st.just(SiteHop("tacoma")))).map(tuple),
    ("ProviderHost", "provider_addresses"): st.lists(ADDRESSES, min_size=1).map(tuple),
    ("ProviderHost", "tenants"): st.lists(st.sampled_from(("red", "blue"))).map(tuple),
    ("ProviderHost", "pools"): st.lists(PREFIXES, max_size=2).map(tuple),
    ("HostPort", "mac"): st.binary(min_size=6, max_size=6).map(MacAddress),
    ("Credential", "subject"): st.none() | st.text(min_size=1),
    ("LookupSettings", "flap_moves"): st.integers(1, 9),
    ("FastPathSettings", "pinned"): st.booleans(),
    ("Underlay", "mtu"): st.none() | st.integers(1280, 9000),
    ("Appliance", "gateway"): st.booleans(),
    ("Network", "tenants"): st.permutations([0, 1]).map(tuple),
}


def places(value: object, trail: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], str]]:
    """Every field of a value, however deep, by the way to it, for which there are other values."""
    if isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from places(each, (*trail, index))
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            if (type(value).__name__, field) in VALUES:
                yield (*trail, field), type(value).__name__
            yield from places(getattr(value, field), (*trail, field))


def replaced(value: Any, trail: tuple[object, ...], new: Any) -> Any:
    if not trail:
        if new and isinstance(new, tuple) and all(isinstance(each, int) for each in new):
            return tuple(value[index] for index in new if index < len(value))  # another order
        return new
    first, rest = trail[0], trail[1:]
    if isinstance(value, tuple):
        assert isinstance(first, int)
        return (*value[:first], replaced(value[first], rest, new), *value[first + 1 :])
    assert isinstance(first, str)
    return msgspec.structs.replace(value, **{first: replaced(getattr(value, first), rest, new)})


BASE = parse(CONFIGURATION)


@given(st.data())
def test_whatever_differs_is_told_where_it_stands(data: st.DataObject) -> None:
    after = BASE
    trail, kind = data.draw(st.sampled_from(sorted(places(BASE), key=str)))
    after = replaced(BASE, trail, data.draw(VALUES[kind, str(trail[-1])]))

    found = differences(BASE, after)

    assert bool(found) == (after != BASE)
    for each in found:
        assert each.old != each.new
        assert each.effect
        names = [part for part in trail if isinstance(part, str)]
        assert _belongs(each.path, names), (each.path, trail)
    assert [_mirror(each) for each in differences(after, BASE)] == [
        (each.path, each.new, each.old) for each in sorted(found, key=_place(differences(after, BASE)))
    ]


def _mirror(each: Difference) -> tuple[str, str | None, str | None]:
    return each.path, each.old, each.new


def _place(order: list[Difference]) -> Any:
    paths = [each.path for each in order]
    return lambda each: paths.index(each.path)


SECTIONS = {
    "hosts": "provider_host",
    "gateways": "provider_gateway",
    "tenants": "tenant",
    "underlay": "underlay",
    "lookup": "lookup",
    "host": "host",
    "gateway": "gateway",
}


def _belongs(path: str, names: list[str]) -> bool:
    within = names[1] if names[0] == "network" else names[0]
    return path.startswith(SECTIONS[within])
