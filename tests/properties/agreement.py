"""Holds the fast path's program to the pipeline: what each makes of a frame, and all that each counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.fastpath.hops import NextHop
from gateway.forwarding.metering import Meter
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Drop, Forward, ToUnderlay, Verdict
from gateway.packets import nvgre
from policies.addresses import ProviderAddress, Vsid
from tests.fastpath.oracle import delivered, encoded
from tests.fastpath.wire import ethernet
from tests.properties.crossings import Crossing
from tests.properties.wire import INTERFACE

XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4

Reading = tuple[int, int, int, int]
"""Packets and octets sent, then received."""

Metered = dict[Vsid, Reading]
"""Of those virtual subnets alone that anything was counted for."""


class Ran(msgspec.Struct, frozen=True):
    """What the program has made of one frame."""

    verdict: int
    data: bytes
    counted: tuple[tuple[str, str], ...]
    """Each outcome that was counted, and its tenant's name."""
    metered: Metered


class Program(Protocol):
    """The program with its tables."""

    @property
    def hops(self) -> Mapping[ProviderAddress, NextHop]: ...

    def is_left(self, tenant: str) -> bool: ...

    def run(self, frame: bytes) -> Ran: ...


class Agreement:
    """One gateway's pipeline and program, and what they have agreed on so far."""

    def __init__(self, forwarder: Forwarder, program: Program) -> None:
        self.seen: Counter[str] = Counter()
        self._forwarder = forwarder
        self._program = program

    def check(self, crossing: Crossing, now: float) -> None:
        """Have both decide a frame. The program goes first, as it does on the wire."""
        forwarder = self._forwarder
        given = delivered(crossing.frame, INTERFACE, forwarder.node.provider_addresses)
        ran = self._program.run(crossing.frame)
        if ran.verdict == XDP_REDIRECT:
            self._check_isolation(crossing.frame, ran.data)
        if given is None:
            assert ran.verdict == XDP_PASS, f"{ran} of what the kernel does not deliver"
            self._check_untouched(crossing.frame, ran)
            self.seen["not delivered"] += 1
            return
        self._give_back(ran)
        before = readings(forwarder)
        verdict = forwarder.from_underlay(*given, now)
        counted = since(before, readings(forwarder))
        if ran.verdict == XDP_REDIRECT:
            self._check_forwarded(verdict, ran, counted)
        elif ran.verdict == XDP_DROP:
            self._check_dropped(verdict, ran)
        else:
            assert ran.verdict == XDP_PASS, f"the program aborts: {ran}"
            self._check_passed(crossing, verdict, ran)

    def check_isolation_alone(self, frame: bytes) -> int:
        """Have the program alone decide a frame, check where it goes, and return the verdict."""
        ran = self._program.run(frame)
        if ran.verdict == XDP_REDIRECT:
            self._check_isolation(frame, ran.data)
        return ran.verdict

    def _give_back(self, ran: Ran) -> None:
        """Both take from one bucket: what the program took is there for Python again."""
        debit = self._forwarder.shares.debit
        for vsid, (_, _, _, octets) in ran.metered.items():
            if debit is not None and octets:
                debit(self._forwarder.tables.subnets[vsid].domain.name, -octets)

    def _check_forwarded(self, verdict: Verdict, ran: Ran, counted: Metered) -> None:
        assert isinstance(verdict, Forward), f"forwarded: {verdict}"
        assert not verdict.lost
        (emission,) = verdict.emissions
        assert isinstance(emission, ToUnderlay), f"forwarded: {emission}"
        hop = self._program.hops[emission.destination]
        expected = ethernet(hop.destination_mac, hop.source_mac, encoded(emission))
        assert ran.data == expected, f"{ran.data.hex()} instead of {expected.hex()}"
        assert ran.metered == counted, f"counted {ran.metered} instead of {counted}"
        assert ran.counted == ()
        self.seen["forwarded"] += 1

    def _check_dropped(self, verdict: Verdict, ran: Ran) -> None:
        assert ran.metered == {}
        ((reason, tenant),) = ran.counted
        self.seen[f"dropped: {reason}"] += 1
        if reason == "punt-limited":
            return  # Python would have been asked
        assert isinstance(verdict, Drop), f"dropped as {reason}: {verdict}"
        assert (verdict.reason, verdict.tenant) == (reason, tenant), (
            f"dropped as {reason} of {tenant}: {verdict}"
        )
        assert verdict.emissions == (), f"dropped as {reason}, and nobody told: {verdict}"

    def _check_passed(self, crossing: Crossing, verdict: Verdict, ran: Ran) -> None:
        self._check_untouched(crossing.frame, ran)
        assert ran.metered == {}
        assert len(ran.counted) <= 1
        reason = ran.counted[0][0] if ran.counted else "uncounted"
        self.seen[f"left to Python: {reason}"] += 1
        emissions = verdict.emissions if isinstance(verdict, Forward) else ()
        is_left = not crossing.is_plain or self._program.is_left(crossing.tenant)
        if not is_left and len(emissions) == 1 and isinstance(emissions[0], ToUnderlay):
            back = ProviderAddress(_read(crossing.frame)[0])
            if {back, emissions[0].destination} <= self._program.hops.keys():
                raise AssertionError(f"left to Python as {reason}: {verdict}")

    def _check_untouched(self, frame: bytes, ran: Ran) -> None:
        assert ran.data == frame, f"left to Python, and changed: {ran.data.hex()}"

    def _check_isolation(self, before: bytes, after: bytes) -> None:
        """Check that what leaves stays in its routing domain, and goes to a host that may have it.

        This reads both frames alone: it does not matter here what the pipeline would have done.
        """
        tables, node = self._forwarder.tables, self._forwarder.node
        outer_source, came = _read(before)
        source, destination, goes = _read_sent(after)
        entry, target = tables.subnets.get(came), tables.subnets.get(goes)
        assert entry is not None, "sent on because of a VSID that nobody has"
        assert target is not None, "sent on by a VSID that nobody has"
        assert target.domain is entry.domain, "one tenant's frame was given to another"
        assert outer_source in entry.domain.host_addresses, "a stranger had something sent on"
        assert destination in entry.domain.host_addresses, "sent to a host that may not have it"
        assert source in node.provider_addresses
        assert destination not in node.provider_addresses


def _read_sent(frame: bytes) -> tuple[bytes, bytes, Vsid]:
    source, vsid = _read(frame)
    start = 30 if frame[12:14] == b"\x08\x00" else 38
    end = start + (4 if frame[12:14] == b"\x08\x00" else 16)
    return source, frame[start:end], vsid


def _read(frame: bytes) -> tuple[bytes, Vsid]:
    """The outer source of a frame without outer options, and its VSID."""
    is_ipv4 = frame[12:14] == b"\x08\x00"
    gre = 34 if is_ipv4 else 54
    vsid = nvgre.decode_untrusted(frame[gre:]).vsid
    return frame[26:30] if is_ipv4 else frame[22:38], Vsid(vsid)


def readings(forwarder: Forwarder) -> dict[Vsid, Reading]:
    """What all meters of virtual subnets show."""
    return {vsid: _reading(meter) for vsid, meter in forwarder.meters.items()}


def since(before: Mapping[Vsid, Reading], after: Mapping[Vsid, Reading]) -> Metered:
    """What meters have counted between two readings."""
    return {
        vsid: (now[0] - was[0], now[1] - was[1], now[2] - was[2], now[3] - was[3])
        for vsid, now in after.items()
        if now != (was := before[vsid])
    }


def _reading(meter: Meter) -> Reading:
    return meter.sent_packets, meter.sent_octets, meter.received_packets, meter.received_octets
