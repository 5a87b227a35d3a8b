"""What a sound appliance.toml means."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.config import load, parse
from policies.ipsec import (
    COMPATIBLE_ESP,
    COMPATIBLE_IKE,
    MODERN_ESP,
    MODERN_IKE,
    Encryption,
    Group,
    IkeProposal,
    Integrity,
    Lifetimes,
    Prf,
    SelectorMode,
    SiteStart,
)
from policies.model import (
    AccessRule,
    Action,
    AddressHop,
    CustomerRoute,
    Endpoint,
    Engine,
    FastPathMode,
    FastPathSettings,
    FlowIdMode,
    HostPort,
    HostRole,
    IkeIdentity,
    Limits,
    LookupRecord,
    Network,
    OpenVswitch,
    PortRange,
    ProviderGateway,
    ProviderHost,
    RecordsKept,
    Site,
    SiteHop,
    SubnetHop,
    Translation,
    Underlay,
    VirtualSubnet,
)
from policies.services import ALL_TENANTS, Credential, Etcd, LookupAccess, LookupSettings, Role, ServerTls
from tests.policies.whole import FOLLOWER, REWRITE, WHOLE, with_change

REFERENCE = Path(__file__).parents[2] / "appliance.toml"


def in_red(table: str) -> str:
    """The whole file with one more table in the tenant red."""
    return with_change("[tenant.limits]", table + "\n[tenant.limits]")


def test_the_reference_configuration_loads() -> None:
    appliance = load(REFERENCE)

    red, blue = appliance.network.tenants
    assert (red.name, blue.name) == ("red", "blue")
    assert [subnet.prefixes for subnet in red.subnets] == [subnet.prefixes for subnet in blue.subnets]
    assert [record.ca for record in red.records] == [record.ca for record in blue.records]
    assert len(appliance.network.hosts) == 2
    assert red.access


def test_what_the_reference_configuration_shows_in_comments_is_sound_too(tmp_path: Path) -> None:
    lines = REFERENCE.read_text().splitlines()
    start = lines.index("# [[tenant.site]]")
    for number, line in enumerate(lines):
        option = line.removeprefix("# ")
        if option.startswith("[") or " = " in option or (number > start and not option):
            lines[number] = option
    secret = tmp_path / "seattle.psk"
    secret.write_text("only a test")
    secret.chmod(0o600)
    (tmp_path / "appliance.toml").write_text("\n".join(lines))

    appliance = load(tmp_path / "appliance.toml")

    assert appliance.lookup is not None
    assert appliance.network.tenants[0].sites
    assert appliance.network.tenants[0].routes
    assert appliance.network.tenants[0].subnets[-1].translation is Translation.REWRITE
    assert appliance.pools


def test_every_section_reaches_the_model() -> None:
    appliance = parse(WHOLE, base=Path("/etc/isthmus"))

    edge_1 = (ProviderAddress.parse("192.0.2.254"), ProviderAddress.parse("2001:db8::254"))
    edge_2 = (ProviderAddress.parse("192.0.2.253"),)
    hv2 = (ProviderAddress.parse("2001:db8::12"), ProviderAddress.parse("198.51.100.12"))
    web_address = CustomerAddress.parse("10.0.1.5")
    web_mac = MacAddress.parse("02:00:00:00:01:05")
    assert appliance.name == "edge-1"
    assert appliance.underlay == Underlay(edge_1, ("eth1",), 1500)
    assert appliance.gateway
    at = Path("/etc/isthmus")
    assert appliance.lookup == LookupSettings(
        listen="192.0.2.254:7637",
        store="etcd",
        tls=ServerTls(at / "lookup.pem", at / "lookup.key", at / "clients.pem"),
        credentials=(
            Credential("hv1", Role.HOST, token_file=at / "hv1.token"),
            Credential("dashboard", Role.READER, ("red",), token_file=at / "dashboard.token"),
            Credential("edge-2", Role.GATEWAY, subject="edge-2"),
            Credential("alice", Role.OPERATOR, subject="alice.example"),
        ),
        etcd=Etcd(
            endpoints=("https://192.0.2.10:2379", "https://etcd-2.example:2379"),
            authority_file=at / "etcd-ca.pem",
            certificate_file=at / "etcd.pem",
            key_file=at / "etcd.key",
            prefix="/datacenter-1/isthmus/",
        ),
        flap_moves=6,
        flap_seconds=90.0,
    )
    assert appliance.host == HostRole(
        name="hv1",
        ports=(HostPort("vnet0", "red", "web", web_mac, (web_address,)),),
    )
    assert appliance.lookup_access is None
    assert appliance.network.hosts == (
        ProviderHost("hv1", edge_1, ("red",), FlowIdMode.HASH),
        ProviderHost("hv2", hv2, ("red", "blue"), FlowIdMode.ZERO),
    )
    assert appliance.network.gateways == (
        ProviderGateway("edge-1", edge_1),
        ProviderGateway("edge-2", edge_2),
    )
    red, blue = appliance.network.tenants
    assert red.gateways == ("edge-1", "edge-2")
    assert red.rdid == "6a5dd1ee-6f5a-4b3c-9f0e-2d0c6bb6f2a1"
    assert blue.rdid is None
    assert red.records == (
        LookupRecord(Vsid(5001), web_address, web_mac, edge_1[0], "hv1"),
        LookupRecord(
            Vsid(5002),
            CustomerAddress.parse("10.0.2.5"),
            MacAddress.parse("02:00:00:00:02:05"),
            hv2[1],
            "hv2",
        ),
    )
    assert red.sites == (
        Site(
            name="seattle",
            gateway="edge-1",
            prefixes=(ip_network("172.16.0.0/16"), ip_network("10.0.0.0/8")),
            peer=ProviderAddress.parse("203.0.113.7"),
            ike=IkeIdentity("edge-1.example", "seattle.example", Path("/etc/isthmus/seattle.psk")),
        ),
        Site(
            name="olympia",
            gateway="edge-2",
            prefixes=(ip_network("172.20.0.0/16"), ip_network("fd00:20::/48")),
            local_prefixes=(
                ip_network("10.0.0.0/20"),
                ip_network("172.16.1.0/24"),
                ip_network("fd00::/16"),
            ),
            peer=None,
            start=SiteStart.RESPOND,
            ike_proposals=(
                IkeProposal((Encryption.AES_256_GCM,), (), (Prf.SHA2_384,), (Group.X25519, Group.ECP_384)),
                IkeProposal(
                    (Encryption.AES_256_CBC,), (Integrity.SHA2_256,), (Prf.SHA2_256,), (Group.MODP_2048,)
                ),
            ),
            esp_proposals=COMPATIBLE_ESP,
            selectors=SelectorMode.PAIRS,
            liveness=90,
            lifetimes=Lifetimes(86400, 1200, 500 * 10**9, 1_000_000),
            force_udp=True,
            mtu=1400,
            ike=IkeIdentity(
                local_id="C=CH, O=Red, CN=edge-2",
                remote_id="keyid:0BADCAFE",
                certificate_file=Path("/etc/isthmus/edge-2.pem"),
                key_file=Path("/etc/isthmus/edge-2.key"),
                authority_files=(Path("/etc/isthmus/red-ca.pem"), Path("/etc/isthmus/red-old-ca.pem")),
                revocation_files=(Path("/etc/isthmus/red.crl"),),
            ),
        ),
    )
    assert appliance.site_addresses == edge_1
    assert red.routes == (
        CustomerRoute(ip_network("10.0.2.77/32"), SiteHop("seattle")),
        CustomerRoute(ip_network("0.0.0.0/0"), AddressHop(web_address)),
        CustomerRoute(ip_network("10.0.9.0/24"), SubnetHop("db", Vsid(5002))),
    )
    assert red.access == (
        AccessRule(
            name="db only from web",
            action=Action.ALLOW,
            source=Endpoint(subnet="web"),
            destination=Endpoint(subnet="db"),
            protocol=6,
            ports=(PortRange(5432, 5432), PortRange(8000, 8010)),
        ),
    )
    assert red.limits == Limits(rate=500_000_000, burst=6_250_000)
    assert blue.limits is None


def test_what_is_left_out_has_its_default() -> None:
    appliance = parse('[appliance]\nname = "a"\n[lookup]\n')

    assert appliance.engine is Engine.AUTO
    assert appliance.fastpath == FastPathSettings(pinned=False, mode=FastPathMode.AUTO)
    assert appliance.state == Path("/var/lib/isthmus")
    assert appliance.underlay is None
    assert not appliance.gateway
    assert appliance.host is None
    assert appliance.lookup == LookupSettings("127.0.0.1:7637", "sqlite", None, (), None, 5, 180.0)
    web = parse(WHOLE).network.tenants[1].subnets[0]
    assert web.translation is Translation.ENCAP
    assert web.broadcast is False
    assert web.dhcp
    assert web.router_advertisements
    assert parse(WHOLE).network.tenants[1].access == ()


def test_fast_path_is_read_with_how_it_is_attached() -> None:
    table = '[fastpath]\npinned = true\nmode = "native"\n[gateway]'

    appliance = parse(
        with_change("[gateway]", table, with_change("[appliance]", '[appliance]\nengine = "xdp"'))
    )

    assert appliance.engine is Engine.XDP
    assert appliance.fastpath == FastPathSettings(pinned=True, mode=FastPathMode.NATIVE)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("[appliance]", "[appliance]", True),
        ("[appliance]", '[appliance]\nengine = "xdp"', True),
        ("[appliance]", '[appliance]\nengine = "python"', False),
        ('driver = "builtin"', 'driver = "openvswitch"', False),
    ],
)
def test_fast_path_is_for_gateways_whose_packets_no_bridge_carries(old: str, new: str, wanted: bool) -> None:
    assert parse(with_change(old, new)).wants_fastpath is wanted
    assert not parse(FOLLOWER).wants_fastpath


def test_the_gateway_address_is_the_first_usable_one_of_the_first_prefix_of_each_family() -> None:
    web, db = parse(WHOLE).network.tenants[0].subnets

    assert web == VirtualSubnet(
        "web",
        Vsid(5001),
        (ip_network("10.0.1.0/24"), ip_network("fd00:1::/64")),
        (CustomerAddress.parse("10.0.1.1"), CustomerAddress.parse("fd00:1::1")),
    )
    # One family is named there; the other keeps its default.
    assert db.gateway_addresses == (CustomerAddress.parse("10.0.3.254"), CustomerAddress.parse("fd00:2::1"))
    assert db.broadcast
    assert not db.dhcp
    assert not db.router_advertisements


def test_a_node_that_asks_lookup_services_needs_no_network_in_its_file() -> None:
    appliance = parse(FOLLOWER, base=Path("/etc/isthmus"))

    port = HostPort(
        "vnet0",
        "red",
        "web",
        MacAddress.parse("02:00:00:00:01:05"),
        (CustomerAddress.parse("10.0.1.5"),),
    )
    assert appliance.network == Network()
    assert appliance.lookup is None
    assert appliance.host == HostRole(
        "hv1", (port,), "openvswitch", RecordsKept.USED, OpenVswitch("br0", Path("/run/openvswitch"))
    )
    assert appliance.lookup_access == LookupAccess(
        nodes=("https://192.0.2.253:7637", "https://[2001:db8::253]:7637", "https://lookup.example"),
        token_file=Path("/etc/isthmus/hv1.token"),
        authority_file=Path("/etc/isthmus/lookup-ca.pem"),
        certificate_file=Path("/etc/isthmus/hv1.pem"),
        key_file=Path("/etc/isthmus/hv1.key"),
    )


def test_a_gateway_may_ask_too_and_on_loopback_without_a_credential() -> None:
    text = """
        [appliance]
        name = "edge-1"
        [underlay]
        provider_addresses = ["192.0.2.254"]
        [gateway]
        lookup = ["http://127.0.0.1:7637", "http://[::1]:7637/", "http://localhost"]
        """

    appliance = parse(text)
    assert appliance.gateway
    assert appliance.lookup_access == LookupAccess(
        ("http://127.0.0.1:7637", "http://[::1]:7637", "http://localhost")
    )


def test_a_gateway_and_a_host_may_both_say_whom_they_ask_if_they_say_the_same() -> None:
    asking = FOLLOWER[FOLLOWER.index("lookup =") : FOLLOWER.index("records =")]
    text = with_change('records = "used"\n', "", FOLLOWER)

    both = parse(with_change("[host]\n", f"[gateway]\n{asking}[host]\n", text))
    assert both.lookup_access == parse(text).lookup_access


def test_a_node_of_a_cluster_finds_the_network_in_the_store() -> None:
    network = WHOLE.index("[[provider_host]]")

    appliance = parse(WHOLE[:network])
    assert appliance.network.tenants == ()
    assert appliance.host is not None
    assert appliance.host.ports
    assert appliance.lookup is not None
    assert len(appliance.lookup.credentials) == 4


def test_a_record_is_at_the_first_address_of_its_host_that_the_underlay_has_the_family_of() -> None:
    text = with_change('pa = "198.51.100.12"', "")
    only_ipv4 = with_change(
        'provider_addresses = ["192.0.2.254", "2001:db8::254"]\ninterfaces',
        'provider_addresses = ["192.0.2.254"]\ninterfaces',
        text,
    )

    assert str(parse(text).network.tenants[0].records[1].pa) == "2001:db8::12"
    assert str(parse(only_ipv4).network.tenants[0].records[1].pa) == "198.51.100.12"


def test_loopback_has_a_name_too() -> None:
    lookup = parse('[appliance]\nname = "a"\n[lookup]\nlisten = "localhost:80"\n').lookup

    assert lookup == LookupSettings("localhost:80")


def test_a_peer_that_dials_in_has_no_address_and_is_waited_for() -> None:
    text = with_change('peer = "203.0.113.7"', 'peer = "any"')

    seattle = parse(text).network.tenants[0].sites[0]
    assert seattle.peer is None
    assert seattle.start is SiteStart.RESPOND


def test_a_site_is_dialled_by_modern_algorithms_unless_something_else_is_said() -> None:
    seattle = parse(WHOLE).network.tenants[0].sites[0]
    compatible = with_change('peer = "203.0.113.7"', 'peer = "203.0.113.7"\nprofile = "compatible"')

    assert seattle.start is SiteStart.START
    assert (seattle.ike_proposals, seattle.esp_proposals) == (MODERN_IKE, MODERN_ESP)
    seattle = parse(compatible).network.tenants[0].sites[0]
    assert (seattle.ike_proposals, seattle.esp_proposals) == (COMPATIBLE_IKE, COMPATIBLE_ESP)


def test_peers_may_dial_other_addresses_than_hosts() -> None:
    text = with_change("[gateway]", '[gateway]\nsite_addresses = ["198.51.100.1"]')

    assert parse(text).site_addresses == (ProviderAddress.parse("198.51.100.1"),)


def test_a_node_that_is_no_gateway_has_no_addresses_for_sites() -> None:
    assert parse('[appliance]\nname = "a"\n[lookup]\n').site_addresses == ()


def test_a_certificate_may_prove_one_side_and_a_shared_secret_the_other() -> None:
    ours = 'psk_file = "seattle.psk", certificate_file = "a.pem", key_file = "a.key"'
    theirs = 'psk_file = "seattle.psk", authority_files = ["ca.pem"]'

    for credentials in (ours, theirs):
        ike = parse(with_change('psk_file = "seattle.psk"', credentials)).network.tenants[0].sites[0].ike
        assert ike.psk_file == Path("seattle.psk")


def test_sites_of_two_tenants_may_have_the_same_prefixes() -> None:
    site = """
