"""What is told of the fast path: every count, and a bounded number of names."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from gateway.fastpath.hops import Unresolved, Why
from gateway.fastpath.layout import Passed
from gateway.fastpath.nexthops import NextHopsStatus
from gateway.fastpath.status import MOST_TOLD, Attached, FastPathStatus
from gateway.operating.report import AttachedReport, FastPathReport, LeftReport
from policies.addresses import ProviderAddress
from policies.model import FastPathMode

SILENT = Unresolved(ProviderAddress.parse("198.51.100.12"), Why.NO_ROUTE)
HOPS = NextHopsStatus(resolved=3, unresolved=1, examples=(SILENT,), resyncs=2)


def status(left: dict[str, str]) -> FastPathStatus:
    return FastPathStatus(
        interfaces=(Attached("eth1", FastPathMode.GENERIC, "its driver has no native XDP"),),
        records=7,
        capacity=16,
        without_place=1,
        tenants=2,
        left_to_python=left,
        hops=HOPS,
        carried=5,
        passed={"site": 2},
    )


def test_report_has_what_the_engine_knows_in_words() -> None:
    assert status({"blue": "too many rules"}).report() == FastPathReport(
        interfaces=[AttachedReport("eth1", "generic", "its driver has no native XDP")],
        pinned=False,
        records=7,
        capacity=16,
        without_place=1,
        tenants=2,
        tenants_left=1,
        left_to_python=[LeftReport("blue", "too many rules")],
        hops_unresolved=1,
        hops_resyncs=2,
        unresolved=["198.51.100.12 has no next hop: no route"],
        carried=5,
        passed={each.word: 2 if each is Passed.SITE else 0 for each in Passed},
    )


def test_interface_that_it_is_no_longer_attached_to_is_told() -> None:
    attached = (Attached("eth1", FastPathMode.NATIVE), Attached("eth2", FastPathMode.NATIVE, is_there=False))
    report = msgspec.structs.replace(status({}), interfaces=attached).report()

    assert [(each.interface, each.mode) for each in report.interfaces] == [
        ("eth1", "native"),
        ("eth2", "detached"),
    ]


def test_tenants_beyond_a_few_are_counted_and_not_named() -> None:
    report = status({f"tenant-{number}": "too many rules" for number in range(5000)}).report()

    assert report.tenants_left == 5000
    assert len(report.left_to_python) == MOST_TOLD


def test_the_document_says_what_each_reason_is_that_packets_are_left_to_python_for() -> None:
    document = (Path(__file__).parents[3] / "docs" / "fastpath.md").read_text()
    _, _, table = document.partition("| reason | what it is |")
    rows, _, _ = table.partition("\n\n")

    assert set(re.findall(r"^\| `([a-z-]+)` \|", rows, re.MULTILINE)) == {each.word for each in Passed}
