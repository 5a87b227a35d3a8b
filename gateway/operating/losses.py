"""Says what has been lost lately: one line a reason and tenant now and then, however much it was."""

from __future__ import annotations

import logging
from collections import Counter

import trio

from gateway.operating.report import Report
from gateway.operating.reporting import Counting

log = logging.getLogger("isthmus")

WATCH_EVERY = 10.0
"""Seconds between two looks: a flood makes one line, not one a packet."""


async def watch(path: Counting) -> None:
    """Say what has been lost since the last look, for ever."""
    report = path.report()
    dropped, lost = _dropped(report), _lost(report)
    while True:
        await trio.sleep(WATCH_EVERY)
        report = path.report()
        before, dropped = dropped, _dropped(report)
        for (reason, tenant), packets in sorted((dropped - before).items()):
            about = {"event": "dropped", "tenant": tenant, "cause": reason}
            log.warning("dropped %d packets: %s", packets, reason, extra=about)
        lost_before, lost = lost, _lost(report)
        for side, packets in sorted((lost - lost_before).items()):
            about = {"event": "kernel-drops", "what": side}
            words = "the kernel dropped %d packets of the %s: they came faster than they were read"
            log.warning(words, packets, side, extra=about)


def _dropped(report: Report) -> Counter[tuple[str, str]]:
    return Counter({(drop.reason, drop.tenant): drop.packets for drop in report.drops})


def _lost(report: Report) -> Counter[str]:
    return Counter(
        underlay=report.underlay.kernel_drops,
        tunnels=report.tunnels.kernel_drops,
        ports=report.ports.kernel_drops,
    )
