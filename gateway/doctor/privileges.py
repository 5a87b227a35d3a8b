"""What the appliance's process may do, and whether that is enough for its roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.doctor.findings import Finding, Level
from gateway.process.privileges import Capabilities, Capability, needed, used
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
    advice = "start it by the systemd unit, or as root: it gives up what it does not need"
    if lacking:
        level = Level.FAIL if is_running else Level.WARN
        yield Finding(AREA, level, f"{whose} lacks {_names(lacking)}", advice)
        return
    has = used(appliance) & held
    yield Finding(AREA, Level.OK, f"{whose} has what its roles need: {_names(has) or 'nothing'}")
    if slow := used(appliance) - held:
        why = (
            "`isthmus status FILE` says why; if that is their lack: start it by the systemd unit, or as root"
        )
        words = f"{whose} lacks {_names(slow)}: there is no fast path"
        yield Finding(AREA, Level.WARN, words, why if is_running else advice)


def _names(capabilities: Iterable[int]) -> str:
    return ", ".join(Capability(each).name for each in sorted(capabilities))
