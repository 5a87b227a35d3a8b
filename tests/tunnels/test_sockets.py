"""UDP sockets on the loopback interface, which cuts and merges runs as the kernel does everywhere."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from policies.addresses import ProviderAddress
from tunnels.effects import Endpoint, Path
from tunnels.socket_options import QueuedError
from tunnels.sockets import MOST_SEGMENTS, UdpSocket, destination_of

LOOPBACK = {4: ProviderAddress.parse("127.0.0.1"), 6: ProviderAddress.parse("::1")}

both_families = pytest.mark.parametrize("version", [4, 6])


def free_port(version: int) -> int:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(LOOPBACK[version]), 0))
        return int(probe.getsockname()[1])


class Reports:
    def __init__(self) -> None:
        self.heard: list[tuple[Endpoint, int, int]] = []

    def __call__(self, destination: Endpoint, spi: int, mtu: int) -> None:
        self.heard.append((destination, spi, mtu))


def open_udp(version: int, reports: Reports | None = None) -> UdpSocket:
    return UdpSocket(Endpoint(LOOPBACK[version], free_port(version)), reports or Reports())


@pytest.fixture
def ends(version: int) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    with closing(open_udp(version)) as near, closing(open_udp(version)) as far:
        yield near, far


def calls(sender: UdpSocket, monkeypatch: pytest.MonkeyPatch, failure: int = 0) -> list[int]:
    """Count datagrams by call, and make calls with a segment size fail if told so."""
    counted: list[int] = []
    real = sender._socket

    class Watched:
        def sendmsg(self, buffers: Any, ancillary: Any, flags: int, destination: Any) -> int:
            counted.append(len(buffers))
            if failure and any(kind == 103 for _, kind, _ in ancillary):
                raise OSError(failure, "")
            return real.sendmsg(buffers, ancillary, flags, destination)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(sender, "_socket", Watched())
    return counted


@both_families
def test_run_of_datagrams_is_sent_by_one_call_and_received_by_one(
    ends: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    counted = calls(near, monkeypatch)
    run = [bytes([n]) * 1000 for n in range(MOST_SEGMENTS - 1)] + [b"last and shorter"]
    near.send(destination_of(far.local), run, 0)
    assert counted == [MOST_SEGMENTS]
    path, ecn, packets = far.receive()
    assert path == Path(far.local, near.local)
    assert ecn == 0
    assert list(packets) == run
    with pytest.raises(BlockingIOError):
        far.receive()


@both_families
@pytest.mark.parametrize("ecn", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_outer_ecn_bits_arrive(ends: tuple[UdpSocket, UdpSocket], ecn: int, count: int) -> None:
    near, far = ends
    near.send(destination_of(far.local), [b"packet"] * count, ecn)
    assert far.receive()[1] == ecn


@both_families
@pytest.mark.parametrize("failure", [errno.EINVAL, errno.EIO])
def test_where_runs_cannot_be_cut_datagrams_go_one_by_one_from_then_on(
    ends: tuple[UdpSocket, UdpSocket], failure: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    counted = calls(near, monkeypatch, failure)
    for _ in range(2):
        near.send(destination_of(far.local), [b"one", b"two"], 0)
    assert counted == [2, 1, 1, 1, 1]
    assert [bytes(far.receive()[2][0]) for _ in range(4)] == [b"one", b"two", b"one", b"two"]
    assert not near.unsent


@both_families
def test_run_that_is_refused_for_its_size_does_not_end_cutting(
    ends: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    counted = calls(near, monkeypatch)
    near.send(destination_of(far.local), [bytes(65_530), bytes(65_530)], 0)
    assert sum(near.unsent.values()) == 2
    del counted[:]
    near.send(destination_of(far.local), [b"one", b"two"], 0)
    assert counted == [2]


@both_families
def test_senders_are_told_apart_and_one_sender_has_one_path(
    ends: tuple[UdpSocket, UdpSocket], version: int
) -> None:
    near, far = ends
    with closing(open_udp(version)) as other:
        for sender in (near, other, near):
            sender.send(destination_of(far.local), [b"packet"], 0)
        first, second, third = (far.receive()[0] for _ in range(3))
    assert first is third
    assert (first.remote, second.remote) == (near.local, other.local)


@both_families
def test_senders_are_not_remembered_without_bound(
    ends: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnels.sockets._REMEMBERED", 2)
    _, far = ends
    for port in range(10):
        assert far._path_from(port, "192.0.2.1", port).remote.port == port
    assert len(far._paths) == 2


@both_families
def test_error_of_an_earlier_packet_costs_the_next_one_nothing(
    ends: tuple[UdpSocket, UdpSocket], version: int
) -> None:
    near, far = ends
    nobody = (str(LOOPBACK[version]), free_port(version))
    near.send(nobody, [b"refused"], 0)
    near.send(destination_of(far.local), [b"packet"], 0)
    assert far.receive()[2] == (b"packet",)
    assert near.icmp_errors == 1
    assert not near.unsent


@both_families
def test_message_without_df_leaves_the_socket_as_it_was(
    ends: tuple[UdpSocket, UdpSocket], version: int
) -> None:
    near, far = ends
    level, option = (socket.IPPROTO_IP, 10) if version == 4 else (socket.IPPROTO_IPV6, 23)
    near.send_fragmentable(destination_of(far.local), b"message")
    assert far.receive()[2] == (b"message",)
    assert near._socket.getsockopt(level, option) == 3


def test_report_of_a_path_mtu_needs_the_spi_of_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = Reports()
    address = ProviderAddress.parse("198.51.100.1")

    def errors(_: socket.socket) -> Iterator[QueuedError]:
        for from_the_network, quoted in (
            (True, struct.pack("!II", 0x2001, 7)),
            (True, b""),
            (True, bytes(8)),
            (False, b""),
        ):
            yield QueuedError(errno.EMSGSIZE, from_the_network, 1400, address, 4500, quoted)
        yield QueuedError(errno.EHOSTUNREACH, True, 0, address, 4500, struct.pack("!II", 0x2001, 7))

    monkeypatch.setattr("tunnels.sockets.queued_errors", errors)
    with closing(open_udp(4, reports)) as near:
        near.heed_errors()
        assert reports.heard == [(Endpoint(address, 4500), 0x2001, 1400)]
        near.heed_errors(refused=0x77)
        assert reports.heard[1:] == [
            (Endpoint(address, 4500), 0x2001, 1400),
            (Endpoint(address, 4500), 0x77, 1400),
        ]
        assert near.icmp_errors == 8
