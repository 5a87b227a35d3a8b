"""What this process may do: no more than its roles need, from before its first packet on.

Capabilities belong to threads, so they are given up while there is one. What is given up is gone
for good, from the bounding set too: no child has it, and no program that is set-uid gives it back. A
reload opens sockets with what stays, and reads files as whoever we have become: so `isthmus run`
reads its configuration once more when anything was given up, and says at the start what a
reload could not read.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import threading
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

from gateway.fastpath.features import PINS, why_no_pins
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance, Engine

Capabilities = frozenset[int]


class Capability(IntEnum):
    """Those that we have a use for, by the kernel's numbers (<linux/capability.h>)."""

    CAP_DAC_READ_SEARCH = 2
    CAP_NET_BIND_SERVICE = 10
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_PERFMON = 38
    CAP_BPF = 39


# A program of XDP is loaded by these, and attached by CAP_NET_ADMIN.
_FAST_PATHS = frozenset({Capability.CAP_PERFMON, Capability.CAP_BPF})

FIRST_UNPRIVILEGED_PORT = 1024

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_CODE = Path(__file__).resolve().parent


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    """Half of each set: the kernel takes 64 capabilities in two words."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def needed(appliance: Appliance) -> Capabilities:
    """Return what an appliance's roles need, also after a reload."""
    found: set[int] = set()
    if appliance.gateway or appliance.host is not None:
        # Raw and packet sockets; GRO, VM ports and buffers larger than everybody's.
        found |= {Capability.CAP_NET_RAW, Capability.CAP_NET_ADMIN}
    services = [service for service in (appliance.lookup, appliance.api) if service is not None]
    ports = [int(service.listen.rpartition(":")[2]) for service in services]
    # IKE is on UDP 500; the first site may come by a reload.
    if appliance.gateway or any(0 < port < FIRST_UNPRIVILEGED_PORT for port in ports):
        found.add(Capability.CAP_NET_BIND_SERVICE)
    if appliance.wants_fastpath and appliance.engine is Engine.XDP:
        found |= _FAST_PATHS
    return frozenset(found)


def used(appliance: Appliance) -> Capabilities:
    """Return what an appliance has a use for: what it needs, and what it can do without, but not as fast."""
    return needed(appliance) | _FAST_PATHS if appliance.wants_fastpath else needed(appliance)


def give_up(appliance: Appliance, *read_later: Path) -> bool:
    """Keep what an appliance has a use for, as the user that it names, and give up the rest for good.

    `read_later` are files that a reload reads. Return whether anything was given up. Raises
    ConfigurationError where that user is not there, cannot be become, or could not work, and
    RuntimeError if there are other threads, since they would keep all they have.
    """
    _check_alone()
    user = _user(appliance.user) if appliance.user else None
    before = _permitted()
    wanted = used(appliance)
    if user is not None and user.pw_uid != os.geteuid():
        _make_state(appliance.state, user)
        if appliance.wants_fastpath and appliance.fastpath.pinned and why_no_pins() is None:
            _make_pins(user)
        _bound(wanted)
        _become(user)
    elif before - wanted:
        if os.geteuid() == 0:
            wanted |= _to_read((_CODE, *read_later), wanted)
        _bound(wanted)
    _set(permitted=wanted & before, effective=wanted & before)
    _raise_ambient(wanted & before)
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    if not before - wanted and user is None:
        return False
    _check_can_work(appliance)
    return True


def give_up_fast_path() -> None:
    """Give up for good what only a fast path needs, where there is none after all.

    They stay in the bounding set, which takes CAP_SETPCAP to leave; but since `give_up` nobody below us gets
    what we have not. Raises RuntimeError if there are other threads.
    """
    _check_alone()
    left = _permitted() - _FAST_PATHS
    _set(permitted=left, effective=left & _status_set("CapEff"))


