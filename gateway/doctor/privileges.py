"""What the appliance's process may do, and whether that is enough for its roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.doctor.findings import Finding, Level
from gateway.process.privileges import Capabilities, Capability, needed
from policies.model import Appliance

AREA = "privileges"


def look(process: int | None) -> Capabilities:
    """Return what a process may do; None: this one. Raises OSError."""
    return capabilities(Path("/proc", "self" if process is None else str(process), "status").read_text())


def capabilities(status: str) -> Capabilities:
    """Return the effective capabilities that a file /proc/PID/status tells of."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            bits = int(value, 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()


def judge(held: Capabilities, appliance: Appliance, *, is_running: bool) -> Iterator[Finding]:
    """Compare what is held with what the roles need: by the appliance that runs, or by whoever asks."""
    lacking = sorted(needed(appliance) - held)
    whose = "the running appliance" if is_running else "whoever asks this"
    if not lacking:
        names = ", ".join(Capability(each).name for each in sorted(needed(appliance)))
        yield Finding(AREA, Level.OK, f"{whose} has what its roles need: {names or 'nothing'}")
        return
    names = ", ".join(Capability(each).name for each in lacking)
    advice = "start it by the systemd unit, or as root: it gives up what it does not need"
    level = Level.FAIL if is_running else Level.WARN
    yield Finding(AREA, level, f"{whose} lacks {names}", advice)
