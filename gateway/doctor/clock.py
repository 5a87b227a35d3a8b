"""The clock: whether it is kept right, and how far it is from the lookup nodes'."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

import msgspec

from gateway.doctor.findings import Finding, Level

AREA = "clock"

SKEW_TOLD = 5.0
SKEW_BAD = 60.0
"""Seconds apart."""

_STA_UNSYNC = 0x40
_TIME_ERROR = 5


class Discipline(msgspec.Struct, frozen=True):
    """What the kernel says of its clock. The error is at most so many seconds."""

    is_synchronised: bool
    error: float


class _Timex(ctypes.Structure):
    """struct timex of <linux/timex.h>, as far as it is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def look() -> Discipline:
    """Ask the kernel (adjtimex(2)), which needs no rights. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, "adjtimex")
    is_synchronised = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return Discipline(is_synchronised, timex.maxerror / 1e6)


def judge(discipline: Discipline) -> Iterator[Finding]:
    """Say whether something keeps the clock right."""
    if discipline.is_synchronised:
        words = f"the clock is kept right, to within {discipline.error * 1000:.0f} ms"
        yield Finding(AREA, Level.OK, words)
    else:
        words = "nothing keeps the clock right: certificates are judged by it, and logs are compared by it"
        advice = (
            "install chrony, or see `timedatectl`; a virtual machine may have it from its host: then ignore"
        )
        yield Finding(AREA, Level.WARN, words, advice)


def judge_skews(skews: Mapping[str, float]) -> Iterator[Finding]:
    """Say how far other machines' clocks are ahead of ours, in seconds, by what they were asked at."""
    for whose, skew in skews.items():
        if abs(skew) < SKEW_TOLD:
            continue
        words = f"the clock of {whose} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} ours"
        level = Level.FAIL if abs(skew) >= SKEW_BAD else Level.WARN
        yield Finding(AREA, level, words, "have both kept right by NTP")
    if skews and all(abs(skew) < SKEW_TOLD for skew in skews.values()):
        yield Finding(AREA, Level.OK, f"it agrees with {', '.join(skews)} to within {SKEW_TOLD:.0f} s")
