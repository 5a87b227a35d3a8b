"""How entries lie in etcd."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.claims import Write
from gateway.lookup.entries import Key, Kind, LeaseKey, NamedKey, RecordKey
from gateway.lookup.store import Prefix, StoreUnavailable
from gateway.lookup.stores import etcd_layout
from gateway.lookup.stores.etcd_layout import Layout
from gateway.lookup.stores.etcd_wire import KeyValue
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from tests.gateway.lookup.entries import CA4, CA6, KEY4, MAC, VALUES, WEB, at

LAYOUT = Layout("/isthmus/")

addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
records = st.builds(RecordKey, st.integers(0x1000, 0xFFFFFE).map(Vsid), addresses.map(CustomerAddress))
leases = st.builds(LeaseKey, addresses.map(ProviderAddress))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_keys_are_readable() -> None:
    assert LAYOUT.key(KEY4) == b"/isthmus/record/00005001/0a000105"
    assert LAYOUT.key(NamedKey(Kind.TENANT, "red")) == b"/isthmus/tenant/red"
    assert LAYOUT.key(LeaseKey(ProviderAddress.parse("203.0.113.5"))) == b"/isthmus/lease/cb007105"
    assert LAYOUT.index_key(WEB, MAC) == b"/isthmus/mac/00005001/020000000105"


def test_value_is_json_with_the_epoch_and_the_write() -> None:
    written = etcd_layout.written(Write(KEY4, at("hv1"), 7), "abc-1")
    assert json.loads(written) == {
        "epoch": 7,
        "write": "abc-1",
        "value": {"mac": "02:00:00:00:01:05", "pa": "198.51.100.1", "host": "hv1"},
    }


@pytest.mark.parametrize("key", VALUES, ids=str)
def test_every_kind_of_entry_is_read_as_it_was_written(key: Key) -> None:
    for value in (VALUES[key], None):
        written = etcd_layout.written(Write(key, value, 7), "abc-1")
        found = KeyValue(LAYOUT.key(key), written, mod_revision=12)
        stored = LAYOUT.read(found)
        assert stored is not None
        assert (stored.key, stored.value, stored.epoch, stored.revision) == (key, value, 7, 12)
        assert etcd_layout.identity(found) == "abc-1"


@given(st.lists(records | leases | st.builds(NamedKey, st.just(Kind.HOST), names)))
def test_order_of_etcd_is_that_of_keys_of_a_kind(keys: list[Key]) -> None:
    for kind in (Kind.RECORD, Kind.LEASE, Kind.HOST):
        those = sorted(key for key in keys if key.kind is kind)
        assert those == sorted(those, key=LAYOUT.key)
        assert [LAYOUT.read_key(LAYOUT.key(key)) for key in those] == those


@given(records)
def test_range_of_a_subnet_holds_its_records_and_no_others(key: RecordKey) -> None:
    for vsid in (key.vsid, Vsid(key.vsid + 1), Vsid(key.vsid - 1)):
        start, end = LAYOUT.range(Prefix(Kind.RECORD, vsid))
        assert (start <= LAYOUT.key(key) < end) == (vsid == key.vsid)
    start, end = LAYOUT.all
    assert start <= LAYOUT.key(key) < end


@pytest.mark.parametrize(
    "key",
    [
        b"/isthmus/mac/00005001/020000000105",
        b"/isthmus/leases/1",
        b"/isthmus/lease/1",
        b"/isthmus/lease/cb0071",
        b"/isthmus/record/1",
        b"/isthmus/",
    ],
)
def test_key_that_is_no_entrys_is_passed_over(key: bytes) -> None:
    assert LAYOUT.read(KeyValue(key, b"{}")) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"epoch":1}',
        b'{"epoch":1,"write":"a","value":{}}',
        b'{"epoch":"1","write":"a","value":null}',
        b'{"epoch":1,"write":"a","value":{"mac":"x","pa":"198.51.100.1","host":"hv1"}}',
        b'{"epoch":1,"write":"a","value":{"mac":"02:00:00:00:01:05","pa":"hv1","host":"hv1"}}',
    ],
)
def test_value_that_somebody_else_wrote_is_said_so_with_its_key(value: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="key /isthmus/record/00005001/0a000105 holds no record"):
        LAYOUT.read(KeyValue(LAYOUT.key(KEY4), value))
    with pytest.raises(StoreUnavailable, match="key /isthmus/tenant/red holds no tenant"):
        LAYOUT.read(KeyValue(b"/isthmus/tenant/red", b"{}"))


@pytest.mark.parametrize("value", [b"", b"{}", b'{"addresses":["10.0.1"]}'])
def test_index_that_is_none_is_said_so(value: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="is no index"):
        etcd_layout.read_index(KeyValue(b"/isthmus/mac/00005001/020000000105", value))


def test_index_is_read_as_it_was_written() -> None:
    assert etcd_layout.read_index(KeyValue(b"", etcd_layout.index({CA6, CA4}))) == {CA4, CA6}
    assert etcd_layout.read_index(None) == set()
