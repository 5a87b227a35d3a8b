"""The datacenter's side of the machine: its interfaces, and what they merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.doctor.findings import Finding, Level
from gateway.underlay.interfaces import Attachment
from policies.errors import Problem

AREA = "underlay"


def problems(found: Sequence[Problem]) -> Iterator[Finding]:
    """Say why the machine does not have what the configuration names."""
    for problem in found:
        yield Finding(
            AREA, Level.FAIL, str(problem), "put the configuration or the machine's addresses right"
        )


def judge(
    attachment: Attachment, merging: Mapping[str, Sequence[str]], *, is_running: bool
) -> Iterator[Finding]:
    """Say what is attached, and which interfaces merge packets: they must not while an appliance receives."""
    where = ", ".join(attachment.interfaces)
    yield Finding(AREA, Level.OK, f"attached by {where}, which carries packets of {attachment.mtu} octets")
    for name, offloads in merging.items():
        if not offloads:
            continue
        what = " and ".join(offloads)
        if is_running:
            words = f"{what} is on at {name}: several NVGRE packets come as one, and are cut again slowly"
            keys = " ".join(f"{each.lower()} off" for each in offloads)
            advice = f"somebody has switched it on since the start: ethtool -K {name} {keys}"
            yield Finding(AREA, Level.WARN, words, advice)
        else:
            words = f"{what} is on at {name}, and is switched off while the appliance runs"
            yield Finding(AREA, Level.OK, words)
    if is_running and not any(merging.values()):
        yield Finding(AREA, Level.OK, f"GRO and LRO are off at {where}")
