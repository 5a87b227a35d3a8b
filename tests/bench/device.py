"""A site's VPN device of which only the key exchange runs.

What arrives as ESP is left to counters, and what it sends as ESP is sealed by the
benchmark, by the child SA that is agreed on here.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterable
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
    SiteTrouble,
)
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.liveness import Traffic
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.service import SystemEntropy
from tunnels.sockets import NON_ESP_MARKER

KEEPALIVE = b"\xff"
LARGEST = 65535
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


class Device:
    """Use it as a context manager: it dials and answers in a thread of its own meanwhile."""

    def __init__(self, namespace: Namespace, policy: PeerPolicy) -> None:
        namespace.run("nft", "-f", "-", stdin=DROP_ESP)
        (address,) = policy.local_addresses
        self.child: ChildSa | None = None
        """The newest child SA."""
        self.troubles: list[str] = []
        self._address = address
        self._policy = policy
        self._endpoint = IkeEndpoint(SystemEntropy(), lambda _site: Traffic.none())
        self._sockets = {port: namespace.call(_open, address, port) for port in (IKE_PORT, NAT_PORT)}
        self._is_over = threading.Event()
        self._is_up = threading.Event()
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

    def wait_until_up(self, timeout: float = 10) -> ChildSa:
        """Return the child SA that is agreed on. Raises LabError."""
        if not self._is_up.wait(timeout) or self.child is None:
            raise LabError(f"the device has no child SA in {timeout:g} s: {self.troubles}")
        return self.child

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in self._sockets.values():
                selector.register(each, selectors.EVENT_READ)
            self._perform(self._endpoint.configure([self._policy], time.monotonic()))
            while not self._is_over.is_set():
                pause = min(LONGEST_NAP, self._endpoint.deadline - time.monotonic())
                for key, _ in selector.select(max(0.0, pause)):
                    self._receive(self._sockets[key.fileobj.getsockname()[1]])  # type: ignore[union-attr]
                if self._endpoint.deadline <= time.monotonic():
                    self._perform(self._endpoint.handle_timeout(time.monotonic()))

    def _receive(self, receiver: socket.socket) -> None:
        datagram, (host, remote_port) = receiver.recvfrom(LARGEST)
        port = receiver.getsockname()[1]
        if port == NAT_PORT:
            if not datagram.startswith(NON_ESP_MARKER):
                return
            datagram = datagram[len(NON_ESP_MARKER) :]
        path = Path(Endpoint(self._address, port), Endpoint(ProviderAddress.parse(host), remote_port))
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
                    self.child = child
                    self._is_up.set()
                case SiteTrouble(reason=reason):
                    self.troubles.append(reason)
                case _:
                    continue

    def _send(self, path: Path, datagram: bytes) -> None:
        remote = path.remote
        self._sockets[path.local.port].sendto(datagram, (str(remote.address), remote.port))


def _open(address: ProviderAddress, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((str(address), port))
    return opened
