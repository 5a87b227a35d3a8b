"""The demo's sites: Red's and Blue's own premises, with the very same addresses, on the one gateway."""

from __future__ import annotations

import re
import secrets
import sys

import msgspec

from gateway.lab import echo, nodes, premises, strongswan
from gateway.lab.narration import Narrator
from gateway.lab.premises import Internet, Premises
from gateway.lab.processes import Process
from gateway.lab.strongswan import Child, Connection, StrongSwan
from gateway.lab.terminal import Terminal
from gateway.lab.topology import Datacenter, Plan, Site

EDGE = "edge-1"
EDGE_ID = "edge-1.example"

# The site of each tenant, and the VSID of its local network where the device is an isthmus too.
SITES = {"red": ("seattle", 5101), "blue": ("boston", 6101)}

TRANSFER = 10_000_000
SERVER = premises.SERVER[0]
VM = "10.0.1.5"
ONLY_IN_BLUE = "10.0.2.77"

PICTURE = f"""
   seattle-server {SERVER}              boston-server {SERVER}
            |                                       |
   seattle, Red's VPN device               boston, Blue's VPN device
            |                                       |
            +-------------- internet ---------------+
                                |
                        underlay router --- {EDGE}
"""


def with_sites(plan: Plan) -> Plan:
    """Add its tenants' sites to a plan: they dial in, and are known by their identities."""
    tenants = {subnet.tenant for subnet in plan.subnets}
    sites = (
        Site(
            tenant=tenant,
            name=name,
            prefixes=premises.PREFIXES,
            peer="any",
            ike={"local_id": EDGE_ID, "remote_id": f"{name}.example", "psk_file": _secret_file(name)},
        )
        for tenant, (name, _) in SITES.items()
        if tenant in tenants
    )
    return msgspec.structs.replace(plan, sites=tuple(sites))


def write_secrets(lab: Datacenter) -> None:
    """Make the sites' secrets, where the configurations look for them."""
    for site in lab.plan.sites:
        file = lab.directory / _secret_file(site.name)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))


