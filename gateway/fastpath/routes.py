"""By which next hop each provider address is reached: what the kernel says, put together.

No socket, no clock. What the kernel tells of its own comes to `hear`; what it has to be asked, and when,
is in `questions` and `deadline`; and its answers come to `answer`. Each returns the addresses whose
next hop has become another one, None where there is none any more.

An address has a route, by which it has a neighbour (a router, or itself), which has a MAC address or not.
Neighbours and links are known by their events and take effect at once. Of routes only the kernel can say
which one it takes, so an event of theirs makes the addresses that it covers be asked for anew: in
rounds, so that a flood of events costs a bounded share of the time. Only a route that goes away takes the
next hops that led there with it at once: Python carries packets until the kernel has said what is next.
"""

from __future__ import annotations

import errno
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from gateway.fastpath.hops import (
    AskLink,
    AskNeighbour,
    AskRoute,
    Changed,
    Key,
    NextHop,
    Question,
    Unresolved,
    Use,
    Why,
)
from gateway.fastpath.rtnetlink import (
    UNICAST,
    USABLE,
    Link,
    Message,
    Neighbour,
    Refused,
    Route,
    Unspecific,
)
from gateway.fastpath.upkeep import Entry, Upkeep
from policies.addresses import Address, ProviderAddress

ROUND = 0.1
"""Seconds from the beginning of a round, in which routes are asked for anew, to the next, at the least."""
ROUND_PER_ADDRESS = 150e-6
"""Seconds that one waits for each address asked: some ten times as long as that takes."""
SWEEP = 60.0
"""Seconds after which all is asked for anew, whatever was heard: an ICMP redirect makes no event."""


class _Watched:
    """An address, and what is known of its route: the neighbour that it leads to, or why it leads nowhere."""

    __slots__ = ("interface", "is_asked", "neighbour", "source", "why")

    def __init__(self, source: ProviderAddress | None) -> None:
        self.source = source
        self.neighbour: Entry | None = None
        self.why = Why.ASKING
        self.interface = 0
        self.is_asked = False  # a question is on its way, and its route has not been lost since


