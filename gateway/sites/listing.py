"""The sites' state in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from gateway.sites.status import ChildStatus, SiteStatus


def lines(sites: Iterable[SiteStatus], now: float) -> Iterator[str]:
    """Describe each site in a few lines. `now` is in seconds since 1970."""
    found = False
    for site in sorted(sites, key=lambda each: (each.tenant, each.site)):
        if found:
            yield ""
        found = True
        yield from _site(site, now)
    if not found:
        yield "this appliance dials no sites"


def _site(site: SiteStatus, now: float) -> Iterator[str]:
    yield f"{site.tenant}/{site.site}: {_state(site, now)}"
    yield f"  peer        {site.path or site.peer}; we are {site.local_id}, it is {site.remote_id}"
    yield f"  prefixes    {' '.join(site.prefixes)}"
    if site.ike_suite is not None and site.state == "up":
        yield f"  ike         {site.ike_suite}, rekeyed {_times(site.ike_rekeys)}"
        for child in site.children:
            yield f"  child       {_child(child)}"
        yield f"              rekeyed {_times(site.child_rekeys)}"
    if site.sent_packets or site.received_packets:
        yield f"  sent        {site.sent_packets:,} packets, {_octets(site.sent_octets)}"
        yield f"  received    {site.received_packets:,} packets, {_octets(site.received_octets)}"
    if site.last_error is not None:
        yield f"  last error  {_moment(site.last_error.at)}: {site.last_error.why}"


def _state(site: SiteStatus, now: float) -> str:
    since = f"since {_moment(site.since)} ({_duration(now - site.since)})"
    if site.state == "up":
        return f"up {since}"
    more = f", {site.failures} failed attempts" if site.failures > 1 else ""
    if site.retry_in is not None:
        more += f", tries again in {_duration(site.retry_in)}"
    elif site.state == "waiting":
        more += ", waits for the first packet" if site.start == "trap" else ", waits for the peer to dial"
    elif site.state == "connecting":
        more += ", connecting"
    return f"DOWN {since}{more}"


def _child(child: ChildStatus) -> str:
    carrier = "in UDP" if child.in_udp else "ESP"
    selectors = f"{' '.join(child.local)} === {' '.join(child.remote)}"
    return f"{child.name}: {child.suite} {carrier}, MTU {child.mtu}, {selectors}"


def _times(count: int) -> str:
    return "never" if count == 0 else "once" if count == 1 else f"{count} times"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _octets(count: float) -> str:
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} PB"
