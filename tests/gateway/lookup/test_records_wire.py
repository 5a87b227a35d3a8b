from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Placement, RecordKey, Stored
from gateway.lookup.records_wire import (
    customer_address,
    deletion,
    lease_line,
    line,
    progress,
    provider_address,
    record_line,
    record_text,
    resync,
)
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, ProviderHost, Translation

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
records = st.builds(
    LookupRecord,
    vsid=st.integers(0x1000, 0xFFFFFE).map(Vsid),
    ca=addresses.map(CustomerAddress),
    mac=st.binary(min_size=6, max_size=6).map(MacAddress),
    pa=addresses.map(ProviderAddress),
    host=names,
    translation=st.sampled_from(Translation),
    epoch=st.integers(0, 1 << 40),
    revision=st.integers(0, 1 << 60),
)


@given(records)
def test_record_is_json_that_says_everything_of_it(record: LookupRecord) -> None:
    found = msgspec.json.decode(record_text(record))

    assert list(found) == ["vsid", "ca", "mac", "pa", "host", "translation", "epoch", "revision"]
    assert CustomerAddress.parse(found["ca"]) == record.ca
    assert ProviderAddress.parse(found["pa"]) == record.pa
    assert MacAddress.parse(found["mac"]) == record.mac
    same = ("vsid", "host", "translation", "epoch", "revision")
    assert [found[name] for name in same] == [getattr(record, name) for name in same]


@given(records)
def test_change_is_one_line_whatever_the_hosts_name(record: LookupRecord) -> None:
    value = Placement(record.mac, record.pa, record.host, record.translation)
    entry = Stored(RecordKey(record.vsid, record.ca), value, record.epoch, record.revision)

    for text in (line(entry), record_line(record)):
        assert text.count(b"\n") == 1
        found = msgspec.json.decode(text)
        assert (found["type"], found["kind"], found["revision"]) == ("put", "record", record.revision)
        assert found["value"] == msgspec.json.decode(record_text(record))


def test_static_record_has_epoch_zero() -> None:
    value = Placement(MacAddress(6), ProviderAddress(4), "hv1", pinned=True)
    entry = Stored(RecordKey(Vsid(5001), CustomerAddress(4)), value, 3, 9)

    assert msgspec.json.decode(line(entry))["value"]["epoch"] == 0


@given(names)
def test_named_entries_and_their_deletions_keep_their_names(name: str) -> None:
    key = NamedKey(Kind.HOST, name)
    put = msgspec.json.decode(line(Stored(key, ProviderHost(name, (), ()), 1, 9)))
    gone = msgspec.json.decode(line(Stored(key, None, 2, 10)))

    assert (put["type"], put["kind"], put["value"]["name"]) == ("put", "host", name)
    assert gone == {"type": "delete", "kind": "host", "revision": 10, "value": {"name": name}}


@given(records, names)
def test_lease_is_one_line_that_says_everything_of_it(record: LookupRecord, node: str) -> None:
    grant = Grant(record.vsid, record.ca, node, leased=True)
    entry = Stored(LeaseKey(record.pa), grant, 1, record.revision)
    assert entry.lease is not None

    assert line(entry) == lease_line(entry.lease)
    assert line(entry).count(b"\n") == 1
    found = msgspec.json.decode(line(entry))
    assert (found["type"], found["kind"], found["revision"]) == ("put", "lease", record.revision)
    assert list(found["value"]) == ["pa", "vsid", "ca", "node"]
    assert ProviderAddress.parse(found["value"]["pa"]) == record.pa
    assert CustomerAddress.parse(found["value"]["ca"]) == record.ca
    assert (found["value"]["vsid"], found["value"]["node"]) == (record.vsid, node)


@pytest.mark.parametrize("ended", [{"returned_at": 1732278000.5}, {"leased": False}])
def test_lease_that_has_ended_is_named_by_its_address_alone(ended: dict[str, object]) -> None:
    grant = Grant(Vsid(5001), CustomerAddress.parse("172.16.0.9"), "edge-1", leased=True)
    entry = Stored(
        LeaseKey(ProviderAddress.parse("192.0.2.65")), msgspec.structs.replace(grant, **ended), 2, 8
    )

    expected = {"type": "delete", "kind": "lease", "revision": 8, "value": {"pa": "192.0.2.65"}}
    assert msgspec.json.decode(line(entry)) == expected


def test_record_that_is_gone_is_named() -> None:
    key = RecordKey(Vsid(5001), CustomerAddress.parse("fd00::5"))

    expected = {"type": "delete", "kind": "record", "revision": 7, "value": {"vsid": 5001, "ca": "fd00::5"}}
    assert msgspec.json.decode(deletion(key, 7)) == expected


def test_where_a_watch_is() -> None:
    assert msgspec.json.decode(progress(7)) == {"type": "progress", "revision": 7}
    assert msgspec.json.decode(resync(7)) == {"type": "resync", "revision": 7}


@given(addresses)
def test_address_is_read_by_every_usual_notation(octets: bytes) -> None:
    address = ipaddress.ip_address(octets)

    for text in (str(address), address.exploded, str(address).upper()):
        assert customer_address(text) == octets
        assert provider_address(text) == octets


@given(st.text(max_size=45))
def test_any_text_is_an_address_or_is_refused(text: str) -> None:
    try:
        found = customer_address(text)
    except ValueError:
        return
    assert len(found) in {4, 16}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.1",
        "10.0.1.05",
        "10.0.1.256",
        "1.2.3.4\0",
        "fe80::1%eth0",
        ":::",
        " 10.0.1.5",
        "0x0a.0.1.5",
        "\ud800",
    ],
)
def test_other_notations_are_refused_in_few_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address") as refused:
        customer_address(text)
    assert len(str(refused.value)) < 120
