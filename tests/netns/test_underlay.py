"""Raw GRE sockets between two network namespaces, against the kernel that they live on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import trio

from gateway.emissions import Emitter
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Forward, OuterHeader, ToPort, ToUnderlay
from gateway.lab.namespaces import Namespace, connect
from gateway.underlay.service import Underlay
from policies.addresses import ProviderAddress, Vsid

pytestmark = pytest.mark.netns

#   host [u0] 192.0.2.1, 2001:db8::1 --- 192.0.2.2, 2001:db8::2 [u0] gateway
HOST = {4: ProviderAddress.parse("192.0.2.1"), 6: ProviderAddress.parse("2001:db8::1")}
GATEWAY = {4: ProviderAddress.parse("192.0.2.2"), 6: ProviderAddress.parse("2001:db8::2")}
NVGRE = bytes.fromhex("20006558 00138900")


class Received(NamedTuple):
    outer: OuterHeader
    payload: bytes


class Sides(NamedTuple):
    host: Namespace
    gateway: Namespace


@pytest.fixture
def sides() -> Iterator[Sides]:
    host, gateway = Namespace("host"), Namespace("gateway")
    connect(host, "u0", gateway, "u0")
    for side, number in ((host, 1), (gateway, 2)):
        side.ip(
            f"addr add 192.0.2.{number}/24 dev u0",
            f"addr add 2001:db8::{number}/64 dev u0 nodad",
            "link set u0 up",
        )
    yield Sides(host, gateway)
    gateway.close()
    host.close()


class End:
    """An underlay service with everything that it received and learned."""

    def __init__(self) -> None:
        self.underlay = Underlay()
        self.drops = Drops()
        self.reports: list[tuple[bytes, int]] = []
        self._wakeup = trio.Event()
        self._received: list[Received] = []
        self._emitter = Emitter(self.drops, self.underlay.send, _no_ports)

    async def serve(
        self, addresses: dict[int, ProviderAddress], *, task_status: trio.TaskStatus[None]
    ) -> None:
        await self.underlay.serve(addresses.values(), self._receive, self._report, task_status=task_status)

    def send(self, packet: ToUnderlay) -> None:
        self._emitter.carry_out(Forward((packet,)))

    async def received(self, count: int = 1) -> list[Received]:
        await self._until(lambda: len(self._received) >= count)
        return self._received

    async def reported(self) -> tuple[bytes, int]:
        await self._until(lambda: bool(self.reports))
        return self.reports[-1]

    async def _until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not condition():
                self._wakeup = trio.Event()
                await self._wakeup.wait()

    def _receive(self, outer: OuterHeader, payload: bytes, now: float) -> None:
        self._received.append(Received(outer, payload))
        self._wakeup.set()

    def _report(self, destination: bytes, mtu: int, now: float) -> None:
        self.reports.append((destination, mtu))
        self._wakeup.set()


def _no_ports(frame: ToPort) -> None:
    raise AssertionError(f"there is no port for {frame}")


def packet(version: int, payload: bytes, ecn: int = 0, hop_limit: int = 64) -> ToUnderlay:
    return ToUnderlay(HOST[version], GATEWAY[version], ecn, payload, Vsid(5001), "red", hop_limit)


@contextmanager
def capturing(side: Namespace) -> Iterator[socket.socket]:
    """Whatever reaches an interface named u0, as the wire has it."""

    def open_capture() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))

    with side.call(open_capture) as capture:
        capture.bind(("u0", 0x0003))
        capture.settimeout(5)
        yield capture


def run(side: Namespace, main: Callable[[], object]) -> None:
    side.call(trio.run, main)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_arrives_with_what_its_outer_header_said(sides: Sides, version: int) -> None:
    receiver = End()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(receiver.serve, GATEWAY)
            sent = packet(version, NVGRE + b"frame", ecn=2, hop_limit=9)
            sides.host.call(send_once, sent)
            (received,) = await receiver.received()
            assert received == (OuterHeader(HOST[version], GATEWAY[version], 2, 9), NVGRE + b"frame")
            nursery.cancel_scope.cancel()

    run(sides.gateway, main)


def send_once(sent: ToUnderlay) -> None:
    async def main() -> None:
        end = End()
        async with trio.open_nursery() as nursery:
            await nursery.start(end.serve, HOST)
            end.send(sent)
            nursery.cancel_scope.cancel()
        assert not end.drops.counts

    trio.run(main)
