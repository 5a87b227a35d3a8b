"""Counted datagrams between machines, a thousand a second each way: what shows every lost packet.

A talker hears whoever sends to it, and sends to its targets from one SIGUSR1 to the next. When it is
told to end, it writes down when it has sent and heard each datagram, by the machine's monotonic clock.
What is left over from an earlier talk has another mark.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from types import FrameType

import msgspec

PORT = 7007
EVERY = 1_000_000
"""Nanoseconds between two datagrams to each target."""

STRAGGLERS = 300_000_000
"""Nanoseconds of silence after which nothing is expected any more."""

_DATAGRAM = struct.Struct("!II")  # mark, number
_LARGEST = 64


class Heard(msgspec.Struct):
    """One stream as its receiver saw it: numbers, and the times in nanoseconds that they came at."""

    numbers: list[int] = msgspec.field(default_factory=list)
    times: list[int] = msgspec.field(default_factory=list)


class Talk(msgspec.Struct):
    """What one talker has sent to each target, and heard from each source."""

    sent: dict[str, list[int]] = msgspec.field(default_factory=dict)
    """The time in nanoseconds of each datagram; its place is its number."""
    heard: dict[str, Heard] = msgspec.field(default_factory=dict)


class Pause(msgspec.Struct, frozen=True):
    """When a machine did not run: from its last datagram before to its first after, in nanoseconds."""

    begin: int
    end: int

    @property
    def milliseconds(self) -> float:
        return (self.end - self.begin) / 1e6


def pause_around(sent: list[int], stopped_at: int) -> Pause:
    """Return the gap in what a machine has sent in which it was told to stop. Raises LookupError."""
    place = bisect.bisect_right(sent, stopped_at)
    if place in (0, len(sent)):
        raise LookupError("nothing was sent on one side of the pause")
    # Told to stop, it may have sent once more.
    while place + 1 < len(sent) and sent[place] - stopped_at < EVERY:
        place += 1
    return Pause(sent[place - 1], sent[place])


def lost(sent: list[int], heard: Heard, excused: list[Pause]) -> list[int]:
    """Return the numbers of the datagrams that never came although they were sent outside every pause."""
    came = set(heard.numbers)
    return [
        number
        for number, at in enumerate(sent)
        if number not in came and not any(pause.begin <= at <= pause.end for pause in excused)
    ]


def longest_gap(heard: Heard) -> float:
    """Return the longest time between two datagrams of a stream, in milliseconds."""
    times = sorted(heard.times)
    return max((b - a for a, b in itertools.pairwise(times)), default=0) / 1e6


def duplicates(heard: Heard) -> int:
    """Return how many datagrams came more than once."""
    return len(heard.numbers) - len(set(heard.numbers))


class Talker:
    """Sends and hears until it is told to end."""

    def __init__(self, mark: int, targets: list[str]) -> None:
        self._mark = mark
        self.talk = Talk(sent={target: [] for target in targets})
        self.is_over = False
        self.is_sending = False
        self._last_event = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("", PORT))

    def run(self) -> None:
        """Send on each beat, and hear in between."""
        next_beat = time.monotonic_ns()
        with contextlib.closing(self._socket):
            while not self.is_over or time.monotonic_ns() - self._last_event < STRAGGLERS:
                wait = (next_beat - time.monotonic_ns()) / 1e9
                if select.select([self._socket], [], [], max(0.0, wait))[0]:
                    self._hear()
                now = time.monotonic_ns()
                if now >= next_beat:
                    if self.is_sending:
                        self._send()
                    # After a pause it goes on from now: nothing is sent for the time that was lost.
                    next_beat = next_beat + EVERY if now - next_beat < 10 * EVERY else now + EVERY

    def _send(self) -> None:
        for target, times in self.talk.sent.items():
            # What its own machine refuses to send has not been sent.
            with contextlib.suppress(OSError):
                self._socket.sendto(_DATAGRAM.pack(self._mark, len(times)), (target, PORT))
                times.append(time.monotonic_ns())

    def end(self) -> None:
        """Hear what is still on its way, and then end."""
        self.is_over, self._last_event = True, time.monotonic_ns()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                octets, source = self._socket.recvfrom(_LARGEST)
                if len(octets) != _DATAGRAM.size:
                    continue
                mark, number = _DATAGRAM.unpack(octets)
                if mark == self._mark:
                    heard = self.talk.heard.setdefault(source[0], Heard())
                    heard.numbers.append(number)
                    self._last_event = time.monotonic_ns()
                    heard.times.append(self._last_event)


def main() -> None:
    """Hear, and talk when told to, until SIGTERM: `streams FILE MARK TARGET...`."""
    file, mark, *targets = sys.argv[1:]
    talker = Talker(int(mark), targets)

    def end(_number: int, _frame: FrameType | None) -> None:
        talker.end()

    def turn(_number: int, _frame: FrameType | None) -> None:
        talker.is_sending = not talker.is_sending

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, turn)
    print("hearing", flush=True)
    talker.run()
    part = Path(f"{file}.part")
    part.write_bytes(msgspec.json.encode(talker.talk))
    part.replace(file)


if __name__ == "__main__":
    main()