class SitesDemo:
    """The steps, in order. The gateway runs already."""

    def __init__(self, lab: Datacenter, narrator: Narrator, terminal: Terminal) -> None:
        self.lab = lab
        self.tell = narrator
        self.terminal = terminal

    def show(self) -> None:
        """Go through all of it."""
        self.dial()
        self.same_addresses()
        self.one_hop()
        self.transfers()
        self.isolation()

    def dial(self) -> None:
        self.tell.heading("Red and Blue connect their own premises, which have the same addresses too")
        self.tell.say(PICTURE)
        self.connect()

    def connect(self) -> None:
        """Have every site's device dial the gateway, and wait until its server reaches a VM."""
        why_not = strongswan.missing()
        internet = Internet(self.lab)
        if why_not is None:
            self.tell.say("Each VPN device runs strongSwan, and dials the one gateway by IKEv2:")
        else:
            self.tell.say(f"({why_not}, so each VPN device is a second isthmus, which dials the gateway)")
        for site in self.lab.plan.sites:
            place = internet.premises(site.name, routed=why_not is None)
            if why_not is None:
                self.start_strongswan(site, place)
            else:
                self.start_isthmus(site, place)
        for site in self.lab.plan.sites:
            reached = self.lab.vm(f"{site.name}-server").call(echo.reachable_soon, VM, 20.0)
            self.tell.claim(reached, f"{site.name}-server reaches {VM}, a VM of {site.tenant.title()}'s.")
        file = self.lab.directory / f"{EDGE}.toml"
        said = self.lab.node(EDGE).run(sys.executable, "-m", "gateway.cli", "sites", str(file), check=False)
        self.tell.command(EDGE, f"isthmus sites {file.name}", said.stdout + said.stderr)
        for site in self.lab.plan.sites:
            is_up = re.search(rf"^{site.tenant}/{site.name}: up ", said.stdout, re.MULTILINE)
            self.tell.claim(is_up is not None, f"{site.tenant.title()}'s site {site.name} is up.")

    def start_strongswan(self, site: Site, place: Premises) -> None:
        """Start the enterprise's strongSwan, and have it dial."""
        connection = Connection(
            local_id=str(site.ike["remote_id"]),
            remote_id=str(site.ike["local_id"]),
            remote_address=self._edge_address(),
            psk=self._secret(site),
            proposals="aes256gcm16-prfsha384-ecp384",
            children={"datacenter": Child(local=site.prefixes, remote=self._cloud_prefixes(site.tenant))},
        )
        device = StrongSwan(self.lab, f"{site.name}-strongswan", place.device, {EDGE: connection})
        device.start()
        said = device.initiate("datacenter", check=False) or device.log
        last = said.strip().splitlines()[-2:]
        self.tell.command(site.name, "swanctl --initiate --child datacenter", "\n".join(last))

    def start_isthmus(self, site: Site, place: Premises) -> Process:
        """Start an isthmus as the enterprise's VPN device: a gateway whose one host is itself."""
        file = self.lab.directory / f"{site.name}.toml"
        plan = self._premises_plan(site, place)
        file.write_text(nodes.configuration(plan, plan.gateways[0], state=self.lab.directory / site.name))
        process = self.lab.start(site.name, place.device, *nodes.run_command(file))
        ready = process.wait_for(r"\bready\b.*", 20)
        self.tell.command(site.name, f"isthmus run {file.name}", ready.string)
        return process

    def same_addresses(self) -> None:
        self.tell.heading(f"{SERVER} is Red's server for Red, and Blue's for Blue")
        for site in self.lab.plan.sites:
            for name, words in (
                (f"{site.name}-server", f"I am {site.name}'s server."),
                (f"{site.tenant}-web1", f"I am {site.tenant}-web1, in the datacenter."),
            ):
                speaker = self.lab.start_python(
                    f"{name}-speaks", self.lab.vm(name), "gateway.lab.probe", "say", "8080", words
                )
                speaker.wait_for("^listening")
        for site in self.lab.plan.sites:
            vm, server = f"{site.tenant}-web1", f"{site.name}-server"
            said = self.terminal.ping(vm, SERVER, "-c", "3", "-i", "0.2")
            self.tell.claim(
                "3 received" in said and said.count("ttl=62") == 3,
                f"{server} answers: two routers away, its own VPN device and the gateway.",
            )
            there = self.terminal.probe(vm, "ask", SERVER, "8080")
            here = self.terminal.probe(server, "ask", VM, "8080")
            self.tell.claim(
                there == f"I am {site.name}'s server.\n"
                and here == f"I am {site.tenant}-web1, in the datacenter.\n",
                f"{vm} and {server} speak with each other.",
            )

    def one_hop(self) -> None:
        self.tell.heading("Seen from the premises, the datacenter is one hop further")
        for site in self.lab.plan.sites:
            said = self.terminal.tool(f"{site.name}-server", "traceroute", "-n", "-q", "1", "-w", "2", VM)
            hops = [line.split()[1] for line in said.splitlines()[1:]]
            self.tell.claim(
                hops == [premises.DEVICE[0], "10.0.1.1", VM],
                f"Behind {site.name}'s own router, the gateway is the one extra hop to {VM}.",
            )

    def transfers(self) -> None:
        self.tell.heading(f"{TRANSFER // 1_000_000} MB by TCP, from a VM to each server, both at MTU 1500")
        for site in self.lab.plan.sites:
            server = f"{site.name}-server"
            receiver = self.lab.start_python(
                f"{server}-receives", self.lab.vm(server), "gateway.lab.probe", "receive", "5001"
            )
            receiver.wait_for("^listening")
            said = self.terminal.probe(
                f"{site.tenant}-web1", "send", SERVER, "5001", str(TRANSFER), timeout=60
            )
            self.tell.claim(
                "the receiver has the same" in said, f"All of it arrived at {server}, with the same hash."
            )

    def isolation(self) -> None:
        self.tell.heading("Neither sees the other's datacenter, or the other's premises")
        (red, blue) = (f"{name}-server" for name, _ in SITES.values())
        said = self.terminal.ping(blue, ONLY_IN_BLUE, "-c", "2", "-i", "0.2")
        self.tell.claim("2 received" in said, f"{ONLY_IN_BLUE} exists in Blue, and {blue} reaches it.")
        heard = self.terminal.heard("blue-db77")
        said = self.terminal.ping(red, ONLY_IN_BLUE, "-c", "2", "-i", "0.2", "-W", "1")
        self.tell.claim(
            " 0 received" in said and "Unreachable" in said and self.terminal.heard("blue-db77") == heard,
            f"Red has no such address: the gateway tells {red} so, and blue-db77 has heard nothing.",
        )
        before = {name: self.terminal.heard(name) for name in (red, blue)}
        self.terminal.ping("red-web1", SERVER, "-c", "2", "-i", "0.2")
        after = {name: self.terminal.heard(name) - count for name, count in before.items()}
        self.tell.claim(
            after == {red: 2, blue: 0}, f"What red-web1 sends to {SERVER} is heard by {red}, not by {blue}."
        )

    def _edge_address(self) -> str:
        return next(node for node in self.lab.plan.gateways if node.name == EDGE).provider_addresses[0]

    def _secret(self, site: Site) -> str:
        return (self.lab.directory / _secret_file(site.name)).read_text()

    def _cloud_prefixes(self, tenant: str) -> tuple[str, ...]:
        subnets = (subnet for subnet in self.lab.plan.subnets if subnet.tenant == tenant)
        return tuple(prefix for subnet in subnets for prefix in subnet.prefixes)

    def _premises_plan(self, site: Site, place: Premises) -> Plan:
        _, vsid = SITES[site.tenant]
        datacenter = Site(
            tenant=site.tenant,
            name="datacenter",
            gateway=site.name,
            prefixes=self._cloud_prefixes(site.tenant),
            peer=self._edge_address(),
            ike={
                "local_id": site.ike["remote_id"],
                "remote_id": site.ike["local_id"],
                "psk_file": site.ike["psk_file"],
            },
        )
        return premises.as_datacenter(place, site.tenant, vsid, datacenter)


def _secret_file(site: str) -> str:
    return f"{site}.psk"
