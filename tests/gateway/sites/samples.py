"""What is said of a site, for tests to which most of that does not matter."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.sites.status import SiteStatus

_UP = SiteStatus(
    tenant="red",
    site="seattle",
    state="up",
    since=0.0,
    start="start",
    peer="203.0.113.7",
    local_id="edge-1.example",
    remote_id="seattle.example",
    prefixes=["172.16.0.0/16"],
    path=None,
    ike_suite=None,
    children=[],
    sent_packets=0,
    sent_octets=0,
    received_packets=0,
    received_octets=0,
    ike_rekeys=0,
    child_rekeys=0,
    failures=0,
    retry_in=None,
    last_error=None,
    history=[],
)


def site_status(state: str = "up", since: float = 0.0, **changes: Any) -> SiteStatus:
    """Red's seattle, which is up and has carried nothing, unless changed."""
    return msgspec.structs.replace(_UP, state=state, since=since, **changes)
