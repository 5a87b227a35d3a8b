"""Virtual machines that move live between the laboratory's hosts, and what was lost on the way."""

from __future__ import annotations

import fcntl
import http.client
import itertools
import json
import signal
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.lab import streams
from gateway.lab.announcements import Announcement, gratuitous_arp, send_frame
from gateway.lab.certificates import AUTHORITY
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.nodes import LOOKUP_PORT, OPERATOR, LookupPlan
from gateway.lab.processes import Process
from gateway.lab.streams import Pause, Talk
from gateway.lab.topology import VM_INTERFACE, Datacenter, Vm

_MARKS = itertools.count(1)

# Of <linux/sockios.h> and <linux/if.h>.
SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40
_IFREQ = struct.Struct("=16sH22x")


class Operator:
    """Asks the lookup service as its operator, from the gateway's own machine."""

    def __init__(self, lab: Datacenter, lookup: LookupPlan, server: str = "edge-1") -> None:
        self._namespace = lab.node(server)
        node = next(node for node in lab.plan.nodes if node.name == server)
        self._address = node.provider_addresses[0]
        self._context = ssl.create_default_context(cafile=lookup.files / AUTHORITY)
        self._token = lookup.token_file(OPERATOR).read_text().strip()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask, and return the answer. Raises LabError with what the service says is wrong."""
        answer = self.text(method, path, body)
        return json.loads(answer) if answer else None

    def text(self, method: str, path: str, body: object = None) -> str:
        """Ask, and return the answer as it is. Raises LabError with what the service says is wrong."""
        status, octets = self._namespace.call(self._ask, method, path, body)
        answer = octets.decode(errors="replace")
        if status >= 300:
            raise LabError(f"{method} {path}: {status} {answer}")
        return answer

    def _ask(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            self._address, LOOKUP_PORT, timeout=10, context=self._context
        )
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        octets = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, octets, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_for_records(self, count: int, timeout: float = 20) -> None:
        """Wait until so many records are registered. Raises LabError."""
        deadline = time.monotonic() + timeout
        while (found := self._count_records()) < count:
            if time.monotonic() > deadline:
                raise LabError(f"{found} of {count} records are registered after {timeout:g} s")
            time.sleep(0.05)

    def _count_records(self) -> int:
        """Count the records; a node that has not read its store yet has none to show."""
        try:
            return len(self.ask("GET", "/v1/records?limit=1000")["records"])
        except LabError:
            return 0


class Talkers:
    """One machine's talker in each of several machines: each sends to the moving one, and that to all."""

    def __init__(self, lab: Datacenter, vm: Vm, observers: Mapping[str, tuple[Namespace, str]]) -> None:
        self.vm = vm
        self._lab = lab
        self._mark = next(_MARKS)
        self._observers = dict(observers)
        addresses = [address for _, address in observers.values()]
        self._files = {name: lab.directory / f"talk-{vm.name}-{name}" for name in (vm.name, *observers)}
        self.inside = self._start(vm.name, lab.vm(vm.name), addresses)
        self._outside = {
            name: self._start(name, namespace, [vm.address()]) for name, (namespace, _) in observers.items()
        }
        for process in self._all:
            process.wait_for("^hearing")
        _signal(self._all, signal.SIGUSR1)

    @property
    def _all(self) -> list[Process]:
        return [self.inside, *self._outside.values()]

    def _start(self, name: str, namespace: Namespace, targets: Sequence[str]) -> Process:
        file = str(self._files[name])
        return self._lab.start_python(
            f"talk-{name}", namespace, "gateway.lab.streams", file, str(self._mark), *targets
        )

    def end(self, stops: Sequence[int]) -> Outcome:
        """Have all of them end, and compare what they have written down.

        `stops` are the times at which the machine was told to stand still.
        """
        talks: dict[str, Talk] = {}
        _signal(self._all, signal.SIGUSR1)
        _signal(self._all, signal.SIGTERM)
        for name, process in {self.vm.name: self.inside, **self._outside}.items():
            process.wait(10)
            talks[name] = msgspec.json.decode(self._files[name].read_bytes(), type=Talk)
            self._files[name].unlink()
        inside = talks[self.vm.name]
        return Outcome.of(
            inside,
            stops,
            {name: (talks[name], address) for name, (_, address) in self._observers.items()},
            self.vm.address(),
        )


class Stream(msgspec.Struct, frozen=True):
    """What became of one stream of a thousand datagrams a second."""

    name: str
    sent: int
    lost: list[int]
    """The numbers of those sent outside the machine's own pauses that never came."""
    duplicates: int
    longest_gap: float
    """In milliseconds, as the receiver saw it."""


