"""What the fast path needs of this machine, found by trying, and what happens without each.

Small programs and maps are made and thrown away; nothing is attached and nothing that runs is disturbed.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from pyroute2 import IPRoute

from gateway.fastpath import drivers, kernel
from gateway.fastpath.drivers import Driver
from gateway.fastpath.elf import MapDefinition, ObjectFile, ProgramCode, ProgramKind, read_object
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.links import BPF_FILE_SYSTEM
from policies.model import FastPathMode, FastPathSettings

PINS = BPF_FILE_SYSTEM / "isthmus"
"""The folder of what is pinned, a folder in it for each appliance."""

MOST_IN_ONE_BUFFER = 3498
"""Octets of an MTU: drivers that take a packet in one page have room for about so much beside XDP's own."""

PERMISSION = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
NOT_TRIED = "not tried"

_ARRAY, _PER_LENGTH, _DEVICES = 2, 11, 14  # BPF_MAP_TYPE_ARRAY, _LPM_TRIE, _DEVMAP
_NO_PREALLOCATION = 1

_PROGRAM = Path(__file__).with_name("nvgre.bpf.o")

_ATTACHED = ("DRV_", "SKB_", "HW_")
_INGRESS = ("clsact", "ingress")

_PASS = 2
_JITTED = struct.Struct("=II8sI")  # the beginning of struct bpf_prog_info
_ALL_USERS = ["0", "0", "4294967295"]
_CAPABILITIES = {12: "CAP_NET_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_SYSTEM_ADMINISTRATOR = 21  # may all that


class Feature(msgspec.Struct, frozen=True):
    """Something of the kernel's."""

    name: str
    without: str
    """What happens without it."""
    why_not: str | None = None
    """What the kernel says; None: it is there."""
    is_needed: bool = True
    """Whether there is no fast path without it."""


class Interface(msgspec.Struct, frozen=True):
    """What is known of an interface for the fast path."""

    name: str
    index: int
    mtu: int
    mac: bytes = bytes(6)
    kind: str = ""
    """veth, bond, vlan, ...; empty for a network card."""
    driver: Driver | None = None
    """None: this kernel does not tell."""
    programs: tuple[int, ...] = ()
    """The ids of XDP programs that are attached now."""
    is_filtered: bool = False
    """Whether tc may do something with what comes in there."""


class Features(msgspec.Struct, frozen=True):
    """What the fast path has here."""

    kernel: tuple[Feature, ...]
    interfaces: tuple[Interface, ...]
    pinning: Feature
    """Needed only where the configuration asks for it."""


def why_not(features: Features, settings: FastPathSettings) -> str | None:
    """Return why there can be no fast path, as what follows "it ..."; None: it can be tried."""
    for feature in features.kernel:
        if feature.is_needed and feature.why_not is not None:
            return f"needs {feature.name}: {feature.why_not}"
    if settings.pinned and features.pinning.why_not is not None:
        return f"needs {features.pinning.name} to be pinned: {features.pinning.why_not}"
    if settings.mode is FastPathMode.NATIVE:
        for each in features.interfaces:
            if (reason := why_not_native(each)) is not None:
                return f"cannot be native: {reason}"
    return None


def why_not_native(interface: Interface) -> str | None:
    """Return why the driver of an interface cannot have the program itself, as far as it is known before."""
    if interface.driver is None:
        return None
    if not interface.driver.is_native:
        return f"the driver of {interface.name} has no native XDP"
    if interface.kind == "veth" and not interface.driver.sends:
        return (
            f"{interface.name} is a veth whose far end has neither GRO nor a program of XDP, and would lose"
            " what is sent to it"
        )
    return None


def verified() -> Feature:
    """Have the kernel verify the program itself, with small tables. This blocks for about a second."""

    def attempt() -> str | None:
        kernel.load(read_object(_PROGRAM.read_bytes())).close()
        return None

    return Feature("a verifier that takes the program", "there is no fast path", _refused(attempt))


def look(interfaces: Sequence[str]) -> Features:
    """Try what this kernel lets this process do, and ask what the interfaces can.

    This blocks for some milliseconds. An interface that is not there is left out.
    """
    return Features(kernel=tuple(_of_kernel()), interfaces=look_at_interfaces(interfaces), pinning=_pinning())


def _of_kernel() -> Iterator[Feature]:
    machine = platform.machine()
    right_machine = Feature(
        "an x86-64 processor",
        "there is no fast path: it relies on the order in which these write to memory",
        None if machine == "x86_64" else f"this is {machine}",
    )
    yield right_machine
    permission = Feature(
        PERMISSION,
        "no program can be loaded",
        _refused(_loads_a_program) if right_machine.why_not is None else NOT_TRIED,
    )
    yield permission
    without = "there is no fast path"
    for name, attempt, since in (
        ("arrays in shared memory", _has_shared_arrays, "5.5"),
        ("maps of prefixes", _has_prefixes, "4.11"),
        ("redirection to interfaces", _has_redirection, "4.14"),
        ("atomic operations with a result", _has_atomics, "5.12"),
        ("programs that are called", _has_called_programs, "5.14"),
        ("links, which let go when a process is killed", _has_links, "5.9"),
    ):
        tried = permission.why_not is None
        why_not = _refused(attempt) if tried else NOT_TRIED
        yield Feature(f"{name} (Linux {since})", without, why_not)
    without = "the program is interpreted, and carries about a tenth"
    why_not = _refused(_is_compiled) if permission.why_not is None else NOT_TRIED
    yield Feature("the kernel's compiler for BPF (bpf_jit_enable)", without, why_not, is_needed=False)


def _refused(attempt: Callable[[], str | None]) -> str | None:
    try:
        return attempt()
    except BpfRefused as refused:
        return str(refused)


def _loads_a_program() -> str | None:
    lacking = _lacking()
    if lacking is None:
        with _loaded(ProgramKind.XDP):
            pass
    return lacking


def _lacking() -> str | None:
    """Which capabilities are not there, or are so in this user namespace alone."""
    if Path("/proc/self/uid_map").read_text().split() != _ALL_USERS:
        return "this process is in a user namespace, where they are not enough"
    status = Path("/proc/thread-self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if effective >> _SYSTEM_ADMINISTRATOR & 1:
        return None
    lacking = [name for number, name in _CAPABILITIES.items() if not effective >> number & 1]
    return f"this process lacks {', '.join(lacking)}" if lacking else None


def _has_shared_arrays() -> str | None:
    with kernel.Map.create(MapDefinition(_ARRAY, 4, 64, 1, kernel.MMAPABLE), "probe") as probe:
        probe.memory()
    return None


def _has_prefixes() -> str | None:
    kernel.Map.create(MapDefinition(_PER_LENGTH, 24, 24, 1, _NO_PREALLOCATION), "probe").close()
    return None


def _has_redirection() -> str | None:
    kernel.Map.create(MapDefinition(_DEVICES, 4, 4, 1), "probe").close()
    return None


def _has_atomics() -> str | None:
    with _loaded(
        ProgramKind.XDP,
        _instruction(0xB7, 1, 0, 0, 1),  # r1 = 1
        _instruction(0x7B, 10, 1, -8, 0),  # *(u64 *)(r10 - 8) = r1
        _instruction(0xDB, 10, 1, -8, 1),  # r1 = atomic_fetch_add((u64 *)(r10 - 8), r1)
    ):
        return None


def _has_called_programs() -> str | None:
    with _loaded(ProgramKind.SYSCALL) as loaded:
        kernel.run(loaded.programs["probe"], bytearray(8))
    return None


def _has_links() -> str | None:
    """By its version: an attempt would attach something."""
    release = platform.release()
    numbers = release.split("-")[0].split(".")
    version = tuple(int(number) for number in numbers[:2] if number.isdecimal())
    return None if version >= (5, 9) else f"this is Linux {release}"


def _is_compiled() -> str | None:
    with _loaded(ProgramKind.XDP) as loaded:
        _, _, _, octets = _JITTED.unpack(kernel.information(loaded.programs["probe"], _JITTED.size))
    return None if octets else "it is off: sysctl -w net.core.bpf_jit_enable=1"


def _loaded(kind: ProgramKind, *instructions: bytes) -> kernel.Loaded:
    """A program that does nothing but these instructions."""
    end = (_instruction(0xB7, 0, 0, 0, _PASS), _instruction(0x95, 0, 0, 0, 0))
    code = ProgramCode(kind, b"".join((*instructions, *end)), ())
    return kernel.load(ObjectFile({"probe": code}, {}, "GPL"))


def _instruction(operation: int, target: int, source: int, offset: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", operation, source << 4 | target, offset, immediate)


def _pinning() -> Feature:
    return Feature(
        f"a BPF file system at {BPF_FILE_SYSTEM}",
        "the fast path ends with the process: pinned = true is refused",
        why_no_pins(),
        is_needed=False,
    )


def why_no_pins() -> str | None:
    """Return why nothing can be pinned by this process; None: it can."""
    mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    if not any(line.split()[1:3] == [str(BPF_FILE_SYSTEM), "bpf"] for line in mounts):
        return f"it is not mounted: mount -t bpf bpf {BPF_FILE_SYSTEM}"
    if any(os.access(each, os.W_OK | os.X_OK, effective_ids=True) for each in (PINS, BPF_FILE_SYSTEM)):
        return None
    return f"this process may write neither there nor to {PINS}"


def look_at_interfaces(names: Sequence[str]) -> tuple[Interface, ...]:
    """Ask what interfaces can; one that is not there is left out. This blocks for some milliseconds."""
    told = drivers.read()
    with IPRoute() as netlink:
        links = {link.get("ifname"): link for link in netlink.get_links()}
        filtered = {each["index"] for each in netlink.get_qdiscs() if each.get("kind") in _INGRESS}
    return tuple(
        Interface(
            name=name,
            index=link["index"],
            mtu=link.get("mtu"),
            mac=bytes.fromhex((link.get("address") or "").replace(":", "")),
            kind=link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
            driver=None if told is None else told.get(link["index"]),
            programs=tuple(
                number
                for kind in _ATTACHED
                if (number := link.get_nested("IFLA_XDP", f"IFLA_XDP_{kind}PROG_ID"))
            ),
            is_filtered=link["index"] in filtered,
        )
        for name in names
        if (link := links.get(name)) is not None
    )
