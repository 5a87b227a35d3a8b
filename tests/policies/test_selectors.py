"""Which packets a selector holds, and what two have in common."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, ip_network, summarize_address_range

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.addresses import CustomerAddress
from policies.facts import ICMP, ICMPV6, TCP, UDP, PacketFacts
from policies.selectors import MOST_SELECTORS, Selectors, TrafficSelector

GRE = 47
OPAQUE = (65535, 0)


def facts(
    source: str = "10.0.1.5",
    destination: str = "172.16.0.9",
    protocol: int = TCP,
    ports: tuple[int, int] = (50000, 443),
    icmp: tuple[int, int] = (-1, -1),
    fragment_offset: int = 0,
) -> PacketFacts:
    has_ports = protocol in (TCP, UDP) and not fragment_offset
    return PacketFacts(
        version=CustomerAddress.parse(source).version,
        source=CustomerAddress.parse(source),
        destination=CustomerAddress.parse(destination),
        protocol=protocol,
        traffic_class=0,
        hop_limit=64,
        header_length=20,
        total_length=100,
        source_port=ports[0] if has_ports else 0,
        destination_port=ports[1] if has_ports else 0,
        icmp_type=icmp[0],
        icmp_code=icmp[1],
        fragment_offset=fragment_offset,
    )


def selector(prefix: str, protocol: int = 0, start_port: int = 0, end_port: int = 65535) -> TrafficSelector:
    whole = TrafficSelector.of(ip_network(prefix))
    return TrafficSelector(whole.start, whole.end, protocol, start_port, end_port)


def admits(local: TrafficSelector, packet: PacketFacts) -> bool:
    """Whether our side's selector lets a packet out, to anywhere."""
    everywhere = (selector("0.0.0.0/0"), selector("::/0"))
    return Selectors((local,), everywhere).admit_outbound(packet)


def test_a_prefix_selects_its_first_and_its_last_address() -> None:
    web = TrafficSelector.of(ip_network("10.0.1.0/24"))

    assert (web.start, web.end) == (bytes((10, 0, 1, 0)), bytes((10, 0, 1, 255)))
    assert web.holds(web.start)
    assert web.holds(web.end)
    assert not web.holds(bytes((10, 0, 2, 0)))
    assert not web.holds(bytes((10, 0, 0, 255)))


def test_a_selector_of_one_family_holds_nothing_of_the_other() -> None:
    everything = selector("0.0.0.0/0")

    assert not everything.holds(bytes(16))
    assert everything.within(selector("::/0")) is None


def test_packets_out_and_in_are_held_to_opposite_ends() -> None:
    selectors = Selectors((selector("10.0.1.0/24"),), (selector("172.16.0.0/16"),))
    out = facts("10.0.1.5", "172.16.0.9")
    back = facts("172.16.0.9", "10.0.1.5")

    assert selectors.admit_outbound(out)
    assert selectors.admit_inbound(back)
    assert not selectors.admit_outbound(back)
    assert not selectors.admit_inbound(out)
    assert not selectors.admit_inbound(facts("172.17.0.9", "10.0.1.5"))
    assert not selectors.admit_inbound(facts("172.16.0.9", "10.0.2.5"))


def test_ports_are_those_of_each_end() -> None:
    https = Selectors((selector("10.0.1.0/24"),), (selector("172.16.0.0/16", TCP, 443, 444),))

    assert https.admit_outbound(facts(ports=(443, 444)))
    assert not https.admit_outbound(facts(ports=(443, 50000)))
    assert not https.admit_outbound(facts(ports=(443, 444), protocol=UDP))
    assert https.admit_inbound(facts("172.16.0.9", "10.0.1.5", ports=(443, 50000)))
    assert not https.admit_inbound(facts("172.16.0.9", "10.0.1.5", ports=(50000, 443)))


@pytest.mark.parametrize(("source", "protocol"), [("10.0.1.5", ICMP), ("fd00::5", ICMPV6)])
def test_for_icmp_a_port_is_the_type_and_the_code(source: str, protocol: int) -> None:
    destination = "172.16.0.9" if protocol == ICMP else "fd00:1::9"
    echo = selector("0.0.0.0/0" if protocol == ICMP else "::/0", protocol, 8 << 8, 8 << 8 | 255)

    assert admits(echo, facts(source, destination, protocol, icmp=(8, 0)))
    assert admits(echo, facts(source, destination, protocol, icmp=(8, 255)))
    assert not admits(echo, facts(source, destination, protocol, icmp=(9, 0)))
    assert not admits(echo, facts(source, destination, protocol, icmp=(3, 4)))
    assert not admits(echo, facts(source, destination, protocol))


def test_icmp_of_the_other_family_has_neither_type_nor_ports() -> None:
    assert not admits(selector("0.0.0.0/0", 0, 0, 100), facts(protocol=ICMPV6))
    assert admits(selector("0.0.0.0/0", ICMPV6), facts(protocol=ICMPV6))


