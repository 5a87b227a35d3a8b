"""What keeps the kernel silent about packets that nobody takes, while an appliance does not run.

Without a socket for it the kernel answers NVGRE and ESP with "protocol unreachable" and IKE with "port
unreachable". Peers that hear that may give the gateway up in a restart of seconds. These rules
drop those answers. They are a table of their own, so no other rule is touched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator

from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance

TABLE = "inet isthmus"
TIMEOUT = 10
"""Seconds that nft may take."""

GRE, ESP, UDP = 47, 50, 17
IKE_PORTS = "{ 500, 4500 }"

# An ICMP error about a packet of a protocol, and about UDP to a port, by IP version. The quoted IP
# header is behind 8 octets of ICMP: its protocol is the octet at 9 of IPv4 and at 6 of IPv6, and a
# port is behind 20 or 40 of header and 2 of the other port.
_NO_PROTOCOL = {
    4: "icmp type destination-unreachable icmp code { 2, 3 } @th,136,8",
    6: "icmpv6 type parameter-problem icmpv6 code 1 @th,112,8",
}
_NO_PORT = {
    4: f"icmp type destination-unreachable icmp code 3 @th,136,8 {UDP} @th,240,16",
    6: f"icmpv6 type destination-unreachable icmpv6 code 4 @th,112,8 {UDP} @th,400,16",
}
_SOURCE = {4: "ip saddr", 6: "ip6 saddr"}


def rules(appliance: Appliance) -> str:
    """Return the rules for an appliance's addresses, as nft reads them, in the place of those before.

    Where it has none, they are taken away.
    """
    underlay = appliance.underlay
    nvgre = underlay.provider_addresses if underlay is not None else ()
    sites = appliance.site_addresses if appliance.gateway else ()
    lines = [
        *_quiet(_NO_PROTOCOL, nvgre, str(GRE)),
        *_quiet(_NO_PROTOCOL, sites, str(ESP)),
        *_quiet(_NO_PORT, sites, IKE_PORTS),
    ]
    if not lines:
        return removal()
    inside = "".join(f"        {line}\n" for line in lines)
    return (
        f"{removal()}table {TABLE} {{\n    chain output {{\n"
        f"        type filter hook output priority filter; policy accept;\n{inside}    }}\n}}\n"
    )


def removal() -> str:
    """Return what takes the rules away, also where there are none: older versions of nft know no destroy."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def carry_out(script: str) -> None:
    """Have nft carry out a script, all of it or nothing. Raises ConfigurationError."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            ("nft", "-f", "-"),
            input=script,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigurationError([Problem("", "nft is not installed: apt install nftables")]) from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError([Problem("", f"nft did not end in {TIMEOUT} s")]) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigurationError([Problem("", f"nft: {said[0]} (it needs root or CAP_NET_ADMIN)")])


def _quiet(what: dict[int, str], addresses: Iterable[ProviderAddress], about: str) -> Iterator[str]:
    for version in (4, 6):
        own = [str(address) for address in addresses if address.version == version]
        if own:
            yield f"{_SOURCE[version]} {{ {', '.join(own)} }} {what[version]} {about} counter drop"
