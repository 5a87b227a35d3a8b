"""Commands in the VMs of a lab, each shown as typed with what it said, and what the kernels have counted."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.lab import tools
from gateway.lab.namespaces import Namespace
from gateway.lab.narration import Narrator
from gateway.lab.topology import Datacenter


class Terminal:
    """Where the demo types its commands."""

    def __init__(self, lab: Datacenter, narrator: Narrator) -> None:
        self._lab = lab
        self._narrator = narrator

    def run(self, vm: str, *argv: str) -> str:
        """Run a command in a VM; show and return what it said, whether it succeeded or not."""
        return self._run(vm, argv, " ".join(argv))

    def ping(self, vm: str, target: str, *options: str) -> str:
        return self.tool(vm, "ping", "-n", *options, target)

    def tool(self, vm: str, name: str, *arguments: str) -> str:
        """Run the real tool, or our probe in its place; show and return what it said."""
        tool = tools.find(name)
        if not tool.is_real:
            self._narrator.say_once(f"({name} is not installed here, so this is a probe of our own)")
        shown = " ".join([name if tool.is_real else f"python -m gateway.lab.probe {name}", *arguments])
        return self._run(vm, tool.command(*arguments), shown)

    def probe(self, vm: str, *arguments: str, timeout: float = 30) -> str:
        """Run our own probe."""
        shown = " ".join(["python -m gateway.lab.probe", *arguments])
        command = [sys.executable, "-m", "gateway.lab.probe", *arguments]
        return self._run(vm, command, shown, timeout)

    def heard(self, vm: str) -> int:
        """Count the echo requests that a VM's kernel has received."""
        return heard(self._lab.vm(vm))

    def fragments(self, name: str) -> int:
        """Count the fragments that a node's kernel has made or received."""
        node = self._lab.node(name)
        return _count(node, "Ip", "FragCreates") + _count(node, "Ip", "ReasmReqds")

    def _run(self, vm: str, argv: tuple[str, ...] | list[str], shown: str, timeout: float = 30) -> str:
        done = self._lab.vm(vm).run(*argv, check=False, timeout=timeout)
        said = done.stdout + done.stderr
        self._narrator.command(vm, shown, said)
        return said


def heard(machine: Namespace, version: int = 4) -> int:
    """Count the echo requests that a machine's kernel has received."""
    if version == 4:
        return _count(machine, "Icmp", "InEchos")
    text = machine.call(Path("/proc/thread-self/net/snmp6").read_text)
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Icmp6InEchos "))


def _count(machine: Namespace, protocol: str, counter: str) -> int:
    text = machine.call(Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{protocol}:"))
    return int(dict(zip(names, values, strict=True))[counter])
