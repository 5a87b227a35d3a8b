"""Capture an interface's packets to a file that Wireshark reads.

    python -m gateway.lab.capture INTERFACE FILE

It says "capturing on INTERFACE" once it misses nothing more, and on SIGTERM
or SIGINT writes what has arrived, says how many packets that was, and ends.
"""

from __future__ import annotations

import argparse
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gateway.host.vnet import PACKET_AUXDATA, SOL_PACKET, with_vlan_tag

ETH_P_ALL = 0x0003
PACKET_STATISTICS = 6

# Magic number, version 2.4, time zone, accuracy, snapshot length, link type; in our own order of octets.
FILE_HEADER = struct.Struct("=IHHiIII")
# Seconds, nanoseconds, how many octets are kept, how many there were.
RECORD_HEADER = struct.Struct("=IIII")
NANOSECOND_MAGIC = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
SNAPSHOT_LENGTH = 262144

# The whole of a super-packet as offloads hand it to us, and room for more of them.
LARGEST_FRAME = 1 << 17
RECEIVE_BUFFER = 32 << 20
MOST_AT_ONCE = 65536
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@ll")


def open_socket(interface: str) -> socket.socket:
    """Return a socket that gets every frame of an interface, both ways. Raises OSError."""
    # Bound before it is told a protocol, so that no frame of another interface slips in.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:  # in a user namespace the machine's own limit holds
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((interface, ETH_P_ALL))
    sock.setblocking(False)
    return sock


def write_header(file: BinaryIO) -> None:
    """Begin a pcap file of Ethernet frames with times in nanoseconds."""
    file.write(FILE_HEADER.pack(NANOSECOND_MAGIC, 2, 4, 0, 0, SNAPSHOT_LENGTH, LINKTYPE_ETHERNET))


def write_frame(file: BinaryIO, frame: bytes, nanoseconds: int) -> None:
    """Add one frame, with its time since 1970."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    file.write(RECORD_HEADER.pack(seconds, fraction, len(frame), len(frame)))
    file.write(frame)


def read_frames(path: Path) -> Iterator[bytes]:
    """Read the frames of a file that was written here. Raises ValueError if it was not."""
    data = path.read_bytes()
    if len(data) < FILE_HEADER.size or FILE_HEADER.unpack_from(data)[0] != NANOSECOND_MAGIC:
        raise ValueError(f"{path} is not a capture of this program")
    offset = FILE_HEADER.size
    while offset + RECORD_HEADER.size <= len(data):
        _, _, length, _ = RECORD_HEADER.unpack_from(data, offset)
        offset += RECORD_HEADER.size
        yield data[offset : offset + length]
        offset += length


def drain(sock: socket.socket, file: BinaryIO) -> int:
    """Write what has arrived, and return how many frames there were; a flood does not keep it here."""
    for count in range(MOST_AT_ONCE):
        try:
            frame, ancillary, _, _ = sock.recvmsg(LARGEST_FRAME, 128)
        except BlockingIOError:
            return count
        write_frame(file, with_vlan_tag(frame, ancillary), _arrival(ancillary))
    return MOST_AT_ONCE


def capture(interface: str, path: Path) -> tuple[int, int]:
    """Capture until SIGTERM or SIGINT; return how many packets were written, and how many the kernel lost."""
    with open_socket(interface) as sock, path.open("wb") as file, _stop_signals() as stop:
        write_header(file)
        file.flush()
        print(f"capturing on {interface}", flush=True)
        count = 0
        stopping = False
        while not stopping:
            ready, _, _ = select.select([sock, stop], [], [])
            stopping = stop in ready
            count += drain(sock, file)
            file.flush()
        _, lost = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return count, lost


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel saw the frame, in nanoseconds since 1970."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def _stop_signals() -> socket.socket:
    """A socket that becomes readable on SIGTERM or SIGINT, so that no frame is cut short."""
    readable, written = socket.socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return readable


def main() -> int:
    """Read the command line and capture."""
    parser = argparse.ArgumentParser(
        prog="gateway.lab.capture", description="Capture an interface to a pcap file."
    )
    parser.add_argument("interface")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    try:
        count, lost = capture(arguments.interface, arguments.file)
    except OSError as error:
        print(f"cannot capture on {arguments.interface}: {error}", file=sys.stderr)
        return 1
    print(f"{count} packets captured, {lost} dropped by the kernel")
    return 0


if __name__ == "__main__":
    sys.exit(main())
