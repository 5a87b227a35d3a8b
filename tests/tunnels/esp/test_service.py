from __future__ import annotations

import errno
import socket

import pytest
import trio

from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError
from tests.tunnels.esp.pairs import PATH
from tests.tunnels.esp.scripted import LOCAL, RecordingSocket, ScriptedSocket, receive_batch, with_recorder
from tunnels.effects import Endpoint, Path
from tunnels.esp.associations import Sealed
from tunnels.esp.service import BATCH, TunnelSockets
from tunnels.sockets import LARGEST_RUN, MOST_SEGMENTS

RAW = Path(Endpoint(LOCAL.address, 0), Endpoint(PATH.remote.address, 0))
OTHER = Path(LOCAL, Endpoint(PATH.remote.address, 61000))


def send(sockets: TunnelSockets, *sizes: int, path: Path = PATH, ecn: int = 0) -> None:
    for size in sizes:
        sockets.send_esp(Sealed(path, True, bytes(size)), ecn)


def sizes(recorder: RecordingSocket) -> list[list[int]]:
    return [[len(each) for each in packets] for _, packets, _ in recorder.sent]


def test_packets_for_one_peer_leave_together_at_the_end_of_the_batch() -> None:
    sockets, recorder = with_recorder()
    send(sockets, 1400, 1400, 1400)
    assert recorder.sent == []
    sockets.flush()
    assert sizes(recorder) == [[1400, 1400, 1400]]
    assert recorder.sent[0][0] == ("198.51.100.1", 4500)
    sockets.flush()
    assert len(recorder.sent) == 1


def test_packets_for_several_peers_are_not_mixed() -> None:
    sockets, recorder = with_recorder()
    for size in (100, 200):
        send(sockets, size, path=PATH)
        send(sockets, size - 1, path=OTHER)
    sockets.flush()
    assert {(destination[1], *map(len, packets)) for destination, packets, _ in recorder.sent} == {
        (4500, 100),
        (4500, 200),
        (61000, 99),
        (61000, 199),
    }


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        ([100, 100, 60], [[100, 100, 60]]),
        ([100, 60, 60], [[100, 60], [60]]),
        ([60, 100, 100], [[60], [100, 100]]),
        ([100, 60, 100], [[100, 60], [100]]),
        ([10] * (MOST_SEGMENTS + 1), [[10] * MOST_SEGMENTS, [10]]),
        ([30_000] * 3, [[30_000] * 2, [30_000]]),
    ],
)
def test_only_the_last_of_a_run_is_shorter_and_the_order_stays(
    given: list[int], runs: list[list[int]]
) -> None:
    sockets, recorder = with_recorder()
    send(sockets, *given)
    sockets.flush()
    assert sizes(recorder) == runs
    assert all(sum(run) <= LARGEST_RUN for run in runs)


def test_packets_with_different_ecn_bits_are_not_sent_together() -> None:
    sockets, recorder = with_recorder()
    send(sockets, 100, 100, ecn=1)
    send(sockets, 100, ecn=0)
    sockets.flush()
    assert [(len(packets), ecn) for _, packets, ecn in recorder.sent] == [(2, 1), (1, 0)]


def test_batch_that_is_received_ends_with_a_flush() -> None:
    sockets, recorder = with_recorder()
    source = ScriptedSocket(4500, [b"\1" * 40], [b"\1" * 40])

    def echo(path: Path, packet: bytes, ecn: int, now: float) -> None:
        sockets.send_esp(Sealed(path, True, packet), ecn)

    assert sockets._receive_batch(source, lambda *_: None, echo, 0.0) is False
    assert sizes(recorder) == [[40, 40]]


def test_key_exchange_is_told_from_packets_by_the_marker_on_the_shared_port() -> None:
    packets = [bytes(4) + b"message", b"\0\0\1\0packet", b"\xff", b"\xff\xff\xff\xffpacket", b"", bytes(3)]
    assert receive_batch(ScriptedSocket(4500, packets))[1] == [
        ("ike", b"message"),
        ("esp", b"\0\0\1\0packet"),
        ("esp", b"\xff\xff\xff\xffpacket"),
        ("esp", b""),
        ("esp", bytes(3)),
    ]


