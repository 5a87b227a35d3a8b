"""Where a program is attached: bpf(2)'s links between an XDP program and a network interface.

A link ends with its last file descriptor, so a process that is killed leaves nothing attached. A
pinned one has a name in the BPF file system and stays until that name is removed. The program of a
link is replaced in one step: each packet meets the old one or the new one, never none.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.fastpath.kernel import BpfRefused, Owner, call, information

_PIN, _OPEN_PINNED = 6, 7
_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 28, 29, 34
_TO_XDP = 37

_CREATE = struct.Struct("=IIII")
_UPDATE = struct.Struct("=IIII")
_DETACH = struct.Struct("=I")
_PINNED = struct.Struct("=QII")
_INFORMATION = struct.Struct("=III4xI4x")  # struct bpf_link_info: type, id, program id; of XDP: interface
_LINK_OF_XDP = 6

_WORKING = 0x1 | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING and IFF_LOWER_UP of <linux/if.h>

BPF_FILE_SYSTEM = Path("/sys/fs/bpf")


class Mode(enum.Enum):
    """Where packets meet the program: in the driver, or behind it in the kernel's network stack."""

    NATIVE = "native"
    GENERIC = "generic"


_PROGRAM_IDS = {Mode.NATIVE: "IFLA_XDP_DRV_PROG_ID", Mode.GENERIC: "IFLA_XDP_SKB_PROG_ID"}
_FLAGS = {Mode.NATIVE: 1 << 2, Mode.GENERIC: 1 << 1}  # XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE


class Interface(msgspec.Struct, frozen=True):
    """What the kernel says of an interface: the ids of the programs that are attached, by mode."""

    name: str
    mtu: int
    is_working: bool
    """Whether it is up and has its carrier."""
    programs: Mapping[Mode, int]


