"""Sites' VPN devices of which only the key exchange runs.

What arrives as ESP is left to counters, and what it sends as ESP is sealed by the
benchmark, by the child SA that is agreed on here.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from gateway.lab.namespaces import LabError, Namespace
from policies.addresses import ProviderAddress
from tunnels.effects import (
    IKE_PORT,
    NAT_PORT,
    ChildSa,
    Effect,
    Endpoint,
    InstallChild,
    Path,
    SendDatagram,
    SendKeepalive,
    SiteKey,
    SiteTrouble,
)
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.liveness import Traffic
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.service import SystemEntropy
from tunnels.sockets import NON_ESP_MARKER

KEEPALIVE = b"\xff"
LARGEST = 65535
IP_PKTINFO = 8
ANCILLARY = 64
PACKET_INFO = struct.Struct("=i4s4s")  # in_pktinfo of ip(7): interface, our address, destination
LONGEST_NAP = 0.1

# ESP in UDP, by its SPI, which is not 0: counted by the interface, and then of no use to anybody.
DROP_ESP = f"""
table ip esp-counted {{
  chain prerouting {{
    type filter hook prerouting priority raw
    udp dport {NAT_PORT} @th,64,32 != 0 drop
  }}
}}
"""


class Devices:
    """All that one namespace has the addresses of.

    Use it as a context manager: they dial and answer in a thread of their own meanwhile.
    """

    def __init__(self, namespace: Namespace, policies: Sequence[PeerPolicy]) -> None:
        namespace.run("nft", "-f", "-", stdin=DROP_ESP)
        self.children: dict[SiteKey, ChildSa] = {}
        """The newest child SA of each."""
        self.troubles: list[str] = []
        self._policies = policies
        self._endpoint = IkeEndpoint(SystemEntropy(), lambda _site: Traffic.none())
        self._sockets = {port: namespace.call(_open, port) for port in (IKE_PORT, NAT_PORT)}
        self._is_over = threading.Event()
        self._are_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()

    def wait_until_up(self, timeout: float = 10) -> None:
        """Wait until each has a child SA. Raises LabError."""
        if not self._are_up.wait(timeout):
            count = f"{len(self.children)} of {len(self._policies)} devices"
            raise LabError(f"{count} have a child SA in {timeout:g} s: {self.troubles[-3:]}")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for port, each in self._sockets.items():
                selector.register(each, selectors.EVENT_READ, port)
            self._perform(self._endpoint.configure(self._policies, time.monotonic()))
            while not self._is_over.is_set():
                pause = min(LONGEST_NAP, self._endpoint.deadline - time.monotonic())
                for key, _ in selector.select(max(0.0, pause)):
                    self._receive(key.data)
                if self._endpoint.deadline <= time.monotonic():
                    self._perform(self._endpoint.handle_timeout(time.monotonic()))

    def _receive(self, port: int) -> None:
        datagram, ancillary, _, (host, remote_port) = self._sockets[port].recvmsg(LARGEST, ANCILLARY)
        if port == NAT_PORT:
            if not datagram.startswith(NON_ESP_MARKER):
                return
            datagram = datagram[len(NON_ESP_MARKER) :]
        _, own, _ = PACKET_INFO.unpack(ancillary[0][2])
        path = Path(Endpoint(ProviderAddress(own), port), Endpoint(ProviderAddress.parse(host), remote_port))
        self._perform(
            self._endpoint.handle_datagram_untrusted(path, datagram, time.monotonic(), datetime.now(UTC))
        )

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(path=path, message=message):
                    shared = path.local.port == NAT_PORT
                    self._send(path, NON_ESP_MARKER + message if shared else message)
                case SendKeepalive(path=path):
                    self._send(path, KEEPALIVE)
                case InstallChild(child=child):
                    self.children[child.site] = child
                    if len(self.children) == len(self._policies):
                        self._are_up.set()
                case SiteTrouble(reason=reason):
                    self.troubles.append(reason)
                case _:
                    continue

    def _send(self, path: Path, datagram: bytes) -> None:
        local, remote = path.local, path.remote
        own = (socket.IPPROTO_IP, IP_PKTINFO, PACKET_INFO.pack(0, local.address, bytes(4)))
        self._sockets[local.port].sendmsg((datagram,), (own,), 0, (str(remote.address), remote.port))


def _open(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    opened.bind(("", port))
    return opened
