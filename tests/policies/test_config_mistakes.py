"""What is said about a wrong appliance.toml: everything, in one run, and what would be right."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from policies.config import load, parse
from policies.config.reader import Notes
from policies.errors import ConfigurationError
from tests.policies.whole import FOLLOWER, REWRITE, WHOLE, with_change


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


MISTAKES: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_mistake_is_said_once_with_its_path_and_what_would_be_right(mistake: str) -> None:
    text = {"whole.toml": WHOLE, "follower.toml": FOLLOWER, "rewrite.toml": REWRITE}[
        MISTAKES[mistake].get("in", "whole.toml")
    ]
    changed = with_change(MISTAKES[mistake]["old"], MISTAKES[mistake]["new"], text)

    assert problems(changed) == [MISTAKES[mistake]["said"]]


IN_ONE_RUN = [
    "engine",
    "mtu",
    "etcd without TLS",
    "driver",
    "unknown subnet of a port",
    "unknown word",
    "multicast PA",
    "no GUID",
    "overlapping subnets",
    "two gateways of a family",
    "MAC of the gateway",
    "record at an address that its host has not",
    "host bits",
    "unknown site of a route",
    "falling ports",
    "rate without a unit",
    "reserved VSID",
]


def test_all_mistakes_are_said_in_one_run_and_in_the_order_of_the_file() -> None:
    text = WHOLE
    for name in IN_ONE_RUN:
        text = with_change(MISTAKES[name]["old"], MISTAKES[name]["new"], text)

    assert problems(text) == [MISTAKES[name]["said"] for name in IN_ONE_RUN]


def test_fast_path_is_refused_where_a_bridge_carries_the_packets() -> None:
    on_bridge = with_change('driver = "builtin"', 'driver = "openvswitch"')

    said = problems(with_change('name = "edge-1"\n\n', 'name = "edge-1"\nengine = "xdp"\n\n', on_bridge))

    assert said == [
        (
            'appliance.engine: "xdp" is not used with host.driver = "openvswitch", where the bridge carries '
            'the packets; write driver = "builtin", or engine = "auto"'
        )
    ]


def test_several_mistakes_in_one_table_are_all_said() -> None:
    old = 'vsid = 6001\nprefixes = ["10.0.1.0/24", "fd00:1::/64"]'
    new = """