class Outcome(msgspec.Struct, frozen=True):
    """What a machine's moves have cost."""

    pauses: list[Pause]
    streams: list[Stream]

    @classmethod
    def of(
        cls,
        inside: Talk,
        stops: Sequence[int],
        observers: Mapping[str, tuple[Talk, str]],
        own_address: str,
    ) -> Outcome:
        """Compare what everybody has sent and heard."""
        beats = next(iter(inside.sent.values()))
        pauses = [streams.pause_around(beats, at) for at in stops]
        found, silence = [], streams.Heard()
        for name, (talk, address) in observers.items():
            for label, sent, heard in (
                (f"from {name}", talk.sent[own_address], inside.heard.get(address, silence)),
                (f"to {name}", inside.sent[address], talk.heard.get(own_address, silence)),
            ):
                found.append(
                    Stream(
                        name=label,
                        sent=len(sent),
                        lost=streams.lost(sent, heard, pauses),
                        duplicates=streams.duplicates(heard),
                        longest_gap=streams.longest_gap(heard),
                    )
                )
        return cls(pauses, found)

    @property
    def lost(self) -> int:
        """All datagrams lost outside the pauses."""
        return sum(len(stream.lost) for stream in self.streams)


def start_transfer(
    lab: Datacenter, vm: Vm, observer: str, port: int, octets: int, rate: int
) -> tuple[Process, Process]:
    """Start a transfer by TCP to a VM, and return who receives and who sends.

    The rate is in octets a second. The sender ends with 0 once it knows that all has come, and whole.
    """
    receiver = lab.start_python(
        f"{vm.name}-receives-{port}", lab.vm(vm.name), "gateway.lab.probe", "receive", str(port)
    )
    receiver.wait_for("^listening")
    words = ("send", vm.address(), str(port), str(octets), "--rate", str(rate))
    sender = lab.start_python(f"{observer}-sends", lab.vm(observer), "gateway.lab.probe", *words)
    return receiver, sender


class Mover:
    """Moves VMs as hypervisors do: the guest stands still, its port goes over, the guest goes on."""

    def __init__(self, lab: Datacenter, processes: Mapping[str, Process], operator: Operator) -> None:
        self._lab = lab
        self._processes = processes
        self._operator = operator
        self.stops: list[int] = []
        """When each moved VM was told to stand still, in nanoseconds."""

    def announced(
        self,
        vm: Vm,
        host: str,
        inside: Sequence[Process] = (),
        announce: Announcement | None = gratuitous_arp,
    ) -> None:
        """Move a VM that is announced where it goes on; None: it says nothing."""
        self._stand_still(inside)
        self._take_over(vm, host)
        if announce is not None:
            self._lab.vm(vm.name).call(send_frame, announce(vm))
        _signal(inside, signal.SIGCONT)

    def orchestrated(self, vm: Vm, host: str, inside: Sequence[Process] = ()) -> Any:
        """Move a VM whose new place is said to the lookup service before it goes on. Return its answer."""
        self._stand_still(inside)
        node = next(node for node in self._lab.plan.hosts if node.name == host)
        answer = self._operator.ask(
            "POST",
            "/v1/claims",
            {
                "vsid": vm.vsid,
                "mac": vm.mac,
                "pa": node.provider_addresses[0],
                "host": host,
                "mode": "orchestrate",
            },
        )
        self._take_over(vm, host)
        _signal(inside, signal.SIGCONT)
        return answer

    def _stand_still(self, inside: Sequence[Process]) -> None:
        self.stops.append(time.monotonic_ns())
        _signal(inside, signal.SIGSTOP)

    def _take_over(self, vm: Vm, host: str) -> None:
        process = self._processes[host]
        mark = process.size()
        self._lab.move(vm.name, host)
        process.wait_for(rf"port {vm.port} is (open|up again)", start=mark)
        self._lab.vm(vm.name).call(_wait_for_carrier)


def _wait_for_carrier(timeout: float = 5) -> None:
    """Wait until the guest's own link works again: with real virtual machines it never fails.

    Before, the kernel throws away whatever the guest sends. Raises LabError.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        question = _IFREQ.pack(VM_INTERFACE.encode(), 0)
        while not _IFREQ.unpack(fcntl.ioctl(sock, SIOCGIFFLAGS, question))[1] & IFF_RUNNING:
            if time.monotonic() > deadline:
                raise LabError(f"a VM has no carrier {timeout:g} s after its move")
            time.sleep(0.001)


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)
