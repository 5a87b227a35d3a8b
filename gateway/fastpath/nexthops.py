"""The next hops of provider addresses, kept as the kernel has them: what `Routes` asks, and hears.

Events come by two sockets, so that a flood of route events neither delays a neighbour's nor has it lost.
A third one is for questions. The kernel answers them before the call that sends them returns, which may
wait for the lock of its network configuration for as long as a driver likes: so that call has a thread of
its own, and many questions at once.
"""

from __future__ import annotations

import enum
import errno
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice

import msgspec
import trio

from gateway.fastpath import rtnetlink
from gateway.fastpath.hops import (
    AskLink,
    AskNeighbour,
    AskRoute,
    Changed,
    NextHop,
    Question,
    Unresolved,
    Use,
)
from gateway.fastpath.routes import Routes
from policies.addresses import ProviderAddress
from policies.errors import MalformedPacket

MOST_AT_ONCE = 64
"""Questions; putting their answers to use takes about half a millisecond."""
LONGEST_TURN = 0.0005
"""Seconds that one turn of reading events takes, about; a router with many behind it takes longer."""
REST_OF_NEIGHBOURS = 1.0
REST_OF_ROUTES = 4.0
"""How many times as long as such a turn took no more events are read: a flood of them takes half of the time,
or a fifth, at most."""
BUFFER = 1 << 20
"""Octets: more than a thousand events, or the answers to all questions that are put at once."""

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK = 1, 10
_SO_RCVBUFFORCE = 33
_LARGEST = 1 << 16
_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})

NO_SOURCES: Mapping[ProviderAddress, ProviderAddress] = {}


class NextHopsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many addresses have a next hop, and which have none."""

    resolved: int
    unresolved: int
    examples: tuple[Unresolved, ...]
    """Some of those that have none, with why: as many as were asked for."""
    resyncs: int
    """How often the kernel's news or its answers were lost, so that everything was asked for anew."""


