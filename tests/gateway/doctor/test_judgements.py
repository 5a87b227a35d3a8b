"""What is made of what has been looked up, area by area. Nothing here touches the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from gateway.doctor import (
    certificates,
    clock,
    firewall,
    ike_ports,
    kernel,
    neighbours,
    paths,
    pools,
    privileges,
    running,
    state,
    underlay,
)
from gateway.doctor.findings import Finding, Level
from gateway.doctor.prober import Path as Measured
from gateway.underlay.interfaces import Attachment
from gateway.underlay.silence import Rule
from policies.addresses import ProviderAddress
from policies.config import parse
from policies.errors import Problem
from policies.model import Appliance, HostRole, Network, ProviderGateway, ProviderHost

OK, WARN, FAIL, SKIPPED = Level.OK, Level.WARN, Level.FAIL, Level.SKIPPED


def appliance(*roles: str) -> Appliance:
    return parse(
        '[appliance]\nname = "edge-1"\n[underlay]\nprovider_addresses = ["192.0.2.254"]\n'
        + "\n".join(roles or ("[gateway]",))
    )


def pa(text: str) -> ProviderAddress:
    return ProviderAddress.parse(text)


def levels(found: Iterable[Finding]) -> list[Level]:
    return [each.level for each in found]


def worst(found: Iterable[Finding]) -> Finding:
    order = [OK, SKIPPED, WARN, FAIL]
    return max(found, key=lambda each: order.index(each.level))


# Privileges


def test_capabilities_are_read_of_a_process_and_compared_with_what_its_roles_need() -> None:
    assert privileges.capabilities("Name:\tx\nCapEff:\t0000000000003000\n") == {12, 13}
    assert privileges.capabilities("nothing") == frozenset()
    (found,) = privileges.judge(frozenset({12, 13}), appliance(), is_running=True)
    assert (found.level, "CAP_NET_BIND_SERVICE" in found.what) == (FAIL, True)
    every = frozenset({10, 12, 13, 38, 39})
    assert levels(privileges.judge(every, appliance(), is_running=True)) == [OK]
    assert levels(privileges.judge(frozenset(), appliance(), is_running=False)) == [WARN]


def test_what_only_the_fast_path_needs_is_missed_by_those_who_insist_on_it() -> None:
    without = frozenset({10, 12, 13})
    python, auto, xdp = (
        parse(
            f'[appliance]\nname = "edge-1"\nengine = "{engine}"\n'
            '[underlay]\nprovider_addresses = ["192.0.2.254"]\n[gateway]\n'
        )
        for engine in ("python", "auto", "xdp")
    )

    assert levels(privileges.judge(without, python, is_running=True)) == [OK]
    ok, slow = privileges.judge(without, auto, is_running=True)
    assert (ok.level, slow.level) == (OK, WARN)
    assert slow.what == "the running appliance lacks CAP_PERFMON, CAP_BPF: there is no fast path"
    assert "`isthmus status FILE` says why" in slow.advice, "it gives them up where it has none"
    assert levels(privileges.judge(without, xdp, is_running=True)) == [FAIL]


# The kernel

KERNEL = kernel.Kernel(
    release="6.1.0",
    modules=frozenset({"veth"}),
    raw_socket=None,
    packet_socket=None,
    has_tun=True,
    interfaces=frozenset({"eth0", "eth1"}),
    forwards=False,
    strict_sources=frozenset(),
    connections=None,
)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, OK, ""),
        ({"modules": frozenset({"ip_gre", "gre"})}, WARN, "ip_gre, gre"),
        ({"raw_socket": "not permitted"}, FAIL, "raw GRE sockets cannot be opened: not permitted"),
        ({"raw_socket": kernel.NOT_ROOT}, SKIPPED, "only root can try"),
        ({"forwards": True}, WARN, "routes by itself"),
        ({"strict_sources": frozenset({"eth1"})}, WARN, "rp_filter=1 on eth1"),
        ({"strict_sources": frozenset({"eth7"})}, OK, ""),
        ({"connections": (10, 262_144)}, OK, ""),
        ({"connections": (250_000, 262_144)}, WARN, "250000 of at most 262144"),
        ({"connections": (262_144, 262_144)}, FAIL, "262144 of at most 262144"),
    ],
)
def test_the_kernel_is_judged_by_what_is_in_the_way(
    change: dict[str, object], level: Level, words: str
) -> None:
    found = list(kernel.judge(msgspec.structs.replace(KERNEL, **change), appliance(), ("eth0", "eth1")))
    assert worst(found).level is level
    assert any(words in each.what for each in found)


def test_a_strict_source_check_is_no_harm_with_one_interface() -> None:
    strict = msgspec.structs.replace(KERNEL, strict_sources=frozenset({"eth0"}))
    assert worst(kernel.judge(strict, appliance(), ("eth0",))).level is OK


# The underlay


def test_merging_is_wrong_only_while_an_appliance_receives() -> None:
    attachment = Attachment(("eth0",), 1500)
    (_, on) = underlay.judge(attachment, {"eth0": ["GRO"]}, is_running=True)
    assert (on.level, on.advice.endswith("ethtool -K eth0 gro off")) == (WARN, True)
    assert set(levels(underlay.judge(attachment, {"eth0": ["GRO"]}, is_running=False))) == {OK}
    assert set(levels(underlay.judge(attachment, {"eth0": []}, is_running=True))) == {OK}
    assert levels(underlay.problems([Problem("underlay.provider_addresses", "x")])) == [FAIL]


# Pools

POOL, OTHER = ip_network("198.51.100.128/26"), ip_network("2001:db8::a:0/112")
MACHINE = pools.Machine((), frozenset({Rule("eth0", POOL), Rule("eth0", OTHER)}), frozenset({("eth0", 4)}))


def judge_pools(*, is_running: bool = True, **change: object) -> list[Finding]:
    machine = msgspec.structs.replace(MACHINE, **change)
    return list(pools.judge(machine, ("eth0",), (POOL, OTHER), is_running=is_running))


def test_pools_that_the_kernel_is_kept_from_are_well() -> None:
    (found,) = judge_pools()
    assert (found.level, found.what) == (OK, "the kernel is kept from 198.51.100.128/26, 2001:db8::a:0/112")
    assert levels(judge_pools(is_running=False, rules=frozenset())) == [OK]
    assert (
        levels(pools.judge(pools.Machine((), frozenset(), frozenset()), ("eth0",), (), is_running=True)) == []
    )


def test_a_rule_that_is_missing_is_worst_where_the_kernel_forwards() -> None:
    ipv4, ipv6 = judge_pools(rules=frozenset())
    assert (ipv4.level, "goes out a second time" in ipv4.what) == (FAIL, True)
    assert ipv4.advice.endswith("ip rule add iif eth0 to 198.51.100.128/26 blackhole priority 637")
    assert (ipv6.level, ipv6.what) == (
        WARN,
        "no rule keeps the kernel from the pool 2001:db8::a:0/112 at eth0",
    )
    assert ipv6.advice.endswith("ip -6 rule add iif eth0 to 2001:db8::a:0/112 blackhole priority 637")


def test_a_rule_for_what_is_no_pool_of_this_node_is_told_at_its_interfaces() -> None:
    left = Rule("eth0", ip_network("203.0.113.0/24"))
    found = judge_pools(rules=MACHINE.rules | {left, Rule("eth9", POOL)})
    assert levels(found) == [OK, WARN]
    assert found[1].advice.endswith("ip rule del iif eth0 to 203.0.113.0/24 blackhole priority 637")


def test_an_address_of_the_machine_in_a_pool_is_a_failure() -> None:
    (address, _) = judge_pools(addresses=("198.51.100.130 of eth0 lies in the pool",))
    assert address.level is FAIL


def test_a_node_serves_the_pools_of_its_roles() -> None:
    network = Network(
        hosts=(ProviderHost("hv1", (), (), pools=(POOL,)), ProviderHost("hv2", (), (), pools=(OTHER,))),
        gateways=(ProviderGateway("edge-1", (), (OTHER,)),),
    )
    edge, hv1, bridged = appliance(), HostRole("hv1"), HostRole("hv1", driver="openvswitch")
    assert pools.own(edge, network) == (OTHER,)
    assert pools.own(msgspec.structs.replace(edge, host=hv1), network) == (OTHER, POOL)
    assert pools.own(msgspec.structs.replace(edge, host=hv1, gateway=False), network) == (POOL,)
    assert pools.own(msgspec.structs.replace(edge, host=bridged, gateway=False), network) == ()


# Paths

HV1, HV2 = ("hv1", pa("198.51.100.11")), ("hv2", pa("2001:db8::12"))


@pytest.mark.parametrize(
    ("measured", "level", "words"),
    [
        (
            Measured(True, 1500),
            OK,
            "1500 octets arrive unfragmented at 198.51.100.11 (hv1): guests' 1458 fit",
        ),
        (Measured(True, 1400, "192.0.2.1"), FAIL, "and up to 1500 are sent: 192.0.2.1 on the way says so"),
        (Measured(True, 1400), FAIL, "nobody on the way says so: larger ones vanish"),
        (Measured(False), WARN, "no ping is answered by 198.51.100.11 (hv1): down, or ICMP echo is filtered"),
        (Measured(False, router="192.0.2.1"), WARN, "not to be reached, says 192.0.2.1"),
        (Measured(False, error="No route to host"), FAIL, "nothing can be sent to 198.51.100.11 (hv1)"),
        (None, SKIPPED, "no time left"),
    ],
)
def test_a_path_is_judged_by_what_arrives(measured: Measured | None, level: Level, words: str) -> None:
    (found,) = paths.judge({HV1: measured}, 1500)
    assert found.level is level
    assert words in found.what


def test_a_small_path_is_told_with_what_it_leaves_guests() -> None:
    (v4,) = paths.judge({HV1: Measured(True, 1400)}, 1500)
    (v6,) = paths.judge({HV2: Measured(True, 1400)}, 1500)
    assert v4.advice.endswith("mtu = 1400 in [underlay] of every node, which leaves guests 1358")
    assert v6.advice.endswith("which leaves guests 1338")


@pytest.mark.parametrize("measured", [Measured(True, 1500), Measured(True, 1400), Measured(False), None])
def test_many_paths_with_the_same_are_one_finding(measured: Measured | None) -> None:
    many = {(f"hv{n}", pa(f"198.51.100.{n}")): measured for n in range(1, 101)}
    (found,) = paths.judge(many, 1500)
    assert "198.51.100.6 (hv6) and 94 more" in found.what


def test_everybody_elses_addresses_are_measured_and_none_of_our_own() -> None:
    network = Network(
        hosts=(ProviderHost("hv1", (HV1[1],), ()),),
        gateways=(ProviderGateway("edge-1", (pa("192.0.2.254"),)), ProviderGateway("edge-2", (HV2[1],))),
    )
    assert paths.others(network, [pa("192.0.2.254")]) == [HV1, ("edge-2", HV2[1])]


# IKE's ports

UDP = """   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
  123: {}:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000 0
  124: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000 0