def test_a_later_fragment_fits_any_port_and_opaque_and_no_other() -> None:
    fragment = facts(fragment_offset=1480)

    assert admits(selector("10.0.1.0/24"), fragment)
    assert admits(selector("10.0.1.0/24", TCP), fragment)
    assert admits(selector("10.0.1.0/24", TCP, *OPAQUE), fragment)
    assert not admits(selector("10.0.1.0/24", TCP, 0, 65534), fragment)
    assert not admits(selector("10.0.1.0/24", UDP), fragment)
    assert not admits(selector("10.0.1.0/24", TCP, *OPAQUE), facts())


def test_a_protocol_without_ports_does_not_fit_a_range_of_them() -> None:
    assert not admits(selector("10.0.1.0/24", GRE, 0, 1023), facts(protocol=GRE))
    assert admits(selector("10.0.1.0/24", GRE, *OPAQUE), facts(protocol=GRE))
    assert admits(selector("10.0.1.0/24", GRE), facts(protocol=GRE))


def test_any_port_and_opaque_have_opaque_in_common_but_a_range_has_nothing() -> None:
    opaque = selector("10.0.1.0/24", TCP, *OPAQUE)

    assert selector("10.0.0.0/8", TCP).within(opaque) == opaque
    assert opaque.within(opaque) == opaque
    assert opaque.within(selector("10.0.0.0/8", TCP, 0, 65534)) is None
    assert opaque.within(selector("10.0.0.0/8", TCP, 65535, 65535)) is None


# --- narrowing

OURS = Selectors(
    (selector("10.0.1.0/24"), selector("10.0.2.0/24"), selector("fd00:1::/64")),
    (selector("172.16.0.0/16"), selector("fd00:16::/48")),
)


def test_an_offer_of_everything_is_narrowed_to_what_we_have() -> None:
    everything = (selector("0.0.0.0/0"), selector("::/0"))

    assert OURS.narrowed_to(Selectors(everything, everything)) == OURS


def test_an_offer_of_less_is_taken_as_it_is() -> None:
    less = Selectors((selector("10.0.2.128/25", TCP, 80, 80),), (selector("172.16.5.0/24"),))

    assert OURS.narrowed_to(less) == less


def test_an_offer_that_begins_with_the_packet_that_caused_it_is_not_answered_twice() -> None:
    packet = selector("10.0.1.5/32", TCP, 443, 443)
    offer = Selectors((packet, selector("10.0.1.0/24")), (selector("172.16.0.0/16"),))

    assert OURS.narrowed_to(offer) == Selectors((selector("10.0.1.0/24"),), (selector("172.16.0.0/16"),))


def test_an_offer_of_something_else_is_nothing() -> None:
    assert OURS.narrowed_to(Selectors((selector("10.9.0.0/16"),), (selector("172.16.0.0/16"),))) is None
    assert OURS.narrowed_to(Selectors((selector("10.0.1.0/24"),), (selector("172.17.0.0/16"),))) is None
    assert OURS.narrowed_to(Selectors((), (selector("172.16.0.0/16"),))) is None


def test_a_family_that_only_one_side_has_left_is_no_part_of_the_answer() -> None:
    both = (selector("0.0.0.0/0"), selector("::/0"))

    narrowed = OURS.narrowed_to(Selectors(both, (selector("0.0.0.0/0"),)))

    assert narrowed == Selectors(OURS.local[:2], (selector("172.16.0.0/16"),))
    assert OURS.narrowed_to(Selectors((selector("0.0.0.0/0"),), (selector("::/0"),))) is None


def test_an_answer_has_no_more_selectors_than_its_payload_can_count() -> None:
    ports = tuple(selector("10.0.0.0/8", TCP, port, port) for port in range(255))
    ours = Selectors((selector("10.0.1.0/24"), selector("10.0.2.0/24")), (selector("172.16.0.0/16"),))

    narrowed = ours.narrowed_to(Selectors(ports, (selector("0.0.0.0/0"),)))

    assert narrowed is not None
    assert len(narrowed.local) == MOST_SELECTORS


def test_an_offer_of_hundreds_is_not_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    within, count = TrafficSelector.within, itertools.count()
    monkeypatch.setattr(TrafficSelector, "within", lambda *two: (next(count), within(*two))[1])
    hosts = tuple(selector(f"10.0.1.{last}/32") for last in range(0, 256, 2))

    OURS.narrowed_to(Selectors(hosts, (selector("172.16.0.0/16"),)))

    assert next(count) < 1000


# --- all packets of a small world, against what the words say