vsid = 4095
prefixes = ["10.0.1.0/33", "10.0.1.1/24", 7]
gateway = ["10.0.1.0"]
broadcast = 1
mtu = 1500
"""

    said = problems(with_change(old, new))

    assert [problem.removeprefix("tenant[blue].subnet[web].") for problem in said] == [
        "vsid: 4095 is reserved; use 4096 to 16777214 (RFC 7637 section 3.4)",
        'prefixes[#1]: "10.0.1.0/33" is not a prefix such as "10.0.1.0/24" or "fd00:1::/64"',
        'prefixes[#2]: "10.0.1.1/24" has bits set behind the prefix; write 10.0.1.0/24',
        "prefixes[#3]: 7 is not a string; put it in quotes",
        "gateway: 10.0.1.0 is the network's own address of 10.0.1.0/24; use another",
        "broadcast: 1 is neither true nor false",
        (
            "mtu: is not a key of this table; known: "
            "broadcast, dhcp, gateway, name, prefixes, router_advertisements, translation, vsid"
        ),
    ]


def test_each_of_those_that_lack_what_rewritten_vms_need_is_told() -> None:
    no_host = with_change('pools = ["198.51.100.128/26", "2001:db8:1::/112"]', "", REWRITE)
    no_gateway = with_change('pools = ["203.0.113.64/26", "2001:db8:3::/64"]', "", REWRITE)
    no_service = with_change("[lookup]\n", "", REWRITE)

    hosts = "provider_host[hv0], provider_host[hv1], provider_host[hv2]"
    assert problems(no_host) == [
        (
            f'tenant[red].subnet[web].translation: "rewrite" needs a pool of IPv6 at a host of this tenant; '
            f"write pools in {hosts}"
        ),
        (
            'tenant[red].record[10.0.1.5].pa: 198.51.100.130 is in no pool of "hv1"; '
            "use one of provider_host[hv1].pools, where there is no IPv4 yet"
        ),
        (
            'tenant[red].record[fd00:1::5].pa: 2001:db8:1::5 is in no pool of "hv1"; '
            "use one of provider_host[hv1].pools, where there is no IPv6 yet"
        ),
    ]
    assert problems(no_gateway) == [
        f'tenant[red].gateways: "edge-2" has no pool of IPv{version}, which rewritten VMs of tenant "red" '
        "reach everything else by; write pools in provider_gateway[edge-2]"
        for version in (4, 6)
    ]
    assert problems(no_service) == [
        f'tenant[red].{table}.translation: "rewrite" needs the lookup service, which leases the addresses; '
        "write [lookup], or leave it out"
        for table in ("subnet[web]", "subnet[app]", "record[10.0.2.5]")
    ]


def test_a_gateways_pool_is_no_hosts_even_where_hosts_share_it() -> None:
    text = with_change('pools = ["203.0.113.64/26", ', 'pools = ["198.51.100.128/26", ', REWRITE)

    assert problems(text) == [
        f"provider_host[{name}].pools: 198.51.100.128/26 is in provider_gateway[edge-2].pools already; "
        "only hosts can share a pool"
        for name in ("hv1", "hv2")
    ]


def test_pools_are_not_used_where_the_network_comes_from_elsewhere() -> None:
    text = with_change('records = "used"', "", FOLLOWER) + '\n[gateway]\npools = ["198.51.100.64/26"]\n'

    assert problems(text) == [
        (
            "gateway.pools: is not used where the network comes from elsewhere; "
            'there, write it in the [[provider_gateway]] "hv1"'
        )
    ]


def test_what_cannot_be_read_of_pools_and_of_the_way_accuses_nobody() -> None:
    mistakes = {
        'pools = ["198.51.100.128/26", "2001:db8:1::/112"]': "pools = [7]",
        'pools = ["203.0.113.64/26", "2001:db8:3::/64"]': "pools = 7",
        'prefixes = ["10.0.1.0/24", "fd00:1::/64"]\ntranslation = "rewrite"': (
            'prefixes = ["10.0.1.0/24", "fd00:1::/64"]\ntranslation = 7'
        ),
    }
    said = {
        (old, new): {problem.partition(": ")[0].partition("[#")[0] for problem in problems(changed)}
        for old, new in mistakes.items()
        for changed in [with_change(old, new, REWRITE)]
    }

    assert list(said.values()) == [
        {"provider_host[hv1].pools"},
        {"provider_gateway[edge-2].pools"},
        {"tenant[red].subnet[web].translation"},
    ]


def test_a_prefix_that_cannot_be_read_does_not_make_records_seem_outside() -> None:
    text = with_change(
        'prefixes = ["10.0.2.0/24", "10.0.3.0/24", "fd00:2::/64"]\ngateway = ["10.0.3.254"]', "prefixes = 3"
    )

    assert problems(text) == [
        "tenant[red].subnet[db].prefixes: 3 is not a list; write [3]",
        "tenant[red].subnet[db].prefixes: 3 is not a string; put it in quotes",
    ]


def test_a_list_of_tenants_that_cannot_be_read_authorises_nobody_and_accuses_nobody() -> None:
    assert problems(with_change('tenants = ["red", "blue"]', "tenants = [1]")) == [
        "provider_host[hv2].tenants: 1 is not a string; put it in quotes"
    ]


def test_a_misspelt_key_is_not_said_to_be_missing_as_well() -> None:
    assert problems(with_change('gateways = ["edge-2"]', 'gatways = ["edge-2"]')) == [
        'tenant[blue].gatways: is not a key of this table; did you mean "gateways"?'
    ]
    assert problems(with_change("vsid = 6001", "vsdi = 6001")) == [
        'tenant[blue].subnet[web].vsdi: is not a key of this table; did you mean "vsid"?'
    ]


def test_an_entry_without_a_sound_name_goes_by_its_place() -> None:
    said = problems(with_change('name = "blue"', "name = 7"))

    assert said == [
        'provider_host[hv2].tenants: there is no tenant "blue"; known: red',
        "tenant[#2].name: 7 is not a string; put it in quotes",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'name = "hv2"',
            'name = "hv1"',
            'provider_host[#2].name: "hv1" is the name of provider_host[hv1] already',
        ),
        (
            'name = "edge-2"',
            'name = "edge-1"',
            "provider_gateway[edge-1].provider_addresses: this appliance is that",
        ),
        ('name = "blue"', 'name = "red"', 'tenant[#2].name: "red" is the name of tenant[red] already'),
        (
            'name = "db"',
            'name = "web"',
            'tenant[red].subnet[#2].name: "web" is the name of tenant[red].subnet[web]',
        ),
    ],
)
def test_a_name_is_used_once(old: str, new: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems(with_change(old, new)))


@pytest.mark.parametrize("name", ["", " ", "blue ", "a/b", "a[b]", "a\\nb", "x" * 65])
def test_a_name_is_of_letters_digits_and_a_few_signs(name: str) -> None:
    said = problems(with_change('name = "blue"', f'name = "{name}"'))

    assert any(" is not a name: 1 to 64 letters, digits" in problem for problem in said)


def test_two_sites_with_the_same_pair_of_identities_are_told() -> None:
    site = """
