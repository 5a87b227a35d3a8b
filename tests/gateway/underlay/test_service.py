from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from gateway.forwarding.verdicts import OuterHeader, ToUnderlay
from gateway.packets import ip, nvgre
from gateway.underlay.service import BATCH, Underlay
from gateway.underlay.sockets import GreSocket
from policies.addresses import ProviderAddress, Vsid

OUTER = OuterHeader(bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))


class ScriptedSocket(GreSocket):
    """Hands out packets and errors in order, and then has nothing more."""

    def __init__(self, *script: bytes | OSError) -> None:
        self._script: Iterator[bytes | OSError] = iter(script)
        self.times_heeded = 0

    def receive(self) -> tuple[OuterHeader, bytes]:
        happening = next(self._script, None)
        if happening is None:
            raise BlockingIOError
        if isinstance(happening, OSError):
            raise happening
        return OUTER, happening

    def heed_errors(self, refused: Vsid | None = None) -> None:
        self.times_heeded += 1


def receive_batch(
    source: ScriptedSocket, largest: int = 1480, *, is_worth_splitting: bool = True
) -> tuple[bool, list[bytes]]:
    received: list[bytes] = []

    def receive(outer: OuterHeader, payload: bytes, now: float) -> None:
        assert (outer, now) == (OUTER, 12.5)
        received.append(payload)

    def worth_splitting(outer: OuterHeader, payload: bytes) -> bool:
        assert outer == OUTER
        assert len(payload) > largest
        return is_worth_splitting

    return Underlay()._receive_batch(source, largest, receive, worth_splitting, 12.5), received


def test_what_the_network_said_is_heeded_and_the_packets_behind_it_are_received() -> None:
    source = ScriptedSocket(b"1", OSError(errno.EHOSTUNREACH, ""), b"2", OSError(errno.EMSGSIZE, ""), b"3")
    _, received = receive_batch(source)
    assert received == [b"1", b"2", b"3"]
    assert source.times_heeded == 2


def test_waking_for_nothing_looks_for_what_the_network_said() -> None:
    source = ScriptedSocket()
    assert receive_batch(source) == (False, [])
    assert source.times_heeded == 1


def test_others_get_a_turn_after_a_batch_of_packets_or_of_errors() -> None:
    assert receive_batch(ScriptedSocket(*[b""] * 1000)) == (True, [b""] * BATCH)
    assert receive_batch(ScriptedSocket(*[OSError(errno.EPERM, "")] * 1000)) == (True, [])


def merged_packet() -> bytes:
    """An NVGRE packet with a TCP segment of 60 kB, as GRO makes one."""
    tcp = bytes(12) + b"\x50\x10" + bytes(6)
    packet = ip.build(bytes([10, 0, 1, 5]), bytes([10, 0, 2, 5]), 6, tcp + bytes(60_000))
    return nvgre.encode(5001) + bytes(12) + b"\x08\x00" + packet


def test_a_merged_packet_counts_in_a_batch_as_all_that_it_was() -> None:
    more, received = receive_batch(ScriptedSocket(*[merged_packet()] * 1000))
    assert more
    assert BATCH <= len(received) < 2 * BATCH


def test_a_merged_packet_that_nobody_would_take_costs_no_more_than_another() -> None:
    source = ScriptedSocket(merged_packet())
    assert receive_batch(source, is_worth_splitting=False) == (False, [merged_packet()])


def test_a_packet_above_the_mtu_that_cannot_be_split_is_received_whole() -> None:
    assert receive_batch(ScriptedSocket(bytes(3000)), largest=1480)[1] == [bytes(3000)]


def test_sending_from_an_address_without_a_socket_is_refused() -> None:
    nobody = ProviderAddress.parse("192.0.2.9")
    with pytest.raises(OSError, match="assign") as caught:
        Underlay().send(ToUnderlay(nobody, nobody, 0, b"", Vsid(5001), "red"))
    assert caught.value.errno == errno.EADDRNOTAVAIL
