"""What the child SAs of one site are made of: its policy, fresh SPIs and the path of the day."""

from __future__ import annotations

from collections.abc import Callable

from policies.ipsec import Group
from policies.selectors import Selectors
from tunnels.effects import ChildSa, Path
from tunnels.ike.child import JITTER, Child, Want, soft_packets
from tunnels.ike.child_exchange import AgreedChild, ChildOffer
from tunnels.ike.entropy import Entropy
from tunnels.ike.policy import PeerPolicy
from tunnels.retransmit import Backoff


class Terms:
    """`route` says where ESP goes now, and whether in UDP; `allocate_spi` gives an SPI that is free here."""

    def __init__(
        self,
        policy: PeerPolicy,
        entropy: Entropy,
        route: Callable[[], tuple[Path, bool]],
        allocate_spi: Callable[[], int],
    ) -> None:
        self.policy, self.entropy = policy, entropy
        self.allocate_spi = allocate_spi
        self._route = route

    @property
    def groups(self) -> list[Group]:
        """The groups that policy allows for a key exchange, the preferred one first."""
        groups = (group for proposal in self.policy.esp_proposals for group in proposal.groups)
        return [group for group in dict.fromkeys(groups) if group is not Group.NONE]

    def first_offer(self, selectors: Selectors) -> ChildOffer:
        """Return a fresh offer for IKE_AUTH."""
        return ChildOffer(selectors, self.policy.esp_proposals, self.allocate_spi(), None, self.entropy)

    def offer(self, selectors: Selectors, group: Group | None) -> ChildOffer:
        """Return a fresh offer that begins with a group, else with the one that policy prefers."""
        allowed = self.groups
        if group not in allowed:
            group = allowed[0] if allowed else Group.NONE
        return ChildOffer(selectors, self.policy.esp_proposals, self.allocate_spi(), group, self.entropy)

    def child(self, agreed: AgreedChild, want: Want, now: float) -> Child:
        """Return what was agreed on as a child SA of this site, with limits of its own."""
        lifetimes = self.policy.lifetimes
        path, in_udp = self._route()
        packets = soft_packets(
            lifetimes,
            extended=agreed.suite.extended_sequence_numbers,
            fraction=self.entropy.fraction(),
        )
        sa = ChildSa(
            self.policy.site,
            want.name,
            agreed.own_spi,
            agreed.peer_spi,
            agreed.suite,
            agreed.inbound,
            agreed.outbound,
            agreed.selectors,
            path,
            in_udp,
            soft_bytes=int(self.jittered(lifetimes.child_bytes)),
            soft_packets=packets,
        )
        child = Child(sa, want, agreed.nonces.lowest, lifetimes, now)
        child.rekey_at = now + self.jittered(lifetimes.child_seconds)
        return child

    def jittered(self, limit: float) -> float:
        """Return a limit from which chance has taken a part."""
        return limit * (1 - JITTER * self.entropy.fraction())

    def pause(self, backoff: Backoff, attempt: int) -> float:
        """Return how long to wait before the next attempt."""
        return backoff.delay(attempt, self.entropy.fraction())
