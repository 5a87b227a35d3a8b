"""Who has the UDP ports of IKE on this machine: us, nobody yet, or another IKE daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.doctor.findings import Finding, Level
from policies.addresses import ProviderAddress

AREA = "ike"

PORTS = (500, 4500)


class Bound(msgspec.Struct, frozen=True):
    """A UDP socket of somebody's."""

    address: bytes
    port: int
    inode: int
    holder: str = ""
    process: int | None = None


def bound(table: str) -> Iterator[Bound]:
    """Yield the sockets at IKE's ports that /proc/net/udp or /proc/net/udp6 tells of."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        if int(port, 16) in PORTS:
            yield Bound(_octets(address), int(port, 16), int(fields[9]))


def look() -> list[Bound]:
    """Find the sockets at IKE's ports, and whose they are as far as we may know."""
    found: list[Bound] = []
    for name in ("udp", "udp6"):
        try:
            found += bound(Path("/proc/thread-self/net", name).read_text())
        except OSError:
            continue
    owners = _owners({each.inode for each in found}) if found else {}
    return [
        msgspec.structs.replace(each, process=owner[0], holder=owner[1])
        if (owner := owners.get(each.inode)) is not None
        else each
        for each in found
    ]


def judge(
    found: Iterable[Bound], addresses: Iterable[ProviderAddress], running: int | None
) -> Iterator[Finding]:
    """Say who else has a port that we need at these addresses; `running` is the appliance's process."""
    ours = {bytes(each) for each in addresses}
    others: dict[str, set[int]] = {}
    unseen: set[int] = set()
    for each in found:
        # A socket of IPv6 that is bound to no address may take IPv4 too.
        is_in_the_way = not any(each.address) or each.address in ours
        if is_in_the_way and each.process is None:
            unseen.add(each.port)
        elif is_in_the_way and (running is None or each.process != running):
            others.setdefault(f"{each.holder} (process {each.process})", set()).add(each.port)
    for who, ports in others.items():
        words = f"{who} has UDP {_in_words(ports)}: no site can be dialled"
        advice = "stop it: `systemctl disable --now strongswan-starter strongswan ipsec`, or whatever it is"
        yield Finding(AREA, Level.FAIL, words, advice)
    if unseen:
        words = f"a process that cannot be seen from here has UDP {_in_words(unseen)}: isthmus, or another"
        advice = "run this as root, outside of containers"
        yield Finding(AREA, Level.SKIPPED, words, advice)
    if not others and not unseen:
        whose = "ours" if running is not None else "free"
        yield Finding(AREA, Level.OK, f"UDP 500 and 4500 are {whose}")


def _in_words(ports: set[int]) -> str:
    return " and ".join(str(port) for port in sorted(ports))


def _octets(text: str) -> bytes:
    """The kernel prints an address as words of 32 bits, in the machine's own order of octets."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)


def _owners(inodes: set[int]) -> dict[int, tuple[int, str]]:
    """Return the process that has each socket, and its name."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, tuple[int, str]] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            links = [descriptor.readlink() for descriptor in (process / "fd").iterdir()]
            name = (process / "comm").read_text().strip()
        except OSError:
            continue  # it has ended, or is not ours to look into
        for link in links:
            if (inode := wanted.get(str(link))) is not None:
                found[inode] = (int(process.name), name)
    return found