[[tenant.site]]
name = "tacoma"
gateway = "edge-2"
prefixes = ["172.17.0.0/16"]
peer = "203.0.113.9"
ike = { local_id = "edge-1.example", remote_id = "seattle.example" }
"""

    (said,) = problems(WHOLE + site)
    first = "tenant[red].site[seattle] has the same local_id and remote_id"
    assert said.startswith(f"tenant[blue].site[tacoma].ike.remote_id: {first}; ")


def test_more_prefixes_than_a_selector_payload_has_room_for_are_told() -> None:
    many = ", ".join(f'"172.17.{number}.0/24"' for number in range(256))

    (said,) = problems(with_change('["172.16.0.0/16", "10.0.0.0/8"]', f"[{many}]"))
    assert said.startswith("tenant[red].site[seattle].selectors: one side has 257 prefixes, and IKE has room")


def test_two_tenants_with_the_same_rdid_are_told() -> None:
    text = with_change('name = "blue"', 'name = "blue"\nrdid = "6a5dd1ee-6f5a-4b3c-9f0e-2d0c6bb6f2a1"')

    (said,) = problems(text)
    assert said.startswith("tenant[blue].rdid: 6a5dd1ee-6f5a-4b3c-9f0e-2d0c6bb6f2a1 is the routing domain of")


def test_two_ports_share_nothing() -> None:
    port = """[[host.port]]
interface = "vnet0"
tenant = "red"
subnet = "web"
mac = "02:00:00:00:01:05"
addresses = ["10.0.1.5"]