def in_words() -> str:
    """Say who runs this, and with which capabilities."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user {uid}"
    effective = _status_set("CapEff")
    known = [each.name for each in Capability if each in effective]
    others = len(effective) - len(known)
    if others:
        known.append(f"{others} more" if known else f"{others} capabilities")
    return f"{name} with {', '.join(known)}" if known else f"{name} without capabilities"


def _check_alone() -> None:
    if threading.active_count() > 1:
        raise RuntimeError("privileges are given up by the only thread there is")


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        message = f"there is no user {name} here; make one: useradd --system --no-create-home {name}"
        raise ConfigurationError([Problem("appliance.user", message)]) from None


def _make_state(state: Path, user: pwd.struct_passwd) -> None:
    """Have a state folder that is the user's, unless there is one."""
    if state.exists():
        return
    try:
        state.mkdir(mode=0o700, parents=True)
        os.chown(state, user.pw_uid, user.pw_gid)
    except OSError as error:
        message = f"{state} cannot be made for {user.pw_name}: {error.strerror or error}"
        raise ConfigurationError([Problem("appliance.user", message)]) from None


def _make_pins(user: pwd.struct_passwd) -> None:
    """Have a folder for what is pinned that is the user's, and let them get there: else only root may."""
    above = PINS.parent
    try:
        PINS.mkdir(mode=0o700, exist_ok=True)
        os.chown(PINS, user.pw_uid, user.pw_gid)
        above.chmod(stat.S_IMODE(above.stat().st_mode) | stat.S_IXOTH)
    except OSError as error:
        message = f"{PINS} cannot be made for {user.pw_name}: {error.strerror or error}"
        raise ConfigurationError([Problem("fastpath.pinned", message)]) from None


def _become(user: pwd.struct_passwd) -> None:
    """Be another user from now on, with the capabilities still permitted."""
    _control(_PR_SET_KEEPCAPS, 1)
    try:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        message = (
            f"this process cannot become {user.pw_name} ({error.strerror}): start it as root,"
            f" or as {user.pw_name}"
        )
        raise ConfigurationError([Problem("appliance.user", message)]) from None


def _to_read(files: Iterable[Path], wanted: Capabilities) -> Capabilities:
    """What root needs besides, to read what lies in an ordinary user's closed folder, as a checkout may."""
    permitted = _permitted()
    _set(permitted=permitted, effective=wanted & permitted)
    are_open = all(os.access(file, os.R_OK, effective_ids=True) for file in files)
    _set(permitted=permitted, effective=permitted)
    return frozenset() if are_open else frozenset({Capability.CAP_DAC_READ_SEARCH})


def _check_can_work(appliance: Appliance) -> None:
    """Say now what whoever we have become cannot do."""
    name, state = appliance.user or "root", appliance.state
    problems = []
    if not os.access(_CODE, os.R_OK | os.X_OK, effective_ids=True):
        message = f"{name} cannot read the program at {_CODE}: install it where everybody can"
        problems.append(Problem("appliance.user", message))
    if state.exists() and not os.access(state, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        owner = state.stat().st_uid
        what = f"chown -R {name} {state}" if appliance.user else "name that user in [appliance] user"
        message = f"{state} belongs to user {owner}, and {name} without privileges cannot work there: {what}"
        problems.append(Problem("appliance.state", message))
    if problems:
        raise ConfigurationError(problems)


def _bound(wanted: Capabilities) -> None:
    """Let nobody below us have more than what is wanted, where we may say so."""
    for number in _all():
        if number not in wanted and _control(_PR_CAPBSET_READ, number):
            _control(_PR_CAPBSET_DROP, number)


def _raise_ambient(wanted: Capabilities) -> None:
    """Have children of an ordinary user keep what we have."""
    _control(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in wanted:
        _control(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def _set(*, permitted: Capabilities, effective: Capabilities) -> None:
    halves = (_Half * 2)()
    for index, half in enumerate(halves):
        half.permitted = half.inheritable = _word(permitted, index)
        half.effective = _word(effective, index)
    if _libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), halves):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "capset")


def _word(capabilities: Capabilities, index: int) -> int:
    return sum(1 << number - 32 * index for number in capabilities if number // 32 == index)


def _permitted() -> Capabilities:
    return _status_set("CapPrm")


def _status_set(key: str) -> Capabilities:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            bits = int(value, 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()


def _all() -> Iterator[int]:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    yield from range(last + 1)


def _control(option: int, *arguments: int) -> int:
    """Ask the kernel for a change, and return its answer; without the right to it, nothing changes."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    answer: int = _libc.prctl(option, *padded)
    return answer
