"""The longest prefix that the tables find is the longest there is."""

from __future__ import annotations

import ipaddress

import hypothesis
from hypothesis import strategies as st

from policies.addresses import CustomerAddress, Prefix
from policies.tables import PrefixTable

# Few different octets, so that prefixes hold each other and addresses fall into them.
octets = st.sampled_from((0, 1, 2, 3, 0x7F, 0x80, 0xFF))
addresses = st.one_of(
    st.lists(octets, min_size=4, max_size=4).map(bytes),
    st.tuples(st.lists(octets, min_size=4, max_size=4), st.lists(octets, min_size=2, max_size=2)).map(
        lambda parts: bytes(parts[0]) + bytes(10) + bytes(parts[1])
    ),
)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(addresses)
    longest = len(address) * 8
    length = draw(st.integers(0, longest) | st.sampled_from((0, 1, 8, 9, 31, longest - 1, longest)))
    return ipaddress.ip_network((address, length), strict=False)


def brute_force(entries: list[tuple[Prefix, int]], address: bytes) -> tuple[Prefix | None, int | None]:
    """Search all entries; of equal prefixes the last counts, as in a dictionary."""
    ip = ipaddress.ip_address(address)
    best: Prefix | None = None
    value = None
    for prefix, candidate in entries:
        if (
            prefix.version == ip.version
            and ip in prefix
            and (best is None or prefix.prefixlen >= best.prefixlen)
        ):
            best, value = prefix, candidate
    return best, value


@hypothesis.given(
    st.lists(st.tuples(prefixes(), st.integers(0, 9)), max_size=30),
    st.lists(addresses, min_size=1, max_size=20),
)
def test_lookup_finds_the_longest_prefix(entries: list[tuple[Prefix, int]], sought: list[bytes]) -> None:
    table = PrefixTable(entries)
    ends = [bytes(prefix[place].packed) for prefix, _ in entries for place in (0, -1)]

    for address in sought + ends:
        prefix, value = brute_force(entries, address)
        assert table.lookup(address) == value
        assert table.match(CustomerAddress(address)) == prefix


@hypothesis.given(st.lists(st.tuples(prefixes(), st.integers(0, 9)), max_size=30))
def test_table_gives_back_what_was_put_in(entries: list[tuple[Prefix, int]]) -> None:
    assert dict(PrefixTable(entries)) == dict(entries)


def test_addresses_just_outside_a_prefix_are_not_in_it() -> None:
    table = PrefixTable(
        [(ipaddress.ip_network("10.0.1.0/24"), "in"), (ipaddress.ip_network("fd00:1::/64"), "in")]
    )

    for inside in ("10.0.1.0", "10.0.1.255", "fd00:1::", "fd00:1:0:0:ffff:ffff:ffff:ffff"):
        assert table.lookup(CustomerAddress.parse(inside)) == "in"
    for outside in (
        "10.0.0.255",
        "10.0.2.0",
        "fd00:0:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd00:1:0:1::",
        "::10.0.1.5",
    ):
        assert table.lookup(CustomerAddress.parse(outside)) is None