"""

    assert problems(with_change(port, port + port)) == [
        "host.port[#2].interface: vnet0 is that of host.port[vnet0] already; give each port its own",
        "host.port[#2].mac: 02:00:00:00:01:05 is that of host.port[vnet0] already; give each port its own",
        "host.port[#2].addresses: 10.0.1.5 is that of host.port[vnet0] already; give each port its own",
    ]


def test_an_appliance_needs_a_name_and_a_role() -> None:
    assert problems("") == [
        'appliance: is missing; write [appliance] and under it a name, such as name = "edge-1"',
        "this appliance has no role; write at least one of [gateway], [lookup] and [host]",
    ]
    assert problems("[appliance]\n[lookup]\n") == ["appliance.name: is missing"]


def test_a_role_that_sends_needs_an_underlay() -> None:
    assert problems('[appliance]\nname = "a"\n[gateway]\n') == [
        "underlay: is missing, and [gateway] needs it; write [underlay] with provider_addresses"
    ]
    host = problems('[appliance]\nname = "a"\n[host]\nname = "hv1"\n')
    assert host == [
        "underlay: is missing, and [host] needs it; write [underlay] with provider_addresses",
        'host.name: there is no host "hv1"; write [[provider_host]]',
    ]


def test_a_role_is_a_section() -> None:
    assert problems('gateway = true\n[appliance]\nname = "a"\n[lookup]\n') == [
        "underlay: is missing, and [gateway] needs it; write [underlay] with provider_addresses",
        "gateway: true is not a table of keys; write [gateway]",
    ]


def test_what_there_may_be_several_of_is_an_array_of_tables() -> None:
    assert problems('[appliance]\nname = "a"\n[lookup]\n[tenant]\nname = "red"\nsubnet = [5]\n') == [
        "tenant: there may be several, so write [[tenant]]",
        "tenant[red].subnet[#1]: 5 is not a table of keys; write [[tenant.subnet]]",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[appliance]\nname = \n", "not TOML: Invalid value (at line 2, column 8)"),
        ("[appliance\n", "not TOML: Expected ']' at the end of a table declaration (at line 1, column 11)"),
        ("a = 1\na = 2\n", "not TOML: Cannot overwrite a value (at line 2, column 6)"),
        ("a = " + "[" * 100_000, "not TOML that can be read: nested too deeply"),
    ],
)
def test_a_mistake_of_syntax_is_said_with_its_line_and_column(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_a_number_of_many_digits_is_said_without_its_digits() -> None:
    assert problems(with_change("vsid = 6001", "vsid = 0x" + "f" * 5000)) == [
        "tenant[blue].subnet[web].vsid: a huge number is no VSID; use 4096 to 16777214 (RFC 7637 section 3.4)"
    ]
    with pytest.raises(ConfigurationError, match="not TOML: "):
        parse(with_change("vsid = 6001", "vsid = " + "9" * 5000))


def test_an_access_rule_whose_mistake_nobody_noted_is_a_bug_and_is_not_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Notes, "problems", lambda notes: [])

    with pytest.raises(RuntimeError):
        parse(with_change('action = "allow"', ""))


# --- serving records, and asking for them


GATEWAY_AND_HOST = with_change(
    "[host]\n", '[gateway]\nlookup = ["https://192.0.2.253:7637"]\ntoken_file = "a"\n[host]\n', FOLLOWER
)


def test_a_gateway_and_a_host_in_one_process_ask_in_one_way() -> None:
    text = with_change('records = "used"\n', "", GATEWAY_AND_HOST)

    assert problems(text) == [
        (
            "host.lookup: and its credential are unlike [gateway]'s; "
            "give both the same, or leave out one of the two"
        )
    ]


def test_a_gateway_needs_more_records_than_those_that_its_host_uses() -> None:
    asking = FOLLOWER[FOLLOWER.index("lookup =") : FOLLOWER.index("records =")]
    text = with_change("[host]\n", f"[gateway]\n{asking}[host]\n", FOLLOWER)

    assert problems(text) == [
        'host.records: "used" is not enough for the [gateway] beside it; leave it out',
    ]


def test_a_service_that_others_reach_needs_tls_and_somebody_who_may_ask() -> None:
    head = '[appliance]\nname = "a"\n[lookup]\nlisten = "0.0.0.0:7637"\n'
    lead = 'lookup.listen: "0.0.0.0:7637" is not on loopback, which needs TLS and authentication; write '
    tail = ', or use "127.0.0.1:PORT" or "[::1]:PORT"'
    tls = '[lookup.tls]\ncert = "a.pem"\nkey = "a.key"\n'
    alice = '[[lookup.token]]\nname = "alice"\nrole = "operator"\ntoken_file = "alice.token"\n'

    somebody = "at least one [[lookup.token]] or [[lookup.certificate]]"
    assert problems(head) == [f"{lead}[lookup.tls] and {somebody}{tail}"]
    assert problems(head + tls) == [f"{lead}{somebody}{tail}"]
    assert problems(head + alice) == [f"{lead}[lookup.tls]{tail}"]
    parse(head + tls + alice)


def test_what_is_told_by_the_lookup_services_is_not_told_by_the_file_as_well() -> None:
    network = """
[[provider_host]]
name = "hv1"
provider_addresses = ["198.51.100.11"]
tenants = ["red"]

[[provider_gateway]]
name = "edge-1"
provider_addresses = ["192.0.2.254"]

[[tenant]]
name = "red"
gateways = ["edge-1"]

