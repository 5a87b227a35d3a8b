"""The sites' state in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.operating.words import duration, moment, octets
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


def detail(site: SiteStatus, now: float) -> Iterator[str]:
    """Describe one site with what has happened to it, the latest first."""
    yield from _site(site, now)
    for turn in reversed(site.history):
        yield f"  {moment(turn.at)}  {turn.what}{f': {turn.why}' if turn.why else ''}"


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
        yield f"  sent        {site.sent_packets:,} packets, {octets(site.sent_octets)}"
        yield f"  received    {site.received_packets:,} packets, {octets(site.received_octets)}"
    if site.last_error is not None:
        yield f"  last error  {moment(site.last_error.at)}: {site.last_error.why}"


def _state(site: SiteStatus, now: float) -> str:
    since = f"since {moment(site.since)} ({duration(now - site.since)})"
    if site.state == "up":
        return f"up {since}"
    more = f", {site.failures} failed attempts" if site.failures > 1 else ""
    if site.retry_in is not None:
        more += f", tries again in {duration(site.retry_in)}"
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
