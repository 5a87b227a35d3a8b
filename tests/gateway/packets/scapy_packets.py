"""Packets that scapy builds, of every kind that the tests ask it about."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Security,
)
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.packet import Raw

from policies.addresses import Address, MacAddress

octets = st.integers(0, 0xFF)
words = st.integers(0, 0xFFFF)
longs = st.integers(0, 0xFFFFFFFF)
payloads = st.binary(max_size=64)
macs = st.binary(min_size=6, max_size=6).map(MacAddress)
# Not to a group or from nowhere: scapy makes other packets of those.
v4_addresses = st.binary(min_size=3, max_size=3).map(lambda tail: Address(b"\x0a" + tail))
v6_addresses = st.binary(min_size=15, max_size=15).map(lambda tail: Address(b"\xfd" + tail))

OPTIONS = [
    IPOption_NOP(),
    IPOption_Router_Alert(),
    IPOption_Security(),
    IPOption_RR(routers=["0.0.0.0"] * 2),
    IPOption(b"\x8f\x05abc"),
]
SOURCE_ROUTE = IPOption_LSRR(routers=["10.9.8.7"])


def v4_headers_with(options: list[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda source, destination, tos, ttl, identification, options: IP(
            src=str(source), dst=str(destination), tos=tos, ttl=ttl, id=identification, options=options
        ),
        v4_addresses,
        v4_addresses,
        octets,
        octets,
        words,
        st.lists(st.sampled_from(options), max_size=3) if options else st.just([]),
    )


v4_headers = v4_headers_with([*OPTIONS, SOURCE_ROUTE])
# A source route puts another destination into the pseudo header, which no network card knows of.
direct_v4_headers = v4_headers_with(OPTIONS)
v6_headers = st.builds(
    lambda source, destination, traffic_class, label, hop_limit: IPv6(
        src=str(source), dst=str(destination), tc=traffic_class, fl=label, hlim=hop_limit
    ),
    v6_addresses,
    v6_addresses,
    octets,
    st.integers(0, 0xFFFFF),
    octets,
)
tcp_options = st.lists(
    st.one_of(
        st.builds(lambda mss: ("MSS", mss), words),
        st.just(("NOP", None)),
        st.builds(lambda shift: ("WScale", shift), st.integers(0, 14)),
        st.just(("SAckOK", b"")),
        st.builds(lambda one, two: ("Timestamp", (one, two)), longs, longs),
    ),
    max_size=3,
)
tcp_segments = st.builds(
    lambda sport, dport, seq, ack, flags, options, payload: (
        TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, options=options) / Raw(payload)
    ),
    words,
    words,
    longs,
    longs,
    octets,
    tcp_options,
    payloads,
)
udp_datagrams = st.builds(
    lambda sport, dport, payload: UDP(sport=sport, dport=dport) / Raw(payload), words, words, payloads
)
pings = st.builds(lambda i, n, payload: ICMP(type=8, id=i, seq=n) / Raw(payload), words, words, payloads)
v6_pings = st.builds(
    lambda i, n, payload: ICMPv6EchoRequest(id=i, seq=n, data=payload), words, words, payloads
)
extensions = st.tuples(
    st.lists(
        st.sampled_from([IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"\0" * 9)])]), max_size=1
    ),
    st.lists(
        st.sampled_from(
            [
                IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]),
                IPv6ExtHdrRouting(type=2, segleft=0, addresses=["fd00::9"]),
                IPv6ExtHdrFragment(id=7),
            ]
        ),
        max_size=3,
        unique_by=type,
    ),
).map(lambda two: [*two[0], *two[1]])

v4_packets = st.builds(
    lambda header, upper: header / upper, v4_headers, st.one_of(tcp_segments, udp_datagrams, pings)
)


def stack(header: Any, chain: list[Any], upper: Any) -> Any:
    for each in chain:
        header = header / each.copy()
    return header / upper


v6_packets = st.builds(stack, v6_headers, extensions, st.one_of(tcp_segments, udp_datagrams, v6_pings))
packets = st.one_of(v4_packets, v6_packets)

long_payloads = st.integers(1, 3000).map(lambda size: bytes(i * 31 & 0xFF for i in range(size)))

v4_errors = st.one_of(
    st.builds(lambda code: ICMP(type=3, code=code), st.integers(0, 15)),
    st.builds(lambda code: ICMP(type=11, code=code), st.integers(0, 1)),
    st.builds(lambda pointer: ICMP(type=12, code=0, ptr=pointer), octets),
    st.just(ICMP(type=5, code=1, gw="10.0.0.1")),
)
v6_errors = st.one_of(
    st.builds(lambda code: ICMPv6DestUnreach(code=code), st.integers(0, 6)),
    st.builds(lambda mtu: ICMPv6PacketTooBig(mtu=mtu), longs),
    st.just(ICMPv6TimeExceeded()),
)
