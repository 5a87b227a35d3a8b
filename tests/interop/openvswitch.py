"""Open vSwitch with its userspace datapath as a host of the laboratory.

      vnet0 .. vnetN
           |
        br-int   (fixed keys: a plain learning switch for each VSID instead)
           |  nvgre
        br-phy   has the host's underlay addresses
           |
          eth1

Each host has daemons and a database of its own, in the laboratory's directory.
Open vSwitch only switches: whatever a VM sends goes to the gateway. Without any keys it
has the VMs' ports on br-int and nothing else, for someone else to program.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from gateway.lab import echo
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, VM_INTERFACE, Datacenter, Node, Vm

COMMANDS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ethtool")
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")

TUNNEL_PORT = 1
FIRST_VM_PORT = 2

# What an AF_PACKET port cannot take: checksums that are left to the hardware, and super-packets.
OFFLOADS = ("tx", "tso", "gso", "gro")


class Keys(StrEnum):
    """How Open vSwitch treats the Key field, which it does not divide into VSID and FlowID."""

    FIXED = "fixed"
    """A tunnel for each VSID. All 32 bits must match, so the FlowID has to be 0 both ways."""
    FLOW = "flow"
    """One tunnel. OpenFlow matches the VSID, and makes the FlowID a hash of the inner flow."""


class OpenVswitch:
    """One host: started by the constructor, and ended with the laboratory."""

    def __init__(self, lab: Datacenter, host: Node, gateway: str, keys: Keys | None) -> None:
        """`gateway` is the provider address that every frame goes to. Raises LabError."""
        self.host = host
        self.keys = keys
        self._gateway = gateway
        self._namespace = lab.node(host.name)
        self._vms = lab.plan.vms_on(host.name)
        self._directory = self.run_directory = lab.directory / f"ovs-{host.name}"
        self._directory.mkdir()
        for vm in self._vms:
            _turn_offloads_off(lab.vm(vm.name), VM_INTERFACE)
            _turn_offloads_off(self._namespace, vm.port)
        _turn_offloads_off(self._namespace, UPLINK)
        self._start_daemons(lab)
        self._build_underlay_bridge()
        if keys is Keys.FIXED:
            self._build_learning_switches()
        elif keys is Keys.FLOW:
            self._build_programmed_switch()
        else:
            self._build_bare_switch()
        # Open vSwitch learns its next hop's MAC from the answer.
        if not self._namespace.call(echo.reachable, gateway, 10.0):
            raise LabError(f"{host.name} does not reach {gateway} through br-phy")

    def send_as(self, vm: Vm, vsid: int) -> None:
        """Put the frames of a VM into a VSID, be it the VM's own or not."""
        if self.keys is Keys.FIXED:
            self._configure("--", "del-port", vm.port, *self._attached_to_learning_switch(vm, vsid))
        else:
            self._add_flow(f"in_port={self._port_number(vm)},actions={self._into_tunnel(vsid)}")

    def attach(self, port: str) -> None:
        """Put a VM's port on br-int."""
        self._configure("--", "add-port", "br-int", port)

    def detach(self, port: str) -> None:
        """Take a VM's port off br-int."""
        self._configure("--", "del-port", "br-int", port)

    def flows(self) -> list[str]:
        """The flows of br-int."""
        said = self._namespace.run(
            "ovs-ofctl", "dump-flows", f"unix:{self._directory / 'br-int.mgmt'}"
        ).stdout
        return [line for line in said.splitlines() if "actions=" in line]

    def ports(self) -> list[str]:
        """The ports of br-int."""
        said = self._namespace.run("ovs-vsctl", f"--db=unix:{self._socket}", "list-ports", "br-int").stdout
        return said.split()

    def restart_switch(self, lab: Datacenter) -> None:
        """End ovs-vswitchd and start it again; the database stays as it is."""
        self._switch.stop()
        self._start_switch(lab)

    def _start_daemons(self, lab: Datacenter) -> None:
        database = str(self._directory / "conf.db")
        self._namespace.run("ovsdb-tool", "create", database, str(SCHEMA))
        remote = f"--remote=punix:{self._socket}"
        self._start(lab, "ovsdb-server", database, remote)
        self._start_switch(lab)

    def _start_switch(self, lab: Datacenter) -> None:
        self._switch = self._start(lab, "ovs-vswitchd", f"unix:{self._socket}")

    def _start(self, lab: Datacenter, name: str, *arguments: str) -> Process:
        environment = {f"OVS_{kind}DIR": str(self._directory) for kind in ("RUN", "LOG", "DB", "SYSCONF")}
        return lab.start(
            f"{self.host.name}-{name}", self._namespace, name, *arguments, environment=environment
        )

    @property
    def _socket(self) -> Path:
        return self._directory / "db.sock"

    def _configure(self, *words: str) -> None:
        """Change the database in one transaction, and wait until that has taken effect."""
        self._namespace.run("ovs-vsctl", f"--db=unix:{self._socket}", "--retry", "--timeout=20", *words)

    def _add_flow(self, flow: str) -> None:
        self._namespace.run("ovs-ofctl", "add-flow", f"unix:{self._directory / 'br-int.mgmt'}", flow)

    def _build_underlay_bridge(self) -> None:
        """Move the addresses from the uplink to br-phy.

        The kernel still sees what the uplink receives. With a MAC of its own, br-phy alone
        is meant; and the uplink answers no ARP for the address that is now on br-phy.
        """
        self._namespace.ip(f"address flush dev {UPLINK}")
        self._namespace.sysctl({"net/ipv4/conf/all/arp_ignore": 1, f"net/ipv6/conf/{UPLINK}/disable_ipv6": 1})
        self._configure(
            *("--", "init"),
            *("--", "add-br", "br-phy"),
            *("--", "set", "bridge", "br-phy", "datapath_type=netdev"),
            f"other_config:hwaddr=02:00:00:00:ff:{self.host.interfaces[0].ip.packed[-1]:02x}",
            *("--", "add-port", "br-phy", UPLINK),
        )
        lines = ["link set br-phy up"]
        for interface in self.host.interfaces:
            everything = "0.0.0.0/0" if interface.version == 4 else "::/0"
            lines.append(f"address add {interface} dev br-phy")
            lines.append(f"route add {everything} via {interface.network[1]} dev br-phy")
        self._namespace.ip(*lines)

    def _build_learning_switches(self) -> None:
        self._configure(
            *(word for vm in self._vms for word in self._attached_to_learning_switch(vm, vm.vsid))
        )

    def _attached_to_learning_switch(self, vm: Vm, vsid: int) -> Iterator[str]:
        bridge = f"br-{vsid}"
        yield from ("--", "--may-exist", "add-br", bridge)
        yield from ("--", "set", "bridge", bridge, "datapath_type=netdev")
        yield from self._tunnel(bridge, f"nvgre{vsid}", remote=self._gateway, key=str(vsid << 8))
        yield from ("--", "add-port", bridge, vm.port)

    def _build_programmed_switch(self) -> None:
        words = ["--", "add-br", "br-int"]
        words += ["--", "set", "bridge", "br-int", "datapath_type=netdev", "fail_mode=secure"]
        words += self._tunnel("br-int", "nvgre", remote="flow", key="flow")
        words += [f"ofport_request={TUNNEL_PORT}"]
        for vm in self._vms:
            words += ["--", "add-port", "br-int", vm.port]
            words += ["--", "set", "interface", vm.port, f"ofport_request={self._port_number(vm)}"]
        self._configure(*words)
        for vm in self._vms:
            self.send_as(vm, vm.vsid)
        for vsid in {vm.vsid for vm in self._vms}:
            ports = ",".join(f"output:{self._port_number(vm)}" for vm in self._vms if vm.vsid == vsid)
            self._add_flow(f"in_port={TUNNEL_PORT},tun_id={vsid << 8:#x}/0xffffff00,actions={ports}")

    def _build_bare_switch(self) -> None:
        words = ["--", "add-br", "br-int"]
        words += ["--", "set", "bridge", "br-int", "datapath_type=netdev", "fail_mode=secure"]
        for vm in self._vms:
            words += ["--", "add-port", "br-int", vm.port]
        self._configure(*words)

    def _tunnel(self, bridge: str, name: str, *, remote: str, key: str) -> Iterator[str]:
        version = ipaddress.ip_address(self._gateway).version
        local = next(str(interface.ip) for interface in self.host.interfaces if interface.version == version)
        yield from ("--", "--may-exist", "add-port", bridge, name, "--", "set", "interface", name, "type=gre")
        yield from (f"options:key={key}", "options:csum=false", "options:df_default=true")
        yield from (f"options:remote_ip={_quoted(remote)}", f"options:local_ip={_quoted(local)}")

    def _into_tunnel(self, vsid: int) -> str:
        field = "tun_dst" if ipaddress.ip_address(self._gateway).version == 4 else "tun_ipv6_dst"
        return (
            f"set_field:{self._gateway}->{field},set_field:{vsid << 8:#x}->tun_id,"
            f"multipath(symmetric_l4,1024,hrw,256,0,NXM_NX_TUN_ID[0..7]),output:{TUNNEL_PORT}"
        )

    def _port_number(self, vm: Vm) -> int:
        return FIRST_VM_PORT + self._vms.index(vm)


def _turn_offloads_off(namespace: Namespace, interface: str) -> None:
    namespace.run("ethtool", "-K", interface, *(word for name in OFFLOADS for word in (name, "off")))


def _quoted(value: str) -> str:
    """The database's own syntax has a meaning for the colons of an IPv6 address."""
    return f'"{value}"'
