"""Sends the same GRE packets over and over, as fast as it goes, until SIGTERM: SOURCE GATEWAY HEX..."""

from __future__ import annotations

import itertools
import signal
import socket
import sys
from types import FrameType

from gateway.underlay.packet_filter import NOTHING, attach

GRE = 47


def main() -> None:
    """Send, and say how many were sent when told to end."""
    source, gateway, *packets = sys.argv[1:]
    octets = [bytes.fromhex(packet) for packet in packets]
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    sent = 0

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    with socket.socket(family, socket.SOCK_RAW, GRE) as sock:
        attach(sock, NOTHING)
        sock.bind((source, 0))
        sock.connect((gateway, 0))
        sys.stdout.write("flooding\n")
        try:
            for packet in itertools.cycle(octets):
                sock.send(packet)
                sent += 1
        finally:
            sys.stdout.write(f"sent {sent}\n")


if __name__ == "__main__":
    main()
