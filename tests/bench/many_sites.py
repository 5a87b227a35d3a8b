"""How long a gateway takes until five hundred sites are up, and what memory each takes.

The gateway is a process of its own on a processor of its own; all devices are in one
other process. Time counts from when the gateway says that it is ready to its last
"up", and memory is what the process has more than one without sites.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from gateway.lab.namespaces import LabError
from gateway.lab.processes import POLL_SECONDS, Process
from policies.addresses import ProviderAddress
from policies.ipsec import SiteStart
from policies.selectors import Selectors, TrafficSelector
from tests.bench.device import Devices
from tests.bench.live import RECEIVER
from tests.bench.rates import generator_apart
from tests.bench.records import resident_octets
from tests.bench.results import Result
from tests.bench.sites import NEAR, SiteLine, device_policy
from tests.configurations import RED, site
from tunnels.ike.identities import Identity
from tunnels.ike.policy import ChildPolicy, PeerPolicy

SITES = 500
RUNS = 3
PATIENCE = 60.0
MOST_SECONDS = 10
MOST_BYTES = 100_000

DEVICES = "198.18.0.0/16"


class ManySites(SiteLine):
    """The receiver has the addresses of all devices."""

    def __init__(self, processor: int, sites: int, start: SiteStart) -> None:
        """`start` is what the gateway does."""
        super().__init__(processor)
        self._sites = sites
        self._start = start

    def build(self) -> None:
        super().build()
        self.namespaces["edge"].ip(f"route add {DEVICES} via {RECEIVER} dev to-receiver onlink")
        self.namespaces["receiver"].ip(f"route add local {DEVICES} dev lo")

    def configuration(self) -> str:
        self.put_secret()
        sites = (
            site(
                _name(n),
                _prefix(n),
                _address(n),
                psk_file="seattle.psk",
                start=self._start,
                force_udp=True,
            )
            for n in range(self._sites)
        )
        return self.gateway() + RED + "".join(sites)

    def devices(self) -> Devices:
        """All of them; they dial if the gateway does not."""
        start = SiteStart.RESPOND if self._start is SiteStart.START else SiteStart.START
        return Devices(self.namespaces["receiver"], [_policy(n, start) for n in range(self._sites)])


def benchmark() -> Iterator[Result]:
    """Start gateways with all sites, of which each dials or is dialled, and one without sites."""
    with generator_apart() as processor:
        with ManySites(processor, 0, SiteStart.START) as line:
            alone = resident_octets(line.start_gateway().pid)
        taken: list[int] = []
        for start, who in ((SiteStart.START, "the gateway dials"), (SiteStart.RESPOND, "the devices dial")):
            runs = [_bring_up(processor, start) for _ in range(RUNS)]
            yield Result(
                f"{SITES} sites: {who}, until all are up",
                "s",
                tuple(seconds for seconds, _ in runs),
                at_most=MOST_SECONDS,
            )
            taken += [octets for _, octets in runs]
        yield Result(
            f"{SITES} sites: memory of a site that is up",
            "octets",
            tuple((octets - alone) / SITES for octets in taken),
            at_most=MOST_BYTES,
        )


def _bring_up(processor: int, start: SiteStart) -> tuple[float, int]:
    """Return the seconds until all sites are up, and what memory the gateway has then."""
    with ManySites(processor, SITES, start) as line, ExitStack() as stack:
        devices = line.devices()
        if start is SiteStart.START:
            stack.enter_context(devices)
        gateway = line.start_gateway()
        began = time.monotonic()
        if start is not SiteStart.START:
            stack.enter_context(devices)
        _wait_until_up(gateway, began + PATIENCE)
        elapsed = time.monotonic() - began
        devices.wait_until_up()
        return elapsed, resident_octets(gateway.pid)


def _wait_until_up(gateway: Process, deadline: float) -> None:
    """Raises LabError if not all sites are up by a deadline."""
    while (count := len(re.findall(r"site \S+: up", gateway.output()))) < SITES:
        if time.monotonic() > deadline:
            raise LabError(f"{count} of {SITES} sites are up after {PATIENCE:g} s:\n{gateway.tail()}")
        time.sleep(10 * POLL_SECONDS)


def _policy(n: int, start: SiteStart) -> PeerPolicy:
    far, near = (TrafficSelector.of(ipaddress.ip_network(each)) for each in (_prefix(n), NEAR))
    return msgspec.structs.replace(
        device_policy(),
        site=("device", _name(n)),
        start=start,
        local_addresses=(ProviderAddress.parse(_address(n)),),
        local_id=Identity.parse(f"{_name(n)}.example"),
        children=(ChildPolicy("net", Selectors((far,), (near,))),),
    )


def _name(n: int) -> str:
    return f"site-{n}"


def _prefix(n: int) -> str:
    return f"172.{16 + n // 256}.{n % 256}.0/24"


def _address(n: int) -> str:
    return f"198.18.{n // 256}.{n % 256}"
