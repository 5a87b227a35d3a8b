"""Commands to one Open vSwitch bridge: what is on it, its flows, its ports. Blocking: for other threads."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from policies.addresses import ProviderAddress

# "isthmus" in octets: so are our flows told from others'.
COOKIE = 0x697374686D7573

LISTENER = "isthmus-heard"
TUNNELS = {4: "isthmus-gre4", 6: "isthmus-gre6"}

TIMEOUT = 10
"""Seconds that a command may take."""


class BridgeError(Exception):
    """Open vSwitch did not do what it was asked; the message says why, in a sentence."""


class Bridge:
    """A bridge by its name, and the directory where the daemons' sockets are."""

    def __init__(self, name: str, run_directory: Path) -> None:
        self.name = name
        self._run_directory = run_directory
        self._environment = {
            **os.environ,
            "OVS_RUNDIR": str(run_directory),
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
            "LC_ALL": "C",
        }

    def port_numbers(self) -> dict[str, int]:
        """The OpenFlow numbers of the bridge's ports that work, by interface. Raises BridgeError."""
        said = self._vsctl(
            *("--format=json", "list-ports", self.name),
            *("--", "--columns=name,ofport", "list", "Interface"),
        )
        names, _, listed = said.rpartition('{"data"')
        on_bridge = set(names.split())
        # A number that is not there yet is an empty set; -1 is a port that could not be opened.
        return {
            name: number
            for name, number in json.loads('{"data"' + listed)["data"]
            if name in on_bridge and isinstance(number, int) and number > 0
        }

    def prepare(self, provider_addresses: Sequence[ProviderAddress]) -> set[str]:
        """Make the tunnels and the listener, and return those that were not there. Raises BridgeError.

        A tunnel knows no remote address and no key: flows say them, packet by packet.
        """
        there = set(self._vsctl("list-ports", self.name).split())
        own = {address.version: address for address in reversed(provider_addresses)}
        wanted: dict[str, tuple[str, ...]] = {LISTENER: ("type=internal",)}
        for version, address in own.items():
            wanted[TUNNELS[version]] = (
                "type=gre",
                "options:key=flow",
                "options:remote_ip=flow",
                f'options:local_ip="{address}"',
                "options:csum=false",
                "options:df_default=true",
            )
        words: list[str] = []
        for name, settings in wanted.items():
            words += ["--", "--may-exist", "add-port", self.name, name]
            words += ["--", "set", "interface", name, *settings]
        self._vsctl(*words[1:])
        return wanted.keys() - there

    def remove_ports(self, names: Iterable[str]) -> None:
        """Take ports off the bridge, if they are there. Raises BridgeError."""
        for name in names:
            self._vsctl("--if-exists", "del-port", self.name, name)

    def replace_flows(self, flows: Mapping[str, str]) -> None:
        """Put these in the place of all flows of ours, at once. Raises BridgeError."""
        lines = [f"delete cookie={COOKIE:#x}/-1"]
        lines += [f"add cookie={COOKIE:#x},{match},actions={actions}" for match, actions in flows.items()]
        self.change_flows(lines)

    def change_flows(self, lines: Sequence[str]) -> None:
        """Carry out a bundle's lines, all or none. Raises BridgeError."""
        self._ofctl("--bundle", "add-flows", self._management, "-", stdin="\n".join(lines) + "\n")

    def count_flows(self) -> int:
        """How many flows of ours there are. Raises BridgeError."""
        said = self._ofctl("dump-aggregate", self._management, f"cookie={COOKIE:#x}/-1")
        return int(said.rpartition("flow_count=")[2])

    def remove_flows(self) -> None:
        """Take our flows off the bridge. Raises BridgeError."""
        self._ofctl("del-flows", self._management, f"cookie={COOKIE:#x}/-1")

    def send(self, number: int, frame: bytes) -> None:
        """Give a port a frame. Raises BridgeError."""
        packet = f"in_port=controller,packet={frame.hex()},actions=output:{number}"
        self._ofctl("packet-out", self._management, packet)

    @property
    def _management(self) -> str:
        return f"unix:{self._run_directory / self.name}.mgmt"

    def _vsctl(self, *words: str) -> str:
        database = f"--db=unix:{self._run_directory / 'db.sock'}"
        return self._run("ovs-vsctl", database, "--no-syslog", "--no-wait", f"--timeout={TIMEOUT}", *words)

    def _ofctl(self, *words: str, stdin: str | None = None) -> str:
        return self._run("ovs-ofctl", "-O", "OpenFlow14", f"--timeout={TIMEOUT}", *words, stdin=stdin)

    def _run(self, *command: str, stdin: str | None = None) -> str:
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                env=self._environment,
                timeout=TIMEOUT + 5,
                check=False,
            )
        except FileNotFoundError:
            raise BridgeError(f"{command[0]} is not installed: it comes with openvswitch-switch") from None
        except subprocess.TimeoutExpired:
            raise BridgeError(f"{command[0]} did not end") from None
        if done.returncode:
            raise BridgeError(f"{command[0]}: {(done.stderr or done.stdout).strip() or done.returncode}")
        return done.stdout
