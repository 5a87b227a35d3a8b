"""One TCP stream from one namespace to another, with the offloads that they have."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from gateway.lab.namespaces import Namespace

SECONDS = 3.0
WARM_UP = 0.5
PATIENCE = 10.0
BLOCK = 1 << 18


def megabits_per_second(sender: Namespace, receiver: Namespace, address: str) -> float:
    """Send one TCP stream to an address of the receiver, and return how much arrives, in Mbit/s."""
    with receiver.call(socket.create_server, (address, 0)) as listener:
        port = listener.getsockname()[1]
        source = sender.call(socket.create_connection, (address, port), PATIENCE)
        destination, _ = listener.accept()
    sending = threading.Thread(target=_send_until_closed, args=[source])
    sending.start()
    try:
        with destination:
            destination.settimeout(PATIENCE)
            _receive(destination, WARM_UP)
            return _receive(destination, SECONDS) * 8 / 1e6
    finally:
        sending.join()


def _send_until_closed(source: socket.socket) -> None:
    with source, contextlib.suppress(ConnectionError):  # which is the receiver's way to say that it is enough
        while True:
            source.sendall(bytes(BLOCK))


def _receive(destination: socket.socket, seconds: float) -> float:
    """Receive for a time, and return how many octets a second came."""
    buffer = bytearray(BLOCK)
    count = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        count += destination.recv_into(buffer)
    return count / elapsed
