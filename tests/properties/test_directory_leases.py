"""Whatever becomes of records and leases, in whatever order: an address is one's at most."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from gateway.forwarding.directory import Change, Delete, DeleteLease, Directory, Put, PutLease
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import Lease, LookupRecord, Translation

VSIDS = [Vsid(0x1000), Vsid(0x1001)]
CAS = [CustomerAddress.parse(text) for text in ("10.0.1.5", "10.0.1.6", "172.16.0.9")]
PAS = [ProviderAddress.parse(f"192.0.2.{number}") for number in (65, 66, 67)]

records = st.builds(
    LookupRecord,
    vsid=st.sampled_from(VSIDS),
    ca=st.sampled_from(CAS),
    mac=st.just(MacAddress(b"\x02\0\0\0\0\x05")),
    pa=st.sampled_from(PAS),
    host=st.just("hv1"),
    translation=st.sampled_from(Translation),
)
leases = st.builds(
    Lease,
    pa=st.sampled_from(PAS),
    vsid=st.sampled_from(VSIDS),
    ca=st.sampled_from(CAS),
    node=st.just("edge-1"),
)
changes = (
    st.builds(Put, records)
    | st.builds(Delete, vsid=st.sampled_from(VSIDS), ca=st.sampled_from(CAS))
    | st.builds(PutLease, leases)
    | st.builds(DeleteLease, st.sampled_from(PAS))
)


@hypothesis.given(st.lists(changes, max_size=40))
def test_whoever_holds_an_address_is_there_and_has_it(history: list[Change]) -> None:
    directory = Directory()
    for change in history:
        directory.apply(change)
        match change:
            case Put(record) if record.translation is Translation.REWRITE:
                assert directory.holder(record.pa) is record
            case PutLease(lease):
                assert directory.holder(lease.pa) is lease
            case DeleteLease(pa):
                assert not isinstance(directory.holder(pa), Lease)

        told = list(directory.all_leases())
        assert len({lease.pa for lease in told}) == len(told)
        assert sorted(told, key=str) == sorted(
            (each for vsid in VSIDS for ca in CAS for each in directory.leases(vsid, ca)), key=str
        )
        for lease in told:
            assert directory.holder(lease.pa) is lease
            assert lease in directory.leases(lease.vsid, lease.ca)
        for pa in PAS:
            holder = directory.holder(pa)
            if isinstance(holder, LookupRecord):
                assert directory.find(holder.vsid, holder.ca) is holder
                assert (holder.pa, holder.translation) == (pa, Translation.REWRITE)


def test_an_address_of_another_family_stands_for_nobody() -> None:
    ca, pa = CustomerAddress.parse("10.0.1.5"), ProviderAddress.parse("2001:db8::5")
    record = LookupRecord(
        Vsid(5001), ca, MacAddress.parse("02:00:00:00:01:05"), pa, "hv1", Translation.REWRITE
    )
    directory = Directory([record])

    assert directory.holder(pa) is None
    assert directory.find(5001, ca) is record