class NextHops:
    """The next hop of each watched address out of some interfaces, as this machine's kernel would send."""

    def __init__(self, interfaces: Collection[int]) -> None:
        """`interfaces` are the underlay's, by their index."""
        self._routes = Routes(interfaces)
        self._changed: Callable[[ProviderAddress, NextHop | None], object] = _nobody
        self._woken = trio.Event()
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        self._resyncs = 0

    def replace(
        self,
        addresses: Collection[ProviderAddress],
        sources: Mapping[ProviderAddress, ProviderAddress] = NO_SOURCES,
    ) -> None:
        """Watch these addresses from now on and no others.

        `sources` says which address of ours packets to one come from, as policy rules may look at it.
        Nothing is told of addresses that are no longer watched.
        """
        self._routes.watch({address: sources.get(address) for address in addresses})
        self._woken.set()

    def send_by(self, interfaces: Collection[int]) -> None:
        """Take next hops out of these interfaces from now on, and of no others."""
        self._tell(self._routes.send_by(interfaces, trio.current_time()))

    def find(self, address: ProviderAddress) -> NextHop | None:
        """Return the next hop of a watched address, None if it has none."""
        return self._routes.find(address)

    def status(self, most: int = 20) -> NextHopsStatus:
        """Return how it is, with at most so many examples of what has no next hop."""
        unresolved = list(self._routes.unresolved())
        return NextHopsStatus(
            resolved=len(self._routes) - len(unresolved),
            unresolved=len(unresolved),
            examples=tuple(islice(unresolved, most)),
            resyncs=self._resyncs,
        )

    async def serve(
        self,
        changed: Callable[[ProviderAddress, NextHop | None], object],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep next hops right, and tell of each that becomes another one or none, at once.

        Started once the addresses that are watched by then have been asked for. Raises OSError where there is
        no netlink.
        """
        self._changed = changed
        with ExitStack() as stack:
            neighbours = stack.enter_context(_events(rtnetlink.GROUPS_OF_NEIGHBOURS))
            routes = stack.enter_context(_events(rtnetlink.GROUPS_OF_ROUTES))
            questions = stack.enter_context(_netlink())
            questions.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, neighbours, REST_OF_NEIGHBOURS)
                nursery.start_soon(self._listen, routes, REST_OF_ROUTES)
                await nursery.start(self._ask, questions)
                task_status.started()

    # Events.

    async def _listen(self, events: socket.socket, rest: float) -> None:
        while True:
            await trio.lowlevel.wait_readable(events)
            began = time.perf_counter()
            after = self._read(events, self._hear)
            if after is _After.LOSS:
                # The kernel keeps no further events until all that are here are read, and says so only once.
                while self._read(events, _overhear) is not _After.ALL:
                    await trio.lowlevel.checkpoint()
                self._lose_track()
            took = time.perf_counter() - began
            if took >= LONGEST_TURN:
                await trio.sleep(took * rest)

    def _read(self, events: socket.socket, hear: Callable[[bytes], None]) -> _After:
        """Read events for one turn."""
        until = time.perf_counter() + LONGEST_TURN
        while time.perf_counter() < until:
            try:
                datagram = self._receive(events)
            except BlockingIOError:
                return _After.ALL
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return _After.LOSS
            hear(datagram)
        return _After.SOME

    def _hear(self, datagram: bytes) -> None:
        now = trio.current_time()
        try:
            for _sequence, event in rtnetlink.decode(datagram):
                self._tell(self._routes.hear(event, now))
        except MalformedPacket:
            self._lose_track()

    def _receive(self, netlink: socket.socket) -> bytes:
        size = netlink.recv_into(self._buffer, 0, socket.MSG_TRUNC)
        return bytes(self._view[:size])

    def _lose_track(self) -> None:
        self._resyncs += 1
        self._routes.lose_track()
        self._woken.set()

    def _tell(self, changes: Iterable[Changed]) -> None:
        self._woken.set()
        for change in changes:
            self._changed(change.address, change.hop)

    # Questions.

    async def _ask(
        self, netlink: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        is_started = False
        limiter = trio.CapacityLimiter(1)
        sequence = 1
        while True:
            questions = self._routes.questions(trio.current_time(), MOST_AT_ONCE)
            if questions:
                numbered = dict(enumerate(questions, sequence))
                sequence = (sequence + len(questions)) % (1 << 31)
                packed = b"".join(_pack(question, number) for number, question in numbered.items())
                with _suppressed_shortage():  # then there are no answers, and all is asked for anew
                    await trio.to_thread.run_sync(netlink.send, packed, limiter=limiter)
                self._take_answers(numbered, self._read_answers(netlink, len(questions)))
                continue
            if not is_started and self._routes.is_settled:
                is_started = True
                task_status.started()
            with trio.move_on_at(self._routes.deadline):
                await self._woken.wait()
            self._woken = trio.Event()

    def _read_answers(self, netlink: socket.socket, most: int) -> dict[int, rtnetlink.Message]:
        found: dict[int, rtnetlink.Message] = {}
        with _suppressed_shortage(), suppress(MalformedPacket):  # what stays without is asked for anew
            while len(found) < most:
                found.update(rtnetlink.decode(self._receive(netlink)))
        return found

    def _take_answers(self, questions: dict[int, Question], answers: dict[int, rtnetlink.Message]) -> None:
        now = trio.current_time()
        if any(number not in answers and not isinstance(each, Use) for number, each in questions.items()):
            self._resyncs += 1  # the routes say the same, and that all of it is to be asked for
        for number, question in questions.items():
            answer = answers.get(number)
            self._tell(self._routes.answer(question, answer, now))


class _After(enum.Enum):
    """What a turn of reading has left."""

    ALL = "nothing is left"
    SOME = "there may be more"
    LOSS = "some were lost"


@contextmanager
def _suppressed_shortage() -> Iterator[None]:
    """Go on where the kernel has no answer yet, or no room for a question or an answer."""
    try:
        yield
    except OSError as error:
        if error.errno not in _SHORTAGES:
            raise


def _overhear(datagram: bytes) -> None:
    """All that it tells of is asked for instead."""


def _nobody(address: ProviderAddress, hop: NextHop | None) -> None:
    """Who is told before anybody serves."""


def _pack(question: Question, sequence: int) -> bytes:
    match question:
        case AskLink(interface):
            return rtnetlink.ask_link(interface, sequence)
        case AskNeighbour(interface, address):
            return rtnetlink.ask_neighbour(interface, address, sequence)
        case AskRoute(address, source):
            return rtnetlink.ask_route(address, source, sequence)
        case Use(interface, address):
            return rtnetlink.use_neighbour(interface, address, sequence)


def _netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        netlink.bind((0, 0))
        try:
            netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        except PermissionError:
            netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    except OSError:
        netlink.close()
        raise
    return netlink


def _events(groups: Iterable[int]) -> socket.socket:
    netlink = _netlink()
    for group in groups:
        try:
            netlink.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            if error.errno != errno.EINVAL or group <= 31:  # before Linux 5.3 there are no nexthop objects
                netlink.close()
                raise
    return netlink
