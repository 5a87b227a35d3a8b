"""Where every packet has gone: what was sent, what came, and what gateway and links say of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from gateway.forwarding.drops import DropReason
from gateway.operating.report import Report
from tests.soak.numbered import CARRIED, SUBNETS, Counts, Judgement, Kind

REASONS: Mapping[Kind, DropReason] = {
    Kind.DENIED: DropReason.ACCESS_DENIED,
    Kind.LIMITED: DropReason.RATE_LIMITED,
    Kind.UNRECORDED: DropReason.NO_RECORD,
    Kind.EXPIRED: DropReason.HOP_LIMIT,
    Kind.NO_SUBNET: DropReason.UNKNOWN_VSID,
    Kind.SPOOFED: DropReason.SPOOFED_SOURCE,
    Kind.NOT_NVGRE: DropReason.NOT_NVGRE,
    Kind.CONGESTED: DropReason.CONGESTION,
}
"""Why packets of each kind that are dropped are."""
MOST_OTHERS = 500
"""Packets that have nothing to do with NVGRE, and that nobody sends on purpose."""
PUNT_LIMITED = "punt-limited"
"""What the fast path leaves to Python beyond what that can take, whatever it is."""


class Account(msgspec.Struct, frozen=True):
    """Everything that was counted, by everybody.

    `on_the_way_in` and `on_the_way_out` are what links had no room for: between the talkers and the gateway,
    and between it and the sinks.
    """

    counts: Counts
    report: Report
    on_the_way_in: int = 0
    on_the_way_out: int = 0
    redirected: int = 0
    """What the driver has sent on by the fast path's word."""
    let_pass: int = 0
    """What it has handed to the kernel by that, neighbours' questions among them."""

    @property
    def drops(self) -> Counter[str]:
        """What the gateway has dropped, by reason."""
        found: Counter[str] = Counter()
        for drop in self.report.drops:
            found[drop.reason] += drop.packets
        return found

    @property
    def sent(self) -> int:
        return sum(self.counts.sent.values())

    @property
    def unaccounted(self) -> int:
        """How many packets nobody knows of; below 0: so many more are known of than there were."""
        lost = self.on_the_way_in + self.on_the_way_out + self.report.underlay.kernel_drops
        return self.sent - self.counts.came - sum(self.drops.values()) - lost

    def problems(self) -> Iterator[str]:
        """Say what is wrong: packets judged so, and sums that are not the same."""
        counts, drops = self.counts, self.drops
        for judgement, packets in counts.wrong.items():
            yield f"{packets} packets are {judgement}"
        if self.unaccounted:
            yield f"{self.unaccounted} of {self.sent} packets are unaccounted for"
        yield from self._kinds()
        yield from self._meters()
        yield from self._fast_path()
        if (back := counts.judged[Judgement.BACK]) != self.report.notices.sent:
            yield f"{back} ICMP errors have come to the talkers, of {self.report.notices.sent}"
        known = {str(reason) for reason in REASONS.values()} | {PUNT_LIMITED}
        if strange := set(drops) - known:
            yield f"packets are dropped for no reason of theirs: {strange}"

    def _kinds(self) -> Iterator[str]:
        """Each kind is carried or dropped for its own reason, but for what was lost unseen."""
        unseen = self.on_the_way_in + self.report.underlay.kernel_drops + self.drops[PUNT_LIMITED]
        for kind in Kind:
            sent, came = self.counts.sent[kind], self.counts.by_kind[kind]
            if came and kind not in CARRIED:
                yield f"{came} packets of kind {kind.name} were carried"
            reason = REASONS.get(kind)
            dropped = self.drops[reason] if reason is not None else 0
            most = unseen + (self.on_the_way_out if kind in CARRIED else 0)
            if not 0 <= sent - came - dropped <= most:
                yield (
                    f"of {sent} packets of kind {kind.name} {came} came, {dropped} were dropped: {reason}, "
                    f"and {most} may have been lost"
                )

    def _fast_path(self) -> Iterator[str]:
        """The fast path has counted what the driver has done by its word."""
        fast = self.report.fastpath
        if fast is None:
            return
        if fast.carried != self.redirected:
            yield f"the fast path has carried {fast.carried} packets, and the driver {self.redirected}"
        passed = sum(fast.passed.values())
        if not 0 <= self.let_pass - passed <= MOST_OTHERS:
            yield f"the fast path has left {passed} packets to Python, the driver let {self.let_pass} pass"

    def _meters(self) -> Iterator[str]:
        """The meters have what came, each virtual subnet's to the octet; but for links' losses."""
        counts = self.counts
        meters = {meter.vsid: meter for meter in self.report.meters}
        metered = 0
        for subnet in SUBNETS:
            meter, at = meters[subnet.vsid], subnet.index
            metered += meter.received_packets
            said = (meter.received_packets, meter.received_octets, meter.sent_packets, meter.sent_octets)
            seen = (
                counts.to_packets[at],
                counts.to_octets[at],
                counts.from_packets[at],
                counts.from_octets[at],
            )
            if said != seen and not self.on_the_way_out:
                yield f"the meter of {subnet.tenant}/{subnet.name} has {said}, and {seen} came"
        rightly = sum(counts.to_packets)
        if metered - rightly != self.on_the_way_out:
            yield f"{metered} packets are metered, {rightly} came, {self.on_the_way_out} were lost behind it"
