"""The fast path in words: what it carries, and what of it is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.operating.health import TOLD, Finding
from gateway.operating.report import DETACHED, AttachedReport, FastPathReport, Report
from policies.model import FastPathMode

_MANUAL = "docs/fastpath.md says more"


def line(report: FastPathReport) -> str:
    """Describe the fast path in one line."""
    places = ", ".join(f"{each.mode} on {each.interface}" for each in report.interfaces) or "on no interface"
    passed = sum(report.passed.values())
    held = f"{_count(report.records, 'record')}, {_count(report.tenants, 'tenant')}"
    packets = f"packets: {report.carried:,} carried, {passed:,} left to Python"
    return f"{places}{', pinned' if report.pinned else ''}; {held}; {packets}"


def findings(report: Report, mode: FastPathMode) -> Iterator[Finding]:
    """Tell what is wrong with the fast path, attached as it is to be, or why there is none."""
    if report.engine_reason:
        words = f"Python carries every packet: the fast path {report.engine_reason}"
        yield Finding(level="note", words=words, advice="`isthmus doctor FILE` looks at all that it needs")
    if report.fastpath is None:
        return
    for each in report.fastpath.interfaces:
        yield from _attached(each, mode)
    yield from _places(report.fastpath)
    yield from _unresolved(report.fastpath)
    yield from _left(report.fastpath)


def _attached(attached: AttachedReport, mode: FastPathMode) -> Iterator[Finding]:
    why = f": {attached.why}" if attached.why else ""
    if attached.mode == DETACHED:
        yield Finding(
            level="warning",
            words=f"Python carries what comes by {attached.interface}, where the fast path is no longer"
            f" attached{why}",
            advice="it is attached again by itself once the interface is there, and nothing is in its way",
        )
        return
    if attached.mode == FastPathMode.NATIVE or mode is FastPathMode.GENERIC:
        return
    yield Finding(
        level="warning" if mode is FastPathMode.NATIVE else "note",
        words=f"the fast path is generic on {attached.interface}, and so several times slower{why}",
        advice="`isthmus doctor FILE` says what the driver lacks",
    )


def _places(report: FastPathReport) -> Iterator[Finding]:
    if report.without_place:
        left, known = report.without_place, report.records + report.without_place
        yield Finding(
            level="warning",
            words=f"the fast path is full: {left:,} of {known:,} records are left to Python",
            advice="their packets are carried, slowly; spread the tenants over more gateways",
        )


def _unresolved(report: FastPathReport) -> Iterator[Finding]:
    if report.hops_unresolved:
        reasons = _some(report.unresolved, report.hops_unresolved)
        yield Finding(
            level="warning",
            words=f"some hosts are beyond the fast path's reach: {reasons}",
            advice="look at `ip route get` and `ip neigh`: is the host, or the router to it, there?",
        )


def _left(report: FastPathReport) -> Iterator[Finding]:
    if report.tenants_left:
        tenants = [f"{each.tenant} ({each.why})" for each in report.left_to_python]
        words = _some(tenants, report.tenants_left)
        yield Finding(level="note", words=f"Python alone carries tenants: {words}", advice=_MANUAL)


def _some(names: list[str], count: int) -> str:
    told = "; ".join(names[:TOLD])
    more = count - len(names[:TOLD])
    return f"{told} and {more:,} more" if more else told


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
