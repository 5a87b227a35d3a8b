"""What a running appliance would do with a packet: asked in text, answered step by step."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.operating.commands import Asker, Command, Commands, NotAllowed
from gateway.trace.explaining import Explanation
from gateway.trace.packets import Question
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Problem


class Packet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A packet in text, with the names that `isthmus trace` gives its options."""

    from_: str = ""
    to: str = ""
    from_provider: str = ""
    """Instead: two provider addresses, of a packet that comes rewritten."""
    to_provider: str = ""
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
        source, destination = self._ends()
        try:
            return Question(
                source=CustomerAddress.parse(source),
                destination=CustomerAddress.parse(destination),
                is_rewritten=bool(self.from_provider),
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

    def _ends(self) -> tuple[str, str]:
        """The addresses that it comes with: customers', or what stands for them."""
        ends, providers = (self.from_, self.to), (self.from_provider, self.to_provider)
        if all(ends) and not any(providers):
            return ends
        if not all(providers) or any(ends):
            words = "name both ends: from and to, or from_provider and to_provider"
            raise ConfigurationError([Problem("from", words)])
        given = {"tenant": self.tenant, "vsid": self.vsid, "via": self.via, "from_site": self.from_site}
        for name, value in given.items():
            if value is not None:
                words = "whose a rewritten packet is follows from its provider addresses: leave it out"
                raise ConfigurationError([Problem(name, words)])
        return providers


def commands(explain: Callable[[Question], Explanation] | None) -> Commands:
    """Return what can be asked of packets. Without `explain`, none comes to this appliance."""

    async def trace(asker: Asker, packet: Packet) -> Explanation:
        if explain is None:
            raise ConfigurationError([Problem("", "no packet comes to this appliance: it has no data path")])
        question = packet.question()
        if asker.tenants is None:
            return explain(question)
        if question.is_rewritten:
            raise NotAllowed("whose provider addresses are is told to those who see every tenant")
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
