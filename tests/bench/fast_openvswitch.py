"""Open vSwitch with its userspace datapath as edge: the same packets in, the same packets out.

    to-sender ---+                              br-int has a flow for each record: the inner MACs, the hop
                 br-phy, with edge's address    limit, the VSID, and where the tunnel `nvgre` leads next
    to-receiver -+

It hashes no inner flow into the FlowID, which would cost it more, and knows of no rules and no rate.
"""

from __future__ import annotations

import shutil

from gateway.lab.namespaces import TOOL_PATH
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from tests.bench.fast_frames import CLIENT, CLIENT_MAC, VSID
from tests.bench.fast_line import EDGE, MACS, RECEIVER, SENDER, Line, servers
from tests.bench.results import CannotMeasure
from tests.interop.openvswitch import COMMANDS, SCHEMA

AF_XDP = "afxdp-nonpmd"

# br-phy's own. The kernel sees the frames too, and takes them for somebody else's.
MAC = MacAddress.parse("02:00:00:00:ff:01")

_TO_SENDER, _TO_RECEIVER = 1, 2
_FOREVER = 3_600_000  # in milliseconds


class OpenVswitch:
    """Started by the constructor, in edge, and ended with the line."""

    def __init__(self, line: Line, port_type: str | None = None) -> None:
        """`port_type` is that of the ports to the underlay, AF_PACKET's if None. Raises CannotMeasure."""
        for name in (*COMMANDS, "ovs-appctl"):
            if shutil.which(name, path=TOOL_PATH) is None:
                raise CannotMeasure(f"Open vSwitch takes {name}: make peers")
        self._edge = line.edge
        self._directory = line.directory / "open-vswitch"
        self._directory.mkdir()
        self._start_daemons(line)
        if port_type is None:
            line.pass_without_merging()  # an AF_PACKET port takes no merged packets
        self._build_bridges(port_type)
        self._edge.ip("link set br-phy up", f"address add {EDGE}/24 dev br-phy")
        for name, address in (("sender", SENDER), ("receiver", RECEIVER)):
            self._control("tnl/arp/set", "br-phy", str(address), str(MACS[name]))
        self._add_flows(
            "br-phy",
            f"in_port={_TO_SENDER},actions=LOCAL",
            f"in_port={_TO_RECEIVER},actions=LOCAL",
            f"in_port=LOCAL,ip,nw_dst={SENDER},actions=output:{_TO_SENDER}",
            f"in_port=LOCAL,ip,nw_dst={RECEIVER},actions=output:{_TO_RECEIVER}",
        )
        web, db = VSID, Vsid(VSID + 1)
        self._add_flows(
            "br-int",
            _flow(db, web, CLIENT, CLIENT_MAC, SENDER),
            *(_flow(web, db, ca, mac, RECEIVER) for ca, mac in servers()),
        )

    def _start_daemons(self, line: Line) -> None:
        database, socket = str(self._directory / "conf.db"), f"unix:{self._socket}"
        self._edge.run("ovsdb-tool", "create", database, str(SCHEMA))
        environment = {f"OVS_{kind}DIR": str(self._directory) for kind in ("RUN", "LOG", "DB", "SYSCONF")}
        line.start(
            "ovsdb-server",
            self._edge,
            "ovsdb-server",
            database,
            f"--remote=p{socket}",
            environment=environment,
        )
        self.process = line.start("ovs-vswitchd", self._edge, "ovs-vswitchd", socket, environment=environment)

    @property
    def _socket(self) -> str:
        return str(self._directory / "db.sock")

    def _build_bridges(self, port_type: str | None) -> None:
        # Flows are not forgotten while another way has its turn.
        words = ["--", "init", "--", "set", "open_vswitch", ".", f"other_config:max-idle={_FOREVER}"]
        for bridge in ("br-phy", "br-int"):
            words += ["--", "add-br", bridge]
            words += ["--", "set", "bridge", bridge, "datapath_type=netdev", "fail_mode=secure"]
        words += ["--", "set", "bridge", "br-phy", f'other_config:hwaddr="{MAC}"']
        for number, port in ((_TO_SENDER, "to-sender"), (_TO_RECEIVER, "to-receiver")):
            words += ["--", "add-port", "br-phy", port]
            words += ["--", "set", "interface", port, f"ofport_request={number}"]
            words += [f"type={port_type}"] if port_type else []
        words += ["--", "add-port", "br-int", "nvgre", "--", "set", "interface", "nvgre", "type=gre"]
        words += ["options:key=flow", "options:csum=false", "options:df_default=true"]
        words += ["options:remote_ip=flow", f"options:local_ip={EDGE}"]
        self._edge.run("ovs-vsctl", f"--db=unix:{self._socket}", "--retry", "--timeout=20", *words)

    def _add_flows(self, bridge: str, *flows: str) -> None:
        target = f"unix:{self._directory / bridge}.mgmt"
        self._edge.run("ovs-ofctl", "--bundle", "add-flows", target, "-", stdin="\n".join(flows) + "\n")

    def _control(self, *words: str) -> str:
        (target,) = self._directory.glob("ovs-vswitchd.*.ctl")
        return self._edge.run("ovs-appctl", "-t", str(target), *words).stdout


def _flow(source: Vsid, destination: Vsid, ca: CustomerAddress, mac: MacAddress, pa: ProviderAddress) -> str:
    """What is done with packets of a virtual subnet to a VM in another; the FlowID may be any."""
    return (
        f"tun_id={source << 8:#x}/0xffffff00,ip,nw_dst={ca},actions=dec_ttl,"
        f"set_field:{gateway_mac(destination)}->eth_src,set_field:{mac}->eth_dst,"
        f"set_field:{destination << 8:#x}->tun_id,set_field:{pa}->tun_dst,output:IN_PORT"
    )
