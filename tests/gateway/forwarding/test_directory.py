"""Where each customer address is: changed one at a time, found two ways."""

from __future__ import annotations

import random

import pytest

from gateway.forwarding.directory import Change, Delete, Directory, Put
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord
from tests import networks as n

WEB, DB = Vsid(5001), Vsid(5002)
ONE, TWO = MacAddress(b"\x02\0\0\0\0\1"), MacAddress(b"\x02\0\0\0\0\2")


def record(
    ca: str = "10.0.1.5", mac: MacAddress = ONE, host: str = "hv1", vsid: Vsid = WEB, version: int = 4
) -> LookupRecord:
    return LookupRecord(vsid, CustomerAddress.parse(ca), mac, n.pa(host, version), host)


def test_record_is_found_by_address_and_by_mac() -> None:
    held = record()
    directory = Directory([held])

    assert directory.find(WEB, b"\x0a\0\1\5") is held
    assert directory.find_by_mac(WEB, bytes(ONE)) == (held,)
    assert list(directory) == [held]
    assert len(directory) == 1


def test_another_subnets_record_is_not_found() -> None:
    directory = Directory([record()])

    assert directory.find(DB, record().ca) is None
    assert directory.find_by_mac(DB, ONE) == ()


def test_mac_with_both_families_has_two_records_until_one_goes() -> None:
    directory = Directory([record(), record("fd00:1::5")])

    assert {str(each.ca) for each in directory.find_by_mac(WEB, ONE)} == {"10.0.1.5", "fd00:1::5"}
    directory.apply(Delete(WEB, record().ca))
    assert [str(each.ca) for each in directory.find_by_mac(WEB, ONE)] == ["fd00:1::5"]
    directory.apply(Delete(WEB, CustomerAddress.parse("fd00:1::5")))
    assert directory.find_by_mac(WEB, ONE) == ()
    assert len(directory) == 0


def test_newer_record_replaces_the_older_in_both_indexes() -> None:
    directory = Directory([record()])
    moved = record(mac=TWO, host="hv2")
    directory.apply(Put(moved))

    assert directory.find(WEB, moved.ca) is moved
    assert directory.find_by_mac(WEB, ONE) == ()
    assert directory.find_by_mac(WEB, TWO) == (moved,)
    assert dict(directory.hosts(WEB)) == {"hv2": (n.pa("hv2"),)}
    assert len(directory) == 1


def test_hosts_of_a_subnet_are_those_with_records_in_it() -> None:
    directory = Directory(
        [
            record(),
            record("10.0.1.6", TWO),
            record("10.0.1.7", host="hv1", version=6),
            record("10.0.2.5", host="hv2", vsid=DB),
        ]
    )

    assert dict(directory.hosts(WEB)) == {"hv1": (n.pa("hv1"), n.pa("hv1", 6))}
    directory.apply(Delete(WEB, CustomerAddress.parse("10.0.1.7")))
    assert dict(directory.hosts(WEB)) == {"hv1": (n.pa("hv1"),)}
    assert list(directory.hosts(Vsid(9999))) == []


@pytest.mark.parametrize("change", [Delete(WEB, b"\x0a\0\1\x63"), Delete(DB, b"\x0a\0\1\5")])
def test_deleting_what_is_not_there_changes_nothing_and_tells_nobody(change: Delete) -> None:
    directory = Directory([record()])
    told: list[Change] = []
    directory.subscribe(told.append)

    directory.apply(change)

    assert len(directory) == 1
    assert told == []


def test_subscribers_are_told_each_change_after_it_was_made() -> None:
    directory = Directory([record()])
    seen: list[tuple[Change, int]] = []
    directory.subscribe(lambda change: seen.append((change, len(directory))))

    put, delete = Put(record("10.0.1.6")), Delete(WEB, record().ca)
    directory.apply(put)
    directory.apply(delete)

    assert seen == [(put, 2), (delete, 1)]


def test_indexes_agree_after_any_sequence_of_changes() -> None:
    source = random.Random(4)
    directory = Directory()
    expected: dict[tuple[Vsid, bytes], LookupRecord] = {}
    for _ in range(3000):
        vsid = source.choice((WEB, DB))
        ca = CustomerAddress(bytes((10, 0, 0, source.randrange(12))))
        if source.random() < 0.6:
            host = source.choice(("hv1", "hv2"))
            mac = MacAddress(bytes((2, 0, 0, 0, 0, source.randrange(4))))
            new = LookupRecord(vsid, ca, mac, n.pa(host, source.choice((4, 6))), host)
            directory.apply(Put(new))
            expected[vsid, ca] = new
        else:
            directory.apply(Delete(vsid, ca))
            expected.pop((vsid, ca), None)

    assert len(directory) == len(expected)
    assert {(each.vsid, bytes(each.ca)): each for each in directory} == expected
    for vsid in (WEB, DB):
        here = [each for each in expected.values() if each.vsid == vsid]
        for mac in {each.mac for each in here}:
            assert set(directory.find_by_mac(vsid, mac)) == {each for each in here if each.mac == mac}
        hosts: dict[str, set[ProviderAddress]] = {}
        for each in here:
            hosts.setdefault(each.host, set()).add(each.pa)
        assert {host: set(addresses) for host, addresses in directory.hosts(vsid)} == hosts


def test_record_that_is_replaced_is_never_missing_meanwhile() -> None:
    """Another thread reads while it is replaced: it finds the old one or the new one."""

    class Watched(dict[bytes, LookupRecord]):
        def __delitem__(self, key: bytes) -> None:
            raise AssertionError("it was taken away first")

    directory = Directory([record(), record("10.0.1.6", TWO)])
    segment = directory._segments[WEB]
    segment.by_ca = Watched(segment.by_ca)

    for replacement in (record(host="hv2"), record(mac=TWO), record(mac=TWO, host="hv2", version=6)):
        directory.apply(Put(replacement))
        assert directory.find(WEB, replacement.ca) is replacement
        assert replacement in directory.find_by_mac(WEB, replacement.mac)
