"""The lines of a watch: written by a node, cut anywhere, and read again."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.client.watch_lines import event
from gateway.lookup.entries import Grant, Kind, LeaseKey, NamedKey, Progress, RecordKey, Reset, Stored
from gateway.lookup.forms import Malformed
from gateway.lookup.network import entries_of
from gateway.lookup.records_wire import deletion, line, progress, resync
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Translation
from tests.gateway.lookup.serving import NETWORK

RECORD = LookupRecord(
    Vsid(5001),
    CustomerAddress.parse("fd00:1::5"),
    MacAddress.parse("02:00:00:00:01:05"),
    ProviderAddress.parse("198.51.100.11"),
    "hv1",
    Translation.REWRITE,
    7,
    1234,
)
LEASE = Stored(
    LeaseKey(ProviderAddress.parse("2001:db8::65")),
    Grant(Vsid(5001), CustomerAddress.parse("fd00:9::9"), "kante-ü", leased=True),
    0,
    1235,
)
ENTRIES = [
    Stored.of(RECORD),
    LEASE,
    *(Stored(key, value, 0, 9) for key, value in entries_of(NETWORK).items()),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry.key))
def test_what_a_node_writes_is_read_as_it_was(entry: Stored) -> None:
    assert event(line(entry)) == entry
    gone = event(deletion(entry.key, 77))
    assert gone == Stored(entry.key, None, 0, 77)


def test_static_records_are_read_as_pinned() -> None:
    static = msgspec.structs.replace(RECORD, epoch=0)
    found = event(line(Stored.of(static)))
    assert isinstance(found, Stored)
    assert found.record == static


@pytest.mark.parametrize("change", [{"returned_at": 5.0}, {"leased": False}])
def test_a_lease_that_has_ended_is_read_as_gone(change: dict[str, object]) -> None:
    assert isinstance(LEASE.value, Grant)
    ended = msgspec.structs.replace(LEASE, value=msgspec.structs.replace(LEASE.value, **change))
    assert event(line(ended)) == Stored(LEASE.key, None, 0, LEASE.revision)


@pytest.mark.parametrize(
    "value",
    [
        b'{"pa":"192.0.2.65","vsid":5001,"ca":"172.16.0.9"}',
        b'{"pa":"192.0.2","vsid":5001,"ca":"172.16.0.9","node":"edge-1"}',
        b'{"pa":"192.0.2.65","vsid":5001,"ca":"nobody","node":"edge-1"}',
        b'{"pa":"192.0.2.65","vsid":"web","ca":"172.16.0.9","node":"edge-1"}',
    ],
)
def test_a_lease_that_makes_no_sense_is_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        event(b'{"type":"put","kind":"lease","revision":7,"value":%b}' % value)


def test_progress_and_resync_are_read() -> None:
    assert event(progress(7)) == Progress(7)
    assert event(resync(8)) == Reset(8)


@given(st.binary())
def test_any_octets_are_an_event_or_malformed(octets: bytes) -> None:
    with suppress(Malformed):
        event(octets)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["hv1", "10.0.1.5", "red"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "vsid", "ca", "mac", "pa", "host", "node", "subnets", "provider_addresses"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(["put", "delete", "progress", "resync"]) | st.text(),
    st.sampled_from([kind.value for kind in Kind]) | ANYTHING,
    st.integers() | ANYTHING,
    ANYTHING,
)
def test_any_json_is_an_event_or_malformed(what: str, kind: object, revision: object, value: object) -> None:
    octets = msgspec.json.encode({"type": what, "kind": kind, "revision": str(revision), "value": value})
    with suppress(Malformed):
        found = event(octets.replace(b'"revision":"' + str(revision).encode() + b'"', b'"revision":5'))
        assert isinstance(found, Stored | Progress | Reset)
        if isinstance(found, Stored):
            assert isinstance(found.key, RecordKey | NamedKey | LeaseKey)
