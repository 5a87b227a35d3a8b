"""The demo's live migration: a VM of Red moves between hosts in different underlay subnets, under load."""

from __future__ import annotations

import re
import signal
import time

from gateway.lab import nodes, tools
from gateway.lab.demo_rewrite import SUBNET, RewriteDemo
from gateway.lab.demo_sites import EDGE, SitesDemo, with_sites, write_secrets
from gateway.lab.migration import Mover, Operator, Outcome, Talkers, start_transfer
from gateway.lab.narration import Narrator
from gateway.lab.nodes import LookupPlan
from gateway.lab.premises import SERVER
from gateway.lab.processes import Process
from gateway.lab.terminal import Terminal
from gateway.lab.topology import Datacenter, Plan, standard_plan

MOVING = "red-web1"
NEIGHBOUR = "red-db2"
PREMISES = "seattle-server"
TRANSFER = 6_000_000
RATE = 3_000_000  # octets a second, so that a small machine has time for all the rest

PICTURE = f"""
Another datacenter, Red's alone, without a static record: {EDGE} serves the lookup service. Each host has a
token and its ports' names; the network and the records come to it, over TLS.

   hv1 198.51.100.11            hv2 203.0.113.12             seattle, Red's premises
     {MOVING}  10.0.1.5   -->     (moves here, and back)         {PREMISES} {SERVER[0]}
                                  {NEIGHBOUR} 10.0.2.6
"""


def migration_plan() -> Plan:
    """Red in three subnets on two hosts, of which the last is rewritten, and its site."""
    return with_sites(standard_plan(tenants=("red",), subnets=("web", "db", SUBNET), rewritten=(SUBNET,)))


class MigrationDemo:
    """The steps, in order, in a datacenter of their own."""

    def __init__(self, lab: Datacenter, narrator: Narrator) -> None:
        self.lab = lab
        self.tell = narrator
        self.terminal = Terminal(lab, narrator)
        folder = lab.directory / "lookup"
        folder.mkdir()
        self.lookup = LookupPlan(files=folder, moving=(MOVING,))

    def show(self) -> None:
        """Go through all of it."""
        self.tell.heading("The lookup service: hosts register their VMs, and learn the network from it")
        self.tell.say(PICTURE)
        write_secrets(self.lab)
        processes = nodes.start(self.lab, lookup=self.lookup)
        operator = Operator(self.lab, self.lookup)
        vms = self.lab.plan.vms
        operator.wait_for_records(sum(len(vm.addresses) for vm in vms))
        self.tell.claim(True, f"All {len(vms)} VMs are registered, with both their addresses.")
        SitesDemo(self.lab, self.tell, self.terminal).connect()
        mover = Mover(self.lab, processes, operator)
        self.move(mover, operator, "hv2", announced=True)
        self.move(mover, operator, "hv1", announced=False)

    def move(self, mover: Mover, operator: Operator, host: str, *, announced: bool) -> None:
        """Move the VM once, with a transfer, pings and counted datagrams on their way to it."""
        how = "announces itself" if announced else "is orchestrated: its record moves before it goes on"
        self.tell.heading(f"{MOVING} moves to {host} under load, and {how}")
        vm = next(vm for vm in self.lab.plan.vms if vm.name == MOVING)
        observers = {
            NEIGHBOUR: (self.lab.vm(NEIGHBOUR), "10.0.2.6"),
            PREMISES: (self.lab.vm(PREMISES), SERVER[0]),
        }
        mover.stops.clear()
        transfers = [
            start_transfer(self.lab, vm, name, port, TRANSFER, RATE)
            for port, name in enumerate(observers, start=5001)
        ]
        pings = self._pings(vm.address())
        talkers = Talkers(self.lab, vm, observers)
        time.sleep(0.5)
        inside = [talkers.inside, *(receiver for receiver, _ in transfers)]
        answer = None
        if announced:
            mover.announced(vm, host, inside)
        else:
            answer = mover.orchestrated(vm, host, inside)
        time.sleep(0.7)
        outcome = talkers.end(mover.stops)
        self._report(outcome)
        self._report_pings(pings, outcome)
        self._report_transfers([sender for _, sender in transfers])
        if answer is not None:
            learned = ", ".join(name for name, has in answer["learned"].items() if has)
            self.tell.claim(
                all(answer["learned"].values()), f"Before the VM went on, {learned} had learned of its move."
            )
        slowest = operator.ask("GET", "/v1/status")["convergence"]["max_ms"]
        self.tell.say(f"From a claim to the last node that learned it: {slowest:.1f} ms at most.")

    def _report(self, outcome: Outcome) -> None:
        for stream in outcome.streams:
            self.tell.output(
                f"1 kHz {stream.name:22} {stream.sent:5} sent, lost outside the pause {len(stream.lost)},"
                f" twice {stream.duplicates}, longest gap {stream.longest_gap:.0f} ms"
            )
        pause = outcome.pauses[0].milliseconds
        self.tell.claim(
            outcome.lost == 0, f"The VM stood still for {pause:.0f} ms; outside of that, no packet was lost."
        )

    def _report_transfers(self, senders: list[Process]) -> None:
        for process in senders:
            code = process.wait(60)
            self.tell.command(process.name, "probe send", process.output())
            self.tell.claim(code == 0, "The TCP transfer went on through the move, and is whole.")

    def _pings(self, address: str) -> dict[str, Process]:
        """Start a hundred pings a second from each observer, where the real tool is installed."""
        if not tools.find("ping").is_real:
            return {}
        return {
            name: self.lab.start(
                f"{name}-pings",
                self.lab.vm(name),
                *tools.find("ping").command("-n", "-D", "-i", "0.01", address),
            )
            for name in (NEIGHBOUR, PREMISES)
        }

    def _report_pings(self, pings: dict[str, Process], outcome: Outcome) -> None:
        for name, process in pings.items():
            process.send_signal(signal.SIGINT)
            process.wait(10)
            answers = re.findall(r"^\[([\d.]+)\].*icmp_seq=(\d+)", process.output(), re.MULTILINE)
            numbers = {int(number) for _, number in answers}
            missing = sorted(set(range(1, max(numbers) + 1)) - numbers)
            pause = outcome.pauses[0].milliseconds
            self.tell.output(
                f"100 Hz ping from {name}: {max(numbers)} sent, {len(missing)} without an answer,"
                f" while the VM stood still for {pause:.0f} ms"
            )
            most = int(pause / 10) + 2
            adjacent = not missing or missing[-1] - missing[0] < most
            self.tell.claim(
                len(missing) <= most and adjacent, "No more pings are missing than the pause explains."
            )


def show(narrator: Narrator) -> None:
    """Build the datacenter, and show it all there. Raises LabError."""
    with Datacenter(migration_plan()) as lab:
        demo = MigrationDemo(lab, narrator)
        demo.show()
        RewriteDemo(lab, narrator, demo.lookup).show()
