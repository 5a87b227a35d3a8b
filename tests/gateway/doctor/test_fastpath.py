"""What the doctor makes of what the fast path has on a machine, and of what does not see its packets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from gateway.doctor import fastpath, firewall
from gateway.doctor.fastpath import Machine
from gateway.doctor.findings import Finding, Level
from gateway.doctor.firewall import Rules
from gateway.fastpath import features
from gateway.fastpath.drivers import Driver
from gateway.fastpath.features import Feature, Features, Interface
from gateway.fastpath.leftovers import Leftover
from policies.config import parse
from policies.model import Appliance

OK, WARN, FAIL, SKIPPED = Level.OK, Level.WARN, Level.FAIL, Level.SKIPPED

CARD = Interface("eth1", 2, 1500, driver=Driver(is_native=True, sends=True))
HAS_ALL = Machine(
    features=Features(
        kernel=(
            Feature(features.PERMISSION, "no program can be loaded"),
            Feature("links", "there is no fast path"),
            Feature("a compiler", "it is slow", is_needed=False),
        ),
        interfaces=(CARD,),
        pinning=Feature("a BPF file system", "it ends with the process", is_needed=False),
    ),
    verified=Feature("a verifier that takes the program", "there is no fast path"),
)


def appliance(engine: str = "auto", more: str = "", role: str = "[gateway]") -> Appliance:
    return parse(
        f'[appliance]\nname = "edge-1"\nengine = "{engine}"\n'
        f'[underlay]\nprovider_addresses = ["192.0.2.254"]\n{role}\n{more}'
    )


def judged(
    machine: Machine = HAS_ALL,
    rules: Rules = Rules(),  # noqa: B008 - a frozen value
    *,
    engine: str = "auto",
    more: str = "",
    runs: bool = False,
) -> list[Finding]:
    return list(fastpath.judge(machine, rules, appliance(engine, more), runs=runs))


def wrong(found: Iterable[Finding]) -> list[tuple[Level, str]]:
    return [(each.level, each.what) for each in found if each.level is not OK]


def with_interface(**changes: object) -> Machine:
    changed = msgspec.structs.replace(CARD, **changes)
    return msgspec.structs.replace(
        HAS_ALL, features=msgspec.structs.replace(HAS_ALL.features, interfaces=(changed,))
    )


def with_kernel(*kernel: Feature) -> Machine:
    return msgspec.structs.replace(
        HAS_ALL, features=msgspec.structs.replace(HAS_ALL.features, kernel=kernel), verified=None
    )


def test_machine_with_everything_is_well_and_each_thing_is_named_with_what_it_is_for() -> None:
    found = judged()

    assert wrong(found) == []
    words = [each.what for each in found]
    assert "links: there; without it there is no fast path" in words
    assert "a verifier that takes the program: there; without it there is no fast path" in words
    assert (
        "eth1: its driver has native XDP; without it all interfaces are generic, several times slower"
        in words
    )


@pytest.mark.parametrize(("engine", "level"), [("auto", WARN), ("xdp", FAIL)])
def test_what_is_missing_fails_only_where_nothing_else_may_carry_the_packets(
    engine: str, level: Level
) -> None:
    found = wrong(judged(with_kernel(Feature("links", "there is no fast path", "Linux 4.19")), engine=engine))

    assert found == [(level, "links: Linux 4.19; without it there is no fast path")]


def test_what_is_only_slow_without_never_fails() -> None:
    found = judged(
        with_kernel(Feature("a compiler", "it is slow", "it is off", is_needed=False)), engine="xdp"
    )

    assert wrong(found) == [(WARN, "a compiler: it is off; without it it is slow")]


def test_on_another_processor_nobody_is_told_to_ask_as_root() -> None:
    machine = with_kernel(
        Feature("an x86-64 processor", "there is no fast path", "this is aarch64"),
        Feature(features.PERMISSION, "no program can be loaded", features.NOT_TRIED),
        Feature("links", "", features.NOT_TRIED),
    )

    found = [each for each in judged(machine) if each.level is not OK]

    assert [each.level for each in found] == [WARN, SKIPPED]
    assert not any("root" in each.advice for each in found)


def test_what_could_not_be_tried_is_one_line() -> None:
    machine = with_kernel(
        Feature(features.PERMISSION, "no program can be loaded", "this process lacks CAP_BPF"),
        Feature("links", "", features.NOT_TRIED),
        Feature("arrays", "", features.NOT_TRIED),
    )

    (permission, rest) = wrong(judged(machine))
    assert permission[0] is WARN
    assert rest == (SKIPPED, "not tried: links, arrays")
    (permission, _) = wrong(judged(msgspec.structs.replace(machine, is_roots=False)))
    assert permission[0] is SKIPPED


def test_pinning_is_looked_at_where_it_is_configured() -> None:
    pinning = Feature("a BPF file system", "it ends with the process", "it is not mounted", is_needed=False)
    machine = msgspec.structs.replace(
        HAS_ALL, features=msgspec.structs.replace(HAS_ALL.features, pinning=pinning)
    )

    assert wrong(judged(machine)) == []
    ((level, words),) = wrong(judged(machine, engine="xdp", more="[fastpath]\npinned = true"))
    assert level is FAIL
    assert "it is not mounted" in words


NO_XDP = Driver(is_native=False, sends=False)
DEAF = Driver(is_native=True, sends=False)


@pytest.mark.parametrize(
    ("changes", "mode", "expected", "words"),
    [
        ({"driver": NO_XDP}, "auto", [WARN], "the driver of eth1 has no native XDP; without it all"),
        ({"driver": NO_XDP}, "native", [FAIL], "no native XDP; without it it is refused"),
        ({"driver": NO_XDP}, "generic", [], ""),
        ({"kind": "veth", "driver": DEAF}, "auto", [WARN], "a veth whose far end has neither GRO nor"),
        ({"kind": "veth", "driver": None}, "auto", [SKIPPED, SKIPPED], "is not seen here"),
        ({"mtu": 9000}, "auto", [WARN], "the MTU is 9000"),
        ({"mtu": 9000}, "generic", [], ""),
    ],
)
def test_interface_is_judged_by_what_native_mode_needs(
    changes: dict[str, object], mode: str, expected: list[Level], words: str
) -> None:
    found = wrong(judged(with_interface(**changes), engine="xdp", more=f'[fastpath]\nmode = "{mode}"'))

    assert [level for level, _ in found] == expected
    assert not words or any(words in what for _, what in found)


def test_program_that_is_attached_is_somebody_elses_unless_our_fast_path_runs() -> None:
    machine = with_interface(programs=(7,))

    ((level, words),) = wrong(judged(machine, engine="xdp"))
    assert level is FAIL
    assert words.startswith("eth1 has a program of XDP already (7)")
    assert wrong(judged(machine, engine="xdp", runs=True)) == []


def test_program_that_the_appliance_has_pinned_is_its_own_while_it_does_not_run() -> None:
    machine = msgspec.structs.replace(with_interface(programs=(7,)), pinned=frozenset({7}))

    assert wrong(judged(machine, engine="xdp")) == [
        (WARN, "eth1: its packets meet the program 7, which this appliance has pinned")
    ]


@pytest.mark.parametrize(
    ("machine", "rules", "words"),
    [
        (HAS_ALL, Rules(filtering=("inet filter input",)), "passes by the rules of inet filter input"),
        (msgspec.structs.replace(HAS_ALL, old_tables=("raw",)), Rules(), "the rules of iptables raw"),
        (with_interface(is_filtered=True), Rules(), "passes by the filters of tc at eth1"),
    ],
)
def test_what_does_not_see_the_packets_that_the_fast_path_carries_is_told(
    machine: Machine, rules: Rules, words: str
) -> None:
    ((level, told),) = wrong(judged(machine, rules))

    assert level is WARN
    assert words in told


@pytest.mark.parametrize(
    ("is_served", "engine", "level", "words"),
    [
        (True, "xdp", FAIL, "and edge-0 runs"),
        (True, "auto", WARN, "and edge-0 runs"),
        (False, "xdp", WARN, "and nobody tells it of changes: edge-0 does not run"),
    ],
)
def test_program_that_an_appliance_of_another_name_has_pinned_is_that_ones(
    is_served: bool, engine: str, level: Level, words: str
) -> None:
    others = (Leftover("edge-0", "eth1", Path("/sys/fs/bpf/isthmus/edge-0/eth1"), 7, is_served),)
    machine = msgspec.structs.replace(with_interface(programs=(7,)), others=others)

    found = judged(machine, engine=engine)
    whose = "there is program 7 on eth1, which edge-0 has pinned at /sys/fs/bpf/isthmus/edge-0/eth1"
    assert wrong(found) == [(level, f"{whose}, {words}")]
    assert all(each.advice for each in found if each.level is not OK)


def test_rules_that_nobody_could_list_are_not_said_to_be_none() -> None:
    ((level, words),) = wrong(judged(HAS_ALL, Rules(why_not="nft is not installed")))

    assert level is SKIPPED
    assert words.endswith("whether there are any is not known: nft is not installed")


def test_tcpdump_and_strict_sources_are_told_of_though_nothing_is_wrong() -> None:
    found = judged(msgspec.structs.replace(HAS_ALL, strict_sources=frozenset({"eth1", "eth9"})))

    assert wrong(found) == []
    assert any(each.what.startswith("tcpdump on eth1 does not see") for each in found)
    assert any(each.what.startswith("rp_filter=1 at eth1 does not hold") for each in found)


def test_every_finding_that_is_not_well_says_what_to_do() -> None:
    machine = msgspec.structs.replace(
        with_interface(mtu=9000, programs=(7,), is_filtered=True), old_tables=("raw",)
    )

    assert all(each.advice for each in judged(machine) if each.level is not OK)


def test_chains_that_may_drop_what_comes_in_are_others_filters_only() -> None:
    ours = {"family": "inet", "table": "isthmus", "name": "input", "type": "filter", "hook": "input"}
    theirs = {**ours, "table": "filter"}
    translating = {**theirs, "table": "nat", "type": "nat", "hook": "prerouting"}
    leaving = {**theirs, "hook": "output"}
    listed = {"nftables": [{"chain": each} for each in (ours, theirs, translating, leaving)]}

    assert firewall.filtering(msgspec.json.encode(listed).decode()) == ("inet filter input",)