def test_all_is_key_exchange_on_its_own_port_and_nothing_is_on_the_raw_socket() -> None:
    packets = [bytes(4) + b"1", b"\1\2\3\4"]
    assert receive_batch(ScriptedSocket(500, packets))[1] == [("ike", packets[0]), ("ike", packets[1])]
    assert receive_batch(ScriptedSocket(0, packets))[1] == [("esp", packets[0]), ("esp", packets[1])]


def test_key_exchange_has_the_marker_only_on_the_shared_port_and_waits_for_nothing() -> None:
    sockets, recorder = with_recorder()
    sockets.send_ike(PATH, b"message")
    ike = Path(Endpoint(LOCAL.address, 500), Endpoint(PATH.remote.address, 500))
    sockets.send_ike(ike, b"message")
    sockets.send_keepalive(PATH)
    assert [packets for _, packets, _ in recorder.sent] == [[bytes(4) + b"message"], [b"message"], [b"\xff"]]


def test_what_has_no_socket_is_counted() -> None:
    sockets = TunnelSockets()
    send(sockets, 10)
    sockets.send_esp(Sealed(RAW, False, b"packet"), 0)
    sockets.send_ike(PATH, b"message")
    assert sockets.unsent[errno.EADDRNOTAVAIL] == 3


def test_what_the_network_said_is_heeded_and_the_packets_behind_it_are_received() -> None:
    source = ScriptedSocket(4500, [b"12345"], OSError(errno.EHOSTUNREACH, ""), [b"67890"])
    more, received = receive_batch(source)
    assert (more, [octets for _, octets in received]) == (False, [b"12345", b"67890"])
    assert source.times_heeded == 1


def test_waking_for_nothing_looks_for_what_the_network_said() -> None:
    source = ScriptedSocket(4500)
    assert receive_batch(source) == (False, [])
    assert source.times_heeded == 1


def test_others_get_a_turn_after_a_batch_of_packets_merged_or_not_or_of_errors() -> None:
    more, received = receive_batch(ScriptedSocket(4500, *[[b"12345"]] * 1000))
    assert (more, len(received)) == (True, BATCH)
    more, received = receive_batch(ScriptedSocket(4500, *[[b"12345"] * 60] * 1000))
    assert (more, len(received)) == (True, 120)
    assert receive_batch(ScriptedSocket(4500, *[OSError(errno.EPERM, "")] * 1000)) == (True, [])


def test_queues_of_peers_are_not_kept_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnels.esp.service._REMEMBERED", 3)
    sockets, recorder = with_recorder()
    for port in range(1, 11):
        send(sockets, 10, path=Path(LOCAL, Endpoint(PATH.remote.address, port)))
    sockets.flush()
    assert [destination[1] for destination, _, _ in recorder.sent] == list(range(1, 11))
    assert len(sockets._runs) <= 3


def test_port_that_another_daemon_holds_is_a_configuration_error_in_words() -> None:
    loopback = ProviderAddress.parse("127.0.0.1")

    async def main(taken: int) -> None:
        await TunnelSockets(ike_port=taken).serve([loopback], *[lambda *_: None] * 3)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(loopback), 0))
        with pytest.raises(ConfigurationError, match="another IKE daemon, such as strongSwan"):
            trio.run(main, other.getsockname()[1])


def test_socket_that_is_not_permitted_is_a_configuration_error_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for which, words in (("UdpSocket", "CAP_NET_BIND_SERVICE"), ("EspSocket", "CAP_NET_RAW")):
        with monkeypatch.context() as patched:
            patched.setattr("tunnels.esp.service.UdpSocket", lambda *_: RecordingSocket())
            patched.setattr(RecordingSocket, "close", lambda _: None)
            patched.setattr(f"tunnels.esp.service.{which}", refuse)

            async def main() -> None:
                await TunnelSockets().serve([LOCAL.address], *[lambda *_: None] * 3)

            with pytest.raises(ConfigurationError, match=words):
                trio.run(main)