[[tenant.site]]
name = "seattle"
gateway = "edge-2"
prefixes = ["172.16.0.0/16", "10.0.0.0/8"]
peer = "203.0.113.7"
ike = { local_id = "edge-2.example", remote_id = "blue.example", psk_file = "blue.psk" }
"""

    red, blue = parse(WHOLE + site).network.tenants
    assert red.sites[0].prefixes == blue.sites[0].prefixes


def test_a_relative_state_folder_starts_at_the_configuration() -> None:
    text = with_change('name = "edge-1"\n', 'name = "edge-1"\nstate = "state"\n')

    assert parse(text, base=Path("/etc/isthmus")).state == Path("/etc/isthmus/state")


@pytest.mark.parametrize(
    ("written", "rate", "burst"),
    [
        ('"64000 bit/s"', 64_000, 65_536),
        ('"64 kbit/s"', 64_000, 65_536),
        ('"2.5Mbit/s"', 2_500_000, 65_536),
        ('"10 Gbit/s"', 10_000_000_000, 125_000_000),
        ('"500 Mbit/s"\nburst = "1 MB"', 500_000_000, 1_000_000),
        ('"500 Mbit/s"\nburst = "64 KiB"', 500_000_000, 65_536),
        ('"500 Mbit/s"\nburst = 20000', 500_000_000, 20_000),
    ],
)
def test_a_rate_is_in_bits_per_second_and_a_burst_in_octets(written: str, rate: int, burst: int) -> None:
    tenant = parse(with_change('"500 Mbit/s"', written)).network.tenants[0]

    assert tenant.limits == Limits(rate, burst)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ('"udp"', 17),
        ('"icmp"', 1),
        ('"icmpv6"', 58),
        ('"ESP"', 50),
        ('"gre"', 47),
        ("89", 89),
        ('"any"', None),
    ],
)
def test_a_protocol_is_a_name_or_a_number(written: str, number: int | None) -> None:
    rule = f'[[tenant.access]]\nname = "r"\naction = "deny"\nprotocol = {written}\n'

    assert parse(in_red(rule)).network.tenants[0].access[-1] == AccessRule("r", Action.DENY, protocol=number)


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("any", Endpoint()),
        ("site:seattle", Endpoint(site="seattle")),
        ("10.0.0.0/8", Endpoint(prefix=ip_network("10.0.0.0/8"))),
        ("10.0.1.5", Endpoint(prefix=ip_network("10.0.1.5/32"))),
        ("fd00:1::5", Endpoint(prefix=ip_network("fd00:1::5/128"))),
    ],
)
def test_a_side_of_a_rule_is_a_subnet_a_site_a_prefix_an_address_or_any(
    written: str, endpoint: Endpoint
) -> None:
    rule = f'[[tenant.access]]\nname = "r"\naction = "allow"\nfrom = "{written}"\n'

    assert parse(in_red(rule)).network.tenants[0].access[-1].source == endpoint


def test_a_file_that_all_nodes_share_may_list_its_own_gateway() -> None:
    entry = '[[provider_gateway]]\nname = "edge-1"\nprovider_addresses = ["2001:db8::254", "192.0.2.254"]\n'

    assert parse(WHOLE + entry).network.gateways == parse(WHOLE).network.gateways


def test_a_tenant_needs_no_gateway_where_there_is_none() -> None:
    appliance = parse(
        """
        [appliance]
        name = "hv1"
        [underlay]
        provider_addresses = ["198.51.100.11"]
        [host]
        name = "hv1"
        [[provider_host]]
        name = "hv1"
        provider_addresses = ["198.51.100.11", "2001:db8::11"]
        tenants = ["red"]
        [[tenant]]
        name = "red"
        [[tenant.subnet]]
        name = "web"
        vsid = 5001
        prefixes = ["10.0.1.0/30"]
        """
    )

    assert appliance.network.gateways == ()
    assert appliance.host == HostRole("hv1")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[appliance]\nname = "a"\n[lookup]\n', encoding="utf-8-sig")

    assert load(tmp_path / "a.toml").name == "a"


def test_reader_may_see_all_tenants_whichever_there_are() -> None:
    appliance = parse("""
        [appliance]
        name = "lookup-1"
        [lookup]
        [[lookup.token]]
        name = "prometheus"
        role = "reader"
        tenants = ["*"]
        token_file = "prometheus.token"
        [[tenant]]
        name = "red"
        [[tenant.subnet]]
        name = "web"
        vsid = 5001
        prefixes = ["10.0.1.0/24"]
    """)

    assert appliance.lookup is not None
    assert appliance.lookup.credentials[0].tenants == (ALL_TENANTS,)


def test_a_vm_is_carried_as_its_record_says_and_otherwise_as_its_subnet_does() -> None:
    (red,) = parse(REWRITE).network.tenants

    assert [subnet.translation for subnet in red.subnets] == [
        Translation.REWRITE,
        Translation.ENCAP,
        Translation.REWRITE,
    ]
    assert {str(record.ca): (record.translation, str(record.pa)) for record in red.records} == {
        "10.0.1.5": (Translation.REWRITE, "198.51.100.130"),
        "fd00:1::5": (Translation.REWRITE, "2001:db8:1::5"),
        "10.0.1.6": (Translation.ENCAP, "198.51.100.12"),
        "10.0.3.7": (Translation.ENCAP, "192.0.2.254"),
        "10.0.2.5": (Translation.REWRITE, "198.51.100.194"),
    }
    assert red.leases == 200


def test_how_many_leases_a_tenant_may_hold_is_left_to_its_gateways_unless_said() -> None:
    (red,) = parse(with_change("leases = 200\n", "", REWRITE)).network.tenants

    assert red.leases is None


def test_pools_of_a_node_are_those_of_its_gateway_and_of_its_host() -> None:
    both = parse(REWRITE)
    pooled = msgspec.structs.replace(both, host=HostRole("hv1"))
    no_gateway = msgspec.structs.replace(pooled, gateway=False)

    of_gateway = [ip_network("198.51.100.64/26"), ip_network("2001:db8:2::/112")]
    of_host = [ip_network("198.51.100.128/26"), ip_network("2001:db8:1::/112")]
    assert list(both.pools) == of_gateway
    assert list(pooled.pools) == of_gateway + of_host
    assert list(no_gateway.pools) == of_host