"""


def hex_words(address: ProviderAddress) -> str:
    words = (bytes(address)[at : at + 4] for at in range(0, len(address), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def test_sockets_at_ikes_ports_are_read_of_the_kernels_table() -> None:
    for text in ("192.0.2.254", "2001:db8::254"):
        (found,) = ike_ports.bound(UDP.format(hex_words(pa(text))))
        assert (found.address, found.port, found.inode) == (bytes(pa(text)), 500, 4711)


@pytest.mark.parametrize(
    ("address", "process", "running", "level"),
    [
        ("0.0.0.0", 12, None, FAIL),
        ("::", 12, 34, FAIL),
        ("192.0.2.254", 12, 34, FAIL),
        ("192.0.2.254", 34, 34, OK),
        ("127.0.0.1", 12, None, OK),
        ("0.0.0.0", None, None, SKIPPED),
        ("0.0.0.0", None, 34, SKIPPED),
    ],
)
def test_another_ike_daemon_is_in_the_way_where_it_has_our_address(
    address: str, process: int | None, running: int | None, level: Level
) -> None:
    charon = ike_ports.Bound(bytes(pa(address)), 500, 1, "charon" if process else "", process)
    (found,) = ike_ports.judge([charon], [pa("192.0.2.254")], running)
    assert found.level is level


# The firewall

OWN = "table inet isthmus {\n ip saddr { 192.0.2.254, 192.0.2.25 } icmp type ..."


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (firewall.Rules(OWN), [OK]),
        (firewall.Rules(OWN.replace("192.0.2.254", "192.0.2.253")), [WARN]),
        (firewall.Rules(OWN.replace("192.0.2.254,", "")), [WARN]),
        (firewall.Rules(), [WARN]),
        (firewall.Rules(OWN, ("inet filter input",)), [OK, WARN]),
        (firewall.Rules(why_not="nft is not installed"), [SKIPPED]),
    ],
)
def test_the_firewall_is_judged_by_its_rules(rules: firewall.Rules, expected: list[Level]) -> None:
    assert levels(firewall.judge(rules, [pa("192.0.2.254")], has_sites=True)) == expected


def test_chains_that_drop_what_comes_in_are_found() -> None:
    chain = {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}
    other = {**chain, "hook": "output"}
    text = msgspec.json.encode(
        {"nftables": [{"metainfo": {"version": "1"}}, {"chain": chain}, {"chain": other}]}
    )
    assert firewall.dropping(text.decode()) == ("inet filter input",)
    assert firewall.dropping("") == firewall.dropping('{"nftables": 7}') == ()


# Clock


@pytest.mark.parametrize(
    ("skews", "expected"),
    [({}, []), ({"a": 0.4}, [OK]), ({"a": 0.4, "b": -9.0}, [WARN]), ({"a": 3600.0}, [FAIL])],
)
def test_clocks_that_differ_are_told(skews: dict[str, float], expected: list[Level]) -> None:
    assert levels(clock.judge_skews(skews)) == expected


def test_a_clock_that_nothing_keeps_right_is_told() -> None:
    assert levels(clock.judge(clock.Discipline(True, 0.01))) == [OK]
    assert levels(clock.judge(clock.Discipline(False, 16.0))) == [WARN]
    assert clock.look().error >= 0


# Certificates


@pytest.mark.parametrize(
    ("begins", "ends", "level", "words"),
    [
        (-10.0, 100.0, OK, "holds for 100 days"),
        (-10.0, 13.0, WARN, "expires in 13.0 days"),
        (-10.0, -2.0, FAIL, "expired 2 days ago"),
        (0.5, 100.0, FAIL, "holds from 0.5 days on only"),
        (-10.0, float("inf"), OK, "holds for ever"),
    ],
)
def test_a_certificate_is_judged_by_its_days(begins: float, ends: float, level: Level, words: str) -> None:
    now = 1.7e9
    validity = certificates.Validity("site red/seattle", Path("x"), now + begins * 86400, now + ends * 86400)
    found = certificates.judge(validity, now)
    assert (found.level, words in found.what) == (level, True)


# State


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, OK),
        ({"mode": 0o750}, WARN),
        ({"mode": 0o770}, FAIL),
        ({"owner": 1000}, FAIL),
        ({"free": 100 << 20}, WARN),
        ({"free": 1 << 20}, FAIL),
        ({"free_files": 3}, FAIL),
        ({"free_files": None}, OK),
        ({"is_there": False, "mode": 0o755}, OK),
    ],
)
def test_the_state_folder_is_judged_by_who_may_look_there_and_its_room(
    change: dict[str, object], level: Level
) -> None:
    folder = state.Folder(Path("/var/lib/isthmus"), True, 0o700, 0, 10 << 30, 10_000)
    assert worst(state.judge(msgspec.structs.replace(folder, **change), 0)).level is level


def test_nobody_is_told_to_give_the_state_folder_to_somebody_where_it_is_not_known_who_runs_it() -> None:
    folder = state.Folder(Path("/var/lib/isthmus"), True, 0o700, 1000, 10 << 30, 10_000)
    assert worst(state.judge(folder, None)).level is OK


def test_a_state_folder_that_is_not_there_is_seen_by_what_is_above_it(tmp_path: Path) -> None:
    folder = state.look(tmp_path / "a" / "b")
    assert (folder.is_there, folder.free > 0) == (False, True)


# Neighbours


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (neighbours.Answer(200, '{"status":"ready"}', 0.01), OK),
        (neighbours.Answer(503, "", 0.01), FAIL),
        (neighbours.Answer(200, '{"health": "false"}', 0.01), FAIL),
        (neighbours.Answer(failure="Connection refused"), FAIL),
    ],
)
def test_a_neighbour_is_judged_by_its_answer(answer: neighbours.Answer, level: Level) -> None:
    node = neighbours.Neighbour("lookup node", "https://192.0.2.253:7637", "/readyz")
    assert neighbours.judge(node, answer).level is level


def test_lookup_nodes_and_etcd_members_are_asked() -> None:
    follows = appliance('[gateway]\nlookup = ["https://192.0.2.253:7637"]\ntoken_file = "x"')
    assert [(each.url, each.path) for each in neighbours.of(follows)] == [
        ("https://192.0.2.253:7637", "/readyz")
    ]
    stores = appliance(
        '[lookup]\nstore = "etcd"\n[lookup.etcd]\nendpoints = ["http://127.0.0.1:2379", "http://127.0.0.1:2381"]'
    )
    assert [each.path for each in neighbours.of(stores)] == ["/health", "/health"]


def test_a_neighbour_that_nobody_is_behind_is_said_to_refuse() -> None:
    node = neighbours.Neighbour("lookup node", "http://127.0.0.1:1", "/readyz")
    assert neighbours.ask(node).failure == "Connection refused"


# The running appliance


def test_a_running_appliance_is_told_with_its_own_troubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_own_version", lambda: "2.0")
    trouble = running.Trouble("bad", "site red/seattle is down", "look at its peer")
    found = list(running.judge(running.Running("1.0", 7, health=[trouble])))
    assert [(each.level, each.what) for each in found] == [
        (WARN, "version 1.0 runs (process 7), and 2.0 is installed"),
        (FAIL, "site red/seattle is down"),
    ]
    well = running.Running("2.0", 7, sites=2, sites_up=2)
    assert levels(running.judge(well)) == [OK, OK]
    assert levels(running.judge("no appliance listens")) == [SKIPPED]


def test_every_finding_that_is_not_well_says_what_to_do() -> None:
    found = [
        *kernel.judge(msgspec.structs.replace(KERNEL, forwards=True, raw_socket="x"), appliance(), ("eth0",)),
        *paths.judge({HV1: Measured(False), HV2: Measured(True, 1300)}, 1500),
        *firewall.judge(firewall.Rules(), [pa("192.0.2.254")], has_sites=False),
        *clock.judge(clock.Discipline(False, 0.0)),
        *clock.judge_skews({"a": 9.0}),
        *privileges.judge(frozenset(), appliance(), is_running=True),
    ]
    assert all(each.advice for each in found if each.level in (WARN, FAIL))