[[tenant.subnet]]
name = "web"
vsid = 5001
prefixes = ["10.0.1.0/24"]
"""

    assert problems(FOLLOWER + network) == [
        f"{section}: is not used with host.lookup, where the network comes from; leave out one of the two"
        for section in ("provider_host", "provider_gateway", "tenant")
    ]


# --- files


def load_problems(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """The whole file with sound secrets beside it."""
    for name in ("hv1.token", "dashboard.token", "lookup.key", "etcd.key", "seattle.psk"):
        (tmp_path / name).write_text("not a secret")
        (tmp_path / name).chmod(0o600)
    for name in ("lookup.pem", "clients.pem", "etcd-ca.pem", "etcd.pem"):
        (tmp_path / name).write_text("PEM")
        (tmp_path / name).chmod(0o644)
    (tmp_path / "appliance.toml").write_text(WHOLE)
    return tmp_path / "appliance.toml"


def test_sound_secret_files_are_accepted(configuration: Path) -> None:
    appliance = load(configuration)

    assert appliance.lookup is not None
    assert appliance.lookup.credentials[0].token_file == configuration.with_name("hv1.token")
    assert appliance.network.tenants[0].sites[0].ike.psk_file == configuration.with_name("seattle.psk")


@pytest.fixture
def with_certificates(configuration: Path) -> Path:
    """The same, with certificates for both sides of a site."""
    text = with_change(
        'psk_file = "seattle.psk"',
        'certificate_file = "a.pem", key_file = "a.key", authority_files = ["x.pem", "y.pem"],'
        ' revocation_files = ["x.crl"]',
    )
    configuration.write_text(text)
    for name in ("a.pem", "a.key", "x.pem", "y.pem", "x.crl"):
        configuration.with_name(name).write_text("PEM")
        configuration.with_name(name).chmod(0o600 if name == "a.key" else 0o644)
    return configuration


def test_certificates_may_be_read_by_others(with_certificates: Path) -> None:
    assert load(with_certificates).network.tenants[0].sites[0].ike.authority_files == (
        with_certificates.with_name("x.pem"),
        with_certificates.with_name("y.pem"),
    )


def test_a_private_key_is_a_secret_and_an_authority_nobody_else_may_write(with_certificates: Path) -> None:
    key, authority = with_certificates.with_name("a.key"), with_certificates.with_name("y.pem")
    key.chmod(0o640)
    authority.chmod(0o664)
    with_certificates.with_name("a.pem").write_text("")
    with_certificates.with_name("x.crl").unlink()

    ike = "tenant[red].site[seattle].ike"
    assert load_problems(with_certificates) == [
        f"{ike}.certificate_file: {with_certificates.with_name('a.pem')} is empty; put PEM in it",
        f"{ike}.key_file: mode 0640 lets others read it; chmod 600 {key}",
        f"{ike}.authority_files[#2]: mode 0664 lets others write it; chmod 644 {authority}",
        f"{ike}.revocation_files: {with_certificates.with_name('x.crl')}: No such file or directory",
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601, 0o777])
def test_a_secret_that_others_may_read_is_refused(configuration: Path, mode: int) -> None:
    secret = configuration.with_name("seattle.psk")
    secret.chmod(mode)

    assert load_problems(configuration) == [
        f"tenant[red].site[seattle].ike.psk_file: mode {mode:04o} lets others read it; chmod 600 {secret}"
    ]


def test_every_secret_that_is_missing_or_unusable_is_said(configuration: Path) -> None:
    secret, token = configuration.with_name("seattle.psk"), configuration.with_name("hv1.token")
    secret.unlink()
    token.unlink()
    token.mkdir()

    assert load_problems(configuration) == [
        f"lookup.token[hv1].token_file: {token} is not a regular file",
        f"tenant[red].site[seattle].ike.psk_file: {secret}: No such file or directory",
    ]


def test_an_empty_secret_is_refused(configuration: Path) -> None:
    configuration.with_name("hv1.token").write_text("")

    (said,) = load_problems(configuration)
    assert said.startswith("lookup.token[hv1].token_file: ")
    assert said.endswith("hv1.token is empty; put the secret in it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user_is_refused(configuration: Path) -> None:
    token = configuration.with_name("hv1.token")
    try:
        os.chown(token, 12345, -1)
    except OSError as error:
        pytest.skip(f"this root cannot give a file away ({error.strerror})")

    (said,) = load_problems(configuration)
    assert said.startswith(f"lookup.token[hv1].token_file: {token} belongs to user 12345; give it to root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_secret_that_who_runs_this_could_not_read_is_refused(configuration: Path) -> None:
    configuration.write_text(with_change('name = "edge-1"', 'name = "edge-1"\nuser = "nobody"'))

    assert load_problems(configuration) == [
        f"{key}: nobody may not read {file}: chown nobody {file}"
        for key, file in (
            ("lookup.tls.key", configuration.with_name("lookup.key")),
            ("lookup.etcd.key", configuration.with_name("etcd.key")),
            ("lookup.token[hv1].token_file", configuration.with_name("hv1.token")),
            ("lookup.token[dashboard].token_file", configuration.with_name("dashboard.token")),
            ("tenant[red].site[seattle].ike.psk_file", configuration.with_name("seattle.psk")),
        )
    ]


def test_secrets_are_looked_at_although_other_things_are_wrong(configuration: Path) -> None:
    configuration.write_text(with_change("mtu = 1500", "mtu = 1"))
    configuration.with_name("hv1.token").chmod(0o644)

    assert [said.partition(":")[0] for said in load_problems(configuration)] == [
        "underlay.mtu",
        "lookup.token[hv1].token_file",
    ]


def test_what_the_lookup_service_shows_may_be_read_by_others_and_what_it_keeps_may_not(
    configuration: Path,
) -> None:
    for name in ("lookup.key", "etcd.key", "lookup.pem", "clients.pem", "etcd-ca.pem", "etcd.pem"):
        configuration.with_name(name).chmod(0o664)

    assert [said.partition(" ")[0] for said in load_problems(configuration)] == [
        "lookup.tls.cert:",
        "lookup.tls.key:",
        "lookup.tls.client_ca:",
        "lookup.etcd.ca:",
        "lookup.etcd.cert:",
        "lookup.etcd.key:",
    ]
    configuration.with_name("lookup.pem").chmod(0o644)
    assert "lets others read it; chmod 600" in load_problems(configuration)[0]


def test_the_files_of_a_node_that_asks_are_looked_at(tmp_path: Path) -> None:
    configuration = tmp_path / "appliance.toml"
    configuration.write_text(FOLLOWER)
    for name in ("hv1.token", "hv1.key", "hv1.pem", "lookup-ca.pem"):
        (tmp_path / name).write_text("not a secret")
        (tmp_path / name).chmod(0o600)
    assert load(configuration).lookup_access is not None

    (tmp_path / "hv1.token").chmod(0o644)
    (tmp_path / "hv1.key").unlink()
    (tmp_path / "lookup-ca.pem").chmod(0o666)
    assert [said.partition(":")[0] for said in load_problems(configuration)] == [
        "host.token_file",
        "host.ca",
        "host.key",
    ]


def test_the_secret_of_an_incomplete_site_is_looked_at_too(configuration: Path) -> None:
    configuration.write_text(with_change('peer = "203.0.113.7"', ""))
    configuration.with_name("seattle.psk").chmod(0o644)

    assert [said.partition(":")[0] for said in load_problems(configuration)] == [
        "tenant[red].site[seattle].peer",
        "tenant[red].site[seattle].ike.psk_file",
    ]


def test_the_secret_of_a_site_that_another_gateway_dials_is_not_sought(configuration: Path) -> None:
    configuration.write_text(with_change('gateway = "edge-1"', 'gateway = "edge-2"'))
    configuration.with_name("seattle.psk").unlink()

    assert load(configuration).network.tenants[0].sites[0].gateway == "edge-2"


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")

    assert load_problems(absent) == [f"{absent}: No such file or directory"]
    assert load_problems(tmp_path) == [f"{tmp_path}: Is a directory"]
    assert load_problems(binary)[0].startswith(f"{binary} is not text in UTF-8: ")