class Link(Owner):
    """A program attached to an interface; the owner of the link's file descriptor."""

    def __init__(self, fd: int, ifindex: int, mode: Mode) -> None:
        self.fd = fd
        self.ifindex = ifindex
        self.mode = mode

    def replace(self, program_fd: int) -> None:
        """Put another program in place of the attached one, in one step.

        Raises BpfRefused; the old program then stays attached. ENOLINK: the interface is gone.
        """
        call(
            _LINK_UPDATE,
            bytearray(_UPDATE.pack(self.fd, program_fd, 0, 0)),
            f"replacing the program on interface {self.ifindex}",
            {errno.ENOLINK: "the interface is gone, or somebody has detached the program"},
        )

    def pin(self, path: Path) -> None:
        """Give the link a name in the BPF file system: it stays attached until that is removed.

        The kernel takes no dot in the name. Folders above it are made. Raises BpfRefused, as where
        there is no such file system.
        """
        what = f"pinning a link as {path}"
        if not _is_in_bpf_file_system(path):
            mount = f"mount -t bpf bpf {BPF_FILE_SYSTEM}"
            raise BpfRefused(errno.EPERM, what, f"no BPF file system is mounted there: {mount}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BpfRefused(error.errno or errno.EINVAL, what, f"no folder {path.parent}") from error
        name = ctypes.create_string_buffer(os.fsencode(path))
        call(
            _PIN,
            bytearray(_PINNED.pack(ctypes.addressof(name), self.fd, 0)),
            what,
            {
                errno.EEXIST: "something has this name already",
                errno.EPERM: "it takes CAP_BPF, and a name without dots",
            },
        )

    def detach(self) -> None:
        """Take the program off the interface, even if the link is pinned or open elsewhere."""
        call(_LINK_DETACH, bytearray(_DETACH.pack(self.fd)), f"detaching from interface {self.ifindex}")

    def program(self) -> int:
        """The id of the program that the link has now."""
        return _about(self.fd)[1]

    def is_attached(self) -> bool:
        """Whether packets still meet it: somebody may have detached it, and its interface may be gone."""
        return self.fd >= 0 and _about(self.fd)[2] != 0

    def close(self) -> None:
        """Give the link up: it ends, and the program is off the interface, unless it is pinned."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def attach(program_fd: int, ifindex: int, mode: Mode) -> Link:
    """Attach an XDP program to an interface of this network namespace.

    Raises BpfRefused: EBUSY or EEXIST where another program is there already, which is left alone;
    EOPNOTSUPP where the driver has no native XDP; whatever else the driver objects to.
    """
    there = interface(ifindex)
    if there is None:
        raise BpfRefused(errno.ENODEV, f"attaching to interface {ifindex}")
    others = ", ".join(f"{number} ({where.value})" for where, number in there.programs.items())
    occupied = f"program {others} is attached there already; bpftool net shows whose" if others else ""
    unsuitable = ""
    if mode is Mode.NATIVE:
        unsuitable = f"the MTU of {there.mtu}, the queues or the offloads do not suit the driver's native XDP"
    fd = call(
        _LINK_CREATE,
        bytearray(_CREATE.pack(program_fd, ifindex, _TO_XDP, _FLAGS[mode])),
        f"attaching to {there.name} in {mode.value} mode",
        {
            errno.EBUSY: occupied,
            errno.EEXIST: occupied or "an interface above it, such as a bond, has a program already",
            errno.EOPNOTSUPP: f"{there.name}'s driver has no native XDP" if mode is Mode.NATIVE else "",
            errno.EINVAL: unsuitable,
            errno.ERANGE: unsuitable,
            errno.ENOSPC: unsuitable,
        },
    )
    return Link(fd, ifindex, mode)


def open_pinned(path: Path) -> Link | None:
    """Open the link that is pinned at this name; None if there is none, or its interface is gone.

    Raises BpfRefused, as where something else is pinned there.
    """
    what = f"opening the pinned link {path}"
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        fd = call(_OPEN_PINNED, bytearray(_PINNED.pack(ctypes.addressof(name), 0, 0)), what)
    except BpfRefused as refused:
        if refused.errno == errno.ENOENT:
            return None
        raise
    try:
        # A program's information looks like a link's, so they are told apart by the names of their
        # files: a link's is bpf_link or bpf-link, a program's bpf-prog, a map's bpf-map.
        is_link = Path(f"/proc/self/fd/{fd}").readlink().name.endswith("link")
        kind, program, ifindex = _about(fd)
        if not is_link or kind != _LINK_OF_XDP:
            raise BpfRefused(errno.EINVAL, what, "it is no link of an XDP program")
        there = interface(ifindex) if ifindex else None
        for mode, number in () if there is None else there.programs.items():
            if number == program:
                return Link(fd, ifindex, mode)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def unpin(path: Path) -> None:
    """Take a link's name away; without one it ends with its last file descriptor."""
    path.unlink(missing_ok=True)


def attached(ifindex: int) -> int | None:
    """The id of the program that packets of an interface meet, or None."""
    there = interface(ifindex)
    return None if there is None else next(iter(there.programs.values()), None)


def index_of(name: str) -> int | None:
    """Return by which index an interface of this name is known here. This does not block."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def is_one(ifindex: int) -> bool:
    """Whether there is an interface of this index here. This does not block."""
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True


def interface(ifindex: int) -> Interface | None:
    """What the kernel says of an interface of this network namespace; None if it is gone.

    This blocks for some milliseconds.
    """
    with IPRoute() as netlink:
        try:
            (link,) = netlink.get_links(ifindex)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        programs = {mode: link.get_nested("IFLA_XDP", attribute) for mode, attribute in _PROGRAM_IDS.items()}
        return Interface(
            name=link.get("ifname"),
            mtu=link.get("mtu"),
            is_working=link["flags"] & _WORKING == _WORKING,
            programs={mode: number for mode, number in programs.items() if number},
        )


def _about(fd: int) -> tuple[int, int, int]:
    kind, _, program, ifindex = _INFORMATION.unpack(information(fd, _INFORMATION.size))
    return kind, program, ifindex


def _is_in_bpf_file_system(path: Path) -> bool:
    mounts = Path("/proc/thread-self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return any(path.is_relative_to(place) for _, place, kind, *_ in map(str.split, mounts) if kind == "bpf")
