"""What a running appliance would do with a packet: asked in text, answered step by step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.operating.commands import Asker, Command, Commands, NotAllowed
from gateway.trace import Explanation, Question
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem


class Packet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A packet in text, with the names that `isthmus trace` gives its options."""

    from_: str
    to: str
    tenant: str | None = None
    vsid: int | None = None
    protocol: str = "icmp"
    port: int = 0
    source_port: int = 49152
    size: int = 100
    """Of the IP packet, in octets."""
    hop_limit: int = 64
    fragment: bool = False
    """Whether it may be fragmented (IPv4)."""
    established: bool = False
    via: str | None = None
    from_site: str | None = None

    def question(self) -> Question:
        """Return it as a question. Raises ConfigurationError for all that cannot be read."""
        for name, value, highest in (
            ("port", self.port, 0xFFFF),
            ("source_port", self.source_port, 0xFFFF),
            ("size", self.size, 0xFFFF),
            ("hop_limit", self.hop_limit, 0xFF),
        ):
            if not 0 <= value <= highest:
                raise ConfigurationError([Problem(name, f"{value} is not within 0 to {highest}")])
        try:
            return Question(
                source=CustomerAddress.parse(self.from_),
                destination=CustomerAddress.parse(self.to),
                tenant=self.tenant,
                vsid=Vsid(self.vsid) if self.vsid is not None else None,
                protocol=self.protocol,
                source_port=self.source_port,
                destination_port=self.port,
                size=self.size,
                hop_limit=self.hop_limit,
                dont_fragment=not self.fragment,
                established=self.established,
                via=ProviderAddress.parse(self.via) if self.via is not None else None,
                site=self.from_site,
            )
        except ValueError as error:
            raise ConfigurationError([Problem("", str(error))]) from None


def commands(explain: Callable[[Question], Explanation] | None) -> Commands:
    """Return what can be asked of packets. Without `explain`, none comes to this appliance."""

    async def trace(asker: Asker, packet: Packet) -> Explanation:
        if explain is None:
            raise ConfigurationError([Problem("", "no packet comes to this appliance: it has no data path")])
        question = packet.question()
        if asker.tenants is None:
            return explain(question)
        if packet.tenant is None or not asker.sees(packet.tenant):
            raise NotAllowed(f"name your tenant: {', '.join(sorted(asker.tenants))}")
        try:
            return explain(question)
        except ConfigurationError as error:
            # What is wrong with a tenant's name names all others.
            if any(problem.path == "tenant" for problem in error.problems):
                raise NotAllowed(f"there is no tenant {packet.tenant} now") from None
            raise

    return {"trace": Command(trace, arguments=Packet)}
