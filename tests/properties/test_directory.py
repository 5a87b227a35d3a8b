"""The directory answers as a plain list of records would."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis
from hypothesis import strategies as st

from gateway.forwarding.directory import Change, Delete, Directory, Put
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord

VSIDS = [Vsid(0x1000), Vsid(0x1001), Vsid(0xFFFFFE)]
CAS = [CustomerAddress.parse(text) for text in ("10.0.1.5", "10.0.1.6", "fd00:1::5", "fd00:1::6")]
MACS = [MacAddress(bytes((2, 0, 0, 0, 0, last))) for last in range(3)]
PAS = [ProviderAddress.parse(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1")]
HOSTS = ["", "hv1", "hv2"]

puts = st.builds(
    Put,
    st.builds(
        LookupRecord,
        vsid=st.sampled_from(VSIDS),
        ca=st.sampled_from(CAS),
        mac=st.sampled_from(MACS),
        pa=st.sampled_from(PAS),
        host=st.sampled_from(HOSTS),
        epoch=st.integers(0, 3),
    ),
)
deletes = st.builds(Delete, vsid=st.sampled_from(VSIDS), ca=st.sampled_from(CAS))


class Naive:
    """The same answers from one dictionary that is searched from end to end."""

    def __init__(self) -> None:
        self.records: dict[tuple[int, bytes], LookupRecord] = {}
        self.heard: list[Change] = []

    def apply(self, change: Change) -> None:
        if isinstance(change, Put):
            self.records[change.record.vsid, change.record.ca] = change.record
        elif not isinstance(change, Delete) or self.records.pop((change.vsid, change.ca), None) is None:
            return
        self.heard.append(change)

    def find_by_mac(self, vsid: int, mac: bytes) -> set[LookupRecord]:
        return {record for record in self.records.values() if (record.vsid, record.mac) == (vsid, mac)}

    def hosts(self, vsid: int) -> dict[str, set[ProviderAddress]]:
        found: dict[str, set[ProviderAddress]] = {}
        for record in self.records.values():
            if record.vsid == vsid:
                found.setdefault(record.host, set()).add(record.pa)
        return found


def compare(directory: Directory, naive: Naive) -> None:
    assert len(directory) == len(naive.records)
    assert Counter(directory) == Counter(naive.records.values())
    for vsid in VSIDS:
        for ca in CAS:
            assert directory.find(vsid, bytes(ca)) is naive.records.get((vsid, ca))
        for mac in MACS:
            found = directory.find_by_mac(vsid, bytes(mac))
            assert len(found) == len(set(found))
            assert set(found) == naive.find_by_mac(vsid, mac)
        hosts = list(directory.hosts(vsid))
        assert len(hosts) == len(dict(hosts))
        for host, addresses in hosts:
            assert len(addresses) == len(set(addresses)), host
        assert {host: set(addresses) for host, addresses in hosts} == naive.hosts(vsid)


@hypothesis.given(st.lists(puts | deletes, max_size=40))
def test_directory_answers_as_a_plain_list_would(changes: list[Change]) -> None:
    directory, naive = Directory(), Naive()
    heard: list[Change] = []
    directory.subscribe(heard.append)

    for change in changes:
        directory.apply(change)
        naive.apply(change)
        compare(directory, naive)

    assert heard == naive.heard


@hypothesis.given(st.lists(puts, max_size=40))
def test_directory_made_of_records_is_the_one_that_was_told_them(changes: list[Put]) -> None:
    naive = Naive()
    for change in changes:
        naive.apply(change)

    compare(Directory(change.record for change in changes), naive)


def test_directory_that_has_forgotten_everything_keeps_nothing() -> None:
    chance = random.Random(7637)
    directory = Directory()
    for _ in range(5000):
        vsid, ca, mac = chance.choice(VSIDS), chance.choice(CAS), chance.choice(MACS)
        directory.apply(Put(LookupRecord(vsid, ca, mac, chance.choice(PAS), chance.choice(HOSTS))))
    for record in list(directory):
        directory.apply(Delete(record.vsid, record.ca))

    assert len(directory) == 0
    assert directory._segments == {}


def test_subscriber_sees_the_directory_as_it_is_after_the_change() -> None:
    directory = Directory()
    seen: list[LookupRecord | None] = []
    record = LookupRecord(VSIDS[0], CAS[0], MACS[0], PAS[0], "hv1")
    directory.subscribe(lambda change: seen.append(directory.find(VSIDS[0], CAS[0])))

    directory.apply(Put(record))
    directory.apply(Delete(VSIDS[0], CAS[0]))
    directory.apply(Delete(VSIDS[0], CAS[0]))

    assert seen == [record, None]
