"""A kernel as next hops see it: links, routes and neighbours that answer questions and tell of changes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from gateway.fastpath.hops import (
    AskLink,
    AskNeighbour,
    AskRoute,
    Changed,
    Key,
    NextHop,
    Question,
    Use,
)
from gateway.fastpath.routes import Routes
from gateway.fastpath.rtnetlink import UNICAST, USABLE, Link, Message, Neighbour, Refused, Route
from policies.addresses import ProviderAddress

EAST, WEST, OTHER = 1, 2, 3
"""Links; the third is none of the underlay's."""


def own_mac(interface: int, change: int = 0) -> bytes:
    return bytes((2, 0, 0, 0, change, interface))


class Kernel:
    """One that has links, and nothing else yet."""

    def __init__(self) -> None:
        self.links: dict[int, bytes] = {index: own_mac(index) for index in (EAST, WEST, OTHER)}
        self.routes: dict[tuple[bytes, int], Route] = {}
        self.neighbours: dict[Key, Neighbour] = {}
        self.used: list[Key] = []

    # What happens, each with the events that tell of it.

    def add_route(
        self, prefix: bytes, length: int, interface: int, gateway: bytes = b"", kind: int = UNICAST
    ) -> Iterator[Message]:
        route = Route(False, prefix, length, kind, interface, gateway, True)
        self.routes[prefix, length] = route
        yield route

    def remove_route(self, prefix: bytes, length: int) -> Iterator[Message]:
        route = self.routes.pop((prefix, length), None)
        if route is not None:
            yield Route(True, prefix, length, route.type, route.interface, route.gateway, True)

    def set_neighbour(self, key: Key, mac: bytes, state: int) -> Iterator[Message]:
        entry = Neighbour(*key, mac if state & USABLE else b"", state)
        self.neighbours[key] = entry
        yield entry

    def remove_neighbour(self, key: Key) -> Iterator[Message]:
        if self.neighbours.pop(key, None) is not None:
            yield Neighbour(*key, b"", 0)

    def set_link(self, interface: int, mac: bytes) -> Iterator[Message]:
        """No MAC: it is down. Then IPv4's routes by it vanish without a word, and so do its neighbours."""
        has_turned = bool(mac) != bool(self.links.get(interface))
        self.links[interface] = mac
        yield Link(interface, bool(mac), mac, has_turned)
        if not mac:
            for key, route in list(self.routes.items()):
                if route.interface == interface:
                    del self.routes[key]
            for there in [each for each in self.neighbours if each[0] == interface]:
                yield from self.remove_neighbour(there)

    # What it answers.

    def answer(self, question: Question) -> Message:
        match question:
            case AskLink(interface):
                mac = self.links.get(interface)
                return Refused(errno.ENODEV) if mac is None else Link(interface, bool(mac), mac, False)
            case AskNeighbour(interface, address):
                return self.neighbours.get((interface, address), Refused(errno.ENOENT))
            case AskRoute(address):
                found = self._route(address)
                return found or Refused(errno.ENETUNREACH)
            case Use(interface, address):
                self.used.append((interface, address))
                return Refused(0)

    def hop(self, address: ProviderAddress, interfaces: frozenset[int]) -> NextHop | None:
        """How it would send, if out of one of these interfaces."""
        route = self._route(address)
        if route is None or route.type != UNICAST or route.interface not in interfaces:
            return None
        entry = self.neighbours.get((route.interface, route.gateway or bytes(address)))
        own = self.links.get(route.interface)
        if not own or entry is None or not entry.state & USABLE:
            return None
        return NextHop(route.interface, own, entry.mac)

    def _route(self, address: ProviderAddress) -> Route | None:
        number = int.from_bytes(address)
        covering = [
            route
            for (prefix, length), route in self.routes.items()
            if len(prefix) == len(address)
            and (number ^ int.from_bytes(prefix)) >> (8 * len(prefix) - length) == 0
        ]
        return max(covering, key=lambda route: route.length, default=None)


def settle(routes: Routes, kernel: Kernel, now: float, *, most: int = 64) -> list[Changed]:
    """Ask all that is to be asked at a time."""
    changes: list[Changed] = []
    while questions := routes.questions(now, most):
        for question in questions:
            changes += routes.answer(question, kernel.answer(question), now)
    return changes


def hear(routes: Routes, events: Iterator[Message], now: float) -> list[Changed]:
    return [change for event in events for change in routes.hear(event, now)]
