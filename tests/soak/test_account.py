"""An account that is not right is told, whatever in it is wrong."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from gateway.operating.report import (
    DropReport,
    FastPathReport,
    NoticesReport,
    Report,
    SubnetReport,
    UnderlayReport,
)
from tests.soak.account import Account
from tests.soak.numbered import SUBNETS, Counts, Judgement, Kind

CAME, OCTETS = 10, 600


def right() -> Account:
    """Each virtual subnet has had ten packets, and one of each other kind was dropped."""
    width = len(SUBNETS)
    counts = Counts(
        sent=Counter({Kind.ROUTED: CAME * width, Kind.DENIED: 1, Kind.EXPIRED: 1}),
        judged=Counter({Judgement.RIGHT: CAME * width - 1, Judgement.OLD_IN_TIME: 1, Judgement.BACK: 1}),
        by_kind=Counter({Kind.ROUTED: CAME * width}),
        to_packets=[CAME] * width,
        to_octets=[OCTETS] * width,
        from_packets=[CAME] * width,
        from_octets=[OCTETS] * width,
    )
    meters = [
        SubnetReport(
            tenant=subnet.tenant,
            subnet=subnet.name,
            vsid=subnet.vsid,
            sent_packets=CAME,
            sent_octets=OCTETS,
            received_packets=CAME,
            received_octets=OCTETS,
        )
        for subnet in SUBNETS
    ]
    drops = [DropReport("access-denied", "ruled", 1), DropReport("hop-limit", "plain", 1)]
    report = Report(node="edge-1", drops=drops, meters=meters, notices=NoticesReport(sent=1))
    return Account(counts, report)


def with_report(account: Account, **changed: object) -> Account:
    return msgspec.structs.replace(account, report=msgspec.structs.replace(account.report, **changed))


def with_counts(account: Account, **changed: object) -> Account:
    return msgspec.structs.replace(account, counts=msgspec.structs.replace(account.counts, **changed))


def test_an_account_in_which_all_is_right_has_no_problem() -> None:
    assert list(right().problems()) == []


def test_what_the_kernel_and_the_links_had_no_room_for_is_accounted_for() -> None:
    sent = right().counts.sent + Counter({Kind.DENIED: 5})
    account = with_counts(right(), sent=sent)
    assert account.unaccounted == 5

    account = with_report(account, underlay=UnderlayReport(kernel_drops=3))
    assert list(msgspec.structs.replace(account, on_the_way_in=2).problems()) == []


@pytest.mark.parametrize("by", [1, -1])
def test_a_packet_that_nobody_knows_of_is_told_and_one_too_many(by: int) -> None:
    sent = Counter({**right().counts.sent, Kind.ROUTED: right().counts.sent[Kind.ROUTED] + by})
    problems = list(with_counts(right(), sent=sent).problems())

    assert f"{by} of {sum(sent.values())} packets are unaccounted for" in problems


def test_a_packet_dropped_for_another_kinds_reason_is_told() -> None:
    drops = [DropReport("access-denied", "ruled", 2)]

    assert len(list(with_report(right(), drops=drops).problems())) == 2


def test_a_drop_that_no_kind_explains_is_told() -> None:
    drops = [*right().report.drops[:1], DropReport("loop", "plain", 1)]

    assert any("{'loop'}" in problem for problem in with_report(right(), drops=drops).problems())


@pytest.mark.parametrize("what", ["sent_packets", "sent_octets", "received_packets", "received_octets"])
def test_a_meter_that_is_one_off_is_told(what: str) -> None:
    first, *others = right().report.meters
    meter = msgspec.structs.replace(first, **{what: getattr(first, what) + 1})

    assert any("meter" in problem for problem in with_report(right(), meters=[meter, *others]).problems())


@pytest.mark.parametrize("judgement", [Judgement.STALE, Judgement.WRONG_TENANT, Judgement.TWICE])
def test_a_packet_that_is_judged_wrong_is_told(judgement: Judgement) -> None:
    judged = Counter(right().counts.judged)
    judged[Judgement.RIGHT] -= 1
    judged[judgement] += 1

    assert f"1 packets are {judgement.name}" in list(with_counts(right(), judged=judged).problems())


def test_a_packet_that_should_have_been_dropped_and_came_is_told() -> None:
    by_kind = right().counts.by_kind + Counter({Kind.DENIED: 1})

    problems = list(with_counts(right(), by_kind=by_kind).problems())
    assert "1 packets of kind DENIED were carried" in problems


def with_fast_path(carried: int, passed: int) -> Account:
    fast = FastPathReport(
        interfaces=[],
        pinned=False,
        records=1,
        capacity=1,
        without_place=0,
        tenants=1,
        tenants_left=0,
        left_to_python=[],
        hops_unresolved=0,
        hops_resyncs=0,
        unresolved=[],
        carried=carried,
        passed={"teach": passed},
    )
    return msgspec.structs.replace(with_report(right(), fastpath=fast), redirected=50, let_pass=10)


def test_a_fast_path_that_has_counted_what_the_driver_has_done_has_no_problem() -> None:
    assert list(with_fast_path(50, 10).problems()) == []


@pytest.mark.parametrize(("carried", "passed"), [(49, 10), (51, 10), (50, 11)])
def test_a_fast_path_that_has_counted_something_else_than_was_done_is_told(carried: int, passed: int) -> None:
    assert len(list(with_fast_path(carried, passed).problems())) == 1


def test_icmp_errors_that_do_not_arrive_are_told() -> None:
    problems = list(with_report(right(), notices=NoticesReport(sent=2)).problems())

    assert problems == ["1 ICMP errors have come to the talkers, of 2"]
