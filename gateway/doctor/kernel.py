"""What the kernel offers, and what of it is in the way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.doctor.findings import Finding, Level
from policies.model import Appliance

AREA = "kernel"

# Each takes GRE packets for tunnels of its own, and answers those that it has none for.
GRE_MODULES = ("ip_gre", "ip6_gre", "gre")

NOT_ROOT = "whoever asks is not root"


class Kernel(msgspec.Struct, frozen=True):
    """What has been looked up of a kernel."""

    release: str
    modules: frozenset[str]
    raw_socket: str | None
    """Why there is none; None: there is."""
    packet_socket: str | None
    has_tun: bool
    interfaces: frozenset[str]
    forwards: bool
    """Whether the machine routes IPv4 between its interfaces by itself."""
    strict_sources: frozenset[str]
    """The interfaces that take a packet only from where the way back leads (rp_filter 1)."""
    connections: tuple[int, int] | None
    """How many connections the firewall tracks, and how many it can; None: it tracks none."""


def look() -> Kernel:
    """Ask the kernel of this network namespace."""
    interfaces = [name for _, name in socket.if_nameindex()]
    return Kernel(
        release=os.uname().release,
        modules=frozenset(line.split()[0] for line in _text("/proc/modules").splitlines() if line),
        raw_socket=_why_not(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE),
        packet_socket=_why_not(socket.AF_PACKET, socket.SOCK_RAW, 0),
        has_tun=Path("/dev/net/tun").exists(),
        interfaces=frozenset(interfaces),
        forwards=_number("/proc/sys/net/ipv4/ip_forward") == 1,
        strict_sources=frozenset(name for name in interfaces if _filters_strictly(name)),
        connections=_connections(),
    )


def judge(kernel: Kernel, appliance: Appliance, underlay: tuple[str, ...]) -> Iterator[Finding]:
    """Say what of it matters to an appliance with these interfaces in the underlay."""
    forwards = appliance.gateway or appliance.host is not None
    if forwards:
        yield from _sockets(kernel, appliance)
        yield from _modules(kernel)
        yield from _routing(kernel, underlay)
    if kernel.connections is not None:
        used, most = kernel.connections
        if most and used >= 0.8 * most:
            words = f"the firewall tracks {used} of at most {most} connections: it drops what begins beyond"
            advice = "raise net.netfilter.nf_conntrack_max, and do not track GRE and ESP (nft: notrack)"
            yield Finding(AREA, Level.FAIL if used >= most else Level.WARN, words, advice)
    yield Finding(AREA, Level.OK, f"Linux {kernel.release}")


def _sockets(kernel: Kernel, appliance: Appliance) -> Iterator[Finding]:
    advice = "in a container, give it CAP_NET_RAW"
    wanted = [("raw GRE sockets", kernel.raw_socket)]
    if appliance.gateway or (appliance.host is not None and appliance.host.driver == "builtin"):
        wanted.append(("packet sockets for VM ports and pools", kernel.packet_socket))
    for what, why_not in wanted:
        if why_not is None:
            yield Finding(AREA, Level.OK, f"{what} can be opened")
        elif why_not == NOT_ROOT:
            words = f"whether {what} can be opened only root can try"
            yield Finding(AREA, Level.SKIPPED, words, "run this as root")
        else:
            yield Finding(AREA, Level.FAIL, f"{what} cannot be opened: {why_not}", advice)
    if appliance.host is None:
        return
    if absent := [port.interface for port in appliance.host.ports if port.interface not in kernel.interfaces]:
        words = f"no interface yet for these VM ports: {', '.join(absent)}"
        yield Finding(AREA, Level.WARN, words, "they are served as soon as they are there: start the VMs")
    if not kernel.has_tun:
        words = "/dev/net/tun is missing: no VM with a TAP device runs here"
        yield Finding(AREA, Level.WARN, words, "modprobe tun; veth ports need none")


def _modules(kernel: Kernel) -> Iterator[Finding]:
    if there := [name for name in GRE_MODULES if name in kernel.modules]:
        words = (
            f"modules are loaded that take GRE packets and answer them with ICMP errors: {', '.join(there)}"
        )
        yield Finding(AREA, Level.WARN, words, f"where nothing uses them: rmmod {' '.join(there)}")
    else:
        yield Finding(AREA, Level.OK, "no other GRE is loaded")


def _routing(kernel: Kernel, underlay: tuple[str, ...]) -> Iterator[Finding]:
    if kernel.forwards:
        words = "the machine also routes by itself between its interfaces, past isthmus and its rules"
        advice = "sysctl -w net.ipv4.ip_forward=0, unless something else here needs it (Docker does)"
        yield Finding(AREA, Level.WARN, words, advice)
    strict = sorted(kernel.strict_sources.intersection(underlay))
    if strict and len(underlay) > 1:
        words = (
            f"rp_filter=1 on {', '.join(strict)}: what comes in there and would go out elsewhere is dropped"
        )
        advice = (
            f"sysctl -w {' '.join(f'net.ipv4.conf.{name}.rp_filter=2' for name in strict)}; all.rp_filter too"
        )
        yield Finding(AREA, Level.WARN, words, advice)


def _why_not(family: int, kind: int, protocol: int) -> str | None:
    try:
        socket.socket(family, kind, protocol).close()
    except PermissionError:
        return NOT_ROOT if os.geteuid() else "not permitted"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _filters_strictly(interface: str) -> bool:
    """The larger of the two settings holds (Documentation/networking/ip-sysctl)."""
    values = (_number(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", interface))
    return max(value or 0 for value in values) == 1


def _connections() -> tuple[int, int] | None:
    used = _number("/proc/sys/net/netfilter/nf_conntrack_count")
    most = _number("/proc/sys/net/netfilter/nf_conntrack_max")
    return (used, most) if used is not None and most is not None else None


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