class Routes:
    """The next hops of all watched addresses. Times are in seconds."""

    def __init__(self, interfaces: Iterable[int]) -> None:
        """Only next hops out of these interfaces are of use."""
        self._interfaces = frozenset(interfaces)
        self._links: dict[int, bytes] = {}  # the MACs of those that work
        self._mtus: dict[int, int] = {}  # and theirs
        self._watched: dict[ProviderAddress, _Watched] = {}
        self._neighbours: dict[Key, Entry] = {}
        self._in_order: dict[int, list[ProviderAddress]] | None = None  # of each size, for prefixes

        # What is asked next, and links that are asked about, without an event since.
        self._links_to_ask = dict.fromkeys(sorted(self._interfaces))
        self._links_asked: set[int] = set()
        self._neighbours_to_ask: dict[Key, None] = {}
        self._routes_to_ask: dict[ProviderAddress, None] = {}

        self._in_doubt: dict[ProviderAddress, None] = {}
        self._all_in_doubt = False
        self._nothing_is_sure = False
        self._next_round = -math.inf
        self._next_sweep = math.inf
        self._upkeep = Upkeep()

    def watch(self, addresses: Mapping[ProviderAddress, ProviderAddress | None]) -> None:
        """Watch these addresses from now on, and no others; with the source of packets to each, if known."""
        for address in self._watched.keys() - addresses.keys():
            self._leave(address, self._watched.pop(address))
        for address, source in addresses.items():
            known = self._watched.get(address)
            if known is None:
                self._watched[address] = _Watched(source)
                self._routes_to_ask[address] = None
            elif known.source != source:
                known.source, known.is_asked = source, False
                self._routes_to_ask[address] = None
        self._in_order = None

    def send_by(self, interfaces: Collection[int], now: float) -> list[Changed]:
        """Take next hops out of these interfaces from now on, and of no others."""
        changes: list[Changed] = []
        for gone in self._interfaces.difference(interfaces):
            changes += self._note_link(Link(gone, False, b"", True), now)
        self._links_to_ask.update(dict.fromkeys(sorted(set(interfaces) - self._interfaces)))
        self._interfaces = frozenset(interfaces)
        # What left by others may leave by these, or the other way round.
        self._all_in_doubt = True
        return changes

    def find(self, address: ProviderAddress) -> NextHop | None:
        """Return the next hop of an address, None if it has none or is not watched."""
        known = self._watched.get(address)
        return known.neighbour.hop if known is not None and known.neighbour is not None else None

    def __len__(self) -> int:
        return len(self._watched)

    def unresolved(self) -> Iterator[Unresolved]:
        """Yield the addresses that have no next hop, and why."""
        for address, known in self._watched.items():
            neighbour = known.neighbour
            if neighbour is None:
                yield Unresolved(address, known.why, known.interface, None, known.source)
            elif neighbour.hop is None:
                interface, there = neighbour.key
                why = self._why_silent(neighbour)
                yield Unresolved(address, why, interface, Address(there), known.source)

    # What the kernel tells.

    def hear(self, event: Message, now: float) -> list[Changed]:
        """Take note of an event."""
        match event:
            case Neighbour(interface, address):
                neighbour = self._neighbours.get((interface, address))
                if neighbour is None:
                    return []
                neighbour.is_asked = False
                return self._note(neighbour, event, now)
            case Route():
                return self._hear_route(event)
            case Link(interface):
                # Routes by it go without an event of their own; so they may by other interfaces' end.
                self._all_in_doubt |= event.has_turned or interface in self._interfaces
                self._links_asked.discard(interface)
                return self._note_link(event, now)
            case Unspecific():
                self._all_in_doubt = True
                return []
            case Refused():
                return []

    def lose_track(self) -> None:
        """Ask for everything anew: events have been lost."""
        self._nothing_is_sure = True

    # What the kernel is asked.

    @property
    def deadline(self) -> float:
        """When there are questions next: -inf if there are some now."""
        if self._links_to_ask or self._neighbours_to_ask or self._routes_to_ask:
            return -math.inf
        doubtful = self._in_doubt or self._all_in_doubt or self._nothing_is_sure
        round_due = self._next_round if doubtful else math.inf
        return min(round_due, self._next_sweep, self._upkeep.deadline)

    @property
    def is_settled(self) -> bool:
        """Whether all that can be known is known, as far as has been heard."""
        doubtful = self._in_doubt or self._all_in_doubt or self._nothing_is_sure
        asking = self._links_to_ask or self._neighbours_to_ask or self._routes_to_ask
        return not (doubtful or asking or self._links_asked)

    def questions(self, now: float, most: int) -> list[Question]:
        """Return what to ask now, at most so many. Each wants an `answer`, None if there was none."""
        self._begin_round(now)
        found: list[Question] = []
        while self._links_to_ask and len(found) < most:
            interface = self._links_to_ask.popitem()[0]
            self._links_asked.add(interface)
            found.append(AskLink(interface))
        while self._neighbours_to_ask and len(found) < most:
            key = self._neighbours_to_ask.popitem()[0]
            neighbour = self._neighbours.get(key)
            if neighbour is not None:
                neighbour.is_asked = True
                found.append(AskNeighbour(*key))
        while self._routes_to_ask and len(found) < most:
            address = self._routes_to_ask.popitem()[0]
            known = self._watched.get(address)
            if known is not None:
                known.is_asked = True
                found.append(AskRoute(address, known.source))
        found += self._upkeep.uses(now, most - len(found), self._neighbours, self._links)
        return found

    def answer(self, question: Question, answer: Message | None, now: float) -> list[Changed]:
        """Take note of what the kernel answers to a question; None if it has not answered."""
        match question, answer:
            case Use(interface, address), Refused(error):
                neighbour = self._neighbours.get((interface, address))
                if neighbour is not None:
                    neighbour.is_full = error == errno.ENOBUFS
                    if not error and neighbour.hop is None:
                        # Of one that needs no asking, where the link has no ARP, there is no event.
                        self._neighbours_to_ask[neighbour.key] = None
                return []
            case Use(), _:
                return []
            case _, None:
                # Its buffer was full, or the kernel out of memory: the next round asks again.
                self.lose_track()
                return []
            case AskLink(interface), _:
                if interface not in self._links_asked:
                    return []
                self._links_asked.discard(interface)
                gone = Link(interface, False, b"", True)
                return self._note_link(answer if isinstance(answer, Link) else gone, now)
            case AskNeighbour(interface, there), _:
                neighbour = self._neighbours.get((interface, there))
                if neighbour is None or not neighbour.is_asked:
                    return []
                neighbour.is_asked = False
                absent = Neighbour(interface, there, b"", 0)
                return self._note(neighbour, answer if isinstance(answer, Neighbour) else absent, now)
            case AskRoute(address), _:
                known = self._watched.get(address)
                if known is None or not known.is_asked:
                    return []
                known.is_asked = False
                return self._note_route(address, known, answer)

    def _begin_round(self, now: float) -> None:
        if self._next_sweep == math.inf:
            self._next_sweep = now + SWEEP
        elif now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            self.lose_track()
        if now < self._next_round:
            return
        if self._nothing_is_sure:
            self._links_to_ask = dict.fromkeys(sorted(self._interfaces))
            self._neighbours_to_ask = dict.fromkeys(self._neighbours)
        if self._nothing_is_sure or self._all_in_doubt:
            asked: Iterable[ProviderAddress] = self._watched
        elif self._in_doubt:
            asked = self._in_doubt
        else:
            return
        self._routes_to_ask.update(dict.fromkeys(asked))
        self._next_round = now + max(ROUND, ROUND_PER_ADDRESS * len(self._routes_to_ask))
        self._in_doubt = {}
        self._all_in_doubt = self._nothing_is_sure = False

    # Routes.

    def _hear_route(self, route: Route) -> list[Changed]:
        covered = self._covered(route.prefix, route.length)
        if not covered:
            return []
        if not self._all_in_doubt:
            if len(covered) == len(self._watched):
                self._all_in_doubt = True
            else:
                self._in_doubt.update(dict.fromkeys(covered))
        if not route.is_gone or route.type != UNICAST:
            return []
        changes: list[Changed] = []
        for address in covered:
            known = self._watched[address]
            known.is_asked = False  # the answer on its way may be this route
            if known.neighbour is not None and self._is_by(route, known.neighbour.key, address):
                known.why = Why.ASKING
                changes += self._turn(address, known, None)
        return changes

    @staticmethod
    def _is_by(route: Route, key: Key, address: ProviderAddress) -> bool:
        """Whether an address whose neighbour is `key` may be reached by a route that covers it."""
        if not route.interface or not route.is_plain:
            return True
        return key == (route.interface, route.gateway or address)

    def _covered(self, prefix: bytes, length: int) -> list[ProviderAddress]:
        if self._in_order is None:
            self._in_order = {4: [], 16: []}
            for address in sorted(self._watched):
                self._in_order[len(address)].append(address)
        addresses = self._in_order[len(prefix)]
        if not addresses or not length:
            return addresses
        rest = 8 * len(prefix) - length
        highest = int.from_bytes(prefix) | (1 << rest) - 1
        first = bisect_left(addresses, prefix)
        return addresses[first : bisect_right(addresses, highest.to_bytes(len(prefix)))]

    def _note_route(self, address: ProviderAddress, known: _Watched, answer: Message | None) -> list[Changed]:
        known.interface = 0
        known.why = Why.ASKING
        if isinstance(answer, Refused):
            known.why = Why.NO_ROUTE if answer.error == errno.ENETUNREACH else Why.REFUSED
        elif isinstance(answer, Route):
            known.interface = answer.interface
            known.why = self._why_not(answer)
            if known.why is Why.ASKING:
                return self._turn(address, known, (answer.interface, answer.gateway or bytes(address)))
        return self._turn(address, known, None)

    def _why_not(self, route: Route) -> Why:
        """Why a route leads nowhere; ASKING if it leads to a neighbour."""
        if route.type != UNICAST:
            return _WHY_TYPE.get(route.type, Why.OWN)
        if not route.is_plain:
            return Why.WRAPPED
        return Why.ASKING if route.interface in self._interfaces else Why.ELSEWHERE

    def _turn(self, address: ProviderAddress, known: _Watched, key: Key | None) -> list[Changed]:
        """Have an address reached by another neighbour, or by none."""
        before = known.neighbour.hop if known.neighbour is not None else None
        if known.neighbour is not None and known.neighbour.key == key:
            return []
        self._leave(address, known)
        if key is not None:
            neighbour = self._neighbours.get(key)
            if neighbour is None:
                neighbour = self._neighbours[key] = Entry(key)
                self._neighbours_to_ask[key] = None
            neighbour.users.add(address)
            known.neighbour = neighbour
        after = known.neighbour.hop if known.neighbour is not None else None
        return [Changed(address, after)] if after != before else []

    def _leave(self, address: ProviderAddress, known: _Watched) -> None:
        neighbour = known.neighbour
        known.neighbour = None
        if neighbour is not None:
            neighbour.users.discard(address)
            if not neighbour.users:
                del self._neighbours[neighbour.key]

    # Neighbours and links.

    def _note_link(self, link: Link, now: float) -> list[Changed]:
        if link.interface not in self._interfaces:
            return []
        mac = link.mac if link.is_up else b""
        before = self._links.get(link.interface, b""), self._mtus.get(link.interface, 0)
        if before == (mac, link.mtu if mac else 0):
            return []
        if mac:
            self._links[link.interface], self._mtus[link.interface] = mac, link.mtu
        else:
            del self._links[link.interface], self._mtus[link.interface]
        changes: list[Changed] = []
        for neighbour in self._neighbours.values():
            if neighbour.key[0] == link.interface:
                changes += self._settle(neighbour, now)
        return changes

    def _note(self, neighbour: Entry, entry: Neighbour, now: float) -> list[Changed]:
        neighbour.state, neighbour.mac = entry.state, entry.mac
        if entry.state & USABLE:
            neighbour.is_full = False
            neighbour.attempts = 0
        return self._settle(neighbour, now)

    def _settle(self, neighbour: Entry, now: float) -> list[Changed]:
        own = self._links.get(neighbour.key[0])
        is_there = neighbour.state & USABLE and len(neighbour.mac) == 6
        hop = None
        if own and is_there:
            hop = NextHop(neighbour.key[0], own, neighbour.mac, self._mtus[neighbour.key[0]])
        if own:
            self._upkeep.arrange(neighbour, now)
        if hop == neighbour.hop:
            return []
        neighbour.hop = hop
        return [Changed(address, hop) for address in neighbour.users]

    def _why_silent(self, neighbour: Entry) -> Why:
        if neighbour.key[0] not in self._links:
            return Why.LINK_DOWN
        return Why.NEIGHBOURS_FULL if neighbour.is_full else Why.NEIGHBOUR_SILENT


_BLACKHOLE, _UNREACHABLE, _PROHIBIT = 6, 7, 8  # RTN_... of <linux/rtnetlink.h>
_WHY_TYPE = dict.fromkeys((_BLACKHOLE, _UNREACHABLE, _PROHIBIT), Why.REFUSED)
