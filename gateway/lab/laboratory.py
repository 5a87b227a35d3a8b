"""One laboratory: namespaces, links and processes that all go when its block ends."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from gateway.lab.namespaces import LabError, Namespace, connect, tool
from gateway.lab.processes import POLL_SECONDS, Process

TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Laboratory:
    """Use it as a context manager: whatever ends the block, nothing stays behind.

    Processes end in reverse order, then the namespaces and the directory go.
    SIGTERM and SIGHUP end the block as Ctrl-C does. After a kill -9 the kernel
    ends the processes that were started here and removes the namespaces.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.processes: list[Process] = []
        self._started = 0
        self._directory = tempfile.TemporaryDirectory(prefix="isthmus-lab-")
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def directory(self) -> Path:
        """Where logs and configuration files are, until the end."""
        return Path(self._directory.name)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in TERMINATING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _exit_on_signal)
        try:
            self.build()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def build(self) -> None:
        """Make what is in it from the start. Overridden by topologies."""

    def close(self) -> None:
        """End every process, latest first, and let everything else go. A second call does nothing."""
        while self.processes:
            self.processes.pop().stop()
        for namespace in self.namespaces.values():
            namespace.close()
        self.namespaces.clear()
        self._directory.cleanup()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def namespace(self, name: str) -> Namespace:
        """Make a namespace. IPv6 addresses in it are usable at once, without duplicate address detection.

        Whatever its kernel has to say by ICMP it says, however often: one traceroute follows another here.
        Nothing is taken over from the machine's own settings, which the kernel copies into new namespaces.
        """
        if name in self.namespaces:
            raise ValueError(f"there is a namespace {name!r} already")
        namespace = self.namespaces[name] = Namespace(name)
        sysctls: dict[str, str | int] = {"net/ipv4/ip_forward": 0, "net/ipv6/conf/all/forwarding": 0}
        sysctls |= {"net/ipv4/icmp_ratelimit": 0, "net/ipv6/icmp/ratelimit": 0}
        for scope in ("all", "default"):
            sysctls |= {
                f"net/ipv4/conf/{scope}/rp_filter": 0,
                f"net/ipv4/conf/{scope}/arp_ignore": 0,
                f"net/ipv4/conf/{scope}/accept_redirects": 0,
                f"net/ipv6/conf/{scope}/disable_ipv6": 0,
                f"net/ipv6/conf/{scope}/accept_ra": 0,
                f"net/ipv6/conf/{scope}/autoconf": 0,
                f"net/ipv6/conf/{scope}/accept_dad": 0,
            }
        namespace.sysctl(sysctls)
        return namespace

    def link(self, a: Namespace, a_name: str, b: Namespace, b_name: str, mtu: int = 1500) -> None:
        """Join two namespaces by a veth pair and bring both ends up."""
        connect(a, a_name, b, b_name)
        a.ip(f"link set {a_name} mtu {mtu} up")
        b.ip(f"link set {b_name} mtu {mtu} up")

    def start(
        self, name: str, namespace: Namespace, *argv: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command inside a namespace; it ends with the laboratory."""
        # Each has a log of its own, so that nobody waits for what an earlier process has written.
        self._started += 1
        log = self.directory / f"{self._started:02}-{name}.log"
        process = Process(name, namespace.command(*argv), log, environment)
        self.processes.append(process)
        return process

    def start_python(self, name: str, namespace: Namespace, module: str, *arguments: str) -> Process:
        """Start a module of this project inside a namespace."""
        return self.start(name, namespace, sys.executable, "-m", module, *arguments)

    def capture(self, namespace: Namespace, interface: str, file: Path) -> Process:
        """Capture an interface's packets to a file until the end, or until the process is stopped."""
        name = f"capture-{namespace.name}-{interface}"
        process = self.start_python(name, namespace, "gateway.lab.capture", interface, str(file))
        process.wait_for("^capturing on ")
        return process

    def wait_until_ready(self, namespaces: Iterable[Namespace], timeout: float = 10) -> None:
        """Wait until every interface has its carrier and no IPv6 address is tentative. Raises LabError."""
        deadline = time.monotonic() + timeout
        for namespace in namespaces:
            while waiting := _not_ready(namespace):
                if time.monotonic() > deadline:
                    raise LabError(f"{namespace.name}: {', '.join(waiting)} not ready in {timeout:g} s")
                time.sleep(POLL_SECONDS)


def _not_ready(namespace: Namespace) -> list[str]:
    links = json.loads(namespace.run(tool("ip"), "-json", "address", "show", "up").stdout)
    return [
        link["ifname"]
        for link in links
        if "NO-CARRIER" in link["flags"] or any(address.get("tentative") for address in link["addr_info"])
    ]


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
