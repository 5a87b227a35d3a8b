"""A traceroute and a tracepath of our own, for machines without them."""

from __future__ import annotations

import ipaddress
import socket
import time

from gateway.lab import error_queue

FIRST_PORT = 33434  # where traceroute(8) begins, since nothing listens there
ATTEMPTS = 3  # a probe may be lost, and routers and hosts limit how many errors they send
UDP_HEADERS = {4: 28, 6: 48}


class Tracer:
    """UDP probes to one target, each from a socket of its own."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.version = ipaddress.ip_address(target).version
        self._port = FIRST_PORT

    def probe(
        self, hop_limit: int, size: int, timeout: float
    ) -> tuple[error_queue.QueuedError | None, float]:
        """Send `size` octets, headers included; return the error that came of it, and after how many ms."""
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            error_queue.enable(sock, self.version, error_queue.DISCOVER_PROBE)
            level, option = error_queue.LEVEL[self.version], error_queue.HOP_LIMIT[self.version]
            sock.setsockopt(level, option, hop_limit)
            sock.connect((self.target, self._port))
            self._port += 1
            sent = time.monotonic()
            try:
                sock.send(bytes(max(0, size - UDP_HEADERS[self.version])))
            except OSError:
                error = error_queue.read(sock, self.version)
                if error is None:
                    raise
                return error, 0.0
            error_queue.wait(sock, timeout)
            return error_queue.read(sock, self.version), (time.monotonic() - sent) * 1000


def traceroute(target: str, *, max_hops: int = 30, queries: int = 3, timeout: float = 1.0) -> int:
    """Print each router on the way, as traceroute(8) does; return 0 if the target was reached, else 1."""
    tracer = Tracer(target)
    print(f"traceroute to {target} ({target}), {max_hops} hops max, 60 byte packets", flush=True)
    for hop in range(1, max_hops + 1):
        words: list[str] = []
        reached = False
        last = ""
        for _ in range(queries):
            error, milliseconds = tracer.probe(hop, 60, timeout)
            if error is None:
                words.append("*")
                continue
            if error.offender != last:
                words.append(error.offender)
                last = error.offender
            words.append(f"{milliseconds:.3f} ms")
            reached |= error.is_port_unreachable and error.offender == target
            if not error.is_time_exceeded and not error.is_port_unreachable:
                words.append(f"!{error.type}-{error.code}")
        print(f"{hop:2}  {'  '.join(words)}", flush=True)
        if reached:
            return 0
    return 1


def tracepath(target: str, *, max_hops: int = 30, timeout: float = 1.0) -> int:
    """Print each router on the way and the path's MTU, as tracepath(8) does; return 0 if reached, else 1."""
    tracer = Tracer(target)
    size = 65535
    hop = 1
    while hop <= max_hops:
        error, milliseconds = tracer.probe(hop, size, timeout)
        for _ in range(ATTEMPTS - 1):
            if error is None:
                error, milliseconds = tracer.probe(hop, size, timeout)
        if error is None:
            print(f"{hop:2}:  no reply", flush=True)
        elif error.is_too_big:
            if not 0 < error.mtu < size:
                print(f"{hop:2}:  {error.offender} says that {size} is too big, and no less")
                return 1
            size = error.mtu
            who = "[LOCALHOST]" if error.is_local else f"{error.offender:40} {milliseconds:.3f}ms"
            print(f"{hop:2}{'?' if error.is_local else ''}:  {who} pmtu {size}", flush=True)
            continue
        else:
            reached = error.is_port_unreachable and error.offender == target
            said = " reached" if reached else "" if error.is_time_exceeded else f" ({error})"
            print(f"{hop:2}:  {error.offender:40} {milliseconds:.3f}ms{said}", flush=True)
            if reached:
                print(f"     Resume: pmtu {size} hops {hop}")
                return 0
        hop += 1
    print(f"     Too many hops: pmtu {size}")
    return 1
