"""The kernel's BPF machine, by bpf(2): maps, programs and trial runs of them.

Whatever is made here is a file descriptor and is gone with its last one, so nothing outlives the
process unless links.py pins it. Layouts are those of `union bpf_attr` in <linux/bpf.h>; the kernel
takes what is missing at an attribute's end for zeros.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gateway.fastpath.elf import MapDefinition, ObjectFile, ProgramCode, ProgramKind

_SYSTEM_CALL = 321  # of x86-64

MMAPABLE = 1 << 10
_SLEEPABLE = 1 << 4  # what a program of kind SYSCALL has to be loaded as
_ATTACH_TO_XDP = 37
_LIVE_FRAMES = 1 << 1

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 0, 1, 2, 3
_PROGRAM_LOAD = 5
_PROGRAM_TEST_RUN = 10
_INFORMATION = 15

_CREATE = struct.Struct("=IIIIIII16s")
_ELEMENT = struct.Struct("=IxxxxQQQ")
_LOAD = struct.Struct("=IIQQIIQII16sII")
_TEST_RUN = struct.Struct("=IIIIQQIIIIQQIII4x")
_ABOUT = struct.Struct("=IIQ")

_PER_CPU_TYPES = frozenset({5, 6, 10, 21})  # hash, array, LRU hash and storage

_LOG_OCTETS = 4 << 20
_LOG_LINES = 15
_LONGEST_NAME = 15
_ATTEMPTS = 5  # the verifier gives up with EAGAIN when a signal comes
_MOST_GROWTH = 256  # what adjusting a frame's head or tail can add in a trial run

_NOT_SUPPORTED = 524  # the kernel's ENOTSUPP, which the C library has no name for

_libc = ctypes.CDLL(None, use_errno=True)

_MEANINGS = {
    errno.EPERM: "it takes CAP_BPF and CAP_NET_ADMIN, and a kernel that is not locked down",
    errno.ENOSYS: "this kernel has no bpf(2)",
    _NOT_SUPPORTED: "this kernel does not offer it",
}


class BpfRefused(OSError):
    """The kernel refused: `errno` is its own, the text says to do what, and why where it can be told."""

    def __init__(self, number: int, what: str, why: str = "", log: Sequence[str] = ()) -> None:
        reason = why or _MEANINGS.get(number, "")
        text = f"{what}: {os.strerror(number)}" + (f" ({reason})" if reason else "")
        super().__init__(number, "\n".join([text, *log]))

    def __str__(self) -> str:
        return str(self.strerror)


class TestRun(msgspec.Struct, frozen=True, gc=False):
    """What a trial run gave: the last verdict, the frame as it was left, and nanoseconds for each run."""

    __test__ = False

    verdict: int
    data: bytes
    nanoseconds: int


class Owner(ABC):
    """Owns what `close` gives up, at the end of a `with` statement too."""

    @abstractmethod
    def close(self) -> None:
        """Give it up; once more changes nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Map(Owner):
    """A map of the kernel; the owner of its file descriptor."""

    def __init__(self, fd: int, definition: MapDefinition) -> None:
        self.fd = fd
        self.definition = definition
        self._value_octets = definition.value_size
        if definition.type in _PER_CPU_TYPES:
            self._value_octets = (definition.value_size + 7 & ~7) * possible_cpus()

    @classmethod
    def create(cls, definition: MapDefinition, name: str = "") -> Self:
        """Make a map. Raises BpfRefused."""
        attributes = _CREATE.pack(
            definition.type,
            definition.key_size,
            definition.value_size,
            definition.max_entries,
            definition.flags,
            0,
            0,
            _kernel_name(name),
        )
        return cls(call(_MAP_CREATE, bytearray(attributes), f"making the map {name!r}"), definition)

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key (for a map with values per CPU: one behind the other), or None."""
        value = ctypes.create_string_buffer(self._value_octets)
        try:
            self._element(_MAP_LOOKUP, key, value, "reading from a map")
        except BpfRefused as refused:
            if refused.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Set the value of a key. Raises BpfRefused, as with E2BIG where the map is full."""
        if len(value) != self._value_octets:
            raise ValueError(f"a value of {len(value)} octets instead of {self._value_octets}")
        self._element(_MAP_UPDATE, key, ctypes.create_string_buffer(value, len(value)), "writing to a map")

    def delete(self, key: bytes) -> bool:
        """Take a key away; False if there was none."""
        try:
            self._element(_MAP_DELETE, key, None, "deleting from a map")
        except BpfRefused as refused:
            if refused.errno == errno.ENOENT:
                return False
            raise
        return True

    def memory(self) -> memoryview:
        """An array's values as memory shared with the kernel, each of a multiple of 8 octets.

        Only arrays with BPF_F_MMAPABLE have it; others raise BpfRefused. The memory stays valid,
        and the map with it, for as long as the view is referred to.
        """
        length = self.definition.max_entries * (self.definition.value_size + 7 & ~7)
        try:
            return memoryview(mmap.mmap(self.fd, length))
        except OSError as error:
            raise BpfRefused(
                error.errno or errno.EINVAL, "mapping a map's memory", "is it an array with BPF_F_MMAPABLE?"
            ) from error

    def close(self) -> None:
        """Give the map up; programs and views that refer to it keep it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def _element(
        self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None, what: str
    ) -> None:
        if len(key) != self.definition.key_size:
            raise ValueError(f"a key of {len(key)} octets instead of {self.definition.key_size}")
        key_buffer = ctypes.create_string_buffer(key, len(key))
        attributes = _ELEMENT.pack(
            self.fd, ctypes.addressof(key_buffer), 0 if value is None else ctypes.addressof(value), 0
        )
        call(command, bytearray(attributes), what)


class Loaded(Owner):
    """The programs of an object file in the kernel, with their maps; the owner of what it made."""

    def __init__(self, shared: Mapping[str, Map]) -> None:
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, int] = {}
        self._shared = shared

    def close(self) -> None:
        """Give up every program and map that was made here; maps that were shared stay open."""
        while self.programs:
            os.close(self.programs.popitem()[1])
        for name, each in self.maps.items():
            if name not in self._shared:
                each.close()


def load(
    source: ObjectFile,
    sizes: Mapping[str, int] | None = None,
    programs: Collection[str] | None = None,
    maps: Mapping[str, Map] | None = None,
) -> Loaded:
    """Put an object's programs into the kernel: all, or the ones named and the maps that they use.

    `sizes` sets the entries of maps by name instead of the object's own, `maps` gives maps that are
    there already, which stay their owner's. Raises BpfRefused, with the verifier's last lines where
    it refused a program (they are about its instructions, never about what maps hold); then nothing
    is left behind.
    """
    sizes, shared = sizes or {}, maps or {}
    chosen = source.programs if programs is None else {name: source.programs[name] for name in programs}
    used = {use.map for program in chosen.values() for use in program.map_uses}
    terms = source.license.encode()
    loaded = Loaded(shared)
    try:
        for name, definition in source.maps.items():
            if name in shared:
                loaded.maps[name] = _fitting(name, shared[name], definition)
            elif programs is None or name in used:
                wanted = msgspec.structs.replace(
                    definition, max_entries=sizes.get(name, definition.max_entries)
                )
                loaded.maps[name] = Map.create(wanted, name)
        for name, program in chosen.items():
            loaded.programs[name] = _load_program(name, program, terms, loaded.maps)
    except BaseException:
        loaded.close()
        raise
    return loaded


def test_run(
    fd: int,
    data: bytes,
    *,
    repeat: int = 1,
    context: bytes = b"",
    live: bool = False,
    batch: int = 0,
) -> TestRun:
    """Run an XDP program on a frame, `repeat` times, and return the last verdict.

    Each run finds the frame as the one before left it. If `live`, frames are sent where the verdicts
    say, in batches of `batch`, and none is given back; where such a frame begins and ends is put right
    for each run, what is in it is not. `context` is a `struct xdp_md` (24 octets), for programs that
    want to know the interface. Raises BpfRefused, also with EINTR: a signal ended many runs early.
    """
    given = ctypes.create_string_buffer(data, len(data))
    context_given = ctypes.create_string_buffer(context, len(context))
    room = 0 if live else len(data) + _MOST_GROWTH
    returned = ctypes.create_string_buffer(max(room, 1))
    attributes = bytearray(
        _TEST_RUN.pack(
            fd,
            0,
            len(data),
            room,
            ctypes.addressof(given),
            ctypes.addressof(returned) if room else 0,
            repeat,
            0,
            len(context),
            0,
            ctypes.addressof(context_given) if context else 0,
            0,
            _LIVE_FRAMES if live else 0,
            0,
            batch,
        )
    )
    call(_PROGRAM_TEST_RUN, attributes, f"a trial run on {len(data)} octets")
    fields = _TEST_RUN.unpack(attributes)
    return TestRun(verdict=fields[1], data=returned.raw[: fields[3]] if room else b"", nanoseconds=fields[7])


def run(fd: int, context: bytearray) -> int:
    """Run a program of kind SYSCALL on a context, which it may write to, and return what it returns.

    Raises BpfRefused.
    """
    buffer = ctypes.create_string_buffer(bytes(context), len(context))
    attributes = bytearray(
        _TEST_RUN.pack(fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(buffer), 0, 0, 0, 0)
    )
    call(_PROGRAM_TEST_RUN, attributes, "running a program")
    context[:] = buffer.raw
    verdict: int = _TEST_RUN.unpack(attributes)[1]
    return verdict


def possible_cpus() -> int:
    """For how many CPUs the kernel keeps values in a map with values per CPU."""
    count = 0
    for part in Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def information(fd: int, length: int) -> bytes:
    """The first `length` octets of what the kernel says of a map, program or link. Raises BpfRefused."""
    buffer = ctypes.create_string_buffer(length)
    attributes = bytearray(_ABOUT.pack(fd, length, ctypes.addressof(buffer)))
    call(_INFORMATION, attributes, "asking about a file descriptor")
    return buffer.raw


def call(command: int, attributes: bytearray, what: str, why: Mapping[int, str] | None = None) -> int:
    """Call bpf(2); `attributes` is written back. Raises BpfRefused, of `what`, with a reason out of `why`."""
    if platform.machine() != "x86_64":
        raise BpfRefused(errno.ENOSYS, what, f"bpf(2) is known for x86-64 here, not for {platform.machine()}")
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result: int = _libc.syscall(
        ctypes.c_long(_SYSTEM_CALL), ctypes.c_long(command), buffer, ctypes.c_ulong(len(attributes))
    )
    if result < 0:
        number = ctypes.get_errno()
        raise BpfRefused(number, what, (why or {}).get(number, ""))
    return result


def _load_program(name: str, program: ProgramCode, terms: bytes, maps: Mapping[str, Map]) -> int:
    code = bytearray(program.instructions)
    for use in program.map_uses:
        position = use.instruction * 8
        code[position + 1] = code[position + 1] & 0xF | 1 << 4  # BPF_PSEUDO_MAP_FD
        struct.pack_into("=i", code, position + 4, maps[use.map].fd)
    instructions = ctypes.create_string_buffer(bytes(code), len(code))
    licence = ctypes.create_string_buffer(terms)

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        attributes = _LOAD.pack(
            program.kind,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            0 if log is None else 1,
            0 if log is None else len(log),
            0 if log is None else ctypes.addressof(log),
            0,
            _SLEEPABLE if program.kind is ProgramKind.SYSCALL else 0,
            _kernel_name(name),
            0,
            _ATTACH_TO_XDP if program.kind is ProgramKind.XDP else 0,
        )
        for _ in range(_ATTEMPTS - 1):
            try:
                return call(_PROGRAM_LOAD, bytearray(attributes), f"loading the program {name!r}")
            except BpfRefused as refused:
                if refused.errno != errno.EAGAIN:
                    raise
        return call(_PROGRAM_LOAD, bytearray(attributes), f"loading the program {name!r}")

    try:
        return attempt(None)
    except BpfRefused as refused:
        if refused.errno == errno.EPERM:
            raise
        # Only a refused program is worth the verifier's log, which makes it much slower.
        log = ctypes.create_string_buffer(_LOG_OCTETS)
        try:
            return attempt(log)
        except BpfRefused:
            lines = log.value.decode(errors="replace").splitlines()[-_LOG_LINES:]
            raise BpfRefused(
                refused.errno or errno.EINVAL, f"loading the program {name!r}", log=lines
            ) from None


def _fitting(name: str, given: Map, wanted: MapDefinition) -> Map:
    if msgspec.structs.replace(given.definition, max_entries=wanted.max_entries) != wanted:
        raise ValueError(f"the map {name!r} is {given.definition}, and the program wants {wanted}")
    return given


def _kernel_name(name: str) -> bytes:
    return "".join(letter if letter.isalnum() else "_" for letter in name)[:_LONGEST_NAME].encode()