ADDRESSES = [bytes((10, 0, 0, last)) for last in range(4)]
PORTS = (0, 1, 2, 65534, 65535)
WORLD = [
    facts(f"10.0.0.{last}", "10.0.0.0", protocol, (port, 0), (port >> 8, port & 255), offset)
    for last, protocol, port, offset in itertools.product(range(4), (ICMP, TCP, GRE), PORTS, (0, 8))
]

small_selectors = st.builds(
    lambda first, last, protocol, ports: TrafficSelector(
        ADDRESSES[min(first, last)], ADDRESSES[max(first, last)], protocol, *ports
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from((0, ICMP, TCP, GRE)),
    st.one_of(
        st.sampled_from([(0, 65535), OPAQUE]),
        st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda two: (min(two), max(two))),
    ),
)


def held(one: TrafficSelector) -> set[int]:
    """The packets of the world whose sources are selected, found without the code under test."""
    found = set()
    for index, packet in enumerate(WORLD):
        if not one.start[3] <= packet.source[3] <= one.end[3]:
            continue
        if one.protocol and one.protocol != packet.protocol:
            continue
        number = {TCP: packet.source_port, ICMP: packet.icmp_type * 256 + packet.icmp_code}.get(
            packet.protocol
        )
        if packet.fragment_offset:
            number = None
        if (one.start_port, one.end_port) == (0, 65535):
            fits = True
        elif (one.start_port, one.end_port) == OPAQUE:
            fits = number is None
        else:
            fits = number is not None and one.start_port <= number <= one.end_port
        if fits:
            found.add(index)
    return found


@given(small_selectors)
def test_a_selector_admits_what_its_words_say(one: TrafficSelector) -> None:
    assert {index for index, packet in enumerate(WORLD) if admits(one, packet)} == held(one)


@given(small_selectors, small_selectors)
def test_what_two_selectors_have_in_common_is_what_both_hold(
    one: TrafficSelector, two: TrafficSelector
) -> None:
    common = one.within(two)

    assert common == two.within(one)
    assert (held(common) if common else set()) == held(one) & held(two)


@given(*(st.lists(small_selectors, min_size=1, max_size=4) for _ in range(4)))
def test_a_narrowed_pair_admits_a_packet_exactly_if_both_did(
    local: list[TrafficSelector],
    remote: list[TrafficSelector],
    offered_local: list[TrafficSelector],
    offered_remote: list[TrafficSelector],
) -> None:
    own = Selectors(tuple(local), tuple(remote))
    offered = Selectors(tuple(offered_local), tuple(offered_remote))

    narrowed = own.narrowed_to(offered)

    for packet in WORLD:
        both = own.admit_outbound(packet) and offered.admit_outbound(packet)
        assert (narrowed is not None and narrowed.admit_outbound(packet)) == both
        both = own.admit_inbound(packet) and offered.admit_inbound(packet)
        assert (narrowed is not None and narrowed.admit_inbound(packet)) == both


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (selector("10.0.1.0/24"), "10.0.1.0/24"),
        (selector("fd00:1::/64", ICMPV6), "fd00:1::/64[icmpv6]"),
        (selector("10.0.1.5/32", TCP, 443, 443), "10.0.1.5/32[tcp/443]"),
        (selector("10.0.1.5/32", UDP, 1000, 1999), "10.0.1.5/32[udp/1000-1999]"),
        (selector("10.0.1.5/32", GRE, *OPAQUE), "10.0.1.5/32[47/opaque]"),
        (selector("10.0.1.5/32", 0, 1, 2), "10.0.1.5/32[any/1-2]"),
        (TrafficSelector(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 6))), "10.0.0.1-10.0.0.6"),
    ],
)
def test_a_selector_prints_as_a_prefix_or_a_range(one: TrafficSelector, text: str) -> None:
    assert str(one) == text


def test_selectors_print_both_ends() -> None:
    assert str(
        Selectors((selector("10.0.1.0/24"), selector("10.0.2.0/24")), (selector("172.16.0.0/16"),))
    ) == ("10.0.1.0/24 10.0.2.0/24 === 172.16.0.0/16")


def test_of_many_selectors_the_first_are_printed() -> None:
    hosts = tuple(selector(f"10.0.1.{last}/32") for last in range(200))

    text = str(Selectors(hosts, (selector("172.16.0.0/16"),)))

    assert text.endswith("10.0.1.7/32 and 192 more === 172.16.0.0/16")


@given(st.integers(0, 255), st.integers(0, 255))
def test_a_range_prints_as_a_prefix_exactly_if_it_is_one(first: int, last: int) -> None:
    first, last = min(first, last), max(first, last)
    ends = [IPv4Address(bytes((10, 0, 0, each))) for each in (first, last)]
    prefixes = list(map(str, summarize_address_range(*ends)))

    text = str(TrafficSelector(ends[0].packed, ends[1].packed))

    assert text == (prefixes[0] if len(prefixes) == 1 else f"{ends[0]}-{ends[1]}")
